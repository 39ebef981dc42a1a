"""Our own explicit solvers, for what users wait for most: a flow without events, quick to compile and to run."""

import jax.numpy as jnp

from jaxflow.solve.ode.ours.chebyshev import Chebyshev, check_real
from jaxflow.solve.ode.ours.loop import Method, take_steps
from jaxflow.solve.ode.ours.reverse import solve_with_reverse_mode
from jaxflow.solve.ode.ours.step_sizes import Plan
from jaxflow.solve.ode.ours.tsit5 import Tsit5
from jaxflow.solve.ode.problem import Problem, Solution

FLOAT32 = 1e-5  # the least relative tolerance of many stages in float32: rounding over them is no smaller


def solve(problem: Problem, most_stages: int | None = None, reverse: bool = False) -> Solution:
    """Solve by Tsitouras' method, or, where `most_stages` is given, by Runge–Kutta–Chebyshev's.

    It has a derivative in reverse mode with `reverse`, and in forward mode without.
    """
    method: Method = Tsit5()
    if most_stages is not None:
        check_real(problem.start)
        method = Chebyshev(most_stages)
    plan = _plan(problem, method, at_least=0.0 if most_stages is None else FLOAT32)
    return solve_with_reverse_mode(problem, method, plan) if reverse else take_steps(problem, method, plan)[0]


def _plan(problem: Problem, method: Method, at_least: float) -> Plan:
    times = problem.times
    if problem.substeps is not None:
        return Plan(times[-1], ends=problem.ends()[1:])
    if problem.step_size is not None:
        return Plan(times[-1], length=problem.step_size)
    rtol, atol = (jnp.asarray(x, times.dtype) for x in (problem.rtol, problem.atol))
    if at_least and times.dtype == jnp.float32:
        rtol = jnp.maximum(rtol, at_least)
    span = times[-1] - times[0]
    return Plan(times[-1], rtol, atol, method.order, problem.smallest, span)
