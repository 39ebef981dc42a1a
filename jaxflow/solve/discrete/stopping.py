"""The conditions that end a run of an optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import _check
from jaxflow._norms import norm
from jaxflow.optim.updates import Step

CONDITIONS = ("gradient_norm", "gradients", "loss", "time")


def check_until(until: Any) -> dict[str, Any]:
    """Conditions by name, each with its number; others are refused."""
    if not isinstance(until, dict) or not until:
        raise TypeError(f'until must be a dict such as {{"loss": 0.1}}, got {until!r}.')
    for name, value in until.items():
        _check.require_choice("until", name, CONDITIONS)
        if name != "loss":
            _check.require_positive(**{f"until[{name!r}]": value})
        elif isinstance(value, (str, bytes, bool, type(None))):
            raise TypeError(f"until['loss'] must be a number, got {value!r}.")
        elif (found := _check.values(value)) is not None:
            _check.require_each("until['loss']", found, ~np.isnan(found), "a number")
    return until


def holds(until: dict[str, Any], step: Step, number: jax.Array, passed: jax.Array) -> jax.Array:
    """Whether one of the conditions holds after a step, the `number`-th, `passed` the time; or the loss is lost."""
    met = ~jnp.isfinite(step.loss)
    if "loss" in until:
        met |= step.loss <= until["loss"]
    if "gradient_norm" in until:
        met |= norm(step.gradient) <= until["gradient_norm"]
    if "gradients" in until:
        met |= number >= until["gradients"]
    if "time" in until:  # up to the rounding of a sum of steps
        met |= passed >= until["time"] * (1 - 16 * jnp.finfo(passed.dtype).eps)
    return met
