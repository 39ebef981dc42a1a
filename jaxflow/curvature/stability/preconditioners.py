r"""What an adaptive optimizer divides the gradient by, coordinate by coordinate, read off its state.

In the coordinates $P^{1/2}\\theta$ an adaptive method is the plain one with momentum. So its stability depends on the
eigenvalues of $P^{-1/2} H P^{-1/2}$, and `stability_threshold` is in their units. The formulas are here, by
constructor, because a state alone does not tell how its method uses it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.transforms import AddNoiseState

from jaxflow import optim
from jaxflow._traceable import compiled
from jaxflow.optim.adaptive import MomentsState, SecondMomentState
from jaxflow.optim.descent import CountState, LookaheadGradientState
from jaxflow.optim.moments import root, tree_map
from jaxflow.optim.schedules import value_at
from jaxflow.optim.switching import SwatsState, spread

PyTree = Any
Formula = Callable[
    [dict[str, Any], Any], PyTree
]  # of the hyperparameters and the part of the state with the moments

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
MOMENTS = (MomentsState, optax.ScaleByAdamState)


def _corrections(chosen: dict[str, Any], count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """1 − β₁ᵗ and 1 − β₂ᵗ after t steps. In a fresh state, whose averages are 0, they are those of t = 1."""
    t = jnp.maximum(jnp.asarray(count, float), 1.0)
    return 1 - chosen["b1"] ** t, 1 - chosen["b2"] ** t


def _root(chosen: dict[str, Any], state: SecondMomentState) -> PyTree:
    eps = chosen["eps"]
    if chosen.get("eps_in_sqrt"):
        return tree_map(lambda v: root(v + eps), state.nu)
    return tree_map(lambda v: root(v) + eps, state.nu)


def _adam(chosen: dict[str, Any], state: Any) -> PyTree:
    c1, c2 = _corrections(chosen, state.count)
    return tree_map(lambda v: c1 * (root(v / c2) + chosen["eps"]), state.nu)


def _nadam(chosen: dict[str, Any], state: Any) -> PyTree:
    _, c2 = _corrections(chosen, state.count)
    return tree_map(lambda v: root(v / c2) + chosen["eps"], state.nu)


def _radam(chosen: dict[str, Any], state: MomentsState) -> PyTree:
    c1, c2 = _corrections(chosen, state.count)
    rho = 2 / (1 - chosen["b2"]) - 1 - 2 * jnp.maximum(jnp.asarray(state.count, float), 1.0) * (1 - c2) / c2
    adaptive = rho > chosen["threshold"]
    return tree_map(lambda v: c1 * jnp.where(adaptive, root(v / c2) + chosen["eps"], 1.0), state.nu)


def _amsgrad(chosen: dict[str, Any], state: MomentsState) -> PyTree:
    c1, c2 = _corrections(chosen, state.count) if chosen["bias_correction"] else (1.0, 1.0)
    return tree_map(lambda v: c1 * (root(v / c2) + chosen["eps"]), state.nu_max)


def _adabound(chosen: dict[str, Any], state: MomentsState) -> PyTree:
    """α* over the clipped rate, which at step t depends on t and on the schedule's value at t − 1."""
    c1, c2 = _corrections(chosen, state.count)
    t, schedule = jnp.maximum(jnp.asarray(state.count, float), 1.0), chosen["learning_rate"]
    rate = value_at(schedule, t - 1)
    final = chosen["final_learning_rate"] * (rate / schedule(0) if callable(schedule) else 1.0)
    lower, upper = final * (1 - 1 / (chosen["gamma"] * t + 1)), final * (1 + 1 / (chosen["gamma"] * t))
    scale, eps = (rate, 0.0) if chosen["paper"] else (rate * jnp.sqrt(c2) / c1, chosen["eps"])
    v = state.nu_max if chosen["amsbound"] else state.nu
    return tree_map(lambda v: final / jnp.clip(scale / (root(v) + eps), lower, upper), v)


def _swats(chosen: dict[str, Any], state: SwatsState) -> PyTree:
    c1, c2 = _corrections(chosen, state.moments.count)
    adam = lambda v: (root(v) + chosen["eps"]) * c1 / jnp.sqrt(c2)
    nu = state.moments.nu
    return tree_map(lambda v, switched: jnp.where(switched, 1.0, adam(v)), nu, spread(state.switched, nu))


FORMULAS: dict[Callable[..., Any], tuple[Formula, type | tuple[type, ...]]] = {
    **dict.fromkeys((optim.adagrad, optim.rmsprop, optim.scalar_rmsprop), (_root, SecondMomentState)),
    **dict.fromkeys((optim.adam, optim.adamw), (_adam, MOMENTS)),
    optim.nadam: (_nadam, MOMENTS),
    optim.radam: (_radam, MomentsState),
    optim.amsgrad: (_amsgrad, MomentsState),
    optim.adabound: (_adabound, MomentsState),
    optim.swats: (_swats, SwatsState),
}


def _parts(state: PyTree, kind: type | tuple[type, ...]) -> list[Any]:
    """The nodes of one of these types in a state."""
    is_part = lambda node: isinstance(node, kind)
    return [node for node in jax.tree.leaves(state, is_leaf=is_part) if is_part(node)]


def _is_plain(state: PyTree) -> bool:
    """Whether nothing but averages of gradients and step counts is in a state."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: hasattr(node, "_fields"))
    return all(isinstance(node, PLAIN) for node in nodes)


def _evaluation(optimizer: optax.GradientTransformation, state: PyTree) -> Callable[[], PyTree] | None:
    """The formula of an optimizer with its numbers, to be called; `None` where it divides by nothing."""
    constructor: Any = getattr(optimizer, "_static", (None,))[0]
    chosen = optim.hyperparameters(optimizer)
    if constructor is optim.lookahead:
        return _evaluation(chosen["inner"], _of(optimizer, state, "inner"))
    if constructor is optim.chain:
        if not isinstance(state, tuple) or len(state) != len(chosen["transforms"]):
            raise ValueError(f"state must be one of {optimizer!r}, got {type(state).__name__}.")
        found = [_evaluation(*member) for member in zip(chosen["transforms"], state, strict=True)]
        found = [evaluate for evaluate in found if evaluate is not None]
        if len(found) > 1:
            raise ValueError(f"optimizer must have one preconditioner, got {len(found)} in {optimizer!r}.")
        return found[0] if found else None
    if constructor in FORMULAS:
        formula, kind = FORMULAS[constructor]
        parts = _parts(state, kind)
        if len(parts) != 1:
            raise ValueError(f"state must be one of {optimizer!r}, got {type(state).__name__}.")
        return lambda: formula(chosen, parts[0])
    if _is_plain(state):
        return None
    known = ", ".join(sorted(constructor.__name__ for constructor in FORMULAS))
    raise ValueError(
        f"optimizer must be one whose preconditioner is known ({known}, and those without a second moment), "
        f"got {optimizer!r}."
    )


def _of(optimizer: optax.GradientTransformation, state: PyTree, field: str) -> Any:
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
    | `lookahead`, `chain` | that of the inner optimizer, of the one member that has a preconditioner |
    | any without a second moment | 1.0 |

    **Arguments**

    - `optimizer`: one of those in the table.
    - `state`: the optimizer's state, or the `IterationState` that `iterate` returns. For a fresh state, t = 0, P is
      what the formulas give with the corrections of t = 1 and v = 0: about ε, which has no meaning.

    **Returns** P, a pytree like the parameters (for `scalar_rmsprop` one scalar array), real and at least in single
    precision. It works under `jit` and `vmap`.

    **Raises** `TypeError` when `optimizer` is no optimizer; `ValueError`, which names it, for one whose formula is
    not known (optax's own optimizers hide their ε), a chain with two preconditioners, or a state of another
    optimizer.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.rmsprop(0.1, decay=0.75, eps=0.0)
    >>> run = jf.iterate(optimizer, lambda x: 3 * x[0] - 4 * x[1], jnp.zeros(2), steps=1)
    >>> print(jf.curvature.preconditioner_of(optimizer, run.state))
    [1.5 2. ]
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be an optax transformation, got {optimizer!r}.")
    if hasattr(state, "estimator"):  # an IterationState
        state = state.optimizer
    return 1.0 if _evaluation(optimizer, state) is None else _evaluated((), optimizer, state)


@compiled
def _evaluated(settings, optimizer, state):
    # The state's own precision, at least single: hyperparameters that are arrays of another would change it.
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    dtype = np.result_type(np.float32, *(leaf.dtype for leaf in floats))
    evaluate = _evaluation(optimizer, state)
    assert evaluate is not None
    return tree_map(lambda p: p.astype(dtype), evaluate())
