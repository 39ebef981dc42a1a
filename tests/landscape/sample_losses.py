"""Losses that several files of tests look at: a bowl, a small network, a bent valley and a circular one."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow as jf

NETWORK = jf.problems.mlp("iris", hidden=(7, 5), activation="relu", key=jax.random.key(3))
TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]


def bowl(x):
    return jnp.sum(jnp.array([1.0, 8.0, 4.0]) * x**2) / 2 + x[0] * x[1]


def valley(params, bend=0.5, stiff=50.0):
    """Two minima at x = ±1 and a saddle of height 1 at x = 0, in the bent valley y = bend·(1 − x²), z = 0, turned."""
    x, y, z = jnp.asarray(TURN, params["x"].dtype) @ jnp.concatenate([params["x"], params["yz"]])
    return (x**2 - 1) ** 2 + stiff / 2 * ((y - bend * (1 - x**2)) ** 2 + z**2)


def at(x, y, z=0.0):
    """Parameters at a place of the valley."""
    rows = TURN.T @ np.array([x, y, z])
    return jax.device_put({"x": rows[:1], "yz": rows[1:]})


def ring(x, tilt=0.1):
    """A circular valley, whose lower half is lower."""
    return (jnp.sum(x**2) - 1) ** 2 + tilt * x[1]


A, B = at(-1, 0), at(1, 0)
