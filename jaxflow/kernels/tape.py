"""A traced program as a flat tape of operations, on which each parameter is found where it meets the data."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxflow._programs.jaxprs import apply_operation, called_program

SHAPES = {"reshape", "broadcast_in_dim", "transpose", "squeeze", "expand_dims", "copy"}
ADD = {"add", "add_any"}


class Step(NamedTuple):
    """An operation, with the program that it is part of, and the numbers of the values it reads and makes."""

    jaxpr: Jaxpr
    eqn: Any
    inputs: list[int]
    outputs: list[int]


class Tape(NamedTuple):
    """The operations of a program in their order; values are numbered, those of the arguments first."""

    steps: list[Step]
    arguments: int
    constants: dict[int, Any]
    result: int

    def play(self, arguments: Sequence[Any], visit: Callable[[int, Step, list, Any], Any]) -> Any:
        """The result at values of the arguments; `visit(i, step, inputs, output)` may replace an output."""
        values = {**self.constants, **dict(enumerate(arguments))}
        for i, step in enumerate(self.steps):
            inputs = [values[number] for number in step.inputs]
            found = apply_operation(step.jaxpr, step.eqn, inputs)
            values.update(zip(step.outputs, [visit(i, step, inputs, x) for x in found], strict=True))
        return values[self.result]


def tape_of(closed: ClosedJaxpr) -> Tape:
    """The tape of a program with one result. The programs that it only calls are part of the tape."""
    steps: list[Step] = []
    constants: dict[int, Any] = {}
    count = len(closed.jaxpr.invars)

    def number(constant: Any = None) -> int:
        nonlocal count
        count += 1
        if constant is not None:
            constants[count - 1] = constant
        return count - 1

    def read(closed: ClosedJaxpr, inputs: list[int]) -> list[int]:
        jaxpr = closed.jaxpr
        seen = dict(
            zip([*jaxpr.constvars, *jaxpr.invars], [*map(number, closed.consts), *inputs], strict=True)
        )
        look = lambda variable: number(variable.val) if isinstance(variable, Literal) else seen[variable]
        for eqn in jaxpr.eqns:
            given = [look(variable) for variable in eqn.invars]
            if (program := called_program(eqn)) is not None:
                outputs = read(program, given)
            else:
                outputs = [number() for _ in eqn.outvars]
                steps.append(Step(jaxpr, eqn, given, outputs))
            seen.update(zip(eqn.outvars, outputs, strict=True))
        return [look(variable) for variable in jaxpr.outvars]

    (result,) = read(closed, list(range(count)))
    return Tape(steps, len(closed.jaxpr.invars), constants, result)


class Layer(NamedTuple):
    """A product of activations with a weight, to which a bias may be added at once.

    - `step`: the number of the product on the tape; `side`: which of its two operands the activations are.
    - `weight`, `bias`: the numbers of the parameters; the bias is `None` where there is none.
    """

    step: int
    side: int
    weight: int
    bias: int | None


class _Uses(NamedTuple):
    """Where the values on a tape are used.

    - `origin`: the parameter that a value is, up to the order and shape of its axes.
    - `once`: the only step that uses a parameter, for those that have one.
    - `readers`: the steps that read a value; the number of steps stands for the result.
    """

    origin: dict[int, int]
    once: dict[int, int]
    readers: dict[int, list[int]]


def _uses_of(tape: Tape, parameters: int) -> _Uses:
    origin = {leaf: leaf for leaf in range(parameters)}
    readers: dict[int, list[int]] = defaultdict(list)
    uses: dict[int, list[int]] = defaultdict(list)
    for i, step in enumerate(tape.steps):
        for number in step.inputs:
            readers[number].append(i)
            if number in origin and _is_reshaped(step):
                origin[step.outputs[0]] = origin[number]
            elif number in origin:
                uses[origin[number]].append(i)
    readers[tape.result].append(len(tape.steps))
    if tape.result in origin:
        uses[origin[tape.result]].append(len(tape.steps))
    once = {leaf: found[0] for leaf, found in uses.items() if len(found) == 1 and found[0] < len(tape.steps)}
    return _Uses(origin, once, readers)


def layers_of(tape: Tape, parameters: int) -> list[Layer]:
    """The layers of a network, read off the tape of one example, whose first arguments are the parameters.

    A weight belongs to a layer if it has no other use, and meets one vector of activations for each example. The
    order of its axes does not matter, as an inner product of matrices does not depend on it.
    """
    uses = _uses_of(tape, parameters)
    layers = []
    for leaf, i in uses.once.items():
        step = tape.steps[i]
        side = 1 if uses.origin.get(step.inputs[0]) == leaf else 0
        if _is_one_vector(step.eqn, side) and step.inputs[side] not in uses.origin:
            layers.append(Layer(i, side, leaf, _bias_of(tape, uses, step.outputs[0])))
    return layers


def _bias_of(tape: Tape, uses: _Uses, product: int) -> int | None:
    """The parameter that is added to a product, if nothing else is done with the product."""
    while len(uses.readers[product]) == 1 and uses.readers[product][0] < len(tape.steps):
        i = uses.readers[product][0]
        step = tape.steps[i]
        if _is_reshaped(step):
            product = step.outputs[0]
            continue
        added = [uses.origin.get(number) for number in step.inputs if number != product]
        if step.eqn.primitive.name in ADD and added[0] is not None and uses.once.get(added[0]) == i:
            return added[0]
        return None
    return None


def _is_reshaped(step: Step) -> bool:
    """Whether an operation only changes the shape of a value or the order of its axes."""
    return step.eqn.primitive.name in SHAPES and _keeps_size(step.eqn)


def _keeps_size(eqn: Any) -> bool:
    return math.prod(eqn.invars[0].aval.shape) == math.prod(eqn.outvars[0].aval.shape)


def _is_one_vector(eqn: Any, side: int) -> bool:
    """Whether an operation multiplies one vector, its operand on a side, with a matrix."""
    if eqn.primitive.name != "dot_general":
        return False
    contracted, batch = eqn.params["dimension_numbers"]
    shape = eqn.invars[side].aval.shape
    free = [n for axis, n in enumerate(shape) if axis not in contracted[side]]
    return not batch[0] and math.prod(free) == 1
