"""One table of everything in `jaxflow.optim`: each optimizer and schedule in each of its forms.

It drives the tests of what all must share (numbers, compilation, derivatives, dtypes, composition). No setting
is 0 or without effect, so that a hyperparameter that is ignored is noticed. The loss is
L(x) = Σ h_i x_i²/2 + cos(3 x_i)/10 + (Σ x_i)²/20, here for JAX and its gradient once more in NumPy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import recursions

import jaxflow as jf

CURVATURES = np.array([1.0, 4.0, 0.5, 2.0])
START = np.array([1.0, -2.0, 0.5, 1.5])


def gradient(x):
    return CURVATURES * x - 0.3 * np.sin(3 * x) + 0.1 * x.sum()


def hessian(x):
    return np.diag(CURVATURES - 0.9 * np.cos(3 * x)) + 0.1


def loss(params):
    """The loss of any pytree of four numbers."""
    x = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    h = jnp.asarray(CURVATURES, x.dtype)
    return jnp.sum(0.5 * h * x**2 + 0.1 * jnp.cos(3 * x)) + 0.05 * jnp.sum(x) ** 2


def as_tree(x):
    """The same four numbers as arrays of mixed shapes; flattened, they are in order."""
    x = jnp.asarray(x)
    return {"a": x[:2], "b": x[2], "c": [x[3:].reshape(1, 1)]}


def vector_and_matrix(x):
    """The same four numbers in as few arrays as have two shapes: every array is more of each program."""
    return {"vector": x[:3], "matrix": x[3:].reshape(1, 1)}


class Case(NamedTuple):
    """A constructor, its keyword arguments, and the NumPy recursion that takes the same.

    `differentiable`: a run has a derivative with respect to hyperparameters and start. `needs`: the function
    that `update` must be handed. `complex`: defined for complex parameters. `decays`: parameters shrink without
    a gradient.
    """

    id: str
    constructor: Callable[..., Any]
    settings: dict[str, Any]
    recursion: Callable[..., np.ndarray] | None
    differentiable: bool = True
    needs: str | None = None
    complex: bool = True
    decays: bool = False

    def make(self, **changes):
        return self.constructor(**self.settings | changes)


def _case(id, settings, recursion=None, **facts):
    """The constructor is named by the id up to a dash; what follows says which form."""
    name = id.split("-")[0]
    recursion = recursion or getattr(recursions, name, None)
    return Case(id, getattr(jf.optim, name), settings, recursion, **facts)


def _swats(*args, **settings):
    return recursions.swats(*args, **settings, reference="switch")


def _lookahead(gradient, x, number, /, inner, steps, **settings):
    fast = {name: inner.hyperparameters[name] for name in ("learning_rate", "beta")}
    return recursions.lookahead_momentum(gradient, x, number, **fast, steps_between=steps, **settings)


def _newton(*args, **settings):
    return recursions.newton(*args, **settings, hessian=hessian)


_MOMENTUM = {"learning_rate": 0.02, "beta": 0.8}
_RMSPROP = {"learning_rate": 0.003, "decay": 0.9, "eps": 1e-3}
_ADAM = {"learning_rate": 0.02, "b1": 0.9, "b2": 0.99, "eps": 1e-3}
_BOUND = _ADAM | {"final_learning_rate": 0.05, "gamma": 0.1}
_LOOKAHEAD = {"inner": jf.optim.momentum(**_MOMENTUM), "steps": 5, "alpha": 0.5}

CASES = [
    _case("gd", {"learning_rate": 0.05}),
    _case("momentum", _MOMENTUM),
    _case("momentum-ema", _MOMENTUM | {"ema": True}),
    _case("momentum-debias", _MOMENTUM | {"ema": True, "debias": True}),
    _case("nesterov", _MOMENTUM),
    _case("nesterov-lookahead", _MOMENTUM | {"lookahead": True}, needs="grad_fn"),
    _case("sgdw", _MOMENTUM | {"weight_decay": 0.1}, decays=True),
    _case("sgdw-paper", _MOMENTUM | {"weight_decay": 0.01, "multiplier": 0.7}, decays=True),
    _case("adagrad", {"learning_rate": 0.05, "eps": 0.01, "initial_accumulator": 0.1}),
    _case(
        "adagrad-eps_in_sqrt",
        {"learning_rate": 0.05, "eps": 0.01, "initial_accumulator": 0.1, "eps_in_sqrt": True},
    ),
    _case("rmsprop", _RMSPROP),
    _case("rmsprop-in_sqrt", _RMSPROP | {"eps_in_sqrt": True}),
    _case("scalar_rmsprop", _RMSPROP | {"learning_rate": 0.02, "eps": 0.1}),
    _case("adam", _ADAM),
    _case("adamw", _ADAM | {"weight_decay": 0.1}, decays=True),
    _case("adamw-paper", _ADAM | {"weight_decay": 0.01, "multiplier": 0.7}, decays=True),
    _case("amsgrad", _ADAM),
    _case("amsgrad-paper", _ADAM | {"bias_correction": False}),
    _case("adabound", _BOUND),
    _case("adabound-paper", _BOUND | {"paper": True}),
    _case("adabound-amsbound", _BOUND | {"amsbound": True}),
    _case("radam", _ADAM | {"threshold": 6.0}),
    _case("nadam", _ADAM),
    _case("nadam-decay", _ADAM | {"momentum_decay": 0.1}),
    _case("swats", _ADAM | {"b2": 0.95, "eps": 0.01, "tolerance": 5e-5}, _swats),
    _case("swats-relative", _ADAM | {"b2": 0.95, "tolerance": 2.5e-3, "relative": True}, _swats),
    _case("lookahead", _LOOKAHEAD, _lookahead),
    _case("lookahead-reset", _LOOKAHEAD | {"reset": True}, _lookahead),
    _case("newton", {"learning_rate": 0.1, "damping": 1.0}, _newton, needs="grad_fn", complex=False),
    _case("sign", {"learning_rate": 0.02}),
    _case(
        "genetic",
        {"spread": 0.5, "mutation": 0.2, "alpha": 0.5, "decay": 0.9, "key": jax.random.key(0), "size": 8},
        differentiable=False,
        needs="value_fn",
        complex=False,
    ),
]

# The last form of each optimizer, where the form makes no difference to what is tested.
ONE_FORM_EACH = list({case.constructor: case for case in CASES}.values())


class ScheduleCase(NamedTuple):
    """A schedule's constructor, its keyword arguments, and the NumPy schedule that takes the same."""

    id: str
    constructor: Callable[..., Any]
    settings: dict[str, Any]
    oracle: Callable[..., Callable[[int], float]]

    def make(self, **changes):
        return self.constructor(**self.settings | changes)


def _schedule(id, settings, oracle=None):
    name = id.split("-")[0]
    return ScheduleCase(id, getattr(jf.optim, name), settings, oracle or getattr(recursions, name))


def _warmup_to_schedule(peak, steps, start):
    top = recursions.inverse_sqrt(peak.hyperparameters["value"])
    return lambda k: recursions.warmup(top(max(k - steps, 0)), steps, start)(k)


SCHEDULE_CASES = [
    _schedule("constant", {"value": 0.3}),
    _schedule("inverse_sqrt", {"value": 0.3}, lambda value: recursions.inverse_sqrt(value)),
    _schedule("warmup", {"peak": 0.3, "steps": 10, "start": 0.1}),
    _schedule(
        "warmup-peak", {"peak": jf.optim.inverse_sqrt(0.3), "steps": 10, "start": 0.1}, _warmup_to_schedule
    ),
    _schedule("triangular", {"low": 0.1, "high": 0.5, "half_period": 8}),
    _schedule("sgdr", {"high": 0.5, "period": 7, "growth": 2.0, "low": 0.1}),
    _schedule("sgdr-constant", {"high": 0.5, "period": 7, "low": 0.1}),
    _schedule(
        "one_cycle",
        {"peak": 0.5, "steps": 60, "start_factor": 5.0, "final_factor": 10.0, "warm_fraction": 0.3},
    ),
    _schedule("one_cycle_momentum", {"steps": 60, "low": 0.8, "high": 0.9, "warm_fraction": 0.3}),
]

by_id = {"ids": lambda case: case.id}  # for parametrize: the names of the tests
