"""Minimising movements against their closed form, a general minimiser, and the equation that they tend to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.optimize
import scipy.special

from jaxflow.density import bures, gaussian_jko, jko

H, T = 2.0, 0.5
N = 120
NORMAL = scipy.special.ndtri((np.arange(N) + 0.5) / N)


def bowl(x, h=H):
    return h * x**2 / 2


def double_well(x):
    return (x**2 - 1) ** 2


def closed_form(mean, s, tau, steps, h=H, temperature=T):
    """One dimension, by the formula of the literature."""
    found = [(mean, s)]
    for _ in range(steps):
        mean, s = found[-1]
        root = np.sqrt(s**2 + 4 * tau * temperature * (1 + tau * h))
        found.append((mean / (1 + tau * h), (s + root) / (2 * (1 + tau * h))))
    return np.array(found).T


@pytest.fixture(scope="module")
def shape():
    """The law at rest in a bowl, in n quantiles, with variance 1: what stands for a Gaussian there."""
    path = jko(bowl, jnp.array(NORMAL), temperature=T, step_size=1e3, steps=8)
    np.testing.assert_allclose(path.quantiles[-1].var(), T / H, rtol=1e-12)
    rest = np.asarray(path.quantiles[-1]) / np.sqrt(T / H)
    assert np.sqrt(np.mean((rest - NORMAL) ** 2)) < 1 / N
    return rest


@pytest.mark.parametrize("tau", [0.05, 1.0, 20.0])
def test_both_ways_follow_the_closed_form_on_a_line(shape, tau):
    mean, s, steps = 0.7, 0.3, 8
    means, spreads = closed_form(mean, s, tau, steps)
    path = jko(bowl, jnp.array(mean + s * shape), temperature=T, step_size=tau, steps=steps)
    np.testing.assert_allclose(path.quantiles, means[:, None] + spreads[:, None] * shape[None], atol=1e-12)
    np.testing.assert_allclose(path.times, tau * np.arange(steps + 1))
    gaussian = gaussian_jko(
        H * np.eye(1), np.array([mean]), s**2 * np.eye(1), temperature=T, step_size=tau, steps=steps
    )
    np.testing.assert_allclose(np.asarray(gaussian.means)[:, 0], means, atol=1e-14)
    np.testing.assert_allclose(np.asarray(gaussian.covariances)[:, 0, 0], spreads**2, rtol=1e-13)
    np.testing.assert_allclose(path.moved, np.hypot(np.diff(means), np.diff(spreads)), atol=1e-12)


def two_dimensions(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 2)), rng.normal(size=(2, 2))
    return a @ a.T + 0.3 * np.eye(2), rng.normal(size=2), b @ b.T + 0.1 * np.eye(2)


@jax.jit
@jax.value_and_grad
def value_of_step(x, hessian, mean, covariance, tau):
    factor = jnp.array([[jnp.exp(x[2]), 0], [x[3], jnp.exp(x[4])]])
    new = factor @ factor.T
    energy = 0.5 * x[:2] @ hessian @ x[:2] + 0.5 * jnp.trace(hessian @ new) - T * (x[2] + x[4])
    return bures(x[:2], new, mean, covariance) ** 2 / (2 * tau) + energy


@pytest.mark.parametrize("seed", [0, 1])
def test_a_step_that_does_not_commute_minimises(seed):
    """Against a general minimiser over means and Cholesky factors."""
    hessian, mean, covariance = two_dimensions(seed)
    tau = 0.4
    path = gaussian_jko(*map(jnp.array, (hessian, mean, covariance)), temperature=T, step_size=tau, steps=1)

    start = np.array([*mean + 0.1, 0.0, 0.1, 0.0])
    found = scipy.optimize.minimize(
        value_of_step, start, (hessian, mean, covariance, tau), jac=True, options={"gtol": 1e-9}
    ).x
    factor = np.array([[np.exp(found[2]), 0], [found[3], np.exp(found[4])]])
    np.testing.assert_allclose(path.means[1], found[:2], atol=1e-7)
    np.testing.assert_allclose(path.covariances[1], factor @ factor.T, atol=1e-7)


def test_steps_of_gaussians_tend_to_the_ornstein_uhlenbeck_law_at_first_order():
    hessian, mean, covariance = two_dimensions(2)
    decay, rest = scipy.linalg.expm(-hessian), T * np.linalg.inv(hessian)
    law = jnp.array(decay @ mean), jnp.array(decay @ (covariance - rest) @ decay + rest)
    errors = []
    for steps in (64, 128, 256):
        path = gaussian_jko(
            *map(jnp.array, (hessian, mean, covariance)), temperature=T, step_size=1 / steps, steps=steps
        )
        errors.append(bures(np.asarray(path.means)[-1], np.asarray(path.covariances)[-1], *law))
    slopes = np.log2(np.array(errors)[:-1] / np.array(errors)[1:])
    assert (abs(slopes - 1) < 0.05).all(), slopes


def test_the_law_at_rest_is_a_fixed_point_and_singular_laws_move():
    hessian, _, _ = two_dimensions(3)
    rest = jnp.array(T * np.linalg.inv(hessian))
    run = lambda covariance, tau: (
        gaussian_jko(
            jnp.array(hessian), jnp.zeros(2), covariance, temperature=T, step_size=tau, steps=3
        ).covariances
    )
    for tau in (0.01, 1.0, 100.0):
        np.testing.assert_allclose(run(rest, tau), np.broadcast_to(rest, (4, 2, 2)), rtol=1e-11)
    # From a point: w² = c, so S' = τ T A⁻¹.
    expected = 0.1 * T * np.linalg.inv(np.eye(2) + 0.1 * hessian)
    np.testing.assert_allclose(run(jnp.zeros((2, 2)), 0.1)[1], expected, rtol=1e-12)


def test_quantiles_tend_to_the_flow_of_their_free_energy_at_first_order():
    """A double well, against SciPy's solver of the same quantiles' gradient flow."""
    n, temperature = 40, 0.15
    start = -1 + 0.3 * scipy.special.ndtri((np.arange(n) + 0.5) / n)

    def velocity(t, x):
        pull = temperature * n / (n - 1) / np.diff(x)
        return -4 * x * (x**2 - 1) - np.diff(pull, prepend=0, append=0)

    flow = scipy.integrate.solve_ivp(velocity, (0, 0.5), start, method="Radau", rtol=1e-9, atol=1e-11)
    errors = []
    for steps in (64, 128):
        path = jko(double_well, jnp.array(start), temperature=temperature, step_size=0.5 / steps, steps=steps)
        path = jax.device_get(path)
        errors.append(np.sqrt(np.mean((path.quantiles[-1] - flow.y[:, -1]) ** 2)))
        # The dissipation that every step pays for.
        paid = path.free_energy[1:] + path.moved**2 / (2 * path.times[1]) - path.free_energy[:-1]
        assert paid.max() < 1e-12
        assert path.error.max() < 1e-10
    assert abs(np.log2(errors[0] / errors[1]) - 1) < 0.05


def test_slopes_through_the_steps_and_stacks_of_temperatures():
    start = 0.5 * np.asarray(NORMAL)[::4, None]
    loss = lambda x: bowl(x[0])
    spread = jax.jit(lambda t: jko(loss, start, temperature=t, step_size=0.1, steps=3).quantiles[-1].std())
    step = 1e-5
    quotient = (spread(T + step) - spread(T - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(spread))(T), quotient, rtol=1e-7)
    stack = jax.vmap(spread)(np.array([0.1, 1.0]))
    np.testing.assert_allclose(stack, [spread(0.1), spread(1.0)], rtol=1e-10)
    variance = lambda t: gaussian_jko(
        jnp.eye(2), jnp.zeros(2), jnp.eye(2), temperature=t, step_size=0.1, steps=3
    ).covariances[-1, 0, 0]
    quotient = (variance(T + step) - variance(T - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(variance)(T), quotient, rtol=1e-7)  # of a repeated eigenvalue


ONE = jnp.ones(1)
GOOD = {"temperature": 0.5, "step_size": 0.1, "steps": 2}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: jko(bowl, jnp.ones(3), **GOOD), "quantiles must increase, got 1 after"),
        (lambda: jko(bowl, jnp.ones((3, 2)), **GOOD), "quantiles must have shape"),
        (lambda: jko(bowl, jnp.arange(3.0), **GOOD | {"temperature": -1}), "temperature must be"),
        (lambda: jko(bowl, jnp.arange(3.0), **GOOD | {"step_size": 0.0}), "step_size must be"),
        (lambda: jko(bowl, jnp.arange(3.0), **GOOD | {"steps": 0}), "steps must be"),
        (
            lambda: gaussian_jko(-20 * jnp.eye(1), ONE, jnp.eye(1), **GOOD),
            "eigenvalues above −1/step_size, -10",
        ),
        (lambda: gaussian_jko(jnp.eye(2), ONE, jnp.eye(1), **GOOD), "hessian must have shape"),
        (
            lambda: gaussian_jko(jnp.eye(1), ONE, -jnp.eye(1), **GOOD),
            "covariance must be positive semidefinite",
        ),
    ],
)
def test_bad_arguments_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_potential_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match="potential must be"):
        jko(3.0, jnp.arange(3.0), **GOOD)
