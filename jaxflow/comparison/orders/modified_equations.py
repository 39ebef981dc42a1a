"""Order studies: how fast the modified equations of an optimizer approach its iterates, order by order.

All step sizes and orders share one compiled solve, as such a study spends most of its time on compiling. The orders
differ only in the shares of the increments, which are an argument of it.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer

from jaxflow._compiled import compiled, transfers
from jaxflow._completion import open_model
from jaxflow._norms import difference, norm
from jaxflow._text.text_table import text_table
from jaxflow._traceable import traceable
from jaxflow.comparison.orders.slope import Order, fit
from jaxflow.comparison.orders.study_plan import RTOL, Plan, dtype_of, plan
from jaxflow.dynamics.base import Field, scale
from jaxflow.dynamics.modified_equations.equation import HIGHEST
from jaxflow.dynamics.modified_equations.smoothness import roughness
from jaxflow.dynamics.modified_equations.step_logarithm import (
    cold_state,
    increment,
    logarithm,
    modified_state,
    weights,
)
from jaxflow.optim import Optimizer
from jaxflow.solve.integration import integrate
from jaxflow.solve.iteration import iterate
from jaxflow.solve.trajectories.trajectory import as_parameters

PyTree = Any

PADDED = (4, HIGHEST)  # lengths that shares are padded to, so that orders share a program
ROUGH = 1e-8  # the tolerance where an update has kinks and jumps, each of which costs a solver steps
MOST = 256  # steps of the solver; a smooth optimizer takes some tens


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OrderStudy:
    """Errors of the modified equations on a ladder of step sizes, and the slopes at which they fall.

    - `fits`: for every order the `Order` of its errors (n,), relative to the distance travelled.
    - `used`: for every order the flags (n,) of the errors to which the slope is fitted. Errors at the floor of
      rounding, and those of a run that diverged, are left out.
    """

    fits: dict[int, Order]
    used: dict[int, jax.Array]

    @classmethod
    def of(cls, parts: Iterable[tuple[int, Order, jax.Array]]) -> "OrderStudy":
        """A study of its orders, each with its fit and the points used."""
        parts = list(parts)
        return cls({order: fitted for order, fitted, _ in parts}, {order: used for order, _, used in parts})

    @property
    def slopes(self) -> dict[int, jax.Array]:
        """The fitted slope of every order."""
        return {order: found.slope for order, found in self.fits.items()}

    def __repr__(self):
        first = next(iter(self.fits.values()))
        if isinstance(first.slope, Tracer) or np.ndim(first.slope):
            return f"OrderStudy(orders {', '.join(map(str, self.fits))})"
        text = text_table(self._lines(first), head=0, left=(), least=12)
        if all(np.all(used) for used in self.used.values()):
            return text
        return f"{text}\n* not fitted: at the floor of rounding, diverged, or too rough to solve for"

    def _lines(self, first: Order) -> list[list[str]]:
        mark = lambda error, used: (f"{error:.2e}" if np.isfinite(error) else "—") + (" " if used else "*")
        columns = [
            [mark(e, u) for e, u in zip(found.errors, self.used[order], strict=True)]
            for order, found in self.fits.items()
        ]
        sizes = [f"{h:.5g}" for h in first.step_sizes]
        lines = [["step size", *(f"order {order} " for order in self.fits)]]
        lines += [list(row) for row in zip(sizes, *columns, strict=True)]
        slope = lambda found: (
            f"{found.slope:.2f} ± {found.uncertainty:.2f} " if found.slope == found.slope else "— "
        )
        lines.append(["slope", *map(slope, self.fits.values())])
        if not all(np.all(used) for used in self.used.values()):
            counts = (f"{np.sum(used)} of {np.size(used)} " for used in self.used.values())
            lines.append(["fitted", *counts])
        return lines


def order_study(
    family: Callable[[Any], optax.GradientTransformation],
    objective: Callable[[PyTree], jax.Array],
    params: PyTree,
    *,
    orders: Sequence[int] = (1, 2, 3, 4),
    time: float | None = None,
    warmup: float | None = None,
    step_sizes: Any = None,
) -> OrderStudy:
    r"""Measure how the error of `jaxflow.dynamics.modified` falls with the step size, for each order p: as $h^p$.

    For every h of a ladder the optimizer `family(h)` takes warmup/h steps, and then time/h more, to θ. From where
    the warm-up ended the modified equation of order p is solved over `time`, to $\theta_p$, by an 8th-order method
    with tolerance 1e-13. The error is $|\theta_p - \theta|$ over the distance that θ travelled in `time`, and its
    slope is that of `order_of_accuracy`.

    **Arguments**

    - `family`: a function `family(h)` that returns the optimizer whose steps take the time h, traced:
      `family_of(optimizer)`, or any function that returns an optimizer of `jaxflow.optim` or one made `traceable`.
      It must have a limit as h → 0.
    - `objective`: an `Objective`, evaluated on all data, or any function `loss(params) -> scalar`.
    - `params`: the start, a pytree of float64 or float32 arrays.
    - `orders`: distinct integers from 1 to 8.
    - `time`: the length of the study. Default: 40 steps of the family's own optimizer; 1.0 for a function.
    - `warmup`: the time before it; default time/2. Averages that began at zero are smooth in time only some steps
      later.
    - `step_sizes` (n,), n ≥ 3: each must divide `time` and `warmup`. Default: 8 of them, time/80 … time/960, where
      warmup/time is a simple fraction.

    **Returns** an `OrderStudy`, which prints as a table. Slopes fall short of p where the ladder is too coarse
    (some average forgets within few steps, or h times the (preconditioned) sharpness is not small), and where the
    optimizer is not smooth, of which there is a warning.

    **Raises** `TypeError` when `family`, `objective` or `params` is of another kind; `ValueError` for orders, times
    or step sizes outside the ranges above, or an optimizer that is random.

    Errors below (tolerance + 100 ε)·|θ|, of rounding and the solver, are left out of the fit, and marked. So are
    runs that diverge or need over 256 steps of the solver, as where an optimizer has jumps or kinks, whose
    tolerance is 1e-8. In float32 (where the tolerance is 1e-6) only orders 1 and 2 rise above rounding; others are
    refused. Two programs are compiled, one for the iterates and one for all orders up to 4 (or up to 8), and no
    more for other numbers of the same shapes.

    Source of the series: Hairer, Lubich & Wanner (2006), Geometric Numerical Integration, IX.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: jnp.sum(jnp.cosh(x))
    >>> study = jf.order_study(jf.family_of(jf.optim.gd(0.1)), loss, jnp.array([1.0, -0.5]), orders=(1, 2))
    >>> {order: round(float(slope), 1) for order, slope in study.slopes.items()}
    {1: 1.0, 2: 2.0}
    """
    if not callable(objective):
        raise TypeError(f"objective must be an Objective or a function of the parameters, got {objective!r}.")
    objective, params = open_model(objective, params)
    params = as_parameters(params)
    chosen = plan(family, params, orders, time, warmup, step_sizes)
    return OrderStudy.of(fit_each_order(chosen, family, objective, params))


def fit_each_order(
    chosen: Plan, family: Callable, objective: Callable, params: PyTree
) -> Iterator[tuple[int, Order, jax.Array]]:
    """Yield each order with its fit and the points used, as soon as it is done; the iterates are common to all."""
    orders, time, h, before, after = chosen
    optimizers, rough = _members(family, h, params)
    rtol = max(RTOL[dtype_of(params)], ROUGH if rough else 0.0)
    on_cpu = jax.default_backend() == "cpu"
    starts, ends = _iterates(
        sequential=on_cpu,
        optimizers=optimizers,
        step_sizes=h,
        before=before,
        after=after,
        objective=objective,
        params=params,
    )
    length = next(length for length in PADDED if max(orders) <= length)
    for order in orders:
        shares = jax.device_put(np.pad(weights(order), (0, length - order)))
        errors, floor = _errors(
            sequential=on_cpu,
            shares=shares,
            optimizers=optimizers,
            step_sizes=h,
            starts=starts,
            ends=ends,
            time=time,
            objective=objective,
            rtol=rtol,
        )
        used = errors > floor
        yield order, fit(h, errors, used), used


def _members(family: Callable, h: jax.Array, params: PyTree) -> tuple[Optimizer, bool]:
    """The optimizers of the ladder stacked in one, so that their numbers are arrays, and whether they are rough."""
    first = family(float(jax.device_get(h)[0]))
    if not isinstance(first, Optimizer):
        raise TypeError(
            "family must return an optimizer of jaxflow.optim, or one made by jaxflow.optim.traceable, "
            f"got {type(first).__name__}."
        )
    rough = roughness(first, params, jax.eval_shape(first.init, params))
    if rough is not None:
        warnings.warn(rough, stacklevel=5)
    # Not weakly typed, as defaults would be: that would compile once more.
    with transfers():
        return jax.tree.map(lambda x: x.astype(x.dtype), jax.vmap(family)(h)), rough is not None


@traceable
def truncated_equation(optimizer, objective, shares, time_step):
    """`modified`, of the order that its shares give: they are numbers here, so that all orders are one program."""
    step = lambda state: increment(optimizer, objective, state)
    return Field(
        drift=lambda t, state: scale(1 / time_step, logarithm(step, state, shares)),
        init=lambda params: cold_state(optimizer, params),
        params=lambda state: state.params,
    )


@compiled(static=("sequential",))
def _iterates(*, sequential, optimizers, step_sizes, before, after, objective, params):
    """Where the warm-up ends, as the state of a modified equation, and the parameters at the end; leaves (n, …)."""

    def run_member(member):
        optimizer, h, before, after = member
        walk = lambda params, steps, state: iterate(
            optimizer, objective, params, steps=steps, every=None, time_step=h, state=state
        )
        warm = walk(params, before, None)
        return modified_state(warm), walk(warm.params, after, warm.state).params

    return _map_members(sequential, run_member, (optimizers, step_sizes, before, after))


@compiled(static=("sequential",))
def _errors(*, sequential, shares, optimizers, step_sizes, starts, ends, time, objective, rtol):
    """Relative errors (n,) of one order, and what rounding and the solver may contribute to them (n,)."""
    eps = jnp.finfo(jnp.result_type(*jax.tree.leaves(ends))).eps

    def solve_member(member):
        optimizer, h, start, end = member
        equation = truncated_equation(optimizer, objective, shares, h)
        times = jnp.stack([jnp.zeros_like(h), jnp.asarray(time, h.dtype)])
        import diffrax

        flow = integrate(
            equation, start.params, times, state=start, solver=diffrax.Dopri8(), rtol=rtol, max_steps=MOST
        )
        gap = lambda other: norm(jax.tree.map(difference, other, end))
        travelled = gap(start.params)
        # A value not reached is NaN.
        error = gap(jax.tree.map(lambda x: x[-1], flow.values)) / travelled
        return error, (rtol + 100 * eps) * norm(end) / travelled

    return _map_members(sequential, solve_member, (optimizers, step_sizes, starts, ends))


def _map_members(sequential: bool, one: Callable, members: Any) -> Any:
    """On a CPU one member at a time, as their steps differ twelvefold and all would wait for the longest."""
    return lax.map(one, members) if sequential else jax.vmap(one)(members)
