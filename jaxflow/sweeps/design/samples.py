"""Points for a random search: hyperparameters drawn from their ranges, evenly spread if asked."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxflow import _check

METHODS = ("latin_hypercube", "random", "sobol")
SMALLEST = 2.0**-53  # 1 − SMALLEST is the number below 1


def sample(ranges: Mapping[str, Any], n: int, *, method: str = "sobol", seed: int = 0) -> np.ndarray:
    """Draw n points of hyperparameters, each distributed as its range says: $x_{ij} = F_j^{-1}(u_{ij})$.

    **Arguments**

    - `ranges`: by name, a pair `(low, high)`, uniform between the two; or any distribution with a `ppf`, the
      inverse $F^{-1}$ of its distribution function, such as `scipy.stats.loguniform(1e-4, 1)` or, for
      integers from 1 to 128, `scipy.stats.randint(1, 129)`.
    - `n`: the number of points.
    - `method`: where the $u_i$ in the unit cube come from. "sobol": the first n of a scrambled Sobol'
      sequence. "latin_hypercube": one in each of n equal strata of every hyperparameter. "random":
      independent.
    - `seed`: an integer at least 0; the same seed gives the same points.

    **Returns** a structured NumPy array (n,) with a field for every name, int64 where the distribution is one of
    integers and float64 elsewhere. `jf.sweep` accepts it as its axes.

    **Raises** `ValueError` or `TypeError` for no ranges, names that are not strings, `low >= high`, ranges that
    are neither pairs nor distributions or whose values are not finite, n < 1, a negative seed, or another
    method.

    With each method every point by itself is uniform in the cube, so means over points are unbiased for any n. The
    points of the first two are not independent of each other, which makes the means of smooth functions more
    accurate. Sobol' points are balanced, $2^{m-k}$ of them in every dyadic interval of length $2^{-k}$, for $n =
    2^m$ only: choose such an n. For any other n the points are a union of such balanced blocks, which is better
    than independent points, but may be no better than the power of two below.

    Source: Sobol' 1967; Latin hypercubes: McKay, Beckman & Conover 1979.

    >>> from scipy import stats
    >>> import jaxflow as jf
    >>> points = jf.sweeps.sample({"learning_rate": stats.loguniform(1e-4, 1), "beta": (0.0, 0.99)}, 64)
    >>> points.shape, points.dtype.names
    ((64,), ('learning_rate', 'beta'))
    >>> [int((points["learning_rate"] < bound).sum()) for bound in (1e-3, 1e-2, 1e-1)]  # the same in every decade
    [16, 32, 48]
    """
    if not isinstance(ranges, Mapping):
        raise TypeError(f"ranges must be a dict from names to ranges, got {ranges!r}.")
    if not ranges:
        raise ValueError("ranges must name at least one hyperparameter, got an empty dict.")
    for name in ranges:
        if not isinstance(name, str) or not name:
            raise TypeError(f"ranges must be named by strings that are not empty, got the name {name!r}.")
    _check.require_integer("n", n, 1)
    _check.require_choice("method", method, METHODS)
    _check.require_integer("seed", seed, 0)
    for name, spread in ranges.items():
        _check_range(name, spread)
    u = np.clip(draw_uniform(method, int(n), len(ranges), int(seed)), SMALLEST, 1 - SMALLEST)
    columns = {name: _values(name, spread, u[:, j]) for j, (name, spread) in enumerate(ranges.items())}
    points = np.empty(n, [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        points[name] = column
    return points


def _check_range(name: str, spread: Any) -> None:
    label = f"ranges[{name!r}]"
    if callable(getattr(spread, "ppf", None)):
        rule = f"{label} must have a ppf of one number, with all parameters given"
        try:
            shape = np.shape(spread.ppf(0.5))
        except TypeError as error:
            raise TypeError(f"{rule}, got {spread!r}: {error}.") from None
        if shape:
            raise ValueError(f"{rule}, got {spread!r}, of shape {shape}.")
        return
    pair = isinstance(spread, (tuple, list, np.ndarray)) and len(spread) == 2
    if not pair or not all(_check.is_concrete(end) and not isinstance(end, complex) for end in spread):
        raise TypeError(f"{label} must be a pair (low, high) of numbers or have a ppf, got {spread!r}.")
    low, high = map(float, spread)
    rule = "a pair (low, high) of finite numbers with low < high"
    _check.require(label, spread, math.isfinite(low) and math.isfinite(high) and low < high, rule)


def draw_uniform(method: str, n: int, d: int, seed: int) -> np.ndarray:
    """n points of the unit cube; shape (n, d)."""
    rng = np.random.default_rng(seed)
    if method == "random":
        return rng.random((n, d))
    from scipy.stats import qmc  # here, as it is slow to import

    engine: Any = qmc.Sobol if method == "sobol" else qmc.LatinHypercube
    # Its argument is called `rng` since SciPy 1.15, `seed` before.
    name = "rng" if "rng" in inspect.signature(engine).parameters else "seed"
    points = engine(d, **{name: rng})
    # The sequence is the same however many of its points are drawn: those past n only spare a warning.
    return points.random_base2((n - 1).bit_length())[:n] if method == "sobol" else points.random(n)


def _values(name: str, spread: Any, u: np.ndarray) -> np.ndarray:
    """The inverse of the distribution function at `u` (n,)."""
    if not hasattr(spread, "ppf"):
        low, high = map(float, spread)
        return np.clip((1 - u) * low + u * high, low, high)
    values = np.asarray(spread.ppf(u), float)
    if values.shape != u.shape or not np.isfinite(values).all():
        raise ValueError(f"ranges[{name!r}] must have a ppf whose values are finite numbers, got {spread!r}.")
    # SciPy allows discrete distributions over other numbers than integers too.
    discrete = hasattr(getattr(spread, "dist", spread), "pmf")
    whole = discrete and (values == np.rint(values)).all() and (np.abs(values) < 2.0**63).all()
    return values.astype(np.int64 if whole else np.float64)
