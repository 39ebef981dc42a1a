"""Scaling rules: the equations they keep are the dynamics' own, at either batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import ndtri

import jaxflow as jf
from jaxflow.dynamics import AdamState, RMSPropState

pytestmark = pytest.mark.promotes

N, KAPPA = 5, 4.0


def losses(w, batch):
    return 0.5 * (jnp.tanh(batch["x"] @ w) - batch["y"]) ** 2


RNG = np.random.default_rng(0)
OBJECTIVE = jf.Objective(
    losses, {"x": jnp.asarray(RNG.normal(size=(N, 2))), "y": jnp.asarray(RNG.normal(size=N))}
)
W = jnp.asarray(RNG.normal(size=2))
V = jnp.array([0.8, 1.7])
XI = jnp.asarray(RNG.normal(size=(2, N)))


@jax.jit
def both(dynamics, state, xi):
    """Velocity and noise on the parameters."""
    parts = dynamics.drift(0.0, state), dynamics.diffusion(0.0, state, xi)
    return [dynamics.params(part) for part in parts], parts


def numbers(optimizer, *names):
    return [float(optimizer.hyperparameters[name]) for name in names]


def test_the_linear_rule_keeps_the_equation_of_sgd():
    rate = numbers(jf.rescale(jf.optim.gd(0.03), 2, 2 * KAPPA), "learning_rate")[0]
    before, after = jf.dynamics.sgd(OBJECTIVE, 0.03, 2), jf.dynamics.sgd(OBJECTIVE, rate, 2 * KAPPA)
    for a, b in zip(both(before, W, XI[0])[0], both(after, W, XI[0])[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    momentum = jf.rescale(jf.optim.momentum(0.03, 0.9), 2, 8)
    rate, beta = numbers(momentum, "learning_rate", "beta")
    np.testing.assert_allclose(
        jf.dynamics.temperature(rate, 8, beta=beta), jf.dynamics.temperature(0.03, 2, beta=0.9), rtol=1e-12
    )


def test_the_square_root_rule_keeps_malladis_rmsprop():
    before, after = jf.optim.rmsprop(0.03, 0.95, 1e-2), jf.rescale(jf.optim.rmsprop(0.03, 0.95, 1e-2), 2, 8)
    results = []
    for optimizer, batch, v in ((before, 2, V), (after, 8, V / KAPPA)):  # u = v·B is kept
        rate, decay, eps = numbers(optimizer, "learning_rate", "decay", "eps")
        dynamics = jf.dynamics.rmsprop_sde(OBJECTIVE, rate, batch, decay, eps, malladi=True)
        params, (drift, _) = both(dynamics, RMSPropState(W, v), XI)
        results.append((*params, batch * drift.second_moment))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


def test_the_square_root_rule_keeps_malladis_adam():
    names = "learning_rate", "b1", "b2", "eps"
    before = jf.optim.adam(0.03, 0.9, 0.95, 1e-2)
    results = []
    # Both at the same time: t/η² and half a step.
    for optimizer, batch, v, steps in ((before, 2, V, 7.5), (jf.rescale(before, 2, 8), 8, V / KAPPA, 1.5)):
        dynamics = jf.dynamics.adam_sde(
            OBJECTIVE, *numbers(optimizer, *names)[:1], batch, *numbers(optimizer, *names)[1:], malladi=True
        )
        state = AdamState(W, 0.3 * W, v, jnp.asarray(steps))
        _, (drift, noise) = both(dynamics, state, XI)
        results.append((drift.params, drift.first_moment, batch * drift.second_moment, noise.first_moment))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (jf.optim.gd(0.1), {"learning_rate": 0.4}),
        (jf.optim.momentum(0.1, 0.8, ema=True), {"learning_rate": 0.4, "beta": 0.8, "ema": True}),
        (jf.optim.nesterov(0.1, lookahead=True), {"learning_rate": 0.4, "beta": 0.9, "lookahead": True}),
        (jf.optim.sgdw(0.1, weight_decay=0.5), {"learning_rate": 0.4, "weight_decay": 0.5}),
        (
            jf.optim.sgdw(0.1, weight_decay=0.5, multiplier=1.0),
            {"learning_rate": 0.4, "weight_decay": 2.0, "multiplier": 1.0},
        ),
        (jf.optim.rmsprop(0.1, 0.9, 1e-4), {"learning_rate": 0.2, "decay": 0.6, "eps": 5e-5}),
        (
            jf.optim.rmsprop(0.1, 0.9, 1e-4, eps_in_sqrt=True),
            {"learning_rate": 0.2, "decay": 0.6, "eps": 2.5e-5},
        ),
        (jf.optim.adam(0.1), {"learning_rate": 0.2, "b1": 0.6, "b2": 0.996, "eps": 5e-9}),
        (jf.optim.adamw(0.1, weight_decay=0.5), {"learning_rate": 0.2, "b1": 0.6, "weight_decay": 1.0}),
        (
            jf.optim.adamw(0.1, weight_decay=0.5, multiplier=1.0),
            {"learning_rate": 0.2, "weight_decay": 2.0, "multiplier": 1.0},
        ),
        (jf.optim.amsgrad(0.1, bias_correction=False), {"learning_rate": 0.2, "b2": 0.996}),
        (jf.optim.nadam(0.1), {"learning_rate": 0.2, "b1": 0.6}),
    ],
    ids=repr,
)
def test_numbers(optimizer, expected):
    got = jf.rescale(optimizer, 32, 128).hyperparameters
    assert {name: pytest.approx(value) for name, value in expected.items()} == {n: got[n] for n in expected}
    back = jf.rescale(jf.rescale(optimizer, 32, 128), 128, 32)
    np.testing.assert_allclose(*(jax.tree.leaves(o) for o in (back, optimizer)), rtol=1e-12)
    assert jax.tree.structure(back) == jax.tree.structure(optimizer)


@pytest.mark.parametrize("multiplier", [None, 1.0])
@pytest.mark.parametrize("make", [jf.optim.sgdw, jf.optim.adamw])
def test_decay_of_an_example_is_kept(make, multiplier):
    """Without a gradient κ steps of decay before are one after, to first order."""
    shrinkage = []
    before = make(1e-3, weight_decay=1e-3, multiplier=multiplier)
    for optimizer in (before, jf.rescale(before, 1, 4)):
        one = jnp.ones(1)
        step = jax.jit(lambda x, o=optimizer: o.update(0 * x, o.init(x), x)[0])
        shrinkage.append(float(np.asarray(step(one))[0]))
    assert shrinkage[1] == pytest.approx(4 * shrinkage[0])


def test_schedules_are_compressed():
    rate = jf.optim.warmup(0.1, 40)
    k, values = np.arange(30), jax.jit(lambda schedule, k: schedule(k))
    linear = jf.rescale(jf.optim.gd(rate), 32, 128).hyperparameters["learning_rate"]
    np.testing.assert_allclose(values(linear, k), 4 * np.asarray(values(rate, 4 * k)), rtol=1e-12)
    root = jf.rescale(jf.optim.adam(rate), 32, 128).hyperparameters["learning_rate"]
    np.testing.assert_allclose(values(root, k), 2 * np.asarray(values(rate, 4 * k)), rtol=1e-12)
    cycle = jf.optim.momentum(jf.optim.one_cycle(1.0, 100), jf.optim.one_cycle_momentum(100))
    beta = jf.rescale(cycle, 32, 64).hyperparameters["beta"]
    np.testing.assert_allclose(values(beta, k), values(cycle.hyperparameters["beta"], 2 * k), rtol=1e-12)
    plain = jf.rescale(jf.optim.gd(optax.cosine_decay_schedule(1.0, 100)), 1, 2)
    run = jf.iterate(plain, lambda x: 0.5 * x**2, 1.0, steps=50)  # traced through, and on its own clock
    assert np.isclose(np.asarray(run.times)[-1], 50, atol=1)


def test_chains():
    chained = jf.optim.chain(jf.optim.l2_regularization(0.3), jf.optim.adam(0.1))
    first, second = jf.rescale(chained, 1, 4).hyperparameters["transforms"]
    assert first.hyperparameters == {"strength": 0.3}
    assert second.hyperparameters["learning_rate"] == 0.2


def test_numbers_may_be_traced_and_stacked():
    batches = jnp.array([32.0, 64.0, 128.0])
    stack = jax.jit(jax.vmap(lambda b: jf.rescale(jf.optim.adam(0.1), 32, b)))(batches)
    np.testing.assert_allclose(stack.hyperparameters["b1"], [0.9, 0.8, 0.6], rtol=1e-6)
    stack = jax.vmap(lambda rate: jf.rescale(jf.optim.rmsprop(rate), 32, 128))(batches)
    np.testing.assert_allclose(stack.hyperparameters["learning_rate"], 2 * batches)
    slope = jax.grad(lambda b: jf.rescale(jf.optim.gd(0.1), 32, b).hyperparameters["learning_rate"])(64.0)
    assert np.isclose(slope, 0.1 / 32)


def test_adam_at_four_times_the_batch_size():
    """Mean and spread within 4 standard errors (a false alarm in 16,000 each) and a little for the limit."""
    data = jnp.asarray(20.0 * ndtri((np.arange(1000) + 0.5) / 1000))
    objective = jf.Objective(lambda w, c: 0.5 * w**2 - c * w, data)
    before = jf.optim.adam(0.02, 0.98, 0.995)

    def ends(optimizer, batch, steps):
        run = lambda key: (
            jf.iterate(optimizer, objective, 1.0, steps=steps, every=steps, batch_size=batch, key=key).params
        )
        return np.asarray(jf.ensemble(run, jax.random.split(jax.random.key(batch), 2000)))

    small, large = ends(before, 1, 200), ends(jf.rescale(before, 1, 4), 4, 50)
    error = small.std() * np.sqrt(2 / 2000)
    assert abs(small.mean() - large.mean()) < 4 * error + 0.01
    assert abs(small.std() / large.std() - 1) < 4 / np.sqrt(2000) + 0.02
    # Not so by the linear rule, nor without one.
    linear = ends(before.replace(learning_rate=0.08), 4, 50)
    assert abs(linear.std() / small.std() - 1) > 0.3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jf.rescale(jf.optim.gd(0.1), 0, 1), ValueError, "batch_size must be"),
        (lambda: jf.rescale(jf.optim.gd(0.1), 1, -2), ValueError, "new_batch_size must be"),
        (lambda: jf.rescale(0.1, 1, 2), TypeError, "optimizer must be"),
        (lambda: jf.rescale(jf.optim.adam(), 32, 400), ValueError, "at most 320 for b1=0.9.*got 400"),
        (lambda: jf.rescale(jf.optim.adagrad(0.1), 1, 2), ValueError, "known scaling rule.*got adagrad"),
        (lambda: jf.rescale(jf.optim.swats(0.1), 1, 2), ValueError, "got swats"),
        (lambda: jf.rescale(jf.optim.sign(0.1), 1, 2), ValueError, "got sign"),
        (lambda: jf.rescale(jf.optim.lookahead(jf.optim.gd(0.1)), 1, 2), ValueError, "got lookahead"),
        (lambda: jf.rescale(optax.adam(0.1), 1, 2), ValueError, "hides its numbers"),
        (
            lambda: jf.rescale(jf.optim.nadam(momentum_decay=0.1), 1, 2),
            ValueError,
            "momentum_decay must be None",
        ),
        (
            lambda: jf.rescale(jf.optim.chain(optax.clip(1.0), jf.optim.gd(0.1)), 1, 2),
            ValueError,
            "hides its numbers",
        ),
        (
            lambda: jf.rescale(jf.optim.chain(jf.optim.gd(0.1), jf.optim.gd(0.1)), 1, 2),
            ValueError,
            "must hold one optimizer",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("b1", "new", "message"),
    [
        (0.9, jnp.asarray(-1), "new_batch_size must be a finite number above 0, got -1"),
        (
            0.9,
            np.array([64, 32_000]),
            "at most 320 for b1=0.9, whose rescaled value would be negative, got 32000",
        ),
        (
            jnp.asarray([0.5, 0.9]),
            128,
            "at most 64 for b1=0.5, whose rescaled value would be negative, got 128",
        ),
    ],
)
def test_arrays_are_refused_as_numbers_are(b1, new, message):
    with pytest.raises(ValueError, match=message):
        jf.rescale(jf.optim.adam(1e-3, b1=b1), 32, new)


def test_arrays_are_rescaled_as_numbers_are():
    found = jf.rescale(jf.optim.adam(1e-3), 32, jnp.asarray([32.0, 320.0])).hyperparameters["b1"]
    np.testing.assert_allclose(found, [0.9, 0.0], atol=1e-6)
