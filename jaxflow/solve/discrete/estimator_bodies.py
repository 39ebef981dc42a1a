"""What a user's estimator does when it is called, checked while it is traced: so it costs a run nothing."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from jaxflow._text.shapes import show

PyTree = Any


def check_draw(draw: Callable) -> Callable:
    """The draw of an estimator, which refuses in a sentence anything that is not a draw."""

    def checked(objective, state, step, key):
        require_draw(draw)
        found = draw(objective, state, step, key)
        if not isinstance(found, tuple) or len(found) != 2 or not callable(found[0]):
            raise TypeError(
                "estimator must have a draw that returns a pair (loss, state), whose loss is a function of the "
                f"parameters, but {name_of(draw)} returned {_show_result(found)}."
            )
        if not _is_like(found[1], state):
            raise TypeError(
                "estimator must have a draw that returns a state of the same shapes and dtypes as the given one, "
                f"{show(state)}, but {name_of(draw)} returned the state {show(found[1])}."
            )
        return found

    return checked


def check_init(init: Callable) -> Callable:
    """The same for what makes its first state."""

    def checked(objective, key):
        require_init(init)
        return init(objective, key)

    return checked


def require_draw(draw: Any) -> None:
    """Refuse what cannot be called as a draw."""
    _require_arguments(draw, "draw", "objective", "state", "step", "key")


def require_init(init: Any) -> None:
    """Refuse what cannot be called as an init."""
    _require_arguments(init, "init", "objective", "key")


def name_of(function: Any) -> str:
    """A function by its own name and the names of what holds it."""
    return getattr(function, "__qualname__", repr(function)).replace(".<locals>", "")


def _require_arguments(function: Any, role: str, *arguments: str) -> None:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        what = inspect.signature(function) if callable(function) else ", which is not a function"
        raise TypeError(
            f"estimator must have {role}({', '.join(arguments)}), got {name_of(function)}{what}."
        ) from None
    except ValueError:  # a function of another language, which does not tell
        pass


def _show_result(found: Any) -> str:
    if isinstance(found, tuple):
        return f"({', '.join(map(show, found))})"
    return f"the function {show(found)} alone" if callable(found) else show(found)


def _is_like(state: PyTree, given: PyTree) -> bool:
    """Whether a loop may carry one state in the place of the other."""
    if jax.tree.structure(state) != jax.tree.structure(given):
        return False
    new, old = (jax.tree.leaves(tree) for tree in jax.eval_shape(lambda: (state, given)))
    pairs = zip(new, old, strict=True)
    return all(a.shape == b.shape and (b.weak_type or a.dtype == b.dtype) for a, b in pairs)
