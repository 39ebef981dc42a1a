"""Recorders that several files of tests watch runs with."""

import jax.numpy as jnp

import jaxflow as jf


@jf.optim.traceable
def way(scale):
    """A recorder with a memory: the length of the way so far. It is cheaper to compile than one of eigenvectors."""

    def look(memory, params, state):
        last, length = memory
        length = length + scale * jnp.linalg.norm(params["w"] - last)
        return length, (params["w"], length)

    return jf.Recorder(begin=lambda params, state: (params["w"], jnp.zeros(())), look=look)
