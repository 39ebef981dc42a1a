"""The experiment on saddles in its quick form, once: its numbers against NumPy's Hessians, runs and logarithms."""

import jax
import numpy as np
import pytest
from experiment_files import check_files, told

from experiments.landscapes import saddles
from experiments.landscapes.deep_linear import DeepLinear

pytestmark = pytest.mark.promotes


def test_figure_and_numbers_are_written_whole(run):
    check_files("saddles", *run("saddles"))


def test_the_digits_network_against_numpy():
    objective, draw = saddles.digits_network()
    params = draw(jax.random.key(3))
    w, b, v, c = (np.asarray(params[name]) for name in "wbvc")
    out = np.tanh(np.asarray(objective.data["x"]) @ w + b) @ v + c
    error = 0.5 * np.mean(np.sum((out - np.asarray(objective.data["y"])) ** 2, 1))
    penalty = 0.5e-3 * sum(np.sum(x**2) for x in (w, b, v, c))
    assert objective(params) == pytest.approx(error + penalty, rel=1e-12)
    assert sum(x.size for x in (w, b, v, c)) == 49
    np.testing.assert_allclose(np.cov(np.asarray(objective.data["x"]).T, bias=True), np.eye(4), atol=1e-9)


def test_index_grows_with_loss(run, measured):
    """Rank correlations of nine points and more: above .75 by chance in one of 100, and seen at .9 and above."""
    numbers, content = measured("saddles"), run("saddles")[0]
    searches, good, distinct, flat = numbers[
        "digits: searches, critical points, distinct ones, gradient-flat points"
    ]
    assert searches == 24
    assert good + flat >= 20
    assert 5 <= distinct <= good
    assert numbers["critical points: rank correlation of loss and share of negative curvatures"] > 0.75
    assert numbers["gradient-flat points: the same"] > 0.75
    status, norms = np.array(content["digits_status"]), np.array(content["digits_gradient_norm"])
    assert (norms[status == 0] <= 1e-10).all()
    assert np.median(norms[status == 2]) > 1e-6
    assert (np.array(content["digits_flatness"])[status == 2] < 2e-3).all()


def second_variation(weights, sigma):
    """The Hessian of ½|W₂W₁ − Σ|² from its second variation, entry by entry."""
    first, last = (np.asarray(x) for x in weights)
    units = np.eye(first.size + last.size)
    parts = [(u[: first.size].reshape(first.shape), u[first.size :].reshape(last.shape)) for u in units]
    pushed = np.array([(last @ one + other @ first).ravel() for one, other in parts])
    error = last @ first - np.asarray(sigma)
    crossed = np.array([[np.sum(error * (b2 @ a1 + a2 @ b1)) for b1, b2 in parts] for a1, a2 in parts])
    return pushed @ pushed.T + crossed


def test_deep_linear_networks_have_the_indices_that_theory_says(run, measured):
    rows = run("saddles")[0]["deep"]
    assert [row[3] for row in rows] == [row[4] for row in rows]
    assert measured("saddles")["deep linear: saddles, of them with the index in theory"] == [32, 32]
    network = DeepLinear(jax.random.split(jax.random.key(4), 2))
    np.testing.assert_allclose(np.linalg.svd(network.sigma)[1][:4], [4, 3, 2, 1], rtol=1e-12)
    for layers, hidden, kept, theory, _, off in rows:
        if layers == 2:
            hessian = second_variation(network.saddle(tuple(kept), hidden, 2), network.sigma)
            assert (np.linalg.eigvalsh(hessian) < -1e-9).sum() == theory
            assert abs(off) < 1e-9
        if layers == 3:
            assert theory == sum(j < i for i in kept for j in range(4) if j not in kept)


def test_gradient_flow_passes_the_saddles_in_time(run):
    found, law = told(run("saddles")[0], "gradient flow: times at which modes have half their strength")
    assert found == pytest.approx(law, rel=2e-3)
    network = DeepLinear(jax.random.split(jax.random.key(4), 2))
    keys = jax.random.split(jax.random.key(2), 2)
    first, last = (
        1e-4 * np.asarray(jax.random.normal(k, s)) for k, s in zip(keys, ((5, 5), (6, 5)), strict=True)
    )
    left, right = (np.asarray(x)[:, 0] for x in (network.left, network.right))
    component = np.linalg.norm(last.T @ left + first @ right) / np.sqrt(2)
    assert found[0] == pytest.approx(np.log(np.sqrt(8) / component) / 4, rel=1e-3)


def test_sgd_leaves_a_saddle_in_logarithmic_time(run, measured):
    """4 standard errors of five numbers: a false alarm in 3,000."""
    numbers = measured("saddles")
    slope, error = numbers["SGD: slope of exit time × growth rate in ln(r/√q), standard error"]
    assert abs(slope - 1) < 4 * error < 0.1
    left, error = numbers["SGD: what is left at slope 1, standard error"]
    assert abs(left - 0.5 * (np.euler_gamma + np.log(2))) < 4 * error < 0.3
    assert numbers["SGD: largest |z| from the exact mean of the SDE"] < 4
    # NumPy's own runs of one setting.
    curvature, rate, noise, _, mean, error = run("saddles")[0]["exits"][-1]
    rng, members = np.random.default_rng(0), 2000
    x, times = np.zeros(members), np.full(members, np.nan)
    for k in range(1, 2000):
        signs = rng.choice([-1.0, 1.0], members)
        x = np.where(np.isnan(times), x - rate * (x * (x**2 - curvature) + noise * signs), x)
        times[np.isnan(times) & (abs(x) > 0.1 * np.sqrt(curvature))] = k * rate
    mine = np.log1p(rate * curvature) / rate * (times - rate / 2)
    assert np.isfinite(mine).all()
    assert abs(mine.mean() - mean) < 4 * np.hypot(error, mine.std() / members**0.5)
