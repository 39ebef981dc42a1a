"""SDEs of RMSProp, Adam and sign descent: closed moments, weak orders, and the discrete methods' own variances.

Statistical tests allow 4 standard errors: a false alarm in 16,000 comparisons of a mean.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import quad, solve_ivp
from scipy.special import erf

import jaxflow as jf
from jaxflow.dynamics import AdamState, RMSPropState, noise
from jaxflow.dynamics.coordinates import gradient_variance

S0, E0, C1, C2 = 0.5, 0.1, 2.0, 0.5  # Malladi's parameters: h = s = θ₀ = 1 everywhere below


def two_point(deviation):
    """L = θ²/2 with per-example gradients θ ± deviation."""
    return jf.Objective(lambda w, c: 0.5 * w**2 - c * w, jnp.array([-deviation, deviation]))


def end_of(dynamics, times, count, seed, start=1.0, state=None):
    keys = jax.random.split(jax.random.key(seed), count)
    run = lambda key: (
        jf.integrate(dynamics, start, times, key=key, state=state, record=lambda p: jnp.zeros(())).state
    )
    return jf.ensemble(run, keys)


def z_scores(x, *moments):
    """How many standard errors the mean, and the mean square, of a sample is off."""
    pairs = zip((x, x**2), moments, strict=False)
    return [abs(np.mean(y) - exact) / np.std(y) * len(y) ** 0.5 for y, exact in pairs]


# --- Malladi's equations, solved without this library ---


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
    dynamics = jf.dynamics.rmsprop(two_point(sigma), eta, 1, 1 - C2 * eta**2, E0 / eta, malladi=True)
    start = RMSPropState(jnp.asarray(1.0), jnp.asarray(0.4 * sigma**2))
    end = end_of(dynamics, [0.0, 1.0], count, seed=1, state=start)
    mean, square, u = rmsprop_moments(1.0)
    assert max(z_scores(end.params, mean, square)) < 4
    # Its estimate from two gradients makes v random, with a mean free of bias.
    assert z_scores(end.second_moment, u * sigma**2)[0] < 4


def test_moments_of_malladis_adam_from_the_start():
    """A run from t = 0 is the paper's from half a step on, with moments that have stood at θ₀ until then."""
    eta, count = 0.25, 4_000
    dynamics = jf.dynamics.adam(
        two_point(S0 / eta), eta, 1, 1 - C1 * eta**2, 1 - C2 * eta**2, E0 / eta, malladi=True
    )
    end = end_of(dynamics, [0.0, 1.0], count, seed=2)
    half = eta**2 / 2
    exact = adam_moments(half, half + 1, -np.expm1(-C1 * half), -np.expm1(-C2 * half))
    assert max(z_scores(end.params, *exact)) < 4
    np.testing.assert_allclose(end.steps, 16.0, rtol=1e-9)


# --- The equations, in several dimensions ---

N = 6


def draw(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def losses(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["w"])
    return 0.5 * (hidden @ params["out"] - batch["y"]) ** 2


DATA = {"x": draw((N, 2), 0), "y": draw(N, 1)}
PARAMS = {"w": draw((2, 2), 2), "out": draw(2, 4)}
OBJECTIVE = jf.Objective(losses, DATA)
FLAT, UNRAVEL = ravel_pytree(PARAMS)
P = FLAT.size
GRADIENTS = np.asarray(jax.jit(jax.jacfwd(lambda p: losses(UNRAVEL(p), DATA)))(FLAT))
MEAN, SIGMA = GRADIENTS.mean(0), np.cov(GRADIENTS.T, bias=True)
RATE, BATCH, EPS = 0.05, 2, 1e-3
V = np.asarray(1 + jnp.abs(draw(P, 5)))
XI = jnp.eye(2 * N)  # a basis of the pair of normal vectors that drive a step


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def operator(dynamics, state):
    """The diffusion as a matrix from ξ to the state."""
    column = lambda x: ravel_pytree(dynamics.diffusion(0.0, state, (x[:N], x[N:])))[0]
    return np.asarray(jax.jit(jax.vmap(column))(XI)).T


@pytest.mark.parametrize("chunk", [None, 4])
def test_variance_of_every_coordinate(chunk):
    objective = jf.Objective(losses, DATA, chunk=chunk)  # 6 is no multiple of 4
    variance = jax.jit(lambda o: gradient_variance(o, PARAMS, UNRAVEL(jnp.asarray(MEAN))))(objective)
    np.testing.assert_allclose(flat(variance), np.diag(SIGMA), rtol=1e-12)


@pytest.mark.parametrize("malladi", [True, False])
def test_rmsprop_equation(malladi):
    decay = 0.9
    dynamics = jf.dynamics.rmsprop(OBJECTIVE, RATE, BATCH, decay, EPS, malladi=malladi)
    state = RMSPropState(PARAMS, UNRAVEL(jnp.asarray(V)))
    got, s = dynamics.drift(0.0, state), operator(dynamics, state)
    c, root = SIGMA / BATCH, np.sqrt(V) + EPS
    if malladi:  # the paper's symbols
        sigma0, u = RATE / np.sqrt(BATCH), V * BATCH
        p = sigma0 * np.sqrt(u) + EPS * RATE
        np.testing.assert_allclose(flat(got.params), -MEAN / p, rtol=1e-12)
        c2 = (1 - decay) / RATE**2
        np.testing.assert_allclose(flat(got.second_moment) * BATCH, c2 * (np.diag(SIGMA) - u), rtol=1e-11)
        np.testing.assert_allclose((s @ s.T)[:P, :P], sigma0**2 * SIGMA / np.outer(p, p), atol=1e-14)
        assert np.abs(s[P:]).max() == 0
        assert np.isclose(dynamics.time_step, RATE**2)
    else:
        rate = 2 * (1 - decay) / (1 + decay) / RATE
        np.testing.assert_allclose(flat(got.params), -MEAN / root, rtol=1e-12)
        np.testing.assert_allclose(flat(got.second_moment), rate * (MEAN**2 + np.diag(c) - V), rtol=1e-11)
        covariance = s @ s.T
        np.testing.assert_allclose(covariance[:P, :P], RATE * c / np.outer(root, root), atol=1e-14)
        shared = -RATE * rate * c / root[:, None] * 2 * MEAN
        np.testing.assert_allclose(covariance[:P, P:], shared, atol=1e-14)
        square = rate**2 * RATE * (4 * MEAN**2 * np.diag(c) + 2 * np.diag(c) ** 2)
        np.testing.assert_allclose(np.diag(covariance[P:, P:]), square, rtol=1e-11)
        assert np.isclose(dynamics.time_step, RATE)


@pytest.mark.parametrize("malladi", [True, False])
def test_adam_equation(malladi):
    b1, b2, count = 0.8, 0.9, 3.2
    dynamics = jf.dynamics.adam(OBJECTIVE, RATE, BATCH, b1, b2, EPS, malladi=malladi)
    m_hat = np.asarray(draw(P, 6))
    state = AdamState(PARAMS, UNRAVEL(jnp.asarray(m_hat)), UNRAVEL(jnp.asarray(V)), jnp.asarray(count))
    got, s = dynamics.drift(0.0, state), operator(dynamics, state)
    tau = RATE**2 if malladi else RATE
    c1, c2 = ((1 - b) / tau if malladi else 2 * (1 - b) / (1 + b) / tau for b in (b1, b2))
    t = (count + 0.5) * tau
    g1, g2 = -np.expm1(-c1 * t), -np.expm1(-c2 * t)
    sigma0, m, u = RATE / np.sqrt(BATCH), g1 * m_hat, g2 * V * BATCH
    p = (sigma0 * np.sqrt(u) + EPS * RATE * np.sqrt(g2)) * tau / RATE**2
    np.testing.assert_allclose(flat(got.params), -np.sqrt(g2) / g1 * m / p, rtol=1e-11)
    # The corrected moments' velocities, as those of the paper's m and u.
    dm = g1 * flat(got.first_moment) + c1 * (1 - g1) * m_hat
    np.testing.assert_allclose(dm, c1 * (MEAN - m), atol=1e-11)
    du = BATCH * (g2 * flat(got.second_moment) + c2 * (1 - g2) * V)
    target = np.diag(SIGMA) + (0 if malladi else BATCH * MEAN**2)
    np.testing.assert_allclose(du, c2 * (target - u), atol=1e-11)
    assert np.isclose(got.steps * tau, 1)
    block = s[P : 2 * P] * g1
    np.testing.assert_allclose(block @ block.T, tau * c1**2 * SIGMA / BATCH, atol=1e-12)
    assert np.abs(s[:P]).max() == 0
    assert (np.abs(s[2 * P : 3 * P]).max() == 0) == malladi


def test_sign_equation():
    dynamics = jf.dynamics.sign_sgd(OBJECTIVE, RATE, BATCH)
    expected = erf(MEAN / np.sqrt(2 * np.diag(SIGMA) / BATCH))
    np.testing.assert_allclose(flat(dynamics.drift(0.0, PARAMS)), -expected, rtol=1e-12)
    s = operator(dynamics, PARAMS)
    np.testing.assert_allclose(np.diag(s @ s.T), RATE * (1 - expected**2), rtol=1e-11)
    # Without noise it is the sign.
    quiet = jf.Objective(lambda w, c: c * (w @ jnp.array([1.0, 0.0, -2.0])), jnp.ones(4))
    still = jf.dynamics.sign_sgd(quiet, RATE, BATCH)
    np.testing.assert_array_equal(still.drift(0.0, jnp.ones(3)), [-1.0, 0.0, 1.0])
    slope = jax.jacrev(lambda w: still.drift(0.0, w) + still.diffusion(0.0, w, (jnp.ones(4),) * 2))(
        jnp.ones(3)
    )
    np.testing.assert_array_equal(slope, np.zeros((3, 3)))


# --- The steps ---


def gaussian_pairs(points):
    """A quadrature over both mini-batch gradients of a two-point objective: ξ, and weights."""
    z, w = np.polynomial.hermite_e.hermegauss(points)
    pairs = np.array(list(itertools.product(z, z)))
    xi = pairs[:, :, None] * np.array([1.0, -1.0]) / np.sqrt(2)  # the noise sees the difference
    return jnp.asarray(xi), np.prod(list(itertools.product(w, w)), 1) / w.sum() ** 2


@pytest.mark.parametrize("malladi", [True, False])
def test_a_step_of_rmsprop_has_the_moments_of_its_equation(malladi):
    """Exactly, by quadrature, but for what relaxing exactly differs from an Euler step, 1 + O(dt)."""
    dynamics = jf.dynamics.rmsprop(two_point(1.3), RATE, 1, 0.95, EPS, malladi=malladi)
    state = RMSPropState(jnp.asarray(0.7), jnp.asarray(2.5))
    tau = dynamics.time_step
    dt = tau / 256
    xi, weights = gaussian_pairs(8)

    def move(x):
        new = dynamics.step(0.0, state, dt, (x[0], x[1]))
        return jnp.stack([new.params - state.params, new.second_moment - state.second_moment])

    moves = np.asarray(jax.jit(jax.vmap(move))(xi))
    mean = weights @ moves
    np.testing.assert_allclose(mean / dt, jnp.stack([*dynamics.drift(0.0, state)]), rtol=1e-3)
    covariance = (moves - mean).T @ ((moves - mean) * weights[:, None]) / dt
    column = lambda x: jnp.stack([*dynamics.diffusion(0.0, state, (x[:2], x[2:]))])
    s = np.asarray(jax.vmap(column)(jnp.eye(4))).T
    expected = s @ s.T
    if malladi:  # v is random only as far as its target is estimated, which vanishes with dt
        expected[1, 1] = 2 * (0.05 / tau * 1.3**2) ** 2 * dt
    np.testing.assert_allclose(covariance, expected, rtol=1e-3, atol=1e-12)


def test_a_step_of_sign_descent_as_long_as_its_own_is_sign_descent():
    dynamics = jf.dynamics.sign_sgd(OBJECTIVE, RATE, BATCH)
    xi = draw((50, 2, N), 7)
    step = lambda x, dt: ravel_pytree(dynamics.step(0.0, PARAMS, dt, (x[0], x[1])))[0] - FLAT
    whole = np.asarray(jax.jit(jax.vmap(step, (0, None)))(xi, RATE)) / RATE
    noises = (
        (np.asarray(xi[:, 0]) - np.asarray(xi[:, 0]).mean(1, keepdims=True)) @ GRADIENTS / np.sqrt(N * BATCH)
    )
    np.testing.assert_allclose(whole, -np.sign(MEAN + noises), atol=1e-12)


# --- The discrete methods' own numbers, on the clock t = kη ---


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
    dynamics = jf.dynamics.rmsprop(two_point(1.0), eta, 1, 1 - eta)
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
    sde = np.asarray(end_of(jf.dynamics.adam(two_point(1.0), eta, 1, b1, b2), [0.0, 1.0], count, 3).params)
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


# --- What can be passed ---


def test_starts():
    begin = jf.dynamics.adam(OBJECTIVE, RATE, BATCH).init(PARAMS)
    np.testing.assert_allclose(flat(begin.first_moment), MEAN, rtol=1e-12)
    np.testing.assert_allclose(flat(begin.second_moment), MEAN**2 + np.diag(SIGMA) / BATCH, rtol=1e-12)
    assert begin.steps == 0
    zero = jf.dynamics.rmsprop(OBJECTIVE, RATE, BATCH).init(PARAMS)
    assert flat(zero.second_moment).max() == 0


def test_rmsprop_starts_with_the_optimizers_step():
    """From v = 0 the denominator is that of one squared gradient, √(1 − α) of it, not ε."""
    quiet = jf.Objective(lambda w, c: 0.5 * c * w**2, jnp.ones(2))
    decay = 0.96
    dynamics = jf.dynamics.rmsprop(quiet, RATE, 1, decay)
    velocity = dynamics.drift(0.0, dynamics.init(jnp.asarray(3.0))).params
    optimizer = jf.optim.rmsprop(RATE, decay)
    step = optimizer.update(jnp.asarray(3.0), optimizer.init(jnp.asarray(3.0)))[0]
    np.testing.assert_allclose(RATE * velocity, step, rtol=1e-6)


KINDS = [noise.full(), noise.subset(3), noise.two_batches(1)]
MAKERS = [jf.dynamics.rmsprop, jf.dynamics.adam, jf.dynamics.sign_sgd]


@pytest.mark.parametrize("maker", MAKERS)
def test_rates_in_time_noise_kinds_and_single_precision(maker):
    single = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    rate = jf.dynamics.in_time(jf.optim.inverse_sqrt(0.05), 20)
    objective, params = jf.Objective(losses, single(DATA)), single(PARAMS)

    def xi_of(dynamics, state):
        fill = lambda s: (jnp.arange(2 * N) % 5).astype(s.dtype)[: int(np.prod(s.shape))].reshape(s.shape)
        return jax.tree.map(fill, dynamics.brownian(state))

    @jax.jit
    def moves(dynamics):
        t, dt = jnp.asarray(0.1), jnp.asarray(0.002)
        states = []
        for one in dynamics:
            start = one.init(params)
            states.append((start, one.step(t, start, dt, xi_of(one, start))))
        return states

    for start, end in moves([maker(objective, rate, 2, noise=kind) for kind in KINDS]):
        assert {leaf.dtype for leaf in jax.tree.leaves(end)} == {jnp.dtype("float32")}
        assert np.isfinite(flat(end)).all()
        assert (flat(end) != flat(start)).any()


@pytest.mark.parametrize("maker", MAKERS)
def test_gradients_and_stacks(maker):
    """A gradient through steps, with a coordinate whose gradient is 0 for every example, for many rates at once."""
    objective = jf.Objective(lambda w, c: 0.5 * (w[0] - c) ** 2 + 0 * w[1], jnp.array([-1.0, 1.0]))
    xi = (jnp.array([1.0, 0.0]), jnp.array([0.0, 0.5]))

    def loss(rate):
        dynamics = maker(objective, rate, 1)
        state = dynamics.init(jnp.ones(2))
        for t in (0.0, 0.001):
            state = dynamics.step(t, state, 0.001, xi)
        return jnp.sum(dynamics.params(state) ** 2) + sum(
            map(jnp.sum, jax.tree.leaves(dynamics.drift(0.0, state)))
        )

    assert np.isfinite(jax.jit(jax.vmap(jax.grad(loss)))(jnp.array([0.02, 0.05]))).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jf.dynamics.rmsprop(jnp.sum, 0.1, 1), TypeError, "need an Objective"),
        (lambda: jf.dynamics.rmsprop(OBJECTIVE, 0.0, 1), ValueError, "learning_rate must be"),
        (lambda: jf.dynamics.rmsprop(OBJECTIVE, 0.1, 0), ValueError, "batch_size must be"),
        (lambda: jf.dynamics.rmsprop(OBJECTIVE, 0.1, 1, 1.0), ValueError, r"decay must be in \[0, 1\)"),
        (lambda: jf.dynamics.rmsprop(OBJECTIVE, 0.1, 1, eps=-1), ValueError, "eps must be"),
        (lambda: jf.dynamics.adam(OBJECTIVE, 0.1, 1, b2=1.5), ValueError, "b2 must be"),
        (
            lambda: jf.dynamics.adam(two_point(1.0), 0.1, 1).init(jnp.asarray(1j)),
            TypeError,
            "params must be real",
        ),
        (lambda: jf.dynamics.sign_sgd(OBJECTIVE, -0.1, 1), ValueError, "learning_rate must be"),
        (
            lambda: jf.dynamics.sign_sgd(OBJECTIVE, 0.1, 7, replacement=False),
            ValueError,
            "batch_size must be",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
