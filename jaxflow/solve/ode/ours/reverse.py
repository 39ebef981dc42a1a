"""Reverse mode through our own loop: the derivative of the steps as they were chosen, taken one step at a time.

The lengths of adaptive steps, and numbers of stages, are constants of the derivative. A step that ends at the last
time moves with it, and a value between two steps moves with its own time. A solve that is differentiated keeps a
`Tape`. The way back makes each step again from the latest state kept before it, and keeps states on that way in the
rows that have become free.

Memory: 96 states, some ten vectors of that size in the loops, and a time and an integer for each step allowed. Each
step is made again once where a solve has at most 64 steps, twice up to 2,000, three times up to 10,000 and four times
up to 300,000.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._compiled import combine, partition
from jaxflow.solve.ode.ours.backward import Given, go_back
from jaxflow.solve.ode.ours.loop import Method, take_steps
from jaxflow.solve.ode.ours.step_sizes import Plan
from jaxflow.solve.ode.ours.tape import blank_tape
from jaxflow.solve.ode.problem import Problem, Solution


def solve_with_reverse_mode(problem: Problem, method: Method, plan: Plan) -> Solution:
    """`take_steps`, which reverse mode goes back through.

    Forward mode raises `TypeError`, as it does for any function with a reverse mode of its own.
    """
    given = Given(problem.start, problem.times, problem.first, plan.last, plan.length, plan.ends)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), problem.like)
    blank = problem._replace(start=None, times=None, first=None, like=shapes)
    arrays, rest = partition((blank, plan._replace(last=None, length=None, ends=None)), _is_array)
    number = len(arrays)  # what follows closes over no tracer

    def restore(arrays: list, given: Given) -> tuple[Problem, Plan]:
        problem, plan = combine(arrays, rest)
        return (
            problem._replace(start=given.start, times=given.times, first=given.first),
            plan._replace(last=given.last, length=given.length, ends=given.ends),
        )

    @jax.custom_vjp
    def solve(arrays: list, given: Given) -> Solution:
        problem, plan = restore(arrays, given)
        return take_steps(problem, method, plan)[0]

    def forward(arrays, given):
        moves = [x.perturbed and jnp.issubdtype(x.value.dtype, jnp.inexact) for x in arrays]
        arrays, given = jax.tree.map(lambda x: x.value, (arrays, given))
        problem, plan = restore(arrays, given)
        tape = blank_tape(problem.start, problem.times, _most_steps(problem, plan))
        solution, tape = take_steps(problem, method, plan, tape)
        moving = {i: x for i, x in enumerate(arrays) if moves[i]}
        still = {i: x for i, x in enumerate(arrays) if not moves[i]}
        return solution, (moving, still, given, tape)

    def backward(kept, cotangent: Solution):
        moving, still, given, tape = kept

        def problem_of(moving) -> Problem:
            every = moving | still
            return restore([every[i] for i in range(number)], given)[0]

        found, moved = go_back(problem_of, moving, method, given, tape, cotangent)
        return [moved.get(i) for i in range(number)], found

    solve.defvjp(forward, backward, symbolic_zeros=True)
    return solve(arrays, given)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray))


def _most_steps(problem: Problem, plan: Plan) -> int:
    """The number of steps allowed, for each of which a time is kept."""
    limits = [] if problem.max_steps is None else [problem.max_steps]
    limits += [] if plan.ends is None else [plan.ends.size]
    if not limits:
        raise ValueError(
            "max_steps must be a number where integrate is differentiated in reverse mode, got None."
        )
    return min(limits)
