"""Weak orders against closed forms, from exact moments and from samples with common random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import linregress

import jaxflow as jf

identity = lambda x: x
RATES = [0.1, 0.05, 0.025, 0.0125]


def discrete(rate):
    """Mean and variance of SGD on E(θ − c)²/2, c = ±1, θ₀ = 1, at t = 1."""
    k = round(1 / rate)
    return {"mean": (1 - rate) ** k, "variance": rate * (1 - (1 - rate) ** (2 * k)) / (2 - rate)}


def first_order(rate):
    return {"mean": np.exp(-1), "variance": rate / 2 * (1 - np.exp(-2))}


def second_order(rate):
    h = 1 + rate / 2
    return {"mean": np.exp(-h), "variance": rate / (2 * h) * (1 - np.exp(-2 * h))}


def test_the_moments_are_those_of_the_known_numbers():
    np.testing.assert_allclose(list(discrete(0.1).values()), [0.3486784401, 0.0462328077], atol=1e-10)
    np.testing.assert_allclose(list(first_order(0.1).values()), [0.3678794412, 0.0432332358], atol=1e-10)
    np.testing.assert_allclose(list(second_order(0.1).values()), [0.3499377491, 0.0417877891], atol=1e-10)


@pytest.mark.parametrize(
    ("model", "statistic", "order"),
    [
        (first_order, "mean", 1),
        (second_order, "mean", 2),
        (first_order, "variance", 2),
    ],
)
def test_exact_moments_give_the_known_orders(model, statistic, order):
    pick = lambda f: lambda rate: f(rate)[statistic]
    fit = jf.weak_order(pick(discrete), pick(model), RATES)
    assert abs(fit.slope - order) <= 0.06
    gaps = [abs(discrete(rate)[statistic] - model(rate)[statistic]) for rate in RATES]
    reference = linregress(np.log(RATES), np.log(gaps))
    np.testing.assert_allclose(fit.errors, gaps, rtol=1e-12)
    np.testing.assert_allclose([fit.slope, fit.intercept], [reference.slope, reference.intercept], rtol=1e-9)
    np.testing.assert_allclose(fit.uncertainty, reference.stderr, rtol=1e-7)


def test_the_largest_gap_of_all_moments_counts():
    fit = jf.weak_order(discrete, first_order, RATES)
    np.testing.assert_array_equal(
        fit.errors,
        jf.weak_order(lambda r: discrete(r)["mean"], lambda r: first_order(r)["mean"], RATES).errors,
    )


def sampled(seed, n, correction=0.0):
    """SGD with Gaussian noise and its SDE, driven by one noise: mean order 1, or 2 with the corrected drift."""

    def noise(rate):
        return np.random.default_rng([seed, round(1 / rate)]).standard_normal((round(1 / rate), n))

    def chain(rate):
        theta = np.ones(n)
        for xi in noise(rate):
            theta = (1 - rate) * theta - rate * xi
        return jnp.asarray(theta)

    def sde(rate):
        h, theta = 1 + correction * rate, np.ones(n)
        for xi in noise(rate):
            theta = np.exp(-h * rate) * theta - rate * np.sqrt(-np.expm1(-2 * h * rate) / (2 * h * rate)) * xi
        return jnp.asarray(theta)

    return chain, sde


@pytest.mark.parametrize(("correction", "order"), [(0.0, 1), (0.5, 2)])
def test_paired_samples_give_the_known_orders(correction, order):
    n = 2000 if order == 1 else 20_000
    fit = jf.weak_order(*sampled(0, n, correction), [0.5, 0.25, 0.125], panel=lambda x: {"x": x})
    exact = jf.weak_order(
        lambda r: (1 - r) ** round(1 / r), lambda r: np.exp(-1 - correction * r), [0.5, 0.25, 0.125]
    )
    assert abs(fit.slope - exact.slope) <= 4 * fit.uncertainty
    assert abs(fit.slope - order) <= 0.3
    assert fit.uncertainty < 0.1


def test_the_uncertainty_from_samples_is_the_spread_of_the_slope():
    """Over 200 repetitions; the standard deviation of so many is known to 5 %."""

    def fit(seed):
        rng = np.random.default_rng(seed)
        shared = rng.standard_normal(400)
        noise = {rate: shared + rng.standard_normal(400) for rate in RATES}
        return jf.weak_order(
            lambda rate: rate + 0.03 * noise[rate], lambda _: np.zeros(400), RATES, panel=identity
        )

    fits = [fit(seed) for seed in range(200)]
    slopes, stated = (np.array([getattr(f, name) for f in fits]) for name in ("slope", "uncertainty"))
    assert abs(slopes.mean() - 1) <= 4 * slopes.std() / np.sqrt(200) + 0.02
    assert 0.8 <= stated.mean() / slopes.std() <= 1.3


def test_gaps_that_do_not_vary_are_fitted_exactly():
    """A deterministic difference under common random numbers."""
    x = np.random.default_rng(0).integers(0, 8, 64) / 8.0
    fit = jf.weak_order(lambda rate: x + rate**2, lambda _: x, [0.5, 0.25, 0.125], panel=identity)
    np.testing.assert_allclose(fit.slope, 2, rtol=1e-12)


def test_noise_is_not_taken_for_a_gap():
    rng = np.random.default_rng(0)
    with pytest.raises(
        ValueError, match=r"The largest gap, .* at learning rate .* is below 2 standard errors .* use more"
    ):
        jf.weak_order(
            lambda rate: rate**4 + 0.3 * rng.standard_normal(100),
            lambda _: np.zeros(100),
            RATES,
            panel=lambda x: x,
        )


ONE = lambda rate: rate


@pytest.mark.parametrize(
    ("arguments", "panel", "message"),
    [
        ((ONE, ONE, [0.1, 0.2]), None, "at least three numbers"),
        ((ONE, ONE, [0.1, 0.1, 0.2]), None, "positive and distinct"),
        ((ONE, ONE, RATES), None, "largest gap must be positive and finite, got 0 at learning rate 0.1"),
        ((ONE, lambda r: jnp.nan, RATES), None, "largest gap must be positive and finite, got nan"),
        ((ONE, lambda r: {"x": r}, RATES), None, "same structure and shapes"),
        ((ONE, lambda r: 2 * r, RATES), 3.0, "panel must be a function of one sample, got 3.0"),
        (
            (ONE, lambda r: 2 * r, RATES),
            jnp.sum,
            r"must return samples, .* got leading axes \[\(\)\] at learning rate",
        ),
        (
            (lambda r: np.ones(4), lambda r: np.array([1, 1, 1, np.inf]), RATES),
            jnp.sum,
            "1 of 4 pairs of samples are not finite at learning rate 0.1",
        ),
        (
            (lambda r: r * np.ones(int(1 / r)), lambda r: np.zeros(int(1 / r)), RATES),
            jnp.sum,
            "All learning rates must have the same number of samples, got 10 at 0.1 and 20 at 0.05",
        ),
    ],
)
def test_bad_input_is_refused(arguments, panel, message):
    with pytest.raises((ValueError, TypeError), match=message):
        jf.weak_order(*arguments, panel=panel)


def test_a_traced_ladder_is_refused():
    with pytest.raises(TypeError, match="learning_rates must be concrete numbers"):
        jax.jit(lambda rates: jf.weak_order(ONE, ONE, rates))(jnp.array(RATES))


@pytest.mark.parametrize("panel", [None, lambda x: x])
def test_gaps_of_small_integers_do_not_wrap(panel):
    """|3 − 250·r| over three rungs, of moments or samples of eight bits without a sign."""
    low = jnp.full(2, 3, jnp.uint8)
    fit = jf.weak_order(
        lambda rate: jnp.full(2, round(250 * rate), jnp.uint8), lambda _: low, [1, 0.5, 0.25], panel=panel
    )
    np.testing.assert_allclose(fit.errors, [247, 122, 59])
    swapped = jf.weak_order(
        lambda _: low, lambda rate: jnp.full(2, round(250 * rate), jnp.uint8), [1, 0.5, 0.25], panel=panel
    )
    np.testing.assert_allclose(swapped.errors, fit.errors)
