"""Malladi's RMSProp and Adam: closed moments, and weak order 2 in the learning rate.

Statistical tests allow 4 standard errors: a false alarm in 16,000 comparisons of a mean.
"""

import jax.numpy as jnp
import numpy as np
from populations import end_of, two_point, z_scores
from scipy.integrate import solve_ivp

import jaxflow as jf
from jaxflow.dynamics import RMSPropState

S0, E0, C1, C2 = 0.5, 0.1, 2.0, 0.5  # Malladi's parameters: h = s = θ₀ = 1 everywhere below


def rmsprop_moments(t, u0=0.4):
    """Eθ, Eθ² and u: u does not depend on θ, so θ is linear."""

    def velocity(_, y):
        a = 1 / (S0 * np.sqrt(y[2]) + E0)
        return [-a * y[0], -2 * a * y[1] + (a * S0) ** 2, C2 * (1 - y[2])]

    return solve_ivp(velocity, (0, t), [1.0, 1.0, u0], rtol=1e-12, atol=1e-14).y[:, -1]


def adam_moments(begin, t, m0, u0):
    """Eθ, Eθ² of Adam's equation in the paper's variables, from time `begin`."""

    def velocity(t, y):
        mean, m, square, cross, mm, u = y
        g1, g2 = -np.expm1(-C1 * t), -np.expm1(-C2 * t)
        a = np.sqrt(g2) / g1 / (S0 * np.sqrt(u) + E0 * np.sqrt(g2))
        return [
            -a * m,
            C1 * (mean - m),
            -2 * a * cross,
            -a * mm + C1 * (square - cross),
            2 * C1 * (cross - mm) + (S0 * C1) ** 2,
            C2 * (1 - u),
        ]

    y0 = [1.0, m0, 1.0, m0, m0**2, u0]
    return solve_ivp(velocity, (begin, t), y0, rtol=1e-11, atol=1e-13).y[[0, 2], -1]


def chain_moments(steps, first, count, v0, m0=None):
    """Eθ, Eθ² of the discrete method, `steps` of them to a unit of time, after one unit.

    RMSProp, or Adam for an m0. The control variate is the same chain with its second moment not random, a
    linear one whose moments are exact; noise comes in pairs ±z.
    """
    rng = np.random.default_rng(steps)
    eta = steps**-0.5
    sigma, eps, b2 = S0 / eta, E0 / eta, 1 - C2 * eta**2
    b1 = 0.0 if m0 is None else 1 - C1 * eta**2
    corrected = m0 is not None
    theta, v, linear, still = np.ones(count), np.full(count, v0 * sigma**2), np.ones(count), v0 * sigma**2
    m, momentum = (np.full(count, m0 or 0.0) for _ in range(2))
    mean, square = np.array([1.0, m0 or 0.0]), np.outer([1.0, m0 or 0.0], [1.0, m0 or 0.0])
    for k in range(first + 1, first + steps + 1):
        z = rng.standard_normal(count // 2)
        z = sigma * np.concatenate([z, -z])
        d1, d2 = (1 - b1**k, 1 - b2**k) if corrected else (1.0, 1.0)
        g = theta + z
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        theta = theta - eta * m / d1 / (np.sqrt(v / d2) + eps)
        still = b2 * still + (1 - b2) * sigma**2
        a = eta / d1 / (np.sqrt(still / d2) + eps)
        momentum = b1 * momentum + (1 - b1) * (linear + z)
        linear = linear - a * momentum
        matrix = np.array([[1 - a * (1 - b1), -a * b1], [1 - b1, b1]])
        push = (1 - b1) * sigma * np.array([-a, 1.0])
        mean, square = matrix @ mean, matrix @ square @ matrix.T + np.outer(push, push)
    return mean[0] + np.mean(theta - linear), square[0, 0] + np.mean(theta**2 - linear**2)


def slopes(ladder, chain, exact):
    """Slopes in η² of the weak errors of Eθ and of the variance."""
    errors = []
    for steps in ladder:
        mean, square = chain(steps)
        errors.append((abs(mean - exact[0]), abs(square - mean**2 - exact[1] + exact[0] ** 2)))
    return -np.polyfit(np.log(ladder), np.log(errors), 1)[0]


def test_the_paper_in_numbers():
    np.testing.assert_allclose(rmsprop_moments(1.0), [0.1144121, 0.26840302, 0.6360816], rtol=1e-6)


def test_malladi_is_the_weak_limit_of_rmsprop_at_rate_squared():
    """The ladder's largest standard error is a twentieth of its error."""
    slope = slopes((6, 12, 25), lambda n: chain_moments(n, 0, 400_000, 0.4), rmsprop_moments(1.0))
    np.testing.assert_allclose(slope, 1.0, atol=0.1)


def test_malladi_is_the_weak_limit_of_adam_at_rate_squared():
    begin, m0, u0 = 0.5, 0.6, 0.1
    slope = slopes(
        (32, 64, 128),
        lambda n: chain_moments(n, n // 2, 40_000, u0, m0),
        adam_moments(begin, begin + 1, m0, u0),
    )
    np.testing.assert_allclose(slope, 1.0, atol=0.1)


def test_moments_of_malladis_rmsprop():
    """The bias that 16 substeps a step leave is a fifth of a standard error."""
    eta, count = 0.25, 4_000
    sigma = S0 / eta
    dynamics = jf.dynamics.rmsprop_sde(two_point(sigma), eta, 1, 1 - C2 * eta**2, E0 / eta, malladi=True)
    start = RMSPropState(jnp.asarray(1.0), jnp.asarray(0.4 * sigma**2))
    end = end_of(dynamics, [0.0, 1.0], count, seed=1, state=start)
    mean, square, u = rmsprop_moments(1.0)
    assert max(z_scores(end.params, mean, square)) < 4
    # Its estimate from two gradients makes v random, with a mean free of bias.
    assert z_scores(end.second_moment, u * sigma**2)[0] < 4


def test_moments_of_malladis_adam_from_the_start():
    """A run from t = 0 is the paper's from half a step on, with moments that have stood at θ₀ until then."""
    eta, count = 0.25, 4_000
    dynamics = jf.dynamics.adam_sde(
        two_point(S0 / eta), eta, 1, 1 - C1 * eta**2, 1 - C2 * eta**2, E0 / eta, malladi=True
    )
    end = end_of(dynamics, [0.0, 1.0], count, seed=2)
    half = eta**2 / 2
    exact = adam_moments(half, half + 1, -np.expm1(-C1 * half), -np.expm1(-C2 * half))
    assert max(z_scores(end.params, *exact)) < 4
    np.testing.assert_allclose(end.steps, 16.0, rtol=1e-9)
