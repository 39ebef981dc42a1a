"""Following what values depend on through a traced program.

A program is traced on shapes alone, so reading it costs milliseconds and needs no numbers. The reader decides what a
dependence means and which operations matter: for whether an optimizer's update is smooth, or a loss.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

KEYS = (jax.dtypes.prng_key, jnp.unsignedinteger)
TINY, HUGE = 1e-6, 1e9  # beyond these a number in a comparison is there for safety

# Operations that hand a known number on; that are never negative; that are not where no operand is.
SAME = {"broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "copy", "transpose"}
POSITIVE = {"sqrt", "rsqrt", "abs", "square", "exp", "exp2", "logistic"}
MONOTONE = {*SAME, "add", "mul", "div", "min", "max", "pow", "integer_pow", "dot_general", "reduce_sum"}
MONOTONE |= {"reduce_max", "sign", "slice", "stack", "concatenate"}
CALLS = {"jit", "pjit", "closed_call"}
COMPARISONS = {"lt", "le", "gt", "ge", "eq", "ne", "is_finite"}


class Value(NamedTuple):
    """What is known of an array: what it depends on, its value if that is one number, whether it is at least 0.

    `depends` is a set of bits, of the reader's choosing.
    """

    depends: int = 0
    number: float | None = None
    nonnegative: bool = False


class Reader:
    """Follows dependences through a program; subclasses say what an operation makes of them."""

    def read(self, closed: ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
        """What is known of the outputs of a program."""
        jaxpr = closed.jaxpr
        values = [*map(constant_value, closed.consts), *inputs]
        seen = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
        look = lambda variable: (
            constant_value(variable.val) if isinstance(variable, Literal) else seen[variable]
        )
        for eqn in jaxpr.eqns:
            seen.update(zip(eqn.outvars, self.apply(eqn, [*map(look, eqn.invars)]), strict=True))
        return [*map(look, jaxpr.outvars)]

    def apply(self, eqn, inputs: list[Value]) -> list[Value]:
        """What is known of the outputs of one operation, of the programs in it if it has any."""
        name, programs, params = eqn.primitive.name, programs_of(eqn), eqn.params
        if name == "cond":
            outputs = [self.read(branch, inputs[1:]) for branch in programs]
            return [self.choice(inputs[0], cases) for cases in zip(*outputs, strict=True)]
        if name == "scan":
            return self.repeat(programs[0], *split_scan(eqn, programs[0], inputs))
        if name == "while" and {"cond_jaxpr", "body_jaxpr"} <= params.keys():
            # First the constants of the condition, then those of the body; what is carried in is what comes out.
            condition, body = params["cond_jaxpr"], params["body_jaxpr"]
            first = len(condition.in_avals) - len(eqn.outvars)
            last = len(inputs) - len(eqn.outvars)
            carry = self.repeat(body, inputs[first:last], inputs[last:])
            return self.finish_loop(carry, self.read(condition, [*inputs[:first], *carry])[0])
        if [len(program.in_avals) for program in programs] == [len(inputs)]:
            return self.read(programs[0], inputs)
        for program in programs:
            inside = self.read(program, [reduce(join_values, inputs or [Value()])] * len(program.in_avals))
            inputs = [value._replace(depends=reduce(join_values, inside, value).depends) for value in inputs]
        return [self.apply_elementary(eqn, inputs)] * len(eqn.outvars)

    def repeat(self, body, constants, carry, entries=()) -> list[Value]:
        """A body over and over, until no more is learnt about what it carries."""
        while True:
            outputs = self.read(body, [*constants, *carry, *entries])
            joined = [*map(join_values, carry, outputs)]
            if joined == carry:
                return [*carry, *outputs[len(carry) :]]
            carry = joined

    def finish_loop(self, carry: list[Value], condition: Value) -> list[Value]:
        """The final carry of a loop that runs while a condition holds."""
        return [value._replace(depends=value.depends | condition.depends) for value in carry]

    def choice(self, condition: Value, cases: Sequence[Value]) -> Value:
        """One of several values."""
        chosen = reduce(join_values, cases)
        return chosen._replace(depends=chosen.depends | condition.depends)

    def apply_elementary(self, eqn, inputs: list[Value]) -> Value:
        """An operation without a program in it."""
        if eqn.primitive.name == "select_n":
            return self.choice(inputs[0], inputs[1:])
        number = inputs[0].number if eqn.primitive.name in SAME else None
        return Value(reduce(join_values, inputs, Value()).depends, number, is_nonnegative(eqn, inputs))


def reads(function: Callable, argument: Any) -> bool:
    """Whether anything in what a function computes reads a leaf of its argument."""
    jaxpr = jax.make_jaxpr(function)(argument).jaxpr
    read = {id(variable) for eqn in jaxpr.eqns for variable in eqn.invars}
    return any(id(variable) in read for variable in jaxpr.invars)


def is_a(leaf: Any, *kinds: Any) -> bool:
    """Whether a number or array is of one of these kinds of dtype."""
    return any(jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), kind) for kind in kinds)


def constant_value(constant: Any) -> Value:
    """A constant's value. A constant without a value yet, a hyperparameter under `jit`, counts as not negative."""
    if isinstance(constant, Tracer) or np.size(constant) != 1 or is_a(constant, *KEYS):
        return Value(nonnegative=True)
    number = float(np.real(np.asarray(constant)).item())
    return Value(0, number, number >= 0)


def join_values(a: Value, b: Value) -> Value:
    """What is true of both."""
    number = a.number if a.number == b.number else None
    return Value(a.depends | b.depends, number, a.nonnegative and b.nonnegative)


def programs_of(eqn) -> list[ClosedJaxpr]:
    """The programs in an operation, except those of a linear solve, which is smooth however it pivots."""
    is_program = lambda leaf: isinstance(leaf, (ClosedJaxpr, Jaxpr))
    params = [] if eqn.primitive.name == "custom_linear_solve" else list(eqn.params.values())
    found = filter(is_program, jax.tree.leaves(params, is_leaf=is_program))
    return [ClosedJaxpr(program, []) if isinstance(program, Jaxpr) else program for program in found]


def called_program(eqn: Any) -> ClosedJaxpr | None:
    """The program that an operation calls and does nothing else with; `None` for any other operation."""
    if eqn.primitive.name not in CALLS:
        return None
    return eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]


def apply_operation(jaxpr: Jaxpr, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The outputs of one operation of a program at values of all its inputs."""
    pairs = zip(eqn.invars, values, strict=True)
    given = {variable: value for variable, value in pairs if not isinstance(variable, Literal)}
    parts = {"invars": [*given], "outvars": eqn.outvars, "eqns": [eqn], "effects": eqn.effects}
    return jaxpr_as_fun(ClosedJaxpr(jaxpr.replace(constvars=[], **parts), ()))(*given.values())


def split_scan(eqn, body: ClosedJaxpr, inputs: list[Value]) -> tuple[list[Value], list[Value], list[Value]]:
    """The constants, the carry and the entries among the inputs of a scan.

    Their ranks tell them apart, as an entry has one axis less inside the body. The names of the parameters that count
    them change from one version of jax to the next.
    """
    carried = sum(a.aval.ndim == b.ndim for a, b in zip(eqn.outvars, body.out_avals, strict=True))
    last = sum(a.aval.ndim == b.ndim for a, b in zip(eqn.invars, body.in_avals, strict=True))
    return inputs[: last - carried], inputs[last - carried : last], inputs[last:]


def guards(a: Value, b: Value) -> bool:
    """Whether comparing the second with the first, a number, is only for safety."""
    c = np.nan if a.number is None else a.number
    return abs(c) >= HUGE or 0 < c <= TINY or (c == 0 and b.nonnegative)


def is_guarded(inputs: Sequence[Value]) -> bool:
    """Whether one of two operands is there for safety only."""
    return len(inputs) == 2 and (guards(*inputs) or guards(*inputs[::-1]))


def is_nonnegative(eqn, inputs: Sequence[Value]) -> bool:
    """Whether an operation's result cannot be negative."""
    name = eqn.primitive.name
    if name == "sub":  # of hyperparameters, such as 1 - beta
        return not any(value.depends for value in inputs)
    even = name == "integer_pow" and eqn.params["y"] % 2 == 0
    squared = name in ("mul", "dot_general") and eqn.invars[0] is eqn.invars[1]
    return name in POSITIVE or even or squared or (name in MONOTONE and all(v.nonnegative for v in inputs))
