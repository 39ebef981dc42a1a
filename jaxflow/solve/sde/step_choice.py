"""How many steps an SDE takes between two saved times, and how many increments of noise are in each."""

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow import _check
from jaxflow.dynamics import Dynamics, Field
from jaxflow.solve.request import Request
from jaxflow.solve.sde.brownian import increments, is_bits, pages
from jaxflow.solve.times import Times

PyTree = Any

PER_TIME_STEP = 16  # substeps for every step of the discrete process
WARN = 1 / 4  # of a time step


def fix_steps(request: Request) -> tuple[Request, int]:
    """A request whose number of steps is chosen, so that all parts of it take the same, and a number of intervals.

    Parts of a multiple of that many intervals draw the noise that the whole does.
    """
    substeps = choose_substeps(request.dynamics, request.times, request.substeps, request.step_size)
    shape = jax.eval_shape(
        lambda p: brownian_shape(request.dynamics.build(), request.dynamics.init(p)), request.params
    )
    fine = substeps if request.noise_substeps is None else request.noise_substeps
    layout = pages(fine, increments(shape, None).numbers)
    return request._replace(substeps=substeps, step_size=None), max(layout.intervals, 1)


def name_of(dynamics: Dynamics) -> str:
    """What messages call a dynamics."""
    return dynamics.constructor.__name__


def choose_substeps(dynamics: Dynamics, times: Times, substeps: int | None, step_size: Any) -> int:
    """The number of steps between two saved times: as asked, or 16 for every step of the discrete process."""
    share = _discrete_steps(dynamics, times)
    if step_size is not None and substeps is None:
        if times.is_traced or not np.size(step_size) == 1 or isinstance(step_size, Tracer):
            raise ValueError(
                "step_size must be a plain number, and times concrete, for an SDE; or give substeps."
            )
        substeps = _ceil(np.diff(times.elapsed).max() / float(step_size))
    if substeps is None:
        if share is None:
            if times.is_traced or isinstance(dynamics.time_step, Tracer):
                what = "times are" if times.is_traced else "time step is"
                raise ValueError(
                    f"substeps must be given for {name_of(dynamics)} under jit, such as {PER_TIME_STEP} for each "
                    f"discrete step between two times, as its {what} traced; with times and time step as plain "
                    "numbers it is chosen."
                )
            raise ValueError(
                f"substeps or step_size must be given for {name_of(dynamics)}, as there is no concrete time step "
                "from which to choose them."
            )
        return _ceil(PER_TIME_STEP * share)
    if share is not None and share >= substeps * (1 - 1e-6):
        raise ValueError(
            f"step_size must be below the time step of {name_of(dynamics)}, the learning rate, as with longer "
            f"steps Euler–Maruyama is noisy descent and not the SDE; got steps of {share / substeps:.3g} of it."
        )
    if share is not None and share > WARN * substeps * (1 + 1e-6):
        warnings.warn(
            f"A step of {name_of(dynamics)} takes {share / substeps:.3g} of a discrete step's time; above {WARN} the "
            "error of Euler–Maruyama is that of the discrete process.",
            stacklevel=4,
        )
    return substeps


def _ceil(number: float) -> int:
    """The number rounded up, unless it exceeds an integer only by rounding errors."""
    return max(1, math.ceil(float(number) * (1 - 1e-5)))


def _discrete_steps(dynamics: Dynamics, times: Times) -> float | None:
    """The largest number of discrete steps between two saved times; `None` where nothing tells it.

    It is `None` also where the time step is 0, as the temperature is then 0 too and the path is gradient flow.
    """
    time_step = dynamics.time_step
    if time_step is None or times.is_traced:
        return None
    intervals = np.diff(np.asarray(times.elapsed, float))
    if callable(time_step):
        at = time_step
        time_step = jax.vmap(lambda t: jnp.asarray(at(t), float))(jnp.asarray(times.absolute, float))
    if isinstance(time_step, Tracer):
        return None
    steps = np.broadcast_to(np.asarray(time_step, float), np.shape(times.absolute))
    steps = (steps[:-1] + steps[1:]) / 2
    return float((intervals[steps > 0] / steps[steps > 0]).max()) if (steps > 0).any() else None


def choose_refinement(request: Request, substeps: int) -> int:
    """How many increments of noise are summed into each step."""
    dynamics, noise_substeps = request.dynamics, request.noise_substeps
    if noise_substeps is None:
        return 1
    _check.require_integer("noise_substeps", noise_substeps, 1)
    if noise_substeps % substeps:
        raise ValueError(
            f"noise_substeps must be a multiple of the {substeps} steps between two times, got {noise_substeps}."
        )
    if not dynamics.build().increments_add:
        raise ValueError(
            f"noise_substeps must be None for {name_of(dynamics)}, whose step squares its increments or takes their "
            f"sign, so that sums of them are not the same path; got {noise_substeps}."
        )
    shape = jax.eval_shape(lambda p: brownian_shape(dynamics.build(), dynamics.init(p)), request.params)
    if any(is_bits(leaf) for leaf in jax.tree.leaves(shape)):
        raise ValueError(
            "noise_substeps must be None for noise that picks examples: only Gaussian noise adds up."
        )
    return noise_substeps // substeps


def brownian_shape(field: Field, state: PyTree) -> PyTree:
    """The shape of the noise of one step; none for a field without a Brownian motion."""
    return () if field.brownian is None else field.brownian(state)
