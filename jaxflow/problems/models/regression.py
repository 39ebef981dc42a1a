"""Linear regression, whose minimum and gradient flow have closed forms, and logistic regression, convex."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflow import _check
from jaxflow.objective import Objective
from jaxflow.problems.data.datasets import load, split
from jaxflow.problems.losses import PredictionLosses, cross_entropy, squared_error
from jaxflow.problems.problem import Problem, as_floats, as_key


def _linear(params, x):
    return x @ params


def _affine(params, x):
    return x @ params["w"] + params["b"][None]


def _linear_flow(directions, rates, minimizer, t, x0):
    # In x0 + V(1 − e^{−λt})Vᵀ(w* − x0) the directions no example sees, where λ = 0, stay where they started.
    return x0 + directions.T @ (-jnp.expm1(-rates * t) * (directions @ (minimizer - x0)))


def linear_regression(
    x: Any = None,
    y: Any = None,
    *,
    key: jax.Array | None = None,
    examples: int = 128,
    features: int = 8,
    noise: Any = 0.1,
) -> Problem:
    r"""Least squares, $\ell_i(w) = \frac12 (x_i \cdot w - y_i)^2$, from 0, with everything in closed form.

    Given `x` and `y`, they are used as they are: no intercept, no standardisation, no held-out
    examples. Otherwise N Gaussian examples are drawn, and N more to hold out:
    $x \sim \mathcal N(0, I)$, $y = x \cdot w_0 + $ `noise` $\cdot\, \xi$, with
    $w_0 \sim \mathcal N(0, I)$ and $\xi \sim \mathcal N(0, 1)$.

    **Arguments**

    - `x` (N, P), `y` (N,): real arrays, which may be traced; or neither of them.
    - `key`: the random key of the examples drawn; default `jax.random.key(0)`.
    - `examples` N, `features` P: integers at least 1, for the examples drawn (static).
    - `noise`: a number at least 0, in units of y.

    **Returns** a `Problem` with `minimum`, `minima`, `curvature` and `flow`. The singular values $s_j$ of $X/\sqrt
    N$ give it all: `curvature` is the spectrum $\lambda_j = s_j^2$ of the Hessian $X^\top X / N$, `minima[0]` the
    least-squares solution $w^*$ (of least norm, where there are several), and the flow $w(t) = w(0) + V (1 -
    e^{-\Lambda t}) V^\top (w^* - w(0))$.

    **Raises** `ValueError` when only one of `x` and `y` is given, when their shapes do not fit, or when they hold
    a NaN or an infinity; `ValueError` or `TypeError` for a bad `examples`, `features`, `noise` or `key`.

    >>> problem = linear_regression([[1.0, 0.0], [0.0, 2.0]], [1.0, 1.0])
    >>> problem.minima.tolist(), problem.curvature.tolist(), problem.flow(1.0, problem.params).tolist()
    ([[1.0, 0.5]], [0.5, 2.0], [0.3935, 0.4323])
    """
    if (x is None) != (y is None):
        raise ValueError(f"x and y must be given together, got only {'y' if x is None else 'x'}.")
    test = None
    if x is None:
        _check.require_integer("examples", examples, 1)
        _check.require_integer("features", features, 1)
        _check.require_nonnegative(noise=noise)
        # One flat draw for everything, compiled apart from what uses it: compiling is what it costs.
        draws = jax.random.normal(as_key(key), ((2 * examples + 1) * (features + 1),))
        x, y, test = _gaussian_examples(draws.reshape(-1, features + 1), noise)
    x, y = as_floats("x", x), as_floats("y", y)
    if x.ndim != 2 or x.size == 0 or y.shape != x.shape[:1]:
        raise ValueError(f"x must have shape (N, P) and y (N,), got {x.shape} and {y.shape}.")
    y = y.astype(x.dtype)
    directions, rates, minimizer, minimum, curvature = _least_squares(x, y)
    return Problem(
        objective=Objective(PredictionLosses(_linear, squared_error), {"x": x, "y": y}),
        params=jnp.zeros_like(minimizer),
        test=test,
        predict=_linear,
        minimum=minimum,
        minima=minimizer[None],
        curvature=curvature,
        flow=Partial(_linear_flow, directions, rates, minimizer),
        name="linear_regression",
    )


@jax.jit
def _least_squares(x, y):
    n, p = x.shape
    left, s, directions = jnp.linalg.svd(x / n**0.5, full_matrices=False)
    # The usual rank decision: what is below rounding is a direction that no example sees.
    seen = s > s[0] * max(n, p) * jnp.finfo(x.dtype).eps
    inverse = jnp.where(seen, 1.0 / jnp.where(seen, s, 1.0), 0.0)
    minimizer = directions.T @ (inverse * (left.T @ (y / n**0.5)))
    rates = jnp.where(seen, s**2, 0.0)
    minimum = squared_error(x @ minimizer, y).mean()
    curvature = jnp.sort(jnp.concatenate([rates, jnp.zeros(p - s.size, x.dtype)]))
    return directions, rates, minimizer, minimum, curvature


@jax.jit
def _gaussian_examples(draws, noise):
    x, weights = draws[:-1, :-1], draws[-1, :-1]
    y = x @ weights + noise * draws[:-1, -1]
    half = len(x) // 2
    return x[:half], y[:half], {"x": x[half:], "y": y[half:]}


def logistic_regression(dataset: Any, *, test_fraction: float = 0.2, standardize: bool = True) -> Problem:
    r"""Logistic regression with an intercept, from zero, over a classification data set.

    With two classes there is one logit $z = x \cdot w + b$, `w` (P,) and `b` (), $\ell = \log(1 + e^z) - y z$. With
    C classes there is the softmax of C logits, `w` (P, C) and `b` (C,), $\ell = \log \sum_c e^{z_c} - z_y$. The
    objective is convex. Where a hyperplane separates one class from the rest, as in every bundled set, its infimum
    is approached only at infinity, so no `minimum` is stated.

    **Arguments**

    - `dataset`: a name in `DATASETS`, the path of a `.csv` or `.npz` file, arrays `(x, y)`, or what `load`
      returned; it must have classes.
    - `test_fraction`: the share of examples that is held out, a number in [0, 1).
    - `standardize`: whether features are shifted and scaled to mean 0 and standard deviation 1 over the training
      examples.

    **Returns** a `Problem`, whose parameters are `{"w", "b"}`.

    **Raises** `ValueError` for a regression data set or a `test_fraction` out of range, and whatever `load` raises
    for bad data; `TypeError` for a `test_fraction` that is not a number.

    >>> problem = logistic_regression("breast_cancer")
    >>> problem.params["w"].shape, problem.test["x"].shape, float(problem.objective(problem.params))
    ((30,), (114, 30), 0.6931)
    """
    dataset = load(dataset)
    if dataset.classes is None:
        raise ValueError(f"Logistic regression needs classes, but {dataset.name} is a regression data set.")
    train, test = split(dataset, test_fraction, standardize=standardize)
    classes, features = len(dataset.classes), dataset.x.shape[1]
    shape = () if classes == 2 else (classes,)
    return Problem(
        objective=Objective(PredictionLosses(_affine, cross_entropy), train),
        params={"w": jnp.zeros((features, *shape)), "b": jnp.zeros(shape)},
        test=test,
        predict=_affine,
        name=f"logistic_regression on {dataset.name}",
    )
