"""The one idea of the library: a constructed thing is a pytree of the numbers it was constructed with.

`traceable` wraps a constructor (of an optimizer, a schedule, a dynamics, an estimator) so that what it returns
remembers its arguments: the numeric ones, each once, are its pytree leaves; everything else (functions, flags,
strings, None) is static. The functions inside are rebuilt from the leaves when they are called, so that the
thing passes through `jit` as an argument, stacks under `vmap` and has a gradient.
"""

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, ParamSpec, TypeVar

import jax
import numpy as np

from jaxflow._compiled import Static, combine, is_numeric, partition
from jaxflow._text.shapes import show

P = ParamSpec("P")
T = TypeVar("T", bound="Bound")


class Bound:
    """Something a traceable constructor made: the constructor and its arguments, as a pytree.

    Each subclass stands for one kind of result (an optimizer, a schedule, …) and is registered by `kind`.
    """

    _static: tuple[Callable, Static, tuple[tuple[str, Any], ...]]
    _dynamic: tuple
    kinds: ClassVar[list[tuple[Callable[[Any], bool], Any]]] = []

    @classmethod
    def bind(cls, static: tuple, dynamic: tuple):
        """An instance from its two halves; unflattening calls it, so it must not look at `dynamic`."""
        self = cls.make_blank(static, dynamic)
        self._static, self._dynamic = static, dynamic
        return self

    @classmethod
    def make_blank(cls, static: tuple, dynamic: tuple):
        """What `bind` makes an instance of; a subclass that is a tuple as well fills it here."""
        del static, dynamic
        return cls.__new__(cls)

    @property
    def constructor(self) -> Any:
        """The traceable constructor that made it; `constructor.body` is the function that `traceable` was given."""
        return self._static[0]

    @property
    def _arguments(self) -> inspect.BoundArguments:
        construct, static, fixed = self._static
        arguments = combine(self._dynamic, static) | dict(fixed)
        return inspect.BoundArguments(construct.signature, arguments)  # type: ignore[attr-defined]

    def build(self) -> Any:
        """Call the constructor's body on the current leaves."""
        bound = self._arguments
        with _refuse_branches(self.constructor.__name__, bound, self.constructor.structural):
            return self.constructor.body(*bound.args, **bound.kwargs)

    def refuse_branches(self, *traced: str) -> contextlib.AbstractContextManager[None]:
        """Say in a sentence that something in here asks for the value of an argument, or of what else is `traced`."""
        return _refuse_branches(
            self.constructor.__name__, self._arguments, self.constructor.structural, traced
        )

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments by name, in its order; a new dict."""
        bound = self._arguments
        return {name: bound.arguments[name] for name in bound.signature.parameters}

    def replace(self, **changes):
        """A copy with some arguments changed.

        Raises `ValueError` for a name that is not an argument, and whatever the constructor raises.
        """
        bound = self._arguments
        for name in changes:
            if name not in bound.arguments:
                known = ", ".join(bound.signature.parameters)
                raise ValueError(f"{self.constructor.__name__} has no argument {name!r}; it has {known}.")
        bound.arguments.update(changes)
        return self.constructor(*bound.args, **bound.kwargs)

    def __repr__(self):
        bound = self._arguments
        if any(p.kind is p.VAR_POSITIONAL for p in bound.signature.parameters.values()):
            shown = map(show, bound.args)
        else:
            shown = (f"{name}={show(value)}" for name, value in self.hyperparameters.items())
        return f"{self.constructor.__name__}({', '.join(shown)})"

    def __reduce__(self):
        construct, bound = self.constructor, self._arguments
        public: Any = sys.modules.get(construct.__module__)
        for name in construct.__qualname__.split("."):
            public = getattr(public, name, None)
        if public is construct:
            return _reconstruct, (construct, None, bound.args, bound.kwargs)
        # A wrapper around somebody else's constructor is not importable by name, but that constructor is.
        return _reconstruct, (construct.body, construct.structural, bound.args, bound.kwargs)


# What JAX raises where Python asks for the value of a traced number.
TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


@contextlib.contextmanager
def _refuse_branches(
    name: str, bound: inspect.BoundArguments, structural: tuple[str, ...], traced: tuple[str, ...] = ()
) -> Iterator[None]:
    try:
        yield
    except TRACED as error:
        numeric = lambda value: any(map(is_numeric, jax.tree.leaves(value)))
        given = {key: bound.arguments[key] for key in bound.signature.parameters if key not in structural}
        free = [key for key, value in given.items() if numeric(value)]
        kept = "".join(f"{key!r}, " for key in structural)
        raise TypeError(
            f"{name} must not branch in Python on a number that is traced ({', '.join((*traced, *free))}) or use it "
            f"as a shape; name the arguments with which it does so in traceable({name}, structural=({kept}…))."
        ) from error


def _reconstruct(function, structural, args, kwargs):
    construct = function if structural is None else traceable(function, structural=structural)
    return construct(*args, **kwargs)


def kind(accepts: Callable[[Any], bool]) -> Callable[[type[T]], type[T]]:
    """Register a subclass of `Bound` as the type of what a constructor makes, where `accepts(result)` is true."""

    def register(cls: type[T]) -> type[T]:
        Bound.kinds.append((accepts, cls))

        jax.tree_util.register_pytree_with_keys(
            cls,
            lambda self: (tuple(zip(_keys(self), self._dynamic, strict=True)), self._static),
            lambda static, dynamic: cls.bind(static, tuple(dynamic)),
            lambda self: (self._dynamic, self._static),
        )
        return cls

    return register


def _keys(bound: Bound) -> list[Any]:
    """The path of every numeric leaf, such as `.learning_rate`, for messages about pytrees."""
    static = {i for i, _, _ in bound._static[1].leaves}
    # Numbers take the place of the leaves, as some callers put None there, which is not a leaf.
    leaves = [0.0] * len(bound._dynamic)
    paths = jax.tree_util.tree_flatten_with_path(combine(leaves, bound._static[1]))[0]
    names = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths)
    return [jax.tree_util.GetAttrKey(name) for i, name in enumerate(names) if i not in static]


def _canonicalise(leaf: Any) -> Any:
    """Plain numbers become Python floats, so that 1, 1.0 and np.float64(1) share one trace."""
    if isinstance(leaf, (bool, np.bool_)):
        return bool(leaf)
    if isinstance(leaf, (complex, np.complexfloating)):
        return complex(leaf)
    return float(leaf) if isinstance(leaf, (int, float, np.number)) else leaf


def function_of(constructor: Callable) -> Any:
    """The function that a constructor calls: what a `functools.partial`, such as `optax.nadam`, completes."""
    return function_of(constructor.func) if isinstance(constructor, functools.partial) else constructor


@functools.cache
def _traceable(function: Callable, structural: tuple[str, ...]) -> Callable:
    signature, called = inspect.signature(function), function_of(function).__name__
    for name in structural:
        if name not in signature.parameters:
            raise ValueError(f"structural names {name!r}, which is not an argument of {called}.")

    @functools.wraps(function_of(function))
    def construct(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        with _refuse_branches(
            called, bound, structural
        ):  # the body refuses bad arguments, before anything is traced
            result = function(*bound.args, **bound.kwargs)
        cls = next((cls for accepts, cls in Bound.kinds if accepts(result)), None)
        if cls is None:
            raise TypeError(
                f"{called} must return an optax transformation, a schedule, a dynamics "
                f"or an estimator, got {result!r}."
            )
        fixed = tuple((name, bound.arguments.pop(name)) for name in structural)
        dynamic, static = partition(jax.tree.map(_canonicalise, dict(bound.arguments)))
        return cls.bind((construct, static, fixed), tuple(dynamic))

    construct.signature = signature  # type: ignore[attr-defined]
    construct.body = function  # type: ignore[attr-defined]
    construct.structural = structural  # type: ignore[attr-defined]
    return construct


# Arguments of optax constructors that are structural although their annotation does not say so.
STRUCTURAL = {
    "optax.contrib._muon.muon": ("ns_steps",),
    "optax.contrib._reduce_on_plateau.reduce_on_plateau": ("factor", "rtol", "atol"),
}


def _structural_names(function: Callable) -> tuple[str, ...]:
    """The arguments a constructor declares structural: those annotated `int`, and seeds."""
    called = function_of(function)
    known = STRUCTURAL.get(f"{called.__module__}.{called.__name__}", ())
    parameters = inspect.signature(function).parameters.values()
    found = (p.name for p in parameters if p.annotation in (int, "int") or p.name == "seed")
    return tuple(dict.fromkeys((*known, *found)))  # older versions of optax annotate what newer do not


def traceable(function: Callable[P, Any] | None = None, *, structural: tuple[str, ...] | None = None) -> Any:
    """Make what a constructor returns a pytree whose leaves are the constructor's numeric arguments.

    Numbers, arrays and pytrees of them (such as another traceable thing) become leaves; bool, str, None and functions
    are static. Plain numbers are kept as Python floats. The body must not branch in Python on a numeric argument that
    is not structural.

    **Arguments**

    - `function`: any function that returns an optax transformation, a schedule, a dynamics or an estimator: one of
      this library, of optax, or the user's own. Without it, a decorator is returned.
    - `structural`: names of arguments that must be concrete because the body branches on their value or uses them
      as a shape; each of their values is a compilation of its own. Default: those annotated `int`, and `seed`.

    **Returns** a constructor with the arguments of `function`. What it makes from an optax transformation is a real
    `optax.GradientTransformationExtraArgs`.

    **Raises** `ValueError` for a structural name that is not an argument; `TypeError`, when the constructor is
    called, where `function` returns something else, and, when it is used, where the body branches on a number that
    is traced.

    >>> import jax, optax, jaxflow as jf
    >>> lion = jf.optim.traceable(optax.lion)
    >>> jax.tree.leaves(lion(1e-4, b1=0.8))
    [0.8, 0.99, 0.0001, 0.001]
    >>> stack = jax.vmap(lion)(jax.numpy.array([1e-4, 1e-3]))  # two optimizers in one
    >>> stack.hyperparameters["learning_rate"].shape
    (2,)
    """
    if function is None:
        return functools.partial(traceable, structural=structural)
    if hasattr(function, "structural"):
        return function
    return _traceable(
        function, _structural_names(function) if structural is None else tuple(dict.fromkeys(structural))
    )
