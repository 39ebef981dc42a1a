"""The way to the edge of stability: the stable flow, until its effective sharpness rises through a level."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxflow.dynamics.clock import step_times
from jaxflow.dynamics.edge.stable import StableState
from jaxflow.dynamics.modified_equations.step_logarithm import ModifiedState
from jaxflow.solve.trajectories.trajectory import Trajectory

PyTree = Any
RISE = 1.2  # a rise in sharpness that another learning rate is advised for


class Approach(NamedTuple):
    """Where a study begins, and the times (n,) and effective sharpness (n,) on the way there; n may be 0."""

    start: StableState | ModifiedState
    times: np.ndarray
    sharpness: np.ndarray


def approach(
    solve: Callable[[Any, np.ndarray], Trajectory],
    *,
    rate: Any,
    start: StableState | ModifiedState,
    level: float,
    most: int,
    length: int,
    watch: Callable[[str, float], None],
) -> Approach:
    """Follow the flow, `length` steps at a time, to where its sharpness first rises through `level`.

    A network's sharpness often starts high, falls and rises again: only what follows a value below `level` counts.

    - `solve(state, times)`: the stable flow, recorded with its sharpness. `rate`: the learning rate or schedule.
    - `most`: steps allowed.
    """
    times, sharpness, state = np.zeros(1), np.zeros(0), start
    for done in range(0, most, length):
        some = times[-1] + np.asarray(step_times(rate, done, length))
        path = solve(state, some)
        found = np.asarray(path.values.sharpness, float)
        # A piece begins where the one before it ended.
        times, sharpness = np.append(times, some[1:]), np.append(sharpness, found if not done else found[1:])
        if not np.isfinite(sharpness[-1]):
            raise ValueError(
                f"level must be one that the stable flow reaches, got {level!r}: it {path.message}, and its "
                f"effective sharpness was {_largest_finite(sharpness):.4g} at most."
            )
        at = _first_crossing(sharpness, level)
        watch("approach", _share(sharpness, level))
        if at is not None:
            seen = Approach(state, times, sharpness)
            return _end_of_approach(solve, seen, last=some, at=at, level=level)
        state = path.state
    raise ValueError(
        f"level must be one through which the effective sharpness of the stable flow rises within {most} steps, "
        f"got {level!r}: it begins at {sharpness[0]:.4g}, ends at {sharpness[-1]:.4g} and lies between "
        f"{sharpness.min():.4g} and {sharpness.max():.4g}; {_advice(sharpness, level, rate)}."
    )


def _advice(sharpness: np.ndarray, level: float, rate: Any) -> str:
    """The nearest learning rate at which the sharpness seen, in proportion to the rate, would rise through the level
    in time.
    """
    lowest = int(np.argmin(sharpness))
    later = np.arange(sharpness.size) > lowest
    risen = np.flatnonzero(later & (sharpness > 0) & (sharpness >= RISE * sharpness[lowest]))
    # A smaller rate takes more steps to the same time.
    soon = risen[risen * sharpness[risen] <= (sharpness.size - 1) * level]
    if not soon.size:
        return "level=None (--level 0 on the command line) begins at the parameters as they are"
    factor = level / sharpness[soon]
    factor = factor[np.argmin(np.abs(np.log(factor)))]
    if callable(rate):
        return f"with learning rates about {factor:.2g} times as large it would rise through it"
    return f"with a learning rate of about {factor * float(rate):.2g} it would rise through it"


def _first_crossing(sharpness: np.ndarray, level: float) -> int | None:
    """The first index at `level` or above after one below."""
    below = sharpness < level
    later = np.flatnonzero(~below & (np.cumsum(below) > 0))
    return int(later[0]) if later.size else None


def _end_of_approach(solve, seen: Approach, *, last: np.ndarray, at: int, level: float) -> Approach:
    """The flow's state where its sharpness, linear between two steps, is at `level`: the last piece, cut short.

    `seen` holds the start of that piece, whose times are `last`, and all that was seen up to its end.
    """
    state, times, sharpness = seen
    part = (level - sharpness[at - 1]) / (sharpness[at] - sharpness[at - 1])
    end = times[at - 1] + part * (times[at] - times[at - 1])
    end = max(end, last[0] + 1e-3 * (last[1] - last[0]))
    path = solve(state, np.linspace(last[0], end, last.size))
    reached = float(np.asarray(path.values.sharpness)[-1])
    return Approach(path.state, np.append(times[:at], end), np.append(sharpness[:at], reached))


def _share(sharpness: np.ndarray, level: float) -> float:
    """How much of the way up from the lowest sharpness is done."""
    lowest = sharpness.min()
    return float(np.clip((sharpness[-1] - lowest) / max(level - lowest, 1e-12), 0, 1))


def _largest_finite(sharpness: np.ndarray) -> float:
    finite = sharpness[np.isfinite(sharpness)]
    return float(finite.max()) if finite.size else float("nan")
