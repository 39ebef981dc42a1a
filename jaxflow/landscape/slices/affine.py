r"""A function along directions, with what is affine in the coordinates computed once for all points.

The parameters at coordinates x are $\theta_0 + \sum_i x_i d_i$. A first layer applied to fixed data is then
$z_0 + \sum_i x_i z_i$, with few products for all points, and so is all else that is linear in the parameters.
The program of the function is read operation by operation. What depends on no coordinate, and what is affine in them,
is evaluated at once; the rest is put on a tape, which is played at every point.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxflow._programs.jaxprs import apply_operation, called_program

PyTree = Any

# Linear in their first operand, where the others are known; linear in either, where the other is known; and sums.
IN_FIRST = {
    "reshape",
    "broadcast_in_dim",
    "transpose",
    "squeeze",
    "expand_dims",
    "neg",
    "reduce_sum",
    "slice",
    "div",
}
IN_EITHER = {"mul", "dot_general", "conv_general_dilated"}
SUMS = {"add": 1, "add_any": 1, "sub": -1}  # and the sign of the second


class Known(NamedTuple):
    """A value that depends on no coordinate."""

    value: Any


class Affine(NamedTuple):
    """A value that is `base` plus the coordinates times the `slopes`."""

    base: Any
    slopes: tuple

    def at(self, coordinates: jax.Array) -> jax.Array:
        """The value at coordinates (k,)."""
        value = self.base
        for i, slope in enumerate(self.slopes):
            value = value + coordinates[i].astype(value.dtype) * slope
        return value


class Late:
    """A value that is computed at every point."""


class Step(NamedTuple):
    """An operation on the tape, with the program that it is part of."""

    jaxpr: Jaxpr
    eqn: Any
    inputs: list
    outputs: list[Late]


def evaluate_along(
    function: Callable[[PyTree], Any], center: PyTree, vectors: PyTree
) -> Callable[[jax.Array], Any]:
    """`x -> function(center + x · vectors)` for coordinates x (k,), of which the common part is computed here."""
    count = jax.tree.leaves(vectors)[0].shape[0]
    closed = jax.make_jaxpr(function)(center)
    arguments = [
        Affine(base, tuple(slopes[i].astype(base.dtype) for i in range(count)))
        for base, slopes in zip(jax.tree.leaves(center), jax.tree.leaves(vectors), strict=True)
    ]
    tape: list[Step] = []
    (result,) = _read(closed, arguments, tape)

    def at(coordinates: jax.Array) -> Any:
        values: dict[int, Any] = {}

        def value_of(node: Any) -> Any:
            if isinstance(node, Known):
                return node.value
            if isinstance(node, Affine) and id(node) not in values:
                values[id(node)] = node.at(coordinates)
            return values[id(node)]

        for step in tape:
            found = apply_operation(step.jaxpr, step.eqn, [value_of(node) for node in step.inputs])
            values.update(zip(map(id, step.outputs), found, strict=True))
        return value_of(result)

    return at


def _read(closed: ClosedJaxpr, arguments: Sequence[Any], tape: list[Step]) -> list:
    """The outputs of a program; what has to wait for coordinates is put on the tape."""
    jaxpr = closed.jaxpr
    seen = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*map(Known, closed.consts), *arguments], strict=True))
    look = lambda variable: Known(variable.val) if isinstance(variable, Literal) else seen[variable]
    for eqn in jaxpr.eqns:
        inputs = [look(variable) for variable in eqn.invars]
        if all(isinstance(node, Known) for node in inputs):
            outputs = [Known(x) for x in apply_operation(jaxpr, eqn, [node.value for node in inputs])]
        elif (program := called_program(eqn)) is not None:
            outputs = _read(program, inputs, tape)
        elif (linear := _affine(jaxpr, eqn, inputs)) is not None:
            outputs = [linear]
        else:
            outputs = [Late() for _ in eqn.outvars]
            tape.append(Step(jaxpr, eqn, inputs, outputs))
        seen.update(zip(eqn.outvars, outputs, strict=True))
    return [look(variable) for variable in jaxpr.outvars]


def _affine(jaxpr: Jaxpr, eqn: Any, inputs: list) -> Affine | None:
    """The result of an operation on affine values, if it is affine."""
    name = eqn.primitive.name
    moving = [i for i, node in enumerate(inputs) if not isinstance(node, Known)]
    if not all(isinstance(inputs[i], Affine) for i in moving):
        return None
    if name in SUMS:
        return _sum(inputs, SUMS[name])
    if moving != [0] and not (name in IN_EITHER and len(moving) == 1):
        return None
    floats = jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating)
    if name not in IN_FIRST | IN_EITHER and not (name == "convert_element_type" and floats):
        return None
    node = inputs[moving[0]]

    def apply(x: Any) -> Any:
        values = [x if i == moving[0] else other.value for i, other in enumerate(inputs)]
        return apply_operation(jaxpr, eqn, values)[0]

    return Affine(apply(node.base), tuple(map(apply, node.slopes)))


def _sum(inputs: list, sign: int) -> Affine:
    """The first value plus or minus the second, of which at least one is affine."""
    bases = [node.base if isinstance(node, Affine) else node.value for node in inputs]
    slopes = [node.slopes if isinstance(node, Affine) else None for node in inputs]
    add = (lambda x, y: x + y) if sign > 0 else (lambda x, y: x - y)
    one, other = slopes
    if one is not None and other is not None:
        return Affine(add(*bases), tuple(map(add, one, other)))
    turned = tuple(sign * slope for slope in other or ())
    return Affine(add(*bases), turned if one is None else one)
