"""Games that draw numbers at each step: against loops in NumPy with the same numbers, and laws in closed form."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.dynamics.penalty import penalized

pytestmark = pytest.mark.promotes
JACOBIAN = np.array([[0.4, 1.0], [-1.0, 0.2]])
START = (jnp.asarray(0.7), jnp.asarray(-0.3))
KEY = jax.random.key(5)
FOLD = 2**31 - 1  # what the key of a step is folded with for losses and fields


def shaken_losses(players, scale, key):
    """Losses whose gradient is the matrix above times the players, plus normal numbers."""
    x, y = players
    noise = scale * jax.random.normal(key, (2,))
    return 0.2 * x**2 + x * y + noise[0] * x, 0.1 * y**2 - x * y + noise[1] * y


def made(scale=0.5, draws=None):
    return jf.game(shaken_losses, (jnp.asarray(scale),), draws=draws)


def noise_of(step, key=KEY):
    return np.asarray(jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, step), FOLD), (2,)))


def test_a_step_draws_by_its_own_key():
    run = jf.iterate(jf.optim.gd(0.1), made(), START, steps=6, key=KEY)
    z = np.array(START)
    for k in range(6):
        z = z - 0.1 * (JACOBIAN @ z + 0.5 * noise_of(k))
        np.testing.assert_allclose(jnp.stack(run.values)[:, k + 1], z, rtol=1e-12)
    begun = jf.iterate(jf.optim.gd(0.1), made(), START, steps=2, key=KEY)
    rest = jf.iterate(jf.optim.gd(0.1), made(), begun.params, steps=4, state=begun.state)
    np.testing.assert_array_equal(rest.params[0], run.params[0])


def test_players_in_turn_have_the_same_numbers():
    run = jf.iterate(jf.optim.alternating(jf.optim.gd(0.1)), made(), START, steps=5, key=KEY)
    x, y = map(float, START)
    for k in range(5):
        noise = 0.5 * noise_of(k)
        x = x - 0.1 * (0.4 * x + y + noise[0])
        y = y - 0.1 * (0.2 * y - x + noise[1])
    np.testing.assert_allclose(run.params, (x, y), rtol=1e-12)


@pytest.mark.parametrize("change", ["consensus", "extragradient", "cancel_drift", "decay"])
def test_changes_of_a_game_draw_what_it_draws(change):
    """With b the noise and J the matrix: V = Jz + b, and each change is a matrix times it or plus the decay."""
    changed, matrix, decay = {
        "consensus": (jf.games.consensus(made(), 0.7), np.eye(2) + 0.7 * JACOBIAN.T, 0.0),
        "extragradient": (jf.games.extragradient(made(), 0.3), np.eye(2) - 0.3 * JACOBIAN, 0.0),
        "cancel_drift": (jf.games.cancel_drift(made(), 0.1), np.eye(2) - 0.05 * JACOBIAN, 0.0),
        "decay": (penalized(made(), 0.6), np.eye(2), 0.6),
    }[change]
    assert changed.is_random
    run = jf.iterate(jf.optim.gd(0.1), changed, START, steps=3, key=KEY)
    z = np.array(START)
    for k in range(3):
        z = z - 0.1 * (matrix @ (JACOBIAN @ z + 0.5 * noise_of(k)) + decay * z)
    np.testing.assert_allclose(run.params, z, rtol=1e-12)


def test_the_law_of_a_noisy_game():
    """For V = az + σξ a step h has the stationary variance h²σ²/(1 − (1 − ah)²): three keys, five standard errors.

    At ah = 1 the draws of the steps are independent: the standard error of the variance of n is √(2/n) of it, so a
    false alarm has p < 2e-6.
    """
    field = jf.VectorField(
        lambda z, scale, key: 2.0 * z + scale * jax.random.normal(key), (jnp.asarray(3.0),)
    )
    run = lambda key: jf.iterate(jf.optim.gd(0.5), field, jnp.asarray(0.0), steps=20_000, key=key).values
    found = jax.vmap(run)(jax.random.split(KEY, 3))[:, 1:].var(1)
    np.testing.assert_allclose(found, 0.25 * 9, rtol=5 * np.sqrt(2 / 20_000))


def test_the_flow_is_that_of_the_mean_of_draws():
    """Seven draws, the keys being those that the docstring of an `Objective` with draws has too."""
    noise = [jax.random.normal(jax.random.fold_in(jax.random.key(0), k), (2,)) for k in range(7)]
    mean = 0.5 * np.mean(noise, 0)
    field = made(draws=7)
    np.testing.assert_allclose(field(START), JACOBIAN @ np.array(START) + mean, rtol=1e-12)
    path = jf.integrate(
        jf.dynamics.gradient_flow(field), START, jnp.array([0.0, 60.0]), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(jnp.stack(path.params), -np.linalg.solve(JACOBIAN, mean), atol=1e-6)


def test_a_key_among_the_data_is_that_of_all_steps():
    game = jf.game(shaken_losses, (jnp.asarray(0.5), KEY))
    assert not game.is_random
    noise = 0.5 * np.asarray(jax.random.normal(KEY, (2,)))
    np.testing.assert_allclose(game(START), JACOBIAN @ np.array(START) + noise, rtol=1e-12)


def test_one_program_for_all_keys_and_scales():
    count = []

    def counted(players, scale, key):
        count.append(1)
        return shaken_losses(players, scale, key)

    def end(scale, key):
        game = jf.games.consensus(jf.game(counted, (jnp.asarray(scale),)), 0.1)
        return jf.iterate(jf.optim.gd(0.1), game, START, steps=2, every=None, key=key).params[0]

    first, traced = end(0.5, KEY), len(count)
    assert end(0.5, jax.random.key(6)) != first != end(0.4, KEY)
    assert len(count) == traced


def linear(psi, x):
    return x @ psi


def test_a_penalty_on_samples_drawn_with_the_game():
    """R1 of a linear discriminator is γψ at any samples; at |ψ| the samples tell what key they were given."""
    data = jnp.arange(12.0).reshape(6, 2)
    squares = lambda psi, x: 0.5 * (x**2) @ psi**2  # slopes x ψ², whose squares' mean has the slope 2 x² ψ³
    batch = lambda key: data[jax.random.randint(key, (3,), 0, 6)]

    def losses(players, key):
        return (jnp.mean(batch(key) @ players[0]),)

    game = jf.games.gradient_penalty(
        jf.game(losses), squares, lambda players, key: batch(key), player=0, gamma=0.02
    )
    psi = np.array([0.3, -0.2])
    run = jf.iterate(jf.optim.gd(0.1), game, (jnp.asarray(psi),), steps=2, key=KEY)
    for k in range(2):
        x = np.asarray(batch(jax.random.fold_in(jax.random.fold_in(KEY, k), FOLD)))
        psi = psi - 0.1 * (x.mean(0) + 0.02 * 2 * (x**2).mean(0) * psi**3)
    np.testing.assert_allclose(run.params[0], psi, rtol=1e-12)
    with pytest.raises(ValueError, match="draws must be given"):
        game((jnp.asarray(psi),))
    mean = jf.games.gradient_penalty(
        jf.game(lambda p: (p[0] @ p[0],)), linear, lambda p, key: batch(key), player=0, gamma=0.5, draws=3
    )
    np.testing.assert_allclose(mean((jnp.asarray(psi),))[0], 2.5 * psi, rtol=1e-12)


def seen(players, noise):
    return (jnp.sum(jnp.cos(players[0] + noise)),)


def test_noise_drawn_anew():
    """A step has the mean over K draws of its own; their mean over 4,000 steps is e^(−σ²/2) of the field.

    Five standard errors of 4,000·K independent draws: p < 1e-6 for each of three keys.
    """
    game = jf.games.instance_noise(jf.game(seen, (jnp.zeros(2),)), 0.8, 3)
    still = jf.optim.gd(0.0)
    slope = lambda key: jf.iterate(
        still, game, (jnp.array([0.4, 1.0]),), steps=4000, key=key, metrics={"slope": lambda s: s.gradient[0]}
    ).metrics["slope"][1:]
    for found in jax.vmap(slope)(jax.random.split(KEY, 3)):
        assert len(np.unique(found[:, 0])) == 4000
        expected = -np.sin([0.4, 1.0]) * np.exp(-0.32)
        error = np.asarray(found.std(0)) / np.sqrt(4000)
        assert (np.abs(found.mean(0) - expected) < 5 * error).all()
    np.testing.assert_array_equal(game((jnp.zeros(2),))[0], game((jnp.zeros(2),))[0])


def test_bad_input():
    plain = jf.game(lambda p: (p[0] ** 2,))
    cases = {
        "key must be a PRNG key": lambda: jf.iterate(jf.optim.gd(0.1), made(), START, steps=1),
        "draws must be given to a VectorField": lambda: jf.integrate(
            jf.dynamics.gradient_flow(made()), START, jnp.array([0.0, 1.0])
        ),
        "draws must be None for a field without": lambda: jf.game(lambda p: (p[0] ** 2,), draws=3),
        "draws must be an integer at least 1": lambda: made(draws=0),
        "weights must be left out": lambda: jf.games.instance_noise(
            jf.game(seen, (jnp.zeros(2),)), 0.1, 3, weights=jnp.ones(3) / 3
        ),
        "draws must be None for a field": lambda: jf.games.gradient_penalty(
            plain, linear, jnp.ones((2, 1)), player=0, gamma=1.0, draws=3
        ),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_fields_of_the_last_version_are_read():
    old = jf.VectorField(_double)
    kept = object.__new__(jf.VectorField)
    kept.__dict__.update(field=_double, data=())
    read = pickle.loads(pickle.dumps(kept))
    assert read(2.0) == old(2.0)
    assert jax.tree.structure(read) == jax.tree.structure(old)


def _double(x):
    return 2 * x
