"""From an optimizer to its SDE: the one with its hyperparameters, schedules on the clock, and what has none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow.dynamics import sde_of

pytestmark = pytest.mark.promotes

OBJECTIVE = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0, 3.0]))
PAIRS = [
    (jf.optim.gd(0.1), jf.dynamics.sgd(OBJECTIVE, 0.1, 2)),
    (jf.optim.momentum(0.1, 0.5, ema=True), jf.dynamics.momentum(OBJECTIVE, 0.1, 2, 0.5, ema=True)),
    (jf.optim.nesterov(0.1, 0.7), jf.dynamics.nesterov_sgd(OBJECTIVE, 0.1, 2, 0.7)),
    (jf.optim.rmsprop(0.1, 0.8, 1e-3), jf.dynamics.rmsprop(OBJECTIVE, 0.1, 2, 0.8, 1e-3)),
    (jf.optim.adam(0.1, 0.8, 0.9, 1e-3), jf.dynamics.adam(OBJECTIVE, 0.1, 2, 0.8, 0.9, 1e-3)),
    (jf.optim.sign(0.1), jf.dynamics.sign_sgd(OBJECTIVE, 0.1, 2)),
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
        jf.optim.rmsprop(0.1, eps_in_sqrt=True),
        optax.sgd(0.1),
    ],
    ids=["adagrad", "debias", "lookahead", "eps_in_sqrt", "optax"],
)
def test_what_has_none_is_refused_by_name(optimizer):
    with pytest.raises(ValueError, match=r"No SDE is known of .*; there is one of gd, momentum"):
        sde_of(optimizer, OBJECTIVE, 2)
