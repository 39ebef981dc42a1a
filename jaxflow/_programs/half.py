"""Half precision: sums over examples that are computed in float32 all the same.

A sum over data in half precision stops growing once what an example adds is below half a unit in its last place, and
so does the sum by which reverse mode collects the contributions of all examples to one parameter.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, zero_from_primal
from jax.extend.core import Jaxpr, Literal

from jaxflow._programs.checkpoint import checkpoint
from jaxflow._programs.jaxprs import apply_operation, called_program

PyTree = Any
NUMBERS = 2**27  # of examples' gradients held at a time: 256 MiB


def is_half(x: Any) -> bool:
    """Whether a number or array is of half precision."""
    dtype = jnp.result_type(x)
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def widen(x: Any) -> jax.Array:
    """In float32 where it is of half precision."""
    return jnp.asarray(x).astype(jnp.float32) if is_half(x) else jnp.asarray(x)


def has_half(tree: PyTree) -> bool:
    """Whether any leaf is of half precision."""
    return any(map(is_half, jax.tree.leaves(tree)))


def total(
    losses: Callable[[PyTree, PyTree], jax.Array],
    params: PyTree,
    batch: PyTree,
    weights: jax.Array,
    block: int | None,
) -> jax.Array:
    r"""$\sum_i w_i \ell_i(\theta)$ in float32 at least, for losses and `weights` (B,) of a batch, `block` at a time.

    Its gradient is the sum, in float32, of the gradients of single examples, each as half precision has it. A mean
    divides it later: 1/N is below the range of float16, and what it multiplies even sooner. This is the rule of a
    `custom_jvp`, in ordinary operations, so that derivatives of any order and mode go through it.
    """
    alone = lambda p, example: widen(losses(p, jax.tree.map(lambda x: x[None], example))[0])
    # A custom rule sees no derivative in what `losses` closes over, unless that is an argument.
    one, outer = jax.closure_convert(alone, params, jax.tree.map(lambda x: x[0], batch))
    leaves, structure = jax.tree.flatten((params, outer))
    size = block_of(leaves, block or weights.shape[0])

    def loss(leaves, example):
        params, outer = jax.tree.unflatten(structure, leaves)
        return one(params, example, *outer)

    def sum_losses(leaves, batch, weights):
        return sum_examples(lambda example: loss(leaves, example), batch, weights, size)

    value = jax.custom_jvp(sum_losses)

    @partial(value.defjvp, symbolic_zeros=True)
    def rule(primals, tangents):
        (leaves, batch, weights), (along, *others) = primals, tangents
        moved = [i for i, t in enumerate(along) if not isinstance(t, SymbolicZero)]

        def loss_of_chosen(chosen, example):
            every = list(leaves)
            for i, leaf in zip(moved, chosen, strict=True):
                every[i] = leaf
            return loss(every, example)

        slope = lambda example: jax.value_and_grad(loss_of_chosen)([leaves[i] for i in moved], example)
        out, slopes = sum_examples(slope, batch, weights, size)
        products = [jnp.sum(jnp.real(widen(g) * widen(along[i]))) for i, g in zip(moved, slopes, strict=True)]
        if not all(isinstance(t, SymbolicZero) for t in jax.tree.leaves(others)):
            zero = lambda t, x: zero_from_primal(x) if isinstance(t, SymbolicZero) else t
            others = jax.tree.map(zero, others, [batch, weights])
            products.append(jax.jvp(partial(sum_losses, leaves), (batch, weights), tuple(others))[1])
        return out, sum((p.astype(out.dtype) for p in products), jnp.zeros_like(out))

    return value(leaves, batch, weights)


def block_of(params: PyTree, most: int) -> int:
    """The number of examples to take at a time, each with its own gradient."""
    numbers = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
    return min(most, max(NUMBERS // max(numbers, 1), 1))


def sum_examples(
    function: Callable[[PyTree], PyTree], batch: PyTree, weights: jax.Array, size: int
) -> PyTree:
    """Σᵢ wᵢ f(exampleᵢ) in float32, `size` examples at a time."""
    n = weights.shape[0]

    def sum_some(batch, weights, within):
        def weigh(x):
            column = lambda y: y.reshape(-1, *[1] * (x.ndim - 1))
            return jnp.where(column(within), column(weights.astype(x.dtype)) * x, 0)

        every, shape = jax.make_jaxpr(jax.vmap(function), return_shape=True)(batch)
        outputs = _evaluate(every.jaxpr, every.consts, jax.tree.leaves(batch))
        return jax.tree.unflatten(jax.tree.structure(shape), [_total_of(x, weigh) for x in outputs])

    if size >= n:
        return sum_some(batch, weights, jnp.ones(n, bool))

    @checkpoint
    def block(start):
        examples = start + jnp.arange(size)
        chosen = jnp.minimum(examples, n - 1)
        rows = jax.tree.map(lambda x: x[chosen], batch)
        return sum_some(rows, weights[chosen], examples < n)

    shape = jax.eval_shape(block, jnp.asarray(0))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
    body = lambda sums, start: (jax.tree.map(jnp.add, sums, block(start)), None)
    return lax.scan(body, zeros, jnp.arange(0, n, size))[0]


class _Products(NamedTuple):
    """A transposed `dot_general` of two arrays, before it is summed: one array for each example.

    An example's gradient in a layer's weights is an outer product, and the sum of these is one product. One
    by one they would take a hundred times as long.
    """

    lhs: jax.Array
    rhs: jax.Array
    params: dict[str, Any]
    order: tuple[int, ...]

    def array(self) -> jax.Array:
        return lax.transpose(lax.dot_general_p.bind(self.lhs, self.rhs, **self.params), self.order)

    def total(self, weighted: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """The sum over the first axis, which is one of the batch axes."""
        contracting, batch = self.params["dimension_numbers"]
        k = self.order[0]
        summed = (*contracting[0], batch[0][k]), (*contracting[1], batch[1][k])
        others = (*batch[0][:k], *batch[0][k + 1 :]), (*batch[1][:k], *batch[1][k + 1 :])
        lhs = jnp.moveaxis(weighted(jnp.moveaxis(widen(self.lhs), batch[0][k], 0)), 0, batch[0][k])
        product = lax.dot_general(lhs, widen(self.rhs), (summed, others))
        return lax.transpose(product, [axis - (axis > k) for axis in self.order[1:]])


def _total_of(x: Any, weighted: Callable[[jax.Array], jax.Array]) -> jax.Array:
    if isinstance(x, _Products) and x.order[0] < len(x.params["dimension_numbers"][1][0]):
        return x.total(weighted)
    return weighted(widen(_array(x))).sum(0)


def _array(x: Any) -> Any:
    return x.array() if isinstance(x, _Products) else x


def _evaluate(jaxpr: Jaxpr, consts: Any, inputs: Any) -> list[Any]:
    """The outputs of a program; a product that is nothing but an output is left to be summed."""
    seen = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))
    look = lambda v: jnp.asarray(v.val, v.aval.dtype) if isinstance(v, Literal) else seen[v]  # type: ignore
    for eqn in jaxpr.eqns:
        name, values = eqn.primitive.name, [*map(look, eqn.invars)]
        if (inner := called_program(eqn)) is not None:
            outputs = _evaluate(inner.jaxpr, inner.consts, values)
        elif name == "dot_general" and is_half(eqn.outvars[0].aval) and eqn.params["dimension_numbers"][1][0]:
            lhs, rhs = map(_array, values)
            order = tuple(range(eqn.outvars[0].aval.ndim))  # type: ignore
            outputs = [_Products(lhs, rhs, eqn.params, order)]
        elif name == "transpose" and isinstance(values[0], _Products):
            order = values[0].order
            outputs = [values[0]._replace(order=tuple(order[axis] for axis in eqn.params["permutation"]))]
        else:
            outputs = apply_operation(jaxpr, eqn, [*map(_array, values)])
        seen.update(zip(eqn.outvars, outputs, strict=True))
    return [*map(look, jaxpr.outvars)]
