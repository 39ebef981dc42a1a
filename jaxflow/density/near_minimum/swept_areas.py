"""Currents in runs themselves: the area that steps sweep in planes, 0 on average where nothing circulates."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow.solve import Trajectory

PyTree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AreaRate:
    """The area that chains sweep in each plane of two coordinates, for each step from one record to the next.

    - `rate` (d, d): the mean over steps and chains, antisymmetric.
    - `error` (d, d): its standard errors, from the spread of the independent chains; 0 on the diagonal.
    - `covariance` (d, d): of the positions about their mean, over all chains and records.
    - `chains`: the number of chains counted. Those with a number that is not finite are left out.

    It is a pytree; under `vmap` every leaf has a leading axis.
    """

    rate: jax.Array
    error: jax.Array
    covariance: jax.Array
    chains: jax.Array

    @property
    def z(self) -> jax.Array:
        """The rates in standard errors, 0 on the diagonal; (d, d)."""
        return jnp.where(self.error > 0, self.rate / jnp.where(self.error > 0, self.error, 1), 0)

    def __repr__(self):
        if isinstance(self.rate, Tracer) or np.ndim(self.rate) != 2:
            return f"AreaRate(rate of shape {np.shape(self.rate)})"
        i, j = np.unravel_index(np.abs(self.z).argmax(), self.rate.shape)
        return (
            f"AreaRate({len(self.rate)} coordinates, {int(self.chains)} chains; largest |z| "
            f"{abs(self.z[i, j]):.3g}, in the plane of {min(i, j)} and {max(i, j)})"
        )


def area_rate(paths: Any, directions: PyTree = None, *, skip: int = 0) -> AreaRate:
    r"""The antisymmetric part of $E[\theta\,d\theta^\top]$ of each step, with standard errors: a test for currents.

    $A_{ij} = E[\theta_k \theta_{k+1}^\top - \theta_{k+1} \theta_k^\top]_{ij}$ is twice the area that a step sweeps in
    the plane of coordinates i and j, about the mean. It is 0 for a process at rest that looks the same when time runs
    backwards, such as Langevin's, and reversing time changes its sign. For SGD on a quadratic at rest it is
    $\eta(HS - SH)$ exactly, with S the covariance of the iterates; `OULaw.area_per_step` has it for small η.

    **Arguments**

    - `paths`: an ensemble of chains at rest, kept at every step: a `Trajectory` that `ensemble` made of runs with
      `every=1`, or an array or pytree of its values, leaves (chains, T, …). All numbers of a record are coordinates,
      in the order of `jax.flatten_util.ravel_pytree`; `record=` of the runs may project them first. Records that are
      further apart give the area from record to record.
    - `directions`: vectors along which the coordinates are taken: an array (d, P), or a pytree like a record with a
      leading axis d, such as the `vectors` of `curvature.top_eigenpairs`. Default: the coordinates themselves.
    - `skip`: the number of records at the start that are left out, while the chains are not yet at rest (static).

    **Returns** an `AreaRate`. The standard errors are those of a mean of independent chains, $\sqrt{\mathrm{var}/n}$,
    so steps within a chain may be correlated in any way. Below some 30 chains their tails are heavier than a
    Gaussian's. It is compiled when called plainly, and works under `jit` and `vmap`.

    **Raises** `ValueError` for fewer than two chains, or two records after `skip`, leaves without common axes, or
    directions that do not fit; `TypeError` for complex numbers.

    Source: area enclosing rates: Ghanta, Neu & Teitsworth 2017; Gonzalez, Neu & Teitsworth 2019.

    >>> import jax.numpy as jnp
    >>> from jaxflow.density import area_rate
    >>> angles = 0.1 * jnp.arange(630.0)[None] + jnp.array([[0.0], [1.0], [2.0]])  # three chains on a circle
    >>> print(area_rate(jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1)).rate.round(2))
    [[ 0.   0.1]
     [-0.1  0. ]]
    """
    values = paths.values if isinstance(paths, Trajectory) else paths
    leaves = jax.tree.leaves(values)
    for leaf in leaves:
        if jnp.iscomplexobj(leaf):
            raise TypeError(f"paths must be real, got dtype {leaf.dtype}.")
    shapes = [np.shape(leaf) for leaf in leaves]
    if not shapes or any(len(shape) < 2 for shape in shapes) or len({shape[:2] for shape in shapes}) > 1:
        raise ValueError(
            "paths must hold arrays that share their axes (chains, T, …), got the shapes "
            f"{', '.join(map(str, shapes)) or 'of nothing'}."
        )
    _check.require_integer("skip", skip, 0)
    chains, records = shapes[0][:2]
    if chains < 2 or records - skip < 2:
        raise ValueError(
            f"paths must hold at least two chains and two records after skip, got {chains} chains of {records} "
            f"records and skip={skip}."
        )
    return _area_rate(values, _check_directions(directions, values), skip=int(skip))


def _check_directions(directions: PyTree, values: PyTree) -> PyTree:
    if directions is None:
        return None
    found = jax.tree.leaves(directions)
    numbers = sum(int(np.prod(np.shape(leaf)[2:])) for leaf in jax.tree.leaves(values))
    if len(found) == 1 and np.shape(found[0])[1:] == (numbers,) and np.shape(found[0])[0] > 0:
        return found[0]
    k = np.shape(found[0])[0] if found and np.ndim(found[0]) else 0
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((k, *np.shape(leaf)[2:]), float), values)
    _check.require_like(
        "directions",
        directions,
        like,
        f"be an array (d, {numbers}) or a pytree like a record with a leading axis",
    )
    return directions


def _rows(tree: PyTree, axes: int) -> jax.Array:
    """All numbers of a pytree behind its leading axes, side by side."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    dtype = jnp.result_type(float if jnp.result_type(*leaves) == jnp.float64 else jnp.float32)
    return jnp.concatenate([leaf.reshape(*leaf.shape[:axes], -1).astype(dtype) for leaf in leaves], -1)


@compiled(static=("skip",))
def _area_rate(values, directions, skip: int) -> AreaRate:
    x = _rows(values, 2)[:, skip:]
    if directions is not None:
        x = x @ _rows(directions, 1).astype(x.dtype).T
    finite = jnp.isfinite(x).all((1, 2))
    weights = finite.astype(x.dtype)
    n = weights.sum()
    x = jnp.where(finite[:, None, None], x, 0)
    mean = jnp.sum(x.mean(1), 0) / n
    # About the mean an area does not change at rest, and has less noise.
    x = jnp.where(finite[:, None, None], x - mean[None, None], 0)
    steps = jnp.diff(x, axis=1)  # θ_k θ_{k+1}ᵀ − θ_{k+1} θ_kᵀ in differences, which are not rounded
    half = jnp.einsum("cki,ckj->cij", x[:, :-1], steps) / steps.shape[1]
    each = half - jnp.swapaxes(half, 1, 2)
    rate = each.sum(0) / n
    squares = jnp.sum(weights[:, None, None] * (each - rate[None]) ** 2, 0)
    covariance = jnp.einsum("cki,ckj->ij", x, x) / (n * x.shape[1])
    return AreaRate(rate, jnp.sqrt(squares / (n - 1) / n), covariance, n.astype(int))
