"""A stabilised explicit solver for the stiff, real and negative spectra of late training.

Late in training a gradient flow is stiff: the sharpest direction of the loss has long come to rest, yet it
limits the steps of an ordinary explicit method to a few times one over the sharpness. A Chebyshev method
spends s gradients on one step whose stability grows as s squared; it solves no linear system, and so fits
networks whose Hessian cannot be formed. It is a `diffrax` solver, knows nothing of dynamics, and goes
wherever theirs do.
"""

import math
from typing import Any, ClassVar, Literal, NamedTuple

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jax import lax

from jaxflow import _check
from jaxflow.solve.ode.diffrax_solves.pid import Counted, Priced
from jaxflow.solve.ode.ours.chebyshev import (
    START,
    any_direction,
    change_over,
    check_real,
    estimate,
    field_and_image,
    mix,
    power,
    stages_for,
)

PyTree = Any


class RKC2State(NamedTuple):
    """What `RKC2` carries from step to step.

    - `field`: f(t, y), the first stage of the next step; shaped as y.
    - `direction`: the power iteration's unit vector; shaped as y.
    - `radius`: its estimate of the spectral radius of df/dy at (t, y); a scalar, in 1/time.
    - `evaluations`: field evaluations spent on the start and on accepted steps; an int32 scalar. diffrax
      takes the state back when it rejects a step; `evaluations(solution)` counts those as well.
    """

    field: PyTree
    direction: PyTree
    radius: jax.Array
    evaluations: jax.Array


class RKC2(dfx.AbstractAdaptiveSolver[RKC2State]):
    r"""The Runge–Kutta–Chebyshev method of order two for $y' = f(t, y)$.

    With $\omega_0 = 1 + \varepsilon/s^2$, $\varepsilon = 2/13$, $\omega_1 = T_s'(\omega_0)/T_s''(\omega_0)$,
    $b_j = T_j''(\omega_0)/T_j'(\omega_0)^2$, $b_0 = b_1 = b_2$ and $a_j = 1 - b_j T_j(\omega_0)$, a step of
    length h makes the stages $Y_0 = y$, $Y_1 = y + b_1 \omega_1 h F_0$ and, for j = 2, ..., s,

    $$Y_j = (1-\mu_j-\nu_j)\,y + \mu_j Y_{j-1} + \nu_j Y_{j-2} + \tilde\mu_j h\,(F_{j-1} - a_{j-1} F_0),$$

    $\mu_j = 2 b_j \omega_0/b_{j-1}$, $\nu_j = -b_j/b_{j-2}$, $\tilde\mu_j = 2 b_j \omega_1/b_{j-1}$, where
    $F_j = f(t + c_j h, Y_j)$, $c_j = \omega_1 T_j''(\omega_0)/T_j'(\omega_0)$, $c_1 = b_1\omega_1$. On
    $y' = \lambda y$ it is the polynomial $a_s + b_s T_s(\omega_0 + \omega_1 h\lambda)$, below 1 for
    $-0.65\,(s^2 - 1) \le h\lambda < 0$. The number of stages follows the step:
    $s = \lceil\sqrt{1 + 1.54\,h\rho}\,\rceil$, at least 2. The error estimate is
    $0.8\,(y_0 - y_1) + 0.4\,h\,(F_0 + F_s) = O(h^3)$; dense output is the cubic Hermite interpolant.

    $\rho$ is 1.2 times an estimate of the spectral radius of $\partial f/\partial y$ by power iteration. Its
    vector travels in the solver state and takes one Jacobian-vector product per step, so f must be
    differentiable in forward mode. An estimate that is too low shows in the error estimate, and the step is rejected.
    Steps with $h\rho < 2$ are stable whatever the estimate is, and each improves it. The spectrum must lie
    near the negative real axis, as that of a gradient flow does; that of weakly damped oscillations does not.

    A step costs s + 1 evaluations: s − 1 stages, and two for the field at its end (the next step's $F_0$)
    with the product, which share a forward pass. The start costs 21.

    **Arguments**, all static, so that the solver is a pytree without leaves:

    - `max_stages`: the largest s. A step that would need more is not made: at the cost of s = 2 its error estimate is
      infinite, so that the step size controller shortens it. Under constant steps, which nothing shortens, the
      solution is NaN from there on. Rounding errors grow with s.
    - `scan_kind`: how the loop over stages is differentiated: `"checkpointed"` for reverse mode, under
      `diffrax.RecursiveCheckpointAdjoint()`; `"lax"` for forward mode, under `diffrax.ForwardMode()`;
      `"bounded"` for both, under `diffrax.DirectAdjoint()`, for more memory and time. s and $\rho$ are
      choices of the discretisation and carry no derivative.
    - `counted`: whether to tell the cost of every step to a `CountingPID`, the controller that it then needs.

    y is any pytree of real floating-point arrays, and `terms` is a `diffrax.ODETerm`. Where y or f turns NaN
    the step is short and its error estimate NaN, so that a controller with `dtmin` stops.

    **Raises** `TypeError` for complex y, `TypeError` or `ValueError` for options out of range.

    >>> import diffrax, jax.numpy as jnp
    >>> field = lambda t, y, args: -1e4 * (y - jnp.cos(t))
    >>> solution = diffrax.diffeqsolve(
    ...     diffrax.ODETerm(field), RKC2(), 0.0, 1.0, None, jnp.array([1.0]), max_steps=100,
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
    interpolation_cls: ClassVar = dfx.ThirdOrderHermitePolynomialInterpolation

    def __check_init__(self):
        _check.require_integer("max_stages", self.max_stages, 2)
        _check.require_choice("scan_kind", self.scan_kind, ("checkpointed", "lax", "bounded"))

    def order(self, terms):
        return 2

    def error_order(self, terms):
        # The local order of the estimate. diffrax's default guesses it from an embedded formula of order 1.
        return 3

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def init(self, terms, t0, t1, y0, args) -> RKC2State:
        check_real(y0)
        return _start(terms, t0, y0, args, any_direction(y0), jnp.zeros((), jnp.int32))

    def step(self, terms, t0, t1, y0, args, solver_state: RKC2State, made_jump):
        state = solver_state
        if made_jump is not False:
            state = _restart_after(made_jump, terms, t0, y0, args, state)
        h = jnp.asarray(terms.contr(t0, t1))
        stages, capped = stages_for(h, state.radius, self.max_stages)
        field = lambda t, y: terms.vf(t, y, args)
        change = change_over(field, t0, h, y0, state.field, stages, self._loop)
        y1 = jax.tree.map(jnp.add, y0, change)
        f1, image = field_and_image(field, t1, y1, state.direction)
        moved = jax.tree.map(jnp.subtract, *lax.stop_gradient((f1, state.field)))
        direction, radius = power(image, state.direction, state.radius)
        cost = stages + 1
        new = RKC2State(f1, mix(direction, moved), radius, state.evaluations + cost)

        k0, k1 = (jax.tree.map(lambda f: h.astype(f.dtype) * f, f) for f in (state.field, f1))
        error = jax.tree.map(lambda d, f0, f1: estimate(h, d, f0, f1, capped), change, state.field, f1)
        y1 = jax.tree.map(lambda y: jnp.where(capped, jnp.nan, y), y1)
        if self.counted:
            error = Priced(error, cost.astype(float))
        return y1, error, {"y0": y0, "y1": y1, "k0": k0, "k1": k1}, new, dfx.RESULTS.successful

    def _loop(self, more, stage, carry):
        most = self.max_stages - 1
        base = max(2, math.isqrt(most - 1) + 1)  # two nested loops under "bounded"
        return eqxi.while_loop(more, stage, carry, max_steps=most, kind=self.scan_kind, base=base)


def evaluations(solution: dfx.Solution) -> jax.Array:
    """Field evaluations of a solve by `RKC2` that saved `SaveAt(solver_state=True)`; an int32 scalar.

    Those of rejected steps are among them where it ran under `CountingPID` and saved `controller_state=True`.
    """
    state: Any = solution.solver_state
    controller = solution.controller_state
    return state.evaluations + (controller.rejected if isinstance(controller, Counted) else 0)


def _start(terms, t, y, args, direction, evaluations) -> RKC2State:
    """The state at (t, y), after `START` power iterations from `direction`."""
    stop = lambda x: lax.stop_gradient(x) if eqx.is_inexact_array(x) else x
    still, fixed = jax.tree.map(stop, (y, args))

    def iterate(_, carry):
        return power(field_and_image(lambda t, y: terms.vf(t, y, fixed), t, still, carry[0])[1], *carry)

    direction, radius = lax.fori_loop(0, START, iterate, (direction, jnp.zeros((), float)))
    return RKC2State(terms.vf(t, y, args), direction, radius, evaluations + 1 + 2 * START)


def _restart_after(jump, terms, t, y, args, state: RKC2State) -> RKC2State:
    def restart():
        new = _start(terms, t, y, args, state.direction, state.evaluations)
        return jax.tree.map(lambda new, old: jnp.where(jump, new, old), new, state)

    return lax.cond(eqxi.unvmap_any(jump), restart, lambda: state)
