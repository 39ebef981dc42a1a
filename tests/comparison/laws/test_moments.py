"""Exact moments of SGD and of its SDEs, and the weak orders they show; all batches enumerated are the oracle.

`integrate` promotes dtypes where diffrax does.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.comparison import moment_descent, moment_flow

pytestmark = pytest.mark.promotes

PAIR = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
FACTORS = jf.Objective(lambda w, a: 0.5 * a * w**2, jnp.array([0.0, 2.0]))

# Linear regression, N = 5 examples in d = 2.
INPUTS = np.array([[1.0, 0.3], [-0.4, 0.9], [0.5, -1.1], [0.2, 0.7], [-0.9, -0.2]])
TARGETS = np.array([0.5, -1.0, 0.8, 1.5, -0.3])
REGRESSION = jf.Objective(
    lambda w, batch: 0.5 * (batch["x"] @ w - batch["y"]) ** 2,
    {"x": jnp.asarray(INPUTS), "y": jnp.asarray(TARGETS)},
)
START = jnp.array([1.0, -1.0])
RATES = [0.04, 0.02, 0.01, 0.005]


def enumerated(rate, batch_size, steps, replacement):
    """Mean and second moment of SGD's iterate by an average over every batch there is, in augmented coordinates."""
    if replacement:
        batches = list(itertools.product(range(5), repeat=batch_size))
    else:
        batches = list(itertools.combinations(range(5), batch_size))
    maps = []
    for batch in batches:
        x, y = INPUTS[list(batch)], TARGETS[list(batch)]
        step = np.eye(3)  # acts on (θ, 1)
        step[:2, :2] -= rate * x.T @ x / batch_size
        step[:2, 2] += rate * x.T @ y / batch_size
        maps.append(step)
    z = np.append(START, 1.0)
    second = np.outer(z, z)
    for _ in range(steps):
        second = np.mean([m @ second @ m.T for m in maps], axis=0)
    return second[:2, 2], second[:2, :2]


@pytest.mark.parametrize(("batch_size", "replacement"), [(2, True), (2, False), (5, False)])
def test_moments_of_sgd_against_all_batches(batch_size, replacement):
    mean, second = enumerated(0.1, batch_size, 7, replacement)
    ours = moment_descent(
        REGRESSION, START, learning_rate=0.1, batch_size=batch_size, steps=7, replacement=replacement
    )
    np.testing.assert_allclose(ours.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(ours.second, second, rtol=1e-12)


def end_of(dynamics, start, time=1.0):
    return jf.integrate(moment_flow(dynamics), start, [0.0, time], rtol=1e-11).params


@pytest.mark.parametrize(
    ("order", "mean", "variance", "stationary"),
    [
        (1, 0.3678794412, 0.0432332358, 0.05),
        (2, 0.3499377491, 0.0417877891, 0.0476190476),
        ("2+", 0.3499377491, None, (1 + 0.05) ** 2 * 0.0476190476),
    ],
)
def test_sdes_against_closed_forms(order, mean, variance, stationary):
    dynamics = jf.dynamics.sgd(PAIR, 0.1, 1, order)
    end = end_of(dynamics, jnp.array(1.0))
    assert float(end.mean) == pytest.approx(mean, abs=1e-9)
    if variance is not None:
        assert float(end.covariance[0, 0]) == pytest.approx(variance, abs=1e-9)
    assert float(end_of(dynamics, jnp.array(1.0), 20.0).covariance[0, 0]) == pytest.approx(
        stationary, abs=1e-9
    )


def test_discrete_against_closed_forms():
    end = moment_descent(PAIR, jnp.array(1.0), learning_rate=0.1, batch_size=1, steps=10)
    assert float(end.mean) == pytest.approx(0.3486784401, abs=1e-10)
    assert float(end.covariance[0, 0]) == pytest.approx(0.0462328077, abs=1e-10)
    late = moment_descent(PAIR, jnp.array(1.0), learning_rate=0.1, batch_size=1, steps=400)
    assert float(late.covariance[0, 0]) == pytest.approx(0.0526315789, abs=1e-10)
    # The corrected diffusion is the only one that is right about it to a quarter of a per cent.
    plus = end_of(jf.dynamics.sgd(PAIR, 0.1, 1, "2+"), jnp.array(1.0), 20.0).covariance[0, 0]
    assert float(plus / late.covariance[0, 0]) == pytest.approx(0.9975, abs=1e-4)


def test_multiplicative_noise_against_closed_forms():
    """E θ² at t = 1: (1−2η+2η²)^{1/η} for SGD, e^{−2+η} for its SDE, e^{−2} for gradient flow."""
    for eta in (0.1, 0.05):
        discrete = moment_descent(
            FACTORS, jnp.array(1.0), learning_rate=eta, batch_size=1, steps=round(1 / eta)
        )
        assert float(discrete.second[0, 0]) == pytest.approx((1 - 2 * eta + 2 * eta**2) ** (1 / eta))
        sde = end_of(jf.dynamics.sgd(FACTORS, eta, 1), jnp.array(1.0))
        assert float(sde.second[0, 0]) == pytest.approx(np.exp(-2 + eta), rel=1e-9)


def discrete(rate):
    return moment_descent(
        REGRESSION,
        START,
        learning_rate=rate,
        batch_size=2,
        steps=jnp.asarray(round(1 / rate)),
        replacement=False,
    )


def continuous(order, scale=1.0, replacement=False):
    """Moments of the SDE; `scale` multiplies the variance of its noise through the batch size."""
    return lambda rate: end_of(
        jf.dynamics.sgd(REGRESSION, rate, 2 / scale, order, replacement=replacement), START
    )


def slope(pick, model):
    return float(jf.weak_order(lambda h: pick(discrete(h)), lambda h: pick(model(h)), RATES).slope)


def test_first_order_sde_has_centred_covariance_slope_two():
    """As the covariance is O(η) itself, and right to leading order; 10 % more noise leaves a slope of 1."""
    covariance = lambda moments: moments.covariance
    assert slope(covariance, continuous(1)) == pytest.approx(2.0, abs=0.1)
    # Without replacement s_B is (1/B)(N−B)/(N−1); a batch of 2/1.0714… has it 10 % larger.
    assert slope(covariance, continuous(1, scale=15 / 14)) == pytest.approx(1.0, abs=0.1)


def test_second_order_sde_has_second_moment_slope_two_only_with_the_finite_population_factor():
    square = lambda moments: jnp.trace(moments.second)
    assert slope(square, continuous(2)) == pytest.approx(2.0, abs=0.1)
    assert slope(square, continuous(2, replacement=True)) == pytest.approx(1.0, abs=0.15)


def test_second_moment_slope_of_the_first_order_sde_is_one_and_of_the_corrected_one_two():
    """In one dimension, in closed form: E θ² of SGD is what `test_discrete_against_closed_forms` has."""
    gaps = {1: [], "2+": []}
    for eta in (0.04, 0.02, 0.01):
        discrete = moment_descent(
            PAIR, jnp.array(1.0), learning_rate=eta, batch_size=1, steps=jnp.asarray(round(1 / eta))
        )
        for order, found in gaps.items():
            sde = end_of(jf.dynamics.sgd(PAIR, eta, 1, order), jnp.array(1.0))
            found.append(float(jnp.abs(sde.second - discrete.second)[0, 0]))
    slopes = {
        order: np.polyfit(np.log([0.04, 0.02, 0.01]), np.log(found), 1)[0] for order, found in gaps.items()
    }
    assert slopes[1] == pytest.approx(1.0, abs=0.15)
    assert slopes["2+"] == pytest.approx(2.0, abs=0.1)


def test_svag_approaches_the_sde_at_fixed_rate():
    """SVAG(l) is SGD at η/l with noise l times as strong: exact moments, error ∝ 1/l.

    Its gradient ((1+r) g₁ + (1−r) g₂)/2 has covariance (1+r²)/2 · Σ/B = l Σ/B, so at batch size B/l.
    That the estimator has it is tested with the estimators.
    """
    eta, ls = 0.1, [1, 2, 4, 8, 16]
    sde = end_of(jf.dynamics.sgd(REGRESSION, eta, 2), START)
    gaps = []
    for l in ls:
        iterate = moment_descent(
            REGRESSION, START, learning_rate=eta / l, batch_size=2 / l, steps=jnp.asarray(round(l / eta))
        )
        gaps.append(float(jnp.abs(iterate.second - sde.second).max()))
    assert np.polyfit(np.log(ls), np.log(gaps), 1)[0] == pytest.approx(-1.0, abs=0.1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: moment_flow(jf.dynamics.gradient_flow(PAIR)), ValueError, "dynamics must have noise"),
        (
            lambda: end_of(jf.dynamics.sgd(PAIR, 0.1, 1, noise=jf.dynamics.noise.two_batches(1)), START[0]),
            ValueError,
            "Gaussian",
        ),
        (
            lambda: moment_descent(lambda w: w, START, learning_rate=0.1, batch_size=1, steps=1),
            TypeError,
            "need an Objective",
        ),
        (
            lambda: moment_descent(PAIR, 1.0, learning_rate=0.1, batch_size=0, steps=1),
            ValueError,
            "batch_size must be",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
