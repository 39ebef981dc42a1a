"""How a command compiles a program that it runs once."""

from collections.abc import Callable
from typing import Any

import jax


def jit_once(function: Callable, **arguments: Any) -> Callable:
    """`jit` of a program that runs once and briefly: with little optimization it compiles in half the time."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **arguments)
