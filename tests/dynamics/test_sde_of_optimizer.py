"""From an optimizer to its SDE: the one with its hyperparameters, schedules on the clock, and what has none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import expm

import jaxflow as jf
from jaxflow.dynamics import sde_of

pytestmark = pytest.mark.promotes

OBJECTIVE = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0, 3.0]))
PAIRS = [
    (jf.optim.gd(0.1), jf.dynamics.sgd(OBJECTIVE, 0.1, 2)),
    (jf.optim.momentum(0.1, 0.5, ema=True), jf.dynamics.momentum_sgd(OBJECTIVE, 0.1, 2, 0.5, ema=True)),
    (jf.optim.nesterov(0.1, 0.7), jf.dynamics.nesterov_sgd(OBJECTIVE, 0.1, 2, 0.7)),
    (jf.optim.rmsprop(0.1, 0.8, 1e-3), jf.dynamics.rmsprop_sde(OBJECTIVE, 0.1, 2, 0.8, 1e-3)),
    (jf.optim.adam(0.1, 0.8, 0.9, 1e-3), jf.dynamics.adam_sde(OBJECTIVE, 0.1, 2, 0.8, 0.9, 1e-3)),
    (jf.optim.sign(0.1), jf.dynamics.sign_sgd(OBJECTIVE, 0.1, 2)),
    (
        jf.optim.rmsprop(0.1, 0.8, 1e-3, eps_in_sqrt=True),
        jf.dynamics.rmsprop_sde(OBJECTIVE, 0.1, 2, 0.8, 1e-3, eps_in_sqrt=True),
    ),
]


@pytest.mark.parametrize(
    ("optimizer", "dynamics"), PAIRS, ids=[repr(pair[0]).split("(")[0] for pair in PAIRS]
)
def test_every_known_one_keeps_its_numbers(optimizer, dynamics):
    found = sde_of(optimizer, OBJECTIVE, 2)
    assert repr(found) == repr(dynamics)
    assert jax.tree.structure(found) == jax.tree.structure(dynamics)
    assert jax.tree.leaves(found)[1:-1] == jax.tree.leaves(dynamics)[1:-1]
    assert found.time_step == pytest.approx(0.1)


def test_the_order_is_handed_on_and_two_is_the_default_where_it_costs_nothing():
    for optimizer in (jf.optim.momentum(0.1, 0.5), jf.optim.nesterov(0.1, 0.5)):
        assert sde_of(optimizer, OBJECTIVE, 2).hyperparameters["order"] == 2
        assert sde_of(optimizer, OBJECTIVE, 2, order=1).hyperparameters["order"] == 1
    assert sde_of(jf.optim.gd(0.1), OBJECTIVE, 2, order="2+").hyperparameters["order"] == "2+"
    with pytest.raises(ValueError, match="order must be None for adam"):
        sde_of(jf.optim.adam(0.1), OBJECTIVE, 2, order=2)
    with pytest.raises(ValueError, match="order must be 1 or 2, got 3"):
        sde_of(jf.optim.momentum(0.1), OBJECTIVE, 2, order=3)


@pytest.mark.parametrize("make", [jf.optim.momentum, jf.optim.nesterov])
def test_the_default_has_the_iterates_mean_to_second_order(make):
    # Half a step of offset was what the equation of order 1 failed by: the mean error falls fourfold as η halves.
    centre = 1.0

    def error(rate):
        steps = round(1.6 / rate)
        run = jf.iterate(make(rate, 0.5), OBJECTIVE, jnp.asarray(3.0), steps=steps)
        drift = sde_of(make(rate, 0.5), OBJECTIVE, 1).drift
        state = sde_of(make(rate, 0.5), OBJECTIVE, 1).init(jnp.asarray(3.0))
        linear = lambda z: jnp.stack(drift(0.0, type(state)(z[0] + centre, z[1])))
        matrix = np.asarray(jax.jacfwd(linear)(jnp.zeros(2)))
        mean = expm(matrix * rate * steps) @ np.array([3.0 - centre, 0.0])
        return abs(mean[0] + centre - run.params)

    assert np.log2(error(0.02) / error(0.01)) > 1.8


def test_schedules_are_put_on_the_clock():
    rate = jf.optim.inverse_sqrt(0.1)
    found = sde_of(jf.optim.gd(rate), OBJECTIVE, 2, steps=10)
    times = jf.iterate(jf.optim.gd(rate), OBJECTIVE, 1.0, steps=3).times
    np.testing.assert_allclose([found.time_step(t) for t in times], [rate(k) for k in range(4)], rtol=1e-12)
    with pytest.raises(ValueError, match=r"steps must be given .* got None"):
        sde_of(jf.optim.gd(rate), OBJECTIVE, 2)


@pytest.mark.parametrize(
    "optimizer",
    [
        jf.optim.adagrad(0.1),
        jf.optim.momentum(0.1, ema=True, debias=True),
        jf.optim.nesterov(0.1, lookahead=True),
        optax.sgd(0.1),
    ],
    ids=["adagrad", "debias", "lookahead", "optax"],
)
def test_what_has_none_is_refused_by_name(optimizer):
    with pytest.raises(ValueError, match=r"No SDE is known for .*; there is one for gd, momentum"):
        sde_of(optimizer, OBJECTIVE, 2)
