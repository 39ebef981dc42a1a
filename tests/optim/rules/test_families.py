"""Families: the optimizer itself at its own step, one limit as the step falls, and who has none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf

pytestmark = pytest.mark.promotes
POINT = jnp.array([1.0, -0.7])
O = jf.optim
lamb, optax_sgd = O.traceable(optax.lamb), O.traceable(optax.sgd)


def loss(x):
    return jnp.sum(jnp.cosh(x)) + 0.3 * x[0] * x[1] ** 2


RULED = [
    O.gd(0.1),
    O.newton(0.1, 0.5),
    O.sign(0.1),
    O.momentum(0.1),
    O.momentum(0.1, ema=True, debias=True),
    O.nesterov(0.1),
    O.nesterov(0.1, lookahead=True),
    O.sgdw(0.1),
    O.sgdw(0.1, multiplier=O.warmup(1.0, 20)),
    O.adagrad(0.1),
    O.rmsprop(0.1),
    O.adam(0.1),
    O.adamw(0.1),
    O.adamw(0.1, multiplier=0.5),
    O.amsgrad(0.1),
    O.radam(0.1),
    O.nadam(0.1),
    O.adabound(0.1),
    lamb(0.1, weight_decay=0.1),
    optax_sgd(0.1),
    optax_sgd(0.1, momentum=0.9),
    O.chain(O.l2_regularization(0.1), O.adam(0.1)),
]


@pytest.mark.parametrize("optimizer", RULED, ids=repr)
def test_at_its_own_step_it_is_the_optimizer(optimizer):
    same = jf.family_of(optimizer)(0.1)
    assert jax.tree.structure(same) == jax.tree.structure(optimizer) or "warmup" in repr(optimizer)
    assert optimizer.constructor is same.constructor
    state, params = optimizer.init(POINT), POINT
    extra = {"grad_fn": jax.grad(loss)}
    updates = [o.update(jax.grad(loss)(params), state, params, **extra)[0] for o in (optimizer, same)]
    np.testing.assert_allclose(*updates, rtol=1e-12)


def test_hyperparameters_at_a_quarter_of_the_step():
    quarter = lambda optimizer: jf.family_of(optimizer)(0.025).hyperparameters
    numbers = lambda optimizer, *names: [float(quarter(optimizer)[name]) for name in names]
    root = 0.9**0.25
    np.testing.assert_allclose(numbers(O.momentum(0.1), "learning_rate", "beta"), [0.1 / 16, root])
    np.testing.assert_allclose(numbers(O.momentum(0.1, ema=True), "learning_rate"), [0.1 / 4])
    np.testing.assert_allclose(numbers(O.sgdw(0.1, weight_decay=1e-3), "weight_decay"), [4e-3])
    np.testing.assert_allclose(numbers(O.adagrad(0.1, 1e-6), "learning_rate", "eps"), [0.05, 2e-6])
    names = "learning_rate", "b1", "final_learning_rate", "gamma"
    np.testing.assert_allclose(numbers(O.adabound(0.1), *names), [0.025, root, 0.025, 2.5e-4])
    np.testing.assert_allclose(numbers(lamb(0.1), "learning_rate", "b1"), [0.025, root])
    np.testing.assert_allclose(numbers(optax_sgd(0.1, 0.9), "learning_rate", "momentum"), [0.1 / 16, root])
    assert quarter(optax_sgd(0.1))["momentum"] is None
    schedule_free = O.traceable(optax.contrib.schedule_free_adamw)(0.1, b1=0.9, b2=0.98)
    np.testing.assert_allclose(numbers(schedule_free, "learning_rate", "b1", "b2"), [0.025, 0.9, 0.98**0.25])


def test_schedules_are_stretched_in_time():
    schedule = O.inverse_sqrt(0.1)
    family = jf.family_of(O.momentum(schedule, O.one_cycle_momentum(100)), time_step=0.1)
    chosen = family(0.025).hyperparameters
    np.testing.assert_allclose(chosen["learning_rate"](12), schedule(3) / 16)
    np.testing.assert_allclose(chosen["beta"](12), O.one_cycle_momentum(100)(3) ** 0.25)


def test_iterates_of_a_family_have_a_limit_and_h_may_be_traced():
    ends = []
    # From an empty sum AdaGrad's first steps are of size √h, and so is their trace.
    begun = O.adagrad(0.1, initial_accumulator=1.0)
    for family in map(jf.family_of, (O.sgdw(0.1, weight_decay=0.1), begun, O.adabound(0.1))):
        end = lambda h, f=family: jf.iterate(
            f(h), loss, POINT, steps=jnp.round(1 / h).astype(int), every=None
        )
        ends.append([np.asarray(jax.jit(end)(h).params) for h in (0.04, 0.02, 0.01)])
    for coarse, middle, fine in ends:
        gaps = np.linalg.norm(coarse - middle), np.linalg.norm(middle - fine)
        assert gaps[1] < 0.75 * gaps[0]
        assert np.linalg.norm(fine - np.asarray(POINT)) > 5 * gaps[1]


@pytest.mark.parametrize(
    ("optimizer", "time_step", "message"),
    [
        (O.lookahead(O.gd(0.1)), None, "known family .*lookahead"),
        (O.swats(0.1), None, "known family .*swats"),
        (O.genetic(key=jax.random.key(0)), None, "known family .*genetic"),
        (optax.adam(0.1), None, "hides its numbers"),
        (O.chain(O.gd(0.1), O.gd(0.1)), None, "one optimizer to have a family, got 2"),
        (O.nadam(0.1, momentum_decay=4e-3), None, "momentum_decay must be None"),
        (O.gd(O.inverse_sqrt(0.1)), None, "time_step must be a number above 0"),
        (O.gd(0.1), -1.0, "time_step must be a finite number above 0, got -1.0"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_without_a_family(optimizer, time_step, message):
    with pytest.raises(ValueError, match=message):
        jf.family_of(optimizer, time_step)


def test_only_optimizers_and_positive_steps():
    with pytest.raises(TypeError, match=r"optimizer must be one of jaxflow\.optim, got 3"):
        jf.family_of(3)
    with pytest.raises(ValueError, match="h must be a finite number above 0, got 0"):
        jf.family_of(O.gd(0.1))(0)
