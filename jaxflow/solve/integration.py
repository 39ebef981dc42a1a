"""Continuous time: solve a dynamics' differential equation and save at the times asked.

The request is checked once and handed to one of three: `ode/` for ordinary differential equations, `sde/` for those
with noise, `one_step_map.py` for dynamics that come with their own steps. Each is one compiled program whose
arguments are the dynamics, parameters, times, tolerances and key.
"""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.core import Tracer

from jaxflow._completion import complete_arguments
from jaxflow._losses.models import Trainable, split_model
from jaxflow.dynamics import Dynamics
from jaxflow.optim import learning_rate_of
from jaxflow.optim.multi_steps import accumulation_of
from jaxflow.recording import Recorder, Recording, complete_record
from jaxflow.solve.integration_pieces import integrate_in_pieces
from jaxflow.solve.ode.flow import follow_flow
from jaxflow.solve.one_step_map import follow_map
from jaxflow.solve.request import Request, check_dynamics, check_request
from jaxflow.solve.sde.fixed_steps import diffuse
from jaxflow.solve.trajectories.trajectory import Trajectory, complete_run

if TYPE_CHECKING:
    import diffrax

PyTree = Any


def integrate(
    dynamics: Dynamics,
    params: PyTree,
    times: Any,
    *,
    key: jax.Array | None = None,
    substeps: int | None = None,
    noise_substeps: int | None = None,
    step_size: Any = None,
    rtol: Any = None,
    atol: Any = None,
    solver: "diffrax.AbstractSolver | str | None" = None,
    adjoint: "diffrax.AbstractAdjoint | None" = None,
    event: "diffrax.Event | None" = None,
    record: Callable[[PyTree], PyTree] | Recording | Recorder | None = None,
    max_steps: int | None = 4096,
    state: PyTree = None,
    trainable: Trainable = None,
    progress: bool = False,
    checkpoint: Any = None,
) -> Trajectory:
    r"""Solve $dz = f(t, z)\,dt + \sigma(t, z)\,dW$ from `dynamics.init(params)` at `times[0]`, saved at `times`.

    **Arguments**

    - `dynamics`: a `Dynamics` from `jaxflow.dynamics`, or a user's own.
    - `params`: the parameters at `times[0]`, a pytree. Its real and complex arrays move. All other leaves (functions,
      integers, random keys) are carried along untouched: the objective and `record` see them, and they are in the
      `params` of the result; `values` have `None` there.
    - `times` (T,), T ≥ 2: increasing times on the dynamics' clock, such as `discrete.times` of a run to compare with.
      Without noise some may be equal. An ODE's solver chooses its own steps, and its interpolant is evaluated at
      `times`. It counts time from the first of them, so that a solve far from 0 keeps all its digits.
    - `record`: a function `record(params) -> pytree` of what to keep, or a `Recorder` such as
      `jaxflow.curvature.record_sharpness`, which is shown the states when the run is over (during discrete first
      steps it sees the parameters there and the state after them). Default: the parameters.
    - `state`: the `state` of an earlier trajectory, from which the solve goes on instead of from
      `dynamics.init(params)`. Velocities and second moments are kept. (A path with noise then needs another key.)
    - `trainable`: what of `params` is trained; all other leaves are carried along. `None`: every real and complex
      array. Or flags, `True` or `False`, in a pytree whose structure begins that of `params`. Or a function
      `trainable(path, leaf) -> bool` of a path such as `"layers/0/weight"`; it is called on the host, once for each
      leaf.
    - `progress`: whether to show a bar with the time left. The solve is then some 50 calls of one program, which
      Ctrl-C ends: the result so far is returned, and its `message` says so. A path with noise is the same path; an
      adaptive solver, and a `Recorder`, begin anew in every piece, and `max_steps` counts in each.
    - `checkpoint`: a folder, in which the solve is kept as it proceeds. The same call goes on after a kill, and its
      result is the same to the bit. A folder of another solve is refused, with what differs.

    A dynamics may begin with discrete steps (the warm-up of `modified`). Values at those times are theirs, with
    straight lines in between, and the solver starts where they end.

    *With noise* (in Itô's sense) the steps are fixed, by Euler–Maruyama or the dynamics' own method:

    - `key`: the random key of the path. One key is one path, on any number of devices; an `ensemble` has one key for
      each member.
    - `substeps`: the number of steps between two times (static). By default it is 16 for each step of the discrete
      process, where the dynamics has a `time_step` and both it and the times are concrete. With one substep for each
      discrete step Euler–Maruyama *is* noisy descent and not the SDE, so that is refused; a step longer than a
      quarter of a discrete step brings a warning.
    - `step_size`: instead of `substeps`, the longest step allowed, in time.
    - `noise_substeps`: the number of Brownian increments drawn between two times, a multiple of the number of steps,
      which are summed into the steps (static). Runs that agree in it, in `key` and in `times` are driven by one
      Brownian path whatever their steps are. This serves strong convergence, and differences between step sizes with
      little variance. It is refused where a step is not driven by the sum of its increments: for `rmsprop_sde`,
      `adam_sde` and `sign_sgd`, and for noise that picks examples.
    - `solver`: `diffrax.Heun()` takes the place of Euler–Maruyama. It has weak order 2, and only additive noise may
      use it, as it would otherwise solve the Stratonovich equation.

    *Without noise* the steps are adaptive, unless the dynamics has a step of its own:

    - `rtol`, `atol`: relative and absolute tolerance of the solver. Default: rtol is 1e-8 in float64, 1e-5 in
      float32, 1e-2 in half precision, and atol = rtol.
    - `step_size`: fixed steps of this length, in time, instead of adaptive ones.
    - `substeps`: a number of equal steps between two times (static), instead of adaptive ones. For a dynamics with
      a step of its own, such as `central_flow`, it is the number of these steps between two times, by default 1.
      There it is not static in a plain call: another number compiles nothing.
    - `solver`: any diffrax ODE solver. Default: Tsitouras' method in a loop of our own, which takes the steps of
      `diffrax.Tsit5()` and compiles in less than half the time. `RKC2()` is for stiff late-time gradient flow;
      `"auto"` measures the stiffness at the start and chooses one of the two (on the host, so not under `jit`).
    - `adjoint`: how derivatives pass through the solve. Default: reverse mode (`grad`, `vjp`) through the very steps
      that were taken, whose lengths count as constants. It keeps 96 states at most, makes the steps between them
      again, and needs a number for `max_steps`. `diffrax.ForwardMode()` is for forward mode (`jvp`, `jacfwd`),
      `diffrax.DirectAdjoint()` for both. With an `event`, or another solver than the default or `RKC2()`, reverse
      mode is that of diffrax.
    - `event`: a `diffrax.Event`, such as `gradient_norm_below(1e-3)`. Values at times after it are NaN.
    - `max_steps`: the number of steps allowed, rejected ones included (static).

    **Returns** a `Trajectory`. Nothing is raised when a solve fails: `Trajectory.message` says how it ended, and
    when. A path of fixed steps that is not finite at its end is marked as diverged. A lane of a vmapped adaptive
    solve stops at once, and is marked as diverged, when its state is no longer finite or its steps shrink below
    what the clock can resolve. Where the state is then of moderate size, the lane is marked as having left the
    domain of its equation (if no drift is defined ahead: a second moment below 0, say) or else as one whose steps
    became too small. The `params` of a solve that did not arrive are NaN; its `state` is where it stopped.

    **Raises** `ValueError` or `TypeError` for times that do not increase in the precision at hand, tolerances or
    steps that are not positive, too long, or too short for that precision, an unknown solver, a Stratonovich solver
    for noise that depends on the state, a missing key, or an argument that is for the other kind of equation.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.gradient_flow(lambda x: 0.5 * jnp.sum(x**2))
    >>> print(jf.integrate(flow, jnp.ones(1), jnp.array([0.0, 1.0])).params.round(4))
    [0.3679]
    """
    params, rest = split_model(params, trainable)
    if rest is not None:
        check_dynamics(dynamics)
        dynamics, record = complete_arguments(dynamics, rest), complete_record(record, rest)
    request = check_request(
        dynamics=dynamics,
        params=params,
        times=times,
        key=key,
        substeps=substeps,
        noise_substeps=noise_substeps,
        step_size=step_size,
        rtol=rtol,
        atol=atol,
        solver=solver,
        adjoint=adjoint,
        event=event,
        record=record,
        max_steps=max_steps,
        state=state,
    )
    if progress or checkpoint is not None:
        path = integrate_in_pieces(request, solve=_solve, progress=progress, checkpoint=checkpoint)
    else:
        path = _solve(request)
    _warn(dynamics, path)
    return complete_run(path, rest, _counts_steps(dynamics))


def _solve(request: Request) -> Trajectory:
    if request.has_noise:
        return diffuse(request)
    return follow_map(request) if request.is_stepped else follow_flow(request)


def _warn(dynamics: Dynamics, path: Trajectory) -> None:
    """Say what the dynamics has to remark on what was observed, where that is concrete and one solution."""
    leaves = jax.tree.leaves((path.times, path.observed))
    if path.observed is None or any(isinstance(leaf, Tracer) for leaf in leaves) or np.ndim(path.status):
        return
    if (said := dynamics.build().remark(path.times, path.observed)) is not None:
        warnings.warn(said, stacklevel=3)


def _counts_steps(dynamics: Dynamics) -> bool:
    """Whether the times only count the steps of an optimizer without a learning rate."""
    arguments = dynamics.hyperparameters
    if "optimizer" not in arguments or arguments.get("time_step") is not None:
        return False
    inner, _ = accumulation_of(arguments["optimizer"]) or (arguments["optimizer"], 1)
    return learning_rate_of(inner) is None
