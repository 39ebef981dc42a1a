"""SDEs of RMSProp, Adam and sign descent in several dimensions: the equations, and what a step has of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from populations import two_point
from scipy.special import erf

import jaxflow as jf
from jaxflow.dynamics import AdamState, RMSPropState, noise
from jaxflow.dynamics.noise.coordinatewise import gradient_variance

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
V = 1 + np.abs(draw(P, 5))
XI = np.eye(2 * N)  # a basis of the pair of normal vectors that drive a step


drift = jax.jit(lambda dynamics, state: dynamics.drift(0.0, state))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def operator(dynamics, state):
    """The diffusion as a matrix from ξ to the state."""
    column = lambda x: ravel_pytree(dynamics.diffusion(0.0, state, (x[:N], x[N:])))[0]
    return np.asarray(jax.jit(jax.vmap(column))(XI)).T


@pytest.mark.parametrize("chunk", [None, 4])
def test_variance_of_every_coordinate(chunk):
    objective = jf.Objective(losses, DATA, chunk=chunk)  # 6 is no multiple of 4
    variance = jax.jit(lambda o: gradient_variance(o, PARAMS, UNRAVEL(jnp.asarray(MEAN))))(objective)
    np.testing.assert_allclose(flat(variance), np.diag(SIGMA), rtol=1e-12)


@pytest.mark.parametrize("in_sqrt", [True, False])
@pytest.mark.parametrize("malladi", [True, False])
def test_rmsprop_equation(malladi, in_sqrt):
    decay, eps = 0.9, 0.3 if in_sqrt else EPS
    dynamics = jf.dynamics.rmsprop_sde(
        OBJECTIVE, RATE, BATCH, decay, eps, malladi=malladi, eps_in_sqrt=in_sqrt
    )
    state = RMSPropState(PARAMS, UNRAVEL(jnp.asarray(V)))
    got, s = drift(dynamics, state), operator(dynamics, state)
    c, root = SIGMA / BATCH, np.sqrt(V + eps) if in_sqrt else np.sqrt(V) + eps
    if malladi:  # the paper's symbols
        sigma0, u = RATE / np.sqrt(BATCH), V * BATCH
        p = np.sqrt(sigma0**2 * u + eps * RATE**2) if in_sqrt else sigma0 * np.sqrt(u) + eps * RATE
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
    dynamics = jf.dynamics.adam_sde(OBJECTIVE, RATE, BATCH, b1, b2, EPS, malladi=malladi)
    m_hat = np.asarray(draw(P, 6))
    state = AdamState(PARAMS, UNRAVEL(jnp.asarray(m_hat)), UNRAVEL(jnp.asarray(V)), jnp.asarray(count))
    got, s = drift(dynamics, state), operator(dynamics, state)
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
    np.testing.assert_allclose(flat(drift(dynamics, PARAMS)), -expected, rtol=1e-12)
    s = operator(dynamics, PARAMS)
    np.testing.assert_allclose(np.diag(s @ s.T), RATE * (1 - expected**2), rtol=1e-11)
    # Without noise it is the sign.
    quiet = jf.Objective(lambda w, c: c * (w @ jnp.array([1.0, 0.0, -2.0])), jnp.ones(4))
    still = jf.dynamics.sign_sgd(quiet, RATE, BATCH)
    np.testing.assert_array_equal(drift(still, np.ones(3)), [-1.0, 0.0, 1.0])
    moved = lambda w: still.drift(0.0, w) + still.diffusion(0.0, w, (jnp.ones(4),) * 2)
    np.testing.assert_array_equal(jax.jit(jax.jacrev(moved))(np.ones(3)), np.zeros((3, 3)))


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
    dynamics = jf.dynamics.rmsprop_sde(two_point(1.3), RATE, 1, 0.95, EPS, malladi=malladi)
    state = RMSPropState(jnp.asarray(0.7), jnp.asarray(2.5))
    tau = dynamics.time_step
    dt = tau / 256
    xi, weights = gaussian_pairs(8)

    def move(x):
        new = dynamics.step(0.0, state, dt, (x[0], x[1]))
        return jnp.stack([new.params - state.params, new.second_moment - state.second_moment])

    moves = np.asarray(jax.jit(jax.vmap(move))(xi))
    mean = weights @ moves
    np.testing.assert_allclose(mean / dt, np.stack(drift(dynamics, state)), rtol=1e-3)
    covariance = (moves - mean).T @ ((moves - mean) * weights[:, None]) / dt
    column = lambda x: jnp.stack([*dynamics.diffusion(0.0, state, (x[:2], x[2:]))])
    s = np.asarray(jax.jit(jax.vmap(column))(np.eye(4))).T
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


def test_starts():
    begin = jf.dynamics.adam_sde(OBJECTIVE, RATE, BATCH).init(PARAMS)
    np.testing.assert_allclose(flat(begin.first_moment), MEAN, rtol=1e-12)
    np.testing.assert_allclose(flat(begin.second_moment), MEAN**2 + np.diag(SIGMA) / BATCH, rtol=1e-12)
    assert begin.steps == 0
    zero = jf.dynamics.rmsprop_sde(OBJECTIVE, RATE, BATCH).init(PARAMS)
    assert flat(zero.second_moment).max() == 0


def test_rmsprop_starts_with_the_optimizers_step():
    """From v = 0 the denominator is that of one squared gradient, √(1 − α) of it, not ε."""
    quiet = jf.Objective(lambda w, c: 0.5 * c * w**2, jnp.ones(2))
    decay = 0.96
    dynamics = jf.dynamics.rmsprop_sde(quiet, RATE, 1, decay)
    velocity = dynamics.drift(0.0, dynamics.init(jnp.asarray(3.0))).params
    optimizer = jf.optim.rmsprop(RATE, decay)
    step = optimizer.update(jnp.asarray(3.0), optimizer.init(jnp.asarray(3.0)))[0]
    np.testing.assert_allclose(RATE * velocity, step, rtol=1e-6)


KINDS = [noise.full(), noise.subset(3), noise.two_batches(1)]
MAKERS = [jf.dynamics.rmsprop_sde, jf.dynamics.adam_sde, jf.dynamics.sign_sgd]


@pytest.mark.parametrize("maker", MAKERS)
def test_rates_in_time_noise_kinds_and_single_precision(maker):
    single = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    rate = jf.dynamics.schedule_in_time(jf.optim.inverse_sqrt(0.05), 20)
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
        (lambda: jf.dynamics.rmsprop_sde(jnp.sum, 0.1, 1), TypeError, "need an Objective"),
        (lambda: jf.dynamics.rmsprop_sde(OBJECTIVE, 0.0, 1), ValueError, "learning_rate must be"),
        (lambda: jf.dynamics.rmsprop_sde(OBJECTIVE, 0.1, 0), ValueError, "batch_size must be"),
        (lambda: jf.dynamics.rmsprop_sde(OBJECTIVE, 0.1, 1, 1.0), ValueError, r"decay must be in \[0, 1\)"),
        (lambda: jf.dynamics.rmsprop_sde(OBJECTIVE, 0.1, 1, eps=-1), ValueError, "eps must be"),
        (lambda: jf.dynamics.adam_sde(OBJECTIVE, 0.1, 1, b2=1.5), ValueError, "b2 must be"),
        (
            lambda: jf.dynamics.adam_sde(two_point(1.0), 0.1, 1).init(jnp.asarray(1j)),
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
