"""Whether two ensembles of runs have the same law: a test, intervals and effect sizes in one compiled program."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow.comparison.laws.energy import relabel
from jaxflow.comparison.laws.function_panel import FEW, functions, largest_gap, names
from jaxflow.comparison.laws.lost_runs import divergence_p_value
from jaxflow.comparison.laws.one_dimensional import distances_of_columns
from jaxflow.comparison.laws.samples import Samples, coordinates, gather, matrix, precision, records_at, width
from jaxflow.comparison.laws.standardised import project, row_mask, standardise
from jaxflow.comparison.laws.verdict import EnsembleComparison
from jaxflow.solve.trajectories.trajectory import DIVERGED

PyTree = Any
# The number of members down to which the panel was seen to keep its level.
LEAST = 20


class Settings(NamedTuple):
    """What is static about a comparison; `rank` counts the resamples that the level leaves out."""

    test: str
    paired: bool
    repetitions: int
    rank: int
    least: int


def compare_ensembles(
    a: PyTree,
    b: PyTree,
    *,
    key: jax.Array,
    at: Any = None,
    test: str = "panel",
    paired: bool = False,
    level: float = 0.95,
    repetitions: int = 1000,
    objective: Callable[[PyTree], jax.Array] | None = None,
) -> EnsembleComparison:
    """Test whether the members of two ensembles have the same law, at one time or at several.

    **Arguments**

    - `a`, `b`: trajectories made by `jf.ensemble`, of the same record at the same times; or pytrees of arrays
      (n, …) and (m, …), samples at one time. n and m may differ.
    - `key`: the random key of the resamples, and of the projections where a record has more than 8 coordinates.
    - `at`: the recorded time at which to compare, or a sequence of times for one joint test. Default: the last.
    - `test`: "panel" (default) tests a panel of functions of the record: means, variances, covariances and
      cosines of its coordinates, their average variance, the squared norm and, where given, the mean of
      `objective`. Where there are more than 8 coordinates it uses 8 random projections of the standardised ones. The
      statistic is the largest gap in standard errors; the p-value and the simultaneous intervals come from random
      divisions of all members into ensembles of the two sizes, or for pairs from a multinomial bootstrap of the
      centred maximum. "energy" takes the energy distance of the records as they are, all times together, with the
      p-value of a permutation test. It has no interval, as a bootstrap of a degenerate statistic covers nothing.
    - `paired`: whether member i of both ensembles shares its randomness (common random numbers). Resamples, and the
      random signs of the energy distance, are then of pairs.
    - `level`: the level of the simultaneous intervals, between 0 and 1; 1 − level is the rate of false alarms.
    - `repetitions`: the number of random divisions or resamples of the test.
    - `objective`: a function `objective(record) -> scalar`, a further function in the panel.

    **Returns** an `EnsembleComparison`. It works under `jit` and `vmap` (with `at=None` where times are traced), so
    that a grid of comparisons is one program.

    **Raises** `TypeError` or `ValueError` for trajectories that are not ensembles, whose records or times differ,
    a time that was not recorded, an unknown test, fewer than 20 members for the panel or for pairs, too few
    members or repetitions for a p-value as small as 1 − level, or `paired` ensembles of different sizes.

    A member that diverged, or whose record (or its squared norm or loss) is not finite, is left out, with its
    partner if `paired`, and counted. A coordinate that is constant in both ensembles and differs, by more than 64
    rounding errors, counts as infinitely many standard errors apart. Where members differ by less than 4 rounding
    errors of their type, precision ends: the panel leaves the coordinate out and the verdict says so. There is no
    verdict where nothing else is left.

    Sources: Chung & Romano (2013), arXiv 1304.5939 (permutation tests in standard errors); Chernozhukov, Chetverikov
    & Kato (2013), arXiv 1212.6906 (bootstrap of maxima); Székely & Rizzo (2013), J. Stat. Plan. Inference 143, 1249
    (energy distance); Leucht & Neumann (2013), J. Multivar. Anal. 117, 257 (bootstrap of degenerate statistics).

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> def runs(rate, steps, seed):
    ...     sgd = lambda key: jf.iterate(jf.optim.gd(rate), objective, 1.0, steps=steps, batch_size=1, key=key,
    ...                                  every=None, time_step=1 / steps)
    ...     return jf.ensemble(sgd, jax.random.split(jax.random.key(seed), 256))
    >>> coarse, fine = runs(0.1, 10, seed=0), runs(0.05, 20, seed=1)  # half the temperature
    >>> jf.compare_ensembles(coarse, fine, key=jax.random.key(2)).differ
    True
    """
    _check.require_choice("test", test, ("panel", "energy"))
    key = jnp.asarray(_check.random_key(key))
    _check.require_positive(level=level)
    _check.require("level", level, _check.is_concrete(level) and level < 1, "a number between 0 and 1")
    _check.require_integer("repetitions", repetitions, 1)
    if not (objective is None or callable(objective)):
        raise TypeError(f"objective must be a function of a record, got {objective!r}.")
    if objective is not None and test == "energy":
        raise ValueError('objective must be None for test="energy", which compares the records themselves.')
    rank = math.floor((1 - level) * (repetitions + 1) * (1 + 1e-6))
    if rank == 0:
        raise ValueError(
            f"repetitions must be at least {math.ceil(1 / (1 - level) - 1e-6) - 1} at level {level:g}, "
            f"got {repetitions}."
        )
    a, b, times = gather(a, b, at)
    n, m = (len(jax.tree.leaves(samples.values)[0]) for samples in (a, b))
    if paired and n != m:
        raise ValueError(f"paired ensembles must have the same number of members, got {n} and {m}.")
    least = _fewest_members(test, paired, level)
    if min(n, m) < least:
        raise ValueError(
            f"a and b must have at least {least} members each for test={test!r}{' in pairs' if paired else ''} "
            f"at level {level:g}, got {n} and {m}."
        )
    settings = Settings(test, bool(paired), int(repetitions), rank, least)
    found = _compare(settings=settings, key=key, a=a, b=b, objective=objective)
    many = width(a) > FEW
    own = [f"projection {i}" for i in range(FEW)] if many else coordinates(a)
    extra = ["the squared norm"] * (width(a) > 1) + ["the objective"] * (objective is not None)
    panel = ["energy distance"]
    if test == "panel":
        panel = [name + t for t in times for name in names(own, extra, many)]
    marginals = tuple(name + t for t in times for name in own)
    return EnsembleComparison(tuple(panel), marginals, bool(paired), float(level), **found)


def _fewest_members(test: str, paired: bool, level: float) -> int:
    """The number of members that each ensemble needs.

    Independent ensembles of n have C(2n, n) / 2 different labellings, so a permutation test reaches its
    level from some n on, whatever the law is. The other tests are asymptotic.
    """
    if test == "panel" or paired:
        return LEAST
    return next(n for n in range(2, 64) if math.comb(2 * n, n) / 2 >= 1 / (1 - level))


@compiled(static=("settings",))
def _compare(*, settings: Settings, key, a: Samples, b: Samples, objective) -> dict[str, Any]:
    test_key, directions = jax.random.split(key)
    (x, extra_x, lost_a, eps_a), (y, extra_y, lost_b, eps_b) = (_numbers(s, objective) for s in (a, b))
    eps, eps_extra = jax.tree.map(jnp.maximum, eps_a, eps_b)
    out_a, out_b = (lost_a | lost_b,) * 2 if settings.paired else (lost_a, lost_b)
    x, extra_x, used_a = _put_used_first(x, extra_x, out_a)
    y, extra_y, used_b = _put_used_first(y, extra_y, out_b)

    many_numbers = x.shape[-1] > 1

    def at_one_time(x, y, extra_x, extra_y):
        every = standardise(x, y, used_a, used_b, eps)
        unresolved = every.unresolved.sum()
        many = every.varies.size > FEW
        main = project(every, used_a, used_b, directions, FEW) if many else every
        distance = distances_of_columns(main.a, main.b, used_a, used_b, 2.0)
        marginals = jnp.where(distance > main.rounding, distance, 0.0) * main.unit, main.scale
        if settings.test == "energy":
            return marginals, unresolved, None
        if many_numbers:
            squares = _squares(x, y, used_a, used_b, eps.max())
            extra_x, extra_y = (
                jnp.append(s[:, None], e, 1) for s, e in zip(squares[:2], (extra_x, extra_y), strict=True)
            )
        precisions = jnp.append(squares[2], eps_extra) if many_numbers else eps_extra
        extra = standardise(extra_x, extra_y, used_a, used_b, precisions)
        unresolved += extra.unresolved[many_numbers:].sum()
        return marginals, unresolved, functions(every, main, extra, used_a, used_b)

    (wasserstein, spread), unresolved, panel = jax.vmap(at_one_time, in_axes=1)(x, y, extra_x, extra_y)
    if settings.test == "energy":
        found = _energy(settings, test_key, x, y, used_a, used_b)
    else:
        # Functions of all times side by side: (K, n, p) to (n, K p).
        panel = jax.tree.map(lambda f: jnp.moveaxis(f, 0, -2).reshape(*f.shape[1:-1], -1), panel)
        gaps = largest_gap(
            test_key, panel, used_a, used_b, settings.repetitions, settings.rank, settings.paired
        )
        found = gaps._asdict() | {"scale": panel.scale, "distance": None}
    enough = jnp.minimum(used_a, used_b) >= settings.least
    unresolved = unresolved.sum()
    if settings.test == "panel":  # which has nothing to say where nothing it can resolve varies or differs
        enough &= (unresolved == 0) | (found["statistic"] > 0)
    return found | {
        "p_value": jnp.where(enough, found["p_value"], jnp.nan),
        "wasserstein": wasserstein.reshape(-1),
        "spread": spread.reshape(-1),
        "unresolved": unresolved,
        "used": jnp.stack([used_a, used_b]).astype(int),
        "diverged": jnp.stack([lost_a.sum(), lost_b.sum()]),
        "divergence_p_value": divergence_p_value(lost_a, lost_b, settings.paired),
    }


def _numbers(samples: Samples, objective):
    """The coordinates (n, K, d), further numbers (n, K, e), who is lost (n,), and the rounding of both numbers."""
    records = records_at(samples)
    x, rounding = matrix(records)
    extra, extra_rounding = [], []
    if objective is not None:
        loss = jax.vmap(jax.vmap(objective))(records)
        if jnp.shape(loss) != x.shape[:2]:
            raise ValueError(
                f"objective must return one number for each record, got shape {jnp.shape(loss)[2:]}."
            )
        extra.append(loss.astype(float))
        extra_rounding.append(jnp.asarray(precision(loss)))
    rest = jnp.stack(extra, axis=-1) if extra else jnp.zeros((*x.shape[:2], 0))
    finite = jnp.isfinite(jnp.sum(x**2, axis=-1)).all(1) & jnp.isfinite(rest).all((1, 2))
    lost = ~finite if samples.status is None else ~finite | (samples.status == DIVERGED)
    return x, rest, lost, (rounding, jnp.stack(extra_rounding) if extra else jnp.zeros(0))


def _squares(x: jax.Array, y: jax.Array, used_a, used_b, precision):
    """|x|² − |o|² and |y|² − |o|² for the first member o, with the digits of their spread, and their precision."""
    origin = x[:1]
    live_x, live_y = row_mask(len(x), used_a), row_mask(len(y), used_b)
    centred = lambda z, live: (live * (z - origin) * (z + origin)).sum(1)
    a, b = centred(x, live_x), centred(y, live_y)
    size = jnp.maximum((x**2).sum(1).max(), (y**2).sum(1).max())
    largest = jnp.maximum(jnp.abs(a).max(), jnp.abs(b).max())
    return a, b, 2 * precision * size / jnp.where(largest > 0, largest, 1.0)


def _put_used_first(x: jax.Array, extra: jax.Array, lost: jax.Array):
    """The members in use first, in their order, zeros in place of the others, and how many are in use.

    So resamples of them are those of an ensemble from which the others were dropped.
    """
    order = jnp.argsort(lost, stable=True)
    kept = lambda rows: jnp.where(lost[order][:, None, None], 0.0, rows[order])
    return kept(x), kept(extra), (~lost).sum().astype(float)


def _energy(settings: Settings, key, x, y, used_a, used_b) -> dict[str, Any]:
    """The records of all times as one vector; a p-value by relabelling."""
    z = jnp.concatenate([rows.reshape(len(rows), -1) for rows in (x, y)])
    labels = jnp.concatenate(
        [
            sign * row_mask(len(rows), used)[:, 0] / jnp.maximum(used, 1)
            for rows, used, sign in ((x, used_a, 1), (y, used_b, -1))
        ]
    )
    distance, null, apart = relabel(key, z, labels, settings.repetitions, settings.paired)
    error = null.std()
    return {
        "gap": distance[None],
        "scale": apart[None],
        "standard_error": error[None],
        "low": None,
        "high": None,
        "statistic": jnp.where(error > 0, (distance - null.mean()) / jnp.where(error > 0, error, 1.0), 0.0),
        "p_value": (1 + (null >= distance).sum()) / (settings.repetitions + 1),
        "distance": distance,
    }
