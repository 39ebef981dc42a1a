"""Whether an optimizer has a continuous limit here: does the series of its modified equation converge?

The series log(1 + Δ) converges where every eigenvalue of the step map's derivative, less 1, is inside the unit
circle. For gradient descent they are −ηλ, so the sharpness decides; for other methods it is the sharpness as
their momentum and preconditioner see it, which is read off the map itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._completion import open_model
from jaxflow._norms import norm
from jaxflow._programs.half import widen
from jaxflow.curvature.spectrum.powers import power_iteration
from jaxflow.dynamics.base import add
from jaxflow.dynamics.modified_equations.equation import check_arguments, clock_of, warm_steps
from jaxflow.dynamics.modified_equations.step_logarithm import ModifiedState, cold_state, increment, logarithm
from jaxflow.games import VectorField
from jaxflow.optim.multi_steps import optimizer_of_updates
from jaxflow.optim.schedules import value_at

PyTree = Any

MARGINAL, NONE = 0.95, 1.05  # radii; at 1 the sum ends, and a power iteration knows it to some percent
VERDICTS = ("converges", "marginal", "no continuous limit here")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Convergence:
    r"""How fast the series of the modified equation converges, at one or more times of a run.

    - `times` (T,): the times, on the clock of the optimizer.
    - `radius` (T,): the spectral radius of $D\Phi^m - 1$. For an optimizer without a state and m = 1
      it is the step times the sharpness; memory that forgets 1 − β at each step makes it at least that.
    - `ratio` (T,): $|\Delta^4\theta| / |\Delta^3\theta|$ along the run: how much of `radius` the run excites.
    - `measure`: the name of what `radius` is (static).

    `code` (T,) is 0 where the series converges, 1 where it is marginal (the larger of radius and ratio is within
    .05 of 1), and 2 where there is no continuous limit (it is above that, or not finite). `verdict` says it in
    words. It is a pytree; under `vmap` every leaf has a leading axis.
    """

    times: jax.Array
    radius: jax.Array
    ratio: jax.Array
    measure: str = field(default="h·sharpness", metadata={"static": True})

    @property
    def code(self) -> jax.Array:
        """0, 1 or 2 at every time."""
        return _code(jnp.maximum(self.radius, self.ratio))

    @property
    def verdict(self) -> str:
        """The verdict in words, stretch by stretch of the times; needs concrete values of one run."""
        times, radius, ratio = map(np.asarray, (self.times, self.radius, self.ratio))
        codes = [int(code) for code in np.asarray(self.code)]
        shown = lambda x: f"{x.min():.2g}" if x.size == 1 else f"{x.min():.2g} … {x.max():.2g}"
        said = []
        for code, group in groupby(range(len(codes)), codes.__getitem__):
            stretch = list(group)
            since = f" from t = {times[stretch[0]]:.6g} on" if said else ""
            # The sharpness may be harmless here, and the run's own terms grow all the same.
            terms = f", ratio of terms {shown(ratio[stretch])}" if _code(radius[stretch]).max() < code else ""
            said.append(f"{VERDICTS[code]}{since}: {self.measure} = {shown(radius[stretch])}{terms}")
        return "; ".join(said)

    def __repr__(self):
        if isinstance(self.radius, Tracer) or np.ndim(self.radius) != 1:
            return f"Convergence(radius of shape {np.shape(self.radius)})"
        return f"Convergence({self.verdict})"


def _code(worst: Any) -> jax.Array:
    return jnp.where(worst < MARGINAL, 0, jnp.where(worst < NONE, 1, 2))


class Settings(NamedTuple):
    """What is static about a measurement."""

    steps: int
    every: int
    stride: int
    warmup: int
    iterations: int


def convergence(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    params: PyTree,
    *,
    steps: int = 0,
    every: int = 1,
    time_step: Any = None,
    stride: int = 1,
    warmup: int | None = None,
    iterations: int = 60,
    state: ModifiedState | None = None,
) -> Convergence:
    r"""Measure whether the modified equation's series converges, at `params` or along a run from there.

    Two numbers tell this. One is the spectral radius ρ of $D\Phi^m - 1$, where Φ is the map of a step on parameters
    and optimizer state, by a power iteration: it is the sharpness times the step as the method feels it, also in
    directions in which the run does not move. The other is the ratio of two successive terms along the run. The
    series at order p errs by about ρᵖ of the part of the velocity in that direction. Past 1 no order helps. With
    `stride=2` the radius of gradient descent is |(1 − ηλ)² − 1|, below 1 for ηλ < 1 + √2 except at ηλ = 1, where a
    step is no longer invertible. A network whose largest ηλ is above 1 has some λ near that: its verdict is
    "marginal" at best, and the pairs' flow is still accurate, as what moved in such a direction is gone after a
    step.

    **Arguments**

    - `optimizer`: any of `jaxflow.optim` or optax. For an `optax.MultiSteps`, the optimizer inside is taken.
    - `objective`: an `Objective`, any function `loss(params) -> scalar`, or a `VectorField`.
    - `params`: the start, a pytree of real or complex arrays.
    - `steps`: the number of steps of the optimizer along which to measure (static). Default: only at the start.
    - `every`: the number of steps between two measurements (static).
    - `time_step` τ: the time of a step, a number or a schedule. Default: the optimizer's learning rate, else 1.0.
    - `stride` m: the number of steps that the map Φᵐ covers (static).
    - `warmup`: the number of steps before the first measurement (static). Default: 20 where the optimizer has a
      state, else 0.
    - `iterations`: the number of power iterations, each a Jacobian-vector product of `stride` steps (static). Where
      the leading eigenvalues nearly tie, the radius is a little low.
    - `state`: a `ModifiedState` with which to begin instead of `params` and a warm-up.

    **Returns** a `Convergence`. It compiles once for all numbers, and works under `jit` and `vmap`.

    **Raises** `ValueError` for a time step ≤ 0, or `steps`, `every`, `stride`, `warmup` or `iterations` out of
    range, or an optimizer with random state; `TypeError` when `optimizer`, `objective` or `state` is of another
    kind, or for parameters that are not arrays of floats.

    A sign has derivative 0, and so radius 0, which tells nothing (`modified` warns of it). Memory that is replaced
    whole at every step (a last gradient) counts as 1.

    Source: the radius of convergence of log(1 + Δ); the preconditioned sharpness is Cohen et al.'s (2022,
    2207.14484).

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 23.0]) * x**2)
    >>> jf.dynamics.convergence(jf.optim.gd(0.1), loss, jnp.ones(2))
    Convergence(no continuous limit here: h·sharpness = 2.3)
    >>> jf.dynamics.convergence(jf.optim.gd(0.01), loss, jnp.ones(2))
    Convergence(converges: h·sharpness = 0.23)
    """
    optimizer = optimizer_of_updates(optimizer)
    check_arguments(optimizer, objective, 1, stride, warmup)
    _check.require_integer("steps", steps, 0)
    _check.require_integer("every", every, 1)
    _check.require_integer("iterations", iterations, 4)
    if state is not None and not isinstance(state, ModifiedState):
        raise TypeError(f"state must be a ModifiedState, got {type(state).__name__}.")
    objective, params = open_model(objective, params)
    params = jax.tree.map(jnp.asarray, params)
    warm = warm_steps(optimizer, params, warmup) if state is None else 0
    settings = Settings(steps, every, stride, warm, iterations)
    return _convergence(
        settings=settings,
        optimizer=optimizer,
        objective=objective,
        params=params,
        tau=clock_of(optimizer, time_step),
        state=state,
    )


@compiled(static=("settings",))
def _convergence(*, settings, optimizer, objective, params, tau, state) -> Convergence:
    change = lambda z: increment(optimizer, objective, z)
    steps = lambda z: logarithm(change, z, np.ones(settings.stride))

    def step(carry, _):
        state, time = carry
        time += jnp.asarray(value_at(tau, state.steps), time.dtype)
        return (add(state, change(state)), time), None

    def record(carry, _):
        state, time = carry
        radius = _radius(steps, state, settings.iterations)
        ahead = lax.scan(step, carry, None, length=settings.every)[0]
        return ahead, (time, radius, _ratio(steps, state, radius))

    carry = (cold_state(optimizer, params) if state is None else state), jnp.zeros([], float)
    carry, _ = lax.scan(step, carry, None, length=settings.warmup)
    _, (times, radius, ratio) = lax.scan(record, carry, None, length=1 + settings.steps // settings.every)
    descent = not jax.tree.leaves(carry[0].optimizer) and not isinstance(objective, VectorField)
    power = "" if settings.stride == 1 else f"^{settings.stride}"
    measure = "h·sharpness" if descent and not power else f"|Φ{power} − 1|"
    return Convergence(times, radius, ratio, measure)


def _radius(steps, state: ModifiedState, iterations: int) -> jax.Array:
    r"""The spectral radius of $D\Phi^m - 1$: the growth over the latter half of the iterations.

    The leading eigenvalues may be a pair that rotates, as with momentum; the mean growth is right for them too.
    """
    drawn = optax.tree.random_like(jax.random.key(0), state.params)
    start = jax.tree.map(jnp.zeros_like, state)._replace(params=drawn)
    powers = power_iteration(lambda v: jax.jvp(steps, (state,), (v,))[1], start, iterations)
    return jnp.exp(jnp.mean(jnp.log(powers.growth[iterations // 2 :])))


def _ratio(steps, state: ModifiedState, radius) -> jax.Array:
    """The fourth difference of the parameters over the third; 0 where the third is rounding."""

    def step(z, _):
        d = steps(z)
        return add(z, d), d.params

    _, increments = lax.scan(step, state, None, length=4)

    def norm_of_mix(*signs):
        mix = lambda d: jnp.tensordot(np.array(signs).astype(widen(d).dtype), widen(d), 1)
        return norm(jax.tree.map(mix, increments))

    third, fourth = norm_of_mix(1.0, -2.0, 1.0, 0.0), norm_of_mix(-1.0, 3.0, -3.0, 1.0)
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(state.params))
    rounding = 100 * eps * (norm_of_mix(1.0, 0.0, 0.0, 0.0) + radius * norm(state.params))
    return jnp.where(third <= rounding, 0.0, fourth / jnp.where(third == 0, 1.0, third))
