"""What `integrate` was asked, checked once, and handed to whoever solves that kind of equation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._losses.companions import warn_of_chunks
from jaxflow.dynamics import Dynamics
from jaxflow.solve.discrete.optimizer_steps import IterationState, check_state
from jaxflow.solve.times import Times, check_times, clock_dtype
from jaxflow.solve.trajectories.trajectory import as_parameters, identity

PyTree = Any


class Request(NamedTuple):
    """The arguments of `integrate`, which describes them; `times` are checked ones.

    `first` is the number of intervals of a path with noise that come before `times`, where they are a part of it.
    """

    dynamics: Dynamics
    params: PyTree
    times: Times
    key: jax.Array | None
    substeps: int | None
    noise_substeps: int | None
    step_size: Any
    rtol: Any
    atol: Any
    solver: Any
    adjoint: Any
    event: Any
    record: Any
    max_steps: int | None
    state: PyTree
    first: Any = None

    @property
    def has_noise(self) -> bool:
        return self.dynamics.diffusion is not None

    @property
    def is_stepped(self) -> bool:
        """Whether the steps are the dynamics' or fixed ones, not a solver's."""
        return self.has_noise or self.dynamics.step is not None

    @property
    def dtypes(self) -> list[Any]:
        return [leaf.dtype for leaf in jax.tree.leaves(self.params)]

    @property
    def is_half(self) -> bool:
        return all(jnp.finfo(dtype).bits == 16 for dtype in self.dtypes)

    @property
    def precision(self) -> Any:
        """The dtype of the clock."""
        return jnp.result_type(float) if self.is_stepped else clock_dtype(self.dtypes)

    def refuse(self, kind: str, **unused: Any) -> None:
        """Refuse arguments that mean nothing for an equation of this kind."""
        for name, value in unused.items():
            if value is not None:
                raise ValueError(f"{name} must be None for {kind}, got {value!r}.")


def check_dynamics(dynamics: Any) -> None:
    """Refuse anything but a dynamics, such as an objective."""
    if not isinstance(dynamics, Dynamics):
        raise TypeError(f"dynamics must be a Dynamics such as gradient_flow(objective), got {dynamics!r}.")


def check_request(times: Any, params: PyTree, record: Any, **others: Any) -> Request:
    """A request of which everything that all kinds of equations share is checked."""
    dynamics = others["dynamics"]
    check_dynamics(dynamics)
    record = identity if record is None else record
    asked = Request(times=times, params=as_parameters(params), record=record, **others)
    may_repeat = asked.is_stepped and not asked.has_noise
    may_repeat = may_repeat or (not asked.is_stepped and asked.substeps is None)
    asked = asked._replace(times=check_times(times, may_repeat, asked.precision))
    for name in ("step_size", "rtol", "atol"):
        if getattr(asked, name) is not None:
            _check.require_positive(**{name: getattr(asked, name)})
    if asked.substeps is not None:
        _check.require_integer("substeps", asked.substeps, 1)
        if asked.step_size is not None:
            raise ValueError(f"Give either substeps or step_size, got both (step_size={asked.step_size!r}).")
    if asked.max_steps is not None:
        _check.require_integer("max_steps", asked.max_steps, 1)
    if isinstance(asked.state, IterationState):
        raise TypeError(
            "state must be a state of the dynamics, got an optimizer's; dynamics.modified_state(run) makes one of it."
        )
    if asked.state is None:
        dynamics.build().check(asked.params)
        for value in dynamics.hyperparameters.values():
            warn_of_chunks(value, asked.params)
    else:
        check_state(asked.state, jax.eval_shape(_begin, dynamics, asked.params), repr(dynamics))
    return asked


def _begin(dynamics: Any, params: PyTree) -> PyTree:
    """The state at the start. JAX traces it once for all pieces of a long solve, as this is one function."""
    return dynamics.init(params)
