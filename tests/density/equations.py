"""What two files of tests on Fokker–Planck equations share: a double well, a linear equation, matrices of chains."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow as jf

WELL = lambda x: (x * x - 1) ** 2
H = jnp.asarray(np.diag([1.0, 3.0]))
NOISE = jnp.asarray(np.array([[1.0, 0.8], [0.8, 1.2]]))


@jf.dynamics.traceable
def linear(hessian, noise):
    """dx = −Hx dt + σ dW with ½σσᵀ = `noise`."""
    root = jnp.linalg.cholesky(2 * noise)
    return jf.dynamics.Field(
        drift=lambda t, x: -hessian @ x,
        diffusion=lambda t, x, xi: root @ xi,
        brownian=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
        additive=True,
    )


@jax.jit
def columns(chain, units):
    return jax.vmap(lambda e: chain.apply(e.reshape(chain.grid.shape)).ravel())(units)


def matrix_of(chain):
    return np.asarray(columns(chain, np.eye(chain.leaving.size))).T
