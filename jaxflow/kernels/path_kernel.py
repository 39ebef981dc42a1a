r"""What each training example has contributed to each prediction along a run: the path kernel.

A step $d_k = \theta_{k+1} - \theta_k$ changes a prediction by $\int_0^1 \langle\nabla y(\theta_k + s d_k), d_k\rangle
ds$. The step is the sum of shares of the examples, and so is what it does to the prediction. The integral is a rule
of quadrature on the side of the prediction alone: the increment is fixed by $\theta_k$ and does not move with s.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxflow import _check
from jaxflow._compiled import compiled, is_tracing
from jaxflow._devices import memory
from jaxflow._losses.models import Trainable
from jaxflow.curvature import preconditioner_of
from jaxflow.curvature.products import check_parts, open_real
from jaxflow.kernels.kernel_machine import KernelMachine
from jaxflow.kernels.shares import Drawn, examples_drawn, push_forward, shares_of_gradient
from jaxflow.kernels.tangent_kernel import output_shape
from jaxflow.objective import Objective
from jaxflow.optim import hyperparameters
from jaxflow.optim.schedules import value_at
from jaxflow.optim.table import entry_of
from jaxflow.optim.updates import take_step
from jaxflow.solve import Draws, Estimator
from jaxflow.solve.discrete.estimator_checks import as_estimator, choose_estimator

PyTree = Any

# Nodes in [0, 1] and weights.
RULES = {
    "left": ((0.0, 1.0),),
    "midpoint": ((0.5, 1.0),),
    "simpson": ((0.0, 1 / 6), (0.5, 4 / 6), (1.0, 1 / 6)),
    "gauss": ((0.5 - 3**0.5 / 6, 0.5), (0.5 + 3**0.5 / 6, 0.5)),
}
# The name of the decay of the averaged gradient; `None` where a step is made of one gradient.
DECAYS = {
    "gd": None,
    "momentum": "beta",
    "nesterov": "beta",
    "sgdw": "beta",
    "rmsprop": None,
    "adagrad": None,
    "adam": "b1",
    "adamw": "b1",
    "amsgrad": "b1",
}
WITH_DECAY = {"sgdw", "adamw"}  # of the weights, as a part of the step that belongs to no example
# What makes another method of an optimizer, and the values that are allowed.
FORMS: dict[str, tuple] = {"debias": (False, None), "lookahead": (False,), "multiplier": (None,)}


def path_kernel(
    optimizer: optax.GradientTransformation,
    objective: Objective,
    params: PyTree,
    x_test: PyTree,
    *,
    steps: int,
    rule: str = "midpoint",
    batch_size: int | None = None,
    estimator: Estimator | Draws | None = None,
    key: jax.Array | None = None,
    trainable: Trainable = None,
) -> KernelMachine:
    r"""Run an optimizer, and tell what each training example contributes to predictions on the way.

    Example i has the share $d_{k,i} = -\eta_k P_k^{-1} m_{k,i}$ of step k. Here $m_{k,i}$ is the optimizer's average
    of past gradients, with $w_{k,i}\nabla\ell_i$ in the place of the gradient; it is $w_{k,i}\nabla\ell_i(\theta_k)$
    itself for `gd`. The weight $w_{k,i}$ is 1/N on all data. On a mini-batch it is 1/B for each time that the example
    was drawn and else 0: such an example takes part by the averages of its earlier gradients alone. The average is
    linear, so that shares add up to the step. P is what the step was divided by, from the second moments of all
    examples together, which is not shared. Then

    $$c_i(x) = \sum_k \sum_q w_q\,\langle\nabla y(x, \theta_k + s_q d_k), d_{k,i}\rangle.$$

    **Arguments**

    - `optimizer`: one of `gd`, `momentum`, `nesterov`, `rmsprop`, `adagrad`, `adam` and `amsgrad` of `jaxflow.optim`,
      or `sgdw` or `adamw`, whose weight decay belongs to no example and is kept apart. The learning rate may be a
      schedule.
    - `objective`: an `Objective` over `{"x", "y"}` whose losses have the parts `predict` and `loss`, as those of
      `jaxflow.problems.mlp` have.
    - `params` θ₀: a pytree whose real arrays are trained.
    - `x_test`: M points, an array (or a pytree of them) with this leading axis.
    - `steps`: the number of steps. In a plain call another number compiles nothing; in a program of yours it is
      static.
    - `rule`: the nodes s and weights w on a step (static). `"left"`, at its beginning, has a residual of order 1 in
      the step size; `"midpoint"` of order 2; `"simpson"` (three nodes) and `"gauss"` (two) of order 4.
    - `batch_size`, `estimator`, `key`: the examples of each step, as in `iterate`, whose steps are the same with the
      same key. Default: all data.
    - `trainable`: what of `params` is trained, as in `iterate`.

    **Returns** a `KernelMachine`, in the memory of some gradients of each example (of a batch, for optimizers without
    averages). A step costs the gradient of each example and a derivative of the M predictions along it for each node.
    It is compiled when called plainly.

    **Raises** `TypeError` for an objective without these parts, an `estimator` that is not one, or parameters that
    are not real; `ValueError` for another optimizer, a decay that is a schedule, `debias`, `lookahead`, a
    `multiplier`, fewer than one step, an unknown rule, outputs of another shape, batches without a key, or more
    gradients than memory holds.

    Source: Domingos 2020, 2012.00152; exact for steps: Bell, Geyer, Glickenstein, Fernandez & Moore 2023, 2308.00824.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> losses = jf.problems.PredictionLosses(lambda w, x: x @ w, lambda f, y: 0.5 * (f - y) ** 2)
    >>> line = jf.Objective(losses, {"x": jnp.eye(2), "y": jnp.array([1.0, -1.0])})
    >>> machine = jf.kernels.path_kernel(jf.optim.gd(0.2), line, jnp.zeros(2), jnp.array([[1.0, 2.0]]), steps=2)
    >>> print(machine.contributions[:, 0].round(4), machine.predictions.round(4))
    [ 0.19 -0.38] [-0.19]
    """
    check_parts(objective)
    _check_optimizer(optimizer)
    _check.require_integer("steps", steps, 1)
    _check.require_choice("rule", rule, RULES)
    estimator = as_estimator(estimator)
    if not (estimator is None or isinstance(estimator, Estimator)):
        raise TypeError(
            f"estimator must come from jaxflow.solve, got {estimator!r}; a stream goes to iterate."
        )
    estimator = choose_estimator(estimator, batch_size, objective, key)
    if key is not None:
        _check.random_key(key)
    objective, params = open_real(objective, params, trainable)
    output_shape(objective.losses.predict, params, "x_test", x_test)  # type: ignore[attr-defined]
    _require_room(objective, params, _count_of_step(estimator, objective, key), _is_averaged(optimizer))
    # Alone, another number of steps compiles nothing; in a program the loop must have a known length, as reverse mode
    # goes through no other.
    known, traced = (int(steps), None) if is_tracing() else (None, int(steps))
    return _path_kernel(
        optimizer,
        objective,
        params,
        x_test,
        estimator,
        key,
        known_steps=known,
        traced_steps=traced,
        rule=rule,
    )


def _count_of_step(estimator: Estimator, objective: Objective, key: Any) -> int:
    """The number of examples that a step is made of; an estimator that does not tell is refused."""
    draws = estimator.build()

    def weights(key):
        return examples_drawn(
            draws.draw, objective, draws.init(objective, key), jnp.zeros([], jnp.int32), key
        ).weights

    return jax.eval_shape(weights, key).shape[0]


def _require_room(objective: Objective, params: PyTree, drawn: int, averaged: bool) -> None:
    """Refuse more gradients than memory holds: two sets of those of a step, and the averages of all."""
    held = 2 * drawn + (objective.size if averaged else 0)
    needed = held * sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if needed > memory.device_memory():
        raise ValueError(
            f"A path kernel needs {held} gradients of single examples at once ({drawn} of {objective.size} examples "
            f"in a step), about {needed / 2**30:.4g} GiB of {memory.device_memory() / 2**30:.4g}; use smaller "
            "batches without averages, fewer examples or fewer parameters."
        )


def _check_optimizer(optimizer: Any) -> None:
    """Refuse an optimizer of which it is not known how its steps are shared."""
    chosen = hyperparameters(optimizer)
    if _name_of(optimizer) not in DECAYS:
        raise ValueError(
            f"optimizer must be one of {', '.join(DECAYS)} of jaxflow.optim, whose steps are sums over examples, got "
            f"{optimizer!r}."
        )
    decay = DECAYS[_name_of(optimizer)]
    if decay is not None and callable(chosen[decay]):
        raise ValueError(
            f"{decay} must be a number, not a schedule, for shares of examples; got {chosen[decay]!r}."
        )
    for form, allowed in FORMS.items():
        value = chosen.get(form, allowed[0])
        _check.require(form, value, value in allowed, f"{allowed[0]}, so that steps are sums over examples")


def _name_of(optimizer: Any) -> str:
    entry = entry_of(optimizer)
    return "" if entry is None else entry.name


def _is_averaged(optimizer: Any) -> bool:
    return DECAYS[_name_of(optimizer)] is not None


class _Carry(NamedTuple):
    """What a step hands on.

    `averages` are the averaged gradients of each example, leaves (N, …), or `None`; `drawn` is the estimator's state.
    """

    params: PyTree
    state: PyTree
    drawn: PyTree
    averages: PyTree
    contributions: jax.Array
    regularizer: jax.Array | None


@compiled(static=("known_steps", "rule"))
def _path_kernel(optimizer, objective, params, x_test, estimator, key, known_steps, traced_steps, rule):
    predict, draws = objective.losses.predict, estimator.build()

    def step(k, carry):
        step_key = None if key is None else jax.random.fold_in(key, k)
        drawn = examples_drawn(draws.draw, objective, carry.drawn, k, step_key)
        loss, drawn_state = draws.draw(objective, carry.drawn, k, step_key)
        taken = take_step(optimizer, carry.params, carry.state, loss)
        gradients = shares_of_gradient(objective, carry.params, drawn)
        averages, numerators, drawn = _update_averages(optimizer, carry.averages, gradients, drawn)
        shares = _divide_as_step(optimizer, taken.state, k, numerators)
        alone = jax.tree.map(lambda d, share: (d - share.sum(0))[None], taken.updates, shares)
        added, regularizer = 0.0, carry.regularizer
        for node, weight in RULES[rule]:
            at = jax.tree.map(lambda p, d, s=node: p + s * d, carry.params, taken.updates)
            added = added + weight * push_forward(predict, at, x_test, shares)
            if regularizer is not None:
                regularizer = regularizer + weight * push_forward(predict, at, x_test, alone)[0]
        contributions = drawn.add(carry.contributions, added)
        return _Carry(taken.params, taken.state, drawn_state, averages, contributions, regularizer)

    start = predict(params, x_test)
    of_each = lambda x: jnp.zeros((objective.size, *x.shape), x.dtype)
    carry = _Carry(
        params,
        optimizer.init(params),
        draws.init(objective, key),
        jax.tree.map(of_each, params) if _is_averaged(optimizer) else None,
        of_each(start),
        jnp.zeros_like(start) if _name_of(optimizer) in WITH_DECAY else None,
    )
    steps = jnp.asarray(traced_steps, jnp.int32) if known_steps is None else np.int32(known_steps)
    last = lax.fori_loop(np.int32(0), steps, step, carry)
    end = predict(last.params, x_test)
    return KernelMachine(last.contributions, start, end, last.params, last.regularizer)


def _update_averages(optimizer, old: PyTree, gradients: PyTree, drawn: Drawn) -> tuple[PyTree, PyTree, Drawn]:
    """The new averages of each example; what of the step is a sum over examples, and which these are."""
    if not _is_averaged(optimizer):
        return None, gradients, drawn
    name, chosen = _name_of(optimizer), hyperparameters(optimizer)
    decay = chosen[DECAYS[name]]
    fresh = 1 - decay if chosen.get("ema", "b1" in chosen) else 1.0
    scale = lambda factor, tree: jax.tree.map(lambda x: (factor * x).astype(x.dtype), tree)
    averages = drawn.add(scale(decay, old), scale(fresh, gradients))
    taken = drawn.add(scale(decay, averages), gradients) if name == "nesterov" else averages
    return averages, taken, drawn._replace(indices=None)


def _divide_as_step(optimizer, state: PyTree, k: jax.Array, numerators: PyTree) -> PyTree:
    """Shares of a step: what is a sum over examples times −η, divided as the step was."""
    divisor = preconditioner_of(optimizer, state)
    rate = value_at(hyperparameters(optimizer)["learning_rate"], k)
    if jax.tree.structure(divisor) != jax.tree.structure(numerators):  # one number for all
        divisor = jax.tree.map(lambda m: divisor, numerators)
    divide = lambda m, p: jax.vmap(lambda one: (-rate / p * one).astype(m.dtype))(m)
    return jax.tree.map(divide, numerators, divisor)
