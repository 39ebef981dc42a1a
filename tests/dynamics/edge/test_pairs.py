"""Flows of pairs: linear modes in closed form, orders in the distance from the edge, averages of iterates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow.dynamics import PairState, modified_state, pair_flow, pair_state, record_pairs, rod_flow
from jaxflow.dynamics.modified_equations.step_logarithm import increment

pytestmark = pytest.mark.promotes
SHARP = np.array([0.3, 1.7, 2.1])


def quadratic(x):
    return 0.5 * jnp.sum(jnp.asarray(SHARP) * x**2)


def series(change, order):
    """log(1 + x), cut after `order` terms."""
    return sum((-1) ** (k - 1) * change**k / k for k in range(1, order + 1))


@pytest.mark.parametrize("order", [1, 3])
def test_modes_of_a_quadratic(order):
    """At η = 1 a step multiplies by e = 1 − h: m moves as the series of log e, δ as that of log(−e)."""
    descent = jf.optim.gd(1.0)
    start = pair_state(
        descent, quadratic, modified_state(jf.iterate(descent, quadratic, jnp.ones(3), steps=1))
    )
    e = 1 - SHARP
    np.testing.assert_allclose(start.midpoint.params, e * (1 + e) ** 2 * (2 - e) / 4, atol=1e-14)
    np.testing.assert_allclose(start.midpoint.params + start.half_difference.params, e, rtol=1e-12)
    flow = pair_flow(descent, quadratic, order=order)
    path = jf.integrate(
        flow, start.midpoint.params, jnp.array([0.0, 2.5]), state=start, rtol=1e-10, atol=1e-13
    )
    for part, change in ((0, e - 1), (1, -e - 1)):
        expected = np.asarray(start[part].params) * np.exp(2.5 * series(change, order))
        np.testing.assert_allclose(path.state[part].params, expected, rtol=1e-7, atol=1e-11)


def pull(x, h):
    return h * x


def linear_maps(optimizer, sharpnesses, order):
    """At rest on ½hx²: the derivative of a step, and that of the half-difference's velocity, for each h."""

    @jax.jit
    @jax.vmap
    def both(h):
        field = jf.VectorField(pull, (h,))
        zero = modified_state(jf.iterate(optimizer, field, jnp.zeros(()), steps=1))
        leaves, tree = jax.tree.flatten(zero._replace(steps=None))
        take = lambda state: jnp.stack(jax.tree.leaves(state._replace(steps=None)))
        put = lambda v: jax.tree.unflatten(tree, list(v))._replace(steps=zero.steps)
        step = lambda v: v + take(increment(optimizer, field, put(v)))
        flow = pair_flow(optimizer, field, order=order, time_step=1.0)
        still = put(jnp.zeros(len(leaves)))
        speed = lambda v: take(
            flow.drift(0.0, PairState(still, put(v)._replace(steps=0.0 * zero.steps))).half_difference
        )
        return jax.jacfwd(step)(jnp.zeros(len(leaves))), jax.jacfwd(speed)(jnp.zeros(len(leaves)))

    return zip(*map(np.asarray, both(jnp.asarray(sharpnesses))), strict=True)


OPTIMIZERS = {
    "heavy ball .5": (jf.optim.momentum(1.0, 0.5), 3.0),
    "heavy ball .9": (jf.optim.momentum(1.0, 0.9), 3.8),
    "Nesterov .9": (jf.optim.nesterov(1.0, 0.9), 3.8 / 2.8),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_oscillation_grows_as_its_eigenvalue_says(name):
    """Growth a step against log(−e): 1e-3 of it wherever |e + 1| ≤ .2 at order 4, on both sides of the threshold."""
    optimizer, threshold = OPTIMIZERS[name]
    shares, seen = np.array([0.985, 0.995, 0.9985, 0.9995, 1.0005, 1.0015, 1.005]), 0
    for step, speed in linear_maps(optimizer, shares * threshold, 4):
        values, vectors = np.linalg.eig(step)
        best = np.argmin(abs(values + 1))
        e, v = complex(values[best]), vectors[:, best]
        if abs(e + 1) <= 0.2:
            seen += 1
            rate = (v.conj() @ speed @ v) / (v.conj() @ v)
            assert abs(rate - np.log(-e)) < 1e-3 * abs(np.log(-e))
    assert seen >= 4


def valley(s):
    """At η = .1 the edge is y = 20. Sharpening, feedback and distance from it scale so that a step is 1 + O(s)."""

    def loss(p):
        x, y, z = p
        a = 0.05 * s**2
        return 0.5 * y * x**2 + 0.5 * a * (y - z) ** 2 + 0.5 * a * (z - 20 - 30 * s) ** 2

    return loss, jnp.array([0.8 * s, 20 - 2 * s, 20 + 20 * s])


def test_orders():
    """Distance of the pairs after a time of 6/s, in units of s: slopes of p in s."""
    sizes, errors = (0.2, 0.1, 0.05), {1: [], 2: [], 3: []}
    for s in sizes:
        loss, start = valley(s)
        steps = round(6 / s)
        descent = jf.optim.gd(0.1)
        run = jf.iterate(descent, loss, start, steps=steps)
        for order, found in errors.items():
            flow = pair_flow(descent, loss, order=order)
            path = jf.integrate(flow, start, run.times[jnp.array([0, -1])], rtol=1e-10, atol=1e-12)
            sign = (-1) ** steps
            end = path.state.midpoint.params + sign * path.state.half_difference.params
            found.append(float(jnp.abs(end - run.params).max()) / s)
    slopes = {order: np.polyfit(np.log(sizes), np.log(found), 1)[0] for order, found in errors.items()}
    assert [slopes[order] for order in (1, 2, 3)] == pytest.approx([1, 2, 3], abs=0.35)


def averages(optimizer, loss, start, *, before, after=200):
    """Of iterates from step `before` on, and of pairs from there: y, mean loss, mean square of x about its middle."""
    # So late that there are no bias corrections.
    late = lambda leaf: leaf + 10_000 * jnp.issubdtype(leaf.dtype, jnp.integer)
    state = jf.solve.begin(jax.tree.map(late, optimizer.init(start)))
    begun = jf.iterate(optimizer, loss, start, steps=before, state=state)
    run = jf.iterate(optimizer, loss, begun.params, steps=after, state=begun.state)
    pair = pair_state(optimizer, loss, modified_state(begun), order=4)
    times = jnp.arange(after + 1.0)
    flow = pair_flow(optimizer, loss, order=4, time_step=1.0)
    pairs = jf.integrate(flow, begun.params, times, state=pair, record=record_pairs(loss), rtol=1e-6).values
    x, y, _ = np.asarray(run.values).T
    of_run = y.mean(), float(jax.vmap(loss)(run.values).mean()), (x**2).mean()
    squares = pairs.midpoint[:, 0] ** 2 + pairs.half_difference[:, 0] ** 2
    of_pairs = float(pairs.midpoint[:, 1].mean()), float(pairs.loss.mean()), float(squares.mean())
    return np.array(of_run), np.array(of_pairs), float(y.max())


# The optimizer, the sharpness at its edge, how far past it the valley pulls, and where a run begins.
HELD = {
    "descent": (jf.optim.gd(0.1), 20.0, 3.0, 0.3),
    "heavy ball .5": (jf.optim.momentum(0.05, 0.5), 60.0, 3.0, 0.3),
    "heavy ball .9": (jf.optim.momentum(0.01, 0.9), 380.0, 0.4, 0.01),
    "Nesterov .9": (jf.optim.nesterov(0.01, 0.9), 380 / 2.8, 3.0, 0.3),
    "Adam": (jf.optim.adam(1e3, 0.9, 0.99, eps=1e4), 380.0, 0.4, 0.1),
}


@pytest.mark.parametrize("name", HELD)
def test_averages_past_the_edge(name):
    """Where a run is held at its edge for 200 steps: within 1e-3 (Adam: 1e-2) in mean loss and x², 1e-5 in sharpness.

    The pull is weak enough for the memory of momentum. With a stronger one its bursts grow, and depend on rounding.
    """
    optimizer, edge, pull, x = HELD[name]

    def loss(p):
        x, y, z = p
        return 0.5 * y * x**2 + 0.025 * (y - z) ** 2 + 0.025 * (z - edge - 1.5 * pull) ** 2

    of_run, of_pairs, highest = averages(optimizer, loss, jnp.array([x, edge + 0.1, edge + pull]), before=30)
    assert highest > edge
    assert of_run[2] > 1e-4
    close = 1e-2 if name == "Adam" else 1e-3
    assert (np.abs(of_pairs / of_run - 1) < [1e-5, close, close]).all()


@pytest.mark.parametrize(
    ("order", "modulus"), [(1, 1.0), (2, 1.0), (3, 0.95), (4, 0.83), (6, 0.63), (8, 0.49)]
)
def test_what_turns_decays_up_to_the_modulus_that_is_told(order, modulus):
    turns = np.exp(1j * np.linspace(0, np.pi, 2001))
    assert series(modulus * turns - 1, order).real.max() < 1e-9
    if modulus < 1:
        assert series((modulus + 0.02) * turns - 1, order).real.max() > 0


def test_cost():
    """2p gradients for an evaluation, one after another in one program."""
    calls = []

    def gradient(x):
        jax.debug.callback(lambda: calls.append(1))
        return x

    field = jf.VectorField(gradient)
    drift = jax.jit(lambda pair: pair_flow(jf.optim.gd(0.1), field, order=3).drift(0.0, pair))
    state = modified_state(jf.iterate(jf.optim.gd(0.1), quadratic, jnp.ones(3), steps=1))
    pair = pair_state(jf.optim.gd(0.1), quadratic, state)
    jax.block_until_ready(drift(pair))
    jax.effects_barrier()
    assert len(calls) == 6


def test_one_program_for_all_numbers_and_lanes():
    count = []

    def loss(x):
        count.append(1)
        return quadratic(x)

    def end(rate, start):
        flow = pair_flow(jf.optim.momentum(rate, 0.5), loss, order=2, time_step=1.0, warmup=3)
        return jf.integrate(flow, start, jnp.array([0.0, 8.0])).params

    found = [end(rate, jnp.ones(3) * rate) for rate in (0.5, 0.6)]
    traced = len(count)
    end(0.7, jnp.zeros(3))
    assert len(count) == traced
    rates = jnp.array([0.5, 0.6])
    lanes = jax.jit(jax.vmap(lambda rate: end(rate, jnp.ones(3) * rate)))(rates)
    np.testing.assert_allclose(lanes, jnp.stack(found), rtol=1e-5)


def test_schedules_and_first_steps():
    """On the clock of a falling rate, after steps of the optimizer itself: near the midpoints all along."""
    fading = jf.optim.momentum(optax.linear_schedule(0.05, 0.02, 60), 0.5)
    run = jf.iterate(fading, quadratic, jnp.ones(3), steps=60)
    path = jf.integrate(pair_flow(fading, quadratic, order=4), jnp.ones(3), run.times, rtol=1e-8)
    np.testing.assert_allclose(path.values[:20], run.values[:20], atol=1e-6)  # optax's schedule is in float32
    np.testing.assert_allclose(path.values[30:-1, 0], jf.midpoints(run).values[29:, 0], rtol=1e-3)


def test_rods_are_pairs_of_first_order():
    """Of the heavy ball θ' = θ − η(βm + g), m' = βm + g, written out for both ends of the rod."""
    ball = jf.optim.momentum(0.3, 0.5)
    at = rod_flow(ball, quadratic).init(jnp.ones(3))
    found = rod_flow(ball, quadratic).drift(0.0, at)
    memory = lambda state: next(x for x in jax.tree.leaves(state.optimizer) if x.shape == (3,))
    middle, half = ((np.asarray(part.params), np.asarray(memory(part))) for part in at)
    moves = []
    for sign in (1, -1):
        x, m = middle[0] + sign * half[0], middle[1] + sign * half[1]
        moves.append(-0.3 * (0.5 * m + SHARP * x))
    np.testing.assert_allclose(0.3 * found.midpoint.params, (moves[0] + moves[1]) / 2, rtol=1e-12)
    grown = -2 * half[0] - (moves[0] - moves[1]) / 2
    np.testing.assert_allclose(0.3 * found.half_difference.params, grown, rtol=1e-12)


def test_bad_input():
    descent = jf.optim.gd(0.1)
    state = modified_state(jf.iterate(descent, quadratic, jnp.ones(3), steps=1))
    cases = [
        (ValueError, "order must be", lambda: pair_flow(descent, quadratic, order=0)),
        (ValueError, "order must be", lambda: pair_flow(descent, quadratic, order=9)),
        (ValueError, "warmup must be", lambda: pair_flow(descent, quadratic, warmup=-1)),
        (ValueError, "time_step must be", lambda: rod_flow(descent, quadratic, time_step=0.0)),
        (TypeError, "objective must be", lambda: pair_flow(descent, 3.0)),
        (TypeError, "optimizer must be", lambda: pair_flow(0.1, quadratic)),
        (ValueError, "deterministic", lambda: pair_flow(jf.optim.genetic(key=jax.random.key(0)), quadratic)),
        (TypeError, "state must be a ModifiedState", lambda: pair_state(descent, quadratic, jnp.ones(3))),
        (ValueError, "order must be", lambda: pair_state(descent, quadratic, state, order=0)),
        (TypeError, "objective must be", lambda: record_pairs(jf.VectorField(pull, (1.0,)))),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message):
            call()
    with pytest.warns(UserWarning, match="takes the sign of"):
        pair_flow(jf.optim.sign(0.1), quadratic).init(jnp.ones(3))
