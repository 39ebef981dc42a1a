"""Discrete time: run an optimizer and keep what is asked for, on the clock t = k·learning_rate.

One compiled program holds all steps. The optimizer, objective, parameters and key are its arguments, so other
numbers of the same shapes compile nothing. Host-side streams of batches are in `host_batches.py`.
"""

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._models import Trainable, split_model
from jaxflow.dynamics.clock import step_times
from jaxflow.objective import complete
from jaxflow.optim import learning_rate_of
from jaxflow.optim.updates import advance
from jaxflow.recording import Recorder, Recording, as_recorder, complete_record
from jaxflow.solve.estimator_checks import as_estimator, check_data, draws_at_random
from jaxflow.solve.estimators import Draws, Estimator, full_batch, with_replacement
from jaxflow.solve.host_batches import iterate_stream
from jaxflow.solve.optimizer_steps import IterationState, check_state, end_time, finish, start
from jaxflow.solve.trajectory import Trajectory, as_parameters, complete_run, identity, is_finite

PyTree = Any
EVERYTHING = full_batch()
LARGE = 2**30  # bytes of recorded parameters above which a warning is due


class Settings(NamedTuple):
    """What is static about a run; `steps` is `None` where it is traced, `every` is `None` for the two ends only."""

    steps: int | None
    every: int | None


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
    state: IterationState | None = None,
    trainable: Trainable = None,
) -> Trajectory:
    r"""Run the optimizer, $\theta_{k+1} = \theta_k + u(g_k, \theta_k)$, and record the run every `every` steps.

    **Arguments**

    - `optimizer`: one of `jaxflow.optim`, or any optax transformation (which is static: each object compiles once).
      Its `update` is handed `value`, `grad`, `value_fn` and `grad_fn` of the step's loss, which cost nothing unless
      they are used.
    - `objective`: an `Objective`, or any function `loss(params) -> scalar`.
    - `params`: the first iterate $\theta_0$, a pytree: a dictionary of arrays, an Equinox module, a flax state. Its
      real and complex arrays are trained. All other leaves (functions, integers, random keys) are carried along
      untouched: the objective and `record` see them, and they are in the `params` of the result; `values` have `None`
      there.
    - `steps`: the number of steps. A traced integer is allowed with `every=None` (then without reverse mode).
    - `time_step`: the time that one step stands for, a number or a schedule. By default it is the optimizer's
      learning rate (its running sum under a schedule), also where that is inside chains, groups and masks. It is 1.0
      where no learning rate is found, and comparing with a flow then warns.
    - `batch_size`: the number of examples that each step draws independently, with replacement. Default: all data.
    - `estimator`: another way to draw them, from `jaxflow.solve`, or anything with a `draw` (see `solve.Draws`); or
      an iterable of batches on the host, for data that do not fit in memory (this does not work under `jit`).
    - `key`: the random key that mini-batches need; step k uses `fold_in(key, k)`.
    - `every`: the number of steps between two records. The last interval is shorter where it does not divide `steps`.
      `None` records only the two ends.
    - `record`: a function `record(params) -> pytree` of what to keep, or a `Recorder` such as
      `jaxflow.curvature.record_sharpness`, which sees the optimizer's state too. Default: the parameters.
    - `state`: the `state` of an earlier trajectory. Given with that trajectory's `params`, the run goes on as if it
      had never been interrupted.
    - `trainable`: what of `params` is trained; all other leaves are carried along. `None`: every real and complex
      array. Or flags, `True` or `False`, in a pytree whose structure begins that of `params`. Or a function
      `trainable(path, leaf) -> bool` of a path such as `"layers/0/weight"`; it is called on the host, once for each
      leaf.

    **Returns** a `Trajectory` whose first value is that of the given `params`. A run whose parameters are not finite
    at its end is marked as diverged, from the first record where that is seen.

    **Raises** `ValueError` or `TypeError` for `steps` or `every` < 1, a batch larger than the data without
    replacement, a missing key, mini-batches of an objective without data, parameters that are not floats, or an
    optimizer whose `update` asks for arguments of its own.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> run = jf.iterate(jf.optim.gd(0.5), lambda x: 0.5 * x @ x, jnp.ones(1), steps=4, every=2)
    >>> print(run.times, run.values[:, 0])
    [0. 1. 2.] [1.     0.25   0.0625]
    """
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.gradient_transformation()
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be an optax transformation, got {optimizer!r}.")
    if not callable(objective):
        raise TypeError(f"objective must be an Objective or a function of the parameters, got {objective!r}.")
    params, rest = split_model(params, trainable)
    if rest is not None:
        objective, record = complete(objective, rest), complete_record(record, rest)
    traced = isinstance(steps, jax.Array)
    if traced:
        if every is not None:
            raise ValueError(f"every must be None when steps is a traced number, got {every!r}.")
        if steps.ndim or not jnp.issubdtype(steps.dtype, jnp.integer):
            raise TypeError(
                f"steps must be an integer, got an array of shape {steps.shape} and dtype {steps.dtype}."
            )
    else:
        _check.require_integer("steps", steps, 1)
        if every is not None:
            _check.require_integer("every", every, 1)
    params = as_parameters(params)
    record = identity if record is None else record
    rate = learning_rate_of(optimizer) if time_step is None else time_step
    counted = rate is None
    rate = 1.0 if counted else _check_time_step(rate)
    estimator = as_estimator(estimator)
    if state is not None:
        if not isinstance(state, IterationState):
            raise TypeError(f"state must be the state of an earlier run of iterate, got {state!r}.")
        check_state(state.optimizer, jax.eval_shape(optimizer.init, params), repr(optimizer))
    if estimator is not None and not isinstance(estimator, Estimator):
        if traced or batch_size is not None:
            raise ValueError(
                "A stream of batches sets the batch size itself and needs a concrete number of steps."
            )
        run = iterate_stream(
            optimizer=optimizer,
            objective=objective,
            params=params,
            steps=steps,
            rate=rate,
            batches=estimator,
            every=every or steps,
            record=record,
            state=state,
        )
        return complete_run(run, rest, counted)
    if key is not None:
        _check.random_key(key)
    estimator = _estimator(estimator, batch_size, objective, key)
    if state is not None:
        drawn = jax.eval_shape(lambda key: estimator.build().init(objective, key), key)
        check_state(state.estimator, drawn, f"a run with {estimator!r}")
    if not traced and record is identity:
        _warn_if_large(params, 1 + -(-steps // (every or steps)))
    settings = Settings(None if traced else int(steps), None if every is None else int(every))
    run = _iterate(
        settings=settings,
        optimizer=optimizer,
        objective=objective,
        params=params,
        rate=rate,
        estimator=estimator,
        key=key,
        record=record,
        state=state,
        traced_steps=steps if traced else None,
    )
    return complete_run(run, rest, counted)


def _check_time_step(time_step):
    if not callable(time_step):
        _check.require_nonnegative(time_step=time_step)
        if jnp.ndim(time_step):
            raise ValueError(
                f"time_step must be one number or a schedule, got shape {jnp.shape(time_step)}; "
                "a stack of optimizers goes through jax.vmap."
            )
    return time_step


def _estimator(estimator, batch_size, objective, key) -> Estimator:
    if estimator is not None and batch_size is not None:
        raise ValueError(f"Give either estimator or batch_size, got both (batch_size={batch_size!r}).")
    if estimator is None:
        if batch_size is None:
            return EVERYTHING
        estimator = with_replacement(batch_size)
    draws = check_data(estimator, objective)
    if draws.batch_size is not None and key is None and draws_at_random(draws, objective):
        raise ValueError(
            "key must be a PRNG key such as jax.random.key(0) when mini-batches are drawn, got None."
        )
    return estimator


def _warn_if_large(params: PyTree, records: int) -> None:
    size = records * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    if size > LARGE:
        warnings.warn(
            f"Recording the parameters {records} times takes {size / 2**30:.1f} GiB; "
            "keep less by record= or a larger every=.",
            stacklevel=3,
        )


@compiled(static=("settings",))
def _iterate(*, settings, optimizer, objective, params, rate, estimator, key, record, state, traced_steps):
    draws = estimator.build()
    if state is None:
        state = start(optimizer, params, draws.init(objective, key))
    first = state.step

    def step(carry, k):
        params, optimizer_state, estimator_state = carry
        step_key = None if key is None else jax.random.fold_in(key, k)
        loss, estimator_state = draws.draw(objective, estimator_state, k, step_key)
        params, optimizer_state = advance(optimizer, params, optimizer_state, loss)
        return (params, optimizer_state, estimator_state), None

    carry = (params, state.optimizer, state.estimator)
    recorder = as_recorder(record)
    value, memory = recorder.look(recorder.begin(*carry[:2]), *carry[:2])
    if settings.steps is None:
        carry, records, bad = _loop(step, carry, first, traced_steps, recorder, memory)
        steps = jnp.asarray(traced_steps, jnp.int32)
        times = jnp.stack([state.time, end_time(rate, first, state.time, steps)])
    else:
        steps = settings.steps
        every, kept = settings.every or steps, record is identity
        carry, records, bad = _scan(step, carry, first, steps, every, recorder, memory, kept)
        ends = np.minimum(np.arange(records_of(settings) + 1) * every, steps)
        times = state.time + step_times(rate, first, steps, ends, state.time.dtype)
    values = jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), value, records)
    total = first + jnp.asarray(steps, jnp.int32)
    final = IterationState(total, times[-1], carry[1], carry[2])
    return finish(times, values, carry[0], final, total - first, bad)


def records_of(settings: Settings) -> int:
    """The number of records that follow the first."""
    assert settings.steps is not None
    return 1 if settings.every is None else -(-settings.steps // settings.every)


def _scan(step, carry, first, steps: int, every: int, recorder, memory, kept: bool):
    """All steps, as a scan over records of scans over steps: the records, and a function that tells the bad ones.

    Parameters that are `kept` can be examined afterwards, all at once, which spares the loop the work.
    """

    def interval(length):
        def run(carry, begin):
            carry, memory = carry
            if length == 1:
                carry, _ = step(carry, begin)
            else:
                carry, _ = lax.scan(step, carry, begin + jnp.arange(length, dtype=jnp.int32))
            value, memory = recorder.look(memory, *carry[:2])
            return (carry, memory), value if kept else (value, ~is_finite(carry[0]))

        return run

    whole, rest = divmod(steps, every)
    begins = first + jnp.arange(whole, dtype=jnp.int32) * every
    carry, seen = lax.scan(interval(every), (carry, memory), begins)
    if rest:
        carry, last = interval(rest)(carry, first + whole * every)
        seen = jax.tree.map(lambda a, b: jnp.concatenate([a, jnp.asarray(b)[None]]), seen, last)
    if kept:
        return carry[0], seen, lambda: ~jax.vmap(is_finite)(seen)
    records, bad = seen
    return carry[0], records, lambda: bad


def _loop(step, carry, first, steps, recorder, memory):
    """A traced number of steps, of which only the end is recorded."""
    carry = lax.fori_loop(0, jnp.asarray(steps, jnp.int32), lambda k, c: step(c, first + k)[0], carry)
    records = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], recorder.look(memory, *carry[:2])[0])
    return carry, records, lambda: jnp.ones(1, bool)
