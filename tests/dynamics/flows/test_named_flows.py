"""The textbook equations of optimizers: closed forms, a second implementation in NumPy, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import j1
from surface import START, TIGHT, loss, quadratic, slope

import jaxflow as jf
from jaxflow import dynamics, optim
from jaxflow.dynamics import AdagradState, AdamState, InertialState, RMSPropState, limit_of
from jaxflow.dynamics.flows.hessian_flows import principal_rates

pytestmark = pytest.mark.promotes
TIMES = np.array([0.0, 0.4, 1.3])


# --- Closed forms ---


def test_heavy_ball_is_the_damped_oscillator():
    f, m, lam = 0.4, 0.5, np.array([0.7, 2.0])
    path = jf.integrate(dynamics.heavy_ball(quadratic, f, m), START, TIMES, **TIGHT)
    r, w = f / (2 * m), np.sqrt(lam / m - (f / (2 * m)) ** 2)
    t = TIMES[:, None]
    exact = np.asarray(START) * np.exp(-r * t) * (np.cos(w * t) + r / w * np.sin(w * t))
    np.testing.assert_allclose(path.values, exact, atol=1e-9)


def test_nesterov_is_a_bessel_function():
    path = jf.integrate(dynamics.nesterov(quadratic), START, TIMES, **TIGHT)
    z = TIMES[1:, None] * np.sqrt([0.7, 2.0])
    np.testing.assert_allclose(np.asarray(path.values)[1:], 2 * np.asarray(START) * j1(z) / z, atol=1e-8)


def test_nesterov_begins_without_a_singularity():
    begin = lambda r, t: dynamics.nesterov(loss, r).drift(t, InertialState(START, 0 * START)).velocity
    np.testing.assert_allclose(jax.jit(begin)(2.0, 0.0), -slope(START) / 3, rtol=1e-14)
    by_damping, by_time = jax.jit(jax.jacrev(begin, (0, 1)))(2.0, 0.0)
    np.testing.assert_allclose(by_damping, slope(START) / 9, rtol=1e-14)
    np.testing.assert_array_equal(by_time, 0.0)


def test_newtons_gradient_decays_alike_in_every_direction():
    path = jf.integrate(dynamics.newton_flow(loss), START, TIMES, **TIGHT)
    gradients = np.array([slope(x) for x in np.asarray(path.values)])
    np.testing.assert_allclose(gradients, np.exp(-TIMES)[:, None] * slope(START), atol=1e-8)


def test_newtons_damping_is_the_optimizers():
    step = np.subtract(jf.iterate(optim.newton(0.1, 0.5), loss, START, steps=1).params, START)
    velocity = jax.jit(lambda flow: flow.drift(0.0, START))(dynamics.newton_flow(loss, 0.5))
    np.testing.assert_allclose(0.1 * np.asarray(velocity), step, rtol=1e-12)


def test_the_principal_flow_goes_through_the_iterates_on_both_sides_of_the_edge():
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    hessian = jnp.asarray(basis @ np.diag([-0.3, 0.0, 0.5, 1.5, 2.5]) @ basis.T)
    bowl = lambda p: 0.5 * jnp.concatenate(p) @ hessian @ jnp.concatenate(p)
    start = (jnp.array([1.0, -2.0]), jnp.array([0.5, 1.0, -1.0]))
    run = jf.iterate(optim.gd(1.0), bowl, start, steps=4)
    path = jf.integrate(dynamics.principal_flow(bowl, 1.0), start, run.times, **TIGHT)
    for flow, iterates in zip(path.values, run.values, strict=True):
        np.testing.assert_allclose(flow, iterates, atol=1e-7)
    np.testing.assert_allclose(np.concatenate(path.state.imaginary), 0, atol=1e-7)


def test_rates_of_the_principal_flow():
    z = np.array([0.0, 1e-9, -1e-5, 1.2e-4, 1.3e-4, -0.7, 0.4999, 0.5, 0.999, 1.5, 2.0, -30.0])
    real, turn = jax.jit(principal_rates)(z)
    safe = np.where(z == 0, 1, z)
    exact = np.where(
        z == 0, -1, np.where(z < 1, np.log1p(-np.minimum(z, 0.999)), np.log(np.abs(1 - z))) / safe
    )
    np.testing.assert_allclose(real, exact, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(turn, np.where(z > 1, np.pi, 0) / safe)
    derivative = np.asarray(jax.jit(jax.vmap(jax.grad(lambda z: principal_rates(z)[0])))(z))
    np.testing.assert_allclose(derivative[0], -0.5)
    assert np.isfinite(derivative).all()


def test_sign_descent_moves_at_unit_speed():
    path = jf.integrate(dynamics.sign_descent(quadratic), START, jnp.array([0.0, 0.3, 0.7]), **TIGHT)
    np.testing.assert_allclose(path.values, [[1, -0.8], [0.7, -0.5], [0.3, -0.1]], atol=1e-9)


def test_drifts_in_terms_of_gradient_and_hessian():
    h, b = 0.1, 0.8
    g, curved = slope(START), np.asarray(jax.jit(jax.hessian(loss))(START)) @ slope(START)
    settled = lambda c: -g / (1 - b) - h * c / (2 * (1 - b) ** 3) * curved
    for flow, exact in [
        (dynamics.implicit_gradient_regularization(loss, h), -g - h / 2 * curved),
        (dynamics.momentum_loss_flow(loss, h, b), settled(1 + b)),
        (dynamics.momentum_loss_flow(loss, h, b, nesterov=True), settled(1 - b + 2 * b * b)),
    ]:
        np.testing.assert_allclose(jax.jit(flow.drift)(0.0, START), exact, rtol=1e-12)
        assert flow.time_step == h


# --- A second implementation ---


def _root(v, eps, in_sqrt):
    return np.sqrt(v + eps) if in_sqrt else np.sqrt(v) + eps


def _adagrad(h, eps, t, y, in_sqrt=False):
    x, r = y[:2], y[2:]
    g = slope(x)
    return [*(-g / _root(r, eps, in_sqrt)), *(g * g / h)]


def _rmsprop(h, decay, eps, t, y, in_sqrt=False):
    x, v = y[:2], y[2:]
    g = slope(x)
    rate = 2 * (1 - decay) / (1 + decay) / h
    return [*(-g / _root(v, eps, in_sqrt)), *(rate * (g * g - v))]


def _adam(h, b1, b2, eps, k, t, y):
    x, m, v = y[:2], y[2:4], y[4:]
    g, rates = slope(x), [2 * (1 - b) / (1 + b) / h for b in (b1, b2)]
    first, second = (rate / -np.expm1(-rate * (t + (k + 0.5) * h)) for rate in rates)
    return [*(-m / (np.sqrt(v) + eps)), *(first * (g - m)), *(second * (g * g - v))]


V, M = jnp.array([3.0, 2.0]), jnp.array([0.5, -0.2])


@pytest.mark.parametrize(
    ("flow", "state", "field"),
    [
        (
            dynamics.adagrad(loss, 0.1, 1e-3),
            AdagradState(START, 20 * V),
            functools.partial(_adagrad, 0.1, 1e-3),
        ),
        (
            dynamics.adagrad(loss, 0.1, 0.3, eps_in_sqrt=True),
            AdagradState(START, V),
            functools.partial(_adagrad, 0.1, 0.3, in_sqrt=True),
        ),
        (
            dynamics.rmsprop(loss, 0.1, decay=0.9, eps=1e-3),
            RMSPropState(START, V),
            functools.partial(_rmsprop, 0.1, 0.9, 1e-3),
        ),
        (
            dynamics.rmsprop(loss, 0.1, decay=0.9, eps=0.3, eps_in_sqrt=True),
            RMSPropState(START, V),
            functools.partial(_rmsprop, 0.1, 0.9, 0.3, in_sqrt=True),
        ),
        (
            dynamics.adam(loss, 0.1, b1=0.8, b2=0.9, eps=1e-3),
            AdamState(START, M, V, jnp.asarray(3.0)),
            functools.partial(_adam, 0.1, 0.8, 0.9, 1e-3, 3),
        ),
    ],
    ids=["adagrad", "adagrad in sqrt", "rmsprop", "rmsprop in sqrt", "adam"],
)
def test_adaptive_methods_against_numpy(flow, state, field):
    numbers = np.concatenate([x for x in state if x.ndim])
    exact = solve_ivp(field, (0, 1), numbers, rtol=1e-11, atol=1e-13).y[:, -1]
    final = jf.integrate(flow, START, jnp.array([0.0, 1.0]), state=state, **TIGHT).state
    np.testing.assert_allclose(np.concatenate([x for x in final if x.ndim]), exact, atol=1e-8)
    assert flow.diffusion is None
    assert flow.brownian is None
    assert flow.step is None
    assert flow.time_step == pytest.approx(0.1)


def test_a_cold_start_of_adagrad_is_regular():
    """It takes the optimizer's first step, η a coordinate, where the bare equation has an infinite velocity."""
    flow = dynamics.adagrad(loss, 0.01)
    velocity = jax.jit(lambda: flow.drift(0.0, flow.init(START)).params)()
    np.testing.assert_allclose(velocity, -np.sign(slope(START)), rtol=1e-6)


# --- As arguments, and what is refused ---


def test_hyperparameters_share_a_compilation_and_stack():
    count = []

    @jax.jit
    def velocity(flow):
        count.append(1)
        return jax.tree.leaves(flow.drift(0.1, flow.init(START)))

    makers = [
        lambda x: dynamics.heavy_ball(loss, x, 2 * x),
        lambda x: dynamics.nesterov(loss, x),
        lambda x: dynamics.adagrad(loss, x, x, initial_accumulator=x),
        lambda x: dynamics.rmsprop(loss, x, decay=x, eps=x),
        lambda x: dynamics.adam(loss, x, b1=x, b2=x, eps=x),
        lambda x: dynamics.newton_flow(loss, x),
        lambda x: dynamics.implicit_gradient_regularization(loss, x),
        lambda x: dynamics.momentum_loss_flow(loss, x, x),
        lambda x: dynamics.principal_flow(loss, x),
        lambda x: limit_of(optim.momentum(x, x), loss),
    ]
    for make in makers:
        for x in (0.1, 0.2):
            assert all(np.isfinite(leaf).all() for leaf in velocity(make(x)))
    assert len(count) == len(makers) - 1  # the last is the first
    stack = jax.vmap(lambda x: dynamics.heavy_ball(loss, x, x).drift(0.0, InertialState(START, START)))
    assert jax.jit(stack)(np.array([0.1, 0.2])).velocity.shape == (2, 2)


def test_single_and_half_precision_stay():
    for flow in (
        dynamics.heavy_ball(loss, 0.1, 0.2),
        dynamics.nesterov(loss),
        dynamics.adagrad(loss, 0.1),
        dynamics.newton_flow(loss, 0.1),
        dynamics.momentum_loss_flow(loss, 0.1),
        dynamics.principal_flow(loss, 0.1),
    ):
        for dtype in (jnp.float32, jnp.bfloat16):
            state = flow.init(START.astype(dtype))
            velocity = jax.jit(flow.drift)(jnp.float32(0.1), state)
            assert flow.params(velocity).dtype == dtype
            assert [x.dtype for x in jax.tree.leaves(velocity)] == [x.dtype for x in jax.tree.leaves(state)]


def test_adaptive_defaults_are_the_optimizers():
    """A limit without named hyperparameters is that of the optimizer without them."""
    assert repr(limit_of(optim.adagrad(0.1), loss)) == repr(dynamics.adagrad(loss, 0.1))
    assert repr(limit_of(optim.adam(0.1), loss)) == repr(dynamics.adam(loss, 0.1))
    assert repr(limit_of(optim.rmsprop(0.1), loss)) == repr(dynamics.rmsprop(loss, 0.1))
    assert repr(limit_of(optim.newton(), loss)) == repr(dynamics.newton_flow(loss))
    assert repr(limit_of(optim.gd(optim.inverse_sqrt(0.1)), loss)) == repr(dynamics.gradient_flow(loss))


ROTATION = jf.VectorField(lambda z: jnp.array([-z[1], z[0]]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dynamics.heavy_ball(loss, -1, 1), ValueError, "friction must be .* at least 0, got -1"),
        (lambda: dynamics.heavy_ball(loss, 1, 0), ValueError, "mass must be .* above 0, got 0"),
        (lambda: dynamics.heavy_ball(3, 1, 1), TypeError, "objective must be .* got 3"),
        (lambda: dynamics.nesterov(loss, -1), ValueError, "damping must be"),
        (lambda: dynamics.adagrad(loss, 0), ValueError, "learning_rate must be .* above 0, got 0"),
        (
            lambda: dynamics.adagrad(loss, 1, initial_accumulator=-1),
            ValueError,
            "initial_accumulator must be",
        ),
        (lambda: dynamics.adagrad(loss, 1).init(jnp.ones(1, complex)), TypeError, "params must be real"),
        (lambda: dynamics.adam(3, 0.1), TypeError, "objective must be"),
        (lambda: dynamics.newton_flow(loss, -1), ValueError, "damping must be"),
        (lambda: dynamics.newton_flow(loss).drift(0.0, jnp.ones(2, complex)), TypeError, "must be real"),
        (lambda: dynamics.implicit_gradient_regularization(loss, -1), ValueError, "learning_rate must be"),
        (lambda: dynamics.momentum_loss_flow(loss, 1, 1.0), ValueError, r"beta must be in \[0, 1\), got 1"),
        (lambda: dynamics.principal_flow(loss, 0), ValueError, "learning_rate must be"),
        (lambda: dynamics.principal_flow(ROTATION, 1), TypeError, "objective must be a loss, .* symmetric"),
        (
            lambda: limit_of(optim.amsgrad(0.1), loss),
            ValueError,
            r"for amsgrad\(.* one for gd, .* modified\(",
        ),
        (lambda: limit_of(optim.momentum(0.1, ema=True, debias=True), loss), ValueError, "No textbook"),
        (
            lambda: limit_of(optim.momentum(optim.inverse_sqrt(0.1)), loss),
            ValueError,
            r"steps must be given .* inverse_sqrt\(value=0.1\) on the clock, got None",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
