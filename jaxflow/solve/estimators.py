"""Where the gradient of a step comes from: all data, independent mini-batches, shuffled epochs, SVAG.

An estimator draws, at every step, the loss whose gradient is taken. Independent draws are the default for
mini-batches because the SDEs describe those; epoch shuffling is another process (its noise averages out over
an epoch) and therefore an explicit choice.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow import _check
from jaxflow._traceable import Bound, kind, traceable
from jaxflow.objective import require_data

PyTree = Any
Loss = Callable[[PyTree], jax.Array]


class Draws(NamedTuple):
    """What the body of an estimator returns.

    - `draw(objective, state, step, key) -> (loss, state)`: the loss of this step, with `key` its own.
    - `init(objective, key) -> state`: what is carried from step to step.
    - `batch_size`: examples per gradient; `None` for all, and then no key is needed.
    - `distinct`: whether a batch holds each example at most once, so that it cannot exceed the data.
    """

    draw: Callable[[Any, PyTree, jax.Array, jax.Array], tuple[Loss, PyTree]]
    init: Callable[[Any, jax.Array], PyTree] = lambda objective, key: ()
    batch_size: int | None = None
    distinct: bool = False


@kind(lambda result: isinstance(result, Draws))
class Estimator(Bound):
    """A way to estimate the gradient; a user's own is a traceable constructor that returns `Draws`."""


def check_data(estimator: Estimator, objective: Any) -> Draws:
    """Refuse an estimator the objective cannot feed."""
    draws = estimator.build()
    if draws.batch_size is not None:
        size = require_data(objective, "Mini-batches")
        if draws.distinct and draws.batch_size > size:
            rule = f"at most the number of examples, {size}, when drawn without replacement"
            raise ValueError(f"batch_size must be {rule}, got {draws.batch_size}.")
    return draws


@traceable
def full_batch() -> Draws:
    """The gradient of the whole objective, at every step."""
    return Draws(lambda objective, state, step, key: (objective, state))


@traceable
def with_replacement(batch_size: int) -> Draws:
    """B examples drawn independently, uniformly: gradient covariance Σ/B exactly. What `batch_size=` means.

    Raises `ValueError` or `TypeError` unless `batch_size` is an integer at least 1.
    """
    _check.integer("batch_size", batch_size, 1)

    def draw(objective, state, step, key):
        indices = jax.random.randint(key, (batch_size,), 0, objective.size)
        return (lambda params: objective.minibatch(params, indices)), state

    return Draws(draw, batch_size=batch_size)


@traceable
def masked_draws(batch_size, largest: int) -> Draws:
    r"""`with_replacement(B)` whose B may be traced: a number that a sweep maps over with `vmap`.

    Every step draws `largest` indices and weighs their losses by $w_j = 1/B$ for $j < B$, else 0. The first B
    indices are those of `with_replacement(B)` with the same key (JAX's default random numbers), so the runs
    agree up to rounding.

    - `batch_size` B: a number, traced or not. No derivative passes through it: that is 0.
    - `largest` (static): the largest B that will come.

    A step costs `largest` examples whatever B. So n sizes in one program take ρ = $n \max B_i / \sum B_i$
    times the examples of a program for each, and about that times their running time (1.2 to 2.2 for ρ from
    1.3 to 2.3 on a CPU), but n − 1 compilations fewer, of some 0.7 s each. Masked is cheaper while the static
    runs would together take less than $0.7\,\frac{n-1}{\rho-1}$ s, which for the sizes 8, 32, 128 is about
    one second.

    Raises `ValueError` or `TypeError` unless `batch_size` is an integer from 1 to `largest`, itself an
    integer at least 1. A traced one that is not cannot be refused: its gradients are NaN, so that the run
    diverges.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 0.0, 4.0]))
    >>> run = lambda size: jf.iterate(jf.optim.gd(0.4), objective, 0.0, steps=10_000, key=jax.random.key(0),
    ...                               estimator=jf.solve.masked_draws(size, largest=16))
    >>> print(jax.vmap(run)(jnp.array([1, 4, 16])).values.std(axis=1).round(1))  # falls as 1/√B
    [1.1 0.5 0.3]
    """
    _check.integer("largest", largest, 1)
    if callable(batch_size):
        raise TypeError(f"batch_size must be a number, got {batch_size!r}.")
    _check.positive(batch_size=batch_size)
    if jnp.shape(batch_size):
        shape = jnp.shape(batch_size)
        raise ValueError(f"batch_size must be one number, got shape {shape}; a stack goes through jax.vmap.")
    if _check.is_concrete(batch_size):
        allowed = batch_size % 1 == 0 and 1 <= batch_size <= largest
        _check.require("batch_size", batch_size, allowed, f"an integer from 1 to largest = {largest}")

    def draw(objective, state, step, key):
        size = lax.stop_gradient(jnp.asarray(batch_size, float))
        taken = jnp.arange(largest, dtype=size.dtype) < size
        indices = jax.random.randint(key, (largest,), 0, objective.size)
        # The others repeat an example of the batch: one outside it whose loss overflows would give 0·∞.
        indices = jnp.where(taken, indices, indices[0])
        allowed = (size >= 1) & (size <= largest) & (size == jnp.round(size))
        weights = jnp.where(allowed, jnp.where(taken, 1 / size, 0), jnp.nan)
        return (lambda params: objective.minibatch(params, indices, weights)), state

    return Draws(draw, batch_size=largest)


@traceable
def without_replacement(batch_size: int) -> Draws:
    r"""B distinct examples, a fresh draw at every step: covariance $\frac{1}{B}\frac{N-B}{N-1}\Sigma$.

    Raises `ValueError` or `TypeError` unless `batch_size` is an integer from 1 to N.
    """
    _check.integer("batch_size", batch_size, 1)

    def draw(objective, state, step, key):
        indices = jax.random.choice(key, objective.size, (batch_size,), replace=False)
        return (lambda params: objective.minibatch(params, indices)), state

    return Draws(draw, batch_size=batch_size, distinct=True)


@traceable
def epochs(batch_size: int) -> Draws:
    """Passes over the data in a new random order each; the last N mod B examples of a pass are left out.

    Consecutive batches are dependent: no SDE of this library describes this process. Raises `ValueError` or
    `TypeError` unless `batch_size` is an integer from 1 to N.
    """
    _check.integer("batch_size", batch_size, 1)

    def order(objective, key, epoch):
        return jax.random.permutation(jax.random.fold_in(key, epoch), objective.size)

    def init(objective, key):
        return key, order(objective, key, 0)

    def draw(objective, state, step, key):
        root_key, permutation = state
        per_epoch = objective.size // batch_size
        place = step % per_epoch
        permutation = lax.cond(
            (place == 0) & (step > 0),
            lambda: order(objective, root_key, step // per_epoch),
            lambda: permutation,
        )
        indices = lax.dynamic_slice_in_dim(permutation, place * batch_size, batch_size)
        return (lambda params: objective.minibatch(params, indices)), (root_key, permutation)

    return Draws(draw, init, batch_size=batch_size, distinct=True)


@traceable
def svag(batch_size: int, l) -> Draws:
    r"""SVAG (Li, Malladi & Arora 2021, 2102.12470): two batches whose difference amplifies the noise.

    The gradient is $\frac{1+r}{2} g_{B_1} + \frac{1-r}{2} g_{B_2}$ with $r = \sqrt{2l-1}$ and independent
    batches of size B, drawn with replacement. Run it at learning rate η/l: each step then advances the clock by
    η/l, and as l → ∞ the iterates approach SGD's first-order SDE *at η*; l = 1 is SGD itself.

    Raises `ValueError` for l < 1 or `batch_size` < 1.
    """
    _check.integer("batch_size", batch_size, 1)
    if _check.is_concrete(l):
        _check.require("l", l, l >= 1, "at least 1")

    def draw(objective, state, step, key):
        indices = jax.random.randint(key, (2 * batch_size,), 0, objective.size)
        r = jnp.sqrt(2.0 * l - 1)
        pair = jnp.stack([1 + r, 1 - r]) / (2 * batch_size)
        weights = jnp.repeat(pair, batch_size)

        return (lambda params: objective.minibatch(params, indices, weights)), state

    return Draws(draw, batch_size=batch_size)
