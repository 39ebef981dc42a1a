"""The verdict on two ensembles: its numbers as a pytree, and a sentence that says what they mean."""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.core import Tracer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EnsembleComparison:
    """What `compare_ensembles` found: a pytree of arrays, with the names static.

    - `names`: the names of the p statistics. `gap` (p,): a − b of each of them.
    - `scale` (p,): the scale of each gap (the pooled SD for a mean, the pooled variance for a variance, …), 0 where
      nothing varies.
    - `standard_error` (p,): the standard error of each gap. `low`, `high` (p,): the simultaneous interval at
      `level`; `None` for the energy distance, whose standard error is taken from its null law.
    - `statistic`: the largest |gap| in standard errors (infinite where constants differ).
    - `p_value`: the p-value of all statistics together; NaN where too few members are left.
    - `distance`: the energy distance, `None` where it was not asked for.
    - `wasserstein` (k,): Wasserstein-2 distances of the `marginals` (k), whose pooled SDs are `spread` (k,).
    - `unresolved`: how many numbers of the record, at all times together, have a spread that is too small compared
      with their size to be told from rounding.
    - `used` (2,): the number of members of a and of b that entered (if `paired`, the number of pairs, twice).
    - `diverged` (2,): the number of members of a and of b that diverged or hold a number that is not finite.
    - `divergence_p_value`: the exact p-value of equal rates of divergence, by Fisher's test; by McNemar's for pairs.

    >>> import jax, jaxflow as jf
    >>> a, b = jax.random.normal(jax.random.key(0), (2, 256, 2))
    >>> verdict = jf.compare_ensembles({"w": a}, {"w": b * 1.5}, key=jax.random.key(1))
    >>> verdict.differ, verdict.worst
    (True, 'average variance of all coordinates')
    """

    names: tuple[str, ...] = field(metadata={"static": True})
    marginals: tuple[str, ...] = field(metadata={"static": True})
    paired: bool = field(metadata={"static": True})
    level: float = field(metadata={"static": True})
    gap: jax.Array
    scale: jax.Array
    standard_error: jax.Array
    low: jax.Array | None
    high: jax.Array | None
    statistic: jax.Array
    p_value: jax.Array
    distance: jax.Array | None
    wasserstein: jax.Array
    spread: jax.Array
    used: jax.Array
    diverged: jax.Array
    divergence_p_value: jax.Array
    unresolved: Any = 0  # as in those that were pickled before there was one

    @property
    def differ(self) -> Any:
        """Whether the ensembles differ: p_value ≤ 1 − level. Then some interval excludes 0."""
        # The p-value is a count over repetitions + 1; a count equal to the level must not be lost to rounding.
        found = self.p_value <= (1 - self.level) * (1 + 1e-6)
        return found if isinstance(found, Tracer) or np.ndim(found) else bool(found)

    @property
    def relative(self) -> np.ndarray:
        """The gaps over their scales: 0 where both are 0, infinite where only the scale is."""
        return _ratio(self.gap, self.scale)

    @property
    def worst(self) -> str:
        """The name of the statistic with the largest gap in standard errors; needs one concrete comparison."""
        return self.names[self._index_of_worst()]

    @property
    def verdict(self) -> str:
        """The comparison in one sentence; needs one concrete comparison."""
        used = np.asarray(self.used)
        runs = f"{used[0]} pairs of runs" if self.paired else f"{used[0]} and {used[1]} runs"
        p = f"(p = {float(self.p_value):.2g})"
        if np.isnan(self.p_value) and int(self.unresolved) and not np.any(self.standard_error):
            left_out = self._left_out_sentence()
            return f"No verdict: {left_out}, and nothing else varies; record deviations, or in float64."
        if np.isnan(self.p_value):
            text = f"No verdict: only {runs} are finite, too few for this test"
        elif self.differ:
            most = "" if self.low is None else f", most in the {self.worst}"
            text = f"The ensembles of {runs} differ {p}{most}"
        else:
            text = f"No difference found between {runs} {p}{self._excluded_sentence()}"
        left_out = f"; {self._left_out_sentence()}" if int(self.unresolved) and self.low is not None else ""
        return f"{text}{left_out}{self._lost_sentence()}."

    def _left_out_sentence(self) -> str:
        count = int(self.unresolved)
        return f"the spread of {count} number{'s' * (count != 1)} is below what their precision resolves"

    def _index_of_worst(self) -> int:
        return int(np.argmax(np.abs(_ratio(self.gap, self.standard_error))))

    def _excluded_sentence(self) -> str:
        """The largest gaps in a mean and in a variance that the intervals leave possible."""
        if self.low is None or self.high is None:
            return ""
        bounds = np.abs(_ratio(np.stack([self.low, self.high]), self.scale)).max(0)
        # Where precision ends no gap is excluded.
        known = np.asarray(self.scale) > 0 if int(self.unresolved) else np.ones(bounds.shape, bool)

        def largest_bound(kind):
            wanted = {f"{kind} of {marginal}" for marginal in self.marginals}
            rows = zip(self.names, bounds, known, strict=True)
            return max((bound for name, bound, told in rows if told and name in wanted), default=np.nan)

        mean, variance = largest_bound("mean"), largest_bound("variance")
        if np.isnan(mean):
            return ""
        return f": a gap above {mean:.2g} SD in a mean or {_percent(variance)} in a variance is excluded"

    def _lost_sentence(self) -> str:
        diverged = np.asarray(self.diverged)
        if not diverged.any():
            return ""
        text = f"; {diverged[0]} of a and {diverged[1]} of b diverged and are left out"
        p = float(self.divergence_p_value)
        if p > 1 - self.level:
            return text
        return f"{text}, a difference beyond chance (p = {p:.2g}, {'McNemar' if self.paired else 'Fisher'})"

    def __repr__(self):
        if isinstance(self.p_value, Tracer) or not isinstance(self.p_value, (jax.Array, np.ndarray)):
            return "EnsembleComparison(<traced>)"
        if np.ndim(self.p_value):
            return f"EnsembleComparison({np.sum(self.differ)} of {np.size(self.p_value)} comparisons differ)"
        if np.isnan(self.p_value):
            return f"EnsembleComparison({self.verdict})"
        i, effects = self._index_of_worst(), _ratio(self.wasserstein, self.spread)
        k = int(np.argmax(effects))
        gap = f"{_number(self.gap[i])}{_relative_gap(self.names[i], self.relative[i])}"
        if self.low is not None and self.high is not None:
            gap = f"a − b = {gap}, between {_number(self.low[i])} and {_number(self.high[i])}"
        return (
            f"EnsembleComparison({self.verdict}\n"
            f"  {self.names[i]}: {gap}\n"
            f"  Wasserstein-2 distance: at most {_number(self.wasserstein[k])}, {effects[k]:.2g} SD, "
            f"in {self.marginals[k]})"
        )


def _ratio(x, scale) -> np.ndarray:
    x, scale = np.asarray(x, float), np.asarray(scale, float)
    certain = np.where(x == 0, 0.0, np.copysign(np.inf, x))
    return np.where(scale > 0, x / np.where(scale > 0, scale, 1.0), certain)


def _number(x) -> str:
    return f"{float(x):.3g}"


def _percent(x) -> str:
    return f"{100 * x:.0f} %" if x >= 0.1 else f"{100 * x:.2g} %"


def _relative_gap(name: str, value: float) -> str:
    """A gap over its scale, in the words that go with the statistic."""
    if not np.isfinite(value) or name.startswith("mean of cos"):
        return ""
    if name.startswith("mean"):
        return f" ({value:.2g} SD)"
    if name.startswith("covariance"):
        return f" ({value:.2g} of the product of the SDs)"
    if name.startswith("energy"):
        return f" ({_percent(value)} of 2E|X − Y|)"
    return f" ({_percent(abs(value))} of the pooled variance)"
