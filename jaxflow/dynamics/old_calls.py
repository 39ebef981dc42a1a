"""Equations that were ordinary or stochastic by their arguments, before each kind had a name of its own."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

ONLY_FLOWS = {"warmup"}  # what equations without mini-batches alone have
OF_BATCHES = {"batch_size", "malladi", "replacement", "noise"}


def accept_batches(flow: Any, sde: Any) -> Callable:
    """A traceable `flow` that still takes a `batch_size`, in the place it has in `sde`, and then is that one."""
    name = f"jaxflow.dynamics.{flow.__name__}"

    @functools.wraps(flow)
    def construct(*args, **kwargs):
        if len(args) <= 2 and OF_BATCHES.isdisjoint(kwargs):
            return flow(*args, **kwargs)
        only = {key: kwargs.pop(key) for key in ONLY_FLOWS.intersection(kwargs)}
        given = sde.signature.bind_partial(*args, **kwargs).arguments
        if given.get("batch_size") is not None or given.get("malladi"):
            warnings.warn(f"{name} of mini-batches is {name}_sde now.", DeprecationWarning, stacklevel=2)
            for key, value in only.items():
                if value:
                    raise ValueError(f"{key} must be left out for {name}_sde, got {value!r}.")
            return sde(**given)
        warnings.warn(
            f"{name} no longer takes batch_size, malladi, replacement or noise, which {name}_sde takes; give the "
            f"arguments that came after batch_size by keyword.",
            DeprecationWarning,
            stacklevel=2,
        )
        return flow(**{key: value for key, value in given.items() if key not in OF_BATCHES}, **only)

    return construct
