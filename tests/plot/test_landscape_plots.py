"""Pictures of slices draw the numbers of the slice, and the paths where they are on it."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxflow as jf
from jaxflow.landscape import principal_directions, project, slice

pytestmark = pytest.mark.promotes


def bowl(x):
    return jnp.sum(jnp.array([1.0, 10.0, 0.1]) * x**2) + 0.01


@pytest.fixture(scope="module")
def run():
    return jf.iterate(jf.optim.gd(0.05), bowl, jnp.ones(3), steps=20)


@pytest.fixture(scope="module")
def plane(run):
    return slice(bowl, run.params, principal_directions(run), points=(15, 11))


@pytest.fixture
def ax():
    return Figure().add_subplot()


@pytest.fixture
def space():
    return Figure().add_subplot(projection="3d")


def test_contours_with_paths_and_logarithmic_heights(run, plane, ax):
    on = project(run, plane)
    given = {"run": run, "line": jf.landscape.interpolate(bowl, run.params, jnp.ones(3)), "again": on}
    assert jf.plot.landscape(plane, given, ax, levels=7, label="my loss") is ax
    named = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    share = 100 * float(on.share)
    for name in (f"run (plane holds {share:.0f} %)", f"again (plane holds {share:.0f} %)"):
        np.testing.assert_allclose(np.transpose(named[name].get_data()), on.coordinates)
    assert ax.get_xlabel().startswith("principal direction 1 (")
    low, high = float(plane.losses.min()), float(plane.losses.max())
    np.testing.assert_allclose(ax.collections[0].levels, np.geomspace(low, high, 8))
    assert ax.figure.axes[1].get_ylabel() == "my loss"
    np.testing.assert_allclose(ax.get_xlim(), np.asarray(plane.coordinates[0])[[0, -1]])


def test_slices_on_one_scale_and_runs_that_stopped_early(run, plane, ax, space):
    """Records that were not reached are NaN: the end is the last one that was."""
    stopped = run.values.at[12:].set(jnp.nan)
    jf.plot.landscape(plane, {"run": stopped}, ax, limits=(0.1, 3.0), levels=4)
    np.testing.assert_allclose(ax.collections[0].levels, np.geomspace(0.1, 3.0, 5))
    on = project(stopped, plane)
    ends = [np.ravel(line.get_data()) for line in ax.get_lines() if line.get_marker() == "o"]
    np.testing.assert_allclose(ends, on.coordinates[np.array([0, 11])])
    assert repr(on).startswith("Projection(12 records;")
    assert "nan" not in on.message
    found = principal_directions(stopped)
    assert "of the variance of 12 records" in found.message
    jf.plot.landscape(plane, {"run": stopped}, space, kind="surface", limits=(0.1, 3.0))
    assert np.isfinite(space.lines[-1].get_data_3d()).all()
    for limits in ((1.0, 1.0), (1.0,), (0.0, np.inf)):
        with pytest.raises(ValueError, match="limits must be two finite numbers"):
            jf.plot.landscape(plane, None, ax, limits=limits)


def test_a_flat_or_negative_slice_has_even_levels(ax):
    flat = slice(lambda x: 0 * x[0] - 3.0, jnp.zeros(3), jnp.eye(3)[:2], 1.0, 5)
    jf.plot.landscape(flat, None, ax, levels=4)
    np.testing.assert_allclose(ax.collections[0].levels, np.linspace(-3, -2, 5))


def test_a_surface_with_the_path_above_it(run, plane, space):
    jf.plot.landscape(plane, {"run": run}, space, kind="surface")
    x, y, z = space.lines[0].get_data_3d()
    on = project(run, plane)
    np.testing.assert_allclose(np.stack([x, y], 1), on.coordinates)
    heights = np.log10(np.asarray(plane.losses))
    assert np.all((z > heights.min()) & (z < heights.max() + 0.02 * np.ptp(heights)))
    assert z[0] > z[-1] + 0.5 * np.ptp(heights)  # down from a corner to the bottom
    assert space.get_zlabel() == "log₁₀ loss"


def test_lines_and_losses_that_are_lost(ax, space):
    line = slice(
        lambda x: jnp.where(x[0] > 0.7, jnp.nan, jnp.exp(5 * x[0])), jnp.zeros(3), jnp.eye(3)[:1], 1.0, 9
    )
    jf.plot.landscape(line, None, ax, label="train")
    jf.plot.landscape(line, None, ax, label="test")
    first, second = ax.get_lines()
    np.testing.assert_allclose(first.get_ydata(), np.asarray(line.losses))
    assert first.get_linestyle() != second.get_linestyle()
    assert ax.get_yscale() == "log"
    hole = slice(lambda x: jnp.where(x[0] > 0.7, jnp.inf, x[1]), jnp.zeros(3), jnp.eye(3)[:2], 1.0, 9)
    jf.plot.landscape(hole, None, space, kind="surface")
    jf.plot.landscape(hole, None, Figure().add_subplot())


def test_what_cannot_be_drawn_is_refused(run, plane, ax):
    line = slice(bowl, jnp.zeros(3), jnp.eye(3)[:1], 1.0, 5)
    lost = slice(lambda x: x[0] * jnp.nan, jnp.zeros(3), jnp.eye(3)[:2], 1.0, 5)
    for call, error, said in (
        (lambda: jf.plot.landscape(run, None, ax), TypeError, "slice must be"),
        (lambda: jf.plot.landscape(plane, None, ax, kind="mountain"), ValueError, "kind must be one of"),
        (lambda: jf.plot.landscape(plane, None, ax, levels=1), ValueError, "levels must be"),
        (lambda: jf.plot.landscape(plane, None, ax, kind="surface"), ValueError, "three-dimensional"),
        (lambda: jf.plot.landscape(line, {"run": run}, ax), ValueError, "left out on a line, got run"),
        (lambda: jf.plot.landscape(lost, None, ax), ValueError, "finite loss"),
        (lambda: jf.plot.landscape(plane, {"x": jnp.ones((3, 2))}, ax), ValueError, "shapes"),
    ):
        with pytest.raises(error, match=said):
            call()
