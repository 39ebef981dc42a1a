r"""Tsitouras' explicit Runge–Kutta method of order 5, with its interpolant of order 4.

Tsitouras (2011), "Runge–Kutta pairs of order 5(4) satisfying only the first column simplifying assumption",
Computers and Mathematics with Applications 62, 770–775.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

STAGES = 7
ORDER = 5  # of the error estimate, which is that of the step of order 4

# Row i holds the weights of the stages before it; the last stage stands at the end of the step.
WEIGHTS = np.zeros((STAGES, STAGES))
WEIGHTS[1, :1] = [0.161]
WEIGHTS[2, :2] = [-0.008480655492356989, 0.335480655492357]
WEIGHTS[3, :3] = [2.8971530571054935, -6.359448489975075, 4.3622954328695815]
WEIGHTS[4, :4] = [5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525]
WEIGHTS[5, :5] = [
    5.86145544294642,
    -12.92096931784711,
    8.159367898576159,
    -0.071584973281401,
    -0.028269050394068383,
]
WEIGHTS[6, :6] = [
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
]
NODES = np.array([0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0])
ERROR = np.array(
    [
        0.0017800110522257773,
        0.0008164344596567463,
        -0.007880878010261995,
        0.1447110071732629,
        -0.5823571654525552,
        0.45808210592918686,
        -1 / 66,
    ]
)
# The weights of the interpolant at s, from 0 to 1 along the step, are c·s·(s − r)·(s² + p·s + q).
C = [
    -1.0530884977290216,
    0.1017,
    2.490627285651252793,
    -16.54810288924490272,
    47.37952196281928122,
    -34.87065786149660974,
    2.5,
]
R = [1.3299890189751412, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
P = [
    -1.4364028541716351,
    -2.1966568338249754,
    -2.38535645472061657,
    -1.21712927295533244 - 0.61620406037800089,
    -1.203071208372362603 - 0.658047292653547382,
    -1.2 - 2 / 3,
    -1.6,
]
Q = [
    0.7139816917074209,
    1.2949852507374631,
    1.57803468208092486,
    1.21712927295533244 * 0.61620406037800089,
    1.203071208372362603 * 0.658047292653547382,
    1.2 * 2 / 3,
    0.6,
]


class Step(NamedTuple):
    """A step: the vector (n,) at its end, its error estimate (n,) and its stages (7, n)."""

    end: jax.Array
    error: jax.Array
    stages: jax.Array


def step(field: Callable[[Any, jax.Array], jax.Array], t, h, y, slope, first, last) -> Step:
    """A step of length `h` from the vector `y` (n,) with the slope `slope`: stages `first` to `last` − 1 are made.

    They are one loop, so that a program holds `field` once.
    """
    weights, nodes = jnp.asarray(WEIGHTS, h.dtype), jnp.asarray(NODES, h.dtype)

    def stage(i, carry):
        stages, _ = carry
        at = y + h * _combine(lax.dynamic_index_in_dim(weights, i, keepdims=False), stages)
        t_stage = t + lax.dynamic_index_in_dim(nodes, i, keepdims=False) * h
        return lax.dynamic_update_index_in_dim(stages, field(t_stage, at), i, 0), at

    # Those before are zeros, not what another step left: 0 times that may be NaN.
    stages = jnp.zeros((STAGES, *y.shape), y.dtype).at[0].set(slope)
    stages, end = lax.fori_loop(first, last, stage, (stages, y))
    return Step(end, h * _combine(jnp.asarray(ERROR, h.dtype), stages), stages)


def interpolate(s, h, y, stages) -> jax.Array:
    """The vector (n,) at the share `s` of a step of length `h` that began at `y`."""
    c, r, p, q = (jnp.asarray(x, h.dtype) for x in (C, R, P, Q))
    return y + h * _combine(c * s * (s - r) * (s * s + p * s + q), stages)


def _combine(weights, stages):
    return jnp.sum(weights[:, None] * stages, 0)


class Tsit5(NamedTuple):
    """The method for `loop.take_steps`. Its memory is the field at the end of a step, where the next one begins."""

    order: int = ORDER

    def begin(self, y: jax.Array) -> jax.Array:
        return jnp.zeros_like(y)

    def slope(self, memory: jax.Array) -> jax.Array:
        return memory

    def step(self, field, starting, t, h, y, memory):
        first, last = jnp.where(starting, 0, 1), jnp.where(starting, 1, STAGES)
        end, error, stages = step(field, t, h, y, memory, first, last)
        return (
            end,
            error,
            jnp.where(starting, stages[0], stages[-1]),
            stages,
            jnp.where(starting, 1, STAGES - 1),
        )

    def interpolate(self, s, h, y, dense):
        return interpolate(s, h, y, dense)

    def choice(self, h, memory):
        return jnp.asarray(STAGES, jnp.int32)

    def remake(self, field, choice, t, h, y, dense):
        del choice
        stages = step(field, t, h, y, jnp.zeros_like(y), 0, _stages(dense)).stages
        return y + h * _combine(jnp.asarray(WEIGHTS[-1], h.dtype), stages), stages

    def pull(self, drift, moving, choice, at, dense, end, stages):
        del choice
        weights, nodes = jnp.asarray(WEIGHTS, at.h.dtype), jnp.asarray(NODES, at.h.dtype)
        number = _stages(dense)

        def spread(row, cot, stages, h):
            # A stage's vector is y + h·(row of weights)·stages.
            slope = _combine(row, at.stages)
            return stages + at.h * row[:, None] * cot[None], h + jnp.sum(cot * slope).real

        def stage(j, carry):
            moved, t, h, y, stages = carry
            i = number - 1 - j
            row, node = (lax.dynamic_index_in_dim(x, i, keepdims=False) for x in (weights, nodes))
            place = at.y + at.h * _combine(row, at.stages)
            more, time, cot = jax.vjp(drift, moving, at.t + node * at.h, place)[1](stages[i])
            stages, h = spread(row, cot, stages, h + node * time)
            return jax.tree.map(jnp.add, moved, more), t + time, h, y + cot, stages

        none = jnp.zeros_like(at.h)
        stages, h = spread(weights[-1], end, stages, none)
        begun = jax.tree.map(jnp.zeros_like, moving), none, h, end, stages
        moved, t, h, y, _ = lax.fori_loop(0, number, stage, begun)
        return moved, t, h, y


def _stages(dense):
    """Only the interpolant asks for the last stage."""
    return jnp.where(dense, STAGES, STAGES - 1)
