"""The lazy limit of a network: its first-order expansion in the parameters, as a model that can be trained."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from jaxflow._losses.models import Completed, Rest, Trainable, join_model, split_model
from jaxflow.curvature.products import check_parts, real_parameters
from jaxflow.objective import Objective

PyTree = Any


@jax.tree_util.register_pytree_node_class
class Start:
    """Where a model is expanded, and what of it is not trained: what the expansion needs besides its parameters."""

    def __init__(self, params: PyTree, rest: Rest | None):
        self.params, self.rest = params, rest

    def join(self, trained: PyTree) -> tuple:
        """The moved parameters, those at the start, and the rest."""
        return trained, self.params, self.rest

    def tree_flatten(self):
        return (self.params, self.rest), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


@dataclass(frozen=True)
class Expanded:
    """A prediction to first order: `predict((w, start, rest), x)`. It is hashable, as the prediction is."""

    whole: Callable[..., Any]

    def __call__(self, model: tuple, x: Any) -> jax.Array:
        moved, start, rest = model
        along = jax.tree.map(lambda w, w0: (w - w0).astype(w0.dtype), moved, start)
        outputs, change = jax.jvp(lambda w: self.whole(join_model(w, rest), x), (start,), (along,))
        return outputs + change


@dataclass(frozen=True)
class ExpandedLosses:
    """The losses of predictions to first order; hashable and equal to others of the same parts."""

    predict: Expanded
    loss: Callable[[jax.Array, Any], jax.Array]

    def __call__(self, model: tuple, batch: Any) -> jax.Array:
        return self.loss(self.predict(model, batch["x"]), batch["y"])


def linearized(objective: Any, params: PyTree, *, trainable: Trainable = None) -> Any:
    r"""The model $f_{lin}(w, x) = f(w_0, x) + J(w_0, x)(w - w_0)$, which a network follows in the lazy limit.

    Its tangent kernel never changes. Of an objective it makes another one with the same data and loss, for
    `iterate`, `gradient_flow` and everything else that takes objectives; a prediction costs about two. Under the flow
    of squared error its predictions have a closed form, `lazy_predictions`.

    **Arguments**

    - `objective`: an `Objective` over `{"x", "y"}` whose losses have the parts `predict` and `loss`, as those of
      `jaxflow.problems.mlp` have, or only a function `predict(params, x (B, …)) -> (B, …)`.
    - `params` w₀: where it is expanded, a pytree whose real arrays are trained.
    - `trainable`: what of `params` is trained, as in `iterate`. The linearised model is a function of this part, in
      which everything else is `None`.

    **Returns** an `Objective` whose `losses.predict(w, x)` is the linearised prediction; for a function, another
    function `predict(w, x)`, a pytree whose leaves are $w_0$. Training starts at w₀ (or its trained part).

    **Raises** `TypeError` for an objective without these parts, or parameters that are not real.

    Source: Lee, Xiao, Schoenholz et al. 2019, 1902.06720; Chizat, Oyallon & Bach 2019, 1812.07956.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> tangent = jf.kernels.linearized(lambda w, x: jnp.exp(w * x), jnp.array(0.0))
    >>> print(tangent(jnp.array(2.0), jnp.ones(1)))
    [3.]
    """
    trained, rest = split_model(params, trainable)
    start = Start(real_parameters(trained), rest)
    if not isinstance(objective, Objective) and callable(objective):
        return Completed(Expanded(objective), start)
    check_parts(objective)
    losses: Any = objective.losses
    if isinstance(losses, Completed):
        raise TypeError(
            "objective must be one of whole models, got one that was completed or linearised before."
        )
    return replace(objective, losses=Completed(ExpandedLosses(Expanded(losses.predict), losses.loss), start))
