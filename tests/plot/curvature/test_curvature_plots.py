"""Pictures of curvature: what is drawn is what was computed."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.curvature.spectrum.density import SpectralDensity

pytestmark = pytest.mark.promotes
TIMES = np.arange(6) * 0.1


def density(nodes, weights, size):
    return SpectralDensity(jnp.asarray(nodes), jnp.asarray(weights), jnp.zeros(np.shape(nodes)), size)


TWO = density([[0.0, 5.0], [1.0, 5.0]], [[0.9, 0.1], [0.7, 0.3]], 10)


def test_spectrum_draws_the_smoothed_density_on_a_logarithmic_axis(ax):
    assert jf.plot.spectrum(TWO, ax, width=0.1, label="at the end") is ax
    (line,) = ax.lines
    grid, height = line.get_xdata(), line.get_ydata()
    bump = lambda node: np.exp(-0.5 * ((grid - node) / 0.1) ** 2) / (0.1 * np.sqrt(2 * np.pi))
    expected = 0.45 * bump(0) + 0.35 * bump(1) + 0.2 * bump(5)
    bottom, top = ax.get_ylim()
    seen = expected > bottom
    np.testing.assert_allclose(height[seen], expected[seen], rtol=1e-9)
    assert np.all(height[~seen] <= bottom)
    assert bottom < 0.1 / (0.1 * np.sqrt(2 * np.pi)) < top  # a single eigenvalue of the ten is in sight
    assert expected.max() < top
    assert ax.get_yscale() == "log"
    assert ax.get_legend_handles_labels()[1] == ["at the end"]
    assert "λ" in ax.get_xlabel()
    assert "density" in ax.get_ylabel()
    assert len(ax.collections) == 1  # the band of the standard error


def test_exact_eigenvalues_are_marked_and_a_second_density_fits_beside_the_first(ax):
    jf.plot.spectrum(TWO, ax, eigenvalues=[4.9, 5.1], label="end")
    (marks,) = ax.collections[1:]
    np.testing.assert_allclose(marks.get_offsets()[:, 0], [4.9, 5.1])
    assert np.all(marks.get_offsets()[:, 1] > ax.get_ylim()[0])
    assert ax.get_legend_handles_labels()[1] == ["end", "eigenvalues, end"]
    jf.plot.spectrum(density([[0.0]], [[1.0]], 10_000), ax, width=0.01, label="sharper")
    first, second = ax.lines
    assert first.get_color() != second.get_color()
    assert first.get_linestyle() != second.get_linestyle()
    assert ax.get_ylim()[1] > second.get_ydata().max()
    assert ax.get_ylim()[0] < 1e-4 / (0.01 * np.sqrt(2 * np.pi))  # the height of one of 10,000
    assert len(ax.collections) == 2  # one probe has no band


def test_a_stack_of_densities_and_a_bad_width_are_refused(ax):
    with pytest.raises(ValueError, match="draws one density"):
        jf.plot.spectrum(jax.tree.map(lambda x: x[None], TWO), ax)
    with pytest.raises(ValueError, match="width must be a finite number above 0"):
        jf.plot.spectrum(TWO, ax, width=-1.0)


def test_sharpness_connects_what_was_measured(ax):
    values = np.array([1.0, np.nan, 3.0, np.nan, np.inf, 6.0])
    assert jf.plot.sharpness(TIMES, values, 5.0, ax, label="run") is ax
    line, threshold = ax.lines
    np.testing.assert_array_equal(line.get_xdata(), TIMES[[0, 2, 5]])
    np.testing.assert_array_equal(line.get_ydata(), [1.0, 3.0, 6.0])
    np.testing.assert_array_equal(threshold.get_ydata(), [5.0, 5.0])
    assert ax.get_legend_handles_labels()[1] == ["run", "stability threshold"]
    assert "learning rate" in ax.get_xlabel()
    assert "sharpness" in ax.get_ylabel()


def test_lanes_have_their_own_strokes_and_the_threshold_may_change(ax):
    values = np.stack([TIMES, 2 * TIMES])
    threshold = np.where(TIMES < 0.15, np.inf, 3.0)
    jf.plot.sharpness(np.stack([TIMES, TIMES + 1]), values, threshold, ax, label=["a", "b"])
    a, b, line = ax.lines
    np.testing.assert_array_equal(b.get_xdata(), TIMES + 1)
    assert a.get_color() != b.get_color()
    assert a.get_linestyle() != b.get_linestyle()
    np.testing.assert_array_equal(np.isnan(line.get_ydata()), TIMES < 0.15)
    assert ax.get_legend_handles_labels()[1] == ["a", "b", "stability threshold"]


def test_without_a_threshold_or_a_name_there_is_no_legend(ax):
    jf.plot.sharpness(TIMES, TIMES, np.nan, ax)
    assert len(ax.lines) == 1
    assert ax.get_legend() is None


def test_a_trajectory_with_a_sharpness_is_drawn(ax):
    loss = lambda x: jnp.sum(x**4)
    run = jf.iterate(jf.optim.gd(0.01), loss, jnp.ones(1), steps=5, record=lambda x: 12 * x[0] ** 2)
    recorded = SimpleNamespace(sharpness=run.values)
    object.__setattr__(run, "values", recorded)
    jf.plot.sharpness(run, threshold=200.0, ax=ax, label="gradient descent")
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), run.times)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), recorded.sharpness)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((TIMES,), TypeError, "sharpness must be given"),
        ((TIMES, TIMES[:3]), ValueError, "must have shape"),
        ((TIMES, np.zeros((2, 2, 6))), ValueError, "must have shape"),
        ((TIMES, TIMES, np.ones(3)), ValueError, "threshold must be a number or have shape"),
    ],
    ids=["nothing", "length", "rank", "threshold"],
)
def test_shapes_that_do_not_fit_are_refused(ax, arguments, error, match):
    with pytest.raises(error, match=match):
        jf.plot.sharpness(*arguments, ax=ax)


def test_labels_and_trajectories_that_do_not_fit_are_refused(ax):
    with pytest.raises(ValueError, match="one name for each of 2 lines"):
        jf.plot.sharpness(TIMES, np.zeros((2, 6)), ax=ax, label="one")
    run = jf.iterate(jf.optim.gd(0.1), lambda x: x**2, 1.0, steps=2)
    with pytest.raises(TypeError, match="recorded with record_sharpness"):
        jf.plot.sharpness(run, ax=ax)
