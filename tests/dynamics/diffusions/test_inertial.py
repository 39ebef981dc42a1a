"""Momentum as a diffusion, against matrix equations: exact laws of the SDE, of its stepping, of the optimizer.

With ℓ_i = ½θᵀHθ − c_iᵀθ the covariance C of the c_i is Σ everywhere, every map is linear in state and noise, and
its matrices are read off by differentiation. H and C do not commute.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.linalg import expm, solve_continuous_lyapunov, solve_discrete_lyapunov

import jaxflow as jf
from jaxflow.dynamics import InertialState, momentum_sgd, nesterov_sgd, noise, schedule_in_time
from jaxflow.optim import warmup

pytestmark = pytest.mark.promotes
D, N, T = 4, 6, 1.0
RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.normal(size=(D, D)))[0]
H = BASIS @ np.diag([0.3, 0.8, 1.7, 3.0]) @ BASIS.T
SHIFTS = RNG.normal(size=(N, D))
SHIFTS -= SHIFTS.mean(0)
C = SHIFTS.T @ SHIFTS / N
OBJECTIVE = jf.Objective(lambda x, c: 0.5 * x @ jnp.asarray(H) @ x - c @ x, jnp.asarray(SHIFTS))
SCALAR = jf.Objective(
    lambda x, c: 0.85 * x[0] ** 2 - c * x[0], jnp.asarray(np.sqrt(0.9) * np.array([-1.0, 1.0]))
)  # h, c
OPTIMIZERS = {momentum_sgd: jf.optim.momentum, nesterov_sgd: jf.optim.nesterov}


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def flat(state):
    return jnp.concatenate(jax.tree.leaves(state))


def unflat(z):
    return InertialState(*jnp.split(z, 2))


def _jacobians(f, size, count):
    z, xi = jnp.zeros(size), jnp.zeros(count)
    return jax.jacfwd(f, 0)(z, xi), jax.jacfwd(f, 1)(z, xi)


@functools.partial(jax.jit, static_argnums=1)
def _sde(dynamics, size):
    count = dynamics.brownian(unflat(jnp.zeros(size))).size
    drift, _ = _jacobians(lambda z, xi: flat(dynamics.drift(0.0, unflat(z))), size, count)
    _, diffusion = _jacobians(lambda z, xi: flat(dynamics.diffusion(0.0, unflat(z), xi)), size, count)
    return drift, diffusion


@functools.partial(jax.jit, static_argnums=1)
def _stepped(dynamics, size, dt):
    count = dynamics.brownian(unflat(jnp.zeros(size))).size
    return _jacobians(lambda z, xi: flat(dynamics.step(0.0, unflat(z), dt, xi)), size, count)


@functools.partial(jax.jit, static_argnums=2)
def _iterated(optimizer, objective, size):
    """θ and velocity after an update with the gradient of weights 1/N + ξ_i/√N, ξ centred: covariance Σ."""
    template, unravel = ravel_pytree(optimizer.init(jnp.zeros(size)))

    def update(z, xi):
        weights = 1 / objective.size + (xi - xi.mean()) / jnp.sqrt(objective.size)
        theta, state = z[:size], unravel(z[size:])
        g = jax.grad(lambda x: objective.weighted(x, weights))(theta)
        step, state = optimizer.update(
            g, state, theta, grad_fn=jax.grad(lambda x: objective.weighted(x, weights))
        )
        return jnp.concatenate([theta + step, ravel_pytree(state)[0]])

    return _jacobians(update, size + template.size, objective.size)


def continuous(dynamics, size=D):
    """Matrices of drift and noise, and the stationary covariance."""
    drift, diffusion = map(np.asarray, _sde(dynamics, 2 * size))
    return drift, diffusion, solve_continuous_lyapunov(drift, -diffusion @ diffusion.T)


def stationary(matrices):
    step, noise = map(np.asarray, matrices)
    return solve_discrete_lyapunov(step, noise @ noise.T)


def discrete(kind, rate, beta, **options):
    return _iterated(OPTIMIZERS[kind](rate, beta, **options), OBJECTIVE, D)


CASES = [
    (momentum_sgd, {"order": 1}),
    (momentum_sgd, {"order": 2}),
    (momentum_sgd, {"order": 1, "ema": True}),
    (momentum_sgd, {"order": 2, "ema": True}),
    (nesterov_sgd, {"order": 1}),
    (nesterov_sgd, {"order": 2}),
]
NAMES = [f"{kind.__name__}-{'-'.join(map(str, options.values()))}" for kind, options in CASES]


@pytest.mark.parametrize("ema", [False, True])
def test_heavy_ball_is_the_equation_said(ema):
    eta, beta, batch = 0.1, 0.6, 2
    drift, diffusion, _ = continuous(
        momentum_sgd(OBJECTIVE, eta, batch, beta, ema=ema, replacement=False, order=1)
    )
    mass = eta * (1 + beta) / 2 / ((1 - beta) if ema else 1)
    friction = 1.0 if ema else 1 - beta
    eye, zero = np.eye(D), np.zeros((D, D))
    np.testing.assert_allclose(
        drift, np.block([[zero, eye], [-H / mass, -friction / mass * eye]]), atol=1e-12
    )
    noise = eta * (N - batch) / (batch * (N - 1)) * C / mass**2
    np.testing.assert_allclose(diffusion @ diffusion.T, np.block([[zero, zero], [zero, noise]]), atol=1e-12)


def test_nesterov_is_the_equation_said_and_sgd_without_momentum():
    eta, beta = 0.1, 0.6
    drift, diffusion, _ = continuous(nesterov_sgd(OBJECTIVE, eta, 1, beta, order=1))
    m, eye = eta * (1 + beta) / 2, np.eye(D)
    expected = np.block([[-H, beta * eye], [-H / m, -(1 - beta) / m * eye]])
    np.testing.assert_allclose(drift, expected, atol=1e-12)
    joint = np.block([[C, C / m], [C / m, C / m**2]])
    np.testing.assert_allclose(diffusion @ diffusion.T, eta * joint, atol=1e-12)
    plain, diffusion, _ = continuous(nesterov_sgd(OBJECTIVE, eta, 1, 0.0, order=1))
    np.testing.assert_allclose(plain[:D], np.block([-H, 0 * eye]), atol=1e-12)
    np.testing.assert_allclose((diffusion @ diffusion.T)[:D, :D], eta * C, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "limits"),
    [(momentum_sgd, (-1 / 3, -1 / 3.8, -1 / 3.98)), (nesterov_sgd, (-1.0833, -1.6132, -1.7362))],
)
def test_first_order_stationary_variances_are_off_by_what_the_docstrings_say(kind, limits):
    """Relative to ηh, as it falls, of exact laws: 1/(2(1+β)) for the heavy ball, towards 7/4 with Nesterov's β."""
    h = 1.7  # of SCALAR
    for beta, limit in zip((0.5, 0.9, 0.99), limits, strict=True):
        off = []
        for rate in (4e-3 * (1 - beta), 2e-3 * (1 - beta)):
            exact = stationary(_iterated(OPTIMIZERS[kind](rate, beta), SCALAR, 1))[0, 0]
            off.append(
                (continuous(kind(SCALAR, rate, 1, beta, order=1), 1)[2][0, 0] / exact - 1) / (rate * h)
            )
        assert 2 * off[1] - off[0] == pytest.approx(limit, abs=2e-3)
    assert kind is momentum_sgd or -7 / 4 < off[1] < -1.7


def test_exact_variances_in_one_dimension():
    variance = lambda dynamics: continuous(dynamics, 1)[2][0, 0]
    chain = lambda optimizer: stationary(_iterated(optimizer, SCALAR, 1))[0, 0]
    eta, h, c, beta = 0.1, 1.7, 0.9, 0.9
    np.testing.assert_allclose(
        variance(momentum_sgd(SCALAR, eta, 1, beta, order=1)), 0.264705882353, rtol=1e-11
    )
    np.testing.assert_allclose(chain(jf.optim.momentum(eta, beta)), 0.277102576568, rtol=1e-11)
    np.testing.assert_allclose(chain(jf.optim.momentum(eta, 0.0)), 0.028929604629, rtol=1e-10)
    # The shifted form's parameters spread more than the look-ahead form's, by ηβv.
    np.testing.assert_allclose(chain(jf.optim.nesterov(eta, beta)), 0.146578287142, rtol=1e-11)
    np.testing.assert_allclose(chain(jf.optim.nesterov(eta, beta, lookahead=True)), 0.10997778201, rtol=1e-10)
    # ηc/2h (1 + r²h/m)/(1 − β + eh) for the points e and r along the velocity.
    q, m = eta * h, eta * (1 + beta) / 2
    first = eta * c / (2 * h) * (1 + m * h) / (1 - beta + m * h)
    second = eta * c / (2 * h) * (1 + q * (1 + 2 * beta) ** 2 / (2 * (1 + beta))) / (1 - beta + beta * q)
    np.testing.assert_allclose(variance(nesterov_sgd(SCALAR, eta, 1, beta, order=1)), first, rtol=1e-11)
    np.testing.assert_allclose(variance(nesterov_sgd(SCALAR, eta, 1, beta, order=2)), second, rtol=1e-11)
    np.testing.assert_allclose(
        variance(momentum_sgd(SCALAR, eta, 1, beta, order=2)),
        0.264705882353 * (1 + q / (2 * (1 + beta))),
        rtol=1e-11,
    )


def moments(step, noise, steps):
    """Mean from θ = 1 and covariance after so many steps."""
    mean = np.concatenate([np.ones(D), np.zeros(len(step) - D)])
    covariance = np.zeros_like(step)
    for _ in range(steps):
        mean, covariance = step @ mean, step @ covariance @ step.T + noise @ noise.T
    return mean[:D], covariance[:D, :D]


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=NAMES)
def test_order_in_the_rate(kind, options, beta):
    rates, errors = (0.02, 0.01), []
    ema = {key: value for key, value in options.items() if key == "ema"}
    for eta in rates:
        step, noise = map(np.asarray, discrete(kind, eta, beta, **ema))
        drift, _, final = continuous(kind(OBJECTIVE, eta, 1, beta, **options))
        mean, covariance = moments(step, noise, round(T / eta))
        flow = expm(T * drift)
        errors.append(
            [
                relative(final[:D, :D], stationary((step, noise))[:D, :D]),
                relative((final - flow @ final @ flow.T)[:D, :D], covariance),
                relative(flow[:D, :D] @ np.ones(D), mean),
            ]
        )
    slopes = np.log2(np.divide(*errors))
    assert np.all(np.abs(slopes - options["order"]) < 0.15), slopes


def test_order_two_with_noise_that_depends_on_the_state():
    """ℓ_i = a_iθ²/2, a ∈ {0, 2}: second moments, by the mean square of the maps and by the generator."""
    objective = jf.Objective(lambda x, a: 0.5 * a * x[0] ** 2, jnp.array([0.0, 2.0]))

    @jax.jit
    def matrices(dynamics):
        drift = jax.jacfwd(lambda z: flat(dynamics.drift(0.0, unflat(z))))(jnp.zeros(2))
        noisy = lambda xi: jax.jacfwd(lambda z: flat(dynamics.diffusion(0.0, unflat(z), xi)))(jnp.zeros(2))
        return drift, jax.vmap(noisy)(jnp.eye(2))

    def errors(eta, order, beta=0.5):
        drift, noises = map(np.asarray, matrices(momentum_sgd(objective, eta, 1, beta, order=order)))
        maps = [np.array([[1 - eta * a, eta * beta], [-a, beta]]) for a in (0.0, 2.0)]
        chain = np.linalg.matrix_power(sum(np.kron(m, m) for m in maps) / 2, round(T / eta))
        generator = np.kron(drift, np.eye(2)) + np.kron(np.eye(2), drift) + sum(np.kron(g, g) for g in noises)
        return abs(chain[0, 0] - expm(T * generator)[0, 0])

    slopes = [np.log2(errors(0.02, order) / errors(0.01, order)) for order in (1, 2)]
    np.testing.assert_allclose(slopes, [1, 2], atol=0.15)


@pytest.mark.parametrize("beta", [0.0, 0.9])
@pytest.mark.parametrize(
    ("kind", "options"), [CASES[0], CASES[3], CASES[5]], ids=[NAMES[i] for i in (0, 3, 5)]
)
def test_sixteen_steps_a_step_keep_the_stationary_law(kind, options, beta):
    eta = 0.1
    dynamics = kind(OBJECTIVE, eta, 1, beta, **options)
    exact = continuous(dynamics)[2]
    errors = [
        relative(stationary(_stepped(dynamics, 2 * D, eta / n))[:D, :D], exact[:D, :D]) for n in (8, 16)
    ]
    assert errors[1] < 2e-3
    if kind is momentum_sgd:
        assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


def test_fused_step_is_the_splitting_written_out():
    eta, beta, dt = 0.1, 0.8, 0.01
    xi, state = RNG.normal(size=N), InertialState(*RNG.normal(size=(2, D)))
    theta, u = state
    mass, friction = eta * (1 + beta) / 2, 1 - beta
    x = theta - eta / 2 * u + dt / 2 * u
    kept = np.exp(-friction * dt / mass)
    draw = -(xi - xi.mean()) @ SHIFTS / np.sqrt(N)
    spread = np.sqrt(eta / 3 / (2 * friction * mass) * (1 - kept**2))
    v = kept * u - (1 - kept) / friction * (H @ x) - spread * draw
    dynamics = momentum_sgd(OBJECTIVE, eta, 3, beta, order=2)
    stepped = jax.jit(lambda state, xi: dynamics.step(0.0, state, dt, xi))(state, xi)
    np.testing.assert_allclose(stepped.velocity, v, rtol=1e-12)
    np.testing.assert_allclose(stepped.params, x + dt / 2 * v + eta / 2 * v, rtol=1e-12)


def test_noise_that_picks_examples_steps_alike():
    eta, dt = 0.1, 0.01
    dynamics = momentum_sgd(OBJECTIVE, eta, 1, 0.5, noise=noise.subset(3))
    xi = {"normal": RNG.normal(size=3), "bits": np.array([1, 2], np.uint32)}
    state = dynamics.init(jnp.ones(D))
    step = jax.jit(lambda xi: dynamics.step(0.0, state, dt, xi).velocity)
    moved = np.subtract(step(xi), step(xi | {"normal": np.zeros(3)}))
    diffused = jax.jit(lambda xi: dynamics.diffusion(0.0, state, xi).velocity)(xi)
    mass, lost = 0.75 * eta, -np.expm1(-2 * 0.5 * dt / (0.75 * eta))
    ratio = np.sqrt(eta / mass * lost) / (np.sqrt(eta) / mass)  # of the step's noise to the diffusion's
    np.testing.assert_allclose(moved, ratio * np.asarray(diffused), rtol=1e-10)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sampled_covariances_are_the_exact_ones(seed):
    """10 entries each of a normal sample covariance, of SDE and optimizer: a false alarm in 7,000 runs at 4.5 s.e."""
    eta, beta, steps, paths = 0.1, 0.5, 20, 4_000
    keys = jax.random.split(jax.random.key(seed), paths)
    times = jnp.array([0.0, eta * steps])
    theta = jnp.ones(D)
    dynamics = momentum_sgd(OBJECTIVE, eta, 1, beta)
    diffused, iterated = _sampled(dynamics, jf.optim.momentum(eta, beta), theta, times, keys, steps)
    drift, _, final = continuous(dynamics)
    flow = expm(times[-1] * drift)
    step, noise = map(np.asarray, discrete(momentum_sgd, eta, beta))
    for sample, exact in (
        (diffused, (final - flow @ final @ flow.T)[:D, :D]),
        (iterated, moments(step, noise, steps)[1]),
    ):
        covariance = np.cov(np.asarray(sample).T)
        variances = np.diag(exact)
        error = np.sqrt((np.outer(variances, variances) + exact**2) / paths)
        assert np.max(np.abs(covariance - exact) / error) < 4.5


@functools.partial(jax.jit, static_argnums=5)
def _sampled(dynamics, optimizer, theta, times, keys, steps):
    run = lambda key: (
        jf.integrate(dynamics, theta, times, key=key, substeps=8 * steps).params,
        jf.iterate(optimizer, OBJECTIVE, theta, steps=steps, batch_size=1, key=key, every=None).params,
    )
    return jax.vmap(run)(keys)


def test_schedules_of_rate_batch_and_momentum():
    rate = warmup(0.1, 4)  # 0 at first: a step that takes no time
    eta, batch, beta = (
        schedule_in_time(s, 10, clock) for s, clock in ((rate, None), (lambda k: 1 + k, rate), (_beta, rate))
    )
    varying = momentum_sgd(OBJECTIVE, eta, batch, beta)
    state, xi, t = varying.init(jnp.ones(D)), jnp.arange(float(N)), 0.12  # of step 3
    frozen = momentum_sgd(OBJECTIVE, 0.075, 4, _beta(3))

    @jax.jit
    def fields(dynamics):
        return flat(dynamics.drift(t, state)), flat(dynamics.diffusion(t, state, xi))

    for a, b in zip(fields(varying), fields(frozen), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    still = momentum_sgd(OBJECTIVE, lambda t: jnp.zeros(()), 1, 0.5)
    stopped = jax.jit(still.step)(0.0, state, 0.01, xi)
    assert np.isfinite(flat(stopped)).all()


def _beta(k):
    return 0.5 + 0.01 * k


@pytest.mark.parametrize("kind", [momentum_sgd, nesterov_sgd])
def test_bad_input_is_refused(kind):
    with pytest.raises(ValueError, match="learning_rate must be"):
        kind(OBJECTIVE, 0.0, 1)
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\)"):
        kind(OBJECTIVE, 0.1, 1, 1.0)
    with pytest.raises(ValueError, match="order must be 1 or 2, got 3"):
        kind(OBJECTIVE, 0.1, 1, order=3)
    with pytest.raises(ValueError, match="at most the number of examples"):
        kind(OBJECTIVE, 0.1, N + 1, replacement=False)
    with pytest.raises(TypeError, match="need an Objective"):
        kind(jnp.sum, 0.1, 1)
    with pytest.raises(TypeError, match="ema"):
        nesterov_sgd(OBJECTIVE, 0.1, 1, ema=True)
