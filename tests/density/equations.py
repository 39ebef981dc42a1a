"""What two files of tests on Fokker–Planck equations share: a double well, a linear equation, matrices of chains."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.analysis.density import linear as linear

WELL = lambda x: (x * x - 1) ** 2
H = jnp.asarray(np.diag([1.0, 3.0]))
NOISE = jnp.asarray(np.array([[1.0, 0.8], [0.8, 1.2]]))


@jax.jit
def columns(chain, units):
    return jax.vmap(lambda e: chain.apply(e.reshape(chain.grid.shape)).ravel())(units)


def matrix_of(chain):
    return np.asarray(columns(chain, np.eye(chain.leaving.size))).T
