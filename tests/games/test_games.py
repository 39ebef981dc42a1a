"""Games: vector fields in a gradient's place, simultaneous and alternating descent, and their modified flows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow._gradients import value_and_gradient
from jaxflow.comparison.orders.slope import fit
from jaxflow.dynamics import modified

pytestmark = pytest.mark.promotes
PLAYERS = (jnp.array([1.0]), jnp.array([0.5]))


def bilinear(players):
    """The Dirac-GAN of Mescheder, Geiger & Nowozin (2018) with f(t) = t: one plays ψ, the other θ."""
    theta, psi = players
    return theta[0] * psi[0], -theta[0] * psi[0]


GAME = jf.game(bilinear)


def radius(players):
    return jnp.sqrt(players[0] ** 2 + players[1] ** 2)[0]


def test_every_player_descends_its_own_loss():
    losses = lambda p, scale: (scale * p["a"][0] ** 2 * p["b"][0], 0.0)
    field = jf.game(lambda p, c: (c * p[0]["x"] ** 2 * p[1], p[0]["x"] - p[1] ** 3), (3.0,))
    first, second = field(({"x": jnp.array(2.0)}, jnp.array(5.0)))
    assert (float(first["x"]), float(second)) == (3 * 2 * 2 * 5, -3 * 25)
    with pytest.raises(ValueError, match="params must be a tuple or list with one entry for each player"):
        jf.game(losses, (1.0,))({"a": jnp.ones(1), "b": jnp.ones(1)})
    with pytest.raises(ValueError, match="losses must return one scalar for each player, 3, got 2"):
        jf.game(lambda p: (p[0], p[1]))((*map(jnp.sum, PLAYERS), jnp.array(1.0)))


class Pair(NamedTuple):
    first: Any
    second: Any


def test_players_may_be_complex_or_named():
    away = jf.game(lambda p: (jnp.abs(p.first - (1 + 2j)) ** 2, (p.second + 3.0) ** 2))
    players = Pair(jnp.array(0j), jnp.array(0.0))
    run = jf.iterate(jf.optim.gd(0.1), away, players, steps=60)
    np.testing.assert_allclose([run.params.first, run.params.second], [1 + 2j, -3.0], atol=1e-4)
    turns = jf.optim.alternating(jf.optim.nesterov(0.05, 0.5, lookahead=True), jf.optim.gd(0.1))
    run = jf.iterate(turns, away, players, steps=80, time_step=0.1)
    np.testing.assert_allclose([run.params.first, run.params.second], [1 + 2j, -3.0], atol=1e-4)


def test_games_of_one_function_share_a_compilation():
    """And the data enter as arguments."""
    count = []

    def losses(players, c):
        count.append(1)
        return c * players[0][0] * players[1][0], -players[0][0] * players[1][0]

    ends = [jf.iterate(jf.optim.gd(0.1), jf.game(losses, (c,)), PLAYERS, steps=3).params for c in (1.0, 2.0)]
    traced = len(count)
    jf.iterate(jf.optim.gd(0.3), jf.game(losses, (5.0,)), PLAYERS, steps=3)
    assert len(count) == traced
    assert ends[0][0] != ends[1][0]


def test_simultaneous_descent_spirals_out_by_the_known_factor_and_alternating_stays():
    h, steps = 0.1, 400
    run = jf.iterate(jf.optim.gd(h), GAME, PLAYERS, steps=steps, record=radius)
    np.testing.assert_allclose(run.values[1:] / run.values[:-1], np.sqrt(1 + h**2), rtol=1e-12)
    turns = jf.iterate(jf.optim.alternating(jf.optim.gd(h)), GAME, PLAYERS, steps=steps)
    x, y = np.asarray(turns.values[0][:, 0]), np.asarray(turns.values[1][:, 0])
    # The area-preserving map keeps θ² + ψ² − hθψ.
    np.testing.assert_allclose(x**2 + y**2 - h * x * y, 1.25 - h * 0.5, rtol=1e-12)
    own = jf.iterate(
        jf.optim.alternating(jf.optim.gd(h), jf.optim.gd(h)), GAME, PLAYERS, steps=5, time_step=h
    )
    np.testing.assert_allclose(own.params[1], turns.values[1][5], rtol=1e-12)


@pytest.mark.parametrize(("turns", "order"), [(False, 2), (False, 3), (True, 2)])
def test_modified_flows_of_descent_in_a_game(turns, order):
    """Order 2 of simultaneous descent spirals out as the iterates do to O(h³); the plain flow keeps the circle."""

    @jax.vmap
    def gaps(h):
        optimizer = jf.optim.alternating(jf.optim.gd(h)) if turns else jf.optim.gd(h)
        steps = jnp.round(4 / h).astype(int)
        run = jf.iterate(optimizer, GAME, PLAYERS, steps=steps, every=None, time_step=h)
        dynamics = modified(optimizer, GAME, order=order, time_step=h)
        flow = jf.integrate(dynamics, PLAYERS, jnp.array([0.0, 4.0]), rtol=1e-12)
        gap = jnp.hypot(*(a[0] - b[0] for a, b in zip(run.params, flow.params, strict=True)))
        return gap, jnp.abs(radius(run.params) - radius(flow.params))

    ladder = jnp.array([0.1, 0.05, 0.025])
    apart, further = gaps(ladder)
    assert abs(fit(ladder, apart).slope - order) < 0.15
    if not turns and order == 2:
        assert abs(fit(ladder, further).slope - 3) < 0.2
        still = jf.dynamics.gradient_flow(GAME).drift(0.0, PLAYERS)
        assert still[0] * PLAYERS[0] + still[1] * PLAYERS[1] == 0


def test_bad_games_are_refused():
    for message, make in {
        "field must be a function": lambda: jf.VectorField(3),
        "data must be a tuple": lambda: jf.VectorField(bilinear, [1.0]),
        "losses must be a function": lambda: jf.game(None),
        "each of optimizers must be an optax transformation, got 3": lambda: jf.optim.alternating(3),
        "alternating needs at least one optimizer": lambda: jf.optim.alternating(),
        "params must be a tuple or list with one entry for each optimizer": lambda: jf.optim.alternating(
            *[jf.optim.gd(0.1)] * 3
        ).init(PLAYERS),
        "field must return shapes": lambda: jf.VectorField(lambda p: p[0])(PLAYERS),
        "alternating needs params and grad_fn=": lambda: jf.optim.alternating(jf.optim.gd(0.1)).update(
            PLAYERS, ((), ())
        ),
    }.items():
        with pytest.raises((ValueError, TypeError), match=message):
            make()


def test_a_vector_field_has_no_value_and_passes_through_jit():
    field = jf.VectorField(lambda z, c: c * z, (2.0,))
    assert jax.tree.leaves(field) == [2.0]
    np.testing.assert_allclose(jax.jit(lambda v, z: v(z))(field, jnp.ones(2)), [2.0, 2.0])
    assert np.isnan(value_and_gradient(field, jnp.ones(2))[0])
