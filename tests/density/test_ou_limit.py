"""The Ornstein–Uhlenbeck law against closed forms, SciPy, and the exact second moments of iterates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import jaxflow as jf
from jaxflow.density import OULaw, ou_law, ou_limit

H, D, T = jnp.diag(jnp.array([1.0, 3.0])), jnp.array([[1.0, 0.8], [0.8, 1.2]]), 0.5


def test_the_example_of_two_dimensions():
    law = ou_law(H, D, T)
    np.testing.assert_allclose(law.covariance, [[0.5, 0.2], [0.2, 0.2]], rtol=1e-14)
    np.testing.assert_allclose(law.current, [[0, 0.2], [-0.2, 0]], atol=1e-15)
    np.testing.assert_allclose(law.entropy_production, 8 / 7, rtol=1e-13)
    np.testing.assert_allclose(law.entropy, scipy.stats.multivariate_normal(cov=law.covariance).entropy())
    np.testing.assert_allclose(law.excess_loss, T * 2.2 / 2, rtol=1e-14)
    np.testing.assert_allclose(law.effective_rank, 2.2**2 / (1 + 1.44 + 2 * 0.64), rtol=1e-14)
    assert (law.flat, law.left_out, law.lowest) == (0, 0, 1)
    assert "2 directions, 0 of them flat" in repr(law)


def matrices(seed, d=5, rank=5):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(d, d)), rng.normal(size=(d, rank))
    return a @ a.T / d + 0.1 * np.eye(d), b @ b.T / d


@pytest.mark.parametrize("seed", [0, 1])
def test_five_dimensions_against_scipy(seed):
    h, d = matrices(seed)
    law = ou_law(jnp.array(h), jnp.array(d), T)
    s = scipy.linalg.solve_continuous_lyapunov(h, 2 * T * d)
    np.testing.assert_allclose(law.covariance, s, atol=1e-12)
    w = T * d - h @ s
    np.testing.assert_allclose(law.current, w, atol=1e-12)
    production = np.trace(w.T @ np.linalg.inv(T * d) @ w @ np.linalg.inv(s))
    np.testing.assert_allclose(law.entropy_production, production, rtol=1e-7)


def test_noise_that_is_singular_or_isotropic():
    h, d = matrices(2, rank=2)
    law = ou_law(jnp.array(h), jnp.array(d), T)
    assert jnp.isinf(law.entropy_production)  # the law has a density where nothing pushes
    isotropic = ou_law(jnp.array(h), jnp.eye(5), T)
    np.testing.assert_allclose(isotropic.covariance, T * np.linalg.inv(h), rtol=1e-10)
    np.testing.assert_allclose(isotropic.current, np.zeros((5, 5)), atol=1e-14)
    assert abs(isotropic.entropy_production) < 1e-20
    nothing = ou_law(jnp.array(h), jnp.zeros((5, 5)), T)
    assert nothing.entropy_production == nothing.entropy == nothing.effective_rank == 0


@pytest.fixture(scope="module")
def regression():
    """Least squares at its minimum, with H and D by NumPy."""
    problem = jf.problems.linear_regression(key=jax.random.key(3), examples=60, features=4, noise=1.0)
    x, y = (np.asarray(problem.objective.data[name]) for name in "xy")
    x = x * np.array([1.0, 0.7, 1.5, 1.0]) + np.array([0, 0, 1.0, 0])
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    data = {"x": jnp.array(x), "y": jnp.array(y)}
    gradients = (x @ best - y)[:, None] * x
    objective = jf.Objective(problem.objective.losses, data)
    return objective, jnp.array(best), x.T @ x / 60, gradients.T @ gradients / 60, x


def test_regression_in_all_its_directions(regression):
    objective, best, h, d, _ = regression
    for replacement, factor in ((True, 1 / 4), (False, 56 / 59 / 4)):
        law = ou_limit(objective, best, 0.1, 4, replacement=replacement)
        s = scipy.linalg.solve_continuous_lyapunov(h, 0.1 * factor * d)
        np.testing.assert_allclose(law.covariance, s, rtol=1e-9)
        np.testing.assert_allclose(law.temperature, 0.1 * factor / 2)
        np.testing.assert_allclose(law.excess_loss, law.temperature * np.trace(d) / 2, rtol=1e-10)
        np.testing.assert_allclose(law.area_per_step, 0.1 * (h @ s - s @ h), atol=1e-13)
    assert law.largest_rank == 4
    assert law.above_minimum < 1e-25
    away = ou_limit(objective, best + 0.1, 0.1, 4)
    np.testing.assert_allclose(away.above_minimum, objective(best + 0.1) - objective(best), rtol=1e-9)


def test_leading_directions_are_those_of_the_whole(regression):
    objective, best, h, d, _ = regression
    whole, part = ou_limit(objective, best, 0.1, 4), ou_limit(objective, best, 0.1, 4, k=2)
    u = part.directions
    for name in ("covariance", "current", "noise"):
        inside = u @ getattr(whole, name) @ u.T
        np.testing.assert_allclose(getattr(part, name), inside, atol=1e-7 * np.abs(inside).max() + 1e-10)
    np.testing.assert_allclose(jnp.diag(part.hessian), np.linalg.eigvalsh(h)[:1:-1], rtol=1e-8)
    np.testing.assert_allclose(part.lowest, np.linalg.eigvalsh(h)[0], rtol=1e-8)
    left = 1 - np.trace(np.asarray(u) @ d @ np.asarray(u).T) / np.trace(d)
    np.testing.assert_allclose(part.left_out, left, rtol=1e-7)
    np.testing.assert_allclose(part.excess_loss, whole.excess_loss * (1 - left), rtol=1e-7)
    leading = np.linalg.eigvalsh(d)[2:]
    np.testing.assert_allclose(part.effective_rank, np.trace(d) ** 2 / np.sum(leading**2), rtol=1e-7)


def test_iterates_tend_to_it_at_first_order(regression):
    """The exact stationary covariance of SGD's iterates, from their linear second-moment equation."""
    objective, best, h, d, x = regression

    def relative_error(rate, b=4):
        one = np.eye(4)
        spread = np.mean([np.kron(np.outer(v, v), np.outer(v, v)) for v in x], 0) - np.kron(h, h)
        step = np.kron(one - rate * h, one - rate * h) + rate**2 / b * spread
        s = np.linalg.solve(np.eye(16) - step, rate**2 / b * d.ravel()).reshape(4, 4)
        return np.linalg.norm(ou_limit(objective, best, rate, b).covariance - s) / np.linalg.norm(s)

    errors = np.array([relative_error(rate) for rate in (2e-3, 1e-3, 5e-4)])
    assert (abs(np.log2(errors[:-1] / errors[1:]) - 1) < 0.05).all(), errors


def noisy_line(params, c):
    """Curved along a, flat along b, with noise in both."""
    return 0.5 * (params["a"] - c) ** 2 + params["b"] * c


SIGNS = jnp.array([-1.0, 1.0])


def test_flat_directions_are_counted_and_left_out():
    law = ou_limit(jf.Objective(noisy_line, SIGNS), {"a": 0.0, "b": 0.0}, 0.2, 1)
    np.testing.assert_allclose(law.covariance, [[0.1, 0], [0, 0]], atol=1e-15)
    np.testing.assert_allclose(law.noise, [[1, -1], [-1, 1]], atol=1e-15)
    assert law.flat == 1
    np.testing.assert_allclose(law.left_out, 0.5)
    np.testing.assert_allclose(law.current, np.zeros((2, 2)), atol=1e-15)
    np.testing.assert_allclose(law.entropy, 0.5 * np.log(2 * np.pi * np.e * 0.1))


def saddle(params, c):
    return 0.5 * (params[0] - c) ** 2 - 0.25 * params[1] ** 2


def test_a_saddle_is_refused_with_its_eigenvalue():
    objective = jf.Objective(saddle, SIGNS)
    for k in (None, 1):
        with pytest.raises(ValueError, match=r"at a minimum, but .* the eigenvalue -0\.5"):
            ou_limit(objective, jnp.zeros(2), 0.1, 1, k=k)
    traced = jax.jit(ou_limit)(objective, jnp.zeros(2), 0.1, 1)
    assert isinstance(traced, OULaw)
    assert jnp.isnan(traced.covariance).all()
    assert ou_limit(objective, jnp.zeros(2), 0.1, 1, tolerance=0.6).flat == 1


def test_stacks_of_rates_and_slopes(regression):
    objective, best, _, d, _ = regression
    law = jax.vmap(lambda rate: ou_limit(objective, best, rate, 4))(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(law.covariance[1], 2 * law.covariance[0], rtol=1e-12)
    np.testing.assert_allclose(law.entropy[1] - law.entropy[0], 2 * np.log(2), rtol=1e-9)
    assert law.area_per_step.shape == (2, 4, 4)
    # W and S grow alike with η, and so does the noise: the entropy production is the same.
    np.testing.assert_allclose(law.entropy_production[0], law.entropy_production[1], rtol=1e-9)
    assert "stack" not in repr(law)
    assert "(2, 4, 4)" in repr(law)
    slope = jax.grad(lambda rate: ou_limit(objective, best, rate, 4).excess_loss)(0.1)
    np.testing.assert_allclose(slope, np.trace(d) / 16, rtol=1e-9)
    repeated = jax.grad(lambda t: ou_law(jnp.eye(2), D, t).entropy)(T)
    np.testing.assert_allclose(repeated, 1 / T, rtol=1e-12)


def test_bad_arguments_are_refused():
    objective = jf.Objective(noisy_line, SIGNS)
    params = {"a": 0.0, "b": 0.0}
    with pytest.raises(TypeError, match="need an Objective"):
        ou_limit(lambda x: x**2, 0.0, 0.1, 1)
    with pytest.raises(ValueError, match="learning_rate must be"):
        ou_limit(objective, params, -0.1, 1)
    with pytest.raises(ValueError, match="batch_size must be at most the number of examples, 2"):
        ou_limit(objective, params, 0.1, 3, replacement=False)
    with pytest.raises(ValueError, match="k must be at most 2"):
        ou_limit(objective, params, 0.1, 1, k=3)
    with pytest.raises(ValueError, match="hessian must be positive semidefinite, got the eigenvalue -1"):
        ou_law(-jnp.eye(2), D, T)
    with pytest.raises(ValueError, match="noise must have shape"):
        ou_law(H, jnp.eye(3), T)
