"""The Runge–Kutta–Chebyshev method of order two, as functions of the field, and as a method of our own loop.

`RKC2` has the formulas and their source; it is the same method as a `diffrax` solver.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any
Field = Callable[[Any, PyTree], PyTree]

DAMPING = 2 / 13
SAFETY = 1.2
# Power iterations at the start: they bring out a lone eigenvalue twice the rest among ten thousand.
START = 10
# How much of the direction the field last moved in enters the power iteration after each step. Without it a
# mode that sleeps while another leads is forgotten to rounding, and not found in time when it grows. The
# estimate pays a factor of 1/sqrt(1 + MIXING^2) for it, well inside SAFETY.
MIXING = 0.1


class Memory(NamedTuple):
    """What the method carries: the field where the next step begins, and the power iteration's vector and radius."""

    field: PyTree
    direction: PyTree
    radius: jax.Array


class Chebyshev(NamedTuple):
    """The method for `loop.take_steps`; `most` is the largest number of stages."""

    most: int
    order: int = 3  # of the error estimate

    def begin(self, y: jax.Array) -> Memory:
        return Memory(jnp.zeros_like(y), any_direction(y), jnp.zeros((), float))

    def slope(self, memory: Memory) -> jax.Array:
        return memory.field

    def step(self, field: Field, starting, t, h, y, memory: Memory):
        h = jnp.where(starting, 0, h)  # then two stages of no length, and as many power iterations as need be
        stages, capped = stages_for(h, memory.radius, self.most)
        change = change_over(field, t, h, y, memory.field, stages, lax.while_loop)
        end = y + change

        def iterate(_, carry):
            _, direction, radius = carry
            slope, image = field_and_image(field, t + h, end, direction)
            return Memory(slope, *power(image, direction, radius))

        times = jnp.where(starting, START, 1)
        slope, direction, radius = lax.fori_loop(0, times, iterate, memory)
        moved = lax.stop_gradient(slope - memory.field)
        new = Memory(slope, jnp.where(starting, direction, mix(direction, moved)), radius)
        error = estimate(h, change, memory.field, slope, capped)
        cost = jnp.where(starting, 2 * START + 1, stages + 1)
        return jnp.where(capped, jnp.nan, end), error, new, (end, memory.field, slope), cost

    def choice(self, h, memory: Memory):
        """How many stages; 0 where a step would need more than it may take."""
        stages, capped = stages_for(h, memory.radius, self.most)
        return jnp.where(capped, 0, stages)

    def remake(self, field: Field, choice, t, h, y, dense, loop=lax.while_loop):
        slope = field(t, y)
        end = y + change_over(field, t, h, y, slope, jnp.maximum(choice, 2), loop)
        last = lax.cond(dense, lambda end: field(t + h, end), jnp.zeros_like, end)
        return jnp.where(choice == 0, jnp.nan, end), (end, slope, last)

    def pull(self, drift, moving, choice, at, dense, end, stages):
        from equinox.internal import while_loop

        # The stages are made again from a square root of their number.
        loop = partial(while_loop, max_steps=self.most - 1, kind="checkpointed")
        again = lambda moving, t, h, y: self.remake(partial(drift, moving), choice, t, h, y, dense, loop)
        return jax.vjp(again, moving, at.t, at.h, at.y)[1]((end, stages))

    def interpolate(self, s, h, y, dense):
        """Hermite's cubic."""
        end, first, last = dense
        late = s * s * (3 - 2 * s)
        return y + late * (end - y) + h * s * (1 - s) * ((1 - s) * first - s * last)


def stages_for(h, radius, most: int) -> tuple[jax.Array, jax.Array]:
    """How many stages a step of length h takes, and whether that were more than `most`."""
    length = jnp.abs(lax.stop_gradient(h)).astype(float)
    needed = jnp.ceil(jnp.sqrt(1 + 1.54 * SAFETY * length * radius))
    capped = ~(needed <= most)
    return jnp.where(capped, 2, jnp.maximum(needed, 2)).astype(jnp.int32), capped


def estimate(h, change, first, last, capped) -> jax.Array:
    """The estimate of a step's error, of one leaf; infinite where the step was not made."""
    return jnp.where(capped, jnp.inf, -0.8 * change + 0.4 * h.astype(first.dtype) * (first + last))


def change_over(field: Field, t, h, y0: PyTree, f0: PyTree, stages, loop: Callable[..., Any]) -> PyTree:
    """The change of y over one step of `stages` stages; `loop(more, stage, carry)` is a while loop.

    Stages are kept as differences from y, and the Chebyshev polynomials and their derivatives advance by
    their increments, sums of positive numbers: so float32 keeps its digits, which it would lose in
    forming 1 + eps/s^2, and in adding small changes to y in each of s stages.
    """
    length = h.astype(float)
    s = stages.astype(float)
    excess = DAMPING / s**2
    w0 = 1 + excess
    w1 = 3 / (s**2 - 1) * _series(s, 0) / _series(s, 1)

    def stage(carry):
        j, c, b, b_before, T, rise, change, change_before = carry
        slope = field(t + c.astype(t.dtype) * h.astype(t.dtype), jax.tree.map(jnp.add, y0, change))
        a = 1 - b * T[0]
        source = (0, 2 * T[0], 4 * T[1])
        rise = tuple(r + 2 * excess * t + q for r, t, q in zip(rise, T, source, strict=True))
        T = tuple(map(jnp.add, T, rise))
        b_next = T[2] / T[1] ** 2
        weights = (2 * w0 * b_next / b, -b_next / b_before, 2 * w1 * b_next / b * length, a)
        new = jax.tree.map(partial(_combine, weights), change, change_before, slope, f0)
        return j + 1, w1 * T[2] / T[1], b_next, b, T, rise, new, change

    b = 1 / (4 * w0**2)
    one, zero = jnp.ones_like(w0), jnp.zeros_like(w0)
    first = jax.tree.map(lambda f: (b * w1 * length).astype(f.dtype) * f, f0)
    still = jax.tree.map(jnp.zeros_like, first)
    carry = (jnp.asarray(2, jnp.int32), b * w1, b, b, (w0, one, zero), (excess, one, zero), first, still)
    return loop(lambda carry: carry[0] <= stages, stage, carry)[-2]


def _series(s, before: int) -> jax.Array:
    r"""The derivative of order 1 + `before` of $T_s$ at $1 + \varepsilon/s^2$ over that at 1, by Taylor's series.

    The derivatives at 1 are $\prod_{i<k} (s^2 - i^2)/(2i + 1)$, none of them negative: no digit is lost, as it
    would be between hyperbolic functions. Its terms fall faster than $\varepsilon^k/(k!)^2$.
    """
    total = term = jnp.ones_like(s)
    for k in range(1, 9):
        i = k + before
        term = term * (DAMPING / ((2 * i + 1) * k)) * (1 - i**2 / s**2)
        total = total + term
    return total


def _combine(weights, last, before, field, first):
    mu, nu, mu_h, a = (jnp.asarray(weight, last.dtype) for weight in weights)
    return mu * last + nu * before + mu_h * (field - a * first)


def check_real(y: PyTree) -> None:
    """Refuse complex states: the bound on the spectrum is one on the real axis."""
    if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(y)):
        raise TypeError("RKC2 integrates real states: y0 must not be complex. Split it into its parts.")


def field_and_image(field: Field, t, y: PyTree, direction: PyTree) -> tuple[PyTree, PyTree]:
    """f(t, y) and the product of its Jacobian in y with `direction`, the latter without derivative."""
    f, image = jax.jvp(partial(field, t), (y,), (lax.stop_gradient(direction),))
    return f, lax.stop_gradient(image)


def power(image: PyTree, direction: PyTree, radius) -> tuple[PyTree, jax.Array]:
    """The next unit vector of the power iteration, and the length of the last one's `image`."""
    size = _norm(image)
    # Zero where f does not depend on y, NaN where it has no derivative: keep a vector to go on with.
    useful = jnp.isfinite(size) & (size > 0)
    scale = jnp.where(useful, size, 1)
    turn = lambda new, old: jnp.where(useful, new / scale.astype(new.dtype), old)
    return jax.tree.map(turn, image, direction), jnp.where(jnp.isfinite(size), size, radius)


def mix(direction: PyTree, moved: PyTree) -> PyTree:
    """The direction with some of that in which the field moved, a unit vector again."""
    size = _norm(moved)
    useful = jnp.isfinite(size) & (size > 0)
    weight = MIXING / jnp.where(useful, size, 1)
    mix = lambda v, m: v + jnp.where(useful, weight.astype(v.dtype) * m, 0)
    return _normalise(jax.tree.map(mix, direction, moved))


def any_direction(y: PyTree) -> PyTree:
    """A unit vector shaped as y, always the same, and orthogonal to nothing in particular: a chirp."""
    leaves, structure = jax.tree.flatten(y)
    begins = [sum(leaf.size for leaf in leaves[:i]) for i in range(len(leaves))]
    places = [begin + jnp.arange(x.size, dtype=x.real.dtype) for begin, x in zip(begins, leaves, strict=True)]
    chirps = [
        jnp.cos(k * k * 0.7390851).reshape(x.shape).astype(x.dtype)
        for k, x in zip(places, leaves, strict=True)
    ]
    return _normalise(structure.unflatten(chirps))


def _normalise(tree):
    size = _norm(tree)
    return jax.tree.map(lambda leaf: leaf / size.astype(leaf.dtype), tree)


def _norm(tree) -> jax.Array:
    squares = [jnp.sum(jnp.square(jnp.abs(leaf))).astype(float) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.zeros((), float)))
