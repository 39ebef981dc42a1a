"""The largest sharpness at which an optimizer is stable, from the spectrum of its own linearised step.

There is no table. The step of any optimizer is linearised on one parameter with the gradient hθ, at θ = 0, and the
least curvature h is searched at which its spectral radius passes 1. The radius comes from squaring a small matrix
many times, not from an eigenvalue routine of the host, so that all is one compiled program, under `vmap` too.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from jaxflow import _check, optim
from jaxflow._compiled import compiled, transfers
from jaxflow.curvature.stability.linear_steps import (
    SECOND_MOMENTS,
    fields,
    largest_move,
    late_state,
    lengthen_counts,
    linear_step,
    matrix_optimizer,
    replace_leaves,
)
from jaxflow.curvature.stability.preconditioners import preconditioner_of
from jaxflow.optim.multi_steps import as_transformation, optimizer_of_updates
from jaxflow.optim.table import entry_of

PyTree = Any

LATE, LATE_SINGLE = 2_000_000_000, 10_000_000  # single precision counts no further one by one
MOST = 32  # numbers in a linearised state
LEAST, LARGEST = 1e-15, 1e18  # the sharpness searched, by POINTS at a time, STAGES times
POINTS, STAGES = 512, 6
SQUARINGS = 40
REASONS = {
    1: "its step has no finite derivative where the gradient vanishes",
    2: "its update does not shrink in proportion to a small gradient",
    3: "its update does not depend on a small gradient",
    4: f"its state has more than {MOST} numbers for one parameter",
}


def _unit(optimizer, state, period, dtype) -> jax.Array:
    """The preconditioner of a step from this state; the largest of a period's."""
    zero, moments = jnp.zeros((), dtype), fields(state, SECOND_MOMENTS, jnp.floating)

    def formula(_, carry):
        largest, now = carry
        after = linear_step(optimizer, zero, now, state, 1.0, 0.0)[1]
        return jnp.maximum(largest, jnp.asarray(preconditioner_of(optimizer, after), dtype)), after

    try:
        return lax.fori_loop(0, period, formula, (zero, state))[0]
    except ValueError:  # It hides its ε. The power of the second moment it divides by shows in its steps.
        if not any(moments):
            return jnp.ones((), dtype)

    def measure_move(factor):
        at = replace_leaves(state, moments, jax.tree.map(lambda x: factor * x, state))
        return abs(jax.jacfwd(lambda c: linear_step(optimizer, zero, at, at, 1.0, c)[0])(zero))

    before, after = measure_move(1.0), measure_move(4.0)
    power = jnp.log(before / jnp.where(after > 0, after, 1.0)) / jnp.log(4.0)
    power = jnp.where((before > 0) & (after > 0), jnp.round(6 * power) / 6, 0.5)
    leaves = jax.tree.leaves(linear_step(optimizer, zero, state, state, 1.0, 0.0)[1])
    largest = jnp.stack([leaf.max() for leaf, chosen in zip(leaves, moments, strict=True) if chosen]).max()
    return largest**power


def _log_radius(matrix: jax.Array) -> jax.Array:
    """The logarithm of the spectral radius, Gelfand's limit of |Mⁿ|^(1/n), by squaring; NaN where M is not finite."""

    def square(k, carry):
        matrix, log = carry
        size = jnp.abs(matrix).max()
        matrix = matrix / jnp.where(size > 0, size, 1.0)
        return jnp.matmul(matrix, matrix, precision="highest"), log + 0.5**k * jnp.log(size)

    start = matrix, jnp.zeros((), matrix.dtype)
    matrix, log = lax.fori_loop(0, SQUARINGS, square, start)
    return log + 0.5**SQUARINGS * jnp.log(jnp.abs(matrix).max())


def _linearise(optimizer, state, period, dtype) -> tuple[Callable[..., jax.Array], jax.Array]:
    """`map(z, h, tilt)`, the steps of a period on z = (θ, the state's floats, no second moments), and z at θ = 0."""
    leaves, structure = jax.tree.flatten(state)
    held = fields(state, SECOND_MOMENTS, jnp.floating)
    free = [jnp.issubdtype(leaf.dtype, jnp.floating) and not h for leaf, h in zip(leaves, held, strict=True)]
    floats = lambda state: [leaf for leaf, f in zip(jax.tree.leaves(state), free, strict=True) if f]
    pack = lambda params, state: ravel_pytree([params, *floats(state)])
    start, unravel = pack(jnp.zeros((), dtype), state)

    def steps(z, h, tilt):
        params, *moved = unravel(z)
        own = structure.unflatten(moved.pop(0) if f else leaf for leaf, f in zip(leaves, free, strict=True))
        step = lambda _, carry: linear_step(optimizer, carry[0], carry[1], state, h, tilt)
        return pack(*lax.fori_loop(0, period, step, (params, own)))[0]

    return steps, start


def _keep_coupled(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The matrix of the coordinates that θ acts on and that act on θ; and those that act on θ.

    Others, such as a sum of squares, have eigenvalues of their own, often 1, that tell nothing about θ.
    """
    reach = (matrix != 0) | jnp.eye(len(matrix), dtype=bool)
    for _ in range(len(matrix).bit_length()):
        reach = (reach[:, :, None] & reach[None, :, :]).any(1)
    both = reach[0] & reach[:, 0]
    return jnp.where(both[:, None] & both[None, :], matrix, 0.0), reach[0]


@jax.custom_jvp
def _forbid_derivative(threshold, numbers):
    """The threshold; the result of a search has no derivative, and a silent 0 would be wrong."""
    return threshold


@_forbid_derivative.defjvp
def _refuse_derivative(primals, tangents):
    raise TypeError("stability_threshold has no derivative, because it is found by a search.")


@compiled
def _threshold(optimizer, count, state, period):
    """The threshold and the key of the reason why there is none, 0 where there is one."""
    dtype = jnp.result_type(float)
    state = late_state(optimizer, count, dtype) if state is None else lengthen_counts(state, dtype)
    unit = _unit(optimizer, state, period, dtype)
    steps, start = _linearise(optimizer, state, period, dtype)
    slack, small, tolerance = (3e-5, 1e-6, 1e-3) if dtype == jnp.float32 else (1e-10, 1e-9, 1e-6)
    derivative = lambda x: jax.jacfwd(steps, (0, 2))(start, x * unit, jnp.zeros((), dtype))

    def narrow(stage, carry):
        low, high, ever, always, *_ = carry
        points = low * (high / low) ** jnp.linspace(0.0, 1.0, POINTS, dtype=dtype)
        matrices, tilted = jax.vmap(derivative)(jnp.append(points, LEAST))
        unstable = ~(jax.vmap(lambda matrix: _log_radius(_keep_coupled(matrix)[0]))(matrices[:-1]) <= slack)
        ever, always = jnp.where(stage == 0, unstable.any(), ever), jnp.where(stage == 0, unstable[0], always)
        first = jnp.where(unstable.any(), unstable.argmax(), POINTS - 1)
        # The second stage looks far below what the first, coarse one has found, for bands it has stepped over.
        low = jnp.where(stage == 0, points[first] / 100, points[jnp.maximum(first - 1, 0)])
        return low, points[first], ever, always, matrices[-1], tilted[-1]

    bounds, flag = jnp.asarray([LEAST, LARGEST], dtype), jnp.asarray(False)
    begin = (*bounds, flag, flag, jnp.zeros((start.size, start.size), dtype), start)
    low, high, ever, always, linear, tilted = lax.fori_loop(0, STAGES, narrow, begin)
    found = jnp.where(always, 0.0, jnp.where(ever, low + (high - low) / 2, jnp.inf))

    # Does the gradient act on θ, and is the step on θ as linear as it looks, as far as a small step sees?
    ends = jax.vmap(lambda d: steps(start.at[0].add(d), LEAST * unit, 0.0)[0])(
        small * jnp.arange(2, dtype=dtype)
    )
    error = abs((ends[1] - ends[0]) / small - linear[0, 0])
    joined, acting = _keep_coupled(linear)
    # Where a schedule has ended at 0 rounding is left of it, as XLA multiplies by the reciprocals of lengths.
    left = abs(tilted[0]) <= jnp.finfo(dtype).eps * largest_move(optimizer, state, dtype)
    acts = ((tilted != 0) & acting).any() & ~(left & (tilted[0] != 0))
    finite = jnp.isfinite(joined).all() & jnp.isfinite(unit)
    why = jnp.where(
        ~finite, 1, jnp.where(~(error <= tolerance * (1 + abs(linear[0, 0]))), 2, jnp.where(~acts, 3, 0))
    )
    numbers = [leaf for leaf in jax.tree.leaves((optimizer, state)) if isinstance(leaf, jax.Array)]
    numbers = [leaf for leaf in numbers if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return _forbid_derivative(jnp.where(why == 0, found, jnp.nan), numbers), why


def _period_of(optimizer: Any) -> Any:
    """The number of steps after which an optimizer, with all that is inside it, repeats itself."""
    if not isinstance(optimizer, optim.Optimizer):
        return 1
    entry, chosen = entry_of(optimizer), optim.hyperparameters(optimizer)
    parts = jax.tree.leaves(chosen, is_leaf=lambda part: isinstance(part, optim.Optimizer))
    period = chosen[entry.period] if entry is not None and isinstance(entry.period, str) else 1
    for part in parts:
        period = period * _period_of(part)
    return period


def _cast_to_double(tree: PyTree) -> PyTree:
    is_float = lambda leaf: hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) if is_float(leaf) else leaf, tree)


def _check_state(optimizer: optax.GradientTransformation, state: PyTree, expected: PyTree) -> PyTree:
    state = state.optimizer if hasattr(state, "estimator") else state  # of an IterationState
    _check.require_like("state", state, expected, f"be one of {optimizer!r} for one scalar parameter")
    return state


def stability_threshold(
    optimizer: optax.GradientTransformation, *, count: Any = None, state: PyTree = None, period: Any = None
) -> jax.Array:
    """The largest sharpness at which an optimizer is linearly stable near a minimum.

    On the loss hθ²/2 a step is, near θ = 0, a linear map of θ and the optimizer's averages. The threshold is the
    least h > 0 at which its spectral radius passes 1. For adaptive methods it is in units of the preconditioner
    P = `preconditioner_of(optimizer, state)`: second moments are held, so large that ε has no effect, and the
    threshold is to be compared with the largest eigenvalue of $P^{-1/2} H P^{-1/2}$ (Cohen et al. 2021, 2103.00065;
    adaptive: 2022, 2207.14484). Look-ahead gradients, weight decay and the members of a chain are all in the step.

    | gradient descent, `rmsprop`, `adagrad` | 2/η |
    |---|---|
    | heavy ball; as an average, Adam | 2(1+β)/η; 2(1+β)/((1−β)η), 38/η at β = .9 |
    | Nesterov, in both forms; NAdam | (2+2β)/((1+2β)η); (2+2β)/((1+2β)(1−β)η) |

    **Arguments**

    - `optimizer`: any optimizer, of optax too. For one that `preconditioner_of` does not know, P is the power of
      its state's second moment (a field such as `nu`, after the step) by which its steps are found to be divided.
      The step length that Prodigy and D-Adaptation estimate stays at its first value; `state=` takes it from a run.
      An optimizer that treats matrices differently from single numbers, such as Muon, is asked about a matrix of
      one entry. An `optax.MultiSteps` has the threshold of the optimizer inside, unless a `state` or `period` of
      its own is given.
    - `count` t: the threshold is that of step t = 1, 2, …, whose schedules have the value at t − 1;
      P is `preconditioner_of` the state after t steps. Default: a late step, t = 2·10⁹, when bias corrections and
      the motion of AdaBound's bounds are over. A schedule that has ended at 0 leaves no threshold then.
    - `state`: a state for one scalar parameter, whose next step is taken instead (SWATS after its switch).
    - `period`: the number of steps over which growth is counted. Default: that of `lookahead` where there is one,
      else 1.

    **Returns** a scalar in units of the Hessian (over P). It is `inf` where every h is stable (Newton's method of
    rate < 2), 0 where not even the smallest is, and NaN, with a warning that says why, where there is no such
    threshold: sign descent, Lion, Muon, normalised and gradient-free methods. Sharpness from 1e-15 to 1e18 is
    searched, in steps of 1 % below the threshold.

    A plain call is compiled, computes in float64 whether or not x64 is enabled, and is exact to 1e-9. Under `jit`
    and `vmap` (over hyperparameters, say) it has the precision of JAX's default float: 1e-4 in float32, where the
    late step is t = 10⁷. There is no warning then. It has no derivative.

    **Raises** `TypeError` when `optimizer` is not an optimizer or `count` or `period` is not an integer;
    `ValueError` for a `count` or `period` below 1, a stack of optimizers (`vmap` over it), a `count` above 2·10⁹, a
    `count` with a `state`, or a state that is not the optimizer's for a scalar.

    >>> import jaxflow as jf
    >>> print(jf.curvature.stability_threshold(jf.optim.momentum(0.1, 0.9)))
    38.0
    """
    alone = state is None and period is None
    optimizer = optimizer_of_updates(optimizer) if alone else as_transformation(optimizer)
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(optimizer) if hasattr(leaf, "shape")} - {()}
    if sizes:
        raise ValueError(
            f"optimizer must be a single one, got a stack of {min(sizes)[0]}, {optimizer!r}; "
            "use jax.vmap(stability_threshold)(optimizer)."
        )
    single = jax.ShapeDtypeStruct((), jnp.result_type(float))
    fresh = jax.eval_shape(optimizer.init, single)
    matrix = jax.eval_shape(optimizer.init, single.update(shape=(1, 1)))
    called = (
        optimizer.constructor.__name__ if isinstance(optimizer, optim.Optimizer) else "The optax optimizer"
    )
    if jax.tree.structure(matrix) != jax.tree.structure(fresh):
        optimizer, fresh = matrix_optimizer(optimizer), matrix
    if state is not None:
        if count is not None:
            raise ValueError(f"count must be None where a state, which has its own, is given, got {count!r}.")
        state = _check_state(optimizer, state, fresh)
    for name, value in (("count", count), ("period", period)):
        if value is not None:
            _check.require_count(name, value, 1)
    if (found := _check.values(count)) is not None:
        _check.require_each("count", found, found <= LATE, f"at most {LATE:,}")
    period = _period_of(optimizer) if period is None else period
    numbers = (optimizer, count, state, period)
    small = sum(x.size for x in jax.tree.leaves(fresh) if jnp.issubdtype(x.dtype, jnp.floating)) <= MOST
    # Under `jit` what is made anew is a tracer even where nothing that came in is one.
    with transfers():
        anew = jnp.zeros(())
    if any(isinstance(leaf, Tracer) for leaf in (*jax.tree.leaves(numbers), anew)):
        return _search(*numbers)[0] if small else jnp.full((), jnp.nan)
    with jax.enable_x64(True), transfers():
        threshold, why = _search(*_cast_to_double(numbers)) if small else (np.nan, 4)
    if isinstance(threshold, Tracer):  # an optax optimizer made of one
        return threshold.astype(jnp.result_type(float))
    if why:
        warnings.warn(f"{called} has no stability threshold: {REASONS[int(why)]}.", stacklevel=2)
    return jax.device_put(np.asarray(threshold, jnp.result_type(float)))


def _search(optimizer, count, state, period) -> tuple[Any, Any]:
    dtype = jnp.result_type(float)
    if count is None:
        count = LATE if dtype == jnp.float64 else LATE_SINGLE
    before, period = jnp.asarray(count, jnp.int32) - 1, jnp.asarray(period, jnp.int32)
    return _threshold(optimizer, before, state=state, period=period)
