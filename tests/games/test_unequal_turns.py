"""Players that take several steps in their turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.comparison.orders.slope import fit

pytestmark = pytest.mark.promotes
START = (jnp.array(1.0), jnp.array(0.5))
GAME = jf.game(lambda p: (p[0] * p[1] + 0.1 * p[0] ** 3, jnp.cos(p[1]) - p[0] * p[1]))
point = jnp.stack


def turns(h, first, second):
    gd = jf.optim.gd(h)
    return jf.optim.alternating(jf.optim.repeated(gd, first), jf.optim.repeated(gd, second))


@pytest.mark.parametrize("times", [(1, 4), (3, 2)])
def test_the_steps_are_those_of_a_loop(times):
    h, (x, y) = 0.07, map(float, START)
    run = jf.iterate(turns(h, *times), GAME, START, steps=20, time_step=h, record=point)
    for k in range(1, 21):
        for _ in range(times[0]):
            x -= h * (y + 0.3 * x**2)
        for _ in range(times[1]):
            y -= h * (-np.sin(y) - x)
        np.testing.assert_allclose(run.values[k], [x, y], rtol=1e-12)


def test_the_inner_optimizer_keeps_its_state():
    """Three steps of momentum at once, ten times, are thirty: of a loss, too."""
    loss, start = lambda x: jnp.sum(jnp.cosh(x)), jnp.array([0.5, -1.0])
    inner = jf.optim.momentum(0.05, 0.9)
    run = jf.iterate(jf.optim.repeated(inner, 3), loss, start, steps=10)
    np.testing.assert_allclose(run.values, jf.iterate(inner, loss, start, steps=30).values[::3], rtol=1e-12)


@pytest.mark.parametrize("times", [(1, 4), (2, 3)])
def test_the_boundary_of_the_dirac_gan(times):
    """Stable for √(n_g n_d) h f' ≤ 2, on either side of it; f' = 1 in the game of a linear f."""
    problem = jf.problems.dirac_gan("wgan")
    bound = 2 / np.sqrt(np.prod(times))
    far = lambda h: jf.iterate(
        turns(h, *times), problem.objective, problem.params, steps=2000, time_step=1.0, record=point
    )
    assert np.abs(far(0.99 * bound).values).max() < 20
    assert not np.abs(far(1.01 * bound).values).max() < 1e6


def test_the_modified_field_of_unequal_turns_is_of_order_2():
    @jax.vmap
    def error(h):
        optimizer = turns(h, 1, 3)
        run = jf.iterate(
            optimizer, GAME, START, steps=jnp.round(0.5 / h).astype(int), every=None, time_step=h
        )
        flow = jf.dynamics.modified(optimizer, GAME, order=2, time_step=h)
        path = jf.integrate(flow, START, jnp.array([0.0, 0.5]), rtol=1e-11)
        return jnp.linalg.norm(point(run.params) - point(path.params))

    ladder = jnp.array([0.01, 0.005, 0.0025])
    assert abs(fit(ladder, error(ladder)).slope - 2) < 0.1


def test_bad_arguments_of_repeated_are_refused():
    gd = jf.optim.gd(0.1)
    for message, make in {
        "optimizer must be an optax transformation, got 3": lambda: jf.optim.repeated(3, 2),
        "times must be an integer at least 1, got 0": lambda: jf.optim.repeated(gd, 0),
        "times must be an integer at least 1, got 1.5": lambda: jf.optim.repeated(gd, 1.5),
        "repeated needs params and grad_fn=": lambda: jf.optim.repeated(gd, 2).update(START, gd.init(START)),
    }.items():
        with pytest.raises((ValueError, TypeError), match=message):
            make()
