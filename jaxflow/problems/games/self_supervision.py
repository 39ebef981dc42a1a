"""Self-supervised problems: SimSiam and BYOL, linear ones in expectation, small networks on drawn augmentations."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import _check
from jaxflow._devices import memory
from jaxflow.games import VectorField
from jaxflow.problems.data.datasets import DATASETS, Dataset, finite_array, load
from jaxflow.problems.games.two_branches import (
    BranchDescent,
    BYOLPlayers,
    DrawnLoss,
    ExpectedLoss,
    Represent,
    SimSiamPlayers,
)
from jaxflow.problems.models.networks import ACTIVATIONS, Network, check_widths, draw_layers
from jaxflow.problems.problem import Problem, as_key

METHODS = ("byol", "simsiam")
DISTANCES = ("cosine", "squared")


def self_supervised(
    data: Any,
    features: int = 16,
    hidden: Sequence[int] = (),
    *,
    method: str = "simsiam",
    predictor: bool = True,
    stop_gradient: bool = True,
    augmentation: Any = 0.5,
    weight_decay: Any = 0.0,
    predictor_speed: Any = 1.0,
    teacher_scale: Any = None,
    teacher_rate: Any = None,
    distance: str = "squared",
    activation: str = "tanh",
    draws: int = 4,
    scale: bool = True,
    key: jax.Array | None = None,
) -> Problem:
    r"""Two branches that learn to agree on two views of an example: SimSiam and BYOL, as a vector field.

    A view is an example plus Gaussian noise, $x_{1,2} = x + \sigma\xi_{1,2}$. The loss is
    $L = \frac12 E|W_p f(x_1) - \mathrm{sg}(\bar f(x_2))|^2$, where no gradient passes the target. The target
    is $\bar f = \tau f$ in SimSiam. In BYOL it is a teacher, whose parameters follow those of f. The field is

    $$V = \nabla L + \eta\theta, \quad V_p = \alpha_p \nabla_{W_p} L + \eta W_p, \quad
    V_{teacher} = r\,(\theta_{teacher} - \theta),$$

    which is the gradient of no function. Without `hidden` the model is linear, f(x) = Wx, and L is its exact mean
    over all augmentations. With the covariance X of the examples and $X' = \sigma^2 I$ the flow of −V is

    $$\dot W = W_p^\top(\tau WX - W_pW(X + X')) - \eta W, \quad
    \dot W_p = \alpha_p(\tau WX - W_pW(X + X'))W^\top - \eta W_p.$$

    It keeps $e^{2\eta t}(WW^\top - W_p^\top W_p/\alpha_p)$ constant, and W does not collapse to 0 in those principal
    components of X that `simsiam_modes` names. Without predictor a component of variance λ has the rate
    $(\tau - 1)\lambda - \sigma^2 - \eta$. With predictor but without the stop, $|W|$ falls at least as fast as
    $e^{-(\tau^2\sigma^2 + \eta)t}$.

    **Arguments**

    - `data`: a name in `DATASETS`, a `.csv` or `.npz` file, arrays `(x, y)`, or what `load` returned, whose targets
      are not used; or an array (N, …) of examples alone, its trailing axes flattened. The features are shifted to
      mean 0. Those features of a bundled set that are constant are left out (3 of the 64 of digits).
    - `features` k: the size of the representation, an integer at least 1 (static).
    - `hidden`: the widths of the hidden layers of f; `()` is the linear model (static).
    - `method`: `"simsiam"` or `"byol"` (static).
    - `predictor`: whether there is a predictor; without it $W_p$ is the identity (static).
    - `stop_gradient`: whether the target of SimSiam is kept from the gradient (static). BYOL's teacher always is.
    - `augmentation` σ: the standard deviation of the noise, a number at least 0, or an array (d,) of them for the d
      features that are kept.
    - `weight_decay` η: a number at least 0, of online network (biases too) and predictor.
    - `predictor_speed` $\alpha_p$: how much faster the predictor learns, a number at least 0.
    - `teacher_scale` τ: what SimSiam multiplies the target by, a number at least 0, by default 1.
    - `teacher_rate` r: how fast BYOL's teacher follows, per unit of time of the flow, a number at least 0, by default
      1. A step of `gd(h)` is the moving average with the coefficient 1 − hr.
    - `distance`: `"squared"`, as above, or for networks `"cosine"`: both outputs are divided by their norms first, so
      that L is one less their cosine (static).
    - `activation`: of the hidden layers, as in `mlp` (static).
    - `draws`: the number of pairs of views of each example, an integer at least 1, of networks. They are drawn once,
      and each view is the target of the other.
    - `scale`: whether to divide all features by one number, so that their mean variance is 1. This leaves principal
      components as they are, which a division of each feature would not.
    - `key`: the random key of the weights, from $\mathcal N(0, 1/m)$ for m inputs, and of the draws; by default
      `jax.random.key(0)`. The predictor starts as the identity.

    **Returns** a `Problem` whose objective is a `VectorField`. Its `params` are `SimSiamPlayers` or `BYOLPlayers`,
    with one entry for each player, so that `optim.alternating` can move the predictor more often than the rest.
    `predict(params, x (B, d))` is the representation f(x), (B, k), of features so shifted and scaled. The first of
    the field's data is the covariance X (d, d), or `x` (N, d) and `noise` (2, draws, N, d) of a network. σ, η,
    $\alpha_p$, τ and r are leaves, and changing them compiles nothing.

    **Raises** `ValueError` for data with a constant feature or numbers that are not finite, fewer than two examples,
    an unknown name, a number out of range, or an argument that the method or the model does not have; `TypeError`
    for a count that is not an integer or a bare seed as `key`; and whatever `load` raises for bad data.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> digits = jf.problems.self_supervised("digits", weight_decay=1.0)
    >>> run = jf.iterate(jf.optim.gd(0.05), digits.objective, digits.params, steps=1000)
    >>> int(jnp.linalg.matrix_rank(run.params.online, rtol=1e-2))  # of 16
    4

    Source: Tian, Chen & Ganguli (2021, 2102.06810); SimSiam: Chen & He (2021, 2011.10566); BYOL: Grill et al. (2020,
    2006.07733).
    """
    _check_model(features, hidden, method, stop_gradient, distance, activation, draws)
    if isinstance(augmentation, (list, tuple)):
        augmentation = finite_array("augmentation", augmentation, "the features")
    settings = _settings(
        method,
        distance,
        augmentation=augmentation,
        weight_decay=weight_decay,
        predictor_speed=predictor_speed,
        teacher_scale=teacher_scale,
        teacher_rate=teacher_rate,
    )
    x, name = _read(data, scale)
    if np.shape(augmentation) not in ((), x.shape[1:]):
        raise ValueError(
            f"augmentation must be a number or of shape {x.shape[1:]}, got shape {np.shape(augmentation)}."
        )
    weights, noise = jax.random.split(as_key(key))
    layers = draw_layers(weights, (x.shape[1], *map(int, hidden), features))
    if hidden:
        network = Network("silu" if activation == "swish" else activation)
        memory.require_fit("draws", draws, 2 * draws * x.size * jnp.result_type(float).itemsize)
        drawn = jax.random.normal(noise, (2, draws, *x.shape))
        loss, online = DrawnLoss(network, distance == "cosine"), layers
        views = {"x": jnp.asarray(x, float), "noise": drawn}
    else:
        network, loss, online = None, ExpectedLoss(), layers[0]["w"].T
        views = jnp.asarray(x.T @ x / len(x), float)
    players = (online, jnp.eye(features) if predictor else None)
    return Problem(
        objective=VectorField(BranchDescent(loss, bool(stop_gradient)), (views, settings)),
        params=SimSiamPlayers(*players) if method == "simsiam" else BYOLPlayers(*players, online),
        predict=Represent(network),
        name=f"{method} on {name}",
    )


def _check_model(features, hidden, method, stop_gradient, distance, activation, draws) -> None:
    _check.require_integer("features", features, 1)
    check_widths("hidden", hidden)
    _check.require_choice("method", method, METHODS)
    _check.require_choice("distance", distance, DISTANCES)
    _check.require_choice("activation", activation, ACTIVATIONS)
    _check.require_integer("draws", draws, 1)
    if method == "byol" and not stop_gradient:
        raise ValueError(
            "stop_gradient must be True for the method 'byol', whose teacher no gradient reaches."
        )
    if distance == "cosine" and not hidden:
        raise ValueError("distance must be 'squared' for the linear model, whose hidden is (), got 'cosine'.")


def _settings(method: str, distance: str, **numbers: Any) -> dict[str, Any]:
    """The numbers of the field; 1 stands for those of the teacher that are left out or do not exist."""
    foreign = {"teacher_scale" if method == "byol" else "teacher_rate": f"the method {method!r}"}
    if distance == "cosine":
        foreign["teacher_scale"] = "the distance 'cosine'"
    for name, kind in foreign.items():
        if numbers[name] is not None:
            raise ValueError(f"{name} must be left out for {kind}, got {numbers[name]!r}.")
    numbers |= {name: 1.0 for name in ("teacher_scale", "teacher_rate") if numbers[name] is None}
    _check.require_nonnegative(**numbers)
    return numbers


def _read(data: Any, scale: bool) -> tuple[np.ndarray, str]:
    """The examples (N, d), shifted and scaled, and the name of their source."""
    if isinstance(data, (str, os.PathLike, Dataset)) or (isinstance(data, (tuple, list)) and len(data) == 2):
        dataset = load(data)
        x, name = dataset.x, dataset.name
    else:
        x, name = finite_array("x", data, "data"), "the given data"
    if x.ndim < 2 or len(x) < 2 or not x.size:
        raise ValueError(f"data must hold at least 2 examples of shape (N, …), got shape {x.shape}.")
    x = x.reshape(len(x), -1)
    constant = np.ptp(x, 0) == 0
    if constant.any() and name not in DATASETS:
        shown = ", ".join(map(str, np.flatnonzero(constant)[:5])) + (", …" if constant.sum() > 5 else "")
        raise ValueError(f"data must have features that vary, got constant ones at the indices {shown}.")
    x = x[:, ~constant] - x[:, ~constant].mean(0)
    return x / np.sqrt(x.var(0).mean()) if scale else x, name
