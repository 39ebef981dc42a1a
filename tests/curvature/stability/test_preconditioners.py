"""Preconditioners: an update times P is the average that was divided, made once more in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow import optim
from jaxflow.curvature.stability.preconditioners import preconditioner_of

pytestmark = pytest.mark.promotes

RATE, B1, B2, STEPS = 0.1, 0.9, 0.99, 7
GRADIENTS = np.random.default_rng(0).normal(size=(STEPS, 3))
PARAMS = {"a": jnp.ones(2), "b": jnp.ones(())}
ADAM = {"learning_rate": RATE, "b1": B1, "b2": B2, "eps": 1e-2}


def tree(x):
    return {"a": x[:2], "b": x[2]}


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@jax.jit
def stepped(optimizer):
    """The last update and the state after it, of gradients that do not depend on the parameters."""
    state = optimizer.init(PARAMS)
    for g in GRADIENTS:
        updates, state = optimizer.update(tree(jnp.asarray(g)), state, PARAMS)
    return updates, state


def averages(beta=B1):
    m = np.zeros(3)
    for g in GRADIENTS:
        m = beta * m + (1 - beta) * g
    return m


def rectification():
    limit = 2 / (1 - B2) - 1
    rho = limit - 2 * STEPS * B2**STEPS / (1 - B2**STEPS)
    return np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))


G, M = GRADIENTS[-1], averages()
NADAM = B1 * M / (1 - B1 ** (STEPS + 1)) + (1 - B1) * G / (1 - B1**STEPS)
FALLING = optim.inverse_sqrt(RATE)
# What is divided, learning rate and sign included.
DIVIDED = {
    "rmsprop": (optim.rmsprop(RATE, B2, 1e-2), RATE * G),
    "rmsprop in root": (optim.rmsprop(RATE, B2, 1e-2, eps_in_sqrt=True), RATE * G),
    "scalar_rmsprop": (optim.scalar_rmsprop(RATE, B2, 1e-2), RATE * G),
    "adagrad": (optim.adagrad(RATE, 1e-2, initial_accumulator=0.5), RATE * G),
    "adam": (optim.adam(**ADAM), RATE * M),
    "adamw": (optim.adamw(**ADAM, weight_decay=0.0), RATE * M),
    "nadam": (optim.nadam(**ADAM), RATE * NADAM),
    "radam": (optim.radam(**ADAM), RATE * rectification() * M),
    "radam, not rectified": (optim.radam(**ADAM, threshold=50.0), RATE * M),
    "amsgrad": (optim.amsgrad(**ADAM), RATE * M),
    "amsgrad, paper": (optim.amsgrad(**ADAM, bias_correction=False), RATE * M),
    "adabound": (optim.adabound(**ADAM, final_learning_rate=0.05, gamma=0.1), 0.05 * M),
    "adabound, falling": (
        optim.adabound(**ADAM | {"learning_rate": FALLING}, final_learning_rate=0.05, gamma=0.1, amsbound=True),
        0.05 / np.sqrt(STEPS) * M,
    ),
    "adabound, paper": (optim.adabound(**ADAM, paper=True), 0.1 * M),
    "swats": (optim.swats(**ADAM), RATE * M),
    "lookahead": (optim.lookahead(optim.adam(**ADAM), 100), RATE * M),
    "chain": (optim.chain(optax.clip(1e3), optim.adam(**ADAM), optax.identity()), RATE * M),
}  # fmt: skip


@pytest.mark.parametrize("name", DIVIDED)
def test_updates_are_what_is_divided(name):
    optimizer, divided = DIVIDED[name]
    updates, state = stepped(optimizer)
    found = preconditioner_of(optimizer, state)
    if name != "scalar_rmsprop":
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, PARAMS)
        found = flat(found)
    assert np.all(np.asarray(found) > 0)
    np.testing.assert_allclose(-flat(updates) * np.asarray(found), divided, rtol=1e-11)


def test_by_hand():
    """Adam, two steps of gradient 2: v̂ = 4 and P = (1 - β₁²)(2 + ε)."""
    optimizer, params = optim.adam(0.1, 0.9, 0.99, 0.5), jnp.zeros(1)
    state = jf.iterate(optimizer, lambda x: 2 * x[0], params, steps=2).state
    assert preconditioner_of(optimizer, state) == pytest.approx(0.19 * 2.5, rel=1e-13)
    assert preconditioner_of(optimizer, state.optimizer) == pytest.approx(0.19 * 2.5, rel=1e-13)


def test_nadam_with_a_schedule_has_the_same():
    optimizer = optim.nadam(**ADAM, momentum_decay=0.1)
    found = preconditioner_of(optimizer, stepped(optimizer)[1])
    plain = optim.nadam(**ADAM)
    np.testing.assert_allclose(flat(found), flat(preconditioner_of(plain, stepped(plain)[1])), rtol=1e-13)


def test_each_array_that_has_switched():
    optimizer = optim.swats(**ADAM, per_leaf=True)
    state = stepped(optimizer)[1]
    before = preconditioner_of(optimizer, state)
    after = preconditioner_of(optimizer, state._replace(switched=jnp.asarray([True, False])))  # a, b
    assert (np.asarray(after["a"]) == 1).all()
    assert after["b"] == before["b"] != 1


PLAIN = [
    optim.gd(0.1),
    optim.momentum(0.1, ema=True),
    optim.momentum(FALLING, optim.one_cycle_momentum(10)),
    optim.nesterov(0.1),
    optim.nesterov(0.1, lookahead=True),
    optim.sgdw(0.1),
    optim.sgdw(0.1, multiplier=1.0),
    optim.sign(0.1),
    optim.lookahead(optim.gd(0.1)),
    optim.chain(optim.gradient_noise(0.1, key=jax.random.key(0)), optim.l2_regularization(0.1), optim.gd(0.1)),
    optax.sgd(0.1, 0.9),
]  # fmt: skip


@pytest.mark.parametrize("optimizer", PLAIN, ids=lambda optimizer: repr(optimizer)[:40])
def test_without_a_second_moment_it_is_one(optimizer):
    found = preconditioner_of(optimizer, optimizer.init(PARAMS))
    assert isinstance(found, float)
    assert found == 1


@pytest.mark.parametrize("name", ["rmsprop", "adam", "radam", "amsgrad", "adabound", "swats"])
def test_a_fresh_state_has_no_nan(name):
    optimizer = DIVIDED[name][0]
    assert np.isfinite(flat(preconditioner_of(optimizer, optimizer.init(PARAMS)))).all()


def test_in_a_stack_by_one_program():
    rates = jnp.array([0.1, 0.2])
    stack = jax.vmap(lambda rate: optim.adabound(rate, final_learning_rate=0.05, gamma=0.1))(rates)
    found = jax.jit(jax.vmap(lambda o: preconditioner_of(o, stepped(o)[1])))(stack)
    for i, rate in enumerate(rates):
        alone = optim.adabound(float(rate), final_learning_rate=0.05, gamma=0.1)
        one = preconditioner_of(alone, stepped(alone)[1])
        np.testing.assert_allclose(found["a"][i], one["a"], rtol=1e-12)


def test_half_precision_states_have_a_single_one():
    optimizer = optim.rmsprop(0.1)
    state = optimizer.init(jnp.ones(2, jnp.bfloat16))
    assert preconditioner_of(optimizer, state).dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("adam", "rmsprop"),
        ("rmsprop", "adam"),
        ("adam", "amsgrad"),
        ("amsgrad", "radam"),
        ("radam", "adam"),
        ("swats", "radam"),
    ],
)
def test_the_state_of_another_optimizer_is_refused(name, other):
    with pytest.raises(ValueError, match=f"state must be one of {name}"):
        preconditioner_of(DIVIDED[name][0], DIVIDED[other][0].init(PARAMS))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: preconditioner_of(None, ()), TypeError, "optimizer must be an optax"),  # type: ignore[arg-type]
        (lambda: preconditioner_of(optax.adam(0.1), optax.adam(0.1).init(PARAMS)), ValueError, "is known"),
        (
            lambda: preconditioner_of(o := optim.traceable(optax.yogi)(0.1), o.init(PARAMS)),
            ValueError,
            "without a second moment.*got yogi",
        ),
        (lambda: preconditioner_of(optim.adam(0.1), ()), ValueError, "state must be one of adam.*got tuple"),
        (lambda: preconditioner_of(optim.lookahead(GD), ()), ValueError, "state must be one of lookahead"),
        (lambda: preconditioner_of(optim.chain(GD), ()), ValueError, "state must be one of chain"),
        (
            lambda: preconditioner_of(o := optim.chain(optim.adam(), optim.rmsprop(0.1)), o.init(PARAMS)),
            ValueError,
            "one preconditioner, got 2 in chain",
        ),
    ],
    ids=["optimizer", "optax", "traceable", "state", "lookahead", "chain", "two"],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


GD = optim.gd(0.1)
