"""The sharpness along training, and the threshold above which the optimizer is not stable."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxflow.plot.style import CLOCK, axes, drawable_values, lone_marker, stroke, tidy
from jaxflow.solve import Trajectory


def sharpness(
    times: Any,
    sharpness: Any = None,
    threshold: Any = None,
    ax: Any = None,
    *,
    label: str | Sequence[str] | None = None,
) -> Any:
    """The largest eigenvalue of the Hessian against time, with the stability threshold.

    **Arguments**

    - `times` (T,): times on the clock t, as a trajectory has them; (L, T) where each of L lines has its own. Or a run
      recorded with `record_sharpness`, which has the sharpness too.
    - `sharpness` (T,) or (L, T): the eigenvalues. Those that are not finite, such as at the times between strides,
      are left out: the line goes from one measured point to the next.
    - `threshold`: a number, such as 2/η or `stability_threshold(optimizer)`, or (T,), where it changes. It is not
      drawn where it is NaN or infinite, because then there is none.
    - `ax`: the Axes to draw on; default the current ones.
    - `label`: the name in the legend, or L names.

    **Returns** the Axes.

    **Raises** `TypeError` for a trajectory without a sharpness, or times without one; `ValueError` for
    shapes or a number of labels that do not fit.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> jf.plot.sharpness([0.0, 0.1, 0.2], [15.0, jnp.nan, 19.0], 20.0, ax, label="tanh network").get_ylabel()
    'sharpness λ₁'
    """
    if isinstance(times, Trajectory):
        if not hasattr(times.values, "sharpness"):
            kind = type(times.values).__name__
            raise TypeError(f"times must be a trajectory recorded with record_sharpness, got values {kind}.")
        times, sharpness = times.times, times.values.sharpness
    if sharpness is None:
        raise TypeError("sharpness must be given, (T,) or (L, T), unless times is a trajectory; got None.")
    times, lines = drawable_values(times), drawable_values(sharpness)
    if lines.ndim not in (1, 2) or times.shape not in (lines.shape, lines.shape[-1:]):
        raise ValueError(
            f"sharpness must have shape (T,) or (L, T) for times (T,), got {lines.shape} for times {times.shape}."
        )
    every, lines = np.broadcast_to(times, lines.shape), np.atleast_2d(lines)
    names = [label] * len(lines) if label is None or (isinstance(label, str) and len(lines) == 1) else label
    if isinstance(names, str) or len(names) != len(lines):
        raise ValueError(f"label must be one name for each of {len(lines)} lines, got {label!r}.")

    ax = axes(ax)
    first = len(ax.lines)
    for i, (clock, line, name) in enumerate(zip(np.atleast_2d(every), lines, names, strict=True), first):
        seen = np.isfinite(line)
        ax.plot(clock[seen], line[seen], label=name, **stroke(i), **lone_marker(line))
    if threshold is not None:
        _threshold(ax, times if times.ndim == 1 else times[0], np.asarray(threshold, float))
    ax.set(xlabel=CLOCK, ylabel="sharpness λ₁")
    return tidy(ax)


def _threshold(ax: Any, times: np.ndarray, threshold: np.ndarray) -> None:
    if threshold.shape not in ((), times.shape):
        raise ValueError(f"threshold must be a number or have shape {times.shape}, got {threshold.shape}.")
    seen = drawable_values(threshold)
    if np.isnan(seen).all():
        return
    style = {"color": "0.45", "linestyle": (0, (2, 2)), "linewidth": 1.4, "zorder": 1.5}
    if threshold.ndim:
        ax.plot(times, seen, label="stability threshold", **style)
    else:
        ax.axhline(float(seen), label="stability threshold", **style)
