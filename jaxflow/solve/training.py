"""A run of an optimizer that ends by a condition, not after a number of steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxflow import _check
from jaxflow._losses.models import Trainable
from jaxflow.recording import Recorder, Recording
from jaxflow.solve.discrete.estimators import Draws, Estimator
from jaxflow.solve.discrete.iteration_request import Settings, check_iteration
from jaxflow.solve.discrete.optimizer_steps import IterationState
from jaxflow.solve.discrete.stopping import check_until
from jaxflow.solve.iteration import run_request
from jaxflow.solve.trajectories.trajectory import Trajectory, complete_run

PyTree = Any


def train(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    params: PyTree,
    *,
    until: dict[str, Any],
    max_steps: int = 10_000,
    time_step: Any = None,
    batch_size: int | None = None,
    estimator: Estimator | Draws | None = None,
    key: jax.Array | None = None,
    every: int | None = None,
    record: Callable[[PyTree], PyTree] | Recording | Recorder | None = None,
    metrics: dict[str, Any] | None = None,
    state: IterationState | None = None,
    trainable: Trainable = None,
) -> Trajectory:
    r"""Run an optimizer until a condition holds: `iterate` without a given number of steps.

    **Arguments** are those of `iterate`, and

    - `until`: a dict of conditions, the first of which to hold ends the run. `"loss"`: the loss of a step is at most
      this number. `"gradient_norm"`: the 2-norm of its gradient is at most this number. `"time"`: this much time has
      passed on the clock of the run, since it began. `"gradients"`: this number of gradients was taken, one at each
      step. Loss and gradient are those of the step's batch, at the parameters before the step. The numbers may be
      traced.
    - `max_steps`: the largest number of steps (static), which also fixes the number of records.
    - `optimizer`, `objective`, `params`, `time_step`, `batch_size`, `estimator`, `key`, `every`, `record`, `metrics`,
      `state`, `trainable`: as in `iterate`, but batches do not come from a stream. By default only the two ends are
      recorded. Values at records that are not reached are NaN.

    **Returns** a `Trajectory`, which says by `message` whether a condition stopped it, it ran out of steps, or it
    diverged. It works under `jit` and `vmap`, and forward mode, but has no reverse mode.

    **Raises** what `iterate` does; `ValueError` or `TypeError` for a condition that is not one of those, or whose
    number is not positive (a loss may be).

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> run = jf.train(jf.optim.gd(0.5), lambda x: 0.5 * x @ x, jnp.ones(1), until={"loss": 0.01})
    >>> print(run.steps, run.params, run.message)
    4 [0.0625] stopped by the condition at t = 2
    """
    until = check_until(until)
    _check.require_integer("max_steps", max_steps, 1)
    request = check_iteration(
        optimizer=optimizer,
        objective=objective,
        params=params,
        steps=int(max_steps),
        max_steps=None,
        time_step=time_step,
        batch_size=batch_size,
        estimator=estimator,
        key=key,
        every=every,
        record=record,
        metrics=metrics,
        state=state,
        trainable=trainable,
    )
    if request.is_stream:
        raise TypeError(
            f"estimator must come from jaxflow.solve, got {estimator!r}; a stream goes to iterate."
        )
    settings = Settings(request.settings.steps, request.settings.every, open=True)
    limit = jnp.asarray(max_steps, jnp.int32)
    run = run_request(request._replace(settings=settings, limit=limit), until=until)
    return complete_run(run, request.rest, request.counted)
