"""Consensus, extragradient and the cancellation of drift: factors in closed form, and a recursion in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow.comparison.orders.slope import fit

pytestmark = pytest.mark.promotes
START = (jnp.array(1.0), jnp.array(0.5))


def rotation(players):
    return players[0] * players[1], -players[0] * players[1]


def coupled(players, speeds):
    """No rotation and not linear: two cubic forces and a coupling that differs between the players."""
    x, y = players
    first = 0.3 * x**2 + jnp.sin(x * y) + 0.2 * y**3
    return speeds[0] * first, speeds[1] * (0.1 * y**4 + 0.5 * y**2 - x * y + 0.3 * x**2 * y)


ROTATION = jf.game(rotation)
point = jnp.stack


def factors(optimizer, game, steps=30):
    """What each step multiplies the radius by."""
    run = jf.iterate(optimizer, game, START, steps=steps, record=point)
    radii = np.linalg.norm(run.values, axis=1)
    return radii[1:] / radii[:-1]


@pytest.mark.parametrize("h", [0.1, 0.4])
def test_factors_in_a_rotation(h):
    gd = jf.optim.gd(h)
    ahead = factors(gd, jf.games.extragradient(ROTATION, h))
    np.testing.assert_allclose(ahead, np.sqrt(1 - h**2 + h**4), rtol=1e-12)
    if h == 0.4:
        np.testing.assert_allclose(ahead, 0.9303762679690405, rtol=1e-12)
    calm = factors(gd, jf.games.cancel_drift(ROTATION, h))
    np.testing.assert_allclose(calm, np.sqrt(1 + h**4 / 4), rtol=1e-12)
    pulled = factors(gd, jf.games.consensus(ROTATION, 0.3))
    np.testing.assert_allclose(pulled, np.hypot(1 - 0.3 * h, h), rtol=1e-12)


@pytest.mark.parametrize("h", [0.1, 0.4])
def test_optimistic_descent_of_optax_is_the_recursion(h):
    """w ← w − 2hV(w) + hV(w before), whose factor is that root of z² − (1 − 2hλ)z − hλ which tends to 1."""
    run = jf.iterate(optax.optimistic_gradient_descent(h), ROTATION, START, steps=400, record=point)
    w = np.asarray(run.values)
    field = lambda z: np.array([z[1], -z[0]])
    for k in (1, 2, 50, 399):
        expected = w[k] - 2 * h * field(w[k]) + h * field(w[k - 1])
        np.testing.assert_allclose(w[k + 1], expected, rtol=1e-12, atol=1e-15)
    late = np.linalg.norm(w[400]) / np.linalg.norm(w[399])
    np.testing.assert_allclose(late, max(abs(np.roots([1, -(1 - 2j * h), -1j * h]))), rtol=1e-9)


def test_the_consensus_field_is_the_gradient_of_half_its_square():
    game = jf.game(coupled, (jnp.array([1.0, 2.0]),))
    half = lambda p: 0.5 * sum(v**2 for v in game(p))
    made = jf.games.consensus(game, 0.7)
    found, plain, slope = jax.device_get(jax.jit(lambda p: (made(p), game(p), jax.grad(half)(p)))(START))
    np.testing.assert_allclose(found, np.add(plain, 0.7 * np.array(slope)), rtol=1e-12)


def test_gradients_of_the_published_losses_are_cancelled():
    """L₁ + (ah/4)|∂₁L₁|² + (bh/2) ∂₂L₁·sg(∂₂L₂), and for the second player − in turn."""
    h, rates = 0.2, jnp.array([1.5, 0.7])
    plain = jf.game(coupled, (jnp.ones(2),))
    slope = lambda i, j, p: jax.grad(lambda p: coupled(p, jnp.ones(2))[i])(p)[j]

    def drift(players, sign):
        a, b = rates
        still = jax.lax.stop_gradient
        first = a * h / 4 * slope(0, 0, players) ** 2
        first += b * h / 2 * slope(0, 1, players) * still(slope(1, 1, players))
        second = b * h / 4 * slope(1, 1, players) ** 2
        return first, second + sign * a * h / 2 * slope(1, 0, players) * still(slope(0, 0, players))

    for alternating, sign in ((False, 1.0), (True, -1.0)):
        added = jf.game(lambda p, sign=sign: drift(p, sign))
        made = jf.games.cancel_drift(plain, (1.5 * h, 0.7 * h), alternating=alternating)
        found, *terms = jax.jit(lambda p, games=(made, plain, added): [game(p) for game in games])(START)
        np.testing.assert_allclose(found, np.subtract(*terms), rtol=1e-12)


SPEEDS = (1.5, 0.7)
UNEQUAL = jf.game(coupled, (jnp.array(SPEEDS),))
EQUAL = jf.game(coupled, (jnp.ones(2),))
LADDER = jnp.array([0.04, 0.02, 0.01])


def error(method, h):
    """The distance of the iterates from a flow at t = 1, at unequal speeds."""
    if method.startswith("in turn"):
        optimizer, game = jf.optim.alternating(*(jf.optim.gd(speed * h) for speed in SPEEDS)), EQUAL
        cancelled = jf.games.cancel_drift(EQUAL, tuple(speed * h for speed in SPEEDS), alternating=True)
    else:
        optimizer, game = jf.optim.gd(h), UNEQUAL
        cancelled = jf.games.cancel_drift(UNEQUAL, h)
    if method.endswith("cancelled"):
        game, flow = cancelled, jf.dynamics.gradient_flow(UNEQUAL)
    else:
        flow = jf.dynamics.modified(optimizer, game, order=2, time_step=h)
    steps = jnp.round(1 / h).astype(int)
    run = jf.iterate(optimizer, game, START, steps=steps, every=None, time_step=h)
    path = jf.integrate(flow, START, np.array([0.0, 1.0]), rtol=1e-11)
    return jnp.linalg.norm(point(run.params) - point(path.params))


@pytest.mark.parametrize("turns", ["at once", "in turn"])
@pytest.mark.parametrize("means", ["modified", "cancelled"])
def test_drift_at_unequal_speeds_is_of_order_2(turns, means):
    errors = jax.jit(jax.vmap(partial(error, f"{turns}, {means}")))(LADDER)
    assert abs(fit(LADDER, errors).slope - 2) < 0.1


def test_changed_games_compose_and_share_a_compilation():
    count = []

    def losses(players, c):
        count.append(1)
        return c * players[0] * players[1], -c * players[0] * players[1]

    def both(c, gamma, h):
        return jf.games.extragradient(jf.games.consensus(jf.game(losses, (c,)), gamma), h)

    run = lambda c, gamma, h: jf.iterate(jf.optim.gd(h), both(c, gamma, h), START, steps=3).params
    run(1.0, 0.1, 0.1)
    traced = len(count)
    found = run(2.0, 0.3, 0.2)
    assert len(count) == traced
    # On the rotation of speed 2 the field is (I + γJᵀ)J = (γ·4)I + J, and its method multiplies by 1 − hλ + h²λ².
    rate = 0.3 * 4 + 2j
    np.testing.assert_allclose(
        complex(*found), (1 + 0.5j) * (1 - 0.2 * np.conj(rate) + 0.04 * np.conj(rate) ** 2) ** 3, rtol=1e-12
    )
    many = jax.vmap(lambda gamma: jf.games.consensus(ROTATION, gamma)(START)[0])(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(many, [0.5, 1.5])


def test_steps_of_players_may_differ():
    ahead = jf.games.extragradient(ROTATION, (0.1, 0.2))(START)
    np.testing.assert_allclose(ahead, [0.5 + 0.2 * 1.0, -(1.0 - 0.1 * 0.5)], rtol=1e-14)


def test_bad_arguments_of_corrections_are_refused():
    games = jf.games
    for message, make in {
        "game must be a VectorField": lambda: games.consensus(rotation, 0.1),
        "gamma must be a finite number at least 0": lambda: games.consensus(ROTATION, -0.1),
        "step must be a finite number at least 0": lambda: games.extragradient(ROTATION, (0.1, -0.1)),
        "step must hold one number for each of 2 players, got 3": lambda: games.cancel_drift(
            ROTATION, (0.1,) * 3
        )(START),
        "params must be a tuple or list": lambda: games.cancel_drift(
            jf.VectorField(lambda z: z), 0.1, alternating=True
        )(jnp.ones(2)),
    }.items():
        with pytest.raises((ValueError, TypeError), match=message):
            make()
