"""The type of everything that runs in continuous time, and its arithmetic.

A dynamics says how a state drifts and how it diffuses; it takes no steps and draws no noise. The integrator
does both, and so one Brownian path at two step sizes, or noise drawn in chunks, is possible.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._norms import root
from jaxflow._programs.half import widen
from jaxflow._traceable import Bound, kind, traceable

PyTree = Any


class Prefix(NamedTuple):
    """Discrete steps with which a run begins, before the flow takes over.

    - `elapsed` (n + 1,): the time after 0, 1, …, n steps.
    - `run(state) -> (path, state)`: the parameters at those times, leaves (n + 1, …), and the state at the last of
      them, from the state that `init` made.
    """

    elapsed: Any
    run: Callable[[PyTree], tuple[PyTree, PyTree]]


class Field(NamedTuple):
    r"""What the body of a dynamics constructor returns: the functions of $dz = f(t, z)\,dt + \sigma(t, z)\,dW$.

    - `drift(t, state) -> d state/dt`, a pytree like the state.
    - `init(params) -> state` and `params(state) -> params`; by default the state is the parameters.
    - `diffusion(t, state, xi) -> σ(t, state)·xi` in the sense of Itô, linear in `xi`.
    - `brownian(state)`: the shape of `xi`. Float leaves are standard normal; unsigned integer leaves are random bits,
      for noise that picks examples.
    - `step(t, state, dt, xi) -> state`: a one-step map that takes the place of Euler–Maruyama.
    - `time_step`: the time that one step of the discrete process stands for, a number or a function of the time.
    - `additive`: whether σ does not depend on the state, so that Itô and Stratonovich agree.
    - `increments_add`: whether `step` is driven by `xi` as by a Brownian increment, so that a coarser step with the
      sum of the finer increments follows the same path. It is false where the step squares `xi` or takes its sign.
    - `prefix(params) -> Prefix | None`: discrete steps with which a run begins, for an ODE whose `init` is not on
      its flow.
    - `observe(state) -> pytree`: what the state tells in addition to its parameters, for `Trajectory.observed`.
    - `check(params)`: refuses concrete parameters that cannot be a start, by a `ValueError`, before anything is
      compiled.
    - `remark(times, observed) -> str | None`: what to warn of when concrete records of `observe` look wrong.
    """

    drift: Callable[[Any, PyTree], PyTree]
    init: Callable[[PyTree], PyTree] = lambda params: params
    params: Callable[[PyTree], PyTree] = lambda state: state
    diffusion: Callable[[Any, PyTree, PyTree], PyTree] | None = None
    brownian: Callable[[PyTree], PyTree] | None = None
    step: Callable[..., PyTree] | None = None
    time_step: Any = None
    additive: bool = False
    increments_add: bool = True
    prefix: Callable[[PyTree], Prefix | None] = lambda params: None
    observe: Callable[[PyTree], PyTree] | None = None
    check: Callable[[PyTree], None] = lambda params: None
    remark: Callable[[Any, PyTree], str | None] = lambda times, observed: None


@kind(lambda result: isinstance(result, Field))
class Dynamics(Bound):
    """A dynamics as a pytree whose leaves are the objective and hyperparameters with which it was made.

    Its functions are those of `Field`. Dynamics over states of one structure can be added, and scaled by a number:
    `a + b` follows both drifts (and independent noises); `c * a` runs a at c times its speed.

    A user's own is a traceable constructor that returns a `Field`:

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> @jf.dynamics.traceable
    ... def damped(rate):
    ...     return jf.dynamics.Field(drift=lambda t, x: -rate * x)
    >>> path = jf.integrate(damped(2.0) + 0.5 * damped(2.0), jnp.ones(1), jnp.array([0.0, 1.0]))
    >>> bool(abs(path.params[0] - jnp.exp(-3.0)) < 1e-4)
    True
    """

    def drift(self, t: Any, state: PyTree) -> PyTree:
        """The velocity d state/dt at time t."""
        return self.build().drift(t, state)

    def init(self, params: PyTree) -> PyTree:
        """The state that starts at these parameters."""
        return self.build().init(params)

    def params(self, state: PyTree) -> PyTree:
        """The parameters in a state."""
        return self.build().params(state)

    @property
    def diffusion(self) -> Callable[[Any, PyTree, PyTree], PyTree] | None:
        """`diffusion(t, state, xi)`; `None` for an ODE."""
        return self.build().diffusion

    @property
    def brownian(self) -> Callable[[PyTree], PyTree] | None:
        """`brownian(state)`, the shape of `xi`; `None` for an ODE."""
        return self.build().brownian

    @property
    def step(self) -> Callable[..., PyTree] | None:
        """`step(t, state, dt, xi)`, where a better one-step map than Euler–Maruyama is known."""
        return self.build().step

    @property
    def time_step(self) -> Any:
        """The time that one discrete step stands for, or a function of t; `None` without a discrete process."""
        return self.build().time_step

    @property
    def additive(self) -> bool:
        """Whether the diffusion does not depend on the state."""
        return self.build().additive

    def prefix(self, params: PyTree) -> Prefix | None:
        """The discrete steps with which a run from these parameters begins; `None` if there are none."""
        return self.build().prefix(params)

    def __add__(self, other):
        return sum_of(self, other) if isinstance(other, Dynamics) else NotImplemented

    def __mul__(self, factor):
        return NotImplemented if isinstance(factor, Dynamics) else multiple(factor, self)

    __rmul__ = __mul__


def scale(factor: Any, tree: PyTree) -> PyTree:
    """A number times a pytree, in the pytree's dtypes."""
    return jax.tree.map(lambda x: jnp.asarray(factor).astype(x.real.dtype) * x, tree)


def widen_tree(tree: PyTree) -> PyTree:
    """Half precision as single: squares, and averages over steps, would overflow or lose digits in half precision."""
    return jax.tree.map(widen, tree)


def cast_like(tree: PyTree, params: PyTree) -> PyTree:
    """A pytree in the dtypes of another."""
    return jax.tree.map(lambda x, p: x.astype(p.dtype), tree, params)


def add(a: PyTree, b: PyTree) -> PyTree:
    """The sum of two pytrees of one structure."""
    return jax.tree.map(jnp.add, a, b)


def _add(a: PyTree, b: PyTree) -> PyTree:
    _check.require_like("Dynamics that are added", b, a, "have states of one structure and its shapes")
    return add(a, b)


def _add_noise(a: Field, b: Field) -> tuple[Callable | None, Callable | None]:
    if a.diffusion is None or b.diffusion is None:
        noisy = b if a.diffusion is None else a
        return noisy.diffusion, noisy.brownian
    assert a.brownian is not None
    assert b.brownian is not None
    first, second, shape_a, shape_b = a.diffusion, b.diffusion, a.brownian, b.brownian
    diffusion = lambda t, z, xi: _add(first(t, z, xi[0]), second(t, z, xi[1]))
    return diffusion, lambda z: (shape_a(z), shape_b(z))


@traceable
def sum_of(first: Dynamics, second: Dynamics) -> Field:
    """`first + second`: both drifts, independent noises; `init`, `params` and `time_step` are those of the first."""
    a, b = first.build(), second.build()
    diffusion, brownian = _add_noise(a, b)
    return Field(
        drift=lambda t, z: _add(a.drift(t, z), b.drift(t, z)),
        init=a.init,
        params=a.params,
        diffusion=diffusion,
        brownian=brownian,
        time_step=b.time_step if a.time_step is None else a.time_step,
        prefix=lambda params: _refuse_prefixes(a.prefix(params), b.prefix(params)),
        additive=all(part.additive for part in (a, b) if part.diffusion is not None),
    )


@traceable
def multiple(factor, dynamics: Dynamics) -> Field:
    r"""`factor * dynamics`: the drift times c and the diffusion times $\sqrt c$, which keeps a stationary law.

    Raises `ValueError` for a negative or NaN factor where there is noise.
    """
    a = dynamics.build()
    diffusion = a.diffusion
    if diffusion is not None:
        _check.require_nonnegative(factor=factor)
        noise = diffusion
        diffusion = lambda t, z, xi: scale(root(factor), noise(t, z, xi))
    return a._replace(
        drift=lambda t, z: scale(factor, a.drift(t, z)),
        diffusion=diffusion,
        step=None,
        time_step=_divide_time_step(a.time_step, factor),
        prefix=lambda params: _rescale_prefix(a.prefix(params), factor),
    )


def _refuse_prefixes(*prefixes: Prefix | None) -> None:
    if any(prefix is not None for prefix in prefixes):
        raise ValueError(
            "warmup must be 0 for a sum of dynamics, as the discrete steps of one would leave out the other."
        )


def _rescale_prefix(prefix: Prefix | None, factor) -> Prefix | None:
    if prefix is None:
        return None
    _check.require_positive(factor=factor)  # discrete steps cannot be undone
    return prefix._replace(elapsed=prefix.elapsed / factor)


def _divide_time_step(time_step, factor):
    if time_step is None:
        return None
    return (lambda t: time_step(t) / factor) if callable(time_step) else time_step / factor
