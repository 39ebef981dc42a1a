"""How far apart two laws are, from a sample of each: the energy coefficient of inhomogeneity and its noise."""

import numpy as np

RELABELLINGS = 500
FEWEST = 2  # the unbiased estimate takes two members of each sample


def inhomogeneity(a: np.ndarray, b: np.ndarray, seed: int = 0) -> tuple[float, float]:
    r"""$H = \frac{2E|X-Y| - E|X-X'| - E|Y-Y'|}{2E|X-Y|}$ of two samples (n, d) and (m, d), and its noise floor.

    H is 0 where the laws agree and 1 where they are apart by more than either is wide. The expectations are means
    over pairs of different members (U-statistics), so the estimate's numerator is unbiased and it may be a little
    below 0. The noise floor is what 95 % of random relabellings of the members stay below.

    Members that are not finite are left out; NaN where fewer than two of a sample remain.

    Source: Székely & Rizzo, Energy statistics (2013), J. Stat. Plan. Inference 143, 1249.
    """
    a, b = (x[np.isfinite(x).all(axis=1)].astype(float) for x in (a, b))
    n, m = len(a), len(b)
    if min(n, m) < FEWEST:
        return float("nan"), float("nan")
    pooled = np.concatenate([a, b])
    scale = np.abs(pooled).max() or 1.0  # squares of what diverges slowly overflow
    distances = np.stack([np.linalg.norm((pooled - row) / scale, axis=1) for row in pooled])
    first = np.arange(n + m) < n
    shuffled = np.random.default_rng(seed).permuted(np.tile(first, (RELABELLINGS, 1)), axis=1)
    found = _coefficients(distances, np.concatenate([first[None], shuffled]))
    return float(found[0]), float(np.quantile(found[1:], 0.95))


def _coefficients(distances: np.ndarray, first: np.ndarray) -> np.ndarray:
    """H for each row of `first`, which says of every member whether it belongs to the first sample."""
    x, y = first.astype(float), (~first).astype(float)
    n, m = x.sum(1), y.sum(1)
    total = lambda u, v: np.sum((u @ distances) * v, axis=1)
    across = 2 * total(x, y) / (n * m)
    within = total(x, x) / (n * (n - 1)) + total(y, y) / (m * (m - 1))
    # All members in one place: the laws agree.
    return np.where(across > 0, (across - within) / np.where(across > 0, across, 1.0), 0.0)
