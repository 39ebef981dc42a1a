"""Which examples made a prediction, against NumPy's sort of contributions that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.kernels import KernelMachine

ADDED = jax.random.normal(jax.random.key(0), (6, 3, 4))
START = jax.random.normal(jax.random.key(1), (3, 4))
MACHINE = KernelMachine(ADDED, START, START + ADDED.sum(0), None)
ONE = KernelMachine(ADDED[..., 0], START[:, 0], START[:, 0], None)


@pytest.mark.parametrize("point", [0, 2])
def test_the_margin_is_that_of_the_two_largest_outputs(point):
    a, b = MACHINE.margin_of(point)
    outputs = np.asarray(MACHINE.end)[point]
    assert outputs[a] == outputs.max()
    assert sorted(outputs)[-2] == outputs[b]
    expected = np.asarray(ADDED)[:, point, a] - np.asarray(ADDED)[:, point, b]
    np.testing.assert_array_equal(MACHINE.effects(point), expected)
    np.testing.assert_allclose(
        expected.sum(), np.diff(outputs[[b, a]]) - np.diff(START[point][jnp.array([b, a])])
    )
    np.testing.assert_array_equal(MACHINE.effects(point, (a, b)), expected)


@pytest.mark.parametrize(("machine", "output"), [(MACHINE, 3), (MACHINE, (1, 2)), (ONE, None)])
def test_examples_are_sorted_by_what_they_added(machine, output):
    mine = np.asarray(machine.effects(1, output))
    order = np.argsort(mine)
    helpful, harmful = machine.most_helpful(1, output, count=4), machine.most_harmful(1, output, count=6)
    np.testing.assert_array_equal(helpful.indices, order[::-1][:4])
    np.testing.assert_array_equal(helpful.values, mine[order[::-1][:4]])
    np.testing.assert_array_equal(harmful.indices, order)


def test_effects_are_traceable_and_one_output_needs_no_number():
    np.testing.assert_array_equal(ONE.effects(2), ADDED[:, 2, 0])
    single = KernelMachine(ADDED[..., :1], START[:, :1], START[:, :1], None)
    np.testing.assert_array_equal(single.effects(2, 0), ADDED[:, 2, 0])
    traced = jax.jit(lambda machine: machine.most_helpful(0, count=2))(MACHINE)
    np.testing.assert_array_equal(traced.indices, np.argsort(-MACHINE.effects(0))[:2])


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: MACHINE.effects(3), ValueError, "point must be an integer from 0 to 2, got 3"),
        (lambda: MACHINE.effects(0.5), TypeError, "point must be an integer"),
        (lambda: MACHINE.effects(0, 4), ValueError, "output must be an integer from 0 to 3, got 4"),
        (lambda: MACHINE.effects(0, (0, 1, 2)), ValueError, "a pair of outputs"),
        (lambda: ONE.effects(0, 1), ValueError, "left out for a single output"),
        (lambda: ONE.margin_of(0), ValueError, "at least two outputs"),
        (
            lambda: MACHINE.most_helpful(0, count=7),
            ValueError,
            "count must be at most the number .* 6, got 7",
        ),
        (lambda: MACHINE.most_harmful(0, count=0), ValueError, "count must be an integer at least 1"),
    ],
)
def test_refusals(call, error, said):
    with pytest.raises(error, match=said):
        call()
