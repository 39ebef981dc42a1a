"""Which solver suits an equation: the stiffness of a dynamics is measured where a solve begins."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jaxflow._compiled import compiled
from jaxflow.dynamics import Dynamics
from jaxflow.solve.discrete_start import start_flow
from jaxflow.solve.ode.ours.chebyshev import any_direction, field_and_image, power
from jaxflow.solve.ode.problem import pose

PyTree = Any

# Tsit5 is stable while step × spectral radius < 3.3 and spends 6 evaluations per step, so on a stiff equation it
# needs 1.8 evaluations for each unit of (radius × time). RKC2's steps are limited by accuracy instead; its
# cost there was 160–290 evaluations on networks, which Tsit5 reaches at radius × time of about 100.
STIFF = 100.0
ITERATIONS = 30


def is_stiff(dynamics: Dynamics, params: PyTree, times: Any, state: PyTree = None) -> bool:
    """Whether an equation is stiff with a real negative spectrum, so that `RKC2` suits it better than `Tsit5`.

    The stiffness is measured at the initial state, by a power iteration on the Jacobian of the drift. RKC2 is
    stable on a thin strip along the negative real axis, so an equation whose dominant eigenvalue rotates (momentum)
    is not one for it.

    Raises `TypeError` under `jit` and `vmap`, because the choice is made on the host.
    """
    leaves = jax.tree.leaves((dynamics, params, times, state))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise TypeError('solver="auto" measures concrete numbers; under jit or vmap name the solver.')
    times = jax.device_get(times)
    radius, rayleigh = map(float, _stiffness(dynamics, params, t=times[0], state=state))
    return radius * (times[-1] - times[0]) > STIFF and rayleigh < -0.9 * radius


@compiled
def _stiffness(dynamics, params, t, state):
    """Spectral radius of the drift's Jacobian, and the Rayleigh quotient of its dominant direction."""
    state = start_flow(dynamics.build(), params)[2] if state is None else state
    problem = pose(dynamics, state, jnp.zeros(1), jnp.asarray(t, float), lambda state: ())

    def iterate(_, carry):
        direction, radius, _ = carry
        image = field_and_image(problem.drift, problem.times[0], problem.start, direction)[1]
        return *power(image, direction, radius), jnp.real(jnp.vdot(direction, image))

    start = any_direction(problem.start), jnp.zeros((), float), jnp.zeros((), problem.start.real.dtype)
    return lax.fori_loop(0, ITERATIONS, iterate, start)[1:]
