"""What is kept of a run when a function of the parameters is not enough: records that remember the one before.

`iterate` and `integrate` accept either as `record=`. A recorder is handed the state too (the optimizer's, or that of
the dynamics), and carries a memory from one record to the next, such as the eigenvectors it found last.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow._completion import complete_arguments
from jaxflow._losses.models import Completed, Rest, join_model
from jaxflow._traceable import Bound, kind, traceable

PyTree = Any


class Recorder(NamedTuple):
    """What the body of a traceable recorder constructor returns.

    - `begin(params, state) -> memory`: the memory before the first record.
    - `look(memory, params, state) -> (values, memory)`: it is called at every record; `values` is what is kept.

    `state` is the optimizer's state in `iterate`, and the state of the dynamics in `integrate`.
    """

    begin: Callable[[PyTree, PyTree], PyTree]
    look: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


@kind(lambda result: isinstance(result, Recorder))
class Recording(Bound):
    """A recorder as a pytree of the numbers it was made with, to give to `iterate` and `integrate` as `record=`.

    A user's own is a traceable constructor that returns a `Recorder`:

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> @jf.optim.traceable
    ... def way(scale):
    ...     def look(memory, params, state):
    ...         last, length = memory
    ...         length = length + scale * jnp.linalg.norm(params - last)
    ...         return length, (params, length)
    ...     return jf.Recorder(begin=lambda params, state: (params, jnp.zeros(())), look=look)
    >>> run = jf.iterate(jf.optim.gd(0.5), lambda x: 0.5 * x @ x, jnp.ones(1), steps=2, record=way(1.0))
    >>> print(run.values)
    [0.   0.5  0.75]
    """

    def begin(self, params: PyTree, state: PyTree) -> PyTree:
        """The memory before the first record."""
        return self.build().begin(params, state)

    def look(self, memory: PyTree, params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """What is kept now, and the memory for the next record."""
        return self.build().look(memory, params, state)


WITH_MEMORY = (Recording, Recorder)


@traceable
def _recorder_of_model(record: Any, rest: Rest) -> Recorder:
    whole = lambda params: join_model(params, rest)
    return Recorder(
        begin=lambda params, state: record.begin(whole(params), state),
        look=lambda memory, params, state: record.look(memory, whole(params), state),
    )


def complete_record(record: Any, rest: Rest) -> Any:
    """A record of whole models as one of their trained part; the default, which keeps parameters, keeps that part."""
    if record is None:
        return None
    if isinstance(record, Recording) and "objective" in record.hyperparameters:
        return complete_arguments(record, rest)
    if isinstance(record, WITH_MEMORY):
        return _recorder_of_model(record, rest)
    return Completed(_ArraysAlone(record), rest)


@jax.tree_util.register_pytree_node_class
class _ArraysAlone:
    """A record of whole models with `None` in the place of what has no values over time: functions, strings, keys."""

    def __init__(self, record: Any):
        self.record = record

    def __call__(self, model: PyTree) -> PyTree:
        kept = lambda leaf: _is_array(leaf) and not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
        return jax.tree.map(lambda leaf: leaf if kept(leaf) else None, self.record(model))

    def tree_flatten(self):
        return (self.record,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex))


def _as_arrays(value: PyTree) -> PyTree:
    """What a record returned, as arrays."""
    for leaf in jax.tree.leaves(value):
        if not _is_array(leaf):
            raise TypeError(f"record must return a pytree of numbers and arrays, got {leaf!r} in it.")
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf), value)


class _Plain(NamedTuple):
    """A function of the parameters as a recorder without a memory."""

    record: Callable[[PyTree], PyTree]

    def begin(self, params: PyTree, state: PyTree) -> PyTree:
        return ()

    def look(self, memory: PyTree, params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        return _as_arrays(self.record(params)), memory


def as_recorder(record: Any) -> Any:
    """Something with `begin` and `look`."""
    return record if isinstance(record, WITH_MEMORY) else _Plain(record)


def keeper(record: Any, params_of: Callable[[PyTree], PyTree]) -> Callable[[PyTree], PyTree]:
    """What to save of a state: the record or, for a recorder, all that `replay_records` will show to it later."""
    if isinstance(record, WITH_MEMORY):
        return lambda state: (params_of(state), state)
    return lambda state: _as_arrays(record(params_of(state)))


def replay_records(record: Any, values: PyTree) -> PyTree:
    """The records of a run that is over, made from what `keeper` saved; leaves (T, …)."""
    if not isinstance(record, WITH_MEMORY):
        return values
    step = lambda memory, at: record.look(memory, *at)[::-1]
    return lax.scan(step, record.begin(*jax.tree.map(lambda x: x[0], values)), values)[1]
