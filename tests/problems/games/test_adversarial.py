"""Generative adversarial networks: linear ones against their fields in closed form; the data they are tried on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.problems import GANPlayers, gan, ring_of_gaussians

pytestmark = pytest.mark.promotes
POINT, SHIFT = np.array([0.6, -0.4, 1.0]), np.array([-0.3, 0.8, 0.2])
SLOPE, OFFSET = np.array([0.9, -0.5, 0.7]), 0.1


def linear(**settings):
    """A generator that makes one point whatever it is given, and a linear discriminator; the data are one point."""
    problem = gan(
        jnp.asarray(POINT)[None], latent=2, generator=(), discriminator=(), batch_size=5, **settings
    )
    made = ({"w": jnp.zeros((2, 3)), "b": jnp.asarray(SHIFT)},)
    judged = ({"w": jnp.asarray(SLOPE)[:, None], "b": jnp.array([OFFSET])},)
    return problem.objective, GANPlayers(made, judged)


def sigmoid(t):
    return 1 / (1 + np.exp(-t))


velocity = jax.jit(lambda field, players, key: field.with_key(key)(players))


@pytest.mark.parametrize("kind", ["gan", "nonsaturating", "wgan"])
def test_the_field_of_linear_players(kind):
    """f' = 1/(1 + e^t) of the logistic loss, 1 of the other, at what D says of both points."""
    field, players = linear(kind=kind)
    made, judged = jax.device_get(velocity(field, players, jax.random.key(3)))
    generated, real = SLOPE @ SHIFT + OFFSET, SLOPE @ POINT + OFFSET
    of_f = (lambda t: 1.0) if kind == "wgan" else lambda t: sigmoid(-t)
    of_generator = sigmoid(generated) if kind == "nonsaturating" else of_f(generated)
    np.testing.assert_allclose(made[0]["b"], of_generator * SLOPE, rtol=1e-6)
    np.testing.assert_allclose(
        judged[0]["w"][:, 0], -of_f(generated) * SHIFT + of_f(-real) * POINT, rtol=1e-6
    )
    np.testing.assert_allclose(judged[0]["b"][0], -of_f(generated) + of_f(-real), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("penalty", ["r1", "r2", "wgan_gp"])
def test_penalties_on_a_linear_discriminator(penalty):
    """γψ, or γ(|ψ| − 1)ψ/|ψ| where the length 1 costs nothing."""
    plain, players = linear(kind="wgan")
    field = linear(kind="wgan", penalty=penalty, gamma=0.8)[0]
    key = jax.random.key(0)
    before, after = jax.device_get((velocity(plain, players, key), velocity(field, players, key)))
    length = np.linalg.norm(SLOPE)
    factor = 0.8 * ((length - 1) / length if penalty == "wgan_gp" else 1.0)
    np.testing.assert_allclose(after[1][0]["w"] - before[1][0]["w"], factor * SLOPE[:, None], rtol=1e-5)
    np.testing.assert_array_equal(after[0][0]["b"], before[0][0]["b"])


def test_batches_are_of_the_data_and_of_normal_numbers():
    """For D linear and f(t) = t the discriminator's field is the mean of the batch less that of G = zW + b.

    Its law over 2,000 keys has the mean of all data less b, and the variance (Var x + |W|²)/B in each direction: five
    standard errors, p < 1e-5 in all.
    """
    rng = np.random.default_rng(0)
    data, w = rng.standard_normal((40, 2)) * [1.0, 2.0] + 1.0, rng.standard_normal((3, 2))
    problem = gan(
        jnp.asarray(data), latent=3, generator=(), discriminator=(), kind="wgan", batch_size=4, draws=2000
    )
    players = GANPlayers(
        ({"w": jnp.asarray(w), "b": jnp.array([0.3, -0.2])},), ({"w": jnp.ones((2, 1)), "b": jnp.zeros(1)},)
    )
    keys = jax.random.split(jax.random.key(1), 2000)
    fields = jax.jit(jax.vmap(velocity, (None, None, 0)))(problem.objective, players, keys)
    found = np.asarray(fields[1][0]["w"])[..., 0]
    variance = (data.var(0) + (w**2).sum(0)) / 4
    expected = data.mean(0) - [0.3, -0.2]
    assert (np.abs(found.mean(0) - expected) < 5 * np.sqrt(variance / 2000)).all()
    assert (np.abs(found.var(0) - variance) < 5 * variance * np.sqrt(2 / 2000)).all()
    plainly = np.asarray(jax.jit(lambda p: problem.objective(p))(players)[1][0]["w"])[:, 0]
    assert (np.abs(plainly - expected) < 5 * np.sqrt(variance / 2000)).all()


def test_problems_made_anew_share_their_programs():
    @jax.jit
    def run(problem, key):
        return jf.iterate(
            jf.optim.gd(0.1), problem.objective, problem.params, steps=2, key=key, every=None
        ).params

    def made(seed, gamma):
        networks = {"latent": 2, "generator": (3,), "discriminator": (3,)}
        key = jax.random.key(seed)
        return gan(ring_of_gaussians(size=30, key=key), penalty="r1", gamma=gamma, key=key, **networks)

    ends = [run(made(seed, gamma), jax.random.key(seed)) for seed, gamma in ((0, 1.0), (1, 1.0), (1, 2.0))]
    assert run._cache_size() == 1
    assert len({float(end.discriminator[0]["w"][0, 0]) for end in ends}) == 3


def test_images_of_digits():
    problem = gan("digits", latent=4, generator=(), discriminator=())
    real, held_out = problem.objective.data[0], problem.test["x"]
    assert real.shape == (1437, 64)
    assert held_out.shape == (360, 64)
    np.testing.assert_allclose((real.mean(), real.std()), (0, 1), atol=1e-6)
    from sklearn.datasets import load_digits

    pixels = load_digits().data
    step = float(real.max() - real.min()) / 16  # pixels count to 16
    levels = np.asarray(jnp.concatenate([real, held_out]) - real.min()) / step
    np.testing.assert_allclose(np.sort(levels.sum(1)), np.sort(pixels.sum(1)), rtol=1e-5)
    assert problem.predict(problem.params.generator, jnp.zeros((7, 4))).shape == (7, 64)


@pytest.mark.parametrize("seed", range(3))
def test_the_ring(seed):
    """Counts of 8 modes among 8,000 points: binomial, 5.5 deviations (p < 1e-6 in all); distances are Rayleigh's."""
    points = np.asarray(ring_of_gaussians(size=8000, radius=2.0, deviation=0.1, key=jax.random.key(seed)))
    angles = 2 * np.pi * np.arange(8) / 8
    centres = 2.0 * np.stack([np.cos(angles), np.sin(angles)], 1)
    distances = np.linalg.norm(points[:, None] - centres, axis=-1)
    counts = np.bincount(distances.argmin(1), minlength=8)
    assert (np.abs(counts - 1000) < 5.5 * np.sqrt(1000 * 7 / 8)).all()
    squares = distances.min(1) ** 2
    assert abs(squares.mean() - 0.02) < 5 * 0.02 / np.sqrt(8000)


def test_bad_input():
    ring = ring_of_gaussians(size=10)
    cases = {
        "kind must be one of": lambda: gan(ring, kind="lsgan"),
        "penalty must be one of": lambda: gan(ring, penalty="r3"),
        "gamma must be left out without a penalty": lambda: gan(ring, gamma=1.0),
        "gamma must be a finite number at least 0": lambda: gan(ring, penalty="r1", gamma=-1.0),
        "activation must be one of": lambda: gan(ring, activation="tanhh"),
        "latent must be an integer at least 1": lambda: gan(ring, latent=0),
        "batch_size must be an integer at least 1": lambda: gan(ring, batch_size=0),
        "data must be an array": lambda: gan(jnp.ones(3)),
        "data must hold finite numbers": lambda: gan(jnp.array([[np.nan, 1.0]])),
        "generator must be an integer at least 1": lambda: gan(ring, generator=(0,)),
        "dataset": lambda: gan("digit"),
        "modes must be": lambda: ring_of_gaussians(0),
        "radius must be": lambda: ring_of_gaussians(radius=0.0),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="generator must be a sequence of widths"):
        gan(ring, generator=8)
    with pytest.raises(ValueError, match="memory"):
        gan(ring, generator=(10**6, 10**6))
