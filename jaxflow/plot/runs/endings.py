"""How runs ended, for a picture: a mark where one stopped before its last time, and words for the legend."""

from typing import Any

import numpy as np

from jaxflow.solve.trajectories.trajectory import DIVERGED, FINISHED, LEFT, MEANING, STOPPED, Trajectory

MARKS = {STOPPED: "s", DIVERGED: "X", LEFT: "X"}  # any other early end is a diamond
OTHER = "D"


def name_ending(name: str, run: Trajectory) -> str:
    """The name of a run in the legend, with how it ended unless it, or each member of an ensemble, arrived.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> run = jf.iterate(jf.optim.gd(0.1), lambda x: jnp.sum(x**4), jnp.array([4.0]), steps=20, record=jnp.sum)
    >>> name_ending("gradient descent", run)
    'gradient descent: diverged at t = 0.7'
    """
    status = np.asarray(run.status)
    if status.ndim == 0:
        return name if status == FINISHED else f"{name}: {run.message}"
    counts = {code: int((status == code).sum()) for code in MEANING if code != FINISHED}
    ends = [f"{count} of {status.size} {MEANING[code]}" for code, count in counts.items() if count]
    return f"{name}: {', '.join(ends)}" if ends else name


def mark_ending(ax: Any, run: Trajectory, line: Any) -> None:
    """Mark where a run ended early: on its line, or, for the members of an ensemble, along the top edge.

    The mark is a cross where a run diverged, a square where its event stopped it, a diamond otherwise.
    """
    times, values = line.get_data()
    status, stopped = np.atleast_1d(run.status), np.atleast_1d(np.asarray(run.stopped, float))
    style = {"color": line.get_color(), "markeredgecolor": "black", "markeredgewidth": 0.6, "markersize": 8}
    seen = np.flatnonzero(np.isfinite(values) & (times <= stopped.max()))
    if np.ndim(run.status) == 0 and status[0] != FINISHED and seen.size:
        line.set(marker=MARKS.get(int(status[0]), OTHER), markevery=[int(seen[-1])], **style)
        return
    for mark in {MARKS.get(int(code), OTHER) for code in status if code != FINISHED}:
        of_mark = np.array([code != FINISHED and MARKS.get(int(code), OTHER) == mark for code in status])
        place = {"transform": ax.get_xaxis_transform(), "clip_on": False}
        ax.plot(stopped[of_mark], np.ones(of_mark.sum()), mark, **place, **style)
