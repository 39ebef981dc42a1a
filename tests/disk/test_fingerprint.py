"""Fingerprints: equal for the same trial made anew, different for another program or other numbers in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow._disk import fingerprint


class Host:
    """A function that is shown by its address, where JAX does not leave that out itself."""

    def __call__(self, x):
        return np.asarray(x)


KEEP = []  # or the next one gets the address of the last


def traced(table, slope=2.0, function=jnp.sin):
    """A program with constants in a nested function, a literal, and a callback, shown by its address."""

    def inner(x):
        return function(x) * slope + jnp.asarray(table).sum()

    host = Host()
    KEEP.append(host)

    def program(x):
        looked = jax.pure_callback(host, jax.ShapeDtypeStruct((), x.dtype), x)
        return jax.lax.scan(lambda c, _: (jax.jit(inner)(c), None), looked, None, length=3)[0]

    return jax.make_jaxpr(program)(1.0)


def both(closed):
    return fingerprint.hash_program(closed), fingerprint.hash_constants(closed)


def test_the_same_program_made_anew_is_the_same():
    first, second = traced(np.arange(5.0)), traced(np.arange(5.0))
    assert both(first) == both(second)


@pytest.mark.parametrize(
    "change", [{"slope": np.nextafter(2.0, 3.0)}, {"function": jnp.cos}], ids=["slope", "cos"]
)
def test_another_program_differs(change):
    assert both(traced(np.arange(5.0), **change)) != both(traced(np.arange(5.0)))


def test_other_numbers_in_a_nested_function_differ_as_numbers_only():
    table = np.arange(5.0)
    table[3] = np.nextafter(3.0, 4.0)
    (program, constants), (same, others) = both(traced(np.arange(5.0))), both(traced(table))
    assert program == same
    assert constants != others


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros(3), np.zeros(3, np.float32)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        ([np.zeros(1), np.zeros(2)], [np.zeros(2), np.zeros(1)]),
        (np.array([0.0]), np.array([-0.0])),
        (jax.random.key(0), jax.random.key(0, impl="rbg")),
        (np.array(["a", "bc"], object), np.array(["ab", "c"], object)),
    ],
    ids=["dtype", "shape", "order", "sign of zero", "kind of key", "strings"],
)
def test_arrays_differ_by_dtype_shape_order_and_bits(a, b):
    assert fingerprint.hash_arrays(a) != fingerprint.hash_arrays(b)
