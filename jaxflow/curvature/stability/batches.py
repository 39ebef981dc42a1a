r"""The curvature that mini-batches see: of a batch's own loss, along that batch's own gradient.

Each of the independent batches B gives its gradient g, one product with its own Hessian, and one with that of another
batch, which is independent of g and therefore stands for the Hessian of all data.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._losses.models import Trainable
from jaxflow._norms import root
from jaxflow._traceable import traceable
from jaxflow.curvature.differentiability import warn_unless_twice_differentiable
from jaxflow.curvature.products import check_objective, open_real
from jaxflow.curvature.spectrum.estimate import Estimate, mean
from jaxflow.objective import Objective, require_data
from jaxflow.recording import Recorder

PyTree = Any
BATCHES = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BatchSharpness:
    r"""Means over batches B, of gradient g and Hessian $H_B$: a pytree of `Estimate`s with standard errors.

    All but the last are in the units of the Hessian.

    - `sharpness`: $E[g^T H_B g] / E[g^T g]$, the batch sharpness; 2/η at the edge of SGD's stability.
    - `mean_quotient`: $E[g^T H_B g / g^T g]$, in which a batch of small gradient counts as much as a large one.
    - `full_hessian`: $E[g^T H g] / E[g^T g]$, with the Hessian H of all data, but along the gradients of batches.
    - `squared_gradient`: $E[g^T g]$.
    """

    sharpness: Estimate
    mean_quotient: Estimate
    full_hessian: Estimate
    squared_gradient: Estimate

    def __repr__(self):
        return (
            f"BatchSharpness({self.sharpness!r}; mean of quotients {self.mean_quotient!r}, "
            f"Hessian of all data {self.full_hessian!r})"
        )


def batch_sharpness(
    objective: Objective,
    params: PyTree,
    batch_size: int,
    key: jax.Array,
    *,
    batches: int = BATCHES,
    replacement: bool = True,
    trainable: Trainable = None,
) -> BatchSharpness:
    r"""The expected curvature of a mini-batch's loss along that batch's gradient, $E[g^T H_B g] / E[g^T g]$.

    A step of SGD from θ changes the loss of its own batch by $-\eta\,g^T g + \frac{\eta^2}{2} g^T H_B g$, up to third
    derivatives. Where the batch sharpness is 2/η this is 0 on average. SGD sharpens until this is so, and stays
    there, while the sharpness of all data (`sharpness`) stays below 2/η (Andreyev & Beneventano).

    **Arguments**

    - `objective`: an `Objective` with data, N ≥ 2 examples.
    - `params` θ: a pytree whose real arrays are trained.
    - `batch_size` B: the number of examples in a batch (static), at most N − 1 without replacement, where a batch of
      all examples has no noise.
    - `key`: the random key of the batches.
    - `batches` n: the number of batches, at least 2 (static). They are taken one after another, in the memory of one;
      each costs its gradient and two Hessian products over B examples.
    - `replacement`: whether the examples of a batch are drawn independently, as those of `iterate(…, batch_size=B)`
      are, or are all distinct (static).
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** a `BatchSharpness`. The errors fall as 1/√n. For the quotients of two means they are those of the
    delta method, and there is a bias of order 1/n. Quotients are NaN where gradients vanish. It is compiled when
    called plainly, and works under `jit` and `vmap`.

    **Raises** `TypeError` for an objective without data, parameters that are not real floats, or a bare seed;
    `ValueError` for fewer than two batches or examples, or for batches that are empty or have no noise.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> data = jf.Objective(lambda w, c: 0.5 * c * (w - 1) ** 2, jnp.array([1.0, 3.0]))
    >>> found = jf.curvature.batch_sharpness(data, 0.0, 1, jax.random.key(0), batches=4096)
    >>> exact = (1**3 + 3**3) / (1**2 + 3**2)
    >>> print(exact, bool(abs(found.sharpness.value - exact) < 4 * found.sharpness.error < 0.03))
    2.8 True

    Source: Andreyev & Beneventano 2024, 2412.20553.
    """
    check_objective(objective)
    _check_batches(objective, batch_size, batches, replacement)
    objective, params = open_real(objective, params, trainable)
    return _batch_sharpness(
        objective=objective,
        params=params,
        key=_check.random_key(key),
        batch_size=int(batch_size),
        batches=int(batches),
        replacement=bool(replacement),
    )


@compiled(static=("batch_size", "batches", "replacement"))
def _batch_sharpness(*, objective, params, key, batch_size, batches, replacement):
    warn_unless_twice_differentiable(objective, params)
    return _measure(objective, params, key, batch_size, batches, replacement)


def _measure(objective, params, key, batch_size: int, batches: int, replacement: bool) -> BatchSharpness:
    choose = lambda key: jax.random.choice(key, objective.size, (batch_size,), replace=replacement)

    def slope_of(indices) -> Callable[[PyTree], PyTree]:
        return jax.grad(lambda p: objective.minibatch(p, indices))

    def one(key):
        mine, other = map(choose, jax.random.split(key))
        g, product = jax.linearize(slope_of(mine), params)
        along, across = product(g), jax.jvp(slope_of(other), (params,), (g,))[1]
        return jnp.stack([optax.tree.vdot(g, vector) for vector in (along, across, g)])

    own, crossed, squared = lax.map(one, jax.random.split(key, batches)).T
    quotient = lambda top: _quotient(top, squared)
    return BatchSharpness(quotient(own), mean(own / squared), quotient(crossed), mean(squared))


def _quotient(top: jax.Array, bottom: jax.Array) -> Estimate:
    """The quotient of two means over n independent pairs, with its standard error by the delta method."""
    value = top.mean() / bottom.mean()
    left, count = top - value * bottom, top.size
    return Estimate(value, root(jnp.sum(left**2) / (count * (count - 1))) / bottom.mean())


def _check_batches(objective: Any, batch_size: Any, batches: Any, replacement: Any) -> None:
    """Refuse batches that are too few, or that are all alike."""
    size = require_data(objective, "The gradients of batches")
    _check.require_integer("batch_size", batch_size, 1)
    _check.require_integer("batches", batches, 2)
    _check.require(
        "objective", size, size >= 2, "one of at least 2 examples, without which there is no noise"
    )
    if not replacement:
        rule = f"at most {size - 1} of the {size} examples, when drawn without replacement, to have noise"
        _check.require("batch_size", batch_size, batch_size < size, rule)


@traceable
def record_batch_sharpness(
    objective: Objective,
    batch_size: int,
    key: jax.Array,
    *,
    batches: int = BATCHES,
    replacement: bool = True,
) -> Recorder:
    """A `record=` or one of the `metrics=` of `iterate`: the batch sharpness along a run, at every record.

    Its batches are drawn from a key of its own, folded with the number of the record, so that they have nothing to do
    with those that the run is trained on, and the run is the same as without it.

    **Arguments**

    - `objective`: an `Objective` with data, N ≥ 2 examples: the loss that is measured.
    - `batch_size` B: the number of examples in a batch (static), at most N − 1 without replacement.
    - `key`: the random key of the batches, not the one that the run is trained with.
    - `batches`: the number of batches at a record, at least 2 (static), as in `batch_sharpness`.
    - `replacement`: whether the examples of a batch are drawn independently, or are all distinct (static).

    **Returns** a `Recording`. The values are then a `BatchSharpness` whose estimates have leaves (T,).
    `jaxflow.solve.metrics.at_stride` measures only at some records.

    **Raises** what `batch_sharpness` raises for these arguments.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> data = jf.Objective(lambda w, c: 0.5 * c * (w - 1) ** 2, jnp.array([1.0, 3.0]))
    >>> record = jf.curvature.record_batch_sharpness(data, 1, jax.random.key(7), batches=256)
    >>> run = jf.iterate(jf.optim.gd(0.1), data, 0.0, steps=2, batch_size=1, key=jax.random.key(0), record=record)
    >>> print(bool((abs(run.values.sharpness.value - 2.8) < 5 * run.values.sharpness.error).all()))
    True
    """
    check_objective(objective)
    _check_batches(objective, batch_size, batches, replacement)
    key = _check.random_key(key)

    def look(count, params, state):
        del state
        loss, params = open_real(objective, params)
        now = jax.random.fold_in(key, count)
        return _measure(loss, params, now, int(batch_size), int(batches), bool(replacement)), count + 1

    return Recorder(lambda params, state: jnp.zeros([], jnp.int32), look)
