"""Random directions, scaled to the parameters filter by filter."""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._losses.models import Trainable, split_model
from jaxflow.curvature.products import real_parameters
from jaxflow.landscape.slices.directions import Directions

PyTree = Any
Filters = Callable[[str, Any], tuple[int, ...] | None]


def default_filters(path: str, leaf: Any) -> tuple[int, ...] | None:
    """The axes over which one filter of a leaf extends; `None` for what has direction 0.

    - A leaf with at most one axis is a bias, or the scale of a normalisation: `None`.
    - A leaf named `weight`, as Equinox and PyTorch have them, is (out, in, …): all axes but the first.
    - Every other leaf, such as a `kernel` of flax or a `w` of `problems.mlp`, is (…, in, out): all axes but the last.

    Layers that are stacked for a loop, (depth, in, out), need a function of your own: there a filter is `(1,)`.

    **Arguments**

    - `path`: the place of the leaf, such as `"layers/0/weight"`.
    - `leaf`: the array.

    **Returns** a tuple of axes, or `None`.

    >>> import jax.numpy as jnp
    >>> from jaxflow.landscape import default_filters
    >>> default_filters("conv/kernel", jnp.ones((3, 3, 1, 8))), default_filters("conv/bias", jnp.ones(8))
    ((0, 1, 2), None)
    """
    if leaf.ndim <= 1:
        return None
    axes = tuple(range(leaf.ndim))
    return axes[1:] if path.removesuffix("/value").split("/")[-1] == "weight" else axes[:-1]


def random_directions(
    params: PyTree,
    key: jax.Array,
    normalization: str | None = "filter",
    *,
    count: int = 2,
    filters: Filters = default_filters,
    trainable: Trainable = None,
) -> Directions:
    r"""Random directions with the scale of the parameters: in each filter, of the norm of that filter.

    A direction d is drawn from $\mathcal N(0, I)$. Then $d_f \leftarrow d_f \, |\theta_f| / |d_f|$ for every filter
    f, the weights that lead to one unit or channel. So losses along d do not depend on the scale of a layer where
    its rescaling leaves the network's function as it is.

    They do depend on factors for single units. A rescaled unit scales a column of its own layer and a *row* of the
    next, and the norms of columns of the next layer do not tell the rows apart. The losses are then the same only
    along a direction that is rescaled like the parameters, not along one that is drawn anew at them.

    **Arguments**

    - `params` θ: a pytree whose real arrays are trained.
    - `key`: the random key. Each leaf has a key of its own by its path, so that the order of a dictionary does not
      matter.
    - `normalization`: `"filter"`; `"layer"`, which gives each leaf's direction the norm of that leaf; or `None`,
      the plain draw, biases included.
    - `count`: the number of directions (static).
    - `filters`: what a filter is: a function of the path, such as `"layers/0/w"`, and of the leaf, that returns the
      axes over which one filter extends, or `None` for a leaf whose direction is 0. Default: `default_filters`, for
      which biases and the scales of normalisations have direction 0.
    - `trainable`: what of `params` is trained, as in `iterate`.

    **Returns** `Directions` with the `span` ±1 where they are normalised. Filters of norm 0 have direction 0; they
    are counted in `zeros` and named in `message`. It is compiled when called plainly, and works under `jit` and
    `vmap`.

    **Raises** `TypeError` for parameters that are not real, a bare seed, or filters that are not axes; `ValueError`
    for another normalization, or a `count` below 1.

    Source: Li, Xu, Taylor, Studer & Goldstein 2018, 1712.09913.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> layer = {"w": jnp.array([[3.0, 0.0], [4.0, 0.0]]), "b": jnp.ones(2)}
    >>> directions = jf.landscape.random_directions(layer, jax.random.key(0))
    >>> print(jnp.linalg.norm(directions[0]["w"], axis=0), directions[0]["b"])
    [5. 0.] [0. 0.]
    >>> directions
    Directions(2 directions drawn at random, of norm 5, 5; filters of norm 0 have direction 0: w (1))
    """
    if normalization is not None:
        _check.require_choice("normalization", normalization, ("filter", "layer"))
    _check.require_integer("count", count, 1)
    if not callable(filters):
        raise TypeError(f"filters must be a function of a path and a leaf, got {filters!r}.")
    key = _check.random_key(key)
    trained = real_parameters(split_model(params, trainable)[0])
    leaves, structure = jax.tree_util.tree_flatten_with_path(trained)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    extents = tuple(
        _axes_of(name, leaf, normalization, filters) for name, (_, leaf) in zip(names, leaves, strict=True)
    )
    drawn, lengths, zeros = _draw(
        leaves=[leaf for _, leaf in leaves],
        key=key,
        numbers=tuple(zlib.crc32(name.encode()) for name in names),
        extents=extents,
        count=int(count),
    )
    return Directions(
        vectors=jax.tree.unflatten(structure, drawn),
        kind="random",
        values=lengths,
        span=None if normalization is None else jnp.array([[-1.0, 1.0]] * count, lengths.dtype),
        zeros={name: zero for name, zero in zip(names, zeros, strict=True) if zero is not None},
    )


def _axes_of(name: str, leaf: Any, normalization: str | None, filters: Filters) -> Any:
    """The axes whose norm is kept; "raw" for a plain draw, `None` for direction 0."""
    if normalization is None:
        return "raw"
    axes = filters(name, leaf)
    if axes is None:
        return None
    try:
        axes = tuple(int(axis) for axis in axes)
        allowed = len(set(axes)) == len(axes) and all(-leaf.ndim <= axis < leaf.ndim for axis in axes)
    except (TypeError, ValueError):
        allowed = False
    if not allowed:
        raise TypeError(
            f"filters must return a tuple of axes of the leaf or None, got {axes!r} for {name or 'the array'} "
            f"of shape {leaf.shape}."
        )
    return tuple(range(leaf.ndim)) if normalization == "layer" else axes


@compiled(static=("numbers", "extents", "count"))
def _draw(*, leaves, key, numbers: tuple, extents: tuple, count: int):
    drawn, zeros = [], []
    for leaf, number, axes in zip(leaves, numbers, extents, strict=True):
        if axes is None:
            drawn.append(jnp.zeros((count, *leaf.shape), leaf.dtype))
            zeros.append(None)
            continue
        d = jax.random.normal(jax.random.fold_in(key, number), (count, *leaf.shape), leaf.dtype)
        if axes == "raw":
            zeros.append(None)
        else:
            axes = tuple(axis % leaf.ndim for axis in axes)
            size = _norm(leaf, axes)[None]
            length = _norm(d, tuple(axis + 1 for axis in axes))
            d = d * (size / jnp.where(length > 0, length, 1))
            zeros.append(jnp.sum(size == 0))
        drawn.append(d)
    square = [jnp.sum(d**2, tuple(range(1, d.ndim))) for d in drawn]
    total = jnp.stack([x.astype(jnp.result_type(*square)) for x in square]).sum(0)
    return drawn, jnp.sqrt(total), zeros


def _norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.sum(x**2, axes, keepdims=True))
