"""The energy distance between two ensembles, and its p-value by relabelling their members."""

import jax
import jax.numpy as jnp

from jaxflow._compiled import compiled
from jaxflow._norms import norms
from jaxflow.comparison.laws.one_dimensional import two_samples


def energy_distance(a, b) -> jax.Array:
    """The energy distance $2E|X-Y| - E|X-X'| - E|Y-Y'|$ of two samples, 0 only where their laws agree.

    |·| is the Euclidean norm of a sample, in the units given: rescale coordinates that should count alike. All pairs
    enter, a member with itself too (the V-statistic), so the value is never negative, and about 1/n between samples
    of one law. `scipy.stats.energy_distance` is its square root. A p-value is `compare_ensembles(a, b,
    test="energy", key=key)`.

    **Arguments**

    - `a` (n, …), `b` (m, …): real samples along the leading axis, of one trailing shape.

    **Returns** the distance, a scalar. It needs memory for (n+m)² distances, and works under `jit` and `vmap`.

    **Raises** `ValueError` for empty samples or samples whose trailing shapes differ; `TypeError` for complex ones.

    Source: Székely & Rizzo, Energy statistics (2013), J. Stat. Plan. Inference 143, 1249.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> print(jf.comparison.energy_distance(jnp.array([0.0, 0.0]), jnp.array([3.0])))
    6.0
    """
    return _energy(*two_samples(a, b))


@compiled
def _energy(a, b):
    z = jnp.concatenate([x.reshape(x.shape[0], -1) for x in (a, b)])
    labels = jnp.concatenate([jnp.full(x.shape[0], sign / x.shape[0]) for x, sign in ((a, 1), (b, -1))])
    return _energies(_distances(z), labels[None])[0]


def relabel(key, z: jax.Array, labels: jax.Array, repetitions: int, paired: bool):
    r"""The energy distance of the rows of z (N, d), those of random relabellings (R,), and 2E|X − Y|.

    `labels` (N,) holds 1/n on the rows of the first sample, −1/m on those of the second and 0 on rows that do
    not count. Independent ensembles are exchangeable under the null, so their labels are permuted, which is
    exact. Paired ones are not: there the rows are (x_1 … x_n, y_1 … y_n) and E = n⁻² Σ_ij h(x_i, y_i; x_j, y_j),
    with a kernel that is degenerate as soon as the two marginal laws agree. Random signs s_i s_j on h have its
    limit law (a wild bootstrap, asymptotically exact); s_i = −1 swaps x_i and y_i.
    """
    if paired:
        signs = jax.random.rademacher(key, (z.shape[0] // 2, repetitions), labels.dtype).T
        drawn = jnp.tile(signs, (1, 2)) * labels[None]
    else:
        # Rows that count go first.
        order = jnp.argsort(labels == 0, stable=True)
        z, labels = z[order], labels[order]
        drawn = shuffle(key, labels, repetitions)
    distances = _distances(z)
    found = _energies(distances, jnp.concatenate([labels[None], drawn]))
    # A relabelling that gives back the observed split must not fall below it by rounding.
    slack = 64 * jnp.finfo(found.dtype).eps * distances.max()
    apart = 2 * jnp.maximum(labels, 0.0) @ distances @ jnp.maximum(-labels, 0.0)
    return found[0], found[1:] + slack, apart


def shuffle(key, labels: jax.Array, repetitions: int) -> jax.Array:
    """Random permutations (R, N) of the labels (N,) that are not 0 and come first, by one sort of random numbers."""
    random = jax.random.bits(key, (labels.size, repetitions), jnp.uint32)
    random = jnp.where((labels == 0)[:, None], jnp.uint32(2**32 - 1), random)
    both = (random, jnp.tile(labels[:, None], repetitions))
    return jax.lax.sort(both, dimension=0, num_keys=1)[1].T


def _distances(z: jax.Array) -> jax.Array:
    """All Euclidean distances between the rows of z (N, d), one row of them at a time.

    They are computed from differences, not from the Gram matrix, in which the distance of members that share their
    randomness would cancel.
    """
    return jax.lax.map(lambda row: norms(z - row[None]), z)


def _energies(distances: jax.Array, labels: jax.Array) -> jax.Array:
    """−wᵀDw for each row w of `labels`."""
    return -jnp.sum((labels @ distances) * labels, axis=1)
