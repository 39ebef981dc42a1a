r"""A panel of test functions of a record, and a test of its largest gap in standard errors.

The functions are those in which models of an optimizer are known to differ: means, variances and covariances of
the coordinates (of random projections, where there are many), cosines, |θ|² and the loss.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._norms import root
from jaxflow.comparison.laws.energy import shuffle
from jaxflow.comparison.laws.standardised import Columns, mean, row_mask, variance

# Up to this number coordinates are tested one by one, with all their products; more through as many projections.
FEW = 8


class Functions(NamedTuple):
    """Values of p functions in both ensembles, (n, p) and (m, p), in units of `unit` (p,).

    `scale` (p,) is the scale of a gap, 0 where neither ensemble varies; `rounding` (p,) is the part of the values
    that may be rounding error.
    """

    a: jax.Array
    b: jax.Array
    scale: jax.Array
    unit: jax.Array
    rounding: jax.Array


class Gaps(NamedTuple):
    """The gap of each function (p,), its standard error and simultaneous interval; the test of the largest."""

    gap: jax.Array
    standard_error: jax.Array
    low: jax.Array
    high: jax.Array
    statistic: jax.Array
    p_value: jax.Array


def functions(every: Columns, main: Columns, extra: Columns, used_a, used_b) -> Functions:
    """The panel of `main` (k columns of, or projected from, `every`) and of the means of `extra`; see `names`."""
    blocks = [_means(main), _products(main, used_a, used_b), _cosines(main, used_a, used_b), _means(extra)]
    if main.varies.size > 1:
        blocks.append(_average_variance(every, used_a, used_b))
    if main is not every:
        blocks.append(_farthest_apart(every, used_a, used_b))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *blocks)


def names(main: list[str], extra: list[str], projections: bool) -> list[str]:
    """The names of the functions, in the order of `functions`."""
    out = [f"mean of {name}" for name in main]
    for i, j in zip(*_pairs(len(main)), strict=True):
        out.append(f"variance of {main[i]}" if i == j else f"covariance of {main[i]} and {main[j]}")
    out += [f"mean of cos({name})" for name in main]
    out += [f"mean of {name}" for name in extra]
    if len(main) > 1:
        out.append("average variance of all coordinates")
    if projections:
        out.append("coordinate without spread")
    return out


def _pairs(k: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(k)


def _means(c: Columns) -> Functions:
    return Functions(c.a, c.b, c.scale, c.unit, c.rounding)


def _products(c: Columns, used_a, used_b) -> Functions:
    """Variances and covariances, unbiased and about each ensemble's own mean: a gap in the mean has no effect."""
    i, j = _pairs(c.varies.size)
    a, b = (x[:, i] * x[:, j] * _unbias(used) for x, used in ((c.own_a, used_a), (c.own_b, used_b)))
    return Functions(a, b, c.scale[i] * c.scale[j], c.unit[i] * c.unit[j], c.rounding[i] + c.rounding[j])


def _cosines(c: Columns, used_a, used_b) -> Functions:
    """cos of the standardised columns, for tails of which no moment need exist."""
    a, b = (row_mask(len(x), used) * jnp.cos(x) for x, used in ((c.a, used_a), (c.b, used_b)))
    one = jnp.ones(c.varies.size)
    return Functions(a, b, one, one, c.rounding)


def _average_variance(c: Columns, used_a, used_b) -> Functions:
    """The variances of all coordinates, each in its own unit: projections of many coordinates miss these."""
    a, b = (
        jnp.mean(x**2, axis=1, keepdims=True) * _unbias(used)
        for x, used in ((c.own_a, used_a), (c.own_b, used_b))
    )
    one = jnp.ones(1)
    return Functions(a, b, one, one, jnp.where(c.varies, c.rounding, 0.0).max(keepdims=True))


def _farthest_apart(c: Columns, used_a, used_b) -> Functions:
    """Of the coordinates without spread, which projections leave out, the one that is farthest apart."""
    gaps = jnp.abs(mean(c.a, used_a) - mean(c.b, used_b)) * (c.unit - c.scale)
    i = jnp.argmax(gaps)[None]
    a, b = (jnp.where(c.varies[i][None], 0.0, x[:, i]) for x in (c.a, c.b))
    return Functions(a, b, jnp.zeros(1), c.unit[i], c.rounding[i])


def _unbias(used):
    return used / jnp.maximum(used - 1, 1)


def largest_gap(
    key: jax.Array, f: Functions, used_a, used_b, repetitions: int, rank: int, paired: bool
) -> Gaps:
    r"""The gaps $\bar f_a - \bar f_b$ and a test of the largest, $\max_j |\bar f_{a,j} - \bar f_{b,j}| / SE_j$.

    Its null law is that of the same maximum, standard errors and all, over random divisions of all members into
    ensembles of the two sizes, under which members of one law are exchangeable: the level is kept whatever the law
    and the sizes, except for what the functions know of the division (they are about its means). Where the laws
    differ the standard errors make it right for many members (Chung & Romano 2013, 1304.5939). Pairs, which
    need not be exchangeable, are resampled (`_gaps_of_pairs`). The `rank`-th largest of these maxima is the
    half-width of the intervals in standard errors.
    """
    samples = [(f.a - f.b, used_a)] if paired else [(f.a, used_a), (f.b, used_b)]
    centred = [row_mask(len(x), used) * (x - mean(x, used)[None]) for x, used in samples]
    variances = jnp.stack([variance(x, used) for x, (_, used) in zip(centred, samples, strict=True)])
    counts = jnp.stack([jnp.maximum(used, 2) for _, used in samples])
    still = root(variances.mean(0)) <= f.rounding
    gap = mean(f.a, used_a) - mean(f.b, used_b)
    gap = jnp.where(still & (jnp.abs(gap) <= f.rounding), 0.0, gap)
    error = jnp.where(still, 0.0, root((variances / counts[:, None]).sum(0)))
    divisor = jnp.where(still, jnp.inf, error)
    # What varies in neither ensemble either agrees or is infinitely many standard errors apart.
    certain = jnp.where(gap == 0, 0.0, jnp.inf)
    statistic = jnp.where(still, certain, jnp.abs(gap) / divisor).max()

    if paired:
        maxima = _gaps_of_pairs(key, centred[0], used_a, divisor, repetitions)
    else:
        maxima = _gaps_of_divisions(key, f, used_a, used_b, still, repetitions)
    p_value = (1 + (maxima >= statistic).sum()) / (repetitions + 1)
    width = jnp.where(still, 0.0, jnp.sort(maxima)[repetitions - rank] * error)
    return Gaps(
        gap * f.unit, error * f.unit, (gap - width) * f.unit, (gap + width) * f.unit, statistic, p_value
    )


def _gaps_of_divisions(
    key: jax.Array, f: Functions, used_a, used_b, still: jax.Array, repetitions: int
) -> jax.Array:
    """The largest gap in standard errors in each of R random divisions of all members in two; (R,)."""
    first = jnp.concatenate([row_mask(len(f.a), used_a), -row_mask(len(f.b), used_b)])[:, 0]
    order = jnp.argsort(first == 0, stable=True)
    values = jnp.concatenate([f.a, f.b])[order]
    chosen = (shuffle(key, first[order], repetitions) > 0).astype(values.dtype)
    total, total_square = values.sum(0)[None], (values**2).sum(0)[None]
    one, one_square = chosen @ values, chosen @ values**2

    def moments(total, square, used):
        middle = total / jnp.maximum(used, 1)
        spread = jnp.maximum(square - total * middle, 0.0) / jnp.maximum(used - 1, 1)
        return middle, spread / jnp.maximum(used, 2)

    (mean_a, part_a), (mean_b, part_b) = (
        moments(one, one_square, used_a),
        moments(total - one, total_square - one_square, used_b),
    )
    error = root(part_a + part_b)
    gap = jnp.where(still[None], 0.0, jnp.abs(mean_a - mean_b))
    # A division found in the data, as there are many where numbers repeat, must not fall below them by rounding.
    gap = gap * (1 + 64 * jnp.finfo(gap.dtype).eps)
    return jnp.where(gap > 0, gap / jnp.where(gap > 0, error, 1.0), 0.0).max(1)


def _gaps_of_pairs(
    key: jax.Array, centred: jax.Array, used, divisor: jax.Array, repetitions: int
) -> jax.Array:
    """The largest centred gap in standard errors in each of R multinomial resamples of the pairs; (R,).

    The standard errors are not resampled: with heavy tails, studentised resamples were measured to reject far too
    rarely (4 in 1000 at level .05). That the error is itself estimated is allowed for by the first term in 1/ν of
    Student's quantile at the normal one, z + (z³ + z)/4ν, ν = n − 1.
    """
    z = jnp.abs(_resample(key, centred, used, repetitions)) / divisor[None]
    return (z + (z**3 + z) / (4 * jnp.maximum(used - 1, 1))).max(1)


def _resample(key: jax.Array, centred: jax.Array, used, repetitions: int) -> jax.Array:
    """The means of multinomial resamples of the first `used` rows of `centred` (n, p); shape (R, p).

    They are scaled so that their variance is that of a mean; otherwise it would be too small by 1/n.
    """
    n = len(centred)
    draws = jax.random.randint(key, (n, repetitions), 0, jnp.maximum(used, 1).astype(jnp.int32), jnp.int32)
    live = jnp.broadcast_to(row_mask(n, used), draws.shape)
    counts = jnp.zeros_like(live).at[draws, np.arange(repetitions)[None]].add(live)
    return counts.T @ centred / jnp.sqrt(jnp.maximum(used * (used - 1), 1))
