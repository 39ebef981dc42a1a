"""A run in pieces is the run in one: iterates that are a recursion in NumPy, without anything compiled."""

import numpy as np
import pytest

from jaxflow.solve.trajectories.pieces import Start, cut, join_pieces, run_pieces
from jaxflow.solve.trajectories.trajectory import DIVERGED, FINISHED, Trajectory


def decay(before, times):
    """x(t) = x₀ e^{−t}, which counts its intervals as steps, and diverges where x falls below a tenth."""
    x = before.state * np.exp(-(times - times[0]))
    low = np.flatnonzero(x < 0.1)
    status, stopped = (DIVERGED, times[low[0]]) if low.size else (FINISHED, times[-1])
    n = np.asarray(times.size - 1)
    return Trajectory(times, {"x": x}, x[-1], x[-1], n, 2 * n, np.asarray(status), stopped, observed=-x)


@pytest.mark.parametrize("length", [3, 4, 10, 20])
def test_pieces_are_the_whole(length):
    times = np.linspace(0.0, 2.0, 11)
    parts = cut(times, length)
    assert [part.size - 1 for part in parts] == [min(length, 10 - i) for i in range(0, 10, length)]
    whole = join_pieces(list(run_pieces(decay, Start(None, 1.0), parts)))
    np.testing.assert_array_equal(whole.times, times)
    np.testing.assert_allclose(whole.values["x"], np.exp(-times), rtol=1e-14)
    np.testing.assert_allclose(whole.observed, -np.exp(-times), rtol=1e-14)
    assert (whole.steps, whole.evaluations, whole.status) == (10, 20, FINISHED)


def test_the_first_piece_that_fails_tells_how_it_ended():
    whole = join_pieces(list(run_pieces(decay, Start(None, 1.0), cut(np.linspace(0.0, 4.0, 9), 3))))
    assert whole.status == DIVERGED
    assert whole.stopped == 2.5  # e^{−2.5} = 0.082; the pieces that follow begin below a tenth
