"""Mini-batch noise against the covariance of mini-batch gradients enumerated over every batch there is."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from jaxflow.dynamics import minibatch_noise, noise, temperature
from jaxflow.dynamics.noise.batch_temperature import batch_factor

N = 6


def losses(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["w"] + params["b"][None])
    return 0.5 * (hidden @ params["out"] - batch["y"]) ** 2


def draw(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


DATA = {"x": draw((N, 2), 0), "y": draw(N, 1)}
PARAMS = {"w": draw((2, 3), 2), "b": draw(3, 3), "out": draw(3, 4)}
OBJECTIVE = jf.Objective(losses, DATA)
CHUNKED = jf.Objective(losses, DATA, chunk=4)  # 6 is no multiple of 4
FLAT, UNRAVEL = ravel_pytree(PARAMS)
# One vector of losses differentiated as a whole: no code in common with the noise.
GRADIENTS = np.asarray(jax.jit(jax.jacfwd(lambda p: losses(UNRAVEL(p), DATA)))(FLAT))


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def enumerated(batch_size, replacement):
    """The covariance of the mean gradient over all batches, every one as likely as any other."""
    batches = (
        itertools.product(range(N), repeat=batch_size)
        if replacement
        else itertools.combinations(range(N), batch_size)
    )
    means = np.stack([GRADIENTS[list(batch)].mean(0) for batch in batches])
    assert len(means) == (N**batch_size if replacement else math.comb(N, batch_size))
    centred = means - means.mean(0)
    return centred.T @ centred / len(means)


def draws(objective, xi, batch_size=1, kind=None, replacement=True):
    """The raveled draws for a stack of `xi`; (len, P)."""

    def one(x):
        g = minibatch_noise(objective, PARAMS, x, batch_size=batch_size, replacement=replacement, noise=kind)
        return ravel_pytree(g)[0]

    return np.asarray(jax.jit(jax.vmap(one))(xi))


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("batch_size", [2, 3])
def test_covariance_is_that_of_all_batches(batch_size, replacement):
    operator = draws(
        OBJECTIVE, np.eye(N), batch_size, replacement=replacement
    )  # linear: its rows are A's columns
    assert relative(operator.T @ operator, enumerated(batch_size, replacement)) < 1e-12


def test_full_batch_without_replacement_is_silent():
    assert np.abs(draws(OBJECTIVE, np.eye(N), N, replacement=False)).max() == 0


def test_the_mean_gradient_is_not_in_the_noise():
    shared = draws(OBJECTIVE, np.ones((1, N)))
    assert np.abs(shared).max() < 1e-14
    uncentred = GRADIENTS / np.sqrt(2 * N)
    assert relative(uncentred.T @ uncentred, enumerated(2, True)) > 0.1


def test_chunks_change_nothing():
    xi = draw((3, N), 5)
    np.testing.assert_allclose(draws(CHUNKED, xi), draws(OBJECTIVE, xi), atol=1e-14)


def example_weights(kind, bits):
    """The weight of every example in a draw: the draw itself where example i has the gradient of θ_i."""
    identity = jf.Objective(lambda params, i: params[i], jnp.arange(N))
    return np.asarray(jax.jit(jax.vmap(lambda x: kind.build().draw(identity, jnp.zeros(N), x)))(bits))


def keys(count, seed):
    return jax.random.bits(jax.random.key(seed), (count, 2), jnp.uint32)


EXAMPLES_COVARIANCE = np.eye(N) / N - np.ones((N, N)) / N**2  # Σ where g_i is the unit vector e_i


def test_subset_has_the_covariance_on_average_over_subsets():
    count, size = 300, 3
    bits = keys(count, 0)
    # Unit normals for every set of bits: the operator from ξ to weights, given the subset.
    xi = {
        "normal": np.tile(np.eye(size), (count, 1, 1)),
        "bits": np.broadcast_to(np.asarray(bits)[:, None], (count, size, 2)),
    }
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), xi)
    operator = example_weights(noise.subset(size), flat).reshape(count, size, N)
    given = np.einsum("kmi,kmj->kij", operator, operator)
    by_subset = {tuple(np.flatnonzero(np.diag(c))): c for c in given}
    # All 20 subsets: one is missing with probability below 20 · 0.95^300 = 4e-6.
    assert sorted(by_subset) == list(itertools.combinations(range(N), size))
    np.testing.assert_allclose(np.mean(list(by_subset.values()), 0), EXAMPLES_COVARIANCE, atol=1e-14)


def test_two_batches_have_the_covariance_over_all_pairs():
    weights = example_weights(noise.two_batches(1), keys(600, 1))
    outcomes = {tuple(np.round(w, 9)): w for w in weights}
    # 30 ordered pairs of different examples and one outcome, 0, for the 6 pairs of equal ones.
    # One of the 30 is missing with probability below 30 · (35/36)^600 = 2e-6.
    assert len(outcomes) == N * (N - 1) + 1
    total = sum(np.outer(w, w) for w in outcomes.values())
    np.testing.assert_allclose(total / N**2, EXAMPLES_COVARIANCE, atol=1e-8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_larger_batches_sample_the_covariance(seed):
    count = 20_000
    weights = example_weights(noise.two_batches(3), keys(count, seed))
    outer = weights[:, :, None] * weights[:, None]
    error = np.abs(outer.mean(0) - EXAMPLES_COVARIANCE) / (outer.std(0) / np.sqrt(count))
    assert error.max() < 5  # 21 entries of a normal law: a false alarm in 80,000 runs


@pytest.mark.parametrize("kind", [noise.subset(4), noise.two_batches(2)], ids=repr)
def test_a_draw_is_its_weights_on_the_gradients(kind):
    bits = keys(2, 3)
    xi = bits if "two" in repr(kind) else {"normal": draw((2, 4), 6), "bits": bits}
    expected = example_weights(kind, xi) @ GRADIENTS
    np.testing.assert_allclose(draws(OBJECTIVE, xi, kind=kind), expected, atol=1e-13)


@pytest.mark.parametrize("order", [1, "2+"])
@pytest.mark.parametrize("objective", [OBJECTIVE, CHUNKED], ids=["whole", "chunked"])
def test_fused_step_is_eulers(objective, order):
    dynamics = jf.dynamics.sgd(objective, 0.3, 2, order, replacement=False)
    dt, xi = jnp.asarray(0.02), draw(N, 7)

    @jax.jit
    def both():
        drift, noise = dynamics.drift(0.0, PARAMS), dynamics.diffusion(0.0, PARAMS, xi)
        euler = jax.tree.map(lambda p, f, s: p + dt * f + jnp.sqrt(dt) * s, PARAMS, drift, noise)
        return dynamics.step(0.0, PARAMS, dt, xi), euler

    fused, expected = both()
    np.testing.assert_allclose(ravel_pytree(fused)[0], ravel_pytree(expected)[0], rtol=1e-13)


def test_diffusion_has_the_temperature():
    rate, batch = 0.3, 2
    dynamics = jf.dynamics.sgd(OBJECTIVE, rate, batch, replacement=False)
    operator = jax.jit(jax.vmap(lambda x: ravel_pytree(dynamics.diffusion(0.0, PARAMS, x))[0]))(jnp.eye(N))
    sigma = np.cov(GRADIENTS.T, bias=True)
    heat = 2 * temperature(rate, batch, N, replacement=False)
    assert relative(np.asarray(operator).T @ np.asarray(operator), heat * sigma) < 1e-12


def test_temperature_in_numbers():
    assert temperature(0.1, 32) == 0.1 / 64
    assert math.isclose(temperature(0.1, 4, 13, replacement=False), 0.05 * 9 / 12 / 4)
    assert math.isclose(temperature(0.1, 32, beta=0.9), 10 * temperature(0.1, 32))
    assert batch_factor(1, 1, replacement=False) == 0  # one example is all of its data
    np.testing.assert_allclose(temperature(jnp.array([0.1, 0.2]), 1.0), [0.05, 0.1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: temperature(-0.1, 32), ValueError, "learning_rate must be"),
        (lambda: temperature(0.1, 0), ValueError, "batch_size must be"),
        (lambda: temperature(0.1, 9, 8, replacement=False), ValueError, "at most the number of examples, 8"),
        (lambda: temperature(0.1, 2, replacement=False), ValueError, "size must be"),
        (lambda: temperature(0.1, 32, beta=1.0), ValueError, r"beta must be in \[0, 1\)"),
        (
            lambda: temperature(jnp.asarray(-1.0), 4),
            ValueError,
            "learning_rate must be .* at least 0, got -1",
        ),
        (lambda: temperature(np.array([0.1, -0.1]), 4), ValueError, "got -0.1 among its values"),
        (
            lambda: temperature(jnp.nan * jnp.ones(2), 4),
            ValueError,
            "learning_rate must be a finite .* got nan",
        ),
        (lambda: temperature(0.1, jnp.asarray(0)), ValueError, "batch_size must be .* above 0, got 0"),
        (
            lambda: temperature(0.1, np.array([1, 20]), 13, replacement=False),
            ValueError,
            "examples, 13, .* got 20 am",
        ),
        (lambda: temperature(0.1, 4, beta=jnp.asarray(1.0)), ValueError, r"beta must be in \[0, 1\), got 1"),
        (lambda: temperature(jnp.asarray(1j), 4), TypeError, "learning_rate must be .* dtype complex"),
        (
            lambda: temperature(jf.optim.constant(0.1), 4),
            TypeError,
            "learning_rate must be a number .* the schedule",
        ),
        (
            lambda: temperature(0.1, jf.optim.constant(4)),
            TypeError,
            "batch_size must be a number .* the schedule",
        ),
        (lambda: noise.subset(1), ValueError, "examples must be"),
        (lambda: noise.subset(7).build().brownian(OBJECTIVE, PARAMS), ValueError, "examples, 6, got 7"),
        (lambda: noise.two_batches(0), ValueError, "batch_size must be"),
        (
            lambda: draws(OBJECTIVE, np.eye(N), 7, replacement=False),
            ValueError,
            "batch_size must be at most",
        ),
        (
            lambda: minibatch_noise(jnp.sum, PARAMS, jnp.ones(N), batch_size=1),
            TypeError,
            "need an Objective",
        ),
        (lambda: jf.dynamics.sgd(OBJECTIVE, 0.1, 1, order=3), ValueError, "order must be"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "dynamics",
    [
        lambda rate: jf.dynamics.sgd(CLOUD, rate, 3, replacement=False),
        lambda rate: jf.dynamics.momentum_sgd(CLOUD, rate, 3, 0.5, replacement=False),
        lambda rate: jf.dynamics.langevin(CLOUD, lambda t: rate * jnp.maximum(0.0, 1 - 4 * t)),
    ],
    ids=["all data in a batch", "all data in a batch, momentum", "no temperature at the end"],
)
def test_derivatives_are_the_numeric_ones_where_noise_ends(dynamics):
    """The amplitude is a root, of 0 there, times which the chain rule has a 0."""

    def end(rate):
        return jf.integrate(
            dynamics(rate), jnp.ones(2), [0.0, 0.5], key=jax.random.key(0), substeps=32
        ).params.sum()

    numeric = (end(0.1 + 1e-5) - end(0.1 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(end)(0.1), numeric, rtol=1e-6, atol=1e-9)


CLOUD = jf.Objective(
    lambda w, c: 0.5 * ((w[None] - c) ** 2).sum(1), jnp.array([[-1.0, 0.0], [1.0, 2.0], [0.0, 1.0]])
)
