"""Pictures of densities: what is drawn is what was computed, and what cannot be drawn is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from PIL import Image

import jaxflow as jf
from jaxflow.density import Grid

pytestmark = pytest.mark.promotes  # integrate uses diffrax

GRID = Grid(-2.2, 2.2, 80)
PLANE = Grid((-2.5, -2.0), (2.5, 2.0), (50, 40))
TIMES = jnp.linspace(0.0, 2.0, 9)


@pytest.fixture(scope="module")
def run():
    well = jf.dynamics.langevin(lambda x: (x**2 - 1) ** 2, 0.3)
    start = jf.density.gaussian(GRID, -1.0, 0.02)
    return jf.integrate(jf.density.fokker_planck(well, GRID), start, TIMES)


@pytest.fixture(scope="module")
def law():
    """The Ornstein–Uhlenbeck law at rest in the plane, and its current in closed form."""
    law = jf.density.ou_law(jnp.diag(jnp.array([1.0, 3.0])), jnp.array([[1.0, 0.8], [0.8, 1.2]]), 0.5)
    p = jf.density.gaussian(PLANE, 0.0, law.covariance)
    turn = law.current @ jnp.linalg.inv(law.covariance)
    return p, p[..., None] * (PLANE.points @ turn.T)


@pytest.fixture(scope="module")
def plane_run(law):
    """Three densities that an integration could have returned."""
    p = law[0]
    none = jnp.zeros((), int)
    return jf.Trajectory(
        jnp.arange(3.0), jnp.stack([p, p[::-1], p]), p, None, none, none, none, jnp.array(2.0)
    )


def test_curves_are_the_densities_at_five_times(run, ax):
    assert jf.plot.density(run, GRID, ax) is ax
    assert [line.get_label() for line in ax.lines] == ["t = 0", "t = 0.5", "t = 1", "t = 1.5", "t = 2"]
    for line, i in zip(ax.lines, range(0, 9, 2), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), run.values[i])
        np.testing.assert_allclose(line.get_xdata(), GRID.centers(0))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "density p(x)")


def test_chosen_times_and_points_under_the_curve(run, ax):
    points = np.append(np.linspace(-1.1, -0.9, 90), [np.nan, 9.0])
    jf.plot.density(run, GRID, ax, at=[0.3, 2.0], points=points)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), run.values[1])
    assert ax.get_legend_handles_labels()[1] == ["91 points", "t = 0.25", "t = 2"]
    area = sum(bar.get_height() * bar.get_width() for bar in ax.patches)
    np.testing.assert_allclose(area, 90 / 91)  # those outside count


def test_a_map_has_every_time(run, ax):
    jf.plot.density(run, GRID, ax, kind="map")
    (mesh,) = ax.collections
    np.testing.assert_array_equal(np.reshape(mesh.get_array(), (80, 9)), np.asarray(run.values).T)
    assert ax.get_xlabel() == "time t (steps × learning rate)"
    assert ax.get_xlim() == (0.0, 2.0)
    np.testing.assert_allclose(ax.get_ylim(), (-2.2, 2.2))


def test_contours_with_arrows_along_the_current_and_points(law, ax):
    p, currents = law
    points = np.random.default_rng(0).normal(size=(40, 2))
    jf.plot.density(p, PLANE, ax, currents=currents, points=points)
    (arrows,) = (drawn for drawn in ax.collections if isinstance(drawn, Quiver))
    # Blocks of 3 × 3 cells: an arrow is their mean.
    blocks = np.asarray(currents)[:48, :39].reshape(16, 3, 13, 3, 2).mean((1, 3)).reshape(-1, 2)
    size = np.hypot(*blocks.T)
    seen = blocks[size > 0.05 * size.max()]
    np.testing.assert_allclose(np.stack([arrows.U, arrows.V], -1), seen)
    assert ax.get_legend_handles_labels()[1] == ["40 points"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("$x_1$", "$x_2$", "")


def test_the_last_time_of_a_run_in_the_plane(plane_run, law, ax):
    jf.plot.density(plane_run, PLANE, ax, currents=jnp.zeros_like(law[1]))  # no current, no arrow
    assert ax.get_title() == "t = 2 (steps × learning rate)"
    assert not any(isinstance(drawn, Quiver) for drawn in ax.collections)


def test_free_energy_marks_where_a_curve_rises(run, ax):
    at_rest = jf.density.gaussian(GRID, 0.0, 0.3)
    well = jf.density.potential(at_rest, 0.3, GRID)
    wrong = jax.vmap(lambda p: jf.density.free_energy(p, well, 0.3, GRID))(run.values)
    falls = -np.asarray(TIMES)
    jf.plot.free_energy(run, {"F": falls, "wrong": wrong, "zigzag": falls % 0.5}, ax, rest=-1.0)
    ups = {name: int((np.diff(value) > 1e-12).sum()) for name, value in (("w", wrong), ("z", falls % 0.5))}
    labels = ax.get_legend_handles_labels()[1]
    assert labels[0] == "F"
    assert labels[2] == f"zigzag: rises in {ups['z']} of 8 intervals"
    assert labels[-1] == "at rest"
    assert len(ax.lines[5].get_xdata()) == ups["z"]
    assert len(ax.lines[3].get_xdata()) == ups["w"]
    assert ax.get_xlabel() == "time t (steps × learning rate)"


@pytest.mark.parametrize("dimensions", [1, 2])
def test_an_animation_has_a_picture_for_every_time(run, plane_run, dimensions, tmp_path):
    densities, grid = ((run, GRID), (plane_run, PLANE))[dimensions - 1]
    count = len(densities.times)
    points = np.random.default_rng(0).normal(size=(30, count, dimensions))
    points[0, -1] = np.nan
    figure = Figure(figsize=(3, 2), dpi=60)
    jf.plot.animate_density(
        densities, grid, tmp_path / "a.gif", figure.add_subplot(), points=points, seconds=1
    )
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == count  # type: ignore[attr-defined]
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]


def test_what_cannot_be_drawn_is_refused(run, plane_run, law, tmp_path):
    ax = Figure().add_subplot()
    p, currents = law
    plot: Any = jf.plot
    refused: Any = lambda match, error: pytest.raises(error, match=match)
    with refused(r"grid must be a jaxflow.density.Grid, got int", TypeError):
        plot.density(run, 3, ax)
    with refused(r"kind must be one of lines, map; got 'heat'", ValueError):
        plot.density(run, GRID, ax, kind="heat")
    with refused(r"recorded densities of shape \(T, 50, 40\), .* got shape \(9, 80\)", ValueError):
        plot.density(run, PLANE, ax)
    with refused(r"a run or an array of shape \(80,\), as the grid has, got shape \(50, 40\)", ValueError):
        plot.density(p, GRID, ax)
    with refused(r"finite and above 0 somewhere", ValueError):
        plot.density(p * 0, PLANE, ax)
    with refused(r"at must be times between 0 and 2, those of the run, got 3.0", ValueError):
        plot.density(run, GRID, ax, at=3.0)
    with refused(r"at must be left out for one density", ValueError):
        plot.density(p, PLANE, ax, at=3.0)
    with refused(r"at must be one time in two coordinates, got 2", ValueError):
        plot.density(plane_run, PLANE, ax, at=[0, 1])
    with refused(r"currents must have shape \(50, 40, 2\), got \(50, 40\)", ValueError):
        plot.density(p, PLANE, ax, currents=p)
    with refused(r"currents must be left out in one coordinate", ValueError):
        plot.density(run, GRID, ax, currents=currents)
    with refused(r"points must have shape \(n, 2\), got \(3,\)", ValueError):
        plot.density(p, PLANE, ax, points=np.ones(3))
    with refused(r"points must be left out of a map", ValueError):
        plot.density(run, GRID, ax, kind="map", points=np.ones(3))
    with refused(r'kind must be "lines" for a density at one time', ValueError):
        plot.density(run.params, GRID, ax, kind="map")
    with refused(r"the shape of times, \(9,\), with one axis, got \(2,\) for 'F'", ValueError):
        plot.free_energy(run, {"F": [1.0, 2.0]}, ax)
    with refused(r"at least one array of the length of times", ValueError):
        plot.free_energy(run, {}, ax)
    path = tmp_path / "a.gif"
    with refused(r"densities must be a run that integrate returned, got", TypeError):
        plot.animate_density(p, PLANE, path, ax)
    with refused(r"path must end in .webp, .gif, .png, got 'a.mp4'", ValueError):
        plot.animate_density(run, GRID, "a.mp4", ax)
    with refused(r"at least 2 times to be animated, got 1", ValueError):
        plot.animate_density(run[:1], GRID, path, ax)
    with refused(r"points must have shape \(n, 9, 1\), .* got \(5, 2\)", ValueError):
        plot.animate_density(run, GRID, path, ax, points=np.ones((5, 2)))
    assert not list(tmp_path.iterdir())
