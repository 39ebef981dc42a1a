"""Our own explicit solvers, for what users wait for most: a flow without events, quick to compile and to run."""

import jax.numpy as jnp

from jaxflow.solve.ode.ours.chebyshev import Chebyshev, check_real
from jaxflow.solve.ode.ours.loop import Method, take_steps
from jaxflow.solve.ode.ours.step_sizes import Plan
from jaxflow.solve.ode.ours.tsit5 import Tsit5
from jaxflow.solve.ode.problem import Problem, Solution

FLOAT32 = 1e-5  # the least relative tolerance of many stages in float32: rounding over them is no smaller


def solve(problem: Problem, most_stages: int | None = None) -> Solution:
    """Solve by Tsitouras' method, or, where `most_stages` is given, by Runge–Kutta–Chebyshev's."""
    if most_stages is None:
        return _solve_with_steps(problem, Tsit5(), at_least=0.0)
    check_real(problem.start)
    return _solve_with_steps(problem, Chebyshev(most_stages), at_least=FLOAT32)


def _solve_with_steps(problem: Problem, method: Method, at_least: float) -> Solution:
    return take_steps(problem, method, _plan(problem, method, at_least))


def _plan(problem: Problem, method: Method, at_least: float) -> Plan:
    times = problem.times
    if problem.substeps is not None:
        return Plan(times[-1], ends=problem.ends()[1:])
    if problem.step_size is not None:
        return Plan(times[-1], length=problem.step_size)
    rtol, atol = (jnp.asarray(x, times.dtype) for x in (problem.rtol, problem.atol))
    if times.dtype == jnp.float32:
        rtol = jnp.maximum(rtol, at_least)
    span = times[-1] - times[0]
    return Plan(times[-1], rtol, atol, method.order, problem.smallest, span)
