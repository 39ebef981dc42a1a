"""A user's own model as a `Problem`: an Equinox, flax or other module, or a function, with data and a loss."""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow import _check
from jaxflow._compiled import combine, partition
from jaxflow._losses.models import Carried
from jaxflow.objective import Objective
from jaxflow.problems.data.datasets import Dataset, load, split
from jaxflow.problems.losses import LOSSES, PredictionLosses, cross_entropy, squared_error
from jaxflow.problems.problem import Problem, as_key

PyTree = Any


def wrap(
    model: Any,
    data: Any,
    loss: str | Callable[[Any, Any], Any],
    params: PyTree = None,
    *,
    key: jax.Array | None = None,
) -> Problem:
    r"""Make a problem of your own model, data and loss, $L(\theta) = \frac1N \sum_i \ell(f(\theta, x_i), y_i)$.

    **Arguments**

    - `model`: what computes the predictions f, of one of four kinds. An Equinox module is called on one example at a
      time (by `jax.vmap`). Any other callable module that is a pytree, such as a flax.nnx module, is called on a
      batch. These two are their own parameters. An object with `init` and `apply`, such as a flax.linen module, is
      called as `model.apply(params, x)`. A function is called as `model(params, x)`. The last two take a batch too.
    - `data`: a pair of arrays `(x, y)` or a dict of `x` and `y`, both with a leading axis N, which are taken as they
      are; or the name of a bundled data set, the path of a file or a `Dataset`, which is standardised and of which a
      fifth is held out, as by `mlp` (its `x` is then (N, P)).
    - `loss`: `"cross_entropy"` $-\log \mathrm{softmax}(f)_y$, for integer labels; `"mse"` $\frac12 |f - y|^2$ summed
      over outputs, with one-hot targets for integer labels; or a function `loss(prediction, y) -> scalar` of one
      example. Such a function is static: define it once, because a new one compiles anew.
    - `params`: the parameters of a function, or the variables of an object with `init` and `apply`. Such an object
      makes them itself from the first example if they are left out.
    - `key`: the random key with which an object with `init` makes its variables; by default `jax.random.key(0)`.

    **Returns** a `Problem`. Its `params` are the module or the parameters, its `predict(params, x)` gives the
    predictions (B, …) for a batch.

    *What is trained.* Of a flax.linen module the collection `params`, and of a flax.nnx module its `Param`: other
    collections and variables, such as the running averages of a batch normalisation, are carried along untouched,
    also where `trainable` names them. A model that makes new averages at each call is refused:
    `Objective(losses, data, state=…)` carries those on. The counter of a flax.nnx module's random numbers is carried
    untouched too, so that its dropout has the same mask at every step. For a new one write an `Objective` with
    `losses(params, batch, key)`, which are handed the step's key, for `model(x, rngs=nnx.Rngs(dropout=key))`.

    **Raises** `ValueError` for an unknown name, arrays that differ in N, targets that do not fit the loss, labels
    outside 0, …, C−1, or a model that does not return one prediction for each example, changes its own arrays or
    draws random numbers without a key; `TypeError` for a model of another kind, or `params` or a `key` that its kind
    does not take.

    >>> import equinox as eqx, jax, jaxflow as jf
    >>> model = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
    >>> iris = jf.problems.wrap(model, "iris", "cross_entropy")
    >>> jf.iterate(jf.optim.gd(0.1), iris.objective, iris.params, steps=10, record=iris.objective).values.shape
    (11,)
    """
    examples, test, dataset = _examples(data)
    predict, params = _parts(model, params, key, examples["x"])
    losses = PredictionLosses(predict, _batch_loss(loss))
    _check_fit(predict, losses, params, examples)
    name = getattr(model, "__name__", type(model).__name__)
    return Problem(
        objective=Objective(losses, examples),
        params=params,
        test=test,
        predict=predict,
        name=name if dataset is None else f"{name} on {dataset.name}",
        classes=None if dataset is None else dataset.classes,
    )


# These are compared by what they do, so that wrapping a model again compiles nothing anew.


def _call_each(model: Callable, x: jax.Array) -> jax.Array:
    """A module of one example on a batch."""
    return jax.vmap(model)(x)


def _call(model: Callable, x: jax.Array) -> jax.Array:
    """A module of a batch."""
    return model(x)


@dataclass(frozen=True)
class _Apply:
    """An object with `init` and `apply` as a function of its variables and a batch."""

    model: Any

    def __call__(self, variables: PyTree, x: jax.Array) -> jax.Array:
        fixed = lambda collection: Carried(lax.stop_gradient(dict(collection)))
        return self.model.apply(_change_others(variables, fixed), x)


def _change_others(variables: PyTree, change: Callable[[Mapping], Any]) -> PyTree:
    """The variables of a flax.linen module with its collections other than the parameters changed."""
    linen = isinstance(variables, Mapping) and "params" in variables
    if not linen or not all(isinstance(collection, Mapping) for collection in variables.values()):
        return variables
    others = {name: change(collection) for name, collection in variables.items() if name != "params"}
    return {**variables, **others} if others else variables


@dataclass(frozen=True)
class _EachLoss:
    """A loss of one example on a batch."""

    loss: Callable[[Any, Any], Any]

    def __call__(self, predictions: Any, y: Any) -> jax.Array:
        return jax.vmap(self.loss)(predictions, y)


def _examples(data: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array] | None, Dataset | None]:
    """Training examples; for a data set also those that are held out, and the set itself."""
    if isinstance(data, (str, os.PathLike, Dataset)):
        dataset = load(data)
        return *split(dataset), dataset
    if isinstance(data, Mapping):
        if data.keys() != {"x", "y"}:
            raise ValueError(f"data must have the entries 'x' and 'y', got {', '.join(map(repr, data))}.")
        pair = data["x"], data["y"]
    elif isinstance(data, (tuple, list)) and len(data) == 2:
        pair = data
    else:
        raise TypeError(
            f"data must be a pair (x, y), a dict of 'x' and 'y', or a data set's name, got {type(data).__name__}."
        )
    x, y = map(jnp.asarray, pair)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"data must have x and y with one leading axis of N ≥ 1 examples, got shapes {x.shape} and {y.shape}."
        )
    return {"x": x, "y": y}, None, None


def _parts(model: Any, params: PyTree, key: jax.Array | None, x: jax.Array) -> tuple[Callable, PyTree]:
    """The function of parameters and a batch that a model is, and its parameters."""
    kind = type(model).__name__
    initialised = all(callable(getattr(model, name, None)) for name in ("init", "apply"))
    if key is not None and (params is not None or not initialised):
        raise TypeError(
            "key must be left out where model makes no variables by its `init`, because params are given or "
            f"because it has no `init`, got a key for this {kind}."
        )
    if initialised:
        variables = model.init(as_key(key), x[:1]) if params is None else params
        return _Apply(model), _change_others(variables, Carried)
    if not callable(model):
        raise TypeError(f"model must be a module or a function (params, x) -> predictions, got {kind}.")
    # A partial function is a function, though it may be a pytree.
    module = not isinstance(model, functools.partial) and not jax.tree_util.all_leaves([model])
    if module and params is not None:
        raise TypeError(f"params must be left out for a module, which holds its own, such as this {kind}.")
    if not module and params is None:
        raise TypeError(f"params must be given for a model that is a function, such as this {kind}.")
    if not module:
        return model, params
    each = any(base.__module__.partition(".")[0] == "equinox" for base in type(model).__mro__)
    return _call_each if each else _call, model


def _batch_loss(loss: Any) -> Callable[[Any, Any], jax.Array]:
    if isinstance(loss, str):
        _check.require_choice("loss, unless a function,", loss, LOSSES)
        return LOSSES[loss]
    if not callable(loss):
        raise TypeError(
            f"loss must be one of {', '.join(LOSSES)} or a function (prediction, y) -> scalar, got {loss!r}."
        )
    return _EachLoss(loss)


# What flax raises where a model does what a function of its variables and a batch cannot.
UNFIT = {
    "ModifyScopeVariableError": "model must leave its running averages as they are, as with "
    "BatchNorm(use_running_average=True), or be trained by jf.Objective(losses, data, state=…), which carries new "
    "ones on",
    "InvalidRngError": "model must draw no random numbers, as with Dropout(deterministic=True), or be trained by "
    "jf.Objective(losses, data) with losses(params, batch, key), which hands them a key at each step",
}


def _outputs(predict: Callable, params: PyTree, x: jax.ShapeDtypeStruct) -> PyTree:
    """The shapes of the predictions for two examples; a model that cannot make them is refused."""
    arrays, static = partition(params, lambda leaf: isinstance(leaf, (jax.Array, np.ndarray)))
    changed = []

    def call(arrays: list, x: jax.Array) -> PyTree:
        model = combine(arrays, static)  # made anew, as some modules count their calls
        before = jax.tree.leaves(model)
        outputs = predict(model, x)
        pairs = zip(before, jax.tree.leaves(model), strict=False)
        replaced = (a for a, b in pairs if a is not b and isinstance(a, jax.Array))
        changed.extend(a for a in replaced if jnp.issubdtype(a.dtype, jnp.inexact))
        return outputs

    try:
        outputs = jax.eval_shape(call, arrays, x)
    except Exception as error:
        kind, first = type(error).__name__, (str(error).splitlines() or ["no message"])[0]
        told = UNFIT.get(kind, f"model must take x of shape {x.shape} for two examples")
        raise ValueError(f"{told}, but raised {kind}: {first}") from error
    if changed:
        raise ValueError(
            "model must leave its arrays as they are when it is called, as a flax.nnx module does after "
            "model.eval(), or be trained by jf.Objective(losses, data, state=…), which carries new ones on; this "
            f"call changed arrays of shapes {', '.join(str(leaf.shape) for leaf in changed[:3])}."
        )
    return outputs


def _check_fit(
    predict: Callable, losses: PredictionLosses, params: PyTree, examples: dict[str, jax.Array]
) -> None:
    """Refuse what does not fit together, by the shapes of two examples."""
    two = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape[1:]), a.dtype), examples)
    x, y = two["x"], two["y"]
    outputs = _outputs(predict, params, x)
    shapes = [leaf.shape for leaf in jax.tree.leaves(outputs)]
    if not shapes or any(shape[:1] != (2,) for shape in shapes):
        raise ValueError(
            "model must return one prediction for each example, but for two examples its outputs have shape "
            f"{', '.join(map(str, shapes)) or 'none'}."
        )
    labels = jnp.issubdtype(y.dtype, jnp.integer)
    if losses.loss is cross_entropy and not (labels and y.ndim == 1 and len(shapes[0]) in (1, 2)):
        raise ValueError(
            "loss 'cross_entropy' must have integer labels y of shape (N,) and logits of shape (N, C) or (N,), got "
            f"y of {y.dtype} and, for two examples, shapes {y.shape} and {shapes[0]}."
        )
    wanted = (2, *shapes[0][1:2]) if labels and y.ndim == 1 else y.shape
    if losses.loss is squared_error and (shapes[0] != wanted or (shapes[0] == y.shape and labels)):
        raise ValueError(
            "loss 'mse' must have real targets y in the shape of the predictions, or integer labels (N,) for (N, C), "
            f"got y of {y.dtype} and, for two examples, shapes {y.shape} and {shapes[0]}."
        )
    if labels and losses.loss in (cross_entropy, squared_error):
        _check_labels(examples["y"], shapes[0][1] if len(shapes[0]) == 2 else 2)
    if not isinstance(losses.loss, _EachLoss):
        return
    one = jax.eval_shape(lambda f, y: losses.loss(f, y), outputs, y)
    if getattr(one, "shape", None) != (2,):
        raise ValueError(
            f"loss must return a scalar for one example, got shape {getattr(one, 'shape', one)!r} for two."
        )


def _check_labels(y: jax.Array, classes: int) -> None:
    """Refuse a label of no class, where labels are at hand: its loss would be NaN, and its gradient none."""
    found = _check.values(y)
    if found is None or not found.size:
        return
    for label in (int(found.min()), int(found.max())):
        _check.require("y", label, 0 <= label < classes, f"labels from 0 to {classes - 1}")
