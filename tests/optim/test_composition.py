"""Inside optax's own combinators an optimizer does what it does alone; chains and donation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recursions
from cases import ONE_FORM_EACH, START, by_id, gradient, loss, vector_and_matrix

import jaxflow as jf

pytestmark = pytest.mark.promotes

STEPS = 6
RTOL = 1e-13
MASKABLE = [case for case in ONE_FORM_EACH if case.needs is None]


def walk(optimizer, start, steps=STEPS, spoil=None):
    """The parameters after some steps; at step `spoil` the gradient is NaN."""
    if not isinstance(optimizer, optax.MultiSteps):  # which takes extra arguments, but has no type
        optimizer = optax.with_extra_args_support(optimizer)
    grad_fn = jax.grad(loss)

    def step(carry, k):
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params)
        if spoil is not None:
            grad = jax.tree.map(lambda g: jnp.where(k == spoil, jnp.nan, g), grad)
        functions = {"value_fn": loss, "grad_fn": grad_fn}
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, **functions)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (start, optimizer.init(start)), np.arange(steps))[0][0]


def wrapped(case, start):
    """The same run through each of optax's combinators, and alone."""
    optimizer = case.make()
    results = {
        "alone": walk(optimizer, start),
        "chain": walk(optax.chain(optax.identity(), optimizer, optax.scale(1.0)), start),
        "MultiSteps": walk(optax.MultiSteps(optimizer, 2), start, 2 * STEPS),
        "apply_if_finite": walk(optax.apply_if_finite(optimizer, 3), start, STEPS + 1, spoil=2),
    }
    if case.id != "genetic":  # a key is no number to inject
        results["inject_hyperparams"] = walk(
            optax.inject_hyperparams(case.constructor)(**case.settings), start
        )
    return results


@pytest.mark.parametrize("case", ONE_FORM_EACH, **by_id)
def test_in_a_combinator_that_changes_nothing_it_does_what_it_does_alone(case):
    start = vector_and_matrix(jnp.asarray(START))
    results = jax.jit(lambda start: wrapped(case, start))(start)
    alone = results.pop("alone")
    for name, params in results.items():
        rtol = 1e-6 if name == "MultiSteps" else RTOL  # it accumulates in float32
        for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=rtol, err_msg=name)


@pytest.mark.parametrize("case", MASKABLE, **by_id)
def test_multi_transform_moves_the_leaves_it_is_given_to(case):
    """They go the way of the recursion in which the others are held fixed."""
    start = {"moving": jnp.asarray(START[:2]), "still": jnp.asarray(START[2:])}
    labels = {"moving": "this", "still": "none"}
    both = optax.multi_transform({"this": case.make(), "none": optax.set_to_zero()}, labels)
    ours = jax.jit(lambda start: walk(both, start))(start)
    held = lambda x: gradient(np.concatenate([x, START[2:]]))[:2]
    expected = case.recursion(held, START[:2], STEPS, **case.settings)[-1]
    np.testing.assert_allclose(ours["moving"], expected, rtol=RTOL)
    assert (np.asarray(ours["still"]) == START[2:]).all()


@pytest.mark.parametrize("case", MASKABLE, **by_id)
def test_leaves_that_are_none_stay_none(case):
    """As `equinox.partition` leaves them where a leaf is not trained."""
    optimizer, start = case.make(), jnp.asarray(START)
    params = {"static": None, "trained": start}
    update = jax.jit(lambda p: optimizer.update(jax.grad(loss)(p), optimizer.init(p), p)[0])
    updates = update(params)
    assert updates["static"] is None
    expected = case.recursion(gradient, START, 1, **case.settings)[1] - START
    np.testing.assert_allclose(updates["trained"], expected, rtol=1e-12)


@pytest.mark.parametrize("chain", [optax.chain, jf.optim.chain])
def test_a_chain_clips_before_it_steps(chain):
    case = next(case for case in ONE_FORM_EACH if case.id == "rmsprop-in_sqrt")
    clipped = lambda x: np.clip(gradient(x), -0.5, 0.5)
    expected = case.recursion(clipped, START, STEPS, **case.settings)[-1]
    optimizer = chain(optax.clip(0.5), case.make())
    ours = jax.jit(lambda start: walk(optimizer, start))(jnp.asarray(START))
    np.testing.assert_allclose(ours, expected, rtol=RTOL)


def test_optax_optimizers_take_our_schedules():
    schedule = jf.optim.triangular(0.01, 0.02, 3)
    ours = jax.jit(lambda start: walk(optax.sgd(schedule), start))(START)
    rates = recursions.triangular(0.01, 0.02, 3)
    np.testing.assert_allclose(ours, recursions.gd(gradient, START, STEPS, rates)[-1], rtol=RTOL)


def test_an_injected_schedule_is_evaluated_at_every_step():
    optimizer = optax.inject_hyperparams(jf.optim.momentum)(jf.optim.inverse_sqrt(0.05), beta=0.8)
    expected = recursions.momentum(gradient, START, STEPS, recursions.inverse_sqrt(0.05), 0.8)[-1]
    ours = jax.jit(lambda start: walk(optimizer, start))(START)
    np.testing.assert_allclose(ours, expected, rtol=RTOL)


def test_injected_hyperparameters_are_in_the_state_and_can_be_changed_there():
    optimizer = optax.inject_hyperparams(jf.optim.momentum)(learning_rate=0.1, beta=0.5)
    params = jnp.ones(2)
    state = optimizer.init(params)
    assert set(state.hyperparams) == {"learning_rate", "beta"}
    state.hyperparams["learning_rate"] = jnp.asarray(0.4)
    updates, _ = optimizer.update(params, state, params)
    np.testing.assert_allclose(updates, [-0.4, -0.4])


@pytest.mark.parametrize("case", ONE_FORM_EACH, **by_id)
def test_parameters_and_state_can_be_donated(case):
    """No array of a fresh state is shared with the parameters or with another of the state, which JAX refuses."""
    optimizer, params = case.make(), jnp.asarray(START)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        functions = {"value_fn": loss, "grad_fn": jax.grad(loss)}
        updates, state = optimizer.update(jax.grad(loss)(params), state, params, **functions)
        return optax.apply_updates(params, updates), state

    state, after = optimizer.init(params), params + 0.0
    for _ in range(2):
        after, state = step(after, state)
    assert np.isfinite(after).all()
    assert not params.is_deleted()
