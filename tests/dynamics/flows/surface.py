"""A loss of two parameters that is not quadratic, and how far apart two runs on it end."""

import jax.numpy as jnp
import numpy as np

import jaxflow as jf

START = jnp.array([1.0, -0.8])
STEPS = (0.04, 0.02, 0.01)
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def loss(x):
    return 0.5 * (x[0] - 0.3) ** 2 * (1 + 0.5 * x[1] ** 2) + 0.25 * (x[0] + x[1]) ** 4 + 0.3 * x[1] ** 2


def slope(x):
    """Its gradient by hand, in NumPy."""
    a, b = x[0] - 0.3, (x[0] + x[1]) ** 3
    return np.array([a * (1 + 0.5 * x[1] ** 2) + b, 0.5 * a**2 * x[1] + b + 0.6 * x[1]])


def quadratic(x):
    return 0.5 * jnp.sum(jnp.array([0.7, 2.0]) * x**2)


def order(gap, steps=STEPS):
    """The slope of gap(step) in the step."""
    return np.polyfit(np.log(steps), np.log([gap(h) for h in steps]), 1)[0]


def end(flow, start=START, time=1.0, state=None):
    return jf.integrate(flow, start, np.array([0.0, time]), state=state, **TIGHT).params


def apart(a, b):
    return np.abs(np.subtract(a, b)).max()
