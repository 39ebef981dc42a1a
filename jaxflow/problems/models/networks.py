"""Small fully connected networks on real data: the test bed between toy functions and deep learning."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._devices import memory
from jaxflow.objective import Objective
from jaxflow.problems.data.datasets import load, split
from jaxflow.problems.losses import LOSSES, PredictionLosses, cross_entropy, cross_entropy_of_columns
from jaxflow.problems.problem import Problem, as_key


def _identity(x):
    return x


ACTIVATIONS = {
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "identity": _identity,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


@dataclass(frozen=True)
class Network:
    """`network(params, x (B, P)) -> (B, C)`: layers `x @ w + b` with an activation between them.

    It is hashable, and equal for the same activation, so that networks made anew compile nothing anew.
    With `columns` it computes the same numbers with an example in each column; see `compute_by_columns`.
    """

    activation: str
    columns: bool = False

    def __call__(self, params: Any, x: jax.Array) -> jax.Array:
        *hidden, last = params
        act = ACTIVATIONS[self.activation]
        if self.columns:
            x = x.T
            for layer in hidden:
                x = act(layer["w"].T @ x + layer["b"][:, None])
            return (last["w"].T @ x + last["b"][:, None]).T
        for layer in hidden:
            x = act(x @ layer["w"] + layer["b"][None])
        return x @ last["w"] + last["b"][None]


def compute_by_columns(objective: Objective) -> Objective:
    """The same objective of a `Network`, computed with an example in each column, for gradients on a CPU.

    Under `vmap` over parameters, products of columns keep each member's numbers together, where those of rows
    interleave all members and copy them apart again: gradients of many members take a third less time. Products
    with the Hessian take a third more, so it is not for curvature.

    **Arguments**

    - `objective`: the objective of a problem that `mlp` made.

    **Returns** an `Objective` of the same data, equal up to rounding.

    >>> digits = mlp("digits", hidden=(4,))
    >>> print(abs(compute_by_columns(digits.objective)(digits.params) - digits.objective(digits.params)) < 1e-6)
    True
    """
    losses: Any = objective.losses
    network = dataclasses.replace(losses.predict, columns=True)
    loss = cross_entropy_of_columns if losses.loss is cross_entropy else losses.loss
    return dataclasses.replace(objective, losses=PredictionLosses(network, loss))


def mlp(
    dataset: Any,
    hidden: Sequence[int] = (32,),
    activation: str = "tanh",
    loss: str | None = None,
    *,
    key: jax.Array | None = None,
    test_fraction: float = 0.2,
    standardize: bool = True,
) -> Problem:
    r"""A fully connected network on a data set.

    The parameters are a tuple of layers `{"w": (m, n), "b": (n,)}`, in the default floating dtype. Weights
    are drawn from $\mathcal N(0, 1/m)$ (LeCun et al., 1998), biases are 0.

    **Arguments**

    - `dataset`: a name in `DATASETS`, the path of a `.csv` or `.npz` file, arrays `(x, y)`, or what `load`
      returned.
    - `hidden`: the widths of the hidden layers; `()` is a linear model.
    - `activation`: elu, gelu (tanh form), identity, relu, sigmoid, silu or swish, softplus or tanh.
    - `loss`: `"cross_entropy"` $-\log \mathrm{softmax}(f)_y$, for classes; `"mse"` $\frac12 |f - y|^2$ summed
      over outputs, with one-hot targets for classes and, for a regression, targets standardised like the
      features. `None` is the first for classes, the second for a regression.
    - `key`: the random key of the weights; by default `jax.random.key(0)`. It may be traced, so
      `jax.vmap(lambda key: mlp("digits", key=key).params)(keys)` is an ensemble of starts.
    - `test_fraction`: the share of examples that is held out, a number in [0, 1). Which examples these are depends
      on no seed (`split`).
    - `standardize`: whether features (and the targets of a regression) are shifted and scaled to mean 0 and standard
      deviation 1 over the training examples.

    **Returns** a `Problem`. Its `predict(params, x (B, P))` gives the logits or outputs (B, C), its `score` the
    accuracy or R² on the held-out examples.

    **Raises** `ValueError` for an unknown activation or loss, a width below 1, more weights than memory holds,
    cross-entropy on a regression, or a `test_fraction` out of range; `TypeError` when `hidden` is not a sequence of
    integers or `key` is a bare seed; and whatever `load` raises for bad data.

    >>> problem = mlp("digits", hidden=(32,))
    >>> problem.objective.size, [layer["w"].shape for layer in problem.params], problem.test["x"].shape
    (1437, [(64, 32), (32, 10)], (360, 64))
    """
    check_widths("hidden", hidden)
    _check.require_choice("activation", activation, ACTIVATIONS)
    dataset = load(dataset)
    outputs = dataset.y.shape[1] if dataset.classes is None else len(dataset.classes)
    widths = (dataset.x.shape[1], *map(int, hidden), outputs)
    require_room("hidden", hidden, widths)
    loss = loss or ("mse" if dataset.classes is None else "cross_entropy")
    _check.require_choice("loss", loss, LOSSES)
    if dataset.classes is None and loss == "cross_entropy":
        raise ValueError(f"{dataset.name} is a regression data set: its loss is 'mse', not 'cross_entropy'.")
    train, test = split(dataset, test_fraction, standardize=standardize)
    network = Network("silu" if activation == "swish" else activation)
    return Problem(
        objective=Objective(PredictionLosses(network, LOSSES[loss]), train),
        params=draw_layers(as_key(key), widths),
        test=test,
        predict=network,
        name=f"mlp on {dataset.name}",
        classes=dataset.classes,
    )


def check_widths(name: str, hidden: Any) -> None:
    """Refuse anything but a sequence of widths of hidden layers."""
    if isinstance(hidden, (str, bytes)) or not isinstance(hidden, Sequence):
        raise TypeError(f"{name} must be a sequence of widths such as (32,), got {hidden!r}.")
    for width in hidden:
        _check.require_integer(name, width, 1)


def require_room(name: str, hidden: Sequence[int], widths: Sequence[int]) -> None:
    """Refuse more weights than memory holds, as draws and as parameters."""
    weights = sum((m + 1) * n for m, n in itertools.pairwise(widths))
    memory.require_fit(name, tuple(hidden), 2 * weights * jnp.result_type(float).itemsize)


@functools.partial(jax.jit, static_argnames="widths")
def draw_layers(key: jax.Array, widths: tuple[int, ...]) -> tuple:
    """The first parameters of a `Network` with these widths, from the inputs to the outputs."""
    # Compiling a draw costs more than making it: one for all layers, and compiled apart from what uses it.
    shapes = list(itertools.pairwise(widths))
    ends = list(itertools.accumulate(m * n for m, n in shapes))
    draws = jax.random.normal(key, (ends[-1],))
    return tuple(
        {"w": draw.reshape(m, n) / m**0.5, "b": jnp.zeros(n)}
        for draw, (m, n) in zip(jnp.split(draws, ends[:-1]), shapes, strict=True)
    )
