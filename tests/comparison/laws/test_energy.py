"""Energy and Wasserstein distances against closed forms and scipy, and the p-value by relabelling."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from test_ensembles import KEY, PAIRS, normal, verdicts

import jaxflow as jf
from jaxflow.comparison import energy_distance, wasserstein
from jaxflow.comparison.laws.energy import relabel

U = (np.arange(2000) + 0.5) / 2000
"""Quantiles in place of draws: the distances of the laws, without noise."""


def test_energy_distance_of_two_gaussians():
    z = scipy.stats.norm.ppf(U)
    mean = lambda mu, s: mu * (2 * scipy.stats.norm.cdf(mu / s) - 1) + 2 * s * scipy.stats.norm.pdf(mu / s)
    exact = 2 * mean(0.7, np.hypot(1, 1.4)) - mean(0, np.sqrt(2)) - mean(0, 1.4 * np.sqrt(2))
    assert exact == pytest.approx(0.261514198, abs=1e-9)
    assert energy_distance(z, 0.7 + 1.4 * z) == pytest.approx(exact, rel=1e-3)


def test_energy_distance_is_the_square_of_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(80), rng.laplace(size=57)
    np.testing.assert_allclose(energy_distance(a, b), scipy.stats.energy_distance(a, b) ** 2, rtol=1e-10)


def test_energy_distance_of_vectors_is_the_sum_over_all_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((20, 2, 3)), rng.standard_normal((30, 2, 3)) + 1
    mean = lambda x, y: np.mean([np.linalg.norm(p - q) for p, q in itertools.product(x, y)])
    exact = 2 * mean(a, b) - mean(a, a) - mean(b, b)
    np.testing.assert_allclose(energy_distance(a, b), exact, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.vmap(energy_distance))(a[None], b[None]), [exact], rtol=1e-12)


def test_wasserstein_between_gaussians():
    z = scipy.stats.norm.ppf(U)
    exact = np.hypot(0.7, 0.4)
    assert wasserstein(z, 0.7 + 1.4 * z) == pytest.approx(exact, rel=1e-3)
    fewer = 0.7 + 1.4 * scipy.stats.norm.ppf((np.arange(1500) + 0.5) / 1500)
    assert wasserstein(z, fewer) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("m", [40, 64, 33])
def test_wasserstein_is_scipys_of_first_order_and_a_matching_of_second(m):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((40, 2)), rng.laplace(size=(m, 2))
    first = [scipy.stats.wasserstein_distance(a[:, i], b[:, i]) for i in range(2)]
    np.testing.assert_allclose(wasserstein(a, b, order=1), first, rtol=1e-10)
    # Repeated to a common size the samples are matched one by one.
    size = np.lcm(40, m)
    x, y = (np.sort(np.repeat(s, size // len(s), axis=0), axis=0) for s in (a, b))
    np.testing.assert_allclose(wasserstein(a, b), np.sqrt(((x - y) ** 2).mean(0)), rtol=1e-10)


draw = jax.jit(relabel, static_argnums=(3, 4))


def test_relabellings_are_permutations_of_the_members_that_count():
    z = np.random.default_rng(0).standard_normal((9, 2))
    labels = np.array([1, 1, 1, 0, -1, -1, -1, -1, 0]) / np.repeat([3, 4], [4, 5])
    distance, null, apart = draw(jax.random.key(0), z, labels, 2000, False)
    a, b, used = z[:3], z[4:8], z[[0, 1, 2, 4, 5, 6, 7]]
    np.testing.assert_allclose(distance, energy_distance(a, b), rtol=1e-12)
    splits = [
        float(energy_distance(used[list(s)], np.delete(used, s, axis=0)))
        for s in itertools.combinations(range(7), 3)
    ]
    values, counts = np.unique(np.round(np.asarray(null), 9), return_counts=True)
    np.testing.assert_allclose(values, np.unique(np.round(splits, 9)), atol=1e-8)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    np.testing.assert_allclose(apart, 2 * np.linalg.norm(a[:, None] - b[None], axis=2).mean(), rtol=1e-12)


def test_random_signs_swap_the_members_of_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 3, 2))
    labels = np.repeat([1.0, -1.0], 3) / 3
    _, null, _ = draw(jax.random.key(0), np.concatenate([x, y]), labels, 1000, True)
    swapped = []
    for swap in itertools.product([False, True], repeat=3):
        s = np.array(swap)[:, None]
        swapped.append(float(energy_distance(np.where(s, y, x), np.where(s, x, y))))
    values, counts = np.unique(np.round(np.asarray(null), 9), return_counts=True)
    np.testing.assert_allclose(values, np.unique(np.round(swapped, 9)), atol=1e-8)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("law", ["standard_normal", "standard_cauchy"])
def test_the_permutation_test_keeps_its_level_whatever_the_law(law):
    a, b = getattr(np.random.default_rng(1), law)((2, PAIRS, 16, 2))
    assert 0.02 <= verdicts(a, b, test="energy").differ.mean() <= 0.08


def test_the_permutation_test_finds_a_shift():
    assert verdicts(normal(0, 16, 2), 1.0 + normal(1, 16, 2), test="energy").differ.mean() >= 0.9


def test_pairs_that_depend_on_each_other_without_being_exchangeable_keep_the_level():
    """u and u + .3 mod 1 have one law, but (x, y) and (y, x) have not; nor is the smooth pair independent."""
    u = np.random.default_rng(2).uniform(size=(PAIRS, 40, 2))
    x, y = scipy.stats.norm.ppf(u), scipy.stats.norm.ppf((u + 0.3) % 1)
    assert 0.02 <= verdicts(x, y, test="energy", paired=True).differ.mean() <= 0.08
    close = 0.99 * x + np.sqrt(1 - 0.99**2) * normal(3, 40, 2)
    assert 0.02 <= verdicts(x, close, test="energy", paired=True).differ.mean() <= 0.08
    assert verdicts(x, close + 0.1, test="energy", paired=True).differ.mean() >= 0.95


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (
            energy_distance,
            (np.zeros(()), np.zeros(3)),
            r"a must hold samples along a leading axis, got shape \(\)",
        ),
        (
            energy_distance,
            (np.zeros(3), np.zeros(0)),
            r"b must hold samples along a leading axis, got shape \(0,\)",
        ),
        (
            wasserstein,
            (np.zeros((3, 2)), np.zeros((3, 1))),
            r"share their trailing shape, got \(2,\) against \(1,\)",
        ),
        (wasserstein, (np.zeros(3), np.zeros(3), 0.5), "order must be a finite number at least 1, got 0.5"),
        (wasserstein, (np.zeros(3), 1j * np.zeros(3)), "b must be real"),
    ],
)
def test_bad_samples_are_refused(function, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        function(*arguments)


def test_distances_are_exported():
    assert jf.comparison.energy_distance is energy_distance


def slope(function, at=0.0, step=1e-6):
    """Both derivatives of a function of one number by JAX, and the difference quotient."""
    value = jax.jit(function)
    numeric = np.subtract(value(at + step), value(at - step)) / (2 * step)
    return jax.jit(jax.jacrev(function))(at), jax.jit(jax.jacfwd(function))(at), numeric


@pytest.mark.parametrize(
    "distance",
    [
        lambda a, b, s: energy_distance(a * (1 + s), b),
        lambda a, b, s: wasserstein((1 + s * jnp.arange(2.0)) * a, jnp.stack([a[:, 0], b[:, 1]], 1)),
        lambda a, b, s: wasserstein(a * (1 + s), a[:20] * (1 + s), order=3),
    ],
    ids=["each point beside itself", "an equal marginal", "points in both"],
)
def test_derivatives_are_the_numeric_ones_where_roots_meet_0(distance):
    a, b = np.random.default_rng(0).standard_normal((2, 30, 2))
    with jax.numpy_rank_promotion("allow"):
        reverse, forward, numeric = slope(lambda s: distance(a, b, s))
    np.testing.assert_allclose(reverse, numeric, atol=1e-7)
    np.testing.assert_allclose(forward, numeric, atol=1e-7)


@pytest.mark.parametrize("test", ["panel", "energy"])
def test_derivatives_through_two_ensembles_are_the_numeric_ones(test):
    """With a coordinate that is constant in both, whose spread is the root of 0."""
    a, b = np.random.default_rng(0).standard_normal((2, 30, 2))
    a[:, 1] = b[:, 1] = 1.0
    kept = ("gap", "scale", "standard_error", "statistic", "wasserstein", "spread")

    def found(s):
        scaled = a * jnp.stack([1 + s, 1])[None]
        verdict = jf.compare_ensembles(scaled, b, key=KEY, test=test, repetitions=99)
        return jnp.concatenate([jnp.atleast_1d(getattr(verdict, name)) for name in kept])

    reverse, forward, numeric = slope(found)
    np.testing.assert_allclose(reverse, numeric, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(forward, numeric, atol=1e-5, rtol=1e-5)


def test_large_and_small_numbers_keep_their_distances():
    a, b = np.array([[1e30, 1e30]], np.float32), np.array([[-1e30, -1e30]], np.float32)
    with jax.enable_x64(False):
        for scale in (1e0, 1e-60):
            x, y = (jnp.asarray(np.float64(z) * scale, jnp.float32) for z in (a, b))
            assert energy_distance(x, y) == pytest.approx(2**2.5 * 1e30 * scale, rel=1e-6)
            np.testing.assert_allclose(wasserstein(x, y, order=7), 2e30 * scale, rtol=1e-6)
        far = jnp.array([2**30, 2**30 + 1]), jnp.array([2**30 + 2, 2**30 + 3])
        assert wasserstein(*far) == 2
        assert energy_distance(*far) == 3
