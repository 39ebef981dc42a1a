"""What an adaptive optimizer divides the gradient by, coordinate by coordinate: the formulas, and P read off a state.

In the coordinates $P^{1/2}\\theta$ an adaptive method is the plain one with momentum. So its stability depends on the
eigenvalues of $P^{-1/2} H P^{-1/2}$, and `stability_threshold` is in their units.

A formula is a function P(chosen, v, t) of the hyperparameters by name, one array of second moments after a step, and
the number of steps, `jnp.inf` for its limit. The table in `jaxflow.optim.table` tells which optimizer has which
formula, because a state alone does not tell how its method uses it. Central flows divide by the same formulas.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.transforms import AddNoiseState

from jaxflow import optim
from jaxflow._compiled import compiled
from jaxflow.optim.methods.adaptive import MomentsState
from jaxflow.optim.methods.descent import CountState, LookaheadGradientState
from jaxflow.optim.methods.moments import divisor, root, tree_map
from jaxflow.optim.methods.squared_gradients import SecondMomentState
from jaxflow.optim.methods.switching import SwatsState, spread
from jaxflow.optim.multi_steps import as_transformation, optimizer_of_updates
from jaxflow.optim.optax_names import as_ours, shown
from jaxflow.optim.rules.chains import members_of
from jaxflow.optim.schedules import value_at
from jaxflow.optim.table import Inherited, entry_of, names_with

PyTree = Any
Chosen = dict[str, Any]

# States with at most an average of gradients in them.
PLAIN = (
    optax.EmptyState,
    optax.TraceState,
    optax.EmaState,
    optax.ScaleByScheduleState,
    AddNoiseState,
    CountState,
    LookaheadGradientState,
)
# States with second moments.
MOMENTS = (
    SecondMomentState,
    MomentsState,
    optax.ScaleByAdamState,
    optax.ScaleByAmsgradState,
    optax.ScaleByRmsState,
    optax.ScaleByRssState,
    SwatsState,
)


def constant_one(chosen: Chosen, v: jax.Array, t: Any) -> jax.Array:
    """The number 1, for a method without a second moment."""
    del chosen, t
    return jnp.ones_like(v)


def root_plus_eps(chosen: Chosen, v: jax.Array, t: Any) -> jax.Array:
    r"""$\sqrt v + \epsilon$, or $\sqrt{v + \epsilon}$ with `eps_in_sqrt`."""
    del t
    return divisor(v, chosen["eps"], chosen.get("eps_in_sqrt", False))


def _corrections(chosen: Chosen, t: Any) -> tuple[Any, Any]:
    """1 − β₁ᵗ and 1 − β₂ᵗ; those of t = 1 at t = 0, where averages are 0."""
    if not chosen.get("bias_correction", True):
        return 1.0, 1.0
    t = _count_from_one(t)
    return 1 - chosen["b1"] ** t, 1 - chosen["b2"] ** t


def _count_from_one(t: Any) -> jax.Array:
    return jnp.maximum(jnp.asarray(t, float), 1.0)


def adam(chosen: Chosen, v: jax.Array, t: Any) -> jax.Array:
    r"""$(1-\beta_1^t)(\sqrt{v/(1-\beta_2^t)} + \epsilon)$, or without corrections where `bias_correction` is off."""
    c1, c2 = _corrections(chosen, t)
    return c1 * (root(v / c2) + chosen["eps"])


def nadam(chosen: Chosen, v: jax.Array, t: Any) -> jax.Array:
    r"""$\sqrt{v/(1-\beta_2^t)} + \epsilon$."""
    _, c2 = _corrections(chosen, t)
    return root(v / c2) + chosen["eps"]


def radam(chosen: Chosen, v: jax.Array, t: Any) -> jax.Array:
    r"""Adam's where it is rectified, and $1-\beta_1^t$ where not."""
    c1, c2 = _corrections(chosen, t)
    rho = 2 / (1 - chosen["b2"]) - 1 - 2 * _count_from_one(t) * (1 - c2) / c2
    return jnp.where(rho > chosen["threshold"], adam(chosen, v, t), c1)


def adabound(chosen: Chosen, v: jax.Array, t: Any) -> jax.Array:
    """α* over the clipped rate, which at step t depends on t and on the schedule's value at t − 1."""
    c1, c2 = _corrections(chosen, t)
    t, schedule = _count_from_one(t), chosen["learning_rate"]
    rate = value_at(schedule, t - 1)
    final = chosen["final_learning_rate"] * (rate / schedule(0) if callable(schedule) else 1.0)
    lower, upper = final * (1 - 1 / (chosen["gamma"] * t + 1)), final * (1 + 1 / (chosen["gamma"] * t))
    scale, eps = (rate, 0.0) if chosen["paper"] else (rate * jnp.sqrt(c2) / c1, chosen["eps"])
    return final / jnp.clip(scale / (root(v) + eps), lower, upper)


def swats(chosen: Chosen, v: jax.Array, t: Any) -> jax.Array:
    r"""$(1-\beta_1^t)(\sqrt v + \epsilon)/\sqrt{1-\beta_2^t}$, before the switch."""
    c1, c2 = _corrections(chosen, t)
    return (root(v) + chosen["eps"]) * c1 / jnp.sqrt(c2)


def _evaluate_at_state(formula: Callable[..., jax.Array], chosen: Chosen, state: Any) -> PyTree:
    """P of the part of a state that has the second moments: of their maximum where it is kept."""
    moments = state.moments if isinstance(state, SwatsState) else state
    largest = getattr(moments, "nu_max", None)
    count = getattr(moments, "count", None)
    found = tree_map(
        lambda v: formula(chosen, v, count), _second_moments(moments) if largest is None else largest
    )
    if not isinstance(state, SwatsState):
        return found
    return tree_map(lambda p, switched: jnp.where(switched, 1.0, p), found, spread(state.switched, found))


def _second_moments(part: Any) -> PyTree:
    """The average or sum of squares in a part of a state."""
    return part.sum_of_squares if isinstance(part, optax.ScaleByRssState) else part.nu


def _moments_of(optimizer: optax.GradientTransformation, state: PyTree) -> Any:
    """The part of an optimizer's state that has the second moments. Raises `ValueError` for another's state."""
    is_part = lambda node: isinstance(node, MOMENTS)
    parts = [node for node in jax.tree.leaves(state, is_leaf=is_part) if is_part(node)]
    if len(parts) == 1:
        nu = _second_moments(parts[0].moments if isinstance(parts[0], SwatsState) else parts[0])
        fresh = jax.eval_shape(optimizer.init, nu)
        if jax.tree.structure(fresh) == jax.tree.structure(state):
            return parts[0]
    raise ValueError(f"state must be one of {optimizer!r}, got {type(state).__name__}.")


def _is_plain(state: PyTree) -> bool:
    """Whether nothing but averages of gradients and step counts is in a state."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: hasattr(node, "_fields"))
    return all(isinstance(node, PLAIN) for node in nodes)


def _evaluation(optimizer: optax.GradientTransformation, state: PyTree) -> Callable[[], PyTree] | None:
    """The formula of an optimizer with its numbers, to be called; `None` where it divides by nothing."""
    ours = as_ours(optimizer)
    entry, chosen = entry_of(ours), optim.hyperparameters(ours)
    if (members := members_of(optimizer)) is not None:
        if not isinstance(state, tuple) or len(state) != len(members):
            raise ValueError(f"state must be one of {optimizer!r}, got {type(state).__name__}.")
        found = [_evaluation(*pair) for pair in zip(members, state, strict=True)]
        found = [evaluate for evaluate in found if evaluate is not None]
        if len(found) > 1:
            raise ValueError(f"optimizer must have one preconditioner, got {len(found)} in {optimizer!r}.")
        return found[0] if found else None
    if entry is not None and isinstance(inner := entry.preconditioner, Inherited):
        return _evaluation(chosen[inner.argument], _field_of(optimizer, state, inner.argument))
    formula = None if entry is None else entry.formula("preconditioner")
    if formula is not None and formula is not constant_one:
        part = _moments_of(optimizer, state)
        return lambda: _evaluate_at_state(formula, chosen, part)
    if _is_plain(state):
        return None
    names = ", ".join(sorted(names_with("preconditioner")))
    raise ValueError(
        f"optimizer must be one whose preconditioner is known ({names}, and those without a second moment), "
        f"got {shown(optimizer)}."
    )


def _field_of(optimizer: optax.GradientTransformation, state: PyTree, field: str) -> Any:
    if not hasattr(state, field):
        raise ValueError(f"state must be one of {optimizer!r}, got {type(state).__name__}.")
    return getattr(state, field)


def preconditioner_of(optimizer: optax.GradientTransformation, state: PyTree) -> PyTree:
    r"""The positive diagonal P by which an optimizer has just divided its averaged gradient.

    It is read off the state after t ≥ 1 steps. Near a minimum with Hessian H, and with P held, the iteration is
    stable where the eigenvalues of $P^{-1/2} H P^{-1/2}$ are below `stability_threshold(optimizer, count=t)` (Cohen
    et al. 2022, 2207.14484). To fit that, P includes the bias correction of m where it is one factor, and no
    learning rate.

    | optimizer | P |
    |---|---|
    | `rmsprop`, `scalar_rmsprop`, `adagrad` | $\sqrt v + \epsilon$; with `eps_in_sqrt` $\sqrt{v + \epsilon}$ |
    | `adam`, `adamw` | $(1-\beta_1^t)(\sqrt{v/(1-\beta_2^t)} + \epsilon)$ |
    | `radam` | the same, without $r_t$, which is in the threshold; $1-\beta_1^t$ while it is not rectified |
    | `nadam` | $\sqrt{v/(1-\beta_2^t)} + \epsilon$, as its two terms have corrections of their own |
    | `amsgrad` | as Adam, of $v_{max}$; without `bias_correction` $\sqrt{v_{max}} + \epsilon$ |
    | `adabound` | α* (with its schedule) over the clipped rate: it goes to 1 |
    | `swats` | $(1-\beta_1^t)(\sqrt v + \epsilon)/\sqrt{1-\beta_2^t}$, and 1 in each array that has switched |
    | `lookahead`, `chain` | that of the inner optimizer; that of the one member that has a preconditioner |
    | any without a second moment | 1.0 |

    **Arguments**

    - `optimizer`: one of those in the table, or an `optax.MultiSteps` of one.
    - `state`: the optimizer's state, or the `IterationState` that `iterate` returns. For a fresh state, t = 0, P is
      what the formulas give with the corrections of t = 1 and v = 0: about ε, which has no meaning.

    **Returns** P, a pytree like the parameters (for `scalar_rmsprop` one scalar array), real and at least in single
    precision. It works under `jit` and `vmap`.

    **Raises** `TypeError` when `optimizer` is not an optimizer; `ValueError`, which names it, for one whose formula
    is not known (a plain optimizer of optax hides its ε: make it `traceable`), a chain with two preconditioners, or
    a state of another optimizer.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.rmsprop(0.1, decay=0.75, eps=0.0)
    >>> run = jf.iterate(optimizer, lambda x: 3 * x[0] - 4 * x[1], jnp.zeros(2), steps=1)
    >>> print(jf.curvature.preconditioner_of(optimizer, run.state))
    [1.5 2. ]
    """
    if hasattr(state, "estimator"):  # an IterationState
        state = state.optimizer
    if isinstance(state, optax.MultiStepsState):
        optimizer, state = optimizer_of_updates(optimizer), state.inner_opt_state
    optimizer = as_transformation(optimizer)
    return 1.0 if _evaluation(optimizer, state) is None else _evaluate(optimizer, state)


@compiled
def _evaluate(optimizer, state):
    # The state's own precision, at least single: hyperparameters that are arrays of another would change it.
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    dtype = np.result_type(np.float32, *(leaf.dtype for leaf in floats))
    evaluate = _evaluation(optimizer, state)
    assert evaluate is not None
    return tree_map(lambda p: p.astype(dtype), evaluate())
