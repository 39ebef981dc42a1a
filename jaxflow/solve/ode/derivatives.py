"""Reverse mode through a solve: our loops have none, so that a derivative is taken of diffrax's solve instead."""

from collections.abc import Callable
from typing import Any

import jax

from jaxflow._compiled import combine, partition

PyTree = Any


def with_reverse_mode_of(
    other: Callable[[Any], PyTree], function: Callable[[Any], PyTree], argument: Any
) -> PyTree:
    """`function(argument)`; under reverse mode the value and the derivative are those of `other(argument)`.

    The two agree to the tolerance of the solve. Forward mode raises `TypeError`, as it does for any function with a
    reverse mode of its own.
    """
    arrays, rest = partition(argument)

    @jax.custom_vjp
    def call(arrays):
        return function(combine(arrays, rest))

    def forward(arrays):
        return jax.vjp(lambda arrays: other(combine(arrays, rest)), arrays)

    def backward(pull, cotangent):
        return pull(cotangent)

    call.defvjp(forward, backward)
    return call(arrays)
