"""Functions of one variable, wells and ripples, with their minima, the barriers between them and their flows.

Their parameters have shape (1,), so that they look like every other problem; a scalar works too.
"""

import math

import jax.numpy as jnp
import numpy as np

from jaxflow import _check
from jaxflow.problems.problem import Problem


def _double_well(x):
    x = jnp.atleast_1d(x)
    return 0.25 * (x[0] ** 2 - 1.0) ** 2 + 0.5 * jnp.sum(x[1:] ** 2)


def _double_well_flow(t, x0):
    x = jnp.atleast_1d(x0)
    well, bowl = x[:1], x[1:]
    square = -jnp.expm1(-2.0 * t) * well**2 + jnp.exp(-2.0 * t)
    # Once exp(-2t) has underflowed, the unstable point 0 would be 0/0.
    well = well / jnp.sqrt(jnp.where(square == 0, 1.0, square))
    return jnp.concatenate([well, jnp.exp(-1.0 * t) * bowl]).reshape(jnp.shape(x0))


def double_well(dimension: int = 1) -> Problem:
    r"""Two wells and the barrier between them, $L(x) = \frac14 (x_1^2 - 1)^2 + \frac12 \sum_{i>1} x_i^2$.

    It has minima at $x_1 = \pm 1$ with value 0 and curvatures (1, …, 1, 2), and a saddle (in one dimension a
    maximum) at 0 of height 1/4 and curvature −1 along $x_1$. It starts from $(\frac12, 1, \dots, 1)$. Gradient
    flow, $\dot x_1 = x_1 - x_1^3$ and $\dot x_i = -x_i$, has the closed form $x_1(t) = x_1(0) \big/ \sqrt{e^{-2t} +
    (1 - e^{-2t})\, x_1(0)^2}$.

    **Arguments**

    - `dimension` d: an integer at least 1 (static).

    **Returns** a `Problem` with `minimum`, `minima`, `saddles`, `curvature` and `flow`.

    **Raises** `ValueError` or `TypeError` when `dimension` is not an integer at least 1.

    >>> problem = double_well()
    >>> problem.minima.tolist(), float(problem.objective(problem.saddles[0]))
    ([[-1.0], [1.0]], 0.25)
    >>> problem.flow(1.0, problem.params).tolist()
    [0.8433]
    """
    _check.require_integer("dimension", dimension, 1)
    axis = np.eye(dimension)[0]
    return Problem(
        objective=_double_well,
        params=jnp.ones(dimension).at[0].set(0.5),
        minimum=0.0,
        minima=jnp.asarray([-axis, axis], float),
        saddles=jnp.zeros((1, dimension)),
        curvature=jnp.asarray([1.0] * (dimension - 1) + [2.0], float),
        flow=_double_well_flow,
        name="double_well",
    )


def _x_sin_x(x):
    return jnp.sum(x * jnp.sin(x))


def x_sin_x() -> Problem:
    r"""Ever deeper wells on both sides, $L(x) = x \sin x$, from $x = 3$; unbounded below, so without a `minimum`.

    It is stationary where $\tan x = -x$. `minima` holds the three wells nearest the origin, ±4.9132 (value −4.8145)
    and 0 (value 0), and `saddles` the two barriers between them, ±2.0288 (value 1.8197).

    **Returns** a `Problem` with `minima`, `saddles` and `curvature`.

    >>> problem = x_sin_x()
    >>> problem.minima.tolist()
    [[-4.9132], [4.9132], [0.0]]
    """
    well, barrier = 4.913180439434884, 2.0287578381104345
    return Problem(
        objective=_x_sin_x,
        params=jnp.asarray([3.0], float),
        minima=jnp.asarray([[-well], [well], [0.0]], float),
        saddles=jnp.asarray([[-barrier], [barrier]], float),
        curvature=jnp.asarray([2 * math.cos(well) - well * math.sin(well)], float),
        name="x_sin_x",
    )


def _x_plus_sin_x(x):
    return jnp.sum(x + jnp.sin(x))


def _x_plus_sin_x_flow(t, x0):
    # tan is taken on [−π/2, π/2): at an inflection it is −∞ (up to rounding), which the flow never leaves.
    turns = 2 * math.pi * jnp.floor((x0 + math.pi) / (2 * math.pi))
    return turns + 2.0 * jnp.arctan(jnp.tan(0.5 * (x0 - turns)) - t)


def x_plus_sin_x() -> Problem:
    r"""A staircase without a bottom, $L(x) = x + \sin x$, from $x = 2$.

    It has **no minimum**: $L' = 1 + \cos x \ge 0$, so L rises monotonically, with horizontal inflections at
    the odd multiples of π. There both the slope and the curvature vanish. Gradient flow creeps up to the next
    inflection below, at a distance ≈ 2/t, and never passes it, whereas noise, momentum or a long step may. On
    the flow $\tan(x/2)$ falls at unit speed: $x(t) = 2 \arctan(\tan(x(0)/2) - t)$ on the branch
    $(-\pi, \pi)$, and shifted by multiples of 2π elsewhere.

    **Returns** a `Problem` with `flow`.

    >>> problem = x_plus_sin_x()
    >>> problem.minimum is None, problem.flow(1000.0, problem.params).tolist()
    (True, [-3.14])
    """
    return Problem(
        objective=_x_plus_sin_x,
        params=jnp.asarray([2.0], float),
        flow=_x_plus_sin_x_flow,
        name="x_plus_sin_x",
    )


def _parabola_minus_sines(x):
    return jnp.sum(x**2 - 25.0 * jnp.sin(x))


def sines_minus_parabola() -> Problem:
    r"""A hill with side peaks, $f(x) = 25 \sin x - x^2$, meant to be climbed: $L = -f$, from $x = 6$.

    The local maxima of f, which are the `minima` here, lie at 1.4542 (f = 22.716, the highest), −4.3564
    (f = 4.454), 7.2366 (f = −31.983) and −10.0602 (f = −86.370). The dips between them, `saddles` here, lie at
    −1.7079 (f = −27.682), 5.1358 (f = −49.169) and −8.6143 (f = −92.322). From the start gradient flow ends
    on the third peak.

    **Returns** a `Problem` with `minimum`, `minima`, `saddles` and `curvature`.

    >>> problem = sines_minus_parabola()
    >>> problem.minimum, problem.minima.ravel().tolist()
    (-22.716, [1.4542, -4.3564, 7.2366, -10.0602])
    """
    peaks = np.array([1.4541965749766173, -4.356405415380388, 7.236571118164048, -10.060207840298055])
    dips = np.array([-1.7078532798795432, 5.135789612596342, -8.61428732068473])
    return Problem(
        objective=_parabola_minus_sines,
        params=jnp.asarray([6.0], float),
        minimum=float(peaks[0] ** 2 - 25 * np.sin(peaks[0])),
        minima=jnp.asarray(peaks[:, None], float),
        saddles=jnp.asarray(dips[:, None], float),
        curvature=jnp.asarray(2 + 25 * np.sin(peaks[:1]), float),
        name="sines_minus_parabola",
    )
