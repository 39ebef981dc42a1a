"""Optimizers and their textbook equations: how fast the gap to the iterates, and to the modified equation, closes.

"Order" is the slope of a gap over a halving step, measured; what closes at first order has slope 1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from surface import START, apart, end, loss, order, quadratic

import jaxflow as jf
from jaxflow import dynamics, optim
from jaxflow.dynamics import AdagradState, AdamState, InertialState, RMSPropState, limit_of

pytestmark = pytest.mark.promotes
V, M = jnp.array([3.0, 2.0]), jnp.array([0.5, -0.2])


velocity_of = jax.jit(lambda flow, time, state: flow.drift(time, state))


# --- The iterates: gaps close at the order claimed ---


def gap_of(optimizer, flow, time, h, warm=0.0, state=None):
    """Between flow and iterates over a time; with `warm` from the state that time of iterating leads to."""
    before, steps = round(warm / h), round(time / h)
    after = lambda k: jf.iterate(optimizer, loss, START, steps=jnp.asarray(k), every=None).params
    start = after(before) if before else START
    return apart(end(flow, start, time, None if state is None else state(start)), after(before + steps))


@pytest.mark.parametrize(
    "family",
    [
        optim.gd,
        lambda h: optim.momentum(h, float(np.exp(-h / 0.3)), ema=True),
        lambda h: optim.adam(h, float(np.exp(-h / 0.3)), float(np.exp(-h / 0.5)), 1e-3),
        lambda h: optim.adagrad(h, initial_accumulator=4 / h),
        lambda h: optim.newton(h, 0.5),
        lambda h: optim.nesterov(h, 0.5),
        lambda h: optim.momentum(h, 0.5),
    ],
    ids=["gd", "ema", "adam", "adagrad", "newton", "nesterov", "momentum"],
)
def test_limits_are_first_order(family):
    assert order(lambda h: gap_of(family(h), limit_of(family(h), loss), 1.0, h)) > 0.9


def test_sign_descent_is_exact_until_it_arrives():
    assert gap_of(optim.sign(0.02), limit_of(optim.sign(0.02), loss), 0.4, 0.02) < 1e-12


def test_nesterovs_limit_is_first_order_on_the_clock_of_the_root():
    rising = lambda k: k / (k + 3)
    gap = lambda s: gap_of(optim.nesterov(s**2, rising), dynamics.nesterov(loss), 2.0, s)
    assert order(gap) > 0.9


@pytest.mark.parametrize("flow", [dynamics.implicit_gradient_regularization, dynamics.principal_flow])
def test_flows_of_descent_to_second_order(flow):
    assert order(lambda h: gap_of(optim.gd(h), flow(loss, h), 1.0, h)) > 1.9


@pytest.mark.parametrize(
    ("method", "shifted"),
    [
        (optim.momentum, False),
        (optim.nesterov, True),
        (functools.partial(optim.nesterov, lookahead=True), True),
    ],
    ids=["momentum", "nesterov", "lookahead"],
)
def test_momentum_has_settled_to_second_order(method, shifted):
    """The flow on the modified loss, and the heavy ball that settles to it."""
    b, steps = 0.8, (0.004, 0.002, 0.001)
    settled = lambda h: dynamics.momentum_loss_flow(loss, h, b, shifted)
    assert order(lambda h: gap_of(method(h, b), settled(h), 0.2, h, 0.1), steps) > 1.9
    moving = lambda h: lambda x: InertialState(x, velocity_of(settled(h), 0.0, x))
    ball = lambda h: gap_of(method(h, b), limit_of(method(h, b), loss), 0.2, h, 0.1, moving(h))
    assert order(ball, steps) > 1.9


# --- The modified equation, found without knowing any of these ---


def modified_drift(optimizer, order, state, steps, time_step=None):
    """The drift where the optimizer's float state is as given, leaf by leaf, after so many steps."""
    flow = dynamics.modified(optimizer, loss, order=order, time_step=time_step)
    blank = dynamics.ModifiedState(START, optimizer.init(START), jnp.asarray(float(steps)))
    leaves, structure = jax.tree.flatten(blank.optimizer)
    given = iter(state)
    leaves = [next(given) if leaf.ndim else jnp.asarray(float(steps)) for leaf in leaves]
    velocity = velocity_of(flow, 0.0, blank._replace(optimizer=jax.tree.unflatten(structure, leaves)))
    return [velocity.params, *(leaf for leaf in jax.tree.leaves(velocity.optimizer) if leaf.ndim)]


def test_modified_descent_is_the_regularized_flow():
    """Of order 2, with a third term that is O(h²) in the drift."""
    flow = dynamics.implicit_gradient_regularization
    gap = lambda h: apart(modified_drift(optim.gd(h), 2, [], 0)[0], velocity_of(flow(loss, h), 0.0, START))
    assert order(gap) > 1.9
    straight = dynamics.modified(optim.gd(0.1), quadratic, order=2)
    np.testing.assert_allclose(
        straight.drift(0.0, straight.init(START)).params,
        dynamics.implicit_gradient_regularization(quadratic, 0.1).drift(0.0, START),
        rtol=1e-14,
    )


U = jnp.array([0.4, -0.3])
TAU = 0.3


def _pairs(h):
    """Drifts of parameters and averages by both equations, in the same units."""
    decay, root = float(np.exp(-h / TAU)), h**0.5
    ball = optim.momentum(h, decay, ema=True)
    for p in (1, 2):
        # v, the average, is -u.
        known = velocity_of(limit_of(ball, loss), 0.0, InertialState(START, U))
        found = modified_drift(ball, p, [-U], 10)
        yield f"momentum {p}", found, [known.params, -known.velocity]
        rms = optim.rmsprop(h, decay, 1e-3)
        known = velocity_of(limit_of(rms, loss), 0.0, RMSPropState(START, V))
        yield f"rmsprop {p}", modified_drift(rms, p, [V], 10), [*known]
    grad = optim.adagrad(h, 1e-3)
    known = velocity_of(limit_of(grad, loss), 0.0, AdagradState(START, V / h))
    found = modified_drift(grad, 2, [V / h], 10)  # of R = h r, which is of order 1
    yield "adagrad", [found[0], h * found[1]], [known.params, h * known.accumulator]
    # Moments with their bias corrections in them, after a time of 1: m = γ m̂, dm = γ dm̂ + γ' m̂.
    adam, k = optim.adam(h, decay, decay, 1e-3), round(1 / h)
    known = velocity_of(limit_of(adam, loss), 0.0, AdamState(START, M, V, jnp.asarray(float(k))))
    gamma, growth = 1 - np.exp(-1 / TAU), np.exp(-1 / TAU) / TAU
    raw = [gamma * d + growth * x for d, x in ((known.first_moment, M), (known.second_moment, V))]
    yield "adam", modified_drift(adam, 2, [gamma * M, gamma * V], k), [known.params, *raw]
    sign = optim.sign(h)
    yield "sign", modified_drift(sign, 2, [], 0), [velocity_of(limit_of(sign, loss), 0.0, START)]
    newton = optim.newton(h, 0.5)
    yield "newton", modified_drift(newton, 1, [], 0), [velocity_of(limit_of(newton, loss), 0.0, START)]
    # On the clock k√η, η = h here: u = -√η v, after a time of 1.
    rising = optim.nesterov(h, lambda k: k / (k + 3))
    known = velocity_of(dynamics.nesterov(loss), 1.0, InertialState(START, U))
    found = modified_drift(rising, 1, [-U / root], 1 / root, time_step=root)
    yield "nesterov", [found[0], -root * found[1]], [*known]


@pytest.mark.filterwarnings("ignore:The update of:UserWarning")
def test_every_limit_is_the_modified_equation_to_first_order():
    """As the step is quartered its gap falls by four; on the clock of √η, by two."""
    coarse, fine = (
        {name: max(map(apart, found, known)) for name, found, known in _pairs(h)} for h in (4e-3, 1e-3)
    )
    assert fine.pop("sign") < 1e-12
    assert fine.pop("newton") < 1e-12
    for name, gap in fine.items():
        assert gap < coarse[name] * (0.6 if name == "nesterov" else 0.3), name
