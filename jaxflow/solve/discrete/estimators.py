"""Where the gradient of a step comes from: all data, independent mini-batches, shuffled epochs, or SVAG.

An estimator draws, at every step, the loss whose gradient is taken. Independent draws are the default for
mini-batches because the SDEs describe those. Epoch shuffling is another process, as its noise averages out over
an epoch, and is therefore an explicit choice.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow import _check
from jaxflow._traceable import Bound, kind, traceable
from jaxflow.solve.discrete.estimator_bodies import check_draw, check_init

PyTree = Any
Loss = Callable[[PyTree], jax.Array]


class Draws(NamedTuple):
    """What the body of an estimator returns.

    - `draw(objective, state, step, key) -> (loss, state)`: the loss of this step. `step` counts from 0, and `key` is
      the random key of this step. An estimator that draws nothing at random works without a key, and is then handed
      `None`.
    - `init(objective, key) -> state`: the state that is carried from step to step. Default: an empty tuple.
    - `batch_size`: the number of examples per gradient; `None` means all.
    - `distinct`: whether a batch holds each example at most once, so that it cannot be larger than the data.
    """

    draw: Callable[[Any, PyTree, jax.Array, jax.Array], tuple[Loss, PyTree]]
    init: Callable[[Any, jax.Array], PyTree] = lambda objective, key: ()
    batch_size: int | None = None
    distinct: bool = False


@kind(lambda result: isinstance(result, Draws))
class Estimator(Bound):
    """A way to estimate the gradient. A user's own estimator is a traceable constructor that returns `Draws`.

    `iterate` also takes `Draws` themselves, and any object that has a `draw`; their numbers are then static.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> @jf.optim.traceable
    ... def one_example() -> jf.solve.Draws:  # in the order of the data
    ...     def draw(objective, state, step, key):
    ...         index = jnp.array([0]) + step % objective.size
    ...         return (lambda params: objective.minibatch(params, index)), state
    ...     return jf.solve.Draws(draw, batch_size=1)
    >>> data = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([1.0, -1.0]))
    >>> run = jf.iterate(jf.optim.gd(1.0), data, 0.0, steps=4, estimator=one_example())
    >>> print(run.values)
    [ 0.  1. -1.  1. -1.]
    """

    def build(self) -> Any:
        draws = super().build()
        return draws._replace(draw=check_draw(draws.draw), init=check_init(draws.init))


@traceable
def full_batch() -> Draws:
    """Take the gradient of the whole objective at every step; `iterate` does so by default.

    **Returns** an `Estimator`, which needs no key.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> data = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([1.0, 3.0]))
    >>> print(jf.iterate(jf.optim.gd(1.0), data, 0.0, steps=1, estimator=jf.solve.full_batch()).params)
    2.0
    """
    return Draws(lambda objective, state, step, key: (objective, state))


@traceable
def with_replacement(batch_size: int) -> Draws:
    """Draw B examples independently and uniformly at every step: the gradient's covariance is exactly Σ/B.

    This is what `batch_size=` of `iterate` means.

    **Arguments**

    - `batch_size` B: the number of examples per gradient, an integer at least 1 (static).

    **Returns** an `Estimator` for `iterate(…, estimator=…, key=…)`.

    **Raises** `ValueError` or `TypeError` unless `batch_size` is an integer at least 1.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> data = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> pairs = jf.solve.with_replacement(2)
    >>> run = jf.iterate(jf.optim.gd(1.0), data, 0.0, steps=100, estimator=pairs, key=jax.random.key(0))
    >>> print(jnp.unique(run.values))
    [-1.  0.  1.]
    """
    _check.require_integer("batch_size", batch_size, 1)

    def draw(objective, state, step, key):
        indices = jax.random.randint(key, (batch_size,), 0, objective.size)
        return (lambda params: objective.minibatch(params, indices)), state

    return Draws(draw, batch_size=batch_size)


@traceable
def masked_draws(batch_size, largest: int) -> Draws:
    r"""Draw as `with_replacement(B)` does, for a B that may be traced: a number that a sweep maps over with `vmap`.

    Every step draws `largest` indices and weighs their losses by $w_j = 1/B$ for $j < B$ and by 0 otherwise. The
    first B indices are those of `with_replacement(B)` with the same key (under JAX's default random numbers), so the
    runs agree up to rounding.

    **Arguments**

    - `batch_size` B: the number of examples per gradient, traced or not. Its derivative is 0.
    - `largest`: the largest B that will be used (static).

    **Returns** an `Estimator` for `iterate(…, estimator=…, key=…)`.

    **Raises** `ValueError` or `TypeError` unless `batch_size` is an integer from 1 to `largest` and `largest` is an
    integer at least 1. A traced `batch_size` out of range cannot be refused: its gradients are NaN, so that the run
    diverges.

    A step costs `largest` examples whatever B is. So n sizes in one program take ρ = $n \max B_i / \sum B_i$ times
    the examples of one program for each size, and about that times their running time (1.2 to 2.2 times for ρ from
    1.3 to 2.3 on a CPU), but n − 1 fewer compilations of some 0.7 s each. Masked draws are cheaper while the static
    runs together would take less than $0.7\,\frac{n-1}{\rho-1}$ s, which is about one second for the sizes 8, 32 and
    128.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 0.0, 4.0]))
    >>> run = lambda size: jf.iterate(jf.optim.gd(0.4), objective, 0.0, steps=10_000, key=jax.random.key(0),
    ...                               estimator=jf.solve.masked_draws(size, largest=16))
    >>> print(jax.vmap(run)(jnp.array([1, 4, 16])).values.std(axis=1).round(1))  # falls as 1/√B
    [1.1 0.5 0.3]
    """
    _check.require_integer("largest", largest, 1)
    if callable(batch_size):
        raise TypeError(f"batch_size must be a number, got {batch_size!r}.")
    _check.require_positive(batch_size=batch_size)
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
    r"""Draw B distinct examples afresh at every step: the covariance is $\frac{1}{B}\frac{N-B}{N-1}\Sigma$.

    **Arguments**

    - `batch_size` B: the number of examples per gradient, an integer from 1 to N (static).

    **Returns** an `Estimator` for `iterate(…, estimator=…, key=…)`.

    **Raises** `ValueError` or `TypeError` unless `batch_size` is an integer from 1 to N; `iterate` checks the upper
    end.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> data = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> whole = jf.solve.without_replacement(2)  # all of the data
    >>> print(jf.iterate(jf.optim.gd(1.0), data, 5.0, steps=1, estimator=whole, key=jax.random.key(0)).params)
    0.0
    """
    _check.require_integer("batch_size", batch_size, 1)

    def draw(objective, state, step, key):
        indices = jax.random.choice(key, objective.size, (batch_size,), replace=False)
        return (lambda params: objective.minibatch(params, indices)), state

    return Draws(draw, batch_size=batch_size, distinct=True)


@traceable
def epochs(batch_size: int) -> Draws:
    """Pass over the data again and again, each time in a new random order.

    The last N mod B examples of a pass are left out. Consecutive batches are dependent, and no SDE of this library
    describes this process.

    **Arguments**

    - `batch_size` B: the number of examples per gradient, an integer from 1 to N (static).

    **Returns** an `Estimator` for `iterate(…, estimator=…, key=…)`.

    **Raises** `ValueError` or `TypeError` unless `batch_size` is an integer from 1 to N; `iterate` checks the upper
    end.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> data = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([1.0, 2.0, 3.0]))
    >>> passes = jf.solve.epochs(1)
    >>> run = jf.iterate(jf.optim.gd(1.0), data, 0.0, steps=3, estimator=passes, key=jax.random.key(0))
    >>> print(jnp.sort(run.values[1:]))  # each example once
    [1. 2. 3.]
    """
    _check.require_integer("batch_size", batch_size, 1)

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
    r"""Draw two batches whose difference amplifies the noise (SVAG), to see SGD approach its SDE.

    The gradient is $\frac{1+r}{2} g_{B_1} + \frac{1-r}{2} g_{B_2}$ with $r = \sqrt{2l-1}$ and independent batches of
    size B, drawn with replacement. Run it at learning rate η/l: each step then advances the clock by η/l, and as
    l → ∞ the iterates approach SGD's first-order SDE *at η*. l = 1 is SGD itself.

    **Arguments**

    - `batch_size` B: the number of examples in each of the two batches, an integer at least 1 (static).
    - `l`: the number of steps that stand for one step of SGD, a number at least 1; it may be traced.

    **Returns** an `Estimator` for `iterate(…, estimator=…, key=…)`.

    **Raises** `ValueError` for `l` < 1 or `batch_size` < 1, `TypeError` where `batch_size` is not an integer.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> data = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> run = jf.iterate(
    ...     jf.optim.gd(0.5 / 4), data, 0.0, steps=8, estimator=jf.solve.svag(1, 4), key=jax.random.key(0))
    >>> run.times[-1].item()  # two steps of SGD at 0.5
    1.0

    Source: Li, Malladi and Arora (2021), arXiv 2102.12470.
    """
    _check.require_integer("batch_size", batch_size, 1)
    if _check.is_concrete(l):
        _check.require("l", l, l >= 1, "at least 1")

    def draw(objective, state, step, key):
        indices = jax.random.randint(key, (2 * batch_size,), 0, objective.size)
        r = jnp.sqrt(2.0 * l - 1)
        pair = jnp.stack([1 + r, 1 - r]) / (2 * batch_size)
        weights = jnp.repeat(pair, batch_size)

        return (lambda params: objective.minibatch(params, indices, weights)), state

    return Draws(draw, batch_size=batch_size)
