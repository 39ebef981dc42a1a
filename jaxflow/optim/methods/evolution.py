"""A gradient-free optimizer in the same style: a real-coded genetic algorithm, its population in the state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._programs.half import widen
from jaxflow._traceable import traceable
from jaxflow.optim.methods.moments import increment

PyTree = Any


class GeneticState(NamedTuple):
    """Generation count, population (size, d) and its losses (size,)."""

    count: jax.Array
    population: jax.Array
    losses: jax.Array


def _blend(key, parents_a, parents_b, alpha):
    """BLX-α crossover: each gene uniform on the parents' interval, widened by α of its length on each side."""
    weight = jax.random.uniform(key, parents_a.shape, widen(parents_a).dtype, -alpha, 1 + alpha)
    return parents_a + weight.astype(parents_a.dtype) * (parents_b - parents_a)


def _tournament(key, losses, number, rounds):
    """Indices (number,) of the best of `rounds` individuals drawn with replacement."""
    drawn = jax.random.randint(key, (number, rounds), 0, losses.shape[0])
    return jnp.take_along_axis(drawn, jnp.argmin(losses[drawn], axis=1)[:, None], axis=1)[:, 0]


@traceable
def genetic(
    spread=1.0, mutation=0.1, alpha=0.5, decay=0.99, *, key, size: int = 64, elite: int = 2, rounds: int = 3
):
    """A real-coded genetic algorithm. It is **gradient-free**: it ignores the gradient and calls `value_fn`.

    The population starts normal around the parameters with standard deviation `spread`. A generation
    keeps the best `elite`, and fills up with children of parents chosen by tournaments of `rounds`, crossed by
    BLX-α (Eshelman & Schaffer 1993), and mutated by normal noise of standard deviation
    `mutation`·`spread`·`decay`$^k$. The parameters are the best individual, so the loss never rises.

    **Arguments**

    - `spread`: the standard deviation of the first population, a number above 0, in units of the parameters.
    - `mutation`: the standard deviation of a mutation over `spread`, a number at least 0.
    - `alpha`: how far a child may lie outside its parents' interval, a number at least 0, in units of its length.
    - `decay`: the factor of the mutation from one generation to the next, a number above 0.
    - `key`: the random key of the algorithm.
    - `size`: the number of individuals, at least 2 (static).
    - `elite`: the number of individuals kept, from 1 to `size` − 1 (static).
    - `rounds`: the number of individuals drawn for a tournament, at least 1 (static).

    **Returns** an `Optimizer`. Its `update` needs `params` and `value_fn=`, the loss as a function (`iterate` hands
    them over); one step is `size` evaluations of the loss. It has no learning rate: its clock is the generation.

    **Raises** `ValueError` or `TypeError` for a number out of range, or an `update` without `value_fn=`.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.genetic(key=jax.random.key(0))
    >>> run = jf.iterate(optimizer, lambda x: jnp.sum((x - 1) ** 2), jnp.zeros(2), steps=100)
    >>> bool(jnp.abs(run.params - 1).max() < 0.05)
    True
    """
    _check.require_positive(spread=spread, decay=decay)
    _check.require_nonnegative(mutation=mutation, alpha=alpha)
    _check.require_integer("size", size, 2)
    _check.require_integer("rounds", rounds, 1)
    _check.require_integer("elite", elite, 1)
    _check.require("elite", elite, elite < size, f"below size = {size}")

    def init(params):
        flat, _ = ravel_pytree(params)
        noise = jax.random.normal(jax.random.fold_in(key, 0), (size, flat.size), widen(flat).dtype)
        population = flat[None] + (spread * noise).astype(flat.dtype).at[0].set(0)
        return GeneticState(jnp.zeros([], jnp.int32), population, jnp.full(size, jnp.inf, flat.dtype))

    def offspring(state, losses):
        select_a, select_b, cross, mutate = jax.random.split(jax.random.fold_in(key, state.count + 1), 4)
        n = size - elite
        a = state.population[_tournament(select_a, losses, n, rounds)]
        b = state.population[_tournament(select_b, losses, n, rounds)]
        width = mutation * spread * decay ** state.count.astype(a.dtype)
        noise = jax.random.normal(mutate, a.shape, widen(a).dtype).astype(a.dtype)
        children = _blend(cross, a, b, alpha) + width * noise
        best = state.population[jnp.argsort(losses)[:elite]]
        return jnp.concatenate([best, children.astype(best.dtype)])

    def update(updates, state, params=None, *, value_fn=None, **extra):
        del updates, extra
        if value_fn is None or params is None:
            raise ValueError("genetic needs params and value_fn=, the loss as a function.")
        flat, unravel = ravel_pytree(params)
        evaluate = lambda population: jax.vmap(lambda x: value_fn(unravel(x)))(population)
        # A loss that is not finite must never win a tournament.
        finite = lambda losses: jnp.where(jnp.isfinite(losses), losses, jnp.inf).astype(flat.dtype)
        # The first generation's losses are known only here, as `init` is not handed the loss.
        first = lambda: finite(evaluate(state.population))
        losses = lax.cond(state.count == 0, first, lambda: state.losses)
        population = offspring(state, losses)
        losses = finite(evaluate(population))
        best = population[jnp.argmin(losses)]
        return unravel(best - flat), GeneticState(increment(state.count), population, losses)

    return optax.GradientTransformationExtraArgs(init, update)
