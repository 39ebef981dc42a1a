"""Schedules against their NumPy oracles, at their landmarks, and in both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recursions
from cases import SCHEDULE_CASES, by_id

import jaxflow as jf

COUNTS = np.arange(200)
optim = jf.optim


evaluate = jax.jit(lambda schedule, counts: schedule(counts))
evaluate_each = jax.jit(lambda schedule, lists: [schedule(counts) for counts in lists])


def values(oracle, counts=COUNTS):
    return np.array([oracle(int(k)) for k in counts])


def test_the_table_has_every_schedule_and_no_parameter_is_left_out():
    assert {case.constructor.__name__ for case in SCHEDULE_CASES} == set(optim.SCHEDULES)
    for name, constructor in optim.SCHEDULES.items():
        settings = [set(c.settings) for c in SCHEDULE_CASES if c.constructor.__name__ == name]
        assert set(constructor.signature.parameters) == set.union(*settings)


@pytest.mark.parametrize("case", SCHEDULE_CASES, **by_id)
def test_values_are_the_oracles(case):
    expected = values(case.oracle(**case.settings))
    ours = evaluate(case.make(), np.asarray(COUNTS))
    assert ours.dtype == jnp.float64
    assert np.abs(ours - expected).max() <= 1e-12 * np.abs(expected).max()


@pytest.mark.parametrize("case", SCHEDULE_CASES, **by_id)
def test_a_count_of_any_integer_dtype_and_shape_gives_float64(case):
    schedule = case.make()
    expected = values(case.oracle(**case.settings), [3, 17])
    counts = [np.array([[3, 17]], dtype) for dtype in (np.int32, np.uint8, np.int64, np.float32)]
    for ours in evaluate_each(schedule, counts):
        assert np.abs(np.asarray(ours)[0] - expected).max() <= 1e-14
    one = schedule(17)
    assert one.shape == ()
    assert one.dtype == jnp.float64


@pytest.mark.parametrize("growth", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("period", [1.0, 5.0, 10.0, 7.3])
def test_sgdr_restarts_on_time_for_thousands_of_steps(growth, period):
    """The error is relative to the highest rate; one restart a step late would be an error of 1."""
    last = 300 if growth == 1 else 1e4  # the oracle counts every cycle
    counts = np.concatenate([np.arange(300), np.geomspace(1, last, 200).astype(int)])
    ours = evaluate(optim.sgdr(1.0, period, growth), jnp.asarray(counts))
    assert np.abs(ours - values(recursions.sgdr(0.0, 1.0, period, growth), counts)).max() <= 1e-9


@pytest.fixture
def single_precision():
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize("growth", [1.0, 2.0, 3.0])
def test_sgdr_restarts_on_time_in_single_precision(growth, single_precision):
    counts = np.arange(200 if growth == 1 else 2000)
    ours = np.asarray(evaluate(optim.sgdr(1.0, 5.0, growth), jnp.asarray(counts)))
    assert ours.dtype == np.float32
    assert np.abs(ours - values(recursions.sgdr(0.0, 1.0, 5.0, growth), counts)).max() <= 1e-3


def test_a_growth_near_one_is_close_to_none():
    counts = np.arange(40)  # none of them a multiple of the period, where one has restarted and the other not
    gap = np.subtract(*(evaluate(optim.sgdr(1.0, 7.3, growth), counts) for growth in (1 + 1e-7, 1.0)))
    assert np.abs(gap).max() <= 1e-4


def test_one_cycle_has_its_landmarks_where_pytorch_has_them():
    rate = optim.one_cycle(2.0, 100, start_factor=25.0, final_factor=1e4, warm_fraction=0.3)
    assert np.allclose(
        evaluate(rate, np.array([0, 29, 99, 500])), [2 / 25, 2.0, 2 / 25e4, 2 / 25e4], rtol=1e-14
    )
    beta = optim.one_cycle_momentum(100, 0.85, 0.95)
    assert np.allclose(evaluate(beta, np.array([0, 29, 99, 500])), [0.95, 0.85, 0.95, 0.95], rtol=1e-14)


def test_a_length_may_be_fractional():
    assert float(optim.warmup(1.0, 2.5)(2)) == pytest.approx(0.8, rel=1e-15)
    assert float(optim.triangular(0.0, 1.0, 2.5)(2)) == pytest.approx(0.8, rel=1e-15)


@pytest.mark.parametrize("case", SCHEDULE_CASES, **by_id)
def test_derivatives_in_every_parameter_are_finite_at_every_count(case):
    jacobian = jax.jit(jax.jacfwd(lambda schedule: schedule(jnp.asarray(COUNTS))))(case.make())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jacobian))


def test_the_derivative_of_a_schedule_is_the_calculus_one():
    """d/dη of η/√(k+1), and of the length of a warm-up, -peak k/steps²."""
    by_value = jax.jit(jax.grad(lambda s: s(8)))(optim.inverse_sqrt(0.3)).hyperparameters["value"]
    by_steps = jax.jit(jax.grad(lambda s: s(3)))(optim.warmup(0.5, 10)).hyperparameters["steps"]
    assert float(by_value) == pytest.approx(1 / 3, rel=1e-15)
    assert float(by_steps) == pytest.approx(-0.5 * 3 / 100, rel=1e-14)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.constant(-0.1), "value must be .* at least 0, got -0.1"),
        (lambda: optim.inverse_sqrt(float("nan")), "value must be"),
        (lambda: optim.warmup(0.1, 0), "steps must be .* above 0"),
        (lambda: optim.warmup(-1.0, 5), "peak must be"),
        (lambda: optim.warmup(0.1, 5, start=-1), "start must be"),
        (lambda: optim.triangular(0.1, 0.2, 0), "half_period must be"),
        (lambda: optim.triangular(0.1, float("inf"), 3), "high must be"),
        (lambda: optim.sgdr(0.1, 10, 0.5), "growth must be at least 1"),
        (lambda: optim.sgdr(0.1, -10), "period must be"),
        (lambda: optim.one_cycle(0.1, 3), "steps must be large enough"),
        (lambda: optim.one_cycle(0.1, 100, warm_fraction=1.0), "warm_fraction must be between 0 and 1"),
        (lambda: optim.one_cycle(0.1, 100, start_factor=0), "start_factor must be"),
        (lambda: optim.one_cycle_momentum(100, low=-0.1), "low must be"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_number_is_refused():
    for value in ("fast", None, True):
        with pytest.raises(TypeError, match="value must be"):
            optim.constant(value)
    with pytest.raises(TypeError, match="complex"):
        optim.constant(1j)
