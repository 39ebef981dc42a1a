"""The loop of an explicit solve: steps, their control, and values read off at the times asked.

What a user waits for is its compilation. So a program holds the field once (in a loop over the stages) and the record
twice, the state is one vector, and nothing calls back to the host, so that compiled programs can be kept on disk.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow.solve.ode.ours.step_sizes import Plan, Sizes
from jaxflow.solve.ode.ours.tape import Tape
from jaxflow.solve.ode.problem import Problem, Solution, blank_unreached
from jaxflow.solve.trajectories.trajectory import FINISHED, MAX_STEPS

PyTree = Any
Field = Callable[[Any, jax.Array], jax.Array]


class Method(Protocol):
    """A one-step method on vectors (n,). The first round of the loop makes no step but what the steps build on."""

    @property
    def order(self) -> int:
        """The order of the error estimate."""
        ...

    def begin(self, y: jax.Array) -> PyTree:
        """The memory before the first round."""
        ...

    def step(self, field: Field, starting: jax.Array, t, h, y, memory) -> tuple[Any, ...]:
        """(end, error, memory, dense, evaluations) of a step of length h; where `starting`, of none."""
        ...

    def slope(self, memory: PyTree) -> jax.Array:
        """The field where the next step begins."""
        ...

    def interpolate(self, s, h, y, dense) -> jax.Array:
        """The vector at the share `s` of the step."""
        ...

    def choice(self, h, memory: PyTree) -> jax.Array:
        """What else is chosen of a step, an integer; it is made again by the same choice."""
        ...

    def remake(self, field: Field, choice, t, h, y, dense: jax.Array) -> tuple[jax.Array, PyTree]:
        """(end, dense) of a step that was made before, from t and y alone; whether the latter is of use."""
        ...

    def pull(self, drift, moving, choice, at, dense: jax.Array, end, stages) -> tuple[Any, ...]:
        """The cotangents of (moving, t, h, y) in the step `at`, by those of what `remake` returns.

        `drift(moving, t, y)` is the field as a function of what it was made with.
        """
        ...


class _Carry(NamedTuple):
    t: jax.Array
    y: jax.Array
    memory: PyTree
    sizes: Sizes
    steps: jax.Array
    evaluations: jax.Array
    code: jax.Array
    saved: jax.Array
    values: PyTree
    tape: Tape | None


def take_steps(
    problem: Problem, method: Method, plan: Plan, tape: Tape | None = None
) -> tuple[Solution, Tape | None]:
    """Solve a problem by steps of `method`, as long as `plan` says, and note them on a `tape`.

    A lane that is not alive makes no step. Under `vmap` the loop ends with its last lane. The others stand still, and
    nothing copies what they have saved.
    """
    field, alive, times, max_steps = problem.drift, problem.alive, problem.times, problem.max_steps
    last, number = times[-1], times.size

    def goes_on(c: _Carry):
        more = alive & (c.t < last) & (c.code == FINISHED)
        return more if max_steps is None else more & (c.steps < max_steps)

    def blank_value(leaf: jax.Array):
        return jnp.asarray(jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else 0, leaf.dtype)

    def round_(c: _Carry) -> _Carry:
        active, starting = goes_on(c), c.evaluations == 0
        end, h = plan.step(c.sizes, c.t, c.steps)
        y, error, memory, dense, cost = method.step(field, starting, c.t, h, c.y, c.memory)
        kept, code, sizes = plan.judge(
            c.sizes, starting, (c.t, end, h), (c.y, y, error), method.slope(memory)
        )
        kept, moved = active & kept & ~starting, active & ~starting

        def is_pending(where):
            return kept & (where[0] < number) & (times[jnp.minimum(where[0], number - 1)] <= end)

        def save(where):
            i, values = where
            here, left = is_pending(where), i < number
            line = jnp.where(left, i, 0)
            value = problem.keep(method.interpolate((times[line] - c.t) / h, h, c.y, dense))

            def put(xs, x, x0):
                # A lane with nothing to save writes what is there: nothing yet, or the first record.
                x = jnp.where(here, x, jnp.where(left, blank_value(x0), x0))
                return lax.dynamic_update_index_in_dim(xs, x, line, 0)

            return i + here.astype(i.dtype), jax.tree.map(put, values, value, problem.first)

        saved, values = lax.while_loop(lambda where: any_lane(is_pending(where)), save, (c.saved, c.values))
        choose = lambda here, new, old: jax.tree.map(lambda a, b: jnp.where(here, a, b), new, old)
        t, y, choice = jnp.where(kept, end, c.t), choose(kept, y, c.y), method.choice(h, c.memory)
        return _Carry(
            t=t,
            y=y,
            memory=choose(kept | (active & starting), memory, c.memory),
            sizes=choose(active, sizes, c.sizes),
            steps=c.steps + moved.astype(jnp.int32),
            evaluations=c.evaluations + jnp.where(active, cost, 0).astype(jnp.int32),
            code=jnp.where(moved & ~(kept & (end >= last)), code, c.code),
            saved=saved,
            values=values,
            tape=None if c.tape is None else c.tape.note(kept | (active & starting), t, y, choice),
        )

    def empty_lines(leaf: jax.Array) -> jax.Array:
        line = jnp.arange(number).reshape(-1, *(1 for _ in leaf.shape)) == 0
        return jnp.where(line, blank_unreached(leaf, alive), blank_value(leaf))

    none = jnp.zeros((), jnp.int32)
    begun = _Carry(
        t=times[0],
        y=problem.start,
        memory=method.begin(problem.start),
        sizes=plan.begin(),
        steps=none,
        evaluations=none,
        code=jnp.asarray(FINISHED, jnp.int32),
        saved=none + 1,
        values=jax.tree.map(empty_lines, problem.first),
        tape=tape,
    )
    done = lax.while_loop(lambda c: any_lane(goes_on(c)), round_, begun)
    short = alive & (done.t < last) & (done.code == FINISHED)
    code = jnp.where(short, MAX_STEPS, done.code)
    return Solution(done.values, done.y, done.t, code, done.steps, done.evaluations), done.tape


@jax.custom_batching.custom_vmap
def any_lane(flag: jax.Array) -> jax.Array:
    """Whether a flag is up in any lane of a `vmap`: no lane's own, so that a loop on it needs no selects."""
    return flag


@any_lane.def_vmap
def _any_lane_of_batch(axis_size, in_batched, flag):
    return any_lane(flag.any(0) if in_batched[0] else flag), False
