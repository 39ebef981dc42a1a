"""What `iterate` was asked, checked once."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._completion import complete
from jaxflow._losses.companions import warn_of_chunks
from jaxflow._losses.models import Rest, split_model
from jaxflow.optim import learning_rate_of
from jaxflow.optim.multi_steps import as_transformation
from jaxflow.recording import complete_record
from jaxflow.solve.discrete.estimator_checks import as_estimator, choose_estimator, is_random
from jaxflow.solve.discrete.estimators import Estimator
from jaxflow.solve.discrete.optimizer_steps import IterationState, check_state, kept_key
from jaxflow.solve.metrics import check_metrics, complete_metric
from jaxflow.solve.trajectories.trajectory import as_parameters, identity

PyTree = Any
LARGE = 2**30  # bytes of recorded parameters above which a warning is due


class Settings(NamedTuple):
    """What is static about a run.

    `steps` is the number of steps, or the bound on one that is `open`: traced, or set by a condition. It is `None`
    where a traced number has no bound. `every` is `None` where only the two ends are recorded. `blind` says that
    nothing is looked at after the steps, as for a piece of a run that ends between two records.
    """

    steps: int | None
    every: int | None
    open: bool = False
    blind: bool = False

    @property
    def interval(self) -> int:
        """The number of steps between two records."""
        assert self.steps is not None
        return self.every or self.steps

    @property
    def intervals(self) -> int:
        """The number of records that follow the first."""
        assert self.steps is not None
        return -(-self.steps // self.interval)


class Inputs(NamedTuple):
    """What is traced of a run, as far as it is numbers: the values of an `IterationRequest`."""

    optimizer: Any
    objective: Any
    params: PyTree
    rate: Any
    estimator: Estimator
    key: jax.Array | None
    record: Any
    metrics: dict | None
    state: IterationState | None
    limit: Any


class IterationRequest(NamedTuple):
    """The arguments of `iterate`, which describes them, checked.

    `rest` is what of the model is not trained, `counted` says that the clock only counts steps, and `limit` is a
    traced number of steps. `estimator` may be a stream of batches.
    """

    settings: Settings
    optimizer: Any
    objective: Any
    params: PyTree
    rest: Rest | None
    rate: Any
    counted: bool
    estimator: Any
    key: jax.Array | None
    record: Any
    metrics: dict | None
    state: IterationState | None
    limit: Any

    @property
    def is_stream(self) -> bool:
        """Whether batches come from the host, one by one."""
        return not isinstance(self.estimator, Estimator)

    @property
    def inputs(self) -> Inputs:
        """What enters the compiled program as an argument."""
        return Inputs(**{name: getattr(self, name) for name in Inputs._fields})


def check_iteration(
    *,
    optimizer,
    objective,
    params,
    steps,
    max_steps,
    time_step,
    batch_size,
    estimator,
    key,
    every,
    record,
    metrics,
    state,
    trainable,
) -> IterationRequest:
    """A request of which everything is checked that can be."""
    optimizer = as_transformation(optimizer)
    if not callable(objective):
        raise TypeError(f"objective must be an Objective or a function of the parameters, got {objective!r}.")
    if metrics is not None:
        check_metrics(metrics)
    params, rest = split_model(params, trainable)
    if rest is not None:
        objective, record = complete(objective, rest), complete_record(record, rest)
        if metrics is not None:
            metrics = {name: complete_metric(metric, rest) for name, metric in metrics.items()}
    settings = _check_steps(steps, max_steps, every)
    params = as_parameters(params)
    warn_of_chunks(objective, params)
    rate = learning_rate_of(optimizer) if time_step is None else time_step
    counted = rate is None
    if state is not None:
        if not isinstance(state, IterationState):
            raise TypeError(f"state must be the state of an earlier run of iterate, got {state!r}.")
        check_state(state.optimizer, jax.eval_shape(optimizer.init, params), repr(optimizer))
        key = kept_key(state) if key is None else key
        state = state._replace(key=None)
    estimator = as_estimator(estimator)
    if key is None and is_random(objective):
        raise ValueError(
            "key must be a PRNG key such as jax.random.key(0) when losses draw random numbers, got None."
        )
    if estimator is None or isinstance(estimator, Estimator):
        if key is not None:
            _check.random_key(key)
        estimator = choose_estimator(estimator, batch_size, objective, key)
        if state is not None:
            drawn = jax.eval_shape(lambda key: estimator.build().init(objective, key), key)
            check_state(state.estimator, drawn, f"a run with {estimator!r}")
        if settings.steps is not None and record is None:
            _warn_if_large(params, 1 + settings.intervals)
    elif settings.open or batch_size is not None:
        raise ValueError(
            "batch_size must be left out for a stream of batches, which sets it, and steps must be a plain number."
        )
    return IterationRequest(
        settings=settings,
        optimizer=optimizer,
        objective=objective,
        params=params,
        rest=rest,
        rate=1.0 if rate is None else _check_time_step(rate),
        counted=counted,
        estimator=estimator,
        key=key,
        record=identity if record is None else record,
        metrics=metrics,
        state=state,
        limit=steps if settings.open else None,
    )


def _check_steps(steps, max_steps, every) -> Settings:
    """What is static about the number of steps, which is checked."""
    traced = isinstance(steps, jax.Array)
    if every is not None:
        _check.require_integer("every", every, 1)
        every = int(every)
    if max_steps is not None:
        _check.require_integer("max_steps", max_steps, 1)
        if not traced:
            raise ValueError(f"max_steps must be None unless steps is a traced number, got {max_steps!r}.")
    if not traced:
        _check.require_integer("steps", steps, 1)
        return Settings(int(steps), every)
    if every is not None and max_steps is None:
        raise ValueError(
            "every must be None when steps is a traced number without a bound max_steps, "
            f"got every={every!r}."
        )
    if steps.ndim or not jnp.issubdtype(steps.dtype, jnp.integer):
        raise TypeError(
            f"steps must be an integer, got an array of shape {steps.shape} and dtype {steps.dtype}."
        )
    return Settings(None if max_steps is None else int(max_steps), every, open=True)


def _check_time_step(time_step):
    if not callable(time_step):
        _check.require_nonnegative(time_step=time_step)
        if jnp.ndim(time_step):
            raise ValueError(
                f"time_step must be one number or a schedule, got shape {jnp.shape(time_step)}; "
                "a stack of optimizers goes through jax.vmap."
            )
    return time_step


def _warn_if_large(params: PyTree, records: int) -> None:
    size = records * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    if size > LARGE:
        warnings.warn(
            f"Recording the parameters {records} times takes {size / 2**30:.1f} GiB; "
            "keep less by record= or a larger every=.",
            stacklevel=4,
        )
