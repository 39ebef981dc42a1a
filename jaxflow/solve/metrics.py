"""What is told of each step of a run besides the record: `metrics=` of `iterate`.

A metric is a function of the `Step` that led to a record, or a `Recorder`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow import _check
from jaxflow._losses.models import Rest, join_model
from jaxflow._traceable import traceable
from jaxflow.optim.updates import Step as Step
from jaxflow.recording import WITH_MEMORY, Recorder, Recording, complete_record

PyTree = Any
Metric = Callable[[Step], PyTree] | Recording | Recorder


def loss(step: Step) -> jax.Array:
    """The loss of the step's batch, at the parameters before the step. It comes with the gradient, at little cost.

    **Arguments**

    - `step`: the `Step` that led to a record, which `iterate` hands over.

    **Returns** a scalar; NaN at the first record.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> run = jf.iterate(jf.optim.gd(0.5), lambda x: x @ x, jnp.ones(1), steps=2,
    ...                  metrics={"loss": jf.solve.metrics.loss})
    >>> print(run.metrics["loss"])
    [nan  1.  0.]
    """
    return step.loss


def gradient_norm(step: Step) -> jax.Array:
    """The 2-norm of the step's gradient, that of its batch, at the parameters before the step.

    **Arguments**

    - `step`: the `Step` that led to a record, which `iterate` hands over.

    **Returns** a real scalar, in at least single precision; NaN at the first record.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> run = jf.iterate(jf.optim.gd(0.5), lambda x: 2 * x @ x, jnp.ones(1), steps=1,
    ...                  metrics={"slope": jf.solve.metrics.gradient_norm})
    >>> print(run.metrics["slope"])
    [nan  4.]
    """
    return jnp.sqrt(_inner_product(step.gradient, step.gradient))


def update_norm(step: Step) -> jax.Array:
    """The 2-norm of what the step added to the parameters.

    **Arguments**

    - `step`: the `Step` that led to a record, which `iterate` hands over.

    **Returns** a real scalar, in at least single precision; NaN at the first record.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> run = jf.iterate(jf.optim.gd(0.5), lambda x: 2 * x @ x, jnp.ones(1), steps=1,
    ...                  metrics={"length": jf.solve.metrics.update_norm})
    >>> print(run.metrics["length"])
    [nan  2.]
    """
    return jnp.sqrt(_inner_product(step.updates, step.updates))


def update_cosine(step: Step) -> jax.Array:
    """The cosine of the angle between the step's updates and those of the step before; NaN where either is 0.

    It is near 1 where a run goes straight on, and near −1 where it oscillates.

    **Arguments**

    - `step`: the `Step` that led to a record, which `iterate` hands over.

    **Returns** a real scalar, from −1 to 1; NaN at the first two records.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> run = jf.iterate(jf.optim.gd(0.9), lambda x: x @ x, jnp.ones(1), steps=3,  # x becomes −0.8 x
    ...                  metrics={"cosine": jf.solve.metrics.update_cosine})
    >>> print(run.metrics["cosine"])
    [nan nan -1. -1.]
    """
    now, last = step.updates, step.last_updates
    lengths = [jnp.sqrt(_inner_product(updates, updates)) for updates in (now, last)]
    return _inner_product(now, last) / lengths[0] / lengths[1]


def _inner_product(a: PyTree, b: PyTree) -> jax.Array:
    """The inner product of two pytrees, real and in at least single precision.

    It is not scaled, as a norm elsewhere is, which would take twice the time: the squares of numbers below 1e-19
    vanish in single precision.
    """
    wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def of_leaf(x, y):
        product = (jnp.conj(wide(x)) * wide(y)).real
        if product.ndim < 2:
            return jnp.sum(product)
        # A processor adds rows faster, of which XLA would make a sum over all at once without the barrier.
        rows = jnp.sum(product.reshape(-1, product.shape[-1]), axis=0)
        return jnp.sum(lax.optimization_barrier(rows))

    return sum(jax.tree.leaves(jax.tree.map(of_leaf, a, b)), jnp.zeros([], jnp.float32))


@traceable
def of_parameters(function: Any) -> Recorder:
    """A metric that is a function of the parameters, such as a test loss.

    **Arguments**

    - `function`: any function of the parameters. The data of an `Objective` enter the compiled program as arguments;
      arrays that a plain function holds become constants of it.

    **Returns** a `Recording`, for `metrics=` of `iterate`.

    **Raises** `TypeError` when `function` is not callable.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> test = jf.Objective(lambda w, c: (w - c) ** 2, jnp.array([0.0, 2.0]))
    >>> run = jf.iterate(jf.optim.gd(0.5), lambda w: 0.5 * w**2, 1.0, steps=2,
    ...                  metrics={"test": jf.solve.metrics.of_parameters(test)})
    >>> print(run.metrics["test"])
    [1.     1.25   1.5625]
    """
    if not callable(function):
        raise TypeError(f"function must be a function of the parameters, got {function!r}.")
    return Recorder(lambda params, state: (), lambda memory, params, state: (function(params), memory))


@jax.tree_util.register_pytree_node_class
class Strided:
    """A metric that is taken only at some steps; `at_stride` makes it."""

    def __init__(self, metric: Any, stride: int):
        self.metric, self.stride = metric, stride

    def tree_flatten(self):
        return (self.metric,), self.stride

    @classmethod
    def tree_unflatten(cls, stride, children):
        (metric,) = children
        return cls(metric, stride)

    def __repr__(self):
        return f"at_stride({self.metric!r}, {self.stride})"


def at_stride(metric: Any, stride: int) -> Strided:
    """A costly metric at a stride of its own: it is taken at those records whose step is a multiple of `stride`.

    **Arguments**

    - `metric`: a function of the `Step`, or a `Recorder` such as `jaxflow.curvature.record_sharpness`.
    - `stride`: the number of optimizer steps between two values (static). Where it is no multiple of `every` of the
      run, the steps at which there is a value are the multiples of both.

    **Returns** a metric whose values at all other records are NaN. Integers become real numbers.

    **Raises** `ValueError` or `TypeError` unless `stride` is an integer at least 1 and `metric` one of those.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * x @ x
    >>> sharpness = jf.solve.metrics.at_stride(jf.curvature.record_sharpness(loss), 2)
    >>> run = jf.iterate(jf.optim.gd(0.5), loss, jnp.ones(1), steps=3, metrics={"hessian": sharpness})
    >>> print(run.metrics["hessian"].sharpness)
    [ 1. nan  1. nan]
    """
    _check.require_integer("stride", stride, 1)
    if not (isinstance(metric, WITH_MEMORY) or callable(metric)):
        raise TypeError(f"metric must be a function of the step or a Recorder, got {metric!r}.")
    return Strided(metric, int(stride))


def check_metrics(metrics: Any) -> None:
    """Refuse anything but a dictionary of metrics by name."""
    if not isinstance(metrics, dict) or not all(isinstance(name, str) for name in metrics):
        raise TypeError(f"metrics must be a dict of functions of the step by name, got {metrics!r}.")
    for name, metric in metrics.items():
        if not (isinstance(metric, (Strided, *WITH_MEMORY)) or callable(metric)):
            raise TypeError(
                f"metrics[{name!r}] must be a function of the step or a Recorder, got {metric!r}."
            )


@jax.tree_util.register_pytree_node_class
class _MetricOfModel:
    """A metric that sees whole models, as one that is shown their trained part."""

    def __init__(self, metric: Any, rest: Rest):
        self.metric, self.rest = metric, rest

    def __call__(self, step: Step) -> PyTree:
        return self.metric(step._replace(params=join_model(step.params, self.rest)))

    def tree_flatten(self):
        return (self.metric, self.rest), None

    @classmethod
    def tree_unflatten(cls, _, children):
        metric, rest = children
        return cls(metric, rest)


def complete_metric(metric: Any, rest: Rest) -> Any:
    """A metric of whole models as one of their trained part."""
    if isinstance(metric, Strided):
        return Strided(complete_metric(metric.metric, rest), metric.stride)
    return complete_record(metric, rest) if isinstance(metric, WITH_MEMORY) else _MetricOfModel(metric, rest)
