"""What the stability at rest says about whole runs: nonlinear games, limit cycles, and a generator of digits."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.curvature import game_stability

pytestmark = pytest.mark.promotes
ORIGIN = (0.0, 0.0)


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("gamma", [0.3, 1.5])
def test_descent_converges_just_below_the_stable_step_and_not_above(turns, gamma):
    """In the game itself, which is not linear, from a tenth; 20,000 steps."""
    problem = jf.problems.dirac_gan("r1", gamma=gamma)
    found = game_stability(problem.objective, ORIGIN)
    step = found.alternating_step if turns else found.simultaneous_step
    start = (jnp.array(0.1), jnp.array(0.0))

    def end(h):
        optimizer = jf.optim.alternating(jf.optim.gd(h)) if turns else jf.optim.gd(h)
        run = jf.iterate(optimizer, problem.objective, start, steps=20_000, every=None, time_step=1.0)
        return np.hypot(*run.params)

    below, above = (end(share * step) for share in (0.98, 1.02))
    assert below < 1e-12
    assert not above < 1e-2


@pytest.mark.parametrize(
    ("gamma", "target", "amplitude"),
    [(1.0, 0.3, 0.41687460), (0.5, 1.0, 1.29967535), (0.1, 1.0, 1.27426719), (1.5, 1.0, 1.58761236)],
)
def test_wgan_gp_ends_on_a_cycle_of_known_amplitude(gamma, target, amplitude):
    ratio = np.exp(-np.pi * gamma / (2 * np.sqrt(1 - gamma**2 / 4)))
    np.testing.assert_allclose(gamma * target * (1 + ratio) / (1 - ratio), amplitude, rtol=1e-7)
    problem = jf.problems.dirac_gan("wgan_gp", gamma=gamma, target=target)
    flow = jf.dynamics.gradient_flow(problem.objective)
    late = 20 / gamma + np.linspace(0, 8, 4001)
    path = jf.integrate(flow, problem.params, np.concatenate([[0.0], late]), rtol=1e-8, max_steps=1_000_000)
    np.testing.assert_allclose(np.abs(np.asarray(path.values[0])[1:]).max(), amplitude, rtol=1e-3)


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    return jnp.asarray(np.asarray(jf.problems.load("digits").x)[::9] / 16)


def matched(players, x):
    """The generator is a shift of nothing, the discriminator is linear: the WGAN matches the mean of the data."""
    theta, psi = players
    gap = (theta - jnp.mean(x, axis=0)) @ psi
    return gap, -gap


def score(psi, x):
    return x @ psi


def test_a_wgan_of_digits_turns_by_the_factors_of_its_eigenvalues(digits):
    h, gamma, steps = 0.1, 0.3, 400
    plain = jf.game(matched, (digits,))
    r1 = jf.games.gradient_penalty(plain, score, digits, player=1, gamma=gamma)
    mean = np.mean(digits, 0)
    start = (jnp.zeros(64), jnp.zeros(64))
    size = lambda players: jnp.sqrt(jnp.sum((players[0] - mean) ** 2) + jnp.sum(players[1] ** 2))

    run = jf.iterate(jf.optim.gd(h), plain, start, steps=steps, record=size)
    sizes = np.asarray(run.values)
    np.testing.assert_allclose(sizes[1:] / sizes[:-1], 1.00498756, atol=1e-8)
    np.testing.assert_allclose(sizes[-1] / sizes[0], (1 + h**2) ** (steps / 2), rtol=1e-9)

    rate = gamma / 2 + 1j * np.sqrt(1 - gamma**2 / 4)
    factor = np.abs(1 - h * rate)
    np.testing.assert_allclose(factor, 0.989949, atol=1e-6)
    found = game_stability(r1, (mean, jnp.zeros(64)))
    np.testing.assert_allclose(np.abs(1 + h * found.eigenvalues), factor, rtol=1e-9)
    # A radius swings on a spiral that is no circle. The length of the eigenvector's component does not.
    component = lambda players: jnp.sum(jnp.abs(players[0] - mean - rate * players[1]) ** 2)
    run = jf.iterate(jf.optim.gd(h), r1, start, steps=steps, record=component)
    lengths = np.asarray(run.values)
    np.testing.assert_allclose(np.sqrt(lengths[1:] / lengths[:-1]), factor, atol=1e-6)


def test_a_wgan_of_digits_on_both_sides_of_its_stable_step(digits):
    r1 = jf.games.gradient_penalty(jf.game(matched, (digits,)), score, digits, player=1, gamma=0.3)
    mean = np.mean(digits, 0)
    found = game_stability(r1, (mean, jnp.zeros(64)))
    # Eigenvalues −γ/2 ± i√(1 − γ²/4) are of modulus 1: at once γ, in turn √(γ² + 4) − γ.
    np.testing.assert_allclose(
        [found.simultaneous_step, found.alternating_step], [0.3, np.sqrt(4.09) - 0.3], rtol=1e-8
    )
    for turns, step in ((False, found.simultaneous_step), (True, found.alternating_step)):
        ends = []
        for share in (0.98, 1.02):
            optimizer = jf.optim.gd(share * step)
            optimizer = jf.optim.alternating(optimizer) if turns else optimizer
            start = (mean + 1e-3, jnp.zeros(64))
            run = jf.iterate(optimizer, r1, start, steps=6000, every=None, time_step=1.0)
            ends.append(np.linalg.norm(np.asarray(run.params[0]) - mean))
        assert ends[0] < 0.1 * 8e-3
        assert not ends[1] < 10 * 8e-3  # it may overflow
