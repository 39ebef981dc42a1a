"""The area a step of SGD sweeps, against the exact second moments of its iterates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

import jaxflow as jf
from jaxflow.density import AreaRate, area_rate, ou_limit

pytestmark = pytest.mark.promotes  # iterate uses optax

RATE, B, RIDGE = 0.05, 4, 0.1
CHAINS, STEPS, SKIP = 120, 1500, 300


def ridge(w, batch):
    return 0.5 * (batch["x"] @ w - batch["y"]) ** 2 + 0.5 * RIDGE * jnp.sum(w**2)


@pytest.fixture(scope="module")
def digits():
    """Is it a zero? Six principal components of the digits: objective, minimum, Hessian and examples.

    The components are about 0, not about the mean, so that curvatures differ and the currents are strong.
    """
    x, y = load_digits(return_X_y=True)
    x, y = x / 16, (y == 0).astype(float)
    x = x @ np.linalg.svd(x, full_matrices=False)[2][:6].T
    h = x.T @ x / len(x) + RIDGE * np.eye(6)
    best = np.linalg.solve(h, x.T @ y / len(x))
    return jf.Objective(ridge, {"x": jnp.array(x), "y": jnp.array(y)}), best, h, x, y


@pytest.fixture(scope="module")
def run(digits):
    """Chains from a seed: the optimizer and all data are arguments of one program."""
    objective, best = digits[:2]
    many = lambda key: jf.iterate(
        jf.optim.gd(RATE), objective, jnp.array(best), steps=STEPS, batch_size=B, key=key
    )
    return lambda seed: jf.ensemble(many, jax.random.split(jax.random.key(seed), CHAINS))


def exact_covariance(best, h, x, y):
    """S of θ' = θ − η(A θ − b) over random batches, by its linear equation in 36 unknowns."""
    gradients = (x @ best - y)[:, None] * x + RIDGE * best
    one, n = np.eye(6), len(x)
    pairs = (x[:, :, None] * x[:, None]).reshape(n, 36) + RIDGE * one.reshape(1, 36)
    # E[a ⊗ a] with its axes in the order of a Kronecker product.
    squares = (pairs.T @ pairs / n).reshape(6, 6, 6, 6).transpose(0, 2, 1, 3).reshape(36, 36)
    step = np.kron(one - RATE * h, one - RATE * h) + RATE**2 / B * (squares - np.kron(h, h))
    noise = gradients.T @ gradients / n
    return np.linalg.solve(np.eye(36) - step, RATE**2 / B * noise.ravel()).reshape(6, 6)


@pytest.mark.parametrize("seed", [0, 1])
def test_sgd_on_digits_sweeps_the_area_of_its_exact_covariance(digits, run, seed):
    """15 entries within 4 standard errors; at 120 chains a false alarm has the probability 15 · 1.1e-4 a seed."""
    _, best, h, x, y = digits
    s = exact_covariance(best, h, x, y)
    expected = RATE * (h @ s - s @ h)
    chains = run(seed)
    found = area_rate(chains, skip=SKIP)
    upper = np.triu_indices(6, 1)
    z = np.asarray((found.rate - expected) / jnp.where(found.error > 0, found.error, 1))[upper]
    assert (abs(z) < 4).all(), z
    # The signal in the direction that is expected, with its spread over ten groups of chains.
    unit = expected / np.linalg.norm(expected)
    groups = chains.values.reshape(10, -1, *chains.values.shape[1:])
    along = np.sum(unit * np.asarray(jax.vmap(lambda x: area_rate(x, skip=SKIP).rate)(groups)), (1, 2))
    assert along.mean() > 30 * along.std(ddof=1) / np.sqrt(10)
    np.testing.assert_allclose(along.mean(), np.linalg.norm(expected), rtol=0.1)
    np.testing.assert_allclose(np.diag(found.covariance), np.diag(s), rtol=0.15)
    back = area_rate(chains.values[:, ::-1], skip=0)
    ahead = area_rate(chains.values)
    np.testing.assert_allclose(back.rate, -ahead.rate, atol=1e-18)
    np.testing.assert_allclose(back.error, ahead.error, rtol=1e-9)


def test_the_limit_law_predicts_it_up_to_the_rate(digits):
    objective, best, h, x, y = digits
    s = exact_covariance(best, h, x, y)
    law = ou_limit(objective, jnp.array(best), RATE, B)
    expected = RATE * (h @ s - s @ h)
    error = np.linalg.norm(law.area_per_step - expected) / np.linalg.norm(expected)
    assert error < 0.5 * RATE * np.trace(h)


def test_langevin_sweeps_none():
    """A million steps of a reversible chain, in two seeds: 4 standard errors, false alarms 1.1e-4 each."""
    for seed in (0, 1):
        noise = np.random.default_rng(seed).normal(size=(100, 1000, 2))
        x = np.zeros_like(noise)
        decay = np.array([0.9, 0.7])
        for k in range(1, 1000):
            x[:, k] = decay * x[:, k - 1] + noise[:, k]
        found = area_rate(jnp.array(x), skip=50)
        assert abs(found.z[0, 1]) < 4
        assert (jnp.diag(found.rate) == 0).all()


def test_directions_pytrees_and_chains_that_diverged():
    rng = np.random.default_rng(2)
    x = np.cumsum(rng.normal(size=(6, 40, 3)), 1)
    tree = {"a": jnp.array(x[..., :1]), "b": jnp.array(x[..., 1:].reshape(6, 40, 2, 1))}
    found = area_rate(jnp.array(x))
    centred = x - x.mean((0, 1))
    each = np.einsum("cki,ckj->cij", centred[:, :-1], centred[:, 1:]) / 39
    each = each - each.transpose(0, 2, 1)
    np.testing.assert_allclose(found.rate, each.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.error, each.std(0, ddof=1) / np.sqrt(6), rtol=1e-9)
    np.testing.assert_allclose(found.z[0, 1], found.rate[0, 1] / found.error[0, 1])
    np.testing.assert_allclose(area_rate(tree).rate, found.rate, rtol=1e-12)
    u = rng.normal(size=(2, 3))
    turned = area_rate(tree, jnp.array(u))
    np.testing.assert_allclose(turned.rate, u @ found.rate @ u.T, atol=1e-12)
    like = {"a": jnp.array(u[:, :1]), "b": jnp.array(u[:, 1:, None])}
    np.testing.assert_allclose(area_rate(tree, like).rate, turned.rate, rtol=1e-12)
    bad = np.concatenate([x, np.where(np.arange(40)[:, None] < 20, x[:1], np.nan)])
    with_bad = area_rate(jnp.array(bad))
    assert with_bad.chains == 6
    np.testing.assert_allclose(with_bad.rate, found.rate, rtol=1e-12)
    np.testing.assert_allclose(with_bad.error, found.error, rtol=1e-12)
    assert "6 chains" in repr(with_bad)
    assert isinstance(with_bad, AreaRate)


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        (jnp.ones((1, 5, 2)), "at least two chains and two records after skip, got 1 chains"),
        (jnp.ones((3, 1, 2)), "at least two chains and two records"),
        (jnp.ones(3), "share their axes"),
        ({"a": jnp.ones((2, 3)), "b": jnp.ones((2, 4))}, "share their axes"),
    ],
)
def test_bad_paths_are_refused(paths, sentence):
    with pytest.raises(ValueError, match=sentence):
        area_rate(paths)


def test_bad_directions_are_refused():
    with pytest.raises(ValueError, match="directions must be an array"):
        area_rate(jnp.ones((3, 4, 2)), jnp.ones((2, 3)))
    with pytest.raises(TypeError, match="paths must be real"):
        area_rate(jnp.ones((3, 4, 2)) * 1j)
