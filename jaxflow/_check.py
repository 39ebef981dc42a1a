"""Checks at the door: what a concrete argument may be, said in one sentence before anything compiles.

A tracer, or an array on its way through `vmap`, has no value to look at, so it passes: each check looks
only at Python and NumPy scalars.
"""

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np


def is_concrete(value: Any) -> bool:
    """Whether `value` is a plain number whose value may be looked at."""
    return isinstance(value, (numbers.Number, np.number)) and not isinstance(value, bool)


def require(name: str, value: Any, allowed: bool, rule: str) -> None:
    """Raise `ValueError` naming the argument, its value and the rule, unless `allowed`."""
    if not allowed:
        raise ValueError(f"{name} must be {rule}, got {value!r}.")


def _real(name: str, value: Any, test, rule: str) -> None:
    if is_concrete(value):
        if isinstance(value, complex):
            raise TypeError(f"{name} must be {rule}, got the complex number {value!r}.")
        require(name, value, math.isfinite(value) and test(value), rule)
    elif isinstance(value, (str, bytes, bool, type(None))):
        raise TypeError(f"{name} must be {rule}, got {value!r}.")


def nonnegative(**values: Any) -> None:
    """Each keyword's value, where it is a plain number, must be finite and at least 0."""
    for name, value in values.items():
        _real(name, value, lambda v: v >= 0, "a finite number at least 0")


def positive(**values: Any) -> None:
    """Each keyword's value, where it is a plain number, must be finite and above 0."""
    for name, value in values.items():
        _real(name, value, lambda v: v > 0, "a finite number above 0")


def fraction(**values: Any) -> None:
    """Each keyword's value, where it is a plain number, must lie in [0, 1)."""
    for name, value in values.items():
        _real(name, value, lambda v: 0 <= v < 1, "in [0, 1)")


def integer(name: str, value: Any, least: int) -> None:
    """A static count: a Python or NumPy integer at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer at least {least}, got {value!r}.")
    require(name, value, bool(value >= least), f"an integer at least {least}")


def choice(name: str, value: str, allowed: Iterable[str]) -> None:
    """One of a set of names; the nearest one is suggested."""
    allowed = list(allowed)
    if not allowed:
        raise ValueError(f"{name} must be left out, as there is nothing to choose from, got {value!r}.")
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(sorted(allowed))}; got {value!r}.{hint}")
