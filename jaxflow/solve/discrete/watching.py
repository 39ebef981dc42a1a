"""What is looked at along a run of an optimizer, its record and its metrics, and what is remembered in between."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow._programs.jaxprs import reads
from jaxflow.optim.updates import Step
from jaxflow.recording import WITH_MEMORY, as_recorder
from jaxflow.solve.metrics import Strided

PyTree = Any


class Watch(NamedTuple):
    """What a run remembers of what it has seen, with which one that goes on sees what one that never ended sees.

    - `memory`: the memories of the record and of each metric.
    - `seen`: the last record and the last values of the metrics.
    - `updates`: the last updates, which metrics compare with the next.
    """

    memory: PyTree
    seen: PyTree
    updates: PyTree


class Watcher:
    """Looks at steps. It is made inside a program, from a record and metrics."""

    def __init__(self, record: Any, metrics: dict | None, conditions: bool = False):
        self.record, self.metrics = as_recorder(record), metrics
        self.remembers = metrics is not None or isinstance(record, WITH_MEMORY)
        self.sees_steps = metrics is not None or conditions
        self.shapes: dict[str, Any] = {}

        self.closed: PyTree = None
        self.compares = False  # with the updates before, which are carried only then
        self.blank: Step | None = None

    def keep(self, step: Step) -> Step:
        """What of a step is carried to where somebody may see it."""
        return step if self.sees_steps else Step(step.params, step.state, *[None] * 4)  # type: ignore[arg-type]

    def hand_on(self, step: Step) -> Step:
        """What of a step that was seen the next one is handed: its updates, where a metric compares with them."""
        kept = step.updates if self.compares else None
        blank: Any = None
        return step._replace(loss=blank, gradient=None, updates=kept, last_updates=None, model=None)

    def take_up(self, step: Step) -> Step:
        """A step that was handed on as one that steps carry from one to the next, with NaN for what is missing."""
        blank = self.blank
        if blank is None:
            return step
        updates = blank.updates if step.updates is None else step.updates
        return blank._replace(params=step.params, state=step.state, updates=updates)

    def begin(
        self,
        params: PyTree,
        state: PyTree,
        take: Callable[[Step], Step],
        number: jax.Array,
        watch: PyTree,
        model: PyTree,
    ) -> tuple[Step, PyTree, PyTree]:
        """The step that a run begins from, what is seen there, and the memory.

        Where none was taken before, NaN is in the place of its loss, gradient and updates. `take` makes the first
        step, of which only the shapes are asked; `model` is what the model carries. `watch` is what an earlier run
        remembers, where it saw the same.
        """
        step = Step(params, state, *[None] * 4)  # type: ignore[arg-type]
        if self.sees_steps:
            step = self.blank = _blank_step(step._replace(model=model), jax.eval_shape(take, step))
        begun = {name: _begin(metric, step) for name, metric in (self.metrics or {}).items()}
        begun = self.record.begin(params, state), begun
        if self.metrics is not None:
            self.compares = reads(
                lambda updates: self.look(begun, step._replace(last_updates=updates), number), step.updates
            )
        seen, memory = self.look(begun, step, number)
        step = self.hand_on(step)
        if isinstance(watch, Watch) and _has_same_shapes(watch, Watch(memory, seen, step.updates)):
            memory, seen, step = watch.memory, watch.seen, step._replace(updates=watch.updates)
        return step, seen, memory

    def remember(self, memory: PyTree, seen: PyTree, updates: PyTree) -> PyTree:
        """What a run that goes on is to be given; `updates` are those that were handed on last."""
        return Watch(memory, seen, updates) if self.remembers else ()

    def close(self, seen: PyTree) -> None:
        """From now on a look costs nothing: what was `seen` before is seen again."""
        self.closed = seen

    def look(self, memory: PyTree, step: Step, number: jax.Array) -> tuple[PyTree, PyTree]:
        """What is seen after a step, the `number`-th: the record and the metrics' values; and the memory."""
        if self.closed is not None:
            return self.closed, memory
        own, others = memory
        value, own = self.record.look(own, step.params, step.state)
        if self.metrics is None:
            return (value, None), (own, others)
        told = {name: _look(metric, others[name], step, number) for name, metric in self.metrics.items()}
        values = {name: self._check_value(name, value) for name, (value, _) in told.items()}
        return (value, values), (own, {name: memory for name, (_, memory) in told.items()})

    def _check_value(self, name: str, value: PyTree) -> PyTree:
        """A metric's value as arrays, of the shapes that it had at the first look."""

        def array(leaf):
            if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex)):
                raise TypeError(f"metrics[{name!r}] must return numbers or arrays, got {leaf!r}.")
            return jnp.asarray(leaf)

        value = jax.tree.map(array, value)
        shapes = jax.tree.map(lambda leaf: leaf.shape, value)
        first = self.shapes.setdefault(name, shapes)
        if first != shapes:
            raise ValueError(
                f"metrics[{name!r}] must return arrays of one shape at every step, got {first} first, then {shapes}."
            )
        return value


def _begin(metric: Any, step: Step) -> PyTree:
    metric = metric.metric if isinstance(metric, Strided) else metric
    return metric.begin(step.params, step.state) if isinstance(metric, WITH_MEMORY) else ()


def _look(metric: Any, memory: PyTree, step: Step, number: jax.Array) -> tuple[PyTree, PyTree]:
    if isinstance(metric, WITH_MEMORY):
        return metric.look(memory, step.params, step.state)
    if not isinstance(metric, Strided):
        return metric(step), memory
    real = lambda x: jnp.asarray(x, jnp.result_type(x, jnp.float16))

    def measure(memory):
        value, memory = _look(metric.metric, memory, step, number)
        return jax.tree.map(real, value), memory

    shapes = jax.eval_shape(measure, memory)[0]
    blank = lambda memory: (jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes), memory)
    return lax.cond(number % metric.stride == 0, measure, blank, memory)


def _blank_step(step: Step, shapes: Step) -> Step:
    blank = lambda tree: jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), tree)
    unknown = {name: blank(getattr(shapes, name)) for name in ("loss", "gradient", "updates")}
    return step._replace(**unknown, last_updates=unknown["updates"])


def _has_same_shapes(given: PyTree, expected: PyTree) -> bool:
    shape = lambda leaf: (jnp.shape(leaf), jnp.asarray(leaf).dtype)
    same = jax.tree.structure(given) == jax.tree.structure(expected)
    return same and list(map(shape, jax.tree.leaves(given))) == list(map(shape, jax.tree.leaves(expected)))
