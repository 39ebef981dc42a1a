"""The memory available, and refusals of what it cannot hold, before anything is made."""

import os
from typing import Any

import jax


def physical_memory() -> int:
    """Bytes of the machine's memory."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 8 * 2**30


def device_memory() -> float:
    """The bytes of memory of a device; on a CPU, whose devices share it, all of the machine's."""
    device = jax.local_devices()[0]
    stats = (device.memory_stats() or {}) if device.platform != "cpu" else {}
    return stats.get("bytes_limit") or physical_memory()


def require_fit(name: str, value: Any, needed: float) -> None:
    """Raise a `ValueError` that names the argument and its value where it needs more bytes than a device has."""
    there = device_memory()
    if needed > there:
        raise ValueError(
            f"{name} must fit in memory, got {value!r}, which takes at least {needed / 2**30:.4g} GiB of "
            f"{there / 2**30:.4g}."
        )
