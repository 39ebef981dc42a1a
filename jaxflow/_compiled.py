"""What is traced and what is static: pytrees parted in two, and `jit` over functions that take both.

Numbers and arrays are traced; functions, flags, strings and None are static. `_traceable` makes its constructors'
products of the same two halves.
"""

import contextlib
import functools
import inspect
import os
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxflow._devices.meshes import bring_home, is_within_explicit_axes, let_compiler_choose

try:
    from jax.extend.core import get_opaque_trace_state
except ImportError:  # jax 0.8
    from jax.core import get_opaque_trace_state  # type: ignore[attr-defined, no-redef]

_NUMERIC = (int, float, complex, np.ndarray, np.generic, jax.Array, jax.ShapeDtypeStruct)


def is_numeric(leaf: Any) -> bool:
    """Whether a leaf may be traced: a number or an array, not a flag."""
    return isinstance(leaf, _NUMERIC) and not isinstance(leaf, (bool, np.bool_))


class Static:
    """The half of a pytree that does not change under tracing: its structure and its non-numeric leaves."""

    __slots__ = ("_hash", "leaves", "treedef")

    def __init__(self, treedef, leaves: tuple):
        self.treedef = treedef
        # The type tells True from 1, which compare and hash alike.
        self.leaves = tuple((i, type(leaf), leaf) for i, leaf in leaves)
        try:
            self._hash = hash((treedef, self.leaves))
        except TypeError as error:
            raise TypeError(
                f"An argument that is not a number or an array must be hashable: {error}."
            ) from None

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        return self is other or (
            isinstance(other, Static) and self.leaves == other.leaves and self.treedef == other.treedef
        )


def partition(tree: Any, traced: Callable[[Any], bool] = is_numeric) -> tuple[list, Static]:
    """Split a pytree into the leaves to trace and what is static; `combine` is the inverse."""
    leaves, treedef = jax.tree.flatten(tree)
    static = tuple((i, leaf) for i, leaf in enumerate(leaves) if not traced(leaf))
    return [leaf for leaf in leaves if traced(leaf)], Static(treedef, static)


def combine(dynamic, static: Static) -> Any:
    """Put a partitioned pytree together again."""
    if not static.leaves:
        return jax.tree.unflatten(static.treedef, dynamic)
    leaves = list(dynamic)
    for i, _, leaf in static.leaves:
        leaves.insert(i, leaf)
    return jax.tree.unflatten(static.treedef, leaves)


@contextlib.contextmanager
def transfers():
    """Allow transfers here, where they are meant; a user who forbids implicit transfers is looking for others."""
    with jax.transfer_guard_host_to_device("allow"), jax.transfer_guard_device_to_device("allow"):
        yield


# On a CPU, LLVM's third level of optimization makes programs that run no faster than those of the second, and takes
# a sixth longer to make them. Whoever sets the level for XLA keeps that.
_LEVEL = "xla_backend_optimization_level"
_OPTIONS = {} if _LEVEL in os.environ.get("XLA_FLAGS", "") else {_LEVEL: 2}


@functools.cache
def _outermost_state() -> Any:
    """The state of tracing where nothing is traced: that of a new thread."""
    states: list[Any] = []
    thread = threading.Thread(target=lambda: states.append(get_opaque_trace_state()))
    thread.start()
    thread.join()
    return states[0]


def is_tracing() -> bool:
    """Whether what is called here becomes a part of a program."""
    return get_opaque_trace_state() != _outermost_state()


def _sets_options() -> bool:
    """Whether a program called here is compiled on its own, for a CPU: JAX takes options of no other."""
    return not is_tracing() and jax.default_backend() == "cpu"


_PROGRAMS: dict[str, Callable[[], int]] = {}


def programs() -> dict[str, int]:
    """How many programs each function that is `compiled` holds now, by a name such as "solve.iteration.iterate".

    The difference of two looks is what was compiled in between; `jax.clear_caches()` sets all to 0.
    """
    return {name: count() for name, count in sorted(_PROGRAMS.items())}


def compiled(function: Callable | None = None, *, static: tuple[str, ...] = ()) -> Any:
    """`jit` of a function with ordinary arguments: numbers and arrays are traced, everything else is static.

    Unlike in `equinox.filter_jit`, Python numbers among the arguments are traced, so another learning rate
    does not recompile. `programs` counts the compilations.

    - `static`: names of arguments that are hashable and static as a whole, their numbers too; each of their
      values is a compilation of its own.

    Raises `ValueError` for a static name that is not an argument, and `TypeError` for a function whose arguments
    cannot all be given by name.
    """
    if function is None:
        return functools.partial(compiled, static=static)
    name = function.__name__.lstrip("_")
    in_order = _binding(function)
    names = tuple(inspect.signature(function).parameters)
    for chosen in static:
        if chosen not in names:
            raise ValueError(
                f"static names {chosen!r}, which is not an argument of {name}; it has {', '.join(names)}."
            )
    whole = tuple(i for i, argument in enumerate(names) if argument in static)
    others = tuple(i for i, argument in enumerate(names) if argument not in static)

    def run(chosen, rest, dynamic):
        given = zip((*whole, *others), (*(x for _, x in chosen), *combine(dynamic, rest)), strict=True)
        return function(**{names[i]: value for i, value in given})

    within: Any = jax.jit(_rename(run, name), static_argnums=(0, 1))
    alone: Any = jax.jit(run, static_argnums=(0, 1), compiler_options=_OPTIONS) if _OPTIONS else within

    def run_within_explicit_axes(chosen, rest, dynamic):
        return let_compiler_choose(lambda given: run(chosen, rest, given))(dynamic)

    explicit: Any = jax.jit(_rename(run_within_explicit_axes, name), static_argnums=(0, 1))
    made = (within, explicit) if alone is within else (within, alone, explicit)
    count = lambda: sum(program._cache_size() for program in made)

    @functools.wraps(function)
    def call(*args, **kwargs):
        values = in_order(args, kwargs)
        # The type tells True from 1, which compare and hash alike.
        chosen = tuple([(type(x), x) for x in [_unwrap_scalar(values[i]) for i in whole]])
        dynamic, rest = partition([values[i] for i in others])
        with transfers():
            home = bring_home(dynamic)
            if home is not dynamic:  # an objective tells by its data how it shares out a batch
                dynamic, rest = partition(combine(home, rest))
            dynamic = [_unwrap_scalar(x) for x in dynamic]
            if is_within_explicit_axes():
                return explicit(chosen, rest, dynamic)
            return (alone if _sets_options() else within)(chosen, rest, dynamic)

    _PROGRAMS[f"{function.__module__.removeprefix('jaxflow.')}.{name}"] = count
    call.cache_size = count  # type: ignore[attr-defined]
    return call


def _rename(function: Callable, name: str) -> Callable:
    """The function by the name that profiles and logs are to call its program."""
    function.__name__ = function.__qualname__ = name
    return function


def _unwrap_scalar(x: Any) -> Any:
    """NumPy scalars would be traced with a dtype of their own."""
    return x.item() if isinstance(x, np.generic) else x


def _binding(function: Callable) -> Callable[[tuple, dict[str, Any]], list]:
    """The values of the function's arguments in its order; `inspect` would take longer than some programs run."""
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    if any(p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters):
        raise TypeError(f"Every argument of {function.__name__} must have a name it can be given by.")
    names = tuple(signature.parameters)
    most = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)

    def order_arguments(args, kwargs):
        given = len(args)
        if given <= most and given + len(kwargs) == len(names):
            try:
                return [*args, *[kwargs[name] for name in names[given:]]]
            except KeyError:
                pass
        bound = signature.bind(*args, **kwargs)  # fills in defaults, or raises what Python does
        bound.apply_defaults()
        return [bound.arguments[name] for name in names]

    return order_arguments
