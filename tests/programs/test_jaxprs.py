"""Reading traced programs by what every version of jax keeps: shapes, not the names of parameters."""

import jax
import jax.numpy as jnp
import pytest

from jaxflow._programs.jaxprs import Reader, Value


def depends(function, *arguments):
    """For every output of a program, which of its arguments it depends on."""
    closed = jax.make_jaxpr(function)(*arguments)
    outputs = Reader().read(closed, [Value(1 << i) for i in range(len(closed.in_avals))])
    return [{i for i in range(len(closed.in_avals)) if value.depends >> i & 1} for value in outputs]


@pytest.mark.parametrize("shape", [(), (3,)])
def test_constants_carry_and_entries_of_a_scan_are_told_apart(shape):
    # Two constants, of which one reaches the carry and one the entries' results; entries as long as the arrays.
    def run(a, b, first, still, entries):
        step = lambda c, x: ((c[0] + a * x, c[1]), b * x)
        return jax.lax.scan(step, (first, still), entries)

    one = jnp.ones(shape)
    assert depends(run, one, one, one, one, jnp.ones((3, *shape))) == [{0, 2, 4}, {3}, {1, 4}]


def test_the_constants_of_a_condition_and_of_a_body_are_told_apart():
    def run(limit, rate, still, x):
        return jax.lax.while_loop(lambda c: c[0] < limit, lambda c: (c[0] + rate, 2 * c[1]), (x, still))

    # What a loop carries depends on when it ends, in both of its numbers.
    assert depends(run, 1.0, 2.0, 3.0, 4.0) == [{0, 1, 3}, {0, 1, 2, 3}]
