"""The flow of particles against the law of the Ornstein–Uhlenbeck process, which it follows up to its bandwidth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

import jaxflow as jf
from jaxflow.density import particle_flow

pytestmark = pytest.mark.promotes  # integrate uses diffrax

H, T = jnp.array([1.0, 3.0]), 0.5
TIMES = jnp.array([0.0, 0.25, 1.0, 4.0])


def bowl(x):
    return 0.5 * jnp.sum(H.reshape((1,) * (x.ndim - 1) + (2,)) * x**2)


def line(x):
    return 0.5 * jnp.sum(x**2)


def quantiles(n, mean=1.5, spread=0.4):
    return jnp.array(mean + spread * scipy.special.ndtri((np.arange(n) + 0.5) / n))


def law_with_bandwidth(variance, b, h=1.0):
    """The variance in the limit of many particles, by SciPy."""
    right = lambda t, v: -2 * h * v + 2 * T * v / (v + b**2)
    return scipy.integrate.solve_ivp(right, (0, 4), [variance], t_eval=TIMES, rtol=1e-9, atol=1e-12).y[0]


@pytest.fixture(scope="module")
def runs():
    """Several bandwidths in one program."""
    start = quantiles(400)
    run = lambda b: jf.integrate(particle_flow(line, T, b), start, TIMES)
    return np.asarray(jax.vmap(run)(np.array([0.4, 0.2, 0.1])).values)


def test_mean_and_variance_follow_their_law_with_its_bandwidth(runs):
    for values, b in zip(runs, (0.4, 0.2, 0.1), strict=True):
        np.testing.assert_allclose(values.mean(-1), 1.5 * np.exp(-TIMES), atol=2e-4)
        np.testing.assert_allclose(
            values.var(-1), law_with_bandwidth(values[0].var(), b), rtol=1.2 / (400 * b)
        )


def test_the_error_of_the_bandwidth_falls_as_its_square(runs):
    """Against the law without a bandwidth: T (1 − e^{−2t}) + s₀² e^{−2t}."""
    exact = T + (runs[0, 0].var() - T) * np.exp(-2 * TIMES)
    errors = np.abs(runs.var(-1) - exact[None])[:, 1:]
    slopes = np.log2(errors[:-1] / errors[1:])
    # The second is spoilt by the granularity of 400 particles, 1/(n b), that the test above bounds.
    assert ((slopes[0] > 1.5) & (slopes[0] < 2.1) & (slopes[1] > 1)).all(), slopes
    assert (errors[2] / exact[1:] < 0.05).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_two_dimensions_by_the_rule_and_langevin(seed):
    """Silverman's b = s n^{-1/6} in two dimensions: stationary variance T/h − b², b² = s̄² n^{-1/3}.

    The law with many particles is a pair of equations; 500 particles are within 12 % of it. Langevin's paths have
    its law without bandwidth, within 4 standard errors of a variance, √(2/500); false alarms 1.3e-4 a seed.
    """
    n = 500
    start = np.array([1.0, -1.0]) + 0.3 * np.asarray(jax.random.normal(jax.random.key(seed), (n, 2)))
    end = np.asarray(jf.integrate(particle_flow(bowl, T), start, TIMES[::3]).params)
    h = np.asarray(H)

    def right(t, v):
        return -2 * h * v + 2 * T * v / (v + v.mean() * n ** (-1 / 3))

    law = scipy.integrate.solve_ivp(right, (0, 4), start.var(0), rtol=1e-8).y[:, -1]
    np.testing.assert_allclose(end.var(0), law, rtol=0.12)
    np.testing.assert_allclose(end.mean(0), start.mean(0) * np.exp(-4 * h), atol=0.02)
    assert (law < T / h).all()
    cloud = jf.integrate(
        jf.dynamics.langevin(bowl, T), start, TIMES[::3], step_size=0.01, key=jax.random.key(seed)
    )
    np.testing.assert_allclose(np.var(cloud.params, 0), T / h, rtol=4 * (2 / n) ** 0.5 + 0.02)


def test_no_temperature_is_gradient_flow_and_one_point_stays_one():
    start = quantiles(20)[:, None]
    flow = particle_flow(lambda x: jnp.sum(x**4), 0.0)
    drift = jax.jit(lambda flow, x: flow.drift(0.0, x))
    np.testing.assert_allclose(drift(flow, start), -4 * start**3, rtol=1e-12)
    same = drift(particle_flow(line, T), np.ones((5, 2)))
    np.testing.assert_allclose(same, -np.ones((5, 2)), rtol=1e-12)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="objective must be"):
        particle_flow(3.0, 1.0)
    with pytest.raises(ValueError, match="temperature must be"):
        particle_flow(line, -1.0)
    with pytest.raises(ValueError, match="bandwidth must be"):
        particle_flow(line, 1.0, 0.0)
    with pytest.raises(ValueError, match="share a leading axis n, got the shapes"):
        particle_flow(line, 1.0).drift(0.0, {"a": jnp.ones(3), "b": jnp.ones((2, 2))})
