"""Whether a loss is twice differentiable, read off its jaxpr.

The Hessian that automatic differentiation finds for a loss with kinks is that of its pieces: of relu it sees nothing.
So the loss is traced, on shapes alone, and the operations that switch with the parameters, and reach its value other
than through `stop_gradient`, are named. A comparison that only keeps a division, a root or a logarithm from failing
(`norm > 0`, clipping a probability at 1e-7) does not count.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxflow._programs.jaxprs import (
    COMPARISONS,
    TINY,
    Reader,
    Value,
    is_a,
    is_guarded,
    join_values,
    programs_of,
)

PyTree = Any

# What a value depends on: the parameters, what `stop_gradient` let through, and from there a bit for each switch.
PARAMETERS, STOPPED, FIRST = 1, 2, 4

# Programs that switch between formulas of one smooth function, and those better known by their own names.
SMOOTH = {"logaddexp", "logaddexp2", "standardize", "sinc", "xlogy", "xlog1py", "log_ndtr", "expm", "hypot"}
SMOOTH |= {"_slogdet_lu", "_slogdet_qr", "_det", "_pinv"}
NAMED = {
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "hard_tanh",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
}
NAMED |= {"sparse_plus", "clip", "median", "quantile", "round"}
SWITCHES = {
    **{
        name: name for name in ("abs", "max", "min", "clamp", "sort", "sign", "floor", "ceil", "round", "rem")
    },
    **{f"reduce_{name}": name for name in ("max", "min")},
    **{f"cum{name}": name for name in ("max", "min")},
    **{f"reduce_window_{name}": f"{name} pooling" for name in ("max", "min")},
    **dict.fromkeys(("argmax", "argmin", "top_k", "approx_top_k"), "order of entries"),
}
CONDITION = "a condition on the parameters"


def warn_unless_twice_differentiable(objective: Callable[[PyTree], Any], params: PyTree) -> None:
    """Warn, in one sentence that names what was found, of a loss that is not twice differentiable.

    It is for use while tracing, as it reads only shapes: `params` may be tracers. Where tracing fails it is silent.
    """
    if found := switches(objective, params):
        warnings.warn(
            f"objective is not twice differentiable ({', '.join(found)}): where it switches, its Hessian jumps, or "
            "misses the curvature of the kink.",
            stacklevel=3,
        )


def switches(objective: Callable[[PyTree], Any], params: PyTree) -> list[str]:
    """The names of the operations in a loss that switch with the parameters, in order; empty for a smooth loss."""
    try:
        shape = lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
        jaxpr = jax.make_jaxpr(objective)(jax.tree.map(shape, params))
    except Exception:  # whatever the user's function raises it raises again, where it is used
        return []
    reader = Switches()
    outputs = reader.read(jaxpr, [Value(PARAMETERS)] * len(jaxpr.in_avals))
    depends = reduce(join_values, outputs, Value()).depends
    return [name for i, name in enumerate(reader.names) if depends & FIRST << i]


class Switches(Reader):
    """Marks what depends on a switch with its own bit, so that a switch that reaches no output is not counted."""

    def __init__(self):
        self.names: list[str] = []
        self.inside: list[str] = []  # the named programs that are being read
        self.made: dict[
            Any, tuple[Any, list[Value]]
        ] = {}  # the operation, and its inputs, that made a variable

    def bit(self, name: str) -> int:
        """The bit of a switch, under the name of the outermost program that has one."""
        name = next((outer for outer in self.inside if outer in NAMED), name)
        if name not in self.names:
            self.names.append(name)
        return FIRST << self.names.index(name)

    def apply(self, eqn, inputs: list[Value]) -> list[Value]:
        name = _program_name(eqn)
        if name in SMOOTH:
            return [Value(reduce(join_values, inputs).depends)] * len(eqn.outvars)
        self.inside.append(name)
        outputs = super().apply(eqn, inputs)
        self.inside.pop()
        self.made.update((variable, (eqn, inputs)) for variable in eqn.outvars)
        return outputs

    def finish_loop(self, carry: list[Value], condition: Value) -> list[Value]:
        # Its number of turns is that of an iteration to convergence, as such a loop has no derivative of its own.
        return carry

    def choice(self, condition: Value, cases: Sequence[Value]) -> Value:
        """The finite cases only: outside its domain, where no Hessian is asked for, a function is NaN or infinite."""
        finite = [case for case in cases if case.number is None or np.isfinite(case.number)]
        if len(finite) < len(cases):
            return reduce(join_values, finite or cases)
        return super().choice(condition, cases)

    def apply_elementary(self, eqn, inputs: list[Value]) -> Value:
        name, value = eqn.primitive.name, super().apply_elementary(eqn, inputs)
        if name == "stop_gradient":
            moves = value.depends & (PARAMETERS | STOPPED)
            return value._replace(depends=STOPPED if moves else 0)
        if name in COMPARISONS:
            return self.comparison(eqn, inputs, value)
        moving = value.depends & PARAMETERS and is_a(eqn.invars[0].aval, jnp.inexact)
        if name in SWITCHES and moving and not self.is_safe(eqn, inputs):
            return value._replace(depends=value.depends | self.bit(SWITCHES[name]))
        if name == "convert_element_type" and moving and not is_a(eqn.outvars[0].aval, jnp.inexact):
            return value._replace(depends=value.depends | self.bit("round"))
        return value._replace(depends=self.drop_even_kinks(eqn, value.depends))

    def comparison(self, eqn, inputs: list[Value], value: Value) -> Value:
        """A condition that holds on one side of a surface. That two floats are equal is mere chance."""
        equal = eqn.primitive.name in ("eq", "ne") and is_a(eqn.invars[0].aval, jnp.inexact)
        if is_guarded(inputs) or equal or eqn.primitive.name == "is_finite":
            return Value()
        moves = value.depends & (PARAMETERS | STOPPED)
        return Value(value.depends | self.bit(CONDITION) if moves else value.depends)

    def is_safe(self, eqn, inputs: list[Value]) -> bool:
        """Whether a maximum, an absolute value or a sign only keeps a number away from an edge."""
        name, moving = eqn.primitive.name, [value for value in inputs if value.depends]
        numbers = [value.number for value in inputs if value.number is not None]
        if name in ("abs", "sign"):
            return inputs[0].nonnegative
        if name not in ("max", "min") or len(moving) != 1 or not numbers:
            return False
        below_one = name == "min" and 0 < 1 - numbers[0] <= TINY
        variance = numbers[0] == 0 and any(self.is_variance(variable) for variable in eqn.invars)
        return is_guarded(inputs) or below_one or variance

    def is_variance(self, variable: Any) -> bool:
        """Whether this was made as E x² - (E x)²."""
        eqn, inputs = self.maker(variable)
        if eqn is None or eqn.primitive.name != "sub" or not inputs[0].nonnegative:
            return False
        square, _ = self.maker(eqn.invars[1])
        return square is not None and _is_even(square)

    def drop_even_kinks(self, eqn, depends: int) -> int:
        """What an operation depends on; the kink of an absolute value is gone from its square and its logarithm."""
        if _is_even(eqn) or eqn.primitive.name == "log":
            maker, inputs = self.maker(eqn.invars[0])
            if maker is not None and maker.primitive.name == "abs":
                return inputs[0].depends
        return depends

    def maker(self, variable: Any) -> tuple[Any, list[Value]]:
        return (None, []) if isinstance(variable, Literal) else self.made.get(variable, (None, []))


def _program_name(eqn) -> str:
    """The name of the function that was traced into an operation, "" where it is not a function."""
    programs = programs_of(eqn)
    if len(programs) != 1:
        return ""
    traced = getattr(programs[0].jaxpr.debug_info, "func_src_info", None) or ""
    return eqn.params.get("name") or traced.split(" ")[0]


def _is_even(eqn) -> bool:
    name = eqn.primitive.name
    power = name == "integer_pow" and eqn.params["y"] % 2 == 0
    return power or name == "square" or (name == "mul" and eqn.invars[0] is eqn.invars[1])
