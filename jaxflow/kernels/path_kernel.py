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
from jaxflow.curvature.products import check_parts, open_real
from jaxflow.kernels.kernel_machine import KernelMachine
from jaxflow.kernels.shares import examples_drawn, push_forward, shares_of_gradient
from jaxflow.kernels.shares_of_step import average_shares, check_shared, divide_shares, is_averaged
from jaxflow.kernels.tangent_kernel import output_shape
from jaxflow.objective import Objective
from jaxflow.optim import hyperparameters
from jaxflow.optim.optax_names import as_ours
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
      or `sgdw` or `adamw`, whose weight decay belongs to no example and is kept apart; or the one of optax, made
      `traceable`, that takes the same steps. The learning rate may be a schedule.
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
    check_shared(optimizer)
    optimizer = as_ours(optimizer)
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
    _require_room(objective, params, _count_of_step(estimator, objective, key), is_averaged(optimizer))
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
        averages, numerators, drawn = average_shares(optimizer, carry.averages, gradients, drawn)
        shares = divide_shares(optimizer, taken.state, k, numerators)
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
        jax.tree.map(of_each, params) if is_averaged(optimizer) else None,
        of_each(start),
        jnp.zeros_like(start) if "weight_decay" in hyperparameters(optimizer) else None,
    )
    steps = jnp.asarray(traced_steps, jnp.int32) if known_steps is None else np.int32(known_steps)
    last = lax.fori_loop(np.int32(0), steps, step, carry)
    end = predict(last.params, x_test)
    return KernelMachine(last.contributions, start, end, last.params, last.regularizer)
