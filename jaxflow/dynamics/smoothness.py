"""Whether an optimizer's update is smooth, read off its jaxpr.

A modified equation made of differences of `update` is as accurate as that map is smooth, and exists only where it
is deterministic. So `update` is traced, on shapes alone, and what depends on a step count and what on the gradient
or the floats of the state is followed through its operations. A comparison that only keeps a division or a root
from failing (`norm <= 1e-6`, `v > 0` where v cannot be negative) is no condition, nor is a rule for the first step,
which is part of a transient anyway.
"""

import warnings
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxflow.optim.optimizer import Optimizer

PyTree = Any

# What a value depends on; SINGLE marks what is so at single step counts, every k of them perhaps.
COUNT, GRADIENT, SINGLE = 1, 2, 4
RANDOM = "optimizer must be deterministic, got {}, which draws random numbers."
KEYS = (jax.dtypes.prng_key, jnp.unsignedinteger)
TINY, HUGE = 1e-6, 1e9  # beyond these a number in a comparison is there for safety

# From mild to severe. Each was measured on a problem in one dimension (tests/dynamics/test_smoothness.py).
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
# Operations that hand a known number on; that are never negative; that are not where no operand is.
SAME = {"broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "copy", "transpose"}
POSITIVE = {"sqrt", "rsqrt", "abs", "square", "exp", "exp2", "logistic"}
MONOTONE = {*SAME, "add", "mul", "div", "min", "max", "pow", "integer_pow", "dot_general", "reduce_sum"}


class Value(NamedTuple):
    """What is known of an array: what it depends on, its value if that is one number, whether it is at least 0."""

    depends: int = 0
    number: float | None = None
    nonnegative: bool = False


def refuse_randomness(optimizer: optax.GradientTransformation, state: PyTree = None) -> None:
    """Raise `ValueError` for a PRNG key in an optimizer or its state, `TypeError` for no array in the state."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not hasattr(leaf, "dtype") and not isinstance(leaf, (bool, int, float, complex)):
            got = f"{type(leaf).__name__} at state{jax.tree_util.keystr(path)}"
            raise TypeError(f"The state of {_name(optimizer)} must be a pytree of arrays, got {got}.")
    own = jax.tree.leaves(optimizer) if isinstance(optimizer, Optimizer) else []
    if any(_is(leaf, *KEYS) for leaf in (*own, *jax.tree.leaves(state))):
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
    jaxpr, leaves = _traced(optimizer, params, state), jax.tree.leaves(state)
    inputs = [Value(GRADIENT if _is(leaf, jnp.inexact) else COUNT, None, True) for leaf in leaves]
    inputs += [Value(GRADIENT)] * (len(jaxpr.in_avals) - len(leaves))
    # What the update keeps at least 0 if it was so is taken to start so: counts, second moments, their maxima. And a
    # flag that it sets to a constant ("is this the first step?") is that constant.
    reader, kept = Reader(), []
    while kept != inputs:
        reader, inputs = Reader(), kept or inputs
        outputs = reader.read(jaxpr, inputs)[: len(leaves)]
        kept = [*map(_stay, inputs, outputs, leaves), *inputs[len(outputs) :]]
    if "random" in reader.found:
        raise ValueError(RANDOM.format(_name(optimizer)))
    for kind in reversed(PLATEAUS):
        if what := reader.found.get(kind):
            return f"The update of {_name(optimizer)} {what}, so the error of its modified equation {PLATEAUS[kind]}."
    return None


def _stay(before: Value, after: Value, leaf: Any) -> Value:
    depends = before.depends if after.depends or not _is(leaf, jnp.bool_) else 0
    return before._replace(depends=depends, nonnegative=before.nonnegative and after.nonnegative)


def _name(optimizer: optax.GradientTransformation) -> str:
    """The constructor's name, as far as it can be known; the numbers may be tracers."""
    if isinstance(optimizer, Optimizer):
        return optimizer._static[0].__name__
    return getattr(optimizer.update, "__qualname__", "").split(".")[0] or "the optimizer"


def _is(leaf: Any, *kinds: Any) -> bool:
    return any(jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), kind) for kind in kinds)


def _traced(optimizer: optax.GradientTransformation, params: PyTree, state: PyTree) -> ClosedJaxpr:
    """(state, gradient, params, value) -> (state, updates) on a quadratic loss, as a loss may have kinks too."""
    update = optax.with_extra_args_support(optimizer).update
    square = lambda p: 0.5 * jnp.sum(jnp.real(p * jnp.conj(p)))
    value_fn = lambda params, grad_fn=None: sum(map(square, jax.tree.leaves(params)), jnp.zeros([]))

    def step(state, grad, params, value):
        extra = {"value": value, "grad": grad, "value_fn": value_fn, "grad_fn": lambda params: params}
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


def _known(constant: Any) -> Value:
    """A constant's value. One that has none yet, a hyperparameter under `jit`, is taken as not negative."""
    if isinstance(constant, Tracer) or np.size(constant) != 1 or _is(constant, *KEYS):
        return Value(nonnegative=True)
    number = float(np.real(np.asarray(constant)).item())
    return Value(0, number, number >= 0)


def _either(a: Value, b: Value) -> Value:
    number = a.number if a.number == b.number else None
    return Value(a.depends | b.depends, number, a.nonnegative and b.nonnegative)


def _programs(eqn) -> list[ClosedJaxpr]:
    """The programs in an operation, but for those of a linear solve, which is smooth however it pivots."""
    is_program = lambda leaf: isinstance(leaf, (ClosedJaxpr, Jaxpr))
    params = [] if eqn.primitive.name == "custom_linear_solve" else list(eqn.params.values())
    found = filter(is_program, jax.tree.leaves(params, is_leaf=is_program))
    return [ClosedJaxpr(program, []) if isinstance(program, Jaxpr) else program for program in found]


def _guards(a: Value, b: Value) -> bool:
    """Whether the first is a number with which to compare the second is mere safety."""
    c = np.nan if a.number is None else a.number
    return abs(c) >= HUGE or 0 < c <= TINY or (c == 0 and b.nonnegative)


def _is_nonnegative(eqn, inputs: Sequence[Value]) -> bool:
    name = eqn.primitive.name
    if name == "sub":  # of hyperparameters, such as 1 - beta
        return not any(value.depends for value in inputs)
    even = name == "integer_pow" and eqn.params["y"] % 2 == 0
    squared = name in ("mul", "dot_general") and eqn.invars[0] is eqn.invars[1]
    return name in POSITIVE or even or squared or (name in MONOTONE and all(v.nonnegative for v in inputs))


class Reader:
    """Follows dependences through a jaxpr; notes the first of each kind that it `found`."""

    def __init__(self):
        self.found: dict[str, str] = {}

    def note(self, kind: str, what: str, depends: int) -> None:
        if depends:
            of = "the gradient or its state" if depends & GRADIENT else "the step count or a flag"
            self.found.setdefault(kind, f"{what} {of}")

    def read(self, closed: ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
        """What is known of the outputs of a program."""
        jaxpr = closed.jaxpr
        values = [*map(_known, closed.consts), *inputs]
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
        look = lambda variable: _known(variable.val) if isinstance(variable, Literal) else known[variable]
        for eqn in jaxpr.eqns:
            known.update(zip(eqn.outvars, self.apply(eqn, [*map(look, eqn.invars)]), strict=True))
        return [*map(look, jaxpr.outvars)]

    def apply(self, eqn, inputs: list[Value]) -> list[Value]:
        name, programs, params = eqn.primitive.name, _programs(eqn), eqn.params
        if name.startswith(("random_", "threefry", "rng_")):
            self.found["random"] = name
        if name == "cond":
            outputs = [self.read(branch, inputs[1:]) for branch in programs]
            return [self.choice(inputs[0], cases) for cases in zip(*outputs, strict=True)]
        if name == "scan":
            first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
            return self.repeat(programs[0], inputs[:first], inputs[first:last], inputs[last:])
        if name == "while":
            first, last = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
            carry = self.repeat(params["body_jaxpr"], inputs[first:last], inputs[last:])
            depends = self.read(params["cond_jaxpr"], [*inputs[:first], *carry])[0].depends
            self.note("jump", "runs a loop as long as is said by", depends)
            return [value._replace(depends=value.depends | depends) for value in carry]
        if [len(program.in_avals) for program in programs] == [len(inputs)]:
            return self.read(programs[0], inputs)
        for program in programs:
            self.read(program, [reduce(_either, inputs)] * len(program.in_avals))
        return [self.elementary(eqn, inputs)] * len(eqn.outvars)

    def repeat(self, body, constants, carry, entries=()) -> list[Value]:
        """A body over and over, until no more is learnt about what it carries."""
        while True:
            outputs = self.read(body, [*constants, *carry, *entries])
            joined = [*map(_either, carry, outputs)]
            if joined == carry:
                return [*carry, *outputs[len(carry) :]]
            carry = joined

    def choice(self, condition: Value, cases: Sequence[Value]) -> Value:
        """One of several values. Pieces of a schedule, functions of the step count alone, are taken to join up."""
        either, of = reduce(_either, cases), condition.depends
        if (of and not either.depends) or (of & COUNT and either.depends & GRADIENT):
            self.note("single" if of & SINGLE else "jump", "branches on", of)
        elif of & GRADIENT:
            self.note("kink", "branches on", of)
        return either._replace(depends=either.depends | of)

    def elementary(self, eqn, inputs: list[Value]) -> Value:
        name, depends = eqn.primitive.name, reduce(_either, inputs, Value()).depends
        if name == "select_n":
            return self.choice(inputs[0], inputs[1:])
        guards = len(inputs) == 2 and (_guards(*inputs) or _guards(*inputs[::-1]))
        if name in ("lt", "le", "gt", "ge", "eq", "ne", "is_finite"):
            # x != x asks for NaN, and floats that depend on a gradient are equal by no more than chance.
            equal, itself = name in ("eq", "ne"), eqn.invars[0] is eqn.invars[-1]
            first_step = depends == COUNT and any(value.number in (0, 1) for value in inputs)
            if guards or itself or (equal and (depends & GRADIENT or first_step)):
                return Value()
            return Value(depends | SINGLE if depends and equal else depends)
        if name in JUMPS:
            self.note("jump", JUMPS[name], depends)
        elif name in KINKS and depends & GRADIENT and not guards:
            self.note("kink", KINKS[name], depends)
        elif name == "convert_element_type":
            was, now = (_is(variable.aval, jnp.inexact) for variable in (eqn.invars[0], eqn.outvars[0]))
            if now and not was and depends != COUNT:  # a condition as a factor
                self.note("single" if depends & SINGLE else "jump", "branches on", depends)
            elif was and not now:
                self.note("jump", "rounds", depends)
        depends |= SINGLE if name == "rem" and depends & COUNT else 0  # what is asked of it holds at times
        return Value(depends, inputs[0].number if name in SAME else None, _is_nonnegative(eqn, inputs))
