"""The experiment on new optimizers past the edge: its thresholds against NumPy's matrices, its quick form once."""

import numpy as np
import pytest
from experiment_files import check_files
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from experiments.edge.new_optimizers.measurements import (
    averaged_motion,
    least_unstable,
    lengths,
    slow_rate,
    tanh_cycle,
)
from experiments.edge.new_optimizers.methods import ROWS

pytestmark = pytest.mark.promotes


def averages(*parts):
    """θ, and averages m of weight w and decay b of gradients aθ: m ← bm + (1 − b)aθ, θ ← θ − Σ wm."""

    def matrix(a):
        weights, decays = np.transpose(parts)
        step = np.diag(np.array([1.0, *decays]))
        step[1:, 0] = (1 - decays) * a
        step[0] -= weights @ step[1:]
        return step

    return matrix


def lion(b1, b2):
    return lambda a: np.array([[1 - a * (1 - b1), -a * b1], [1 - b2, b2]])


def nesterov(b):
    """m ← bm + (1 − b)θ, then θ ← θ − a(bm + (1 − b)θ)."""
    return lambda a: np.array([[1 - a * (1 - b**2), -a * b**2], [1 - b, b]])


def sum_and_gradient(b, weight):
    return lambda a: np.array([[1 - a * (1 + weight), -a * b], [1, b]])


ADAM, AT_REST = averages((1, 0.9)), lambda a: np.array([[1 - 0.1 * a]])
STEPS = {
    "Lion, tanh": lion(0.9, 0.99),
    "Lion, tanh, β₁ > β₂": lion(0.9, 0.5),
    "Muon, below ε": nesterov(0.95),
    "Muon, adaptive": nesterov(0.95),
    "schedule-free SGD": AT_REST,
    "schedule-free AdamW": AT_REST,
    "AdEMAMix": averages((1, 0.9), (5, 0.99)),
    "AdEMAMix, simplified": sum_and_gradient(0.9, 2),
    "Sophia": averages((1, 0.965)),
    "Prodigy": ADAM,
    "D-Adapt AdamW": ADAM,
}


@pytest.mark.parametrize("name", ROWS)
def test_thresholds_and_slow_rates_are_those_of_a_matrix(name):
    row, eigenvalues = ROWS[name], lambda a: np.linalg.eigvals(STEPS[name](a))
    passed = lambda a: abs(eigenvalues(a)).max() - 1
    grid = np.geomspace(1e-3, 1e3, 3000)
    first = next(i for i, a in enumerate(grid) if passed(a) > 0)
    threshold = brentq(passed, grid[first - 1], grid[first])
    assert row.threshold == pytest.approx(threshold, rel=1e-9)
    assert least_unstable(row, 2000) == pytest.approx(threshold, rel=2e-4)
    slowest = 1e6 * min(abs(1 - eigenvalues(1e-6)))
    assert row.slow == pytest.approx(slowest, rel=1e-3)
    assert slow_rate(row, 2000) == pytest.approx(slowest, rel=1e-3)


def test_figure_and_numbers_are_written_whole(run):
    check_files("discovery", *run("discovery"))


def test_the_library_finds_the_same(measured):
    numbers = measured("discovery")
    assert numbers["schedule-free SGD: the same by the library"] == pytest.approx(20, rel=1e-7)
    both = 2 / (0.1 / 1.9 + 5 * 0.01 / 1.99)
    assert numbers["AdEMAMix: the same by the library"] == pytest.approx(both, rel=1e-7)


def test_orders_and_pairs(measured):
    """At half-width A the chord of the gradient tanh is just stable: a tanh(A)/A = a*, .15 % past it."""
    numbers = measured("discovery")
    assert numbers["schedule-free SGD: slopes of orders 1, 2, 3"] == pytest.approx([1, 2, 3], abs=0.1)
    half = numbers["AdEMAMix, past the edge: half-width of the pair"]
    assert half == pytest.approx(brentq(lambda x: 1.0015 * np.tanh(x) / x - 1, 1e-3, 3), rel=5e-3)
    first, pairs = numbers["AdEMAMix: distance of order 1, of the flow of pairs"]
    assert first > 0.9
    assert pairs < 0.03


def test_signs_end_in_cycles(measured):
    """Lion's half-widths in whole halves of the rate; its tanh's against NumPy's own run."""
    numbers = measured("discovery")
    assert numbers["Lion: least and largest half-width / η"] == pytest.approx([0.5, 1.0], rel=1e-9)
    assert lengths(0.9, 0.99) == [1, 2]
    least, largest = numbers["Muon: least and largest half-width / η"]
    size = 0.5**0.5
    for _ in range(5):
        size = 3.4445 * size - 4.7750 * size**3 + 2.0315 * size**5
    assert least == pytest.approx(size / 2, rel=1e-3)
    assert 0.9 * size < largest < 1.55 * size  # of 2 or 3 steps up, which its ε blurs
    for rate in (2.0, 2.5, 8.0):
        x, m, path = 1e-3, 0.0, []
        for _ in range(4000):
            u, m = 0.1 * x + 0.9 * m, 0.99 * m + 0.01 * x
            x = x - rate * np.tanh(10 * u)
            path.append(x)
        assert tanh_cycle(rate) == pytest.approx(np.ptp(path[-2:]) / 2, abs=1e-6)
    assert numbers["Lion, tanh(10u): largest gap of its half-width"] < 0.01


def test_averages_follow_their_equation(measured):
    """z' = −(1 − β)z − βx and x' = (z − x)/t, by SciPy, at η = .02: a gap of first order in η."""
    t = np.linspace(0, 30, 61)
    for beta in (0.5, 0.9):
        slope = lambda t, u, b=beta: [-(1 - b) * u[0] - b * u[1], (u[0] - u[1]) / t]
        z, x = solve_ivp(slope, (1e-9, 30), [1, 1], rtol=1e-10, atol=1e-12, t_eval=t.clip(1e-9)).y
        np.testing.assert_allclose(averaged_motion(beta, t), (1 - beta) * z + beta * x, atol=1e-7)
    gaps = measured("discovery")["schedule-free SGD, β = .5, .9, η = .02: largest gap from its closed form"]
    assert max(gaps) < 0.012
