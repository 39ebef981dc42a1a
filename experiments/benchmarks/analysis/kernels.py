"""Tangent kernels of a digits network with 500 inputs and 10 outputs: error and time against dense Jacobians."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from experiments.benchmarks.timing import medians
from jaxflow.kernels import tangent_kernel, tangent_kernel_product

INPUTS = {True: 40, False: 500}  # by whether it is the quick version


@functools.cache
def network(quick: bool) -> tuple[Any, Any, jax.Array]:
    """A network 64-32-32-10 and its inputs."""
    problem = jf.problems.mlp("digits", (32, 32))
    return problem.predict, problem.params, problem.objective.data["x"][: INPUTS[quick]]


def jacobian(predict: Any, params: Any, x: jax.Array) -> jax.Array:
    """The derivatives of all outputs as a matrix (outputs of one example after another, parameters)."""
    flat, unravel = ravel_pytree(params)
    of_one = lambda example: jax.jacrev(lambda f: predict(unravel(f), example[None])[0])(flat)
    return jax.vmap(of_one)(x).reshape(-1, flat.size)


def contraction(predict: Any, params: Any, x: jax.Array) -> jax.Array:
    """The kernel as one product of this matrix with its transpose."""
    matrix = jacobian(predict, params, x)
    return matrix @ matrix.T


def error(quick: bool) -> dict[str, float]:
    """The largest error of the block, its trace and a product, each relative to the largest entry."""
    predict, params, x = network(quick)
    n = x.shape[0]
    matrix = np.asarray(jax.jit(functools.partial(jacobian, predict))(params, x))
    whole = (matrix @ matrix.T).reshape(n, 10, n, 10).swapaxes(1, 2)
    v = np.random.default_rng(0).normal(size=(n, 10))
    pairs = {
        "block": (tangent_kernel(predict, params, x), whole),
        "trace": (tangent_kernel(predict, params, x, output="trace"), np.trace(whole, axis1=2, axis2=3)),
        "product": (
            tangent_kernel_product(predict, params, x, jnp.asarray(v)),
            (matrix @ (matrix.T @ v.ravel())).reshape(n, 10),
        ),
    }
    errors = {
        name: float(np.abs(np.asarray(found) - exact).max() / np.abs(exact).max())
        for name, (found, exact) in pairs.items()
    }
    return {"ratio": max(errors.values()), **errors}


def contestants(quick: bool) -> dict[str, Any]:
    """Functions of parameters, inputs and a vector."""
    predict = network(quick)[0]
    return {
        "block": lambda params, x, v: tangent_kernel(predict, params, x),
        "trace": lambda params, x, v: tangent_kernel(predict, params, x, output="trace"),
        "product": lambda params, x, v: tangent_kernel_product(predict, params, x, v),
        "contraction": lambda params, x, v: contraction(predict, params, x),
    }


@functools.cache
def seconds(quick: bool) -> dict[str, dict[str, float]]:
    """Seconds to compile each, and of the compiled calls, in turns."""
    _, params, x = network(quick)
    given = params, x, jax.random.normal(jax.random.key(0), (x.shape[0], 10), x.dtype)
    compiling, calls = {}, {}
    for name, contestant in contestants(quick).items():
        began = time.perf_counter()
        calls[name] = functools.partial(jax.jit(contestant).lower(*given).compile(), *given)
        compiling[name] = time.perf_counter() - began
    return {"compile": compiling, "median": medians(calls, 1 if quick else 7)}


def share(which: str, quick: bool) -> dict[str, float]:
    """The time of `which` over that of the contraction of Jacobians."""
    found = seconds(quick)
    median, compiling = found["median"], found["compile"]
    return {
        "ratio": median[which] / median["contraction"],
        "ms": 1e3 * median[which],
        "ms of the contraction": 1e3 * median["contraction"],
        "s to compile": compiling[which],
        "s to compile the contraction": compiling["contraction"],
    }
