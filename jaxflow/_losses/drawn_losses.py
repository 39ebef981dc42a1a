"""Losses that draw random numbers, as losses of parameters and a batch alone.

Every example has a key of its own, which depends on its place among the data, so that neither chunks nor devices
change what is drawn.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow._programs.checkpoint import checkpoint
from jaxflow._text.shapes import show

PyTree = Any


class Numbered(NamedTuple):
    """Examples with their numbers (B,), from which their keys are made."""

    examples: PyTree
    number: jax.Array


def takes_key(losses: Callable) -> bool:
    """Whether losses are random: they have an argument named `key`."""
    return "key" in _arguments(losses)


def check_state_argument(losses: Callable, state: PyTree, shown: str) -> None:
    """Refuse losses with an argument named `state` where there is none, and a state that they do not take."""
    arguments = _arguments(losses)
    named = {name: one for name, one in arguments.items() if one.kind is not inspect.Parameter.VAR_KEYWORD}
    takes_any = len(named) < len(arguments)
    if state is None and "state" in named and named["state"].default is inspect.Parameter.empty:
        raise ValueError("state must be given for losses with an argument named state, got None.")
    if state is not None and arguments and "state" not in named and not takes_any:
        raise ValueError(f"state must be None for losses without an argument named state, got {shown}.")


def _arguments(function: Callable) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # of compiled code
        return {}


def lacks_key(function: Callable, given: int) -> bool:
    """Whether a function has an argument named `key` that the first `given` positional arguments do not fill."""
    if not takes_key(function):
        return False
    names = inspect.signature(function).parameters
    only_by_name = names["key"].kind is inspect.Parameter.KEYWORD_ONLY
    return only_by_name or list(names).index("key") >= given


def _keys(key: jax.Array, batch: PyTree) -> tuple[PyTree, jax.Array]:
    """The examples of a batch and a key for each; those of a bare batch are numbered in their order."""
    if not isinstance(batch, Numbered):
        batch = Numbered(batch, jnp.arange(jax.tree.leaves(batch)[0].shape[0]))
    return batch.examples, jax.vmap(lambda number: jax.random.fold_in(key, number))(batch.number)


@dataclass(frozen=True)
class MeanOfDraws:
    """The mean of random losses over a fixed number of draws: a function of the parameters, the same every time."""

    losses: Callable[..., jax.Array]
    draws: int | None

    def __repr__(self):
        return show(self.losses)

    def __call__(self, params: PyTree, batch: PyTree, **state: PyTree) -> Any:
        if self.draws is None:
            raise ValueError(
                "draws must be given to an Objective whose losses draw random numbers, outside the steps of iterate, "
                "which draw their own: the mean over draws=n draws then takes the place of the expectation; got "
                f"{show(self.losses)} without draws."
            )

        @checkpoint
        def one(number):
            examples, keys = _keys(jax.random.fold_in(jax.random.key(0), number), batch)
            found = self.losses(params, examples, key=keys, **state)
            return jnp.asarray(found[0] if state else found)

        mean = lax.map(one, jnp.arange(self.draws)).mean(0)
        return (mean, state["state"]) if state else mean


class LossesOfStep:
    """Random losses with the key of one step."""

    def __init__(self, losses: Callable[..., jax.Array], key: jax.Array):
        self.losses, self.key = losses, key

    def __repr__(self):
        return show(self.losses)

    def __call__(self, params: PyTree, batch: PyTree, **state: PyTree) -> Any:
        examples, keys = _keys(self.key, batch)
        return self.losses(params, examples, key=keys, **state)
