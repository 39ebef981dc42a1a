"""A stabilised explicit solver for the stiff, real and negative spectra of late training.

Late in training a gradient flow is stiff: the sharpest direction of the loss has long come to rest, yet it
holds the steps of an ordinary explicit method down to a few times one over the sharpness. A Chebyshev method
spends s gradients on one step whose stability grows as s squared, needs no linear solve, and so fits networks
whose Hessian cannot be formed. It is written as a `diffrax` solver and goes wherever theirs do; it stands
apart from `integrate` because it knows nothing of dynamics.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jax import lax

from jaxflow import _check

PyTree = Any

DAMPING = 2 / 13
SAFETY = 1.2
# Power iterations at the start: they bring out a lone eigenvalue 1.5 times the rest among 10^6.
START = 16
# How much of the direction the field just moved in is mixed into the power iteration after every step.
# Without it a mode that sleeps while another leads is forgotten to rounding, and has to be found anew when
# it grows; the estimate pays a factor 1/sqrt(1 + MIXING^2) for it, far inside SAFETY.
MIXING = 0.1


class RKC2State(NamedTuple):
    """What `RKC2` carries from step to step.

    - `field`: f(t, y), the first stage of the next step; shaped as y.
    - `direction`: the power iteration's unit vector; shaped as y.
    - `radius`: the estimate of the spectral radius of df/dy at (t, y); a scalar, in 1/time.
    - `evaluations`: field evaluations so far, those of accepted steps; an int32 scalar.
    """

    field: PyTree
    direction: PyTree
    radius: jax.Array
    evaluations: jax.Array


class RKC2(dfx.AbstractAdaptiveSolver[RKC2State]):
    r"""The Runge–Kutta–Chebyshev method of order two for $y' = f(t, y)$.

    With $\omega_0 = 1 + \varepsilon/s^2$, $\varepsilon = 2/13$, $\omega_1 = T_s'(\omega_0)/T_s''(\omega_0)$,
    $b_j = T_j''(\omega_0)/T_j'(\omega_0)^2$, $b_0 = b_1 = b_2$ and $a_j = 1 - b_j T_j(\omega_0)$, a step of
    length h makes s stages $Y_0 = y$, $Y_1 = y + b_1 \omega_1 h F_0$ and, for j = 2, ..., s,

    $$Y_j = (1-\mu_j-\nu_j)\,y + \mu_j Y_{j-1} + \nu_j Y_{j-2} + \tilde\mu_j h\,(F_{j-1} - a_{j-1} F_0),$$

    $\mu_j = 2 b_j \omega_0/b_{j-1}$, $\nu_j = -b_j/b_{j-2}$, $\tilde\mu_j = 2 b_j \omega_1/b_{j-1}$, where
    $F_j = f(t + c_j h, Y_j)$ and $c_j = \omega_1 T_j''(\omega_0)/T_j'(\omega_0)$. On $y' = \lambda y$ a step
    is the polynomial $a_s + b_s T_s(\omega_0 + \omega_1 h\lambda)$, below 1 for
    $-0.65\,(s^2 - 1) \le h\lambda < 0$.
    The number of stages follows the step, $s = \lceil\sqrt{1 + 1.54\,h\rho}\,\rceil$, at least 2. The error
    estimate is $0.8\,(y_0 - y_1) + 0.4\,h\,(F_0 + F_s)$, $O(h^3)$; dense output is the cubic Hermite
    interpolant of the step.

    $\rho$ is 1.2 times a power iteration's estimate of the spectral radius of $\partial f/\partial y$. Its
    vector travels in the solver state and takes one Jacobian-vector product a step, at the step's end, so
    f must be differentiable in forward mode. An estimate that is too low shows in the error estimate: the
    step is rejected, shorter ones are stable whatever the estimate ($h\rho < 2$), and each of them improves
    it. The spectrum has to lie near the negative real axis, as that of a gradient flow does; on weakly
    damped oscillations (heavy ball at small friction) an ordinary method is better.

    **Arguments**, all static, so that the solver itself is a pytree without leaves:

    - `max_stages`: the largest s. A step that would need more is not made: its error estimate is infinite,
      for the price of one stage, so that the step size controller shortens it; under constant steps, where
      nothing can shorten it, the solution is NaN from there on. Rounding errors grow as s squared.
    - `scan_kind`: how the loop over stages is differentiated. `"checkpointed"` is for reverse mode under
      `diffrax.RecursiveCheckpointAdjoint()`, `"lax"` for forward mode under `diffrax.ForwardMode()`,
      `"bounded"` for both under `diffrax.DirectAdjoint()`, at more memory and time. s and $\rho$ are
      choices of the discretisation and carry no derivative.
    - `counted`: hand the cost of every step to a `Counting` controller, see `evaluations`.

    y is any pytree of real floating-point arrays, and `terms` a `diffrax.ODETerm`. Where y or f turns NaN
    the step is short and its error estimate infinite, so that a controller with `dtmin` stops.

    **Raises** `TypeError` for complex y, `ValueError` for options out of range, and what `diffrax` raises for
    other terms.

    >>> import diffrax, jax.numpy as jnp
    >>> field = lambda t, y, args: -1e4 * (y - jnp.cos(t))
    >>> solution = diffrax.diffeqsolve(
    ...     diffrax.ODETerm(field), RKC2(), 0.0, 1.0, None, jnp.array([1.0]), max_steps=200,
    ...     stepsize_controller=diffrax.PIDController(rtol=1e-4, atol=1e-4, pcoeff=0.3, icoeff=0.4))
    >>> bool(abs(solution.ys[0, 0] - jnp.cos(1.0)) < 1e-3)
    True

    Source: Sommeijer, Shampine and Verwer (1998), "RKC: an explicit solver for parabolic PDEs", J. Comput.
    Appl. Math. 88, 315–326.
    """

    max_stages: int = eqx.field(static=True, default=500)
    scan_kind: Literal["checkpointed", "lax", "bounded"] = eqx.field(static=True, default="checkpointed")
    counted: bool = eqx.field(static=True, default=False)

    term_structure: ClassVar = dfx.ODETerm
    interpolation_cls: ClassVar[Callable[..., Any]] = dfx.ThirdOrderHermitePolynomialInterpolation

    def __check_init__(self):
        _check.integer("max_stages", self.max_stages, 2)
        _check.choice("scan_kind", self.scan_kind, ("checkpointed", "lax", "bounded"))

    def order(self, terms):
        return 2

    def error_order(self, terms):
        # The estimate's own local order: it is not the difference of two formulas, diffrax's default guess.
        return 3

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def init(self, terms, t0, t1, y0, args) -> RKC2State:
        if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(y0)):
            raise TypeError("RKC2 integrates real states: y0 must not be complex. Split it into its parts.")
        return _start(terms, t0, y0, args, _random_direction(y0), jnp.zeros((), jnp.int32))

    def step(self, terms, t0, t1, y0, args, solver_state: RKC2State, made_jump):
        state = solver_state
        if made_jump is not False:
            fresh = lambda: _start(terms, t0, y0, args, state.direction, state.evaluations)
            state = lax.cond(made_jump, fresh, lambda: state)
        h = terms.contr(t0, t1)
        length = jnp.abs(lax.stop_gradient(h)).astype(float)
        needed = jnp.ceil(jnp.sqrt(1 + 1.54 * SAFETY * length * state.radius))
        capped = ~(needed <= self.max_stages)
        stages = jnp.where(capped, 2, jnp.maximum(needed, 2)).astype(jnp.int32)

        change = self._stages(terms, t0, t1, h, y0, args, state.field, stages)
        y1 = jax.tree.map(jnp.add, y0, change)
        f1 = terms.vf(t1, y1, args)
        direction, radius = _power(terms, t1, y1, args, state.direction, state.radius)
        direction = _mix(direction, jax.tree.map(jnp.subtract, *lax.stop_gradient((f1, state.field))))

        estimate = lambda d, f0, f1: -0.8 * d + 0.4 * jnp.asarray(h, d.dtype) * (f0 + f1)
        error = jax.tree.map(estimate, change, state.field, f1)
        error = jax.tree.map(lambda e: jnp.where(capped, jnp.inf, e), error)
        y1 = jax.tree.map(lambda y: jnp.where(capped, jnp.nan, y), y1)
        k0, k1 = (jax.tree.map(lambda f: jnp.asarray(h, f.dtype) * f, f) for f in (state.field, f1))
        cost = stages + 2
        new = RKC2State(f1, direction, radius, state.evaluations + cost)
        if self.counted:
            error = _Priced(error, cost.astype(float))
        return y1, error, {"y0": y0, "y1": y1, "k0": k0, "k1": k1}, new, dfx.RESULTS.successful

    def _stages(self, terms, t0, t1, h, y0, args, f0, stages) -> PyTree:
        """The change of y over one step of `stages` stages.

        Stages are kept as differences from y, and the Chebyshev polynomials and their derivatives advanced
        by their increments, sums of positive numbers: neither loses digits in float32, where forming
        1 + eps/s^2 first would.
        """
        s = stages.astype(float)
        excess = DAMPING / s**2
        w0 = 1 + excess
        square = excess * (2 + excess)
        angle = s * jnp.log1p(excess + jnp.sqrt(square))
        w1 = jnp.sinh(angle) * square / (jnp.cosh(angle) * s * jnp.sqrt(square) - w0 * jnp.sinh(angle))

        def combine(mu, nu, mut, a):
            def leaf(before, last, field, first):
                m, n, g, b = (jnp.asarray(x, last.dtype) for x in (mu, nu, mut * h.astype(float), a))
                return m * last + n * before + g * (field - b * first)

            return leaf

        def stage(carry):
            j, c, b, b_before, T, dT, change, change_before = carry
            field = terms.vf(t0 + c.astype(t0.dtype) * (t1 - t0), jax.tree.map(jnp.add, y0, change), args)
            a = 1 - b * T[0]
            rise = (2 * excess * T[0], 2 * excess * T[1] + 2 * T[0], 2 * excess * T[2] + 4 * T[1])
            dT = tuple(map(jnp.add, dT, rise))
            T = tuple(map(jnp.add, T, dT))
            b_next = T[2] / T[1] ** 2
            leaf = combine(2 * w0 * b_next / b, -b_next / b_before, 2 * w1 * b_next / b, a)
            change_next = jax.tree.map(leaf, change_before, change, field, f0)
            return j + 1, w1 * T[2] / T[1], b_next, b, T, dT, change_next, change

        b = 1 / (4 * w0**2)
        one, zero = jnp.ones_like(w0), jnp.zeros_like(w0)
        first = jax.tree.map(lambda f: jnp.asarray(b * w1 * h.astype(float), f.dtype) * f, f0)
        carry = (jnp.asarray(2, jnp.int32), b * w1, b, b, (w0, one, zero), (excess, one, zero))
        carry = (*carry, first, jax.tree.map(jnp.zeros_like, first))
        return eqxi.while_loop(
            lambda carry: carry[0] <= stages,
            stage,
            carry,
            max_steps=self.max_stages - 1,
            kind=self.scan_kind,
            base=max(2, math.isqrt(self.max_stages - 2) + 1),
        )[-2]


def _start(terms, t, y, args, direction, evaluations) -> RKC2State:
    """The state at (t, y) after `START` power iterations from `direction`."""
    direction, radius = lax.fori_loop(
        0, START, lambda _, v: _power(terms, t, y, args, *v), (direction, jnp.zeros((), float))
    )
    return RKC2State(terms.vf(t, y, args), direction, radius, evaluations + 1 + 2 * START)


def _power(terms, t, y, args, direction, radius):
    """One power iteration on df/dy at (t, y): the new unit vector and |J v|, or the old ones where useless."""
    t, y, args = jax.tree.map(lambda x: lax.stop_gradient(x) if eqx.is_inexact_array(x) else x, (t, y, args))
    _, image = jax.jvp(lambda y: terms.vf(t, y, args), (y,), (direction,))
    image = lax.stop_gradient(image)
    size = _norm(image)
    # Zero where f does not depend on y, NaN where f has no derivative: keep a vector to go on with.
    useful = jnp.isfinite(size) & (size > 0)
    safe = jnp.where(useful, size, 1)
    turn = lambda new, old: jnp.where(useful, new / jnp.asarray(safe, new.dtype), old)
    return jax.tree.map(turn, image, direction), jnp.where(jnp.isfinite(size), size, radius)


def _mix(direction, moved):
    size = _norm(moved)
    weight = jnp.where(jnp.isfinite(size) & (size > 0), MIXING / jnp.where(size > 0, size, 1), 0)
    add = lambda v, m: v + jnp.where(weight > 0, jnp.asarray(weight, v.dtype) * m, 0)
    mixed = jax.tree.map(add, direction, moved)
    size = _norm(mixed)
    return jax.tree.map(lambda v: v / jnp.asarray(size, v.dtype), mixed)


def _random_direction(y):
    """A unit vector shaped as y, the same every time; random, so as to be orthogonal to nothing in particular."""
    leaves, structure = jax.tree.flatten(y)
    keys = jax.random.split(jax.random.key(0), max(len(leaves), 1))
    v = [jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=False)]
    size = _norm(v)
    return structure.unflatten([x / jnp.asarray(size, x.dtype) for x in v])


def _norm(tree) -> jax.Array:
    squares = [jnp.sum(jnp.square(leaf)).astype(float) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.zeros((), float)))


class _Priced(NamedTuple):
    error: PyTree
    cost: jax.Array
