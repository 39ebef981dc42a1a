"""Moving pictures of the gallery: what moves in them ends where theory says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from experiments.densities import fokker_planck
from experiments.edge import moving_valley
from experiments.landscapes import bending_band

pytestmark = pytest.mark.promotes


@pytest.fixture(autouse=True)
def standard():
    with jax.numpy_dtype_promotion("standard"):
        yield


def line(ax, label):
    return next(each for each in ax.lines if each.get_label() == label)


def test_the_band_bends_to_the_saddle():
    """The highest image climbs to the saddle of Müller and Brown at −40.6648."""
    figure, show, frames = bending_band.moving()
    *_, last = frames
    show(last)
    band = line(figure.axes[1], "band")
    assert np.max(band.get_ydata()) == pytest.approx(-40.6648, abs=1e-3)
    show(0)
    np.testing.assert_allclose(band.get_ydata(), line(figure.axes[1], "straight line").get_ydata())


def test_descent_is_held_at_the_edge_where_the_flow_goes_on():
    figure, show, frames = moving_valley.moving()
    *_, last = frames
    show(last)
    y = {
        name: line(figure.axes[0], name).get_ydata() for name in ("gradient flow", "flow of pairs: midpoint")
    }
    assert y["gradient flow"][-1] > 23
    assert y["flow of pairs: midpoint"][-1] < 21.5
    point = jnp.asarray(moving_valley.START)
    for _ in range(last):
        x, h = point
        slope = jnp.array([h * x - moving_valley.TILT, 0.5 * x**2 - 0.1 * (moving_valley.FAR - h)])
        point = point - moving_valley.RATE * slope
    shown = [each for each in figure.axes[0].lines if each.get_markersize() == 7]
    np.testing.assert_allclose(np.ravel(shown[0].get_data()), point, rtol=1e-9)


def test_bars_and_density_are_of_one_law():
    """The share of 4,000 runs at x < 0 in the last frame, within 4 of its standard errors of the density's."""
    grid = jf.density.Grid(fokker_planck.LOW, fokker_planck.HIGH, 240)
    figure, show, frames = fokker_planck.move(grid)
    show(frames[-1])
    (ax,) = figure.axes
    density = line(ax, "density")
    x, p = density.get_data()
    left = p[x < 0].sum() * (x[1] - x[0])
    heights, edges, _ = ax.patches[0].get_data()
    share = heights[: np.searchsorted(edges, -1e-9)].sum() * (edges[1] - edges[0])
    # The law of SGD at η = .0125 is itself .001 off the density there.
    assert share == pytest.approx(left, abs=4 * np.sqrt(left * (1 - left) / 4000) + 0.002)
