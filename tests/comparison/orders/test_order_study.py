"""Order studies: slopes of the orders on a toy and on a network, one compilation, what is left out and refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.comparison.orders.modified_equations import truncated_equation
from jaxflow.dynamics.modified_equations.step_logarithm import weights

pytestmark = pytest.mark.promotes
O = jf.optim
POINT = jnp.array([1.0, -0.7])


def loss(x):
    quadratic = 0.5 * jnp.sum(jnp.array([1.0, 3.0]) * x**2)
    return quadratic + 0.075 * jnp.sum(x**4) + 0.2 * x[0] * x[1] ** 2 + jnp.sum(jnp.sin(x))


def check(study, orders=(1, 2, 3, 4)):
    for order in orders:
        assert abs(study.slopes[order] - order) < (0.15 if order < 4 else 0.3), study


@pytest.mark.parametrize("optimizer", [O.nesterov(0.002), O.adam(optax.cosine_decay_schedule(5e-3, 200))])
def test_every_order_is_that_of_its_name(optimizer):
    check(jf.order_study(jf.family_of(optimizer, 5e-3 if "adam" in repr(optimizer) else None), loss, POINT))


def test_lamb_on_a_network_of_310_parameters():
    problem = jf.problems.mlp("digits", hidden=(4,))
    data = jax.tree.map(lambda leaf: np.asarray(leaf)[:25], problem.objective.data)
    objective = jf.Objective(problem.objective.losses, data)
    family = jf.family_of(O.traceable(optax.lamb)(5e-3))
    study = jf.order_study(family, objective, problem.params, step_sizes=0.2 / np.array([60, 90, 120, 180]))
    check(study)


def compilations():
    held, module = programs(), "comparison.orders.modified_equations"
    return held[f"{module}.errors"] + held[f"{module}.iterates"]


def test_two_programs_serve_all_orders_and_numbers():
    before = compilations()
    study = jf.order_study(jf.family_of(O.adagrad(0.02)), loss, POINT)
    check(study)
    jf.order_study(jf.family_of(O.adagrad(0.01, 1e-6)), loss, 0.9 * POINT, orders=(3,), time=0.3, warmup=0.1)
    jf.order_study(lambda h: O.adagrad(h**0.5 / 10), loss, POINT, time=0.4, orders=(1,))
    assert compilations() <= before + 2
    lines = repr(study).splitlines()
    assert lines[0].split() == ["step", "size", "order", "1", "order", "2", "order", "3", "order", "4"]
    assert len(lines) == 1 + 8 + 1
    assert lines[-1].split()[:2] == ["slope", f"{study.slopes[1]:.2f}"]


def test_it_is_the_modified_equation_that_is_solved():
    optimizer, state = O.adam(0.01), None
    for order in (1, 3):
        equation = jf.dynamics.modified(optimizer, loss, order=order)
        state = equation.init(POINT) if state is None else state
        shares = jnp.asarray(np.pad(weights(order), (0, 4 - order)))
        padded = truncated_equation(optimizer, loss, shares, 0.01).drift(0.0, state)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14),
            padded,
            equation.drift(0.0, state),
        )


def test_errors_at_the_floor_are_left_out_and_said_to_be():
    study = jf.order_study(lambda h: O.gd(h), loss, POINT, orders=(4,), time=0.2)
    used = np.asarray(study.used[4])
    assert 0 < used.sum() < 8
    assert not used[-1]
    assert f"{used.sum()} of 8" in repr(study)
    assert "* not fitted" in repr(study)
    check(study, (4,))


def test_a_start_at_a_minimum_has_no_slope():
    study = jf.order_study(jf.family_of(O.gd(0.01)), lambda x: jnp.sum(x**2), jnp.zeros(2), orders=(1,))
    assert np.isnan(study.slopes[1])
    assert "0 of 8" in repr(study)


def test_a_rough_optimizer_is_warned_of_and_runs():
    with pytest.warns(UserWarning, match="sign"):
        study = jf.order_study(jf.family_of(O.sign(0.001)), loss, POINT, orders=(1,))
    assert (
        study.fits[1].errors < 1e-10
    ).all()  # where no coordinate turns, steps and flow are one straight line


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"family": O.gd(0.1)}, TypeError, "family must be a function of the step size"),
        ({"family": lambda h: optax.adam(h)}, TypeError, "must return an optimizer of jaxflow.optim"),
        ({"objective": 3}, TypeError, "objective must be"),
        ({"orders": (0,)}, ValueError, "orders must be"),
        ({"orders": (9,)}, ValueError, "from 1 to 8, got 9"),
        ({"orders": ()}, ValueError, "one or more distinct"),
        ({"time": 0.0}, ValueError, "time must be a finite number above 0, got 0.0"),
        ({"warmup": -1.0}, ValueError, "warmup must be"),
        ({"warmup": 0.1234567}, ValueError, "simple fraction of time"),
        ({"step_sizes": [0.1, 0.2]}, ValueError, "at least three"),
        ({"step_sizes": [0.3, 0.2, 0.1]}, ValueError, "must divide warmup = 0.5, got .*0.3"),
        ({"step_sizes": [-0.1, 0.2, 0.1]}, ValueError, "positive and distinct"),
        ({"params": POINT.astype(jnp.float32)}, ValueError, "at most 2 for float32 .* got 4; enable float64"),
    ],
)
def test_bad_input_is_refused_before_anything_compiles(changes, error, message):
    arguments = {"family": lambda h: O.gd(h), "objective": loss, "params": POINT, "time": 1.0} | changes
    with pytest.raises(error, match=message):
        jf.order_study(**arguments)
