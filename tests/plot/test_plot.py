"""Pictures: what is drawn is what was computed, with labelled axes and named methods."""

import itertools

import jax
import jax.numpy as jnp
import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.plot.style import COLOURS, stroke

pytestmark = pytest.mark.promotes
PROBLEM = jf.problems.ravine()
LOSS, START = PROBLEM.objective, PROBLEM.params


@pytest.fixture(scope="module")
def runs():
    discrete = jf.iterate(jf.optim.gd(0.01), LOSS, START, steps=30)
    flow = jf.integrate(jf.dynamics.gradient_flow(LOSS), START, discrete.times)
    return discrete, flow


def test_trajectories_draws_the_recorded_numbers(ax):
    run = jf.iterate(jf.optim.gd(0.01), LOSS, START, steps=30, record=LOSS)
    assert jf.plot.trajectories({"gradient descent": run}, ax) is ax
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_ydata(), run.values)
    np.testing.assert_array_equal(line.get_xdata(), run.times)
    assert ax.get_yscale() == "log"
    assert ax.get_legend_handles_labels()[1] == ["gradient descent"]
    assert "learning rate" in ax.get_xlabel()


def test_an_ensemble_is_a_median_in_its_band_and_survives_divergence(ax):
    data = jnp.array([[1.0], [3.0]])
    objective = jf.Objective(lambda w, b: 0.5 * b[:, 0] * w**2, data)
    keys = jax.random.split(jax.random.key(0), 9)
    run = jf.ensemble(
        lambda k: jf.iterate(
            jf.optim.gd(0.3), objective, 1.0, steps=9, batch_size=1, key=k, record=objective
        ),
        keys,
    )
    values = np.array(run.values)
    values[0, 5:] = np.nan
    object.__setattr__(run, "values", jnp.asarray(values))
    jf.plot.trajectories({"SGD": run}, ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.nanmedian(values, axis=0), rtol=1e-12)
    assert len(ax.collections) == 1


def test_comparison_leaves_out_the_zero_at_the_start(ax, runs):
    gap = jf.compare(*runs)
    jf.plot.comparison({"gradient flow": gap}, ax, relative=True)
    drawn = ax.lines[0].get_ydata()
    assert np.isnan(drawn[0])
    np.testing.assert_array_equal(drawn[1:], gap.relative[1:])


def test_plane_marks_iterates_and_not_the_flow(ax, runs):
    discrete, flow = runs
    jf.plot.plane(LOSS, {"gradient descent": discrete, "gradient flow": flow}, ax)
    named = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert named["gradient descent"].get_marker() not in ("None", None, "")
    assert named["gradient flow"].get_marker() in ("None", None, "")
    np.testing.assert_array_equal(named["gradient flow"].get_xdata(), flow.values[:, 0])
    left, right = ax.get_xlim()
    assert left < discrete.values[:, 0].min()
    assert right > discrete.values[:, 0].max()


def test_order_draws_the_fit_and_names_its_slope(ax):
    fit = jf.order_of_accuracy(lambda h: 3 * h**2, [0.1, 0.05, 0.025])
    jf.plot.order({"gap": fit}, ax)
    points, line = ax.lines
    np.testing.assert_allclose(line.get_ydata(), points.get_ydata(), rtol=1e-10)
    assert ax.get_legend_handles_labels()[1] == ["gap: slope 2.00 ± 0.00"]


def test_without_axes_the_current_ones_are_used(runs):
    figure, ax = plt.subplots()
    assert jf.plot.comparison(jf.compare(*runs)) is ax
    plt.close(figure)


def test_neighbouring_lines_differ_in_lightness_and_in_dash():
    def lightness(colour):
        return np.dot(matplotlib.colors.to_rgb(colour), [0.2126, 0.7152, 0.0722])

    assert all(abs(lightness(a) - lightness(b)) > 0.1 for a, b in itertools.pairwise(COLOURS))
    assert len({str(stroke(i)["linestyle"]) for i in range(7)}) == 7


def test_what_cannot_be_drawn_is_refused(ax, runs):
    with pytest.raises(ValueError, match="run it with record=objective"):
        jf.plot.trajectories({"gradient descent": runs[0]}, ax)
    with pytest.raises(ValueError, match="paths, or an extent"):
        jf.plot.plane(LOSS, ax=ax)
    scalars = jf.iterate(jf.optim.gd(0.01), LOSS, START, steps=3, record=LOSS)
    with pytest.raises(ValueError, match=r"values of shape \(T, 2\)"):
        jf.plot.plane(LOSS, {"loss": scalars}, ax)
