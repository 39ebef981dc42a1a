"""Hyperparameters are arguments: one compilation for all, vmapped constructors, derivatives through a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, ONE_FORM_EACH, SCHEDULE_CASES, START, by_id, loss

import jaxflow as jf
from jaxflow._compiled import programs

pytestmark = pytest.mark.promotes

compilations = lambda: programs()["solve.iteration.iterate"]
STEPS = 20


def settings_of(case):
    """(name, value) of every numeric hyperparameter, and ("inner.name", value) of an inner optimizer's."""
    for name, value in case.make().hyperparameters.items():
        if isinstance(value, float):
            yield name, value
        elif isinstance(value, (jf.optim.Optimizer, jf.optim.Schedule)):
            yield from ((f"{name}.{inner}", number) for inner, number in value.hyperparameters.items())


def make(case, name, value):
    """The case's optimizer with one hyperparameter changed, by its constructor."""
    outer, _, inner = name.partition(".")
    if inner:
        part = case.settings[outer]
        number = part.hyperparameters[inner]
        value = part.replace(**{inner: value}) if isinstance(number, float) else part
    return case.make(**{outer: value})


def nearby(name, value):
    """Three values, far enough apart to matter and all allowed."""
    return value * np.array([1.0, 0.7, 0.4] if name == "tolerance" else [1.0, 0.9, 0.8])


@pytest.mark.parametrize("case", CASES, **by_id)
def test_a_vmapped_constructor_is_a_loop_over_its_values_and_all_loops_compile_once(case):
    """For every numeric hyperparameter; then twenty values of all of them together."""
    own_loss = lambda params: loss(params)  # a function no other test has compiled for
    run = lambda optimizer, start: end_of(optimizer, own_loss, start)
    before = compilations()
    check_vmapped(case, run, jax.jit(jax.vmap(run, (0, None))), "float64", 1e-14)
    names = [name for name, value in settings_of(case) if isinstance(value, float)]
    for i in range(20):
        optimizer = case.make()
        for name in names:
            optimizer = make_on(optimizer, name, 1 - 0.01 * i)
        run(optimizer, jnp.asarray(START))
    assert compilations() - before == 1


def end_of(optimizer, loss, start):
    return jf.iterate(optimizer, loss, start, steps=STEPS, time_step=1.0).params


def make_on(optimizer, name, factor):
    outer, _, inner = name.partition(".")
    value = optimizer.hyperparameters[outer]
    return optimizer.replace(**{outer: make_on(value, inner, factor) if inner else value * factor})


@pytest.mark.parametrize("case", SCHEDULE_CASES, **by_id)
def test_twenty_values_of_every_parameter_of_a_schedule_compile_once(case):
    own_loss = lambda params: loss(params)
    before = compilations()
    for i in range(20):
        schedule = case.make()
        for name, _ in settings_of(case):
            schedule = make_on(schedule, name, 1 + 0.02 * i if name == "growth" else 1 - 0.01 * i)
        jf.iterate(jf.optim.gd(schedule), own_loss, START, steps=2)
    assert compilations() - before == 1


def test_one_is_one_whatever_its_type():
    own_loss = lambda params: loss(params)
    before = compilations()
    for one in (1, 1.0, np.float64(1), np.float32(1), np.int64(1)):
        jf.iterate(jf.optim.gd(one), own_loss, START, steps=2)
    assert compilations() - before == 1


@pytest.mark.parametrize("case", [c for c in ONE_FORM_EACH if c.id != "genetic"], **by_id)
def test_a_vmapped_constructor_is_a_loop_over_its_values_in_single_precision(case):
    run = lambda optimizer, start: end_of(optimizer, loss, start)
    check_vmapped(case, jax.jit(run), jax.jit(jax.vmap(run, (0, None))), "float32", 1e-6)


def check_vmapped(case, one, many, dtype, tolerance):
    start = jnp.asarray(START, dtype)
    for name, value in settings_of(case):
        if not isinstance(value, float):
            continue
        values = nearby(name, value)
        stack = jax.vmap(lambda v, name=name: make(case, name, v))(jnp.asarray(values))
        stack = jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.dtype == float else leaf, stack)
        ours = many(stack, start)
        loop = np.stack([one(make(case, name, float(v)), start) for v in values])
        assert ours.dtype == loop.dtype == start.dtype
        assert np.abs(ours - loop).max() <= tolerance * np.abs(START).max(), name
        ignored = case.id == "adabound-paper" and name == "eps"  # the paper's form has none
        assert ignored or np.abs(loop[0] - loop[-1]).max() > 1e-5, name


@pytest.mark.parametrize("case", SCHEDULE_CASES, **by_id)
def test_a_vmapped_schedule_is_a_loop_over_its_values(case):
    counts = jnp.arange(80)
    one_of, many_of = jax.jit(lambda s: s(counts)), jax.jit(jax.vmap(lambda s: s(counts)))
    for name, value in settings_of(case):
        values = value * np.array([1.0, 1.1, 1.2])
        make_schedule = lambda v, name=name: make(case, name, v)
        ours = many_of(jax.vmap(make_schedule)(jnp.asarray(values)))
        loop = np.stack([one_of(make_schedule(float(v))) for v in values])
        assert np.abs(ours - loop).max() <= 1e-14
        assert np.abs(loop[0] - loop[-1]).max() > 1e-3, name


def flat_along(params):
    """A loss whose gradient is exactly 0 along the first coordinate."""
    return loss(params.at[0].set(0.0))


WEIGHTS = np.array([1.0, -2.0, 0.5, 3.0])


def outcome(arguments):
    """A weighted sum of the last parameters, as a function of (optimizer, start)."""
    optimizer, start = arguments
    return jf.iterate(optimizer, flat_along, start, steps=STEPS, time_step=1.0).params @ WEIGHTS


hypergradient = jax.jit(jax.grad(outcome))


@pytest.mark.parametrize("case", [case for case in CASES if case.differentiable], **by_id)
def test_derivatives_through_a_run_are_finite_where_a_coordinate_has_no_gradient(case):
    """That coordinate stays where it began, so its derivative is its weight, exactly."""
    by_optimizer, by_start = hypergradient((case.make(), jnp.asarray(START)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((by_optimizer, by_start)))
    assert type(by_optimizer) is type(case.make())
    if not case.decays:
        assert float(by_start[0]) == pytest.approx(WEIGHTS[0], rel=1e-14)


@pytest.mark.parametrize("constructor", ["adam", "swats"])
def test_derivatives_are_finite_while_a_warm_up_begins_at_rate_0(constructor):
    optimizer = getattr(jf.optim, constructor)(jf.optim.warmup(0.02, 5))
    assert all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(hypergradient((optimizer, jnp.asarray(START))))
    )


@pytest.mark.parametrize("id", ["nesterov-lookahead", "amsgrad", "nadam-decay"])
def test_derivatives_are_the_central_differences(id):
    """Along relative changes of all hyperparameters and the start together."""
    case = next(case for case in CASES if case.id == id)
    arguments = (case.make(), jnp.asarray(START))
    shifted = [jax.tree.map(lambda leaf, s=sign: leaf * (1 + s * 1e-5), arguments) for sign in (-1, 1)]
    difference = float(outcome(shifted[1]) - outcome(shifted[0])) / 2e-5
    terms = jax.tree.map(lambda g, leaf: jnp.sum(g * leaf), hypergradient(arguments), arguments)
    assert float(sum(jax.tree.leaves(terms))) == pytest.approx(difference, rel=1e-7)
