"""Optimizers step by step: the quick version of each result against theory computed here, independently."""

import string
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from experiment_files import check_claims, check_files
from scipy.special import j1
from sklearn.datasets import load_diabetes

from experiments.teaching import adagrad_rule, bias_correction

pytestmark = pytest.mark.promotes

NAMES = (
    "directional_derivatives",
    "feature_scaling",
    "convex_rates",
    "adagrad_rule",
    "bias_correction",
    "back_propagation",
)


@pytest.mark.parametrize("name", NAMES)
def test_figure_and_numbers_are_written_whole_and_claims_reached(run, name):
    """Random claims have intervals of four standard errors: a false alarm in 16,000 seeds, and seeds are fixed."""
    check_claims(check_files(name, *run(name)))


def test_the_highest_step_turns_away_from_the_gradient_by_curvature(run):
    """At (½, 1) the function (x² + y − 11)² + (x + y² − 7)² has g = (−30.5, −41.5) and H = ((−35, 6), (6, −12))."""
    found = run("directional_derivatives")[0]
    g, hessian = np.array([-30.5, -41.5]), np.array([[-35.0, 6.0], [6.0, -12.0]])
    u = g / np.linalg.norm(g)
    turn = abs(np.array([-u[1], u[0]]) @ hessian @ u) / np.linalg.norm(g)
    h = np.asarray(found["lengths"])
    assert found["highest"] / (turn * h) == pytest.approx(np.ones(h.size), abs=0.1)
    bend = np.abs(np.linalg.eigvalsh(hessian)).max() / 2
    assert found["plane"] / (bend * h**2) == pytest.approx(np.ones(h.size), abs=0.1)
    assert found["symmetric"][-1] < 1e-3 * found["highest"][-1]


def test_steps_follow_from_condition_and_shares(run):
    """Gradient descent on the raw, centred diabetes data, direction by direction, by logarithms of its factors."""
    found = run("feature_scaling")[0]
    x, y = load_diabetes(return_X_y=True, scaled=False)
    z, (values, vectors) = (x - x.mean(0)) / x.std(0), np.linalg.eigh(np.corrcoef(x.T))
    shares = ((z @ vectors).T @ (y - y.mean())) ** 2 / values
    left = lambda k: shares @ (1 - 2 * values / (values[0] + values[-1])) ** (2 * k) / shares.sum()
    (at,) = np.flatnonzero(np.isclose(found["kappa"], 470.08, atol=0.01))
    assert left(found["steps"][0][at]) <= 1e-4 < left(found["steps"][0][at] - 1)
    assert found["conditions"]["diabetes"][2] == pytest.approx(np.linalg.cond(np.corrcoef(x.T)), rel=1e-9)


def test_adagrad_on_principal_axes_does_not_know_the_curvature():
    """e ← e − η λe/√Σ(λe)² is the same for all λ; a correlation makes it depend on them."""

    def error(hessian, steps=30):
        e, squares = np.array([1.0, -0.7]), np.zeros(2)
        for _ in range(steps):
            g = hessian @ e
            squares += g**2
            e = e - 0.4 * g / np.sqrt(squares)
        return e

    assert error(np.diag([1.0, 1.0])) == pytest.approx(error(np.diag([1.0, 1e4])), rel=1e-9)
    assert np.abs(error(np.array([[1.0, 0.9], [0.9, 1.0]])) - error(np.eye(2))).max() > 1e-2


def test_rates_on_real_data_are_those_of_one_direction(run):
    """κ of ten correlations decides ρ; Nesterov's error in one direction is 2J₁(u)/u, damped by √(1−λ) a step."""
    kappa = np.linalg.cond(np.corrcoef(load_diabetes(return_X_y=True, scaled=False)[0].T))
    fits = run("convex_rates")[0]["fits"]
    assert fits["heavy ball"][0][0] == pytest.approx((kappa**0.5 - 1) / (kappa**0.5 + 1), abs=1e-3)
    assert fits["Nesterov, μ known"][0][0] == pytest.approx(1 - kappa**-0.5, abs=1e-3)
    last = error = 1.0
    errors = []
    for k in range(3000):
        ahead = error + k / (k + 3) * (error - last)
        last, error = error, (1 - 1 / kappa) * ahead
        errors.append(error)
    k = np.arange(1, 3001)
    u = (k + 0.5) / kappa**0.5
    theory = 2 * j1(u) / u * (1 - 1 / kappa) ** (k / 2)
    late = slice(500, None)
    assert np.abs(errors - theory)[late].max() < 0.1 * np.abs(theory[late]).max()
    assert fits["Nesterov, convex"][0] == pytest.approx([(1 - 1 / kappa) ** 0.5, -1.5], abs=0.02)


def test_regret_on_a_made_up_stream_is_below_the_bound_that_the_experiment_draws():
    """|w − c_t| for c_t = ±1 in an order that misleads: subgradients ±1, so r = T and u = 1 pays the least."""
    signs = np.where(np.arange(400) % 4 == 3, -1.0, 1.0)
    for rate in (0.1, 1.0):
        w, total, paid, away, regret = 0.0, 0.0, 0.0, [], []
        for sign in signs:
            paid += abs(w - sign) - abs(1 - sign)
            away.append(abs(w - 1))
            g = np.sign(w - sign) or 1.0
            total += g**2
            w -= rate * g / np.sqrt(total)
            regret.append(paid)
        away, roots = np.array(away), np.sqrt(np.arange(1, 401))
        found = {"away": np.stack([away**2, away], -1)[None, None], "roots": roots[None, None]}
        bound = adagrad_rule.bounds("AdaGrad", np.array([rate]), found)[0, 0]
        assert bound == pytest.approx((np.maximum.accumulate(away) ** 2 / (2 * rate) + rate) * roots)
        assert np.all(regret <= bound)


def test_words_are_counted_in_lines(run):
    """By another split: lines of the bundled descriptions with at least three different words."""
    folder = Path(sklearn.datasets.__file__).parent / "descr"
    lines = [
        set("".join(c if c in string.ascii_lowercase else " " for c in line.lower()).split())
        for file in sorted(folder.glob("*.rst"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    counts = adagrad_rule.words()[1]
    assert counts.max() == sum("the" in line for line in lines if len(line) > 2)
    assert counts.min() == 2
    losses = run("adagrad_rule")[0]["losses"]
    assert np.min(losses["AdaGrad"]) < np.min(losses["one rate"]) < np.log(14)


def test_adam_without_correction_is_a_schedule(run):
    """A recursion in NumPy on drawn gradients against the library's Adam with the rate times c_t."""
    gradients = np.random.default_rng(3).normal(size=(40, 2)) + 0.5
    optimizer, m, v = bias_correction.adam(0.01, 0.99, 1.0), np.zeros(2), np.zeros(2)
    state = optimizer.init(np.zeros(2))
    for g in gradients:
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        update, state = optimizer.update(g, state)
        assert update == pytest.approx(-0.01 * m / np.sqrt(v), rel=1e-6)
    numbers = run("bias_correction")[0]["headlines"]
    t = np.arange(1, 20_001)
    way = np.sum((1 - 0.9**t) / np.sqrt(1 - 0.999**t) - 1)
    assert numbers["β₂ = .999: steps gone in addition"]["measured"] == pytest.approx(way, rel=1e-6)


def test_operations_are_those_of_the_products_of_matrices(run):
    """B examples, 64–n–10: two products for a loss, two more for their gradients, one back through the last."""
    found = run("back_propagation")[0]
    for p, (loss, gradient, slope) in zip(found["parameters"], found["operations"], strict=True):
        n = (p - 10) // 75
        first, last = 2 * 500 * 64 * n, 2 * 500 * n * 10
        assert loss == pytest.approx(first + last, rel=0.1)
        assert gradient == pytest.approx(2 * first + 3 * last, rel=0.1)
        assert slope == pytest.approx(2 * first + 3 * last, rel=0.1)
    errors = found["errors"]
    assert min(errors["central, float64"]) < 1e-2 * min(errors["forward, float64"])
    assert errors["complex"] < 1e-3 * min(errors["central, float64"])
