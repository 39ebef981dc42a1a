"""SDEs of RMSProp, Adam and sign descent against the discrete methods' own numbers, on the clock t = kη.

Statistical tests allow 4 standard errors: a false alarm in 16,000 comparisons of a mean.
"""

import jax.numpy as jnp
import numpy as np
from populations import end_of, two_point, z_scores
from scipy.integrate import quad, solve_ivp
from scipy.special import erf

import jaxflow as jf
from jaxflow.dynamics import RMSPropState


def rmsprop_chain(eta, decay, steps, v0, count, seed):
    rng = np.random.default_rng(seed)
    theta, v = np.ones(count), np.full(count, v0)
    for _ in range(steps):
        g = theta + rng.standard_normal(count)
        v = decay * v + (1 - decay) * g**2
        theta = theta - eta * g / np.sqrt(v)
    return theta


def adam_chain(eta, b1, b2, steps, count, seed):
    rng = np.random.default_rng(seed)
    theta, m, v = np.ones(count), np.zeros(count), np.zeros(count)
    for k in range(1, steps + 1):
        g = theta + rng.standard_normal(count)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        theta = theta - eta * m / (1 - b1**k) / np.sqrt(v / (1 - b2**k))
    return theta


def leading_variance(noise_on_v, rho=1.0, v0=2.0):
    """Var θ/η at t = 1 as η → 0: the linear noise around the limit, whose noise on v may be left out."""

    def velocity(_, y):
        x, v, s = y[0], y[1], y[2:].reshape(2, 2)
        slope = np.array([[-(v**-0.5), 0.5 * x * v**-1.5], [2 * rho * x, -rho]])
        root = np.array([[-(v**-0.5), 0.0], [2 * rho * x, np.sqrt(2) * rho]])
        root[1] *= noise_on_v
        spread = slope @ s + s @ slope.T + root @ root.T
        return [-x / np.sqrt(v), rho * (x**2 + 1 - v), *spread.ravel()]

    return solve_ivp(velocity, (0, 1), [1.0, v0, 0, 0, 0, 0], rtol=1e-10, atol=1e-12).y[2, -1]


def test_rmsprop_has_its_variance_with_noise_on_the_second_moment():
    eta, count = 0.04, 4_000
    chain = rmsprop_chain(eta, 1 - eta, 25, 2.0, 400_000, 0)
    dynamics = jf.dynamics.rmsprop_sde(two_point(1.0), eta, 1, 1 - eta)
    start = RMSPropState(jnp.asarray(1.0), jnp.asarray(2.0))
    sde = np.asarray(end_of(dynamics, [0.0, 1.0], 2 * count, 0, state=start).params)
    for part in sde.reshape(2, count):
        assert abs(part.mean() - chain.mean()) < 4 * part.std() / np.sqrt(count) + 0.2 * eta
        assert abs(part.var() / chain.var() - 1) < 4 * np.sqrt(2 / count) + 0.4 * eta
    right, wrong = (eta * leading_variance(flag) for flag in (True, False))
    assert abs(chain.var() / right - 1) < eta
    assert wrong > 1.15 * right  # beyond what is allowed above


def test_adam_from_its_start():
    """From zero moments at k = 0, on the clock of `iterate`."""
    eta, count = 0.04, 4_000
    b1, b2 = 0.9, 1 - eta
    chain = adam_chain(eta, b1, b2, 25, 200_000, 3)
    sde = np.asarray(
        end_of(jf.dynamics.adam_sde(two_point(1.0), eta, 1, b1, b2), [0.0, 1.0], count, 3).params
    )
    assert abs(sde.mean() - chain.mean()) < 4 * sde.std() / np.sqrt(count) + 0.3 * eta
    assert abs(sde.var() / chain.var() - 1) < 4 * np.sqrt(2 / count) + 1.5 * eta  # without noise on v: +50 %


def sign_densities(eta):
    """Stationary variances at h = s = 1: of the chain by iterating its transition, of the SDE by its density."""
    x = (np.arange(-900, 901)) * eta / 60  # a step is 60 cells
    down = 0.5 * (1 + erf(x / np.sqrt(2)))
    p = np.exp(-(x**2) / 0.12)
    p /= p.sum()
    for _ in range(4000):
        p = 0.5 * p + 0.5 * (np.roll(p * down, -60) + np.roll(p * (1 - down), 60))
    rate = lambda y: erf(y / np.sqrt(2))
    density = lambda y: (
        np.exp(-2 / eta * quad(lambda z: rate(z) / (1 - rate(z) ** 2), 0, y)[0]) / (1 - rate(y) ** 2)
    )
    moment = lambda power: quad(lambda y: y**power * density(y), 0, 2.5)[0]
    return p @ x**2, moment(2) / moment(0)


def test_sign_descent_at_rest():
    eta, count = 0.1, 3_000
    chain, sde = sign_densities(eta)
    np.testing.assert_allclose([chain, sde], [0.064648, 0.062078], rtol=1e-4)
    dynamics = jf.dynamics.sign_sgd(two_point(1.0), eta, 1)
    end = np.asarray(end_of(dynamics, [0.0, 3.0], 3 * count, 0, 0.0))
    for part in end.reshape(3, count):
        assert z_scores(part, 0.0, sde)[1] < 4
