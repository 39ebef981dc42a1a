"""Central flows while the learning rate rises past the edge: against equations of their own, and against iterates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import jaxflow as jf
from jaxflow.dynamics import StableState, central_flow, flow_state, optimizer_state, stable_flow

pytestmark = pytest.mark.promotes
PULL, TOP, LENGTH, DECAY = 0.05, 27.2, 300, 0.99
INFLOW = (1 - DECAY) / DECAY


def toy(p):
    """x oscillates in the curvature y, which z draws up."""
    return 0.5 * p[1] * p[0] ** 2 + 0.5 * PULL * (p[1] - p[2]) ** 2 + 0.5 * PULL * (p[2] - TOP) ** 2


# For each method: the optimizer, learning rates from and to, y and z at the start, ν at the start.
METHODS = {
    "gd": (jf.optim.gd, (0.08, 0.1), (25.0, 27.0), ()),
    "rmsprop": (
        partial(jf.optim.rmsprop, decay=DECAY, eps=0.0),
        (0.01, 0.02),
        (20.0, 26.0),
        (0.01, 0.09, 0.005),
    ),
    "scalar": (partial(jf.optim.scalar_rmsprop, decay=DECAY, eps=0.0), (0.03, 0.06), (20.0, 26.0), (0.09,)),
}


def rate_and_change(k, low, high):
    return low + (high - low) * min(k / LENGTH, 1.0), (high - low) / LENGTH * (k < LENGTH)


def swing(name, rates, k, state):
    """The mean x² that keeps y·η/√ν at 2, with the terms of dη/dk and of dν/dk in it."""
    y, z, *nu = state
    eta, change = rate_and_change(k, *rates)
    if name == "gd":
        return max(0.0, 4 * change / eta**3 + 2 * PULL * (z - y))
    slow = PULL**2 * ((y - z) ** 2 + (TOP - 2 * z + y) ** 2) if name == "scalar" else 0.0
    step = eta / np.sqrt(nu[0] if name == "scalar" else nu[1])
    over = INFLOW * (1 - slow / nu[0]) + 2 * change / eta + 2 * step * PULL * (z - y) / y
    return max(0.0, over / (INFLOW * y**2 / nu[0] + step / y))


def velocity(name, rates, k, state):
    """The central flow of the toy on the clock of steps, written out."""
    y, z, *nu = state
    eta, _ = rate_and_change(k, *rates)
    x2, slope = swing(name, rates, k, state), (PULL * (y - z), PULL * (2 * z - y - TOP))
    squares = np.array([y**2 * x2, slope[0] ** 2, slope[1] ** 2])
    over = {"gd": np.ones(2), "rmsprop": np.sqrt(nu[1:]), "scalar": np.sqrt(nu)}[name]
    pooled = {"gd": squares[:0], "rmsprop": squares, "scalar": squares.sum(keepdims=True)}[name]
    return [*(-eta * np.array([slope[0] + x2 / 2, slope[1]]) / over), *(INFLOW * (pooled - nu))]


def reference(name):
    """y, z, ν and x² at every step, in two solves: through the rise, and after it."""
    _, rates, start, nu = METHODS[name]
    steps, state, found = np.arange(2.0 * LENGTH + 1), [*start, *nu], []
    for part in (steps[: LENGTH + 1], steps[LENGTH:]):
        solved = solve_ivp(
            partial(velocity, name, rates), part[[0, -1]], state, t_eval=part, rtol=1e-8, atol=1e-11
        )
        state = solved.y[:, -1]
        found.append(solved.y[:, :-1])
    path = np.concatenate([*found, state[:, None]], axis=1).T
    return path, np.array([swing(name, rates, *pair) for pair in zip(steps, path, strict=True)])


@pytest.mark.parametrize("name", METHODS)
def test_a_warm_up_past_the_edge(name):
    """x², y and z against the equations; mean loss and |∇L|² of the iterates, in the rise and after it."""
    make, (low, high), start, nu = METHODS[name]
    expected, squares = reference(name)
    optimizer = make(jf.optim.warmup(high, float(LENGTH), low))
    moment = jnp.array(nu) if name == "rmsprop" else jnp.asarray(sum(nu))
    state = StableState(jnp.array([0.0, *start]), moment, jnp.zeros(()))
    calm = jf.integrate(stable_flow(optimizer, toy), state.params, [0.0, 1e-14], state=state)
    swinging = state._replace(params=jnp.array([squares[0] ** 0.5, *start]))
    begin = jf.solve.begin(optimizer_state(optimizer, toy, swinging))
    run = jf.iterate(optimizer, toy, swinging.params, steps=2 * LENGTH, state=begin)
    flow = central_flow(optimizer, toy, modes=1)
    path = jf.integrate(flow, state.params, run.times, state=flow_state(flow, calm))
    np.testing.assert_allclose(path.values[:, 1:], expected[:, :2], rtol=5e-4)
    found = np.asarray(path.observed.covariance)[:, 0, 0] * 2 / np.asarray(path.values)[:, 1]
    inner = np.setdiff1d(np.arange(50, 2 * LENGTH), [LENGTH])  # where the rise ends x² jumps
    np.testing.assert_allclose(found[inner], squares[inner], rtol=0.01)
    loss = np.asarray(jax.vmap(toy)(run.values))
    slopes = np.asarray(jax.vmap(lambda p: jnp.sum(jax.grad(toy)(p) ** 2))(run.values))
    for part in (slice(10, LENGTH), slice(LENGTH, 2 * LENGTH)):
        assert path.observed.loss[part].mean() == pytest.approx(loss[part].mean(), rel=0.02)
        assert path.observed.squared_gradient[part].mean() == pytest.approx(slopes[part].mean(), rel=0.02)
