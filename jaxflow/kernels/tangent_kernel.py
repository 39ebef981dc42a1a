"""The neural tangent kernel of any prediction: its blocks, its output trace, and its products with vectors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._devices import memory
from jaxflow._losses.models import Completed, Trainable, split_model
from jaxflow.curvature.products import real_parameters
from jaxflow.kernels.factors import bytes_of_factors, factors_of, inner, inner_products_of_same_output

PyTree = Any
Predict = Callable[[PyTree, Any], jax.Array]

SHARE = 16  # of the memory: what derivatives may take, if nobody says it
CACHE = 2**19  # numbers of a block that are made at once; they stay in the processor's cache


def tangent_kernel(
    predict: Predict,
    params: PyTree,
    x: PyTree,
    y: PyTree = None,
    *,
    output: str = "all",
    method: str = "structured",
    chunk: int | None = None,
    trainable: Trainable = None,
) -> jax.Array:
    r"""The neural tangent kernel $K(x, y) = J(x)\,J(y)^T$, where $J(x) = \partial f(\theta, x)/\partial\theta$.

    For layers $z = aW + b$ no derivative in W is formed: with signals $s = \partial f/\partial z$ such a layer adds
    $(a \cdot a' + 1)(s \cdot s')$ to the kernel. They are found in the program of `predict`, whatever it is made
    of. For all other parameters, those of convolutions or of weights that are used twice or rescaled first (write
    $aW/\sqrt m$ as `x @ w / m**0.5`, not as `x @ (w / m**0.5)`), the derivatives are formed and multiplied.

    **Arguments**

    - `predict`: a function `predict(params, x (B, …))` whose outputs are (B,) or (B, C), such as that of a `Problem`.
      It treats each example by itself.
    - `params` θ: a pytree whose real arrays are trained.
    - `x`, `y`: n and m examples, arrays (or pytrees of them) with this leading axis. `y` is x by default.
    - `output`: `"all"` for all pairs of outputs, or `"trace"` for $\sum_c K_{cc}$ (static).
    - `method`: `"structured"`, or `"jacobian"`, which forms the derivatives in all parameters (static).
    - `chunk`: the number of examples of each kind whose derivatives are in memory at a time (static). Where it is
      less than m the derivatives at `y` are made anew for each chunk of `x`. Default: the number that takes a 16th
      of the memory.
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** the block (n, m, C, C), whose entry `[i, j, c, d]` is $\nabla f_c(x_i) \cdot \nabla f_d(y_j)$. It is
    (n, m) for outputs (B,) and for the trace. It is compiled when called plainly, and works under `jit` and `vmap`.

    **Raises** `TypeError` for a `predict` that is not a function or parameters that are not real; `ValueError` for
    outputs of another shape, unknown names, a chunk below 1, or a block larger than the memory.

    Source: Jacot, Gabriel & Hongler 2018, 1806.07572; contractions by structure: Novak, Sohl-Dickstein & Schoenholz
    2022, 2206.08720.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> x = jnp.array([[1.0, 2.0], [0.0, 1.0]])
    >>> print(jf.kernels.tangent_kernel(lambda w, x: jnp.tanh(x @ w), jnp.zeros(2), x))
    [[5. 2.]
     [2. 1.]]
    """
    predict, params = open_prediction(predict, params, trainable)
    _check.require_choice("output", output, ("all", "trace"))
    _check.require_choice("method", method, ("structured", "jacobian"))
    y = x if y is None else y
    shape = output_shape(predict, params, "x", x)
    if output_shape(predict, params, "y", y)[1:] != shape[1:]:
        raise ValueError("y must be examples like those of x, for which predict has as many outputs.")
    n, m, outputs = shape[0], count_of("y", y), (*shape, 1)[1]
    itemsize = jax.tree.leaves(params)[0].dtype.itemsize
    _require_room(n, m, 1 if output == "trace" else outputs**2, itemsize)
    if chunk is None:
        one = bytes_of_factors(predict, params, x, method == "structured")
        chunk = int(memory.device_memory() / SHARE / max(one, 1))
    else:
        _check.require_integer("chunk", chunk, 1)
    chunk = max(1, min(int(chunk), max(n, m)))
    traced = output == "trace"
    block = _block(predict, params, x, y, traced=traced, structured=method == "structured", chunk=chunk)
    return block if traced or len(shape) == 2 else block[:, :, 0, 0]


@compiled(static=("traced", "structured", "chunk"))
def _block(predict, params, x, y, traced, structured, chunk):
    of = lambda examples: factors_of(predict, params, examples, structured)
    n, m = (jax.tree.leaves(examples)[0].shape[0] for examples in (x, y))
    pair = inner_products_of_same_output if traced else _inner_products_by_rows
    whole = of(y) if m <= chunk else None  # made once for all chunks of x

    def rows(examples):
        mine = of(examples)
        if whole is not None:
            return pair(mine, whole)
        columns = jax.lax.map(lambda others: pair(mine, of(others)), _pages(y, chunk))
        columns = jnp.moveaxis(columns, 0, 1)
        return columns.reshape(columns.shape[0], -1, *columns.shape[3:])[:, :m]

    if n <= chunk:
        return rows(x)
    block = jax.lax.map(rows, _pages(x, chunk))
    return block.reshape(-1, *block.shape[2:])[:n]


def _pages(examples: PyTree, size: int) -> PyTree:
    """Examples in pages of one size; the last page is filled up with the last example."""

    def divide(part):
        count = -(-part.shape[0] // size)
        numbers = jnp.minimum(jnp.arange(count * size), part.shape[0] - 1)
        return part[numbers].reshape(count, size, *part.shape[1:])

    return jax.tree.map(divide, examples)


def _inner_products_by_rows(a, b):
    """All inner products, a few rows at a time: a large block is then written to memory once and never read."""
    n, outputs = jax.tree.leaves(a)[-1].shape[:2]
    m = jax.tree.leaves(b)[-1].shape[0]
    size = max(1, min(n, CACHE // (m * outputs**2)))
    block = jax.lax.map(lambda few: inner(few, b), _pages(a, size))
    return block.reshape(-1, *block.shape[2:])[:n]


def tangent_kernel_product(
    predict: Predict,
    params: PyTree,
    x: PyTree,
    v: jax.Array,
    y: PyTree = None,
    *,
    trainable: Trainable = None,
) -> jax.Array:
    r"""The product $K(x, y)\,v = J(x)\,(J(y)^T v)$ of the neural tangent kernel and a vector; no matrix is formed.

    It costs about one gradient and one derivative along a direction.

    **Arguments**

    - `predict`: a function `predict(params, x (B, …))` whose outputs are (B,) or (B, C).
    - `params` θ: a pytree whose real arrays are trained.
    - `x`, `y`: n and m examples, arrays (or pytrees of them) with this leading axis. `y` is x by default.
    - `v`: the vector, shaped like the outputs at `y`: (m,) or (m, C).
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** the product, shaped like the outputs at `x`. It is compiled when called plainly, and works under `jit`
    and `vmap`.

    **Raises** `TypeError` for a `predict` that is not a function or parameters that are not real; `ValueError` for
    outputs or a `v` of another shape.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> x = jnp.array([[1.0, 2.0], [0.0, 1.0]])
    >>> line = lambda w, x: jnp.tanh(x @ w)
    >>> print(jf.kernels.tangent_kernel_product(line, jnp.zeros(2), x, jnp.array([1.0, -1.0])))
    [3. 1.]
    """
    predict, params = open_prediction(predict, params, trainable)
    y = x if y is None else y
    output_shape(predict, params, "x", x)
    expected = output_shape(predict, params, "y", y)
    if np.shape(v) != expected:
        raise ValueError(f"v must have the shape of the outputs at y, {expected}, got {np.shape(v)}.")
    return _product(predict, params, x, jnp.asarray(v), y)


@compiled
def _product(predict, params, x, v, y):
    outputs, pull = jax.vjp(lambda p: predict(p, y), params)
    along = pull(v.astype(outputs.dtype))
    return jax.jvp(lambda p: predict(p, x), (params,), along)[1]


def open_prediction(predict: Any, params: PyTree, trainable: Trainable) -> tuple[Predict, PyTree]:
    """A prediction as a function of what is trained of a model, and that part as real arrays."""
    if not callable(predict):
        raise TypeError(f"predict must be a function (params, x) -> outputs, got {predict!r}.")
    trained, rest = split_model(params, trainable)
    whole: Any = predict if rest is None else Completed(predict, rest)
    return whole, real_parameters(trained)


def count_of(name: str, examples: PyTree) -> int:
    """The number of examples."""
    shapes = _check.leaf_shapes(examples)
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(
            f"{name} must be arrays that share their leading axis of examples, got shapes {shapes}."
        )
    return counts.pop()


def output_shape(predict: Predict, params: PyTree, name: str, examples: PyTree) -> tuple[int, ...]:
    """The shape of the outputs at examples, checked to be (B,) or (B, C)."""
    count = count_of(name, examples)
    found = jax.eval_shape(predict, params, examples)
    shape = getattr(found, "shape", ())
    if shape[:1] != (count,) or len(shape) > 2:
        raise ValueError(f"predict must return one number or (C,) for each of {count} examples, got {found}.")
    return shape


def _require_room(n: int, m: int, pairs: int, itemsize: int) -> None:
    """Refuse a block that memory does not hold."""
    row, there = m * pairs * itemsize, memory.device_memory()
    if n * row > there:
        trace = "" if pairs == 1 else f" output='trace' takes {n * m * itemsize / 2**30:.4g} GiB;"
        raise ValueError(
            f"The block of x ({n} examples) and y ({m} examples) takes {n * row / 2**30:.4g} GiB of "
            f"{there / 2**30:.4g}:{trace} {max(1, int(there / 4 / row))} examples of x at a time take a quarter of "
            "the memory (chunk bounds the derivatives only), and tangent_kernel_product needs no block."
        )
