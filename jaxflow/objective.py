"""What is minimised: a mean of per-example losses over data.

An `Objective` is a pytree whose leaves are its data, so that data enter compiled code as an argument and
two objectives of the same shape share one compilation. Wherever mini-batches are not needed any callable
`loss(params) -> scalar` works too.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow import _check
from jaxflow._devices.meshes import bring_home, is_within_one_device
from jaxflow._devices.shares import Shares, fill_up, shares_of, take
from jaxflow._losses.companions import warn_of_chunks
from jaxflow._losses.drawn_losses import LossesOfStep, MeanOfDraws, Numbered, check_state_argument, takes_key
from jaxflow._losses.models import Completed, Rest, has_static, split_model
from jaxflow._losses.sums import sum_in_chunks, sum_of_half
from jaxflow._moved import forward_names
from jaxflow._programs import half
from jaxflow._text.shapes import show

PyTree = Any
__getattr__ = forward_names("jaxflow.objective", "jaxflow._gradients")  # `gradient` was here


@dataclass(frozen=True)
class Objective:
    r"""The mean loss $L(\theta) = \frac1N \sum_{i=1}^N \ell_i(\theta)$ over data, never the sum.

    **Arguments**

    - `losses`: a function `losses(params, batch) -> (B,)`, one loss for each of the B examples of `batch`. It may
      draw random numbers, for dropout or augmentation: `losses(params, batch, key) -> (B,)` has an argument of this
      name, and is handed B keys, one for each example.
    - `data`: a pytree of arrays that share their leading axis N. It is `None` where the examples only ever arrive
      as a stream; then `objective(params)` is refused.
    - `chunk`: the number of examples over which the mean is evaluated at a time (static), for data whose activations
      do not fit in memory. The gradient recomputes each chunk, so it needs the memory of one chunk too. Default: all.
    - `draws`: for losses that draw random numbers, the number of draws whose mean stands for their expectation
      (static). Each step of `iterate` draws its own, from the step's key. Flows, SDEs, curvature and
      `objective(params)` need a function of the parameters alone: there a loss is its mean over this number of
      draws, which are the same every time. Without `draws` it is refused.
    - `state`: what the model carries in addition to its parameters, such as the running averages of a batch
      normalisation; a pytree of arrays. The losses are then `losses(params, batch, state) -> ((B,), state)`, with an
      argument of this name. A step of `iterate` takes the gradient with the state it has and hands on the new one: a
      run's `state.model` is the last. Everywhere else, in flows, SDEs, `modified`, curvature, noise and
      `objective(params)`, the state stays as it is given here. With `chunk` it is refused.

    Data may lie on several devices, laid over a mesh by their leading axis: `jax.device_put(objective,
    NamedSharding(mesh, PartitionSpec("data")))`. Each device then computes its share of all sums over examples. N
    must be a multiple of the number of devices, as JAX lays out no other; a batch may have any size, because it is
    filled up with examples of weight 0. To hand such data to a `jit` of your own, hand it the objective, which
    remembers their layout there. A `state` has no axis of examples: lay out the data alone, before the objective is
    made.

    In half precision, of losses or parameters, examples are summed in float32. The loss and the gradient of a single
    example are rounded to half precision.

    `objective(params)` is L, `objective.minibatch(params, indices)` is the mean over some examples, and
    `objective.size` is N. An objective goes through `jit`, `vmap` and `grad` as an argument.

    **Raises** `TypeError` when `losses` is not callable; `ValueError` when the leaves of `data` disagree in N,
    when `losses` does not return one value per example, or when `losses` has an argument named `state` and none is
    given, or the other way round.

    >>> import jax.numpy as jnp
    >>> from jaxflow import Objective
    >>> objective = Objective(lambda w, batch: 0.5 * (batch["x"] * w - batch["y"]) ** 2,
    ...                       {"x": jnp.array([1.0, 2.0]), "y": jnp.array([1.0, 4.0])})
    >>> objective.size, float(objective(1.0)), float(objective.minibatch(1.0, jnp.array([1])))
    (2, 1.0, 2.0)
    """

    losses: Callable[[PyTree, PyTree], jax.Array]
    data: PyTree = None
    chunk: int | None = None
    draws: int | None = None
    state: PyTree = None

    def __post_init__(self):
        if not callable(self.losses):
            raise TypeError(f"losses must be a function (params, batch) -> (B,), got {self.losses!r}.")
        if self.chunk is not None:
            _check.require_integer("chunk", self.chunk, 1)
        # Losses of another objective's, with data of their own.
        if type(self.losses) is MeanOfDraws and not isinstance(self.data, Numbered):
            object.__setattr__(self, "draws", self.draws or self.losses.draws)
            object.__setattr__(self, "losses", self.losses.losses)
        check_state_argument(self.function_given, self.state, show(self.state))
        random = takes_key(self.losses)
        if self.draws is not None and not self.is_random:
            _check.require_integer("draws", self.draws, 1)
            if not random:
                raise ValueError(
                    f"draws must be None for losses without an argument named key, got {self.draws!r}."
                )
        shapes: list[tuple[int, ...]] = [getattr(leaf, "shape", ()) for leaf in jax.tree.leaves(self.data)]
        if any(len(shape) == 0 for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
            raise ValueError(
                "data must be a pytree of arrays that share their leading axis N, "
                f"got leaves of shape {', '.join(map(str, shapes))}."
            )
        if self.state is not None and self.chunk is not None:
            raise ValueError(
                f"chunk must be None for losses with a state, which a batch changes as a whole, got {self.chunk}."
            )
        if random:
            object.__setattr__(self, "losses", MeanOfDraws(self.losses, self.draws))
            if shapes:
                object.__setattr__(self, "data", Numbered(self.data, jnp.arange(shapes[0][0])))

    def __repr__(self):
        more = {"chunk": self.chunk, "draws": self.draws}
        given = "".join(f", {name}={value}" for name, value in more.items() if value is not None)
        data = self.data.examples if isinstance(self.data, Numbered) else self.data
        return f"Objective({show(self.losses)}, {show(data)}{given})"

    @property
    def is_random(self) -> bool:
        """Whether its losses draw random numbers."""
        return isinstance(_open(self.losses)[0], MeanOfDraws)

    @property
    def function_given(self) -> Any:
        """The losses as the user wrote them."""
        losses = _open(self.losses)[0]
        return losses.losses if isinstance(losses, (MeanOfDraws, LossesOfStep)) else losses

    @property
    def _given_state(self) -> dict[str, PyTree]:
        return {} if self.state is None else {"state": self.state}

    def completed(self, rest: Rest) -> "Objective":
        """The objective of whole models as one of their trained part; the rest is one of its leaves."""
        return replace(self, losses=Completed(self.losses, rest))

    def carrying(self, state: PyTree) -> "tuple[Objective, list[PyTree]]":
        """The objective with another state of its model, and a list to which each new state is appended."""
        seen: list[PyTree] = []
        objective = replace(self, state=state)
        object.__setattr__(objective, "_seen", seen)
        return objective, seen

    def with_key(self, key: jax.Array) -> "Objective":
        """The objective of one step, whose random losses are drawn from its key."""
        losses, rest = _open(self.losses)
        drawn: Any = LossesOfStep(losses.losses, key)
        return replace(self, losses=drawn if rest is None else Completed(drawn, rest), draws=None)

    @property
    def size(self) -> int:
        """The number of examples N."""
        leaves = jax.tree.leaves(self.data)
        if not leaves:
            raise ValueError(
                "This objective has no data: it can only be minimised over a stream of batches. Its full gradient "
                "and its noise need all examples in memory, as data=; there is no Objective.from_stream."
            )
        return leaves[0].shape[0]

    def per_example(self, params: PyTree, batch: PyTree) -> jax.Array:
        """The losses of `batch`, checked to be one per example; shape (B,)."""
        params, batch = bring_home((params, batch))
        losses = self.losses(params, batch, **self._given_state)
        if self.state is not None:
            losses, state = _check_state(losses, self.state)
            self.__dict__.get("_seen", []).append(state)
        losses = jnp.asarray(losses)
        size = np.shape(jax.tree.leaves(batch)[0])[0]
        if losses.shape != (size,):
            raise ValueError(
                f"losses must return one value per example, shape ({size},), got shape {losses.shape}."
            )
        return losses

    def __call__(self, params: PyTree) -> jax.Array:
        """The mean loss over all data; a scalar."""
        n = self.size
        if self.chunk is None or self.chunk >= n:
            return self.over(params, self.data)
        return self._sum_in_chunks(params, None, n)

    def weighted(self, params: PyTree, weights: jax.Array) -> jax.Array:
        r"""$\sum_i w_i \ell_i(\theta)$ over all data for `weights` (N,), in chunks too; a scalar.

        >>> import jax.numpy as jnp, jaxflow as jf
        >>> print(jf.Objective(lambda w, c: (w - c) ** 2, jnp.arange(3.0)).weighted(0.0, jnp.array([1.0, 1, -1])))
        -3.0
        """
        if weights.shape != (self.size,):
            raise ValueError(
                f"weights must have shape ({self.size},), one for each example, got {weights.shape}."
            )
        if self.chunk is None or self.chunk >= self.size:
            return self.over(params, self.data, weights)
        return self._sum_in_chunks(params, weights, 1)

    def over(self, params: PyTree, batch: PyTree, weights: jax.Array | None = None) -> jax.Array:
        r"""The mean loss at `params` over a `batch` of B examples; with `weights` (B,) $\sum_i w_i \ell_i$.

        It is a scalar, in the dtype of the losses.

        >>> import jax.numpy as jnp, jaxflow as jf
        >>> print(jf.Objective(lambda w, c: (w - c) ** 2).over(0.0, jnp.array([1.0, 3.0])))
        5.0
        """
        losses = self.per_example(params, batch)
        whole, params = _open_static(self, params)
        if half.is_half(losses) or half.has_half(params):
            divisor = losses.shape[0] if weights is None else 1
            return sum_of_half(whole.per_example, params, batch, weights, divisor, None, losses.dtype)
        return losses.mean() if weights is None else jnp.sum(weights.astype(losses.dtype) * losses)

    def _sum_in_chunks(self, params: PyTree, weights: jax.Array | None, divisor: int) -> jax.Array:
        assert self.chunk is not None
        warn_of_chunks(self, params)
        whole, params = _open_static(self, params)
        return sum_in_chunks(
            whole.per_example, params, whole.data, weights, divisor, self.chunk, whole._shares
        )

    def minibatch(self, params: PyTree, indices: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        r"""The mean loss over the examples `indices` (B,), or $\sum_j w_j \ell_{i_j}$ with `weights` (B,)."""
        shares = self._shares
        if shares is not None:
            indices, weights = fill_up(indices, weights, shares)
        batch = self.take(indices)
        if isinstance(_open(self.losses)[0], LossesOfStep):  # an example that is drawn twice has two keys
            batch = batch._replace(number=jnp.arange(indices.shape[0]))
        return self.over(params, batch, weights)

    def take(self, indices: jax.Array) -> PyTree:
        """The examples `indices` (B,): the leaves of the data with a leading axis B.

        >>> import jax.numpy as jnp, jaxflow as jf
        >>> print(jf.Objective(lambda w, c: (w - c) ** 2, jnp.array([5.0, 6.0, 7.0])).take(jnp.array([2, 0])))
        [7. 5.]
        """
        data, shares = bring_home(self.data), self._shares
        return jax.tree.map(lambda x: x[indices], data) if shares is None else take(data, indices, shares)

    @property
    def _shares(self) -> Shares | None:
        """How the examples are shared out among devices; traced data do not tell, so it was noted before."""
        shares = None if is_within_one_device() else self.__dict__.get("_noted") or shares_of(self.data)
        # A stack of objectives may be laid over devices by its own axis, and not by that of the examples.
        return shares if shares is not None and shares.divide(self.data) else None


def _flatten(objective: Objective) -> tuple[tuple, tuple]:
    losses, rest = _open(objective.losses)
    keys = map(jax.tree_util.GetAttrKey, ("data", "rest", "state"))
    static = losses, objective.chunk, objective.draws, objective._shares
    return tuple(zip(keys, (objective.data, rest, objective.state), strict=True)), static


def _unflatten(static: tuple, children: Any) -> Objective:
    """An instance made without the constructor: pytree operations may put other things in the place of the data."""
    objective = object.__new__(Objective)
    (losses, chunk, draws, shares), (data, rest, state) = static, children
    losses = losses if rest is None else Completed(losses, rest)
    noted = {} if shares is None or not _is_traced(data) else {"_noted": shares}
    named = {"losses": losses, "chunk": chunk, "draws": draws, "data": data, "state": state}
    for name, value in (named | noted).items():
        object.__setattr__(objective, name, value)
    return objective


def _check_state(found: Any, state: PyTree) -> tuple[Any, PyTree]:
    """What losses with a state return, checked: the losses and a state like the one they were given."""
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(
            f"losses with a state must return a pair, the losses and the new state, got {type(found).__name__}."
        )
    _check.require_like("state", found[1], state, "be returned by the losses as it was given to them")
    return found


def _open(losses: Any) -> tuple[Any, Rest | None]:
    """The losses that a user gave, and what completes their parameters."""
    return (losses.function, losses.rest) if isinstance(losses, Completed) else (losses, None)


def _is_traced(data: PyTree) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(data))


jax.tree_util.register_pytree_with_keys(Objective, _flatten, _unflatten)


def _open_static(objective: Objective, params: PyTree) -> tuple[Objective, PyTree]:
    """An objective and parameters without functions and the like, which no transformation of JAX takes."""
    if not has_static(params):
        return objective, params
    trained, rest = split_model(params)
    return (objective if rest is None else objective.completed(rest)), trained


def require_data(objective: Any, purpose: str) -> int:
    """The number of examples; an objective that has no data, and so no mini-batches, is refused in one sentence."""
    if not isinstance(objective, Objective):
        raise TypeError(
            f"{purpose} need an Objective(losses, data), got {objective!r}, a plain function without data."
        )
    return objective.size
