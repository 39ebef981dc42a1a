"""The weak order of a continuous model: how fast its expectations approach the discrete ones as the rate falls."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._norms import difference, parts
from jaxflow.comparison.orders.slope import Order, check_ladder

PyTree = Any
# A gap within this number of standard errors of 0 tells nothing about a slope.
NOISE = 2.0


def weak_order(
    discrete: Callable[[float], PyTree],
    continuous: Callable[[float], PyTree],
    learning_rates: Sequence[float],
    *,
    panel: Callable[[PyTree], PyTree] | None = None,
) -> Order:
    r"""Fit $\log \max_j |E f_j(\theta) - E f_j(X)| = p \log\eta + c$ over a ladder of learning rates η.

    **Arguments**

    - `discrete`, `continuous`: functions `discrete(learning_rate)`, `continuous(learning_rate)`. They are called
      once for each rung, with a Python float, so that numbers of steps, and the shapes of what they run, may depend
      on it. Nothing is vmapped or differentiated.
    - `learning_rates` (r,), r ≥ 3: positive, distinct numbers.
    - `panel`: with `None` both functions return the exact moments, pytrees of numbers. With `panel(sample) ->
      numbers`, a function of one sample, both return samples, leaves (n, …), with common random numbers: sample i
      of the two shares its noise, and the gap is the mean of the paired differences. n is the same on every rung;
      noise may be shared between rungs too. The gaps of all numbers are compared as they are: scale them in
      `panel`.

    **Returns** an `Order` of the largest gap. From exact moments it is that of `order_of_accuracy`. From samples the
    fit is weighted by the relative Monte Carlo errors of the gaps, and `uncertainty` is the slope's Monte Carlo
    standard error, by the delta method over members, whose differences on all rungs enter together. It is
    stretched by √(χ²/(r−2)) where the gaps scatter about the line by more than their errors.

    **Raises** `ValueError` for learning rates that are not at least three positive, distinct numbers, results that
    differ in structure or shape, samples that are not finite, and, from samples, a largest gap within 2 standard
    errors of 0 (the message says how many members it needs); `TypeError` for traced learning rates or a `panel`
    that is not a function.

    A slope of 1 for a first-order SDE says nothing about its noise: gradient flow has it too. Centred second
    moments do tell.

    Source: Li, Tai & E (2019), arXiv 1811.01558.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> mean = lambda rate: (1 - rate) ** round(1 / rate)  # SGD on E(θ − c)²/2, and its SDE, at t = 1
    >>> fit = jf.weak_order(mean, lambda rate: jnp.exp(-1.0), [0.05, 0.025, 0.0125, 0.00625])
    >>> print(round(float(fit.slope), 2))
    1.01
    """
    rates = _ladder(learning_rates)
    if panel is not None and not callable(panel):
        raise TypeError(f"panel must be a function of one sample, got {panel!r}.")
    found = []
    for rate in rates:
        a, b = jax.device_put((discrete(rate), continuous(rate)))
        _check_alike(rate, a, b)
        found.append(_exact_gap(a, b) if panel is None else _sampled_gap(rate, a, b, panel))
    gaps, members = (list(x) for x in zip(*found, strict=True))
    _check_gaps(rates, gaps, members)
    return _fit(np.array(rates), np.array(gaps), None if panel is None else np.stack(members))


def _exact_gap(a: PyTree, b: PyTree) -> tuple[float, None]:
    leaves = zip(*map(jax.tree.leaves, (a, b)), strict=True)
    return max(float(np.abs(difference(x, y)).max()) for x, y in leaves), None


def _sampled_gap(rate: float, a: PyTree, b: PyTree, panel) -> tuple[float, np.ndarray]:
    """The largest |mean| of the paired differences of the panel, and the differences (n,) whose mean it is."""
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves((a, b))}
    if len(sizes) != 1 or min(sizes) < (2,):
        raise ValueError(
            "discrete and continuous must return samples, arrays that share a leading axis n of at least 2, "
            f"got leading axes {sorted(sizes)} at learning rate {rate:g}."
        )
    differences = np.asarray(_differences(panel, a, b))
    lost = ~np.isfinite(differences).all(1)
    if lost.any():
        raise ValueError(
            f"{lost.sum()} of {lost.size} pairs of samples are not finite at learning rate {rate:g}; "
            "lower the largest learning rate."
        )
    means = differences.mean(0)
    j = int(np.argmax(np.abs(means)))
    return float(np.abs(means[j])), differences[:, j] * np.sign(means[j])


@compiled
def _differences(panel, a, b) -> jax.Array:
    values = [jax.tree.leaves(jax.vmap(panel)(samples)) for samples in (a, b)]
    gaps = [part for x, y in zip(*values, strict=True) for part in parts(difference(x, y))]
    return jnp.concatenate([gap.reshape(len(gap), -1).astype(float) for gap in gaps], axis=1)


def _fit(rates: np.ndarray, gaps: np.ndarray, members: np.ndarray | None) -> Order:
    """Least squares on logarithms; weighted where gaps are means of differences, `members` (r, n)."""
    relative = np.ones_like(gaps)
    if members is not None:
        # Differences that do not vary would have infinite weight.
        relative = np.maximum(_standard_errors(members) / gaps, np.finfo(float).eps)
    x, y, weights = np.log(rates), np.log(gaps), relative**-2.0
    middle = np.average(x, weights=weights)
    coefficients = weights * (x - middle) / np.sum(weights * (x - middle) ** 2)
    slope = coefficients @ y
    intercept = np.average(y, weights=weights) - slope * middle
    scatter = np.sqrt(np.sum(weights * (y - intercept - slope * x) ** 2) / (len(x) - 2))
    uncertainty = scatter * np.sqrt(np.sum((coefficients * relative) ** 2))
    if members is not None:
        # What each member adds to the slope; members share their noise between rungs, or not.
        influence = (coefficients / gaps) @ members
        uncertainty = max(1.0, scatter) * _standard_errors(influence[None])[0]
    return Order(*map(jnp.asarray, (rates, gaps, slope, intercept, uncertainty)))


def _standard_errors(members: np.ndarray) -> np.ndarray:
    return members.std(1, ddof=1) / np.sqrt(members.shape[1])


def _ladder(learning_rates: Any) -> list[float]:
    if isinstance(learning_rates, Tracer):
        raise TypeError("learning_rates must be concrete numbers, as each of them is a program of its own.")
    rates = np.asarray(learning_rates, float)
    check_ladder("learning_rates", rates)
    return rates.tolist()


def _check_alike(rate: float, a: PyTree, b: PyTree) -> None:
    where = f"at learning rate {rate:g}"
    _check.require_like(
        "discrete", a, b, f"return numbers of the same structure and shapes as continuous {where}"
    )
    if not jax.tree.leaves(a):
        raise ValueError(f"discrete and continuous must return at least one number, got {a!r} {where}.")


def _check_gaps(rates: list[float], gaps: list[float], members: list) -> None:
    for rate, gap, differences in zip(rates, gaps, members, strict=True):
        if not (np.isfinite(gap) and gap > 0):
            raise ValueError(
                f"The largest gap must be positive and finite, got {gap:g} at learning rate {rate:g}."
            )
        if differences is None:
            continue
        if len(differences) != len(members[0]):
            raise ValueError(
                f"All learning rates must have the same number of samples, got {len(members[0])} at {rates[0]:g} and "
                f"{len(differences)} at {rate:g}."
            )
        error = _standard_errors(differences[None])[0]
        if gap < NOISE * error:
            needed = len(differences) * (NOISE * error / gap) ** 2
            raise ValueError(
                f"The largest gap, {gap:.2g} at learning rate {rate:g}, is below {NOISE:g} standard errors "
                f"({error:.2g} each): use more members, at least {needed:.2g}, "
                "or larger learning rates."
            )
