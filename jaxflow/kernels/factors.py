r"""The derivatives of outputs in the parameters, in the factors from which inner products of them are cheap.

In a layer $z = a W + b$ the derivative of an output f in W is the outer product of the activations a and the signal
$s = \partial f/\partial z$. The inner product of two such derivatives, and of those in b, is therefore
$(a \cdot a' + 1)(s \cdot s')$, for which no derivative in W is formed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.kernels.tape import layers_of, tape_of

PyTree = Any


class Factors(NamedTuple):
    """The derivatives of C outputs at each of B examples.

    - `layers`: for each layer the activations (B, m), with a 1 where there is a bias, and the signals (B, C, n).
    - `others`: for each parameter that is in no layer, or in all of them, the derivatives (B, C, p).
    """

    layers: list[tuple[jax.Array, jax.Array]]
    others: list[jax.Array]


def factors_of(predict: Callable, params: PyTree, x: PyTree, structured: bool) -> Factors:
    """The derivatives at examples x, in factors where the network is `structured` so that it has them."""
    return jax.vmap(lambda example: _factors_of_example(predict, params, example, structured))(x)


def _factors_of_example(predict: Callable, params: PyTree, example: PyTree, structured: bool) -> Factors:
    leaves, treedef = jax.tree.flatten(params)
    batch = jax.tree.map(lambda part: part[None], example)
    closed = jax.make_jaxpr(lambda leaves, x: predict(jax.tree.unflatten(treedef, leaves), x))(leaves, batch)
    tape = tape_of(closed)
    layers = layers_of(tape, len(leaves)) if structured else []
    held = {leaf for layer in layers for leaf in (layer.weight, layer.bias)}
    others = [leaf for leaf in range(len(leaves)) if leaf not in held]
    at = {layer.step: i for i, layer in enumerate(layers)}
    shapes = [tape.steps[layer.step].eqn.outvars[0].aval for layer in layers]

    def outputs(shifts, free):
        """The outputs where what the layers make is shifted, and what the layers were given."""
        given, seen = [*leaves, *jax.tree.leaves(batch)], {}
        for leaf, value in zip(others, free, strict=True):
            given[leaf] = value

        def visit(i, step, inputs, output):
            if i not in at:
                return output
            layer = layers[at[i]]
            seen[at[i]] = inputs[layer.side].reshape(-1)
            return output + shifts[at[i]]

        return tape.play(given, visit).reshape(-1), [seen[i] for i in range(len(layers))]

    zeros = [jnp.zeros(aval.shape, aval.dtype) for aval in shapes]
    found, pull, activations = jax.vjp(outputs, zeros, [leaves[leaf] for leaf in others], has_aux=True)
    signals, derivatives = jax.vmap(pull)(jnp.eye(found.size, dtype=found.dtype))
    flat = lambda x: x.reshape(found.size, -1)
    return Factors([*map(_append_bias, layers, activations, map(flat, signals))], [*map(flat, derivatives)])


def _append_bias(layer: Any, activations: jax.Array, signals: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The factors of a layer. A bias is one more weight, whose activation is 1."""
    if layer.bias is None:
        return activations, signals
    return jnp.append(activations, jnp.ones((), activations.dtype)), signals


def inner(a: Factors, b: Factors) -> jax.Array:
    """The inner products of all derivatives at two sets of examples; shape (n, m, C, C)."""
    total = sum(jnp.einsum("ncp,mep->nmce", *pair) for pair in zip(a.others, b.others, strict=True))
    for (mine, signal), (yours, other) in zip(a.layers, b.layers, strict=True):
        total = total + (mine @ yours.T)[:, :, None, None] * jnp.einsum("ncp,mep->nmce", signal, other)
    return jnp.asarray(total)


def inner_products_of_same_output(a: Factors, b: Factors) -> jax.Array:
    """The inner products of the derivatives of the same output, summed over outputs; shape (n, m)."""
    flat = lambda x: x.reshape(x.shape[0], -1)
    total = sum(flat(mine) @ flat(yours).T for mine, yours in zip(a.others, b.others, strict=True))
    for (mine, signal), (yours, other) in zip(a.layers, b.layers, strict=True):
        total = total + (mine @ yours.T) * (flat(signal) @ flat(other).T)
    return jnp.asarray(total)


def bytes_of_factors(predict: Callable, params: PyTree, x: PyTree, structured: bool) -> int:
    """The memory that the derivatives at one example take, in bytes."""
    one = jax.tree.map(lambda part: jax.ShapeDtypeStruct((1, *np.shape(part)[1:]), part.dtype), x)
    found = jax.eval_shape(lambda params, x: factors_of(predict, params, x, structured), params, one)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(found))
