"""Weight decay in equations: as a drift of its own, and as a penalty in the gradient, against the iterates.

What closes at first order has slope 1 over a halving step. Laws on quadratics are exact, without a random number: the
iterates' by their linear map, the SDE's by the matrix exponential of its drift and noise.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy.linalg import expm, solve_continuous_lyapunov

import jaxflow as jf
from jaxflow import optim
from jaxflow.dynamics import AdamState, InertialState, limit_of, sde_of

pytestmark = pytest.mark.promotes
T = optim.traceable
LAMBDA = 0.6
START = jnp.array([1.5, -0.8])
H = np.array([[1.5, 0.4], [0.4, 0.7]])


def loss(x):
    return 0.5 * x @ jnp.asarray(H) @ x + 0.3 * jnp.cos(2 * x[0]) + x[1]


def end(flow, time, state=None):
    return jf.integrate(flow, START, [0.0, time], state=state, rtol=1e-10, atol=1e-12).params


def slope_of_gap(optimizer_of, time=1.0, steps=(0.01, 0.005)):
    gaps = []
    for h in steps:
        run = jf.iterate(optimizer_of(h), loss, START, steps=jnp.asarray(round(time / h)), every=None)
        gaps.append(np.abs(np.subtract(run.params, end(limit_of(optimizer_of(h), loss), time))).max())
    return np.log2(gaps[0] / gaps[1]), gaps[1]


memory = lambda h, tau: float(np.exp(-h / tau))


@pytest.mark.parametrize(
    "optimizer_of",
    [
        lambda h: optim.sgdw(h, 0.5, LAMBDA),
        lambda h: optim.sgdw(h, 0.5, LAMBDA * h, multiplier=1.0),
        lambda h: optim.adamw(h, memory(h, 0.3), memory(h, 0.5), 1e-3, LAMBDA),
        lambda h: optim.adamw(h / 2, memory(h, 0.3), memory(h, 0.5), 1e-3, LAMBDA * h, multiplier=2.0),
        lambda h: T(optax.adamw)(h, memory(h, 0.3), memory(h, 0.5), 1e-3, weight_decay=LAMBDA),
        lambda h: optim.chain(optim.l2_regularization(LAMBDA), optim.gd(h)),
        lambda h: optim.chain(optim.l2_regularization(LAMBDA), optim.momentum(h, 0.5)),
        lambda h: T(optax.chain)(T(optax.add_decayed_weights)(LAMBDA), T(optax.sgd)(h, 0.5, True)),
        lambda h: optim.chain(
            optim.l2_regularization(LAMBDA), optim.adam(h, memory(h, 0.3), memory(h, 0.5), 1e-3)
        ),
        lambda h: optim.chain(optim.l2_regularization(LAMBDA), optim.adagrad(h, initial_accumulator=4 / h)),
    ],
    ids=[
        "sgdw",
        "sgdw paper",
        "adamw",
        "adamw paper",
        "optax adamw",
        "gd",
        "momentum",
        "optax",
        "adam",
        "adagrad",
    ],
)
def test_limits_with_decay_are_first_order(optimizer_of):
    if "multiplier=2.0" in repr(
        optimizer_of(0.1)
    ):  # its clock is k times the rate, h/2: half the time, as many steps
        run = lambda h: jf.iterate(optimizer_of(h), loss, START, steps=round(1 / h))
        gaps = []
        for h in (0.01, 0.005):
            assert np.isclose(run(h).times[-1], 0.5)
            gaps.append(np.abs(np.asarray(run(h).params - end(limit_of(optimizer_of(h), loss), 0.5))).max())
        order, gap = np.log2(gaps[0] / gaps[1]), gaps[1]
    else:
        order, gap = slope_of_gap(optimizer_of)
    assert order > 0.9
    assert gap < 0.01  # without the decay it is 0.2 and more


def test_the_two_kinds_of_decay_are_not_one_in_adaptive_methods():
    together = optim.chain(optim.l2_regularization(LAMBDA), optim.adam(0.01, 0.9, 0.95))
    apart = optim.adamw(0.01, 0.9, 0.95, weight_decay=LAMBDA)
    ends = [
        end(limit_of(optimizer, loss), 1.0) for optimizer in (together, apart, optim.adam(0.01, 0.9, 0.95))
    ]
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert np.abs(np.subtract(ends[i], ends[j])).max() > 0.03


def test_drifts_in_closed_form():
    g, u, v = np.asarray(jax.jit(jax.grad(loss))(START)), np.array([0.2, -0.5]), np.array([5.0, 4.0])
    start = np.asarray(START)
    drift = jax.jit(lambda dynamics, state: dynamics.drift(0.0, state))
    plain = drift(limit_of(optim.momentum(0.1, 0.5), loss), InertialState(START, u))
    found = drift(limit_of(optim.sgdw(0.1, 0.5, LAMBDA), loss), InertialState(START, u))
    np.testing.assert_allclose(found.params, np.asarray(plain.params) - LAMBDA * start, rtol=1e-12)
    np.testing.assert_allclose(found.velocity, plain.velocity, rtol=1e-12)
    state = AdamState(START, u, v, 40.0)
    coupled = optim.chain(optim.l2_regularization(LAMBDA), optim.adam(0.1, 0.8, 0.9, 1e-3))
    found = drift(limit_of(coupled, loss), state)
    rates = [2 * (1 - b) / (1 + b) / 0.1 for b in (0.8, 0.9)]
    shares = [r / -np.expm1(-r * 0.1 * 40.5) for r in rates]
    np.testing.assert_allclose(found.params, -u / (np.sqrt(v) + 1e-3), rtol=1e-10)
    np.testing.assert_allclose(found.first_moment, shares[0] * (g + LAMBDA * start - u), rtol=1e-10)
    np.testing.assert_allclose(found.second_moment, shares[1] * ((g + LAMBDA * start) ** 2 - v), rtol=1e-10)


# --- The laws on a quadratic ---

RNG = np.random.default_rng(3)
CENTRES = RNG.normal(size=(5, 2))
OBJECTIVE = jf.Objective(
    lambda w, c: jax.vmap(lambda one: 0.5 * (w - one) @ jnp.asarray(H) @ (w - one))(c), jnp.asarray(CENTRES)
)
NOISE = H @ np.cov(CENTRES.T, bias=True) @ H / 2  # of a gradient of a batch of 2


def law_of_iterates(rate, beta, coupled, decoupled, steps):
    """The mean and covariance of (θ, v) after so many steps, from (START, 0)."""
    one = np.eye(2)
    force = H + coupled * one
    move = np.block([[(1 - rate * decoupled) * one - rate * force, -rate * beta * one], [force, beta * one]])
    kick, shift = np.vstack([-rate * one, one]), -H @ CENTRES.mean(0)
    mean, cov = np.concatenate([START, np.zeros(2)]), np.zeros((4, 4))
    for _ in range(steps):
        mean, cov = move @ mean + kick @ shift, move @ cov @ move.T + kick @ NOISE @ kick.T
    return mean[:2], cov[:2, :2]


def law_of_sde(dynamics, time):
    """The same of a linear SDE with additive noise, from its drift and diffusion as matrices."""
    begin = dynamics.init(START)
    flat, unravel = ravel_pytree(begin)
    drift = lambda z: ravel_pytree(dynamics.drift(0.0, unravel(z)))[0]
    column = lambda xi: ravel_pytree(dynamics.diffusion(0.0, begin, xi))[0]
    matrices = jax.jit(
        lambda z: (jax.jacfwd(drift)(z), drift(jnp.zeros_like(z)), jax.vmap(column)(jnp.eye(5)))
    )
    a, b, columns = jax.device_get(matrices(flat))
    q, n = columns.T @ columns, flat.size
    lifted = np.block([[a, b[:, None]], [np.zeros((1, n + 1))]])
    mean = (expm(lifted * time) @ np.append(flat, 1.0))[:2]
    stationary, kept = solve_continuous_lyapunov(a, -q), expm(a * time)
    return mean, (stationary - kept @ stationary @ kept.T)[:2, :2]


def penalized_chain(optimizer):
    return optim.chain(optim.l2_regularization(LAMBDA), optimizer)


@pytest.mark.parametrize(
    ("make", "beta", "coupled", "decoupled", "orders"),
    [
        (lambda h: optim.sgdw(h, 0.5, LAMBDA), 0.5, 0.0, LAMBDA, (1, 1)),
        (lambda h: optim.sgdw(h, 0.5, LAMBDA * h, multiplier=1.0), 0.5, 0.0, LAMBDA, (1, 1)),
        (lambda h: penalized_chain(optim.gd(h)), 0.0, LAMBDA, 0.0, (1, 1)),
        # Of second order as without the penalty, which is a part of the objective.
        (lambda h: penalized_chain(optim.momentum(h, 0.5)), 0.5, LAMBDA, 0.0, (2, 2)),
        (
            lambda h: T(optax.chain)(T(optax.add_decayed_weights)(LAMBDA), T(optax.sgd)(h, 0.5)),
            0.5,
            LAMBDA,
            0.0,
            (2, 2),
        ),
    ],
    ids=["sgdw", "sgdw paper", "gd", "momentum", "optax"],
)
def test_means_and_covariances_close_at_their_order(make, beta, coupled, decoupled, orders):
    gaps = []
    for rate in (0.02, 0.01):
        steps = round(1.0 / rate)
        exact = law_of_iterates(rate, beta, coupled, decoupled, steps)
        found = law_of_sde(sde_of(make(rate), OBJECTIVE, 2), rate * steps)
        # The covariance is of order η itself.
        gaps.append([np.abs(exact[0] - found[0]).max(), np.abs(exact[1] - found[1]).max() / rate])
    slopes = np.log2(np.array(gaps[0]) / gaps[1])
    assert (slopes > np.array(orders) - 0.2).all()


def test_the_step_keeps_the_law_of_the_equation():
    """One step without noise is the flow over dt to third order; the decay is exact."""
    dynamics = sde_of(optim.sgdw(0.1, 0.5, LAMBDA), OBJECTIVE, 2)
    state = InertialState(START, jnp.array([0.3, -0.2]))
    flat, unravel = ravel_pytree(state)
    field = lambda z: ravel_pytree(dynamics.drift(0.0, unravel(z)))[0]
    a, b = jax.device_get(jax.jit(lambda z: (jax.jacfwd(field)(z), field(jnp.zeros_like(z))))(flat))
    lifted = np.block([[a, b[:, None]], [np.zeros((1, 5))]])
    step = jax.jit(lambda dt: ravel_pytree(dynamics.step(0.0, state, dt, jnp.zeros(5)))[0])

    def gap(dt):
        exact = (expm(lifted * dt) @ np.append(flat, 1.0))[:4]
        return np.abs(exact - step(dt)).max()

    assert np.log2(gap(0.01) / gap(0.005)) > 2.5


def test_the_noise_is_that_without_decay():
    xi = RNG.normal(size=(2, 5))
    state = AdamState(START, START, np.asarray(START) ** 2, 3.0)
    noise = jax.jit(lambda dynamics: dynamics.diffusion(0.0, state, tuple(xi)))
    plain = noise(sde_of(optim.adam(0.1, 0.8, 0.9), OBJECTIVE, 2))
    apart = noise(sde_of(optim.adamw(0.1, 0.8, 0.9), OBJECTIVE, 2))
    jax.tree.map(np.testing.assert_allclose, plain, apart)
    together = noise(sde_of(penalized_chain(optim.adam(0.1, 0.8, 0.9)), OBJECTIVE, 2))
    np.testing.assert_allclose(plain.first_moment, together.first_moment, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda rate, b1, b2: optim.adamw(rate, b1, b2, 1e-3, LAMBDA),
        lambda rate, b1, b2: penalized_chain(optim.adam(rate, b1, b2, 1e-3)),
    ],
    ids=["apart", "together"],
)
def test_means_of_adam_with_either_decay(make):
    """Within 4.5 standard errors and the equation's own error, .02 here without decay; decay moves them by .08 to .4.

    A false alarm has a chance of 1 in 10,000 for all.
    """
    for seed in range(2):
        runs, paths = ends_of(make(0.02, 0.8, 0.9), 500, seed)
        np.testing.assert_allclose(
            runs.mean(0), paths.mean(0), rtol=0, atol=0.03 + 4.5 * (2 / 500) ** 0.5 * runs.std(0).max()
        )


def ends_of(optimizer, paths, seed):
    """The parameters at t = 1 of as many mini-batch runs and paths of the SDE."""
    keys, dynamics = jax.random.split(jax.random.key(seed), paths), sde_of(optimizer, OBJECTIVE, 2)
    run = lambda key: (
        jf.iterate(optimizer, OBJECTIVE, START, steps=50, every=50, batch_size=2, key=key).params
    )
    path = lambda key: jf.integrate(dynamics, START, [0.0, 1.0], key=key, substeps=200).params
    return np.asarray(jf.ensemble(run, keys)), np.asarray(jf.ensemble(path, keys))


def test_kinds_of_objectives_take_a_penalty():
    """Also in chunks, without data, as a vector field, in half precision, and as a leaf that may be traced."""
    g = np.asarray(jax.jit(jax.grad(OBJECTIVE))(START)) + LAMBDA * np.asarray(START)
    drift = jax.jit(lambda dynamics, params: dynamics.drift(0.0, params))
    flow = lambda objective, strength=LAMBDA: limit_of(
        optim.chain(optim.l2_regularization(strength), optim.gd(0.1)), objective
    )
    chunked = jf.Objective(OBJECTIVE.losses, OBJECTIVE.data, chunk=2)
    field = jf.VectorField(lambda x, c: jax.grad(OBJECTIVE)(x) * c, (1.0,))
    for objective in (OBJECTIVE, chunked, field, lambda x: OBJECTIVE(x)):
        np.testing.assert_allclose(drift(flow(objective), START), -g, rtol=1e-12)
    half = flow(lambda x: jnp.sum(x) * 0).drift(0.0, START.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(half, float), -LAMBDA * np.asarray(START), rtol=1e-2)
    slope = jax.jit(jax.grad(lambda strength: flow(OBJECTIVE, strength).drift(0.0, START)[0]))(LAMBDA)
    np.testing.assert_allclose(slope, -np.asarray(START)[0])
    complex_flow = flow(lambda z: jnp.sum(jnp.real(z)) * 0)
    np.testing.assert_allclose(drift(complex_flow, np.array([1 + 2j])), [-LAMBDA * (1 + 2j)])


def test_a_frozen_part_of_a_model_is_not_decayed():
    model = {"w": START, "frozen": jnp.ones(3), "name": "a"}
    chained = optim.chain(optim.l2_regularization(LAMBDA), optim.gd(0.1))
    whole = lambda m: loss(m["w"]) + m["frozen"].sum()
    path = jf.integrate(
        limit_of(chained, whole), model, [0.0, 1.0], trainable={"w": True, "frozen": False, "name": False}
    )
    np.testing.assert_allclose(path.params["w"], end(limit_of(chained, loss), 1.0), atol=1e-4)
    np.testing.assert_array_equal(path.params["frozen"], np.ones(3))
    assert path.params["name"] == "a"


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (optim.chain(optim.gd(0.1), optim.l2_regularization(0.1)), "one optimizer, at its end"),
        (optim.chain(optax.clip(1.0), optim.gd(0.1)), "one optimizer, at its end"),
        (optim.chain(optim.gd(0.1), optim.gd(0.1)), "one optimizer, at its end"),
        (optim.chain(optim.l2_regularization(0.1), optim.newton(0.1)), "which asks for gradients itself"),
        (
            optim.chain(optim.l2_regularization(0.1), optim.nesterov(0.1, lookahead=True)),
            "which asks for gradients itself",
        ),
        (
            optim.chain(T(optax.add_decayed_weights)(0.1, mask=True), optim.gd(0.1)),
            "a part of which decays .* mask",
        ),
        (optim.chain(optax.add_decayed_weights(0.1), optim.gd(0.1)), "one optimizer, at its end"),
        (optim.sgdw(0.1, multiplier=optim.inverse_sqrt(1.0)), "multiplier must be a number"),
        (optim.adamw(optim.inverse_sqrt(0.1), multiplier=1.0), "learning_rate must be a number"),
        (T(optax.adamw)(0.1, nesterov=True), "which adds Nesterov's momentum"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_has_no_equation_is_refused(optimizer, message):
    with pytest.raises(ValueError, match=message):
        limit_of(optimizer, loss, steps=10)
    with pytest.raises(ValueError, match=message):
        sde_of(optimizer, OBJECTIVE, 2, steps=10)
