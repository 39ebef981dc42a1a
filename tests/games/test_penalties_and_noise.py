"""Gradient penalties and instance noise, against penalties and expectations that are written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf

pytestmark = pytest.mark.promotes
RNG = np.random.default_rng(0)
DATA, LATENT = (jnp.asarray(RNG.standard_normal((7, 3))) for _ in range(2))
PLAYERS = (
    {"shift": jnp.asarray(RNG.standard_normal(3))},
    {"w": jnp.asarray(RNG.standard_normal((3, 4))), "a": jnp.asarray(RNG.standard_normal(4))},
)


def generate(generator, z):
    return jnp.tanh(z) + generator["shift"][None]


def discriminate(params, x):
    return jnp.tanh(x @ params["w"]) @ params["a"]


def losses(players, x, z):
    gap = jnp.mean(discriminate(players[1], generate(players[0], z))) - jnp.mean(discriminate(players[1], x))
    return -gap, gap


def between(players, x, z, key):
    return jf.games.interpolate(x, generate(players[0], z), key)


GAME = jf.game(losses, (DATA, LATENT))
KEY = jax.random.key(3)
PENALTIES = {
    "R1": (DATA, {}),
    "R2": (lambda players, z: generate(players[0], z), {"data": (LATENT,)}),
    "WGAN-GP": (between, {"data": (DATA, LATENT, KEY), "target": 1.0}),
}


def by_hand(own, x, target):
    """The penalty of the two-layer network, whose gradient in x is W ((1 − tanh²) a), without differentiation."""
    w, a, x = (np.asarray(v) for v in (own["w"], own["a"], x))
    slopes = ((1 - np.tanh(x @ w) ** 2) * a) @ w.T
    return 0.5 * np.mean((np.linalg.norm(slopes, axis=1) - target) ** 2)


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_adds_its_gradient_to_one_player(name):
    samples, more = PENALTIES[name]
    gamma, target = 0.8, more.get("target", 0.0)
    made = jf.games.gradient_penalty(GAME, discriminate, samples, player=1, gamma=gamma, **more)
    plain, found = jax.device_get(jax.jit(lambda players: (GAME(players), made(players)))(PLAYERS))
    np.testing.assert_array_equal(found[0]["shift"], plain[0]["shift"])
    x = jax.jit(samples)(PLAYERS, *more["data"]) if callable(samples) else samples
    for name in ("w", "a"):
        value = np.array(PLAYERS[1][name])
        for at in np.ndindex(value.shape):
            moved = [value.copy(), value.copy()]
            moved[0][at] += 1e-5
            moved[1][at] -= 1e-5
            ends = [by_hand(PLAYERS[1] | {name: v}, x, target) for v in moved]
            added = float(found[1][name][at] - plain[1][name][at])
            np.testing.assert_allclose(added, gamma * (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-9)


def test_where_the_discriminator_is_flat_the_penalty_has_a_gradient():
    flat = ({"shift": jnp.zeros(3)}, jax.tree.map(jnp.zeros_like, PLAYERS[1]))
    made = jf.games.gradient_penalty(GAME, discriminate, DATA, player=1, gamma=1.0, target=1.0)
    both = jax.jit(lambda players: (made(players), jax.jacfwd(made)(players)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(both(flat)))


def test_keys_and_weights_are_data():
    """One compilation for all keys, weights and targets, and a vmap over weights."""
    count = []

    def counted(players, *data):
        count.append(1)
        return between(players, *data)

    def end(gamma, seed):
        game = jf.games.gradient_penalty(
            GAME,
            discriminate,
            counted,
            player=1,
            gamma=gamma,
            target=1.0,
            data=(DATA, LATENT, jax.random.key(seed)),
        )
        return jf.iterate(jf.optim.gd(0.1), game, PLAYERS, steps=2, every=None).params[1]["a"]

    first = end(0.5, 0)
    traced = len(count)
    assert not np.allclose(first, end(0.5, 1))
    assert not np.allclose(first, end(0.7, 0))
    assert len(count) == traced
    made = lambda gamma: jf.games.gradient_penalty(GAME, discriminate, DATA, player=1, gamma=gamma)
    slope = jax.jit(lambda game: game(PLAYERS)[1]["a"])
    many = np.asarray(jax.jit(jax.vmap(lambda gamma: slope(made(gamma))))(np.array([0.0, 0.4])))
    np.testing.assert_allclose(many[0], slope(GAME), rtol=1e-12)
    np.testing.assert_allclose(many[1], slope(made(0.4)), rtol=1e-12)


def test_points_between_samples_are_between():
    """The share is one for each sample, uniform: its mean over 4,000 is within 5 standard errors (p < 1e-6)."""
    for seed in range(3):
        x = np.asarray(jf.games.interpolate(np.ones((4000, 2)), np.zeros((4000, 2)), jax.random.key(seed)))
        np.testing.assert_array_equal(x[:, 0], x[:, 1])
        assert 0 <= x.min() < 0.01 < 0.99 < x.max() < 1
        assert abs(x.mean() - 0.5) < 5 / np.sqrt(12 * 4000)


def seen(players, noise, shift):
    """A game of cosines, whose expectation over a normal shift of variance σ² is e^(−σ²/2) of it."""
    return jnp.cos(players[0] + noise + shift), jnp.sin(players[1] - noise)


def test_noise_is_averaged_over():
    game = jf.game(seen, (jnp.array(0.0), jnp.array(0.3)))
    players, sigma = (jnp.array(0.4), jnp.array(1.1)), 0.9
    value = jax.jit(lambda game: game(players))
    plain = np.array(value(game))
    draws, weights = jf.games.gauss_hermite(20)
    exact = value(jf.games.instance_noise(game, sigma, draws, weights=weights))
    np.testing.assert_allclose(exact, np.exp(-(sigma**2) / 2) * plain, rtol=1e-12)
    for seed in range(3):  # 5 standard errors of at most 1/√20,000 each: p < 1e-6
        draws = jax.random.normal(jax.random.key(seed), 20_000)
        drawn = value(jf.games.instance_noise(game, sigma, draws))
        np.testing.assert_allclose(drawn, exact, atol=5 / np.sqrt(20_000))


def test_bad_arguments_of_penalties_and_noise_are_refused():
    games = jf.games

    def penalty(discriminator=discriminate, samples=DATA, player=1, gamma=1.0, **more):
        return games.gradient_penalty(GAME, discriminator, samples, player=player, gamma=gamma, **more)

    for message, make in {
        "game must be a VectorField": lambda: games.gradient_penalty(
            losses, discriminate, DATA, player=1, gamma=1.0
        ),
        "discriminator must be a function": lambda: penalty(None),
        "samples must be an array": lambda: penalty(samples=None),
        r"samples must hold at least one sample .* got shape \(0, 3\)": lambda: penalty(samples=DATA[:0]),
        "player must be an integer at least 0": lambda: penalty(player=-1),
        "player must be one of 2, counted from 0, got 2": lambda: penalty(player=2)(PLAYERS),
        "gamma must be a finite number at least 0": lambda: penalty(gamma=-1.0),
        "target must be a finite number at least 0": lambda: penalty(target=-1.0),
        "data must be a tuple": lambda: penalty(samples=between, data=DATA),
        "data must be left out": lambda: penalty(data=(DATA,)),
        "discriminator must return one output for each of 7 samples": lambda: penalty(lambda p, x: x)(
            PLAYERS
        ),
        "params must be a tuple or list": lambda: penalty()({"a": 1.0}),
        "real and generated must be samples": lambda: games.interpolate(DATA, DATA[:3], KEY),
        "key must be a PRNG key": lambda: games.interpolate(DATA, DATA, 0),
        "game must have the noise as the first of its data": lambda: games.instance_noise(
            jf.game(lambda p: (p[0],)), 1.0, jnp.zeros(3)
        ),
        "draws must have the shape": lambda: games.instance_noise(GAME, 1.0, jnp.zeros(3)),
        "weights must have the shape": lambda: games.instance_noise(
            GAME, 1.0, jnp.zeros((2, 7, 3)), weights=jnp.ones(3)
        ),
        "sigma must be a finite number at least 0": lambda: games.instance_noise(GAME, -1.0, DATA[None]),
        "points must be an integer at least 1": lambda: games.gauss_hermite(0),
    }.items():
        with pytest.raises((ValueError, TypeError), match=message):
            make()
