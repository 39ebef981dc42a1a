"""Whether an optimizer's update is smooth, read off its jaxpr.

A modified equation made of differences of `update` is as accurate as that map is smooth, and exists only where it
is deterministic. So `update` is traced, on shapes alone, and what depends on a step count and what on the gradient
or the floats of the state is followed through its operations. A comparison that only keeps a division or a root
from failing (`norm <= 1e-6`, `v > 0` where v cannot be negative) does not count, nor does a rule for the first step,
which is part of a transient anyway.
"""

import warnings
from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr

from jaxflow._programs.jaxprs import COMPARISONS, KEYS, Reader, Value, is_a, is_guarded, join_values
from jaxflow.optim.optimizer import Optimizer

PyTree = Any

# What a value depends on; SINGLE marks what is so at single step counts, every k of them perhaps.
COUNT, GRADIENT, SINGLE = 1, 2, 4
RANDOM = "optimizer must be deterministic, got {}, which draws random numbers."

# From mild to severe. Each was measured on a problem in one dimension (test_smoothness.py, in tests/).
PLATEAUS = {
    "kink": "is of second order in the time step at best once that switches, whatever the order asked for",
    "jump": "stops falling at about one step's jump, first order in the time step, whatever the order asked for",
    "single": "need not fall with the time step at all: no differential equation sees single steps",
}
JUMPS = {"sign": "takes the sign of", "rem": "takes a remainder of"}
JUMPS |= dict.fromkeys(("round", "floor", "ceil"), "rounds")
JUMPS |= dict.fromkeys(("argmax", "argmin", "sort", "top_k", "approx_top_k"), "sorts entries of")
KINKS = dict.fromkeys(("max", "min", "clamp", "reduce_max", "reduce_min"), "clips, or takes a maximum of,")
KINKS |= {"abs": "takes the absolute value of"}


def refuse_randomness(optimizer: optax.GradientTransformation, state: PyTree = None) -> None:
    """Raise `ValueError` for a PRNG key in an optimizer or its state, `TypeError` for a state not made of arrays."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not hasattr(leaf, "dtype") and not isinstance(leaf, (bool, int, float, complex)):
            got = f"{type(leaf).__name__} at state{jax.tree_util.keystr(path)}"
            raise TypeError(f"The state of {_name(optimizer)} must be a pytree of arrays, got {got}.")
    own = jax.tree.leaves(optimizer) if isinstance(optimizer, Optimizer) else []
    if any(is_a(leaf, *KEYS) for leaf in (*own, *jax.tree.leaves(state))):
        raise ValueError(RANDOM.format(_name(optimizer)))


def warn_if_rough(optimizer: optax.GradientTransformation, params: PyTree, state: PyTree) -> None:
    """Warn, in one sentence, where the error of a modified equation will stop falling; raises as `roughness`."""
    if message := roughness(optimizer, params, state):
        warnings.warn(message, stacklevel=3)


def roughness(optimizer: optax.GradientTransformation, params: PyTree, state: PyTree) -> str | None:
    """What in the update is least smooth and the plateau that follows, in one sentence; `None` for a smooth one.

    `params` and `state` may be shapes or tracers. A hyperparameter under `jit` may be any number at least 0. Raises
    `ValueError` for an update that draws random numbers, `TypeError` for one that takes no float step count.
    """
    refuse_randomness(optimizer, state)
    jaxpr, leaves = _trace_update(optimizer, params, state), jax.tree.leaves(state)
    inputs = [Value(COUNT, None, True)] * len(leaves)
    inputs += [Value(GRADIENT)] * (len(jaxpr.in_avals) - len(leaves))
    # What no update makes depend on a gradient, such as the sum of an average's weights, is one of the step count.
    # What the update keeps at least 0 if it was so is taken to start so: counts, second moments, their maxima. And a
    # flag that it sets to a constant ("is this the first step?") is that constant.
    reader, kept = Roughness(), []
    while kept != inputs:
        reader, inputs = Roughness(), kept or inputs
        outputs = reader.read(jaxpr, inputs)[: len(leaves)]
        kept = [*map(_stay, inputs, outputs, leaves), *inputs[len(outputs) :]]
    if "random" in reader.found:
        raise ValueError(RANDOM.format(_name(optimizer)))
    for kind in reversed(PLATEAUS):
        if what := reader.found.get(kind):
            return f"The update of {_name(optimizer)} {what}, so the error of its modified equation {PLATEAUS[kind]}."
    return None


def _stay(before: Value, after: Value, leaf: Any) -> Value:
    depends = before.depends if after.depends or not is_a(leaf, jnp.bool_) else 0
    if is_a(leaf, jnp.inexact):
        depends |= after.depends & GRADIENT
    return before._replace(depends=depends, nonnegative=before.nonnegative and after.nonnegative)


def _name(optimizer: optax.GradientTransformation) -> str:
    """The constructor's name, if it is known; the numbers may be tracers."""
    if isinstance(optimizer, Optimizer):
        return optimizer.constructor.__name__
    return getattr(optimizer.update, "__qualname__", "").split(".")[0] or "the optimizer"


def _trace_update(optimizer: optax.GradientTransformation, params: PyTree, state: PyTree) -> ClosedJaxpr:
    """(state, gradient, params, value) -> (state, updates) on a loss ½p² + ¼p⁴, as another may have kinks too."""
    update = optax.with_extra_args_support(optimizer).update
    square = lambda p: jnp.real(p * jnp.conj(p))
    quartic = lambda p: jnp.sum(0.5 * square(p) + 0.25 * square(p) ** 2)
    value_fn = lambda params, grad_fn=None: sum(map(quartic, jax.tree.leaves(params)), jnp.zeros([]))
    grad_fn = lambda params: jax.tree.map(lambda p: p * (1 + square(p)), params)

    def step(state, grad, params, value):
        extra = {"value": value, "grad": grad, "value_fn": value_fn, "grad_fn": grad_fn}
        return update(grad, state, params, **extra)[::-1]

    lifted = lambda dtype: jnp.result_type(float) if jnp.issubdtype(dtype, jnp.integer) else dtype
    lift = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, lifted(leaf.dtype))
    params, state = jax.eval_shape(lambda *trees: trees, params, state)
    trace = lambda state: jax.make_jaxpr(step)(state, params, params, jax.eval_shape(value_fn, params))
    try:
        return trace(jax.tree.map(lift, state))
    except Exception as error:
        trace(state)  # what fails on integers too says itself why
        message = f"The update of {_name(optimizer)} takes no step count that is a float"
        raise TypeError(f"{message}: {str(error).splitlines()[0].rstrip('.: ')}.") from error


class Roughness(Reader):
    """Notes the first of each kind of roughness that it `found`."""

    def __init__(self):
        self.found: dict[str, str] = {}

    def note(self, kind: str, what: str, depends: int) -> None:
        if depends:
            of = "the gradient or its state" if depends & GRADIENT else "the step count or a flag"
            self.found.setdefault(kind, f"{what} {of}")

    def apply(self, eqn, inputs: list[Value]) -> list[Value]:
        if eqn.primitive.name.startswith(("random_", "threefry", "rng_")):
            self.found["random"] = eqn.primitive.name
        return super().apply(eqn, inputs)

    def finish_loop(self, carry: list[Value], condition: Value) -> list[Value]:
        self.note("jump", "runs a loop as long as is said by", condition.depends)
        return super().finish_loop(carry, condition)

    def choice(self, condition: Value, cases: Sequence[Value]) -> Value:
        """Pieces of a schedule, which depend on the step count alone, are assumed to join continuously."""
        among, of = reduce(join_values, cases).depends, condition.depends
        if (of and not among) or (of & COUNT and among & GRADIENT):
            self.note("single" if of & SINGLE else "jump", "branches on", of)
        elif of & GRADIENT:
            self.note("kink", "branches on", of)
        return super().choice(condition, cases)

    def apply_elementary(self, eqn, inputs: list[Value]) -> Value:
        name, value = eqn.primitive.name, super().apply_elementary(eqn, inputs)
        depends = value.depends
        if name == "select_n":
            return value
        if name in COMPARISONS:
            # x != x asks for NaN, and floats that depend on a gradient are equal by no more than chance.
            equal, itself = name in ("eq", "ne"), eqn.invars[0] is eqn.invars[-1]
            first_step = depends == COUNT and any(value.number in (0, 1) for value in inputs)
            if is_guarded(inputs) or itself or (equal and (depends & GRADIENT or first_step)):
                return Value()
            return Value(depends | SINGLE if depends and equal else depends)
        if name in JUMPS:
            self.note("jump", JUMPS[name], depends)
        elif name in KINKS and depends & GRADIENT and not is_guarded(inputs):
            self.note("kink", KINKS[name], depends)
        elif name == "convert_element_type":
            was, now = (is_a(variable.aval, jnp.inexact) for variable in (eqn.invars[0], eqn.outvars[0]))
            if now and not was and depends != COUNT:  # a condition as a factor
                self.note("single" if depends & SINGLE else "jump", "branches on", depends)
            elif was and not now:
                self.note("jump", "rounds", depends)
        if name == "rem" and depends & COUNT:  # what is asked of it holds at times
            return value._replace(depends=depends | SINGLE)
        return value
