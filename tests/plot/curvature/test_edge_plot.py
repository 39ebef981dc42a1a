"""The picture of a study past the edge: its lines are the study's numbers."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxflow as jf

pytestmark = pytest.mark.promotes


def path(key, times, modes):
    parts = jax.random.split(jax.random.key(key), 4)
    draw = lambda part, *shape: jnp.exp(jax.random.normal(part, shape))
    n = times.size
    return jf.comparison.EdgePath(
        draw(parts[0], n), draw(parts[1], n), draw(parts[2], n, modes), draw(parts[3], n), jnp.ones(2)
    )


@pytest.fixture
def study():
    times, nothing = jnp.linspace(0.1, 2.0, 20), jnp.zeros(0)
    some = jnp.asarray(0)
    names = "iterates", "central", "stable", "rods", "pairs"
    return jf.EdgeStudy(
        times=times,
        **{name: path(key, times, 2) for key, name in enumerate(names)},
        averaged_loss=jnp.full(20, 0.5),
        averaged_squared_gradient=jnp.full(20, 0.25),
        window=jnp.asarray(2.0),
        start=jnp.ones(2),
        approach_times=nothing,
        approach_sharpness=nothing,
        covariance=jnp.zeros((20, 2, 2)),
        eigenvector_residual=jnp.asarray(0.0),
        complementarity_residual=jnp.asarray(0.0),
        substeps=some,
        products=some,
        third_derivatives=some,
    )


def by_label(ax):
    return {line.get_label(): np.asarray(line.get_ydata()) for line in ax.lines}


def test_every_line_is_a_column_of_the_study(study):
    figure, axes = plt.subplots(3)
    assert jf.plot.edge(study, axes) is axes
    loss, sharpness, distance = map(by_label, axes)
    np.testing.assert_array_equal(loss["iterates"], study.iterates.loss)
    np.testing.assert_array_equal(loss["iterates, averaged over time"], study.averaged_loss)
    np.testing.assert_array_equal(loss["central flow: predicted average"], study.central.loss)
    np.testing.assert_array_equal(loss["stable flow"], study.stable.loss)
    assert axes[0].get_yscale() == "log"
    np.testing.assert_array_equal(sharpness["central flow"], study.central.eigenvalues[:, 0])
    np.testing.assert_array_equal(sharpness["stable flow"], study.stable.eigenvalues[:, 0])
    np.testing.assert_array_equal(sharpness["iterates, at their midpoints"], study.iterates.eigenvalues[:, 0])
    assert set(sharpness["edge of stability"]) == {2.0}
    drawn = [line.get_ydata() for line in axes[1].lines]
    for one in (study.iterates, *study.flows.values()):
        assert any(np.array_equal(y, one.eigenvalues[:, 1]) for y in drawn)
    for name, of in (("rod flow", study.rods), ("flow of pairs", study.pairs)):
        np.testing.assert_array_equal(loss[f"{name}: mean of both ends"], of.loss)
        np.testing.assert_array_equal(sharpness[name], of.eigenvalues[:, 0])
        np.testing.assert_array_equal(distance[name], of.distance)
    np.testing.assert_array_equal(distance["central flow"], study.central.distance)
    np.testing.assert_array_equal(distance["stable flow"], study.stable.distance)
    assert all("learning rate" in ax.get_xlabel() for ax in axes)
    figure.canvas.draw()
    plt.close(figure)


def test_the_parting_is_marked_where_the_stable_flow_stays_farther(study):
    ahead = jnp.where(jnp.arange(20) == 3, 2.0, jnp.where(jnp.arange(20) > 11, 3.0, 0.5))
    stable = jf.comparison.EdgePath(*jax.tree.leaves(study.stable)[:3], ahead, jnp.ones(2))
    central = jf.comparison.EdgePath(*jax.tree.leaves(study.central)[:3], jnp.ones(20), jnp.ones(2))
    parts = {name: getattr(study, name) for name in study.__dataclass_fields__}
    left = jf.EdgeStudy(**parts | {"stable": stable, "central": central})
    assert left.left == study.times[12]
    axes = Figure().subplots(3)
    jf.plot.edge(left, axes)
    for ax in axes:
        np.testing.assert_allclose(
            [line.get_xdata()[0] for line in ax.lines if line.get_label().endswith("left the stable flow")],
            1.3,
        )
    never = jf.EdgeStudy(**parts | {"stable": central, "central": stable})
    assert np.isnan(never.left)
    assert not any(
        "left" in line.get_label() for ax in jf.plot.edge(never, Figure().subplots(3)) for line in ax.lines
    )


def test_without_a_central_flow_there_is_no_line_of_it(study):
    parts = {name: getattr(study, name) for name in study.__dataclass_fields__}
    alone = jf.EdgeStudy(**parts | {"central": None, "covariance": None})
    axes = Figure().subplots(3)
    jf.plot.edge(alone, axes)
    assert not any("central" in line.get_label() for ax in axes for line in ax.lines)


def test_three_axes_or_none(study):
    axes = jf.plot.edge(study)
    assert len(axes) == 3
    plt.close(axes[0].figure)
    with pytest.raises(ValueError, match="axes must be three Axes, got 2"):
        jf.plot.edge(study, Figure().subplots(2))
