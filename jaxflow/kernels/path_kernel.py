r"""What each training example has contributed to each prediction along a run: the path kernel.

A step $d_k = \theta_{k+1} - \theta_k$ changes a prediction by $\int_0^1 \langle\nabla y(\theta_k + s d_k), d_k\rangle
ds$. The step is the sum of shares of the examples, and so is what it does to the prediction. The integral is a rule
of quadrature on the side of the prediction alone: the increment is fixed by $\theta_k$ and does not move with s.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._devices import memory
from jaxflow._losses.models import Trainable
from jaxflow.curvature import preconditioner_of
from jaxflow.curvature.products import check_parts, open_real
from jaxflow.kernels.kernel_machine import KernelMachine
from jaxflow.kernels.shares import pushed, shares_of_gradient
from jaxflow.kernels.tangent_kernel import output_shape
from jaxflow.objective import Objective
from jaxflow.optim import hyperparameters
from jaxflow.optim.schedules import value_at
from jaxflow.optim.table import entry_of
from jaxflow.optim.updates import take_step

PyTree = Any

# Nodes in [0, 1] and weights.
RULES = {
    "left": ((0.0, 1.0),),
    "midpoint": ((0.5, 1.0),),
    "simpson": ((0.0, 1 / 6), (0.5, 4 / 6), (1.0, 1 / 6)),
    "gauss": ((0.5 - 3**0.5 / 6, 0.5), (0.5 + 3**0.5 / 6, 0.5)),
}
# The name of the decay of the averaged gradient; `None` where a step is made of one gradient.
DECAYS = {"gd": None, "rmsprop": None, "adagrad": None, "momentum": "beta", "adam": "b1", "amsgrad": "b1"}


def path_kernel(
    optimizer: optax.GradientTransformation,
    objective: Objective,
    params: PyTree,
    x_test: PyTree,
    *,
    steps: int,
    rule: str = "midpoint",
    trainable: Trainable = None,
) -> KernelMachine:
    r"""Run an optimizer on all data, and tell what each example contributes to predictions on the way.

    Example i has the share $d_{k,i} = -\eta_k P_k^{-1} m_{k,i}$ of step k. Here $m_{k,i}$ is the optimizer's average
    of past gradients, with $\nabla\ell_i/N$ in the place of the gradient; it is $\nabla\ell_i(\theta_k)/N$ itself for
    `gd`. The average is linear, so that shares add up to the step. P is what the step was divided by, from the second
    moments of all examples together, which is not shared. Then

    $$c_i(x) = \sum_k \sum_q w_q\,\langle\nabla y(x, \theta_k + s_q d_k), d_{k,i}\rangle.$$

    **Arguments**

    - `optimizer`: one of `gd`, `momentum`, `rmsprop`, `adagrad`, `adam` and `amsgrad` of `jaxflow.optim`. The
      learning rate may be a schedule.
    - `objective`: an `Objective` over `{"x", "y"}` whose losses have the parts `predict` and `loss`, as those of
      `jaxflow.problems.mlp` have. Each step uses all of its data.
    - `params` θ₀: a pytree whose real arrays are trained.
    - `x_test`: M points, an array (or a pytree of them) with this leading axis.
    - `steps`: the number of steps (static).
    - `rule`: the nodes s and weights w on a step (static). `"left"`, at its beginning, has a residual of order 1 in
      the step size; `"midpoint"` of order 2; `"simpson"` (three nodes) and `"gauss"` (two) of order 4.
    - `trainable`: what of `params` is trained, as in `iterate`.

    **Returns** a `KernelMachine`, in the memory of some gradients of each example. A step costs the gradient of each
    example and a derivative of the M predictions along it for each node. It is compiled when called plainly.

    **Raises** `TypeError` for an objective without these parts or parameters that are not real; `ValueError` for
    another optimizer, a decay that is a schedule, `debias`, fewer than one step, an unknown rule, outputs of another
    shape, or more gradients than memory holds.

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
    objective, params = open_real(objective, params, trainable)
    output_shape(objective.losses.predict, params, "x_test", x_test)  # type: ignore[attr-defined]
    needed = 3 * objective.size * sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if needed > memory.device_memory():
        raise ValueError(
            f"A path kernel needs the gradients of all {objective.size} examples at once, about "
            f"{needed / 2**30:.4g} GiB of {memory.device_memory() / 2**30:.4g}; use fewer examples or parameters."
        )
    return _path_kernel(optimizer, objective, params, x_test, steps=int(steps), rule=rule)


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
    if chosen.get("debias"):
        raise ValueError("debias must be False, as its correction is not a part of the average.")


def _name_of(optimizer: Any) -> str:
    entry = entry_of(optimizer)
    return "" if entry is None else entry.name


class _Carry(NamedTuple):
    """What a step hands on; `averages` are the averaged gradients of each example, leaves (N, …)."""

    params: PyTree
    state: PyTree
    averages: PyTree
    contributions: jax.Array


@compiled(static=("steps", "rule"))
def _path_kernel(optimizer, objective, params, x_test, steps, rule):
    predict, chosen = objective.losses.predict, hyperparameters(optimizer)
    named = DECAYS[_name_of(optimizer)]
    decay = None if named is None else chosen[named]
    is_average = chosen.get("ema", True)

    def average(old, gradients):
        if decay is None:
            return gradients
        fresh = 1 - decay if is_average else 1.0
        return jax.tree.map(lambda m, g: (decay * m + fresh * g).astype(g.dtype), old, gradients)

    def step(carry, k):
        averages = average(carry.averages, shares_of_gradient(objective, carry.params))
        taken = take_step(optimizer, carry.params, carry.state, objective)
        divisor, rate = preconditioner_of(optimizer, taken.state), value_at(chosen["learning_rate"], k)
        if jax.tree.structure(divisor) != jax.tree.structure(params):  # one number for all
            divisor = jax.tree.map(lambda p: divisor, params)
        divide = lambda m, p: jax.vmap(lambda one: (-rate / p * one).astype(m.dtype))(m)
        shares, total = jax.tree.map(divide, averages, divisor), carry.contributions
        for node, weight in RULES[rule]:
            at = jax.tree.map(
                lambda p, d, s=node: p + jnp.asarray(s, p.dtype) * d, carry.params, taken.updates
            )
            total = total + jnp.asarray(weight, total.dtype) * pushed(predict, at, x_test, shares)
        return _Carry(taken.params, taken.state, averages, total), None

    start = predict(params, x_test)
    none = jax.tree.map(lambda p: jnp.zeros((objective.size, *p.shape), p.dtype), params)
    contributions = jnp.zeros((objective.size, *start.shape), start.dtype)
    carry = _Carry(params, optimizer.init(params), none, contributions)
    last = lax.scan(step, carry, jnp.arange(steps))[0]
    return KernelMachine(last.contributions, start, predict(last.params, x_test), last.params)
