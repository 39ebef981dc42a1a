"""Values that are refused as plain numbers may arrive traced, in a sweep's lane: what they mean is defined."""

import jax
import numpy as np
import pytest
from cases import CASES, SCHEDULE_CASES, START, by_id, loss, vector_and_matrix

import jaxflow as jf

pytestmark = pytest.mark.promotes


def lanes(schedule, lengths, steps=6):
    counts = np.arange(steps)
    return np.asarray(jax.jit(jax.vmap(lambda length: schedule(length)(counts)))(np.asarray(lengths)))


def test_a_phase_of_no_length_is_over_when_it_begins():
    ramp = lanes(lambda steps: jf.optim.warmup(1.0, steps), [0.0, 2.0, 5.0])
    assert np.allclose(ramp, [np.ones(6), [0, 0.5, 1, 1, 1, 1], np.arange(6) / 5], atol=1e-15)
    half = lanes(
        lambda share: jf.optim.one_cycle(1.0, 4, warm_fraction=share), [0.25]
    )  # the peak is at step 0
    falling = 4e-6 + (1 - 4e-6) * (1 + np.cos(np.pi * np.arange(4) / 3)) / 2
    assert np.allclose(half[0, :4], falling, atol=1e-12)
    assert (lanes(lambda s: jf.optim.triangular(0.1, 1.0, s), [0.0]) == 0.1).all()
    assert (lanes(lambda s: jf.optim.sgdr(1.0, s, 2.0), [0.0]) == 1).all()


@pytest.mark.parametrize("case", SCHEDULE_CASES, **by_id)
def test_schedules_are_finite_where_a_parameter_is_0(case):
    numbers = {name: value for name, value in case.settings.items() if isinstance(value, (int, float))}
    for name in numbers:
        at = lambda x, k, name=name: case.make(**{name: x})(k)
        both = jax.jit(jax.vmap(jax.value_and_grad(at), (None, 0)))
        values, slopes = both(0.0, np.arange(4.0))
        assert np.isfinite(values).all(), name
        assert np.isfinite(slopes).all(), name


@pytest.mark.parametrize("case", CASES, **by_id)
def test_optimizers_are_finite_where_a_number_is_0_or_1(case):
    """Their derivatives too; a decay of 1 is, nearly, the mean of all that has been."""
    numbers = {name: value for name, value in case.settings.items() if isinstance(value, float)}
    changed = [(name, numbers | {name: value}) for name in numbers for value in (0.0, 1.0)]

    def end(numbers):
        run = jf.iterate(case.make(**numbers), loss, vector_and_matrix(START), steps=4, time_step=1.0)
        return loss(run.params)

    run = jax.grad(end) if case.differentiable else end
    stacked = jax.tree.map(lambda *x: np.stack(x), *(n for _, n in changed))
    ends = jax.tree.leaves(jax.jit(jax.vmap(run))(stacked))
    bad = ~np.all([np.isfinite(x) for x in ends], axis=0)
    assert not bad.any(), [name for (name, _), is_bad in zip(changed, bad, strict=True) if is_bad]


@jax.jit
def restarting(peak, period, growth, k):
    return jf.optim.sgdr(peak, period, growth).build()(k)


@pytest.mark.parametrize("growth", [1, 2, 3, 4, 7, 10])
@pytest.mark.parametrize("period", [1, 3, 10, 100])
def test_restarts_are_where_integers_put_them(period, growth):
    """In float32, all restarts below 2²⁴ (for growth 1 a thousand of them), and the steps before them."""
    ends, length = [0], period
    while ends[-1] + length < 2**24 - 1 and len(ends) < 1000:
        ends.append(ends[-1] + length)
        length *= growth
    lengths = np.diff(ends)
    padded = np.pad(ends, (0, 1000 - len(ends)), mode="edge")  # so that one program serves all
    at = lambda k: np.asarray(restarting(*map(np.float32, (1.0, period, growth, k))))[: len(ends)]
    assert (at(padded) == 1).all()
    before = 0.5 * (1 + np.cos(np.pi * (lengths - 1) / lengths))
    assert np.abs(at(padded - 1)[1:] - before).max() <= 1e-6
