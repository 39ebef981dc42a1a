"""Learning-rate schedules: pure functions of the step count k = 0, 1, 2, …, traceable in every parameter.

They are evaluated in the default float dtype (float64 under x64, whatever the dtype of the count), never
branch on a parameter's value, and take fractional lengths, so that a sweep over lengths is one compilation.
A length of 0, which is refused as a plain number, may arrive in such a sweep: that phase is then over at once.
A schedule can take the place of a learning rate anywhere, in optax too.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow import _check
from jaxflow._compiled import compiled, is_tracing
from jaxflow._traceable import Bound, kind, traceable


@kind(callable)
class Schedule(Bound):
    """A function `schedule(count) -> value` of the step count 0, 1, …, as a pytree of its parameters.

    `count` may be an integer or float array of any shape; the value has its shape and the default float dtype.

    >>> import jaxflow as jf
    >>> jf.optim.inverse_sqrt(0.1)
    inverse_sqrt(value=0.1)
    >>> print(jf.optim.inverse_sqrt(0.1)(3))
    0.05
    """

    def __call__(self, count: Any) -> jax.Array:
        count = jnp.asarray(count, float)
        if not is_tracing():
            return _evaluate(self, count)
        with self.refuse_branches("the step count"):
            return self.build()(count)


@compiled
def _evaluate(schedule: Schedule, count: jax.Array) -> jax.Array:
    return schedule(count)


def value_at(rate: Any, count: Any) -> Any:
    """The value of a learning rate that may be a schedule."""
    return rate(count) if callable(rate) else rate


def check_rate(rate: Any, name: str = "learning_rate") -> None:
    """Refuse a learning rate given as a negative, infinite or NaN number, or as anything that is not a number."""
    if not callable(rate):
        _check.require_nonnegative(**{name: rate})


def _nonzero_divisor(number: Any) -> jax.Array:
    """A divisor: 1 where `number` is 0 or negative, which only a traced one can be."""
    return jnp.where(jnp.asarray(number) > 0, number, 1.0)


def _ramp(elapsed: jax.Array, length: Any) -> jax.Array:
    """The elapsed share of a phase, in [0, 1]; a phase of no length is over when it begins."""
    share = jnp.clip(elapsed / _nonzero_divisor(length), 0.0, 1.0)
    return jnp.where(jnp.asarray(length) > 0, share, (elapsed >= 0).astype(share.dtype))


@traceable
def constant(value):
    """The same value at every step.

    **Arguments**

    - `value`: a number at least 0.

    **Returns** a `Schedule`.

    **Raises** `ValueError` for a negative value; `TypeError` for one that is not a number.

    >>> print(constant(0.5)(10))
    0.5
    """
    _check.require_nonnegative(value=value)
    return lambda k: jnp.broadcast_to(jnp.asarray(value, k.dtype), k.shape)


@traceable
def inverse_sqrt(value):
    r"""$\eta / \sqrt{k + 1}$: the rate of online convex optimization (Zinkevich 2003).

    **Arguments**

    - `value` η: the rate at k = 0, a number at least 0.

    **Returns** a `Schedule`.

    **Raises** `ValueError` for a negative value; `TypeError` for one that is not a number.

    >>> print(inverse_sqrt(1.0)(8))
    0.333...
    """
    _check.require_nonnegative(value=value)
    return lambda k: value / jnp.sqrt(k + 1)


@traceable
def warmup(peak, steps, start=0.0):
    """Linear from `start` at k = 0 to `peak` at k = `steps`, then constant (Goyal et al. 2017, 1706.02677).

    **Arguments**

    - `peak`: a number at least 0; or a schedule, which then begins at k = `steps`, counting from 0.
    - `steps`: the length of the rise, a number above 0.
    - `start`: the value at k = 0, a number at least 0.

    **Returns** a `Schedule`.

    **Raises** `ValueError` for a negative `peak` or `start`, or `steps` ≤ 0; `TypeError` for one that is not a
    number.

    >>> print(warmup(1.0, 4)(1), warmup(1.0, 4)(9))
    0.25 1.0
    """
    check_rate(peak, "peak")
    _check.require_positive(steps=steps)
    _check.require_nonnegative(start=start)

    def schedule(k):
        top = value_at(peak, jnp.maximum(k - steps, 0.0))
        return start + (top - start) * _ramp(k, steps)

    return schedule


@traceable
def triangular(low, high, half_period):
    r"""Cyclical learning rate (Smith 2017, 1506.01186): from `low` up to `high` and back in 2·`half_period` steps.

    With s = `half_period`: $c = \lfloor 1 + k/2s \rfloor$, $x = |k/s - 2c + 1|$,
    $\eta_k = low + (high - low)\max(0, 1 - x)$.

    **Arguments**

    - `low`, `high`: the ends of the range, numbers at least 0.
    - `half_period` s: the number of steps from `low` to `high`, above 0.

    **Returns** a `Schedule`.

    **Raises** `ValueError` for a negative `low` or `high`, or `half_period` ≤ 0; `TypeError` for one that is not a
    number.

    >>> print(triangular(0.0, 1.0, 4)(jnp.arange(9)))
    [0.   0.25 0.5  0.75 1.   0.75 0.5  0.25 0.  ]
    """
    _check.require_nonnegative(low=low, high=high)
    _check.require_positive(half_period=half_period)

    def schedule(k):
        share = k / _nonzero_divisor(half_period)
        x = jnp.abs(share - 2 * jnp.floor(1 + share / 2) + 1)
        # A cycle of no length is always at its end.
        return low + (high - low) * jnp.where(jnp.asarray(half_period) > 0, jnp.maximum(0.0, 1 - x), 0.0)

    return schedule


@traceable
def sgdr(high, period, growth=1.0, low=0.0):
    r"""Cosine annealing with warm restarts, without an end (Loshchilov & Hutter 2017, 1608.03983).

    Cycle n has length $T_0 m^n$; within a cycle $\eta = low + \frac12 (high - low)(1 + \cos(\pi\, p))$ with p the
    elapsed fraction of the cycle.

    **Arguments**

    - `high`: the value at the start of a cycle, a number at least 0.
    - `period` $T_0$: the number of steps of the first cycle, above 0.
    - `growth` m: how many times as long the next cycle is, a number at least 1.
    - `low`: the value at the end of a cycle, a number at least 0.

    **Returns** a `Schedule`.

    **Raises** `ValueError` for a negative `high` or `low`, `period` ≤ 0 or `growth` < 1; `TypeError` for one that
    is not a number.

    >>> print(sgdr(1.0, 4)(jnp.arange(5)).round(3))
    [1.    0.854 0.5   0.146 1.   ]
    """
    _check.require_nonnegative(high=high, low=low)
    _check.require_positive(period=period)
    if _check.is_concrete(growth):
        _check.require("growth", growth, growth >= 1, "at least 1")

    def schedule(k):
        begin, length = _cycle(k, _nonzero_divisor(period), jnp.maximum(jnp.asarray(growth, k.dtype), 1.0))
        share = jnp.where(jnp.asarray(period) > 0, jnp.clip((k - begin) / length, 0.0, 1.0), 0.0)
        return low + (high - low) * 0.5 * (1 + jnp.cos(jnp.pi * share))

    return schedule


def _cycle(k: jax.Array, period: jax.Array, growth: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the cycle that holds step k begins, $T_0 (m^n - 1)/(m - 1)$, and its length $T_0 m^n$.

    A logarithm guesses the index n to within one. The begins are sums and products of positive numbers, which are
    exact for integers, so they decide.
    """
    excess = jnp.where(growth > 1, growth - 1, 1.0)
    guess = jnp.where(growth > 1, jnp.log1p(k * excess / period) / jnp.log1p(excess), k / period)
    total, power = _geometric_sum(lax.stop_gradient(guess).astype(jnp.int32), growth)
    begin, length = period * total, period * power
    # A restart between two steps is due at the later one; one that is a step up to rounding is due at that step.
    slack = jnp.minimum(0.25, 8 * jnp.finfo(k.dtype).eps * k)
    late, early = k < begin - slack, k >= begin + length - slack
    shift = jnp.where(late, 1 / growth, jnp.where(early, growth, 1.0))
    start = jnp.where(late, begin - length / growth, jnp.where(early, begin + length, begin))
    return start, length * shift


def _geometric_sum(n: jax.Array, m: jax.Array) -> tuple[jax.Array, jax.Array]:
    """$1 + m + … + m^{n-1}$ and $m^n$, by doubling, for any n below 2³¹; exact for integers that the dtype holds."""

    def double(i, carry):
        total, power = carry
        odd = (n >> (30 - i)) & 1 == 1
        total, power = total * (1 + power), power * power
        return jnp.where(odd, total * m + 1, total), jnp.where(odd, power * m, power)

    zero = jnp.zeros(n.shape, m.dtype)
    return lax.fori_loop(0, 31, double, (zero, zero + 1), unroll=True)


def _one_cycle_phases(k, steps, warm_fraction):
    """Fractions, in [0, 1], of the rising and of the falling phase, whose ends are placed as in PyTorch."""
    top = jnp.maximum(warm_fraction * steps - 1, 0.0)
    return _ramp(k, top), jnp.where(k > top, _ramp(k - top, steps - 1 - top), 0.0)


def _cosine(start, end, fraction):
    return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * fraction))


def _check_one_cycle(steps, warm_fraction):
    if _check.is_concrete(warm_fraction):
        _check.require("warm_fraction", warm_fraction, 0 < warm_fraction < 1, "between 0 and 1")
        if _check.is_concrete(steps):
            rule = f"large enough that warm_fraction * steps > 1 (here {warm_fraction * steps:g})"
            _check.require("steps", steps, warm_fraction * steps > 1, rule)


@traceable
def one_cycle(peak, steps, start_factor=25.0, final_factor=1e4, warm_fraction=0.3):
    """One-cycle learning rate (Smith & Topin 2018, 1708.07120): cosine up to the peak, cosine down to almost 0.

    It goes from `peak/start_factor` at k = 0 to `peak` at k = `warm_fraction*steps` − 1, down to
    `peak/(start_factor*final_factor)` at k = `steps` − 1, and is constant after. The ends are placed as in PyTorch
    (optax's `cosine_onecycle_schedule` reaches them one step later). `one_cycle_momentum` is its partner.

    **Arguments**

    - `peak`: a number at least 0.
    - `steps`: the number of steps of the cycle, above 0.
    - `start_factor`, `final_factor`: the divisors of the start and of the end, numbers above 0.
    - `warm_fraction`: the share of the rising phase, between 0 and 1.

    **Returns** a `Schedule`.

    **Raises** `ValueError` for a number out of range, or `warm_fraction*steps` ≤ 1; `TypeError` for one that is not
    a number.

    >>> print(one_cycle(1.0, 100)(jnp.array([0, 29, 99])))
    [4.e-02 1.e+00 4.e-06]
    """
    _check.require_nonnegative(peak=peak)
    _check.require_positive(steps=steps, start_factor=start_factor, final_factor=final_factor)
    _check_one_cycle(steps, warm_fraction)

    def schedule(k):
        rising, falling = _one_cycle_phases(k, steps, warm_fraction)
        start = peak / _nonzero_divisor(start_factor)
        end = start / _nonzero_divisor(final_factor)
        return jnp.where(falling > 0, _cosine(peak, end, falling), _cosine(start, peak, rising))

    return schedule


@traceable
def one_cycle_momentum(steps, low=0.85, high=0.95, warm_fraction=0.3):
    """The momentum of one-cycle training, opposite to the learning rate: high, low at its peak, high.

    Give it as `beta` to `momentum` or `nesterov`, with the same `steps` and `warm_fraction` as `one_cycle`
    (Smith & Topin 2018, 1708.07120).

    **Arguments**

    - `steps`: the number of steps of the cycle, above 0.
    - `low`, `high`: the ends of the range, numbers at least 0.
    - `warm_fraction`: the share of the falling phase, between 0 and 1.

    **Returns** a `Schedule`.

    **Raises** `ValueError` for a number out of range, or `warm_fraction*steps` ≤ 1; `TypeError` for one that is not
    a number.

    >>> print(one_cycle_momentum(100, low=0.5, high=1.0)(jnp.array([0, 29, 99])))
    [1.  0.5 1. ]
    """
    _check.require_nonnegative(low=low, high=high)
    _check.require_positive(steps=steps)
    _check_one_cycle(steps, warm_fraction)

    def schedule(k):
        rising, falling = _one_cycle_phases(k, steps, warm_fraction)
        return jnp.where(falling > 0, _cosine(low, high, falling), _cosine(high, low, rising))

    return schedule
