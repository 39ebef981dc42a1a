"""The area that SGD sweeps about a minimum: in which planes, how much by theory, and how much in chains.

`limit_cycles` tells what comes of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxflow as jf

PLANES, BURN = 10, 300  # planes that are looked at, and records that are left out at the start
GROUPS = 16  # of chains, for the standard error of a sum over planes
COLUMNS = 50  # of a root of S, for the noise of curvatures: 310 columns of 1,210 give the same to .1 %


class Areas(NamedTuple):
    """Areas a step (PLANES,), their sum, the standard errors of both, and the areas of the chains read backwards."""

    rate: np.ndarray
    error: np.ndarray
    total: float
    total_error: float
    back: np.ndarray


def covariance_of_iterates(modes, noise, rate):
    """S of HS + SH − ηHSH = η · `noise`, the covariance of a gradient, from the eigenvalues and vectors of H."""
    h, across = modes
    inside = rate * (across.T @ noise @ across) / (np.add.outer(h, h) - rate * np.outer(h, h))
    return across @ inside @ across.T


def root_of(covariance):
    """A square root of a covariance, its largest columns last."""
    variances, axes = np.linalg.eigh(covariance)
    return axes * np.sqrt(np.maximum(variances, 0))


def noise_of_curvatures(objective, params, root):
    """E[(H_i − H)S(H_i − H)] over examples, of the largest COLUMNS of the root of S."""
    flat, unravel = ravel_pytree(params)
    gradients = jax.jacrev(lambda p: objective.losses(unravel(p), objective.data))

    def add(total, column):
        each = jax.jvp(gradients, (flat,), (column,))[1]
        each = each - each.mean(0, keepdims=True)
        return total + each.T @ each / len(each), None

    nothing = jnp.zeros((flat.size, flat.size))
    return np.asarray(jax.lax.scan(add, nothing, jnp.asarray(root[:, -COLUMNS:].T))[0])


def turning_planes(current):
    """Orthonormal u₁, v₁, u₂, … of the planes in which W turns fastest (2 PLANES, P), and their part of all turns."""
    turns, vectors = np.linalg.eigh(1j * current)
    fastest = vectors[:, np.argsort(-turns)[:PLANES]].T * np.sqrt(2)
    pairs = np.stack([fastest.real, fastest.imag], 1).reshape(2 * PLANES, -1)
    return pairs, np.sort(turns)[-PLANES:].sum() / turns[turns > 0].sum()


def in_planes(matrix):
    """The entries (u, v) of a matrix, one for each plane."""
    return np.asarray(matrix)[..., range(0, 2 * PLANES, 2), range(1, 2 * PLANES, 2)]


def measure(run, params, root, directions, number, key):
    """The areas of chains `run(start, key, record)` from `number` draws of the law whose covariance has that root."""
    centre, unravel = ravel_pytree(params)
    begin, go = jax.random.split(key)
    starts = centre[None] + jax.random.normal(begin, (number, centre.size)) @ root.T
    record = lambda p: directions @ (ravel_pytree(p)[0] - centre)
    each = lambda start: run(unravel(start[0]), start[1], record)
    paths = jf.ensemble(each, (starts, jax.random.split(go, number))).values
    area = lambda x: jf.density.area_rate(x, skip=BURN)
    found, back = area(paths), area(paths[:, ::-1])
    sums = in_planes(jax.vmap(area)(paths.reshape(GROUPS, -1, *paths.shape[1:])).rate).sum(1)
    rate, error = in_planes(found.rate), in_planes(found.error)
    return Areas(rate, error, rate.sum(), sums.std(ddof=1) / np.sqrt(GROUPS), in_planes(back.rate))
