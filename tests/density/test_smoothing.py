"""The smoothed loss against its closed forms, and the minima that it does not have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.density import OnePointConvexity, one_point_convexity, smoothed

pytestmark = pytest.mark.promotes  # iterate uses optax

H, A, OMEGA = 1.0, 0.3, 6.0


def wavy(x):
    return H * x**2 / 2 + A * jnp.cos(OMEGA * x)


def closed_form(y, v):
    """For v = η²s²."""
    return H * (y**2 + v) / 2 + A * np.exp(-(OMEGA**2) * v / 2) * np.cos(OMEGA * y)


def closed_slope(y, v):
    return H * y - A * OMEGA * np.exp(-(OMEGA**2) * v / 2) * np.sin(OMEGA * y)


PLACES = np.linspace(-1.5, 1.5, 7)


@pytest.mark.parametrize("v", [0.02, 0.3])
def test_nodes_reach_the_closed_form(v):
    rate = 0.5
    soft = smoothed(wavy, rate, covariance=v / rate**2, nodes=40)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(soft)))(PLACES)
    np.testing.assert_allclose(values, closed_form(PLACES, v), atol=1e-10)
    np.testing.assert_allclose(slopes, closed_slope(PLACES, v), atol=1e-9)


def test_minima_vanish_at_the_two_sizes_of_the_noise():
    """Four minima become two at η²s² = .018152, and one at .132197, each to .1 %."""
    fine = jnp.linspace(-2.0, 2.0, 16_001) + 1e-5

    @jax.jit
    def minima(v):
        slopes = jax.vmap(jax.grad(smoothed(wavy, 1.0, covariance=v, nodes=40)))(fine)
        return jnp.sum((slopes[:-1] < 0) & (slopes[1:] > 0))

    assert [int(minima(v)) for v in (0.0, 0.018152 * 0.999, 0.018152 * 1.001)] == [4, 4, 2]
    assert [int(minima(v)) for v in (0.132197 * 0.999, 0.132197 * 1.001)] == [2, 1]


def test_two_parameters_with_a_matrix_and_with_independent_ones():
    """E of (a·x)² cos(b·x) under a Gaussian, by NumPy's own draws; and the pair formula of a quadratic, exactly."""
    loss = lambda p: (p["u"] + 2 * p["w"]) ** 2 + jnp.sin(p["u"] - p["w"])
    c = np.array([[1.0, 0.6], [0.6, 0.5]])
    at = {"u": jnp.array(0.3), "w": jnp.array(-0.2)}
    of = jax.jit(lambda covariance: smoothed(loss, 0.7, covariance=covariance, nodes=24)(at))
    found = of(c)
    square = (0.3 - 0.4) ** 2 + 0.49 * np.array([1, 2]) @ c @ np.array([1, 2])
    wave = np.sin(0.5) * np.exp(-0.49 * np.array([1, -1]) @ c @ np.array([1, -1]) / 2)
    np.testing.assert_allclose(found, square + wave, rtol=1e-10)
    apart = of(np.array([1.0, 0.5]))
    np.testing.assert_allclose(apart, 0.01 + 0.49 * 3 + np.sin(0.5) * np.exp(-0.49 * 0.75), rtol=1e-10)
    drawn = smoothed(loss, 0.7, covariance=jnp.array(c), draws=4000)(at)
    # 4,000 pairs: the square alone has the standard error √2 · 0.49 · 5.4 / √4000.
    np.testing.assert_allclose(drawn, square + wave, atol=4 * 2**0.5 * 0.49 * 5.4 / 4000**0.5)


def wavy_losses(x, c):
    return H * (x - c) ** 2 / 2 + A * jnp.cos(OMEGA * x)


CENTRES = jnp.array([-1.5, -0.5, 0.5, 1.5])


@pytest.mark.parametrize(("replacement", "factor"), [(True, 1 / 2), (False, 2 / 3 / 2)])
def test_mini_batch_noise_has_its_covariance(replacement, factor):
    """The variance of the draws is known: 4 standard errors at 7 places, false alarms below 5e-4."""
    rate, draws = 0.4, 1000
    v = rate**2 * factor * 1.25
    soft = smoothed(jf.Objective(wavy_losses, CENTRES), rate, 2, replacement=replacement, draws=draws)
    expected = closed_form(PLACES, v) + H * 1.25 / 2
    e = np.exp(-(OMEGA**2) * v / 2)
    wave = A**2 * np.cos(OMEGA * PLACES) ** 2 * (0.5 * (1 + e**4) - e**2)
    error = np.sqrt(H**2 * v**2 / 2 + wave + H * v * abs(A) * 2**0.5) / draws**0.5
    found = np.asarray(jax.jit(jax.vmap(soft))(PLACES))
    assert (abs(found - expected) < 4 * error).all()


def scaled_losses(x, a):
    return a * x**2 / 2


def test_the_gradient_does_not_act_on_the_law_of_the_noise():
    """Noise as large as the point: E L = θ²(1 + η²)/2, but E ∇L(y − ηw) = θ, exactly so for pairs."""
    soft = smoothed(jf.Objective(scaled_losses, jnp.array([0.0, 2.0])), 0.5, 1, draws=2000)
    value, slope = jax.jit(jax.value_and_grad(soft))(3.0)
    np.testing.assert_allclose(slope, 3.0, rtol=1e-12)
    np.testing.assert_allclose(value, 4.5 * 1.25, rtol=0.25 / 1.25 * 4 * (2 / 2000) ** 0.5)
    np.testing.assert_allclose(
        jax.jit(jax.grad(lambda rate: smoothed(wavy, rate, covariance=1.0, nodes=30)(0.4)))(0.0), 0
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_step_of_iterate_draws_its_own_pair(seed):
    """2,000 steps from one point, against y − η ∇L̃: 4 standard errors, false alarms 6e-5 a seed."""
    rate, v, y = 0.5, 0.1, 0.4
    soft = smoothed(wavy, rate, covariance=v / rate**2)
    step = lambda key: jf.iterate(jf.optim.gd(rate), soft, y, steps=1, key=key).params
    ends = np.asarray(jax.vmap(step)(jax.random.split(jax.random.key(seed), 2000)))
    assert ends.std() > 0.05
    assert abs(ends.mean() - (y - rate * closed_slope(y, v))) < 4 * ends.std() / 2000**0.5


def test_the_flow_passes_minima_that_the_smoothed_loss_lacks():
    flow = lambda v: (
        jf.integrate(
            jf.dynamics.gradient_flow(smoothed(wavy, 1.0, covariance=v, nodes=20)),
            1.4,
            jnp.array([0.0, 30.0]),
        ).params
    )
    ends = jax.vmap(flow)(jnp.array([0.0, 0.2]))
    assert ends[0] > 1.2
    assert abs(ends[1]) < 1e-3


def test_leaves_are_its_numbers_and_data():
    soft = smoothed(jf.Objective(wavy_losses, CENTRES), 0.4, 2)
    assert sorted(leaf.shape for leaf in jax.tree.leaves(soft)) == [(1,), (1,), (1,), (1, 4)]
    assert repr(soft).startswith("Objective(smoothed by draws, [float64[1, 4]")
    sharp = jf.curvature.hvp(smoothed(wavy, 1.0, covariance=0.1, nodes=40), 0.0, 1.0)
    np.testing.assert_allclose(sharp, H - A * OMEGA**2 * np.exp(-1.8), rtol=1e-9)


def test_one_point_convexity_along_a_run():
    v = 0.2
    soft = smoothed(wavy, 1.0, covariance=v, nodes=30)
    run = jf.iterate(jf.optim.gd(0.3), soft, 1.2, steps=5)
    found = one_point_convexity(soft, run, 0.0)
    assert isinstance(found, OnePointConvexity)
    np.testing.assert_allclose(found.constant, closed_slope(run.values, v) / run.values, rtol=1e-8)
    np.testing.assert_allclose(found.cosine, np.ones(6), rtol=1e-12)
    np.testing.assert_allclose(found.distance, abs(run.values), rtol=1e-14)
    # The loss itself is not convex about 0 along the same run.
    assert (one_point_convexity(wavy, run, 0.0).constant < 0).any()


def test_one_point_convexity_of_stacks_in_several_leaves():
    loss = lambda p: jnp.sum(p["a"] ** 2) + 2 * p["b"] ** 2
    rng = np.random.default_rng(0)
    points = {"a": jnp.array(rng.normal(size=(2, 3, 2))), "b": jnp.array(rng.normal(size=(2, 3)))}
    target = {"a": jnp.array([0.5, 0.0]), "b": jnp.array(-1.0)}
    found = one_point_convexity(loss, points, target)
    a, b = (np.asarray(points[name]) for name in "ab")
    way = np.concatenate([np.array([0.5, 0]) - a, (-1 - b)[..., None]], -1)
    slope = np.concatenate([2 * a, 4 * b[..., None]], -1)
    along, square = -(slope * way).sum(-1), (way**2).sum(-1)
    np.testing.assert_allclose(found.constant, along / square, rtol=1e-12)
    np.testing.assert_allclose(found.cosine, along / np.sqrt(square * (slope**2).sum(-1)), rtol=1e-12)
    at_target = one_point_convexity(loss, jax.tree.map(lambda x: x[None], target), target)
    assert jnp.isnan(at_target.constant).all()
    assert at_target.distance == 0


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: smoothed(wavy, 0.1), ValueError, "One of batch_size and covariance must be given"),
        (lambda: smoothed(wavy, 0.1, 2, covariance=1.0), ValueError, "One of batch_size and covariance"),
        (lambda: smoothed(wavy, 0.1, 2), TypeError, "need an Objective"),
        (lambda: smoothed(wavy, -0.1, covariance=1.0), ValueError, "learning_rate must be"),
        (lambda: smoothed(wavy, 0.1, covariance=-1.0), ValueError, "covariance must be"),
        (lambda: smoothed(wavy, 0.1, covariance=1.0, draws=0), ValueError, "draws must be"),
        (lambda: smoothed(wavy, 0.1, covariance=1.0, draws=2, nodes=3), ValueError, "nodes must be None"),
        (lambda: smoothed(wavy, 0.1, covariance=jnp.ones(2))(0.0), ValueError, "covariance must have shape"),
        (lambda: smoothed(jnp.sum, 0.1, covariance=1.0, nodes=9)(jnp.ones(6)), ValueError, "at most 10,000"),
        (lambda: one_point_convexity(wavy, 1.0, 0.0), ValueError, "points must be stacks"),
        (
            lambda: one_point_convexity(wavy, jnp.ones((2, 3)), jnp.ones(2)),
            ValueError,
            "points must be stacks",
        ),
    ],
)
def test_bad_arguments_are_refused(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
