"""Discrete time: run an optimizer and keep what is asked for, on the clock t = k·learning_rate.

One compiled program holds all steps. The optimizer, objective, parameters and key are its arguments, so other
numbers of the same shapes compile nothing. Host-side streams of batches are in `discrete/host_batches.py`.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflow._compiled import compiled
from jaxflow._losses.models import Trainable
from jaxflow.dynamics.clock import step_times
from jaxflow.objective import Objective
from jaxflow.optim.updates import take_step
from jaxflow.recording import Recorder, Recording
from jaxflow.solve.discrete.estimator_checks import is_random
from jaxflow.solve.discrete.estimators import Draws, Estimator
from jaxflow.solve.discrete.host_batches import iterate_stream
from jaxflow.solve.discrete.iteration_pieces import iterate_in_pieces
from jaxflow.solve.discrete.iteration_request import Inputs, IterationRequest, Settings, check_iteration
from jaxflow.solve.discrete.loops import Carry, loop, loop_with_records, scan_steps
from jaxflow.solve.discrete.optimizer_steps import (
    IterationState,
    end_time,
    finish,
    keep_key,
    key_of_losses,
    start,
)
from jaxflow.solve.discrete.stopping import holds
from jaxflow.solve.discrete.watching import Watcher
from jaxflow.solve.trajectories.trajectory import (
    DIVERGED,
    MAX_STEPS,
    STOPPED,
    Trajectory,
    complete_run,
    identity,
)

PyTree = Any


def iterate(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    params: PyTree,
    *,
    steps: int | jax.Array,
    time_step: Any = None,
    batch_size: int | None = None,
    estimator: Estimator | Draws | Iterable[PyTree] | None = None,
    key: jax.Array | None = None,
    every: int | None = 1,
    record: Callable[[PyTree], PyTree] | Recording | Recorder | None = None,
    metrics: dict[str, Any] | None = None,
    max_steps: int | None = None,
    state: IterationState | None = None,
    trainable: Trainable = None,
    progress: bool = False,
    checkpoint: Any = None,
) -> Trajectory:
    r"""Run the optimizer, $\theta_{k+1} = \theta_k + u(g_k, \theta_k)$, and record the run every `every` steps.

    **Arguments**

    - `optimizer`: one of `jaxflow.optim`, any optax transformation (which is static: each object compiles once), or
      an `optax.MultiSteps`, each of whose mini-batches is a step.
      Its `update` is handed `value`, `grad`, `value_fn` and `grad_fn` of the step's loss, and the loss as `obj_fn`
      where it takes that (`optax.contrib.sophia`). They cost nothing unless they are used.
    - `objective`: an `Objective`, or any function `loss(params) -> scalar`.
    - `params`: the first iterate $\theta_0$, a pytree: a dictionary of arrays, an Equinox module, a flax state. Its
      real and complex arrays are trained. All other leaves (functions, integers, random keys), and variables of
      flax.nnx that are not a `Param`, are carried along untouched: the objective and `record` see them, and they
      are in the `params` of the result; `values` have `None` there.
    - `steps`: the number of steps, an integer (static). Or a JAX array of one integer, traced or not: then another
      number compiles nothing. That needs `every=None` or `max_steps`, and has no reverse mode.
    - `time_step`: the time that one step stands for, a number or a schedule. By default it is the optimizer's
      learning rate (its running sum under a schedule), also where that is inside chains, groups and masks. It is 1.0
      where no learning rate is found, and comparing with a flow then warns.
    - `batch_size`: the number of examples that each step draws independently, with replacement. Default: all data.
    - `estimator`: another way to draw them, from `jaxflow.solve`, or anything with a `draw` (see `solve.Draws`); or
      an iterable of batches on the host, for data that do not fit in memory (this does not work under `jit`).
    - `key`: the random key that mini-batches need; step k uses `fold_in(key, k)`.
    - `every`: the number of steps between two records (static). The last interval is shorter where `every` does not
      divide `steps`. `None` records only the two ends.
    - `record`: a function `record(params) -> pytree` of what to keep, or a `Recorder` such as
      `jaxflow.curvature.record_sharpness`, which sees the optimizer's state too. Default: the parameters.
    - `metrics`: a dict of functions `metric(step) -> pytree` by name, which are shown the step that led to each
      record, with its `params`, `state`, `loss`, `gradient`, `updates`, `last_updates` and `model`, the new `state`
      of an objective that has one. The loss and the gradient are those of the step's batch, at the parameters before
      it. At the first record these are NaN. Some stand ready in `jaxflow.solve.metrics`, where `at_stride` takes a
      costly one at a stride of its own. A `Recorder` is a metric too. The `metrics` of the result are their values
      by name, leaves (T, …).
    - `max_steps`: the largest number of steps where `steps` is traced (static), which fixes the number of records.
      Values at records that are not reached are NaN.
    - `state`: the `state` of an earlier trajectory. Given with that trajectory's `params`, the run goes on as if it
      had never been interrupted, with the same `key` unless another is given.
    - `trainable`: what of `params` is trained; all other leaves are carried along. `None`: every real and complex
      array, and every Python float. Or flags, `True` or `False`, in a pytree whose structure begins that of `params`.
      Or a function `trainable(path, leaf) -> bool` of a path such as `"layers/0/weight"`; it is called on the host,
      once for each leaf.
    - `progress`: whether to show a bar: steps per second, the loss of the last batch, the time left. The run is then
      some 50 calls of one program, which Ctrl-C ends: the result so far is returned, and its `message` says so.
    - `checkpoint`: a folder, in which the run is kept as it proceeds. The same call goes on after a kill, and its
      result is the same to the bit. A folder of another run is refused, with what differs.

    **Returns** a `Trajectory` whose first value is that of the given `params`. A run whose parameters are not finite
    at its end is marked as diverged, from the first record where that is seen.

    **Raises** `ValueError` or `TypeError` for `steps` or `every` < 1, a batch larger than the data without
    replacement, a missing key, mini-batches of an objective without data, an estimator whose `draw` takes or returns
    something other than in `solve.Draws`, parameters that are not floats, an optimizer whose `update` asks for
    arguments of its own, or a metric that is not a function, returns something other than numbers, or changes the
    shape of what it returns.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> run = jf.iterate(jf.optim.gd(0.5), lambda x: 0.5 * x @ x, jnp.ones(1), steps=4, every=2)
    >>> print(run.times, run.values[:, 0])
    [0. 1. 2.] [1.     0.25   0.0625]
    """
    request = check_iteration(
        optimizer=optimizer,
        objective=objective,
        params=params,
        steps=steps,
        max_steps=max_steps,
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
        run = iterate_stream(request, progress=progress, checkpoint=checkpoint)
    elif progress or checkpoint is not None:
        run = iterate_in_pieces(
            request, run=run_request, begin=_begin, progress=progress, checkpoint=checkpoint
        )
    else:
        run = run_request(request)
    return complete_run(run, request.rest, request.counted)


def _begin(request: IterationRequest) -> Trajectory:
    return _begin_run(inputs=request.inputs)


def run_request(request: IterationRequest, until: dict[str, Any] | None = None) -> Trajectory:
    """Run what was asked: all steps, or those `until` a condition holds."""
    return _iterate(settings=request.settings, inputs=request.inputs, until=until)


class _Setting(NamedTuple):
    """A run that has been set up inside a program: its first look is behind it."""

    advance: Callable[[Carry, Any], Carry]
    carry: Carry
    first: jax.Array
    time: jax.Array
    watcher: Watcher
    begun: PyTree
    memory: PyTree

    def state(self, carry: Carry, time: jax.Array, taken: Any, key: Any, memory: PyTree, seen: PyTree):
        """What the run goes on from."""
        watch = self.watcher.remember(memory, seen, self.watcher.hand_on(carry.step).updates)
        return IterationState(
            step=self.first + taken,
            time=time,
            optimizer=carry.step.state,
            estimator=carry.estimator,
            key=keep_key(key),
            watch=watch,
            model=carry.model,
        )


def _set_up(inputs: Inputs, conditions: bool) -> _Setting:
    optimizer, objective, params, key = inputs.optimizer, inputs.objective, inputs.params, inputs.key
    draws, state = inputs.estimator.build(), inputs.state
    if state is None:
        state = start(optimizer, params, draws.init(objective, key))
    watcher = Watcher(inputs.record, inputs.metrics, conditions)
    random = is_random(objective)

    def advance(carry: Carry, k) -> Carry:
        last, estimator_state, model = carry
        step_key = None if key is None else jax.random.fold_in(key, k)
        asked = objective
        if random and step_key is not None:
            asked = objective.with_key(key_of_losses(step_key))
        states = [model]
        if model is not None:
            asked, states = asked.carrying(model)
        loss, estimator_state = draws.draw(asked, estimator_state, k, step_key)
        if model is not None:
            loss(last.params)  # for the new state; the compiler does not do it again
        model = states[0]
        step = take_step(optimizer, last.params, last.state, loss, last_updates=last.updates)
        return Carry(watcher.keep(step._replace(model=model)), estimator_state, model)

    model = objective.state if state.model is None and isinstance(objective, Objective) else state.model
    take = lambda step: advance(Carry(step, state.estimator, model), state.step).step
    step, begun, memory = watcher.begin(params, state.optimizer, take, state.step, state.watch, model)
    return _Setting(
        advance=advance,
        carry=Carry(step, state.estimator, model),
        first=state.step,
        time=state.time,
        watcher=watcher,
        begun=begun,
        memory=memory,
    )


@compiled
def _begin_run(*, inputs: Inputs) -> Trajectory:
    """A run of no steps: its first record, and the state from which all pieces of it go on."""
    run = _set_up(inputs, conditions=False)
    none = jnp.zeros([], jnp.int32)
    final = run.state(run.carry, run.time, none, inputs.key, run.memory, run.begun)
    values, observed = jax.tree.map(lambda x: jnp.asarray(x)[None], run.begun)
    return finish(
        run.time[None], values, inputs.params, final, none, lambda: jnp.zeros(0, bool), observed=observed
    )


@compiled(static=("settings",))
def _iterate(*, settings: Settings, inputs: Inputs, until: dict[str, Any] | None) -> Trajectory:
    run, rate, limit = _set_up(inputs, conditions=until is not None), inputs.rate, inputs.limit
    first, begun, dtype = run.first, run.begun, run.time.dtype
    if settings.blind:
        run.watcher.close(begun)
    start_of, looks = (run.advance, run.carry, run.memory), {"first": first, "watcher": run.watcher}
    reached = None
    if settings.steps is None:
        ended, seen, bad = loop(*start_of, limit=limit, **looks)
        times = jnp.stack([run.time, end_time(rate, first, run.time, ended.taken)])
    elif settings.open:
        passed = jnp.asarray(step_times(rate, first, settings.steps, dtype=dtype))
        stop = lambda step, k: False if until is None else holds(until, step, k, passed[k])
        (ended, seen, bad), reached = loop_with_records(
            *start_of, limit=limit, settings=settings, holds=stop, **looks
        )
        times = run.time + passed[reached]
    else:
        ended, seen, bad = scan_steps(*start_of, settings=settings, kept=inputs.record is identity, **looks)
        ends = np.minimum(np.arange(settings.intervals + 1) * settings.interval, settings.steps)
        times = run.time + step_times(rate, first, settings.steps, ends, dtype)
    values, observed = jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), begun, seen)
    last = times.size - 1 if reached is None else jnp.searchsorted(reached, ended.taken)
    seen = jax.tree.map(lambda x: x[last], (values, observed))
    state = run.state(ended.carry, times[last], ended.taken, inputs.key, ended.memory, seen)
    params = ended.carry.step.params
    done = finish(times, values, params, state, ended.taken, bad, observed=observed, last=last)
    if reached is None:
        return done
    lacking = ~ended.met if until is not None else ended.taken < limit
    code = jnp.where(ended.met, STOPPED, jnp.where(lacking, MAX_STEPS, done.status))
    return dataclasses.replace(done, status=jnp.where(done.status == DIVERGED, DIVERGED, code))
