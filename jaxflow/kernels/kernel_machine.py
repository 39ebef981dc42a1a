"""Predictions as sums over training examples, and which examples made a prediction."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import _check

PyTree = Any


class Support(NamedTuple):
    """Some training examples, and what each of them added to one number.

    - `indices` (count,): their places in the training data.
    - `values` (count,): what they added.
    """

    indices: jax.Array
    values: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class KernelMachine:
    r"""Predictions after a run as those before it plus a contribution of each training example.

    $y(x, \theta_T) = y(x, \theta_0) + \sum_i c_i(x) + r(x)$ for M points x and N training examples.

    - `contributions` (N, M) or (N, M, C): the $c_i(x)$.
    - `start`, `end` (M,) or (M, C): the predictions before and after the run.
    - `params`: the parameters after the run; of a model its trained part.
    - `regularizer` (M,) or (M, C): what weight decay added, which belongs to no example; it is then one more term of
      the sum. `None` where the optimizer has none.

    `effects(point)` is what each example added at one point, and `most_helpful` and `most_harmful` are the examples
    that added most and least. It is a pytree.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> added = jnp.array([[[1.0, 0.0, 0.0]], [[0.0, 0.5, 0.0]], [[0.0, 0.0, 2.0]]])
    >>> machine = jf.kernels.KernelMachine(added, jnp.zeros((1, 3)), added.sum(0), None)
    >>> print(machine.effects(0), machine.margin_of(0))
    [-1.  0.  2.] (2, 0)
    >>> print(machine.most_helpful(0, count=1).indices, machine.most_harmful(0, count=1).values)
    [2] [-1.]
    """

    contributions: jax.Array
    start: jax.Array
    end: jax.Array
    params: PyTree
    regularizer: jax.Array | None = None

    @property
    def predictions(self) -> jax.Array:
        """The predictions at the start plus all contributions: those at the end, except for the residual."""
        moved = self.start + self.contributions.sum(0)
        return moved if self.regularizer is None else moved + self.regularizer

    @property
    def residual(self) -> jax.Array:
        """The error r of the rule, shaped like the predictions."""
        return self.end - self.predictions

    def margin_of(self, point: int) -> tuple[int, int]:
        """The class predicted at a point after the run, and the runner-up: the two largest of 2 or more outputs."""
        first, second = self._largest(point)
        return int(first), int(second)

    def _largest(self, point: int) -> jax.Array:
        _require_place("point", point, np.shape(self.contributions)[1])
        outputs = self.end[point]
        if outputs.size < 2:
            raise ValueError(f"A margin needs at least two outputs, got outputs of shape {outputs.shape}.")
        return jax.lax.top_k(outputs, 2)[1]

    def effects(self, point: int, output: int | tuple[int, int] | None = None) -> jax.Array:
        r"""What each training example added to the prediction at one point: $c_i(x)$ as one number, (N,).

        - `point`: the number of the point x, from 0 to M − 1.
        - `output`: for outputs (M, C) the number of one of them, or a pair (a, b) for the margin
          $c_{i,a} - c_{i,b}$. By default it is the margin of the predicted class over the runner-up, which decides
          what is predicted: what is added to all outputs alike changes no class and no softmax. A single output needs
          no number.

        It raises `ValueError` or `TypeError` for a point or an output that does not exist.
        """
        _require_place("point", point, np.shape(self.contributions)[1])
        mine = self.contributions[:, point]
        if mine.ndim == 1 or mine.shape[1] == 1:
            if output not in (None, 0):
                raise ValueError(f"output must be left out for a single output, got {output!r}.")
            return mine.reshape(-1)
        if output is None:
            first, second = self._largest(point)
            return mine[:, first] - mine[:, second]
        pair = output if isinstance(output, tuple) else (output,)
        if len(pair) > 2:
            raise ValueError(f"output must be one output or a pair of outputs, got {output!r}.")
        for one in pair:
            _require_place("output", one, mine.shape[1])
        return mine[:, pair[0]] if len(pair) == 1 else mine[:, pair[0]] - mine[:, pair[1]]

    def most_helpful(
        self, point: int, output: int | tuple[int, int] | None = None, *, count: int = 5
    ) -> Support:
        """The `count` training examples that raised the prediction at a point most, the first of them most.

        `point` and `output` are those of `effects`.
        """
        return self._support(self.effects(point, output), count, 1)

    def most_harmful(
        self, point: int, output: int | tuple[int, int] | None = None, *, count: int = 5
    ) -> Support:
        """The `count` training examples that lowered the prediction at a point most, the first of them most.

        `point` and `output` are those of `effects`. Where fewer than `count` examples lowered it, the others have
        values of 0 or more.
        """
        return self._support(self.effects(point, output), count, -1)

    def _support(self, effects: jax.Array, count: int, sign: int) -> Support:
        _check.require_integer("count", count, 1)
        rule = f"at most the number of training examples, {effects.size}"
        _check.require("count", count, count <= effects.size, rule)
        indices = jnp.argsort(-sign * effects, stable=True)[:count]
        return Support(indices, effects[indices])

    def __repr__(self):
        examples, points = np.shape(self.contributions)[:2]
        return f"KernelMachine(contributions of {examples} examples to predictions at {points} points)"


def _require_place(name: str, place: Any, count: int) -> None:
    """Refuse anything but a place on an axis."""
    _check.require_integer(name, place, 0)
    _check.require(name, place, place < count, f"an integer from 0 to {count - 1}")
