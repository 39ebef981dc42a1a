"""A linear two-branch problem of three features, its velocities written out, and its flow by SciPy's solver."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

from jaxflow.problems import self_supervised

VARIANCES = (2.0, 1.0, 0.5)
SIGMA, ETA, SPEED, TAU = 0.2**0.5, 0.1, 2.5, 0.9
SIMSIAM = {"augmentation": SIGMA, "weight_decay": ETA, "predictor_speed": SPEED, "teacher_scale": TAU}
BYOL = {"augmentation": SIGMA, "weight_decay": ETA, "predictor_speed": SPEED, "teacher_rate": 0.7}


def examples(variances):
    """Examples with mean 0 whose covariance is diagonal, exactly."""
    corners = np.diag(np.sqrt(len(variances) * np.asarray(variances)))
    return np.concatenate([corners, -corners])


def small(**options):
    """A linear problem of three features and two outputs."""
    return self_supervised(examples(VARIANCES), 2, scale=False, **options)


def anywhere(params, seed=0):
    """Random parameters of the same shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=np.shape(x))), params)


def follow(problem, params, times, rtol=1e-10):
    """The flow of −V by SciPy's solver: the players at the given times, stacked."""
    flat, unravel = ravel_pytree(params)
    velocity = jax.jit(lambda z, objective: -ravel_pytree(objective(unravel(z)))[0])
    path = solve_ivp(
        lambda _, z: np.asarray(velocity(z, problem.objective)),
        (0, times[-1]),
        flat,
        t_eval=times,
        method="DOP853",
        rtol=rtol,
        atol=rtol * 1e-3,
    )
    assert path.success
    return jax.jit(jax.vmap(unravel))(path.y.T)


def by_hand(online, predictor, teacher, tau, stopped):
    """Velocities of W and W_p in the linear model, written out as in the paper."""
    x = np.diag(VARIANCES)
    seen = x + SIGMA**2 * np.eye(3)
    error = tau * teacher @ x - predictor @ online @ seen
    target = 0 if stopped else tau * (predictor @ online @ x - tau * teacher @ seen)
    return predictor.T @ error + target - ETA * online, SPEED * error @ online.T - ETA * predictor
