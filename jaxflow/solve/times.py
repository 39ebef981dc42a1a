"""The times of a solve, checked, and the clock of the solve itself, which starts at 0.

Far from 0 a float32 clock has few digits left: at 10⁵ it cannot tell thousandths. The solver therefore steps on the
time since the first one, which is exact where the times are concrete.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


class Times(NamedTuple):
    """Times (T,) in two forms: `absolute`, as they were given, and `elapsed` since the first of them."""

    absolute: jax.Array
    elapsed: jax.Array

    @property
    def is_traced(self) -> bool:
        """Whether the times have no concrete values yet."""
        return isinstance(self.absolute, Tracer)


def clock_dtype(dtypes: Iterable[Any]) -> Any:
    """The precision of a clock for real numbers of these dtypes: float64 where one of them is, float32 otherwise."""
    return jnp.dtype(jnp.float64 if any(jnp.finfo(dtype).bits == 64 for dtype in dtypes) else jnp.float32)


def check_times(times: Any, repeated: bool, dtype: Any) -> Times:
    """Times that increase, in the `dtype` in which they will be used.

    With `repeated` some may be equal: a schedule that begins or ends at 0 makes such times.
    """
    if isinstance(times, Tracer):
        return Times(times, times - times[0])
    try:
        array = np.asarray(times, float)
    except (TypeError, ValueError):
        raise TypeError(f"times must be a vector of numbers, got {times!r}.") from None
    if array.ndim != 1 or array.size < 2:
        raise ValueError(f"times must be a vector of at least two numbers, got shape {array.shape}.")
    with np.errstate(over="ignore", invalid="ignore"):
        passed = np.diff(array)
        elapsed = (array - array[0]).astype(dtype)
        held = np.isfinite(array.astype(dtype)) & np.isfinite(elapsed)
    good = (passed >= 0) if repeated and array[-1] > array[0] else (passed > 0)
    _refuse(array, ~(good & np.isfinite(passed)), "be finite and increase")
    _refuse(array, ~(held[:-1] & held[1:]), f"be numbers that {dtype.name} holds")
    lost = (passed > 0) & (np.diff(elapsed) <= 0)
    _refuse(array, lost, f"differ when rounded to {dtype.name}, counted from the first of them")
    kept = jnp.result_type(float)
    with jax.ensure_compile_time_eval():  # under jit too, concrete times stay so
        return Times(*jax.device_put((array.astype(kept), (array - array[0]).astype(kept))))


def _refuse(array: np.ndarray, bad: np.ndarray, rule: str) -> None:
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(
            f"times must {rule}, got {array[i]:.12g} followed by {array[i + 1]:.12g} at index {i + 1}."
        )


def check_resolved(times: Times, step: Any, name: str, dtype: Any) -> None:
    """Refuse equal steps that are too short for the precision of the time that has passed, where they are concrete.

    `step` is their length or, as a Python integer, their number between two times.
    """
    if times.is_traced or isinstance(step, Tracer) or np.ndim(step):
        return
    elapsed = np.asarray(times.elapsed)
    length = np.diff(elapsed).min() / step if isinstance(step, int) else float(step)
    finest = 4 * float(jnp.finfo(dtype).eps) * float(elapsed[-1])
    if length < finest:
        raise ValueError(
            f"{name} must make steps of at least {finest:.3g}, which {dtype.name} resolves over a time of "
            f"{elapsed[-1]:.6g}, got {step!r}."
        )
