"""Losses of examples that depend on their companions are told of, once, with numbers."""

import warnings

import jax
import jax.numpy as jnp
import pytest

import jaxflow as jf

pytestmark = pytest.mark.promotes
X = jax.random.normal(jax.random.key(0), (20, 3))
W = jnp.array([1.0, -0.5, 0.2])


def made():
    """Losses of a function of their own, which are looked at once."""

    def losses(w, x):
        mean = x.mean(0)
        return jax.vmap(lambda x: ((x - mean) @ w - 1.0) ** 2)(x)

    return losses


def alone():
    return lambda w, x: jax.vmap(lambda x: (x @ w - 1.0) ** 2)(x)


USES = {
    "sde": lambda o: jf.integrate(jf.dynamics.sgd(o, 0.1, 4), W, [0.0, 0.1], key=jax.random.key(0)),
    "ensemble": lambda o: jf.ensemble(
        lambda key: jf.integrate(jf.dynamics.sgd(o, 0.1, 4), W, [0.0, 0.1], key=key),
        jax.random.split(jax.random.key(0)),
    ),
    "noise scale": lambda o: jf.noise_scale(o, W),
    "covariance": lambda o: jf.gradient_covariance(o, W),
}  # fmt: skip


@pytest.mark.parametrize("name", USES)
def test_companions_are_told_of_once(name):
    objective = jf.Objective(made(), X)
    with pytest.warns(
        UserWarning, match=r"depends on the others in its batch.* alone and .* among 8.*ghost batch"
    ):
        USES[name](objective)
    USES[name](objective)  # warnings are errors here


@pytest.mark.parametrize("name", USES)
def test_concrete_numbers_are_looked_at_where_something_else_is_traced(name):
    """Under `jit`, and in a loop: the objective and the parameters are closed over, and their first use is there."""
    for inside in (lambda use: jax.jit(use)(1.0), lambda use: jax.lax.map(use, jnp.ones(2))):
        objective = jf.Objective(made(), X)
        with pytest.warns(UserWarning, match="depends on the others"):
            inside(lambda scale, objective=objective: scale * jnp.sum(_numbers(USES[name](objective))))
        objective = jf.Objective(alone(), X)
        inside(lambda scale, objective=objective: scale * jnp.sum(_numbers(USES[name](objective))))


def _numbers(found):
    return {jf.solve.Trajectory: lambda: found.values, jf.NoiseScale: lambda: found.trace}.get(
        type(found), lambda: found
    )()


CHUNKED = {
    "call": lambda o: o(W),
    "iterate": lambda o: jf.iterate(jf.optim.gd(0.1), o, W, steps=1),
    "flow": lambda o: jf.integrate(jf.dynamics.gradient_flow(o), W, [0.0, 0.1]),
    "curvature": lambda o: jf.curvature.hvp(o, W, W),
}


@pytest.mark.parametrize("name", CHUNKED)
def test_companions_are_told_of_where_examples_are_summed_in_chunks(name):
    with pytest.warns(UserWarning, match="depends on the others in its batch.*mean in chunks"):
        CHUNKED[name](jf.Objective(made(), X, chunk=7))
    for objective in (jf.Objective(alone(), X, chunk=7), jf.Objective(made(), X, chunk=20)):
        CHUNKED[name](objective)  # warnings are errors here


def test_models_random_losses_and_states_are_looked_at_too():
    losses = made()
    model = {"w": W, "act": jnp.tanh}
    with pytest.warns(UserWarning, match="depends on the others"):
        jf.noise_scale(jf.Objective(lambda m, x: m["act"](losses(m["w"], x)), X), model)
    with pytest.warns(UserWarning, match="depends on the others"):
        jf.noise_scale(jf.Objective(lambda w, x, key: losses(w, x), X, draws=1), W)
    with pytest.warns(UserWarning, match="depends on the others"):
        jf.noise_scale(jf.Objective(lambda w, x, state: (losses(w, x), state), X, state=jnp.ones(1)), W)


def test_single_examples_are_not_told_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for use in USES.values():
            use(jf.Objective(alone(), X))
        # A ghost batch is one example.
        ghosts = jf.Objective(lambda w, x: jax.vmap(lambda x: made()(w, x).mean())(x), X.reshape(5, 4, 3))
        jf.noise_scale(ghosts, W)
        # Random losses have a key for each example, wherever it is.
        noisy = lambda w, x, key: jax.vmap(lambda x, k: (x @ w + jax.random.normal(k)) ** 2)(x, key)
        jf.noise_scale(jf.Objective(noisy, X, draws=2), W)
