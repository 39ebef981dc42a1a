"""Every optimizer, in every form, against the NumPy recursions: the same numbers to 1e-12 over 100 steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recursions
from cases import CASES, START, as_tree, by_id, gradient, loss

import jaxflow as jf

pytestmark = pytest.mark.promotes

STEPS = 100
DETERMINISTIC = [case for case in CASES if case.recursion]
# Rates that fall to a half and rise again, beginning at the rate itself.
SCHEDULE = lambda rate: (jf.optim.sgdr(rate, 30, low=rate / 2), recursions.sgdr(rate / 2, rate, 30))


def path(optimizer, start=START, loss=loss):
    """All iterates of the library's optimizer, flattened: (steps + 1, 4)."""
    values = jf.iterate(optimizer, loss, start, steps=STEPS, time_step=1.0).values
    return np.concatenate([np.reshape(leaf, (STEPS + 1, -1)) for leaf in jax.tree.leaves(values)], axis=1)


def error(ours, reference):
    """The largest difference, relative to the largest number of the path."""
    assert ours.shape == reference.shape
    return np.abs(ours - reference).max() / np.abs(reference).max()


def reference(case, **changes):
    return case.recursion(gradient, START, STEPS, **case.settings | changes)


def test_the_table_has_every_optimizer_and_no_setting_is_left_to_its_default():
    assert {case.constructor.__name__ for case in CASES} == set(jf.optim.OPTIMIZERS)
    for case in CASES:
        numeric = {k for k, v in case.make().hyperparameters.items() if isinstance(v, float)}
        assert numeric <= set(case.settings)


@pytest.mark.parametrize("case", DETERMINISTIC, **by_id)
def test_constant_rate(case):
    assert error(path(case.make()), reference(case)) <= 1e-12


@pytest.mark.parametrize("case", [c for c in DETERMINISTIC if "learning_rate" in c.settings], **by_id)
def test_scheduled_rate_and_a_pytree_of_mixed_shapes(case):
    ours, oracle = SCHEDULE(case.settings["learning_rate"])
    walked = path(case.make(learning_rate=ours), as_tree(START))
    assert error(walked, reference(case, learning_rate=oracle)) <= 1e-12


def test_lookahead_around_a_scheduled_optimizer_on_a_pytree():
    ours, oracle = SCHEDULE(0.02)
    walked = path(jf.optim.lookahead(jf.optim.momentum(ours, 0.8), 6, 0.7), as_tree(START))
    settings = {"beta": 0.8, "steps_between": 6, "alpha": 0.7}
    assert error(walked, recursions.lookahead_momentum(gradient, START, STEPS, oracle, **settings)) <= 1e-12


@pytest.mark.parametrize("form", [{}, {"ema": True}])
def test_momentum_whose_beta_follows_one_cycle(form):
    ours = jf.optim.momentum(0.02, jf.optim.one_cycle_momentum(STEPS), **form)
    oracle = recursions.one_cycle_momentum(steps=STEPS)
    theirs = recursions.momentum(gradient, START, STEPS, 0.02, oracle, **form)
    assert error(path(ours), theirs) <= 1e-12


@pytest.mark.parametrize("constructor", ["nesterov", "sgdw"])
def test_a_beta_schedule_that_is_constant_is_that_beta(constructor):
    make = getattr(jf.optim, constructor)
    forms = [{}, {"lookahead": True} if constructor == "nesterov" else {"multiplier": 0.7}]
    for form in forms:
        theirs = getattr(recursions, constructor)(gradient, START, STEPS, 0.02, 0.8, **form)
        assert error(path(make(0.02, jf.optim.constant(0.8), **form)), theirs) <= 1e-12


def test_the_papers_multiplier_may_be_a_schedule_apart_from_the_rate():
    ours, oracle = SCHEDULE(0.7)
    for name in ("sgdw-paper", "adamw-paper"):
        case = next(case for case in CASES if case.id == name)
        assert error(path(case.make(multiplier=ours)), reference(case, multiplier=oracle)) <= 1e-12


def test_adabound_of_the_paper_with_the_maximum_under_its_own_schedule():
    settings = {"final_learning_rate": 0.05, "gamma": 0.1, "amsbound": True, "paper": True}
    ours = path(jf.optim.adabound(jf.optim.inverse_sqrt(0.02), **settings))
    theirs = recursions.adabound(gradient, START, STEPS, recursions.inverse_sqrt(0.02), **settings)
    assert error(ours, theirs) <= 1e-12


def test_radam_has_the_papers_threshold_by_default():
    ours = path(jf.optim.radam(0.02))
    assert error(ours, recursions.radam(gradient, START, STEPS, 0.02)) <= 1e-12
    assert error(ours, recursions.radam(gradient, START, STEPS, 0.02, threshold=5.0)) > 1e-3


def test_defaults_are_those_of_the_papers():
    """Rate 1e-3, β = (.9, .999); ε 1e-8, and 1e-9 for SWATS."""
    for name in ("adam", "adamw", "amsgrad", "adabound", "radam", "nadam", "swats"):
        theirs = getattr(recursions, name)(gradient, START, STEPS)
        assert error(path(getattr(jf.optim, name)()), theirs) <= 1e-12, name
    for name in ("momentum", "nesterov", "sgdw", "adagrad", "rmsprop"):
        theirs = getattr(recursions, name)(gradient, START, STEPS, 1e-3)
        assert error(path(getattr(jf.optim, name)(1e-3)), theirs) <= 1e-12, name


@pytest.mark.parametrize("id", ["swats", "swats-relative"])
def test_swats_switches_at_the_step_the_recursion_does(id):
    case = next(case for case in CASES if case.id == id)
    _, switch = recursions.swats_with_switch(gradient, START, STEPS, **case.settings)
    run = lambda steps: jf.iterate(case.make(), loss, START, steps=jnp.asarray(steps), every=None)
    assert switch > 1
    assert not run(switch).state.optimizer.switched
    assert run(switch + 1).state.optimizer.switched


def test_swats_per_leaf_is_swats_on_each_leaf():
    """On a loss without coupling; the leaves switch at different steps."""
    h = np.array([1.0, 4.0, 0.5, 2.0])
    settings = {"learning_rate": 0.01, "tolerance": 1e-3, "relative": True}
    parts = [(slice(0, 2), h[:2]), (slice(2, 4), h[2:])]
    separable = lambda p: 0.5 * (h[0] * p[0][0] ** 2 + h[1] * p[0][1] ** 2 + jnp.sum(h[2:] * p[1] ** 2))
    start = [jnp.asarray(START[:2]), jnp.asarray(START[2:])]
    ours = path(jf.optim.swats(per_leaf=True, **settings), start, separable)
    theirs, switches = [], []
    for where, curvature in parts:
        walked, switch = recursions.swats_with_switch(
            lambda x, curvature=curvature: curvature * x, START[where], STEPS, **settings, reference="switch"
        )
        theirs, switches = [*theirs, walked], [*switches, switch]
    assert len(set(switches)) == 2
    assert error(ours, np.concatenate(theirs, axis=1)) <= 1e-12
