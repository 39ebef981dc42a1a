"""Distances of laws against SciPy and closed forms."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats

from jaxflow.density import bures, sinkhorn, wasserstein


def linear_program(costs, a, b):
    """The least cost of a coupling: an independent answer."""
    n, m = costs.shape
    rows = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return scipy.optimize.linprog(costs.ravel(), A_eq=rows, b_eq=np.concatenate([a, b]), method="highs").fun


def transport_cost(x, y, a, b, p):
    return linear_program(np.abs(x[:, None] - y[None]) ** p, a, b) ** (1 / p)


@pytest.mark.parametrize("p", [1, 2, 3.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_weighted_samples_against_the_linear_program(p, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=7), rng.normal(size=5) + 0.5
    a, b = rng.dirichlet(np.ones(7)), rng.dirichlet(np.ones(5))
    a[3] = 0
    a /= a.sum()
    found = wasserstein(jnp.array(x), jnp.array(y), p=p, x_weights=jnp.array(3 * a), y_weights=jnp.array(b))
    np.testing.assert_allclose(found, transport_cost(x, y, a, b, p), rtol=1e-7)
    if p == 1:
        np.testing.assert_allclose(found, scipy.stats.wasserstein_distance(x, y, a, b), rtol=1e-12)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_samples_in_three_dimensions_against_the_best_assignment_and_the_linear_program(p):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 3)) + 0.3
    costs = np.linalg.norm(x[:, None] - y[None], axis=-1) ** p
    best = costs[scipy.optimize.linear_sum_assignment(costs)].mean() ** (1 / p)
    np.testing.assert_allclose(wasserstein(x, y, p=p), best, rtol=1e-9)
    np.testing.assert_allclose(wasserstein(x, x + np.array([3.0, 4.0, 0.0]), p=p), 5, rtol=1e-9)
    a, b = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(5))
    few = np.linalg.norm(x[:6, None] - y[None, :5], axis=-1)
    exact = linear_program(few**p, a, b) ** (1 / p)
    np.testing.assert_allclose(wasserstein(x[:6], y[:5], p=p, x_weights=2 * a, y_weights=b), exact, rtol=1e-7)
    # A column is a line.
    np.testing.assert_allclose(
        wasserstein(x[:, :1], y[:, :1], p=p), wasserstein(x[:, 0], y[:, 0], p=p), rtol=1e-12
    )


def test_sinkhorns_plan_against_its_scaling_form_and_its_limit():
    """P = diag(u) K diag(v) with K = exp(−cost/ε), by NumPy; as ε → 0 the distance is Wasserstein's, from above."""
    rng = np.random.default_rng(1)
    x, y, b = rng.normal(size=(9, 2)), rng.normal(size=(7, 2)), rng.dirichlet(np.ones(7))
    costs = ((x[:, None] - y[None]) ** 2).sum(-1)
    kernel, v = np.exp(-costs / 0.5), np.ones(7)
    for _ in range(3000):
        u = 1 / 9 / (kernel @ v)
        v = b / (kernel.T @ u)
    expected = np.sqrt((u[:, None] * kernel * v * costs).sum())
    np.testing.assert_allclose(sinkhorn(x, y, 0.5, y_weights=b), expected, rtol=1e-7)
    exact = wasserstein(x, y, y_weights=b)
    near, far = (float(sinkhorn(x, y, epsilon, y_weights=b)) for epsilon in (0.02, 0.5))
    assert exact <= near + 1e-9
    assert near < far
    assert near - exact < 0.01 * exact
    np.testing.assert_allclose(sinkhorn(x[:, 0], y[:, :1].ravel(), 0.5), sinkhorn(x[:, :1], y[:, :1], 0.5))


def test_without_the_optional_package_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"POT: pip install 'jaxflow\[transport\]'"):
        wasserstein(jnp.ones((2, 2)), jnp.ones((3, 2)))


def test_equal_samples_and_repeated_ones_are_at_distance_0():
    x = jnp.array(np.random.default_rng(0).normal(size=5))
    w = jnp.array([0.1, 0.3, 0.2, 0.15, 0.25])
    assert wasserstein(x, x) == 0
    assert wasserstein(jnp.repeat(x, 3), x[::-1]) == 0
    assert wasserstein(jnp.tile(x, 2), x, x_weights=jnp.tile(w, 2), y_weights=w) == 0
    assert not jax.grad(lambda y: wasserstein(x, y))(x).any()


def test_a_shift_and_a_stretch_of_quantiles():
    x = jnp.linspace(-1.0, 1.0, 101)
    np.testing.assert_allclose(wasserstein(x, x + 0.7, p=3), 0.7, rtol=1e-12)
    np.testing.assert_allclose(wasserstein(x, 2 * x), jnp.sqrt(jnp.mean(x**2)), rtol=1e-12)
    assert jnp.isfinite(wasserstein(x, x + 1e200))


def test_slopes_of_wasserstein_and_many_pairs_at_once():
    rng = np.random.default_rng(3)
    x, y, w = (
        jnp.array(rng.normal(size=6)),
        jnp.array(rng.normal(size=4)),
        jnp.array(rng.dirichlet(np.ones(6))),
    )
    distance = lambda x, w: wasserstein(x, y, x_weights=w)
    slopes = jax.grad(distance, (0, 1))(x, w)
    for i, slope in enumerate(slopes):
        for j in range(6):
            shift = [jnp.zeros(6), jnp.zeros(6)]
            shift[i] = shift[i].at[j].set(1e-6)
            ahead, behind = distance(x + shift[0], w + shift[1]), distance(x - shift[0], w - shift[1])
            np.testing.assert_allclose(slope[j], (ahead - behind) / 2e-6, atol=1e-7)
    both = jax.vmap(lambda x: wasserstein(x, y))(jnp.stack([x, x + 1]))
    np.testing.assert_allclose(both, [wasserstein(x, y), wasserstein(x + 1, y)], rtol=1e-13)


def spread(rng, d, rank=None):
    factor = rng.normal(size=(d, rank or d))
    return factor @ factor.T


def bures_by_scipy(m, a, n, b):
    root = scipy.linalg.sqrtm(a)
    return np.sqrt(np.sum((m - n) ** 2) + np.trace(a + b - 2 * scipy.linalg.sqrtm(root @ b @ root)).real)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bures_against_scipy_in_four_dimensions(seed):
    rng = np.random.default_rng(seed)
    m, n, a, b = rng.normal(size=4), rng.normal(size=4), spread(rng, 4), spread(rng, 4)
    found = bures(*map(jnp.array, (m, a, n, b)))
    np.testing.assert_allclose(found, bures_by_scipy(m, a, n, b), rtol=1e-10)
    np.testing.assert_allclose(bures(*map(jnp.array, (n, b, m, a))), found, rtol=1e-12)
    quotient = lambda e: (bures_by_scipy(m, a + e * b, n, b) - bures_by_scipy(m, a - e * b, n, b)) / (2 * e)
    slope = jax.jit(jax.grad(lambda e: bures(m, a + e * b, n, b)))(0.0)
    np.testing.assert_allclose(slope, quotient(1e-5), rtol=1e-6)


def test_bures_of_singular_and_of_nearly_equal_covariances():
    zero = np.zeros(4)
    rng = np.random.default_rng(5)
    a = spread(rng, 4, 2)
    assert bures(zero, a, zero, a) < 1e-7 * np.trace(a) ** 0.5
    np.testing.assert_allclose(float(bures(zero, a, zero, np.zeros((4, 4)))) ** 2, np.trace(a), rtol=1e-12)
    line, turned = np.diag([1.0, 0, 0, 0]), np.diag([0, 1.0, 0, 0])
    np.testing.assert_allclose(bures(zero, line, zero, turned), 2**0.5, rtol=1e-12)
    # The trace formula has no digit left here.
    np.testing.assert_allclose(bures(zero, np.eye(4), zero, np.eye(4) * (1 + 1e-10)), 1e-10, rtol=1e-5)


def test_slopes_of_bures_where_eigenvalues_repeat():
    """W² of N(0, I) and N(0, diag s²) is Σ (1 − s)², in a: slope 1 − s, curvature s/2 for W²."""
    s = np.array([2.0, 2.0, 3.0])
    zero = np.zeros(3)
    squared = lambda a: bures(zero, jnp.diag(a), zero, jnp.diag(s**2)) ** 2
    slope, curvature = jax.jit(lambda a: (jax.grad(squared)(a), jax.hessian(squared)(a)))(np.ones(3))
    np.testing.assert_allclose(slope, 1 - s, rtol=1e-10)
    np.testing.assert_allclose(curvature, np.diag(s / 2), atol=1e-10)
    flat = jax.jit(jax.grad(lambda a: bures(zero, a, zero, np.eye(3))))(np.zeros((3, 3)))
    assert np.isfinite(flat).all()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: wasserstein(jnp.ones((2, 2)), jnp.ones(2)),
            r"points of one dimension, got samples of \(2, 2\) and",
        ),
        (
            lambda: wasserstein(jnp.ones((2, 2, 2)), jnp.ones(2)),
            r"x must be a sample of shape \(n,\) or \(n, d\)",
        ),
        (
            lambda: jax.jit(wasserstein)(jnp.ones((2, 2)), jnp.ones((3, 2))),
            "x and its weights must be concrete",
        ),
        (lambda: sinkhorn(jnp.ones(2), jnp.ones(2), 0.0), "regularization must be"),
        (lambda: wasserstein(jnp.full((2, 2), jnp.nan), jnp.ones((3, 2))), "x must be finite"),
        (lambda: wasserstein(jnp.ones(2), jnp.ones(0)), "y must be a sample"),
        (
            lambda: wasserstein(jnp.ones(2), jnp.ones(2), p=0.5),
            "p must be a finite number at least 1, got 0.5",
        ),
        (
            lambda: wasserstein(jnp.ones(2), jnp.ones(2), x_weights=jnp.array([1.0, -1])),
            "x_weights must be a fin",
        ),
        (
            lambda: wasserstein(jnp.ones(2), jnp.ones(2), y_weights=jnp.zeros(2)),
            "y_weights must not all be 0",
        ),
        (
            lambda: wasserstein(jnp.ones(2), jnp.ones(2), y_weights=jnp.ones(3)),
            "y_weights must have the shape",
        ),
        (lambda: bures(jnp.ones(2), jnp.eye(3), jnp.ones(2), jnp.eye(2)), "covariance_x must have shape"),
        (lambda: bures(jnp.ones(2), jnp.eye(2), jnp.ones(2), -jnp.eye(2)), "got the eigenvalue -1"),
        (lambda: bures(jnp.ones(2), jnp.array([[1.0, 2], [0, 1]]), jnp.ones(2), jnp.eye(2)), "be symmetric"),
        (lambda: bures(jnp.ones(2), jnp.eye(2), jnp.ones(3), jnp.eye(2)), "must share one shape"),
    ],
)
def test_bad_arguments_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
