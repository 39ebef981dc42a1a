"""Underdamped Langevin dynamics: its stationary law, and what BAOAB is known to keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import expm, solve_discrete_lyapunov

import jaxflow as jf
from jaxflow.dynamics import underdamped_langevin
from jaxflow.dynamics.diffusions.underdamped import LangevinState

CURVATURE, TEMPERATURE, FRICTION, MASS = 1.7, 0.6, 0.8, 0.5
QUADRATIC = underdamped_langevin(
    lambda x: 0.5 * CURVATURE * x[0] ** 2, TEMPERATURE, friction=FRICTION, mass=MASS
)


@jax.jit
def stepped(dt):
    """The matrices of a step of (θ, u): the slope in the state is CURVATURE θ."""

    def step(z, xi):
        state = QUADRATIC.step(0.0, LangevinState(z[:1], z[1:], CURVATURE * z[:1]), dt, xi)
        return jnp.concatenate([state.params, state.velocity])

    z, xi = jnp.zeros(2), jnp.zeros(1)
    return jax.jacfwd(step, 0)(z, xi), jax.jacfwd(step, 1)(z, xi)


@pytest.mark.parametrize("dt", [0.01, 0.3, 1.0])  # stable below 1.08
def test_position_variance_is_exact_at_any_step(dt):
    step, noise = map(np.asarray, stepped(dt))
    covariance = solve_discrete_lyapunov(step, noise @ noise.T)
    assert covariance[0, 0] == pytest.approx(TEMPERATURE / CURVATURE, rel=1e-9)
    assert covariance[0, 1] == pytest.approx(0, abs=1e-9)


def test_second_order_on_the_way_to_it():
    drift = np.array([[0, 1], [-CURVATURE / MASS, -FRICTION / MASS]])
    noise = np.diag([0, 2 * FRICTION * TEMPERATURE / MASS**2])
    final = np.diag([TEMPERATURE / CURVATURE, TEMPERATURE / MASS])
    np.testing.assert_allclose(drift @ final + final @ drift.T, -noise, atol=1e-15)
    flow = expm(drift)
    exact = flow @ np.diag([1.0, 0]) @ flow.T + final - flow @ final @ flow.T  # E zzᵀ at t = 1 from θ = 1
    errors = []
    for n in (16, 32):
        step, push = map(np.asarray, stepped(1 / n))
        second = np.diag([1.0, 0])
        for _ in range(n):
            second = step @ second @ step.T + push @ push.T
        errors.append(abs(second - exact))
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), 2, atol=0.1)


def potential(x):
    return 0.25 * x[0] ** 4 - 0.5 * x[0] ** 2 + 0.3 * x[0]


@functools.partial(jax.jit, static_argnums=0)
def expectation(n):
    """E θ² and E cos θ at t = 0.5 after n steps, the normal numbers replaced by 3 points, exact to degree 5."""
    dynamics = underdamped_langevin(potential, 0.5)
    nodes, weights = np.array([-np.sqrt(3), 0, np.sqrt(3)]), np.array([1 / 6, 2 / 3, 1 / 6])
    grid = np.stack(np.meshgrid(*[range(3)] * n, indexing="ij"), -1).reshape(-1, n)
    step = lambda state, xi: (dynamics.step(0.0, state, jnp.asarray(0.5 / n), xi[None]), None)
    end = lambda xi: jax.lax.scan(step, dynamics.init(jnp.full(1, 1.5)), xi)[0].params[0]
    theta = jax.vmap(end)(jnp.asarray(nodes[grid]))
    return jnp.asarray(weights[grid].prod(-1)) @ jnp.stack([theta**2, jnp.cos(theta)], 1)


def test_weak_order_two_in_a_double_well():
    coarse, middle, fine = (np.asarray(expectation(n)) for n in (2, 4, 8))
    np.testing.assert_allclose(np.log2((middle - coarse) / (fine - middle)), 2, atol=0.15)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_samples_the_gibbs_law_of_a_double_well(seed):
    temperature, paths = 0.5, 10_000
    weight = lambda x: np.exp(-float(potential(np.array([x]))) / temperature)
    moment = lambda k: quad(lambda x: x**k * weight(x), -6, 6)[0]
    mean, square = moment(1) / moment(0), moment(2) / moment(0)
    keys = jax.random.split(jax.random.key(seed), paths)
    x = np.asarray(_double_well(keys))
    # Two means at 4 standard errors: a false alarm in 8,000 runs. What is left of the start is below e⁻⁷.
    for sample, exact in ((x, mean), (x**2, square)):
        assert abs(sample.mean() - exact) < 4 * sample.std() / np.sqrt(paths) + 1e-3


@jax.jit
def _double_well(keys):
    dynamics, times = underdamped_langevin(potential, 0.5), jnp.array([0.0, 20.0])
    run = lambda key: jf.integrate(dynamics, jnp.zeros(1), times, key=key, substeps=160).params[0]
    return jax.vmap(run)(keys)


def test_annealing_and_inputs():
    cooled = underdamped_langevin(potential, lambda t: 2.0 - t)
    state, xi = cooled.init(jnp.ones(1)), jnp.ones(1)
    np.testing.assert_allclose(cooled.diffusion(1.5, state, xi).velocity, [1.0])
    assert cooled.additive
    np.testing.assert_allclose(state.slope, jax.grad(potential)(jnp.ones(1)))
    conservative = underdamped_langevin(potential, 1.0, friction=0.0).step(0.0, state, 0.1, xi)
    energy = lambda z: potential(z.params) + 0.5 * z.velocity[0] ** 2
    np.testing.assert_allclose(energy(conservative), energy(state), atol=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: underdamped_langevin(3.0, 1.0), TypeError, "objective must be"),
        (lambda: underdamped_langevin(potential, -1.0), ValueError, "temperature must be"),
        (lambda: underdamped_langevin(potential, 1.0, friction=-1.0), ValueError, "friction must be"),
        (lambda: underdamped_langevin(potential, 1.0, mass=0.0), ValueError, "mass must be"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
