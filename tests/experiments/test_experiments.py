"""Every experiment in its quick form, once: its headline numbers against theory, its figure and its JSON.

That of `hypergradients` has a file of its own.
"""

import itertools

import numpy as np
import pytest
from experiment_files import check_files, told
from scipy.integrate import quad
from scipy.optimize import brentq
from sklearn.datasets import load_digits

from jaxflow.optim import OPTIMIZERS

pytestmark = pytest.mark.promotes

NAMES = (
    "batch_scaling",
    "central_flows",
    "continuous_limit",
    "digits_sweep",
    "dirac_gan",
    "edge_of_stability",
    "gibbs",
    "implicit_regularization",
    "learning_rates",
    "modified_equations",
    "momentum_is_an_ode",
    "moving_averages",
    "optimizers",
    "ravine",
    "sde_validity",
    "spectra",
    "temperature",
    "why_simsiam_does_not_collapse",
)


@pytest.mark.parametrize("name", NAMES)
def test_figure_and_numbers_are_written_whole(run, name):
    check_files(name, *run(name))


def test_learning_rate_at_the_edge_is_no_cycle(measured):
    """x' = −x + ⅔x³ + … shrinks |x| by ⅔|x|³ a step, so |x| → √(3/4k): .0433 at k = 400."""
    numbers = measured("learning_rates")
    assert numbers["x sin x, rate 1: |x| after 400 steps"] == pytest.approx(0.0433, rel=2e-3)
    assert numbers["x sin x, rate 1: power of k by which |x| shrinks"] == pytest.approx(-0.5, abs=2e-3)
    well = brentq(lambda x: np.sin(x) + x * np.cos(x), 4, 6)
    for rate in ("0.1", "0.01"):
        assert numbers[f"x sin x, rate {rate}: where it ends"] == pytest.approx(well, abs=1e-6)
    steps = [numbers[f"x sin x, rate {rate}: steps until within .001"] for rate in ("0.1", "0.01")]
    assert 8 < steps[1] / steps[0] < 15


def test_the_staircase_is_crept_down_at_every_rate(measured):
    numbers = {k: v for k, v in measured("learning_rates").items() if k.startswith("x + sin x")}
    assert len(numbers) == 3
    assert list(numbers.values()) == pytest.approx([1, 1, 1], abs=0.05)


def test_the_hill_holds_small_rates_only(measured):
    numbers = measured("learning_rates")
    climb = lambda x: x + 0.1 * (25 * np.cos(x) - 2 * x)
    low = brentq(lambda x: climb(climb(x)) - x, -0.2, 0.2)
    assert numbers["25 sin x − x², rate 0.1: the two-cycle"] == pytest.approx([low, climb(low)], abs=1e-6)
    assert [low, climb(low)] == pytest.approx([-0.002, 2.499], abs=1e-3)
    slope = lambda x: 1 - 0.1 * (25 * np.sin(x) + 2)
    multiplier = numbers["25 sin x − x², rate 0.1: its multiplier, stable below 1"]
    assert multiplier == pytest.approx(abs(slope(low) * slope(climb(low))), abs=1e-5)
    top = brentq(lambda x: 25 * np.cos(x) - 2 * x, 1, 2)
    assert numbers["25 sin x − x², rate 0.01: where it ends"] == pytest.approx(top, abs=1e-6)
    peaks = pytest.approx([-10.06, -4.356, 1.454, 7.237], abs=1e-3)
    for name in ("rate 0.01", "gradient flow"):
        assert numbers[f"25 sin x − x², {name}: share of starts that end on a maximum"] == 1
        assert numbers[f"25 sin x − x², {name}: maxima reached"] == peaks
    # Of the four curvatures, 2 + 25 sin x, only that of the lowest peak is below 2/.1.
    assert numbers["25 sin x − x², rate 0.1: maxima reached"] == pytest.approx([-10.06], abs=1e-3)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.98])
def test_a_moving_average_remembers_for_its_memory(measured, beta):
    numbers = {
        k.split(": ")[1]: v for k, v in measured("moving_averages").items() if k.startswith(f"β = {beta:g}:")
    }
    memory = numbers["memory in steps, against −1/ln β"]
    assert memory == pytest.approx(-1 / np.log(beta), rel=1e-6)
    assert numbers["first step at or below 1/e, against 1/(1−β)"] == np.ceil(memory) == round(1 / (1 - beta))
    # 19,400 draws with a correlation time of (1+β)/(1−β) ≤ 99: a standard error of at most 5 %.
    ratio = numbers["noise left, against √((1−β)/(1+β))"] / np.sqrt((1 - beta) / (1 + beta))
    assert ratio == pytest.approx(1, abs=0.2)
    assert numbers["lag in steps, against β/(1−β)"] == pytest.approx(beta / (1 - beta), rel=1e-6)
    assert numbers["uncorrected / corrected at step 1, against 1 − β"] == pytest.approx(1 - beta, rel=1e-9)
    corrected, plain = (
        numbers["the same, corrected"],
        numbers["rms error over the first 1/(1−β) steps, uncorrected"],
    )
    assert corrected < 0.5 * plain


RATES = {
    "gradient descent": (99 / 101, 0),
    "heavy ball": (9 / 11, 1),
    "EMA momentum": (9 / 11, 1),
    "Nesterov, look-ahead": (0.9, 1),
    "Nesterov, shifted": (0.9, 1),
}


@pytest.mark.parametrize("method", RATES)
def test_rates_in_a_ravine_are_the_textbooks(measured, method):
    numbers, (rate, power) = measured("ravine"), RATES[method]
    assert numbers[f"{method}, κ = 100: factor a step ρ"] == pytest.approx(rate, abs=1e-5)
    # A double root is only known to the square root of the rounding error.
    assert numbers[f"{method}, κ = 100: ρ of the companion matrix"] == pytest.approx(rate, abs=1e-6)
    assert numbers[f"{method}, κ = 100: power m of k"] == pytest.approx(power, abs=0.03)


def test_rates_hold_at_every_condition_number(measured):
    numbers = measured("ravine")
    assert numbers["all κ and methods: largest error of ρ"] < 1e-4
    assert numbers["EMA momentum and heavy ball: largest distance"] < 1e-14


def test_every_optimizer_is_in_the_table(run, measured):
    table = run("optimizers")[0]["table"]
    assert table["rosenbrock"].keys() == OPTIMIZERS.keys()
    cells = table["rosenbrock"]
    for name, cell in cells.items():
        assert np.isfinite(cell["final"]), name
        assert cell["final"] < 24.2, name  # the start
    x, steps = np.array([-1.2, 1.0]), 0
    while 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2 > 1e-6:
        slope = np.array([-400 * x[0] * (x[1] - x[0] ** 2) - 2 * (1 - x[0]), 200 * (x[1] - x[0] ** 2)])
        hessian = np.array([[1200 * x[0] ** 2 - 400 * x[1] + 2, -400 * x[0]], [-400 * x[0], 200.0]])
        x, steps = x - np.linalg.solve(hessian, slope), steps + 1
    assert cells["newton"]["steps"] == steps == 5
    assert cells["newton"]["rate"] == pytest.approx(1)
    assert cells["newton"]["final"] < 1e-20
    # A step of bounded length cannot diverge to infinity in 1000 steps; one proportional to a quartic's gradient can.
    assert all(cells[name]["diverged"] == 0 for name in ("sign", "adam", "rmsprop", "adagrad", "genetic"))
    assert cells["gd"]["diverged"] > 0
    assert cells["gd"]["rate"] < 2 / 300
    assert cells["momentum"]["final"] < 1e-6 < cells["gd"]["final"]
    assert {k: cells["swats"][k] for k in ("rate", "steps")} == {
        k: cells["adam"][k] for k in ("rate", "steps")
    }
    assert measured("optimizers")["rosenbrock: fewest steps to the target, and whose"][1] == "newton"


def test_digits_are_learned(run):
    cells = run("optimizers")[0]["table"]["digits"]
    for name, cell in cells.items():
        assert cell["test accuracy"] > 0.85, name
        assert cell["final"] < 0.5, name


@pytest.mark.parametrize("temperature", [0.4, 0.2, 0.1])
def test_langevin_ends_in_gibbs_law(run, temperature):
    name = f"T = {temperature:g}: total variation from exp(−L/T), against the sampling floor"
    pair = run("gibbs")[0]["headlines"][name]
    assert pair["measured"] <= 0.035
    # Exact draws: 6,000 of them in the same 32 bins are as far from the law as that on average.
    edges = np.linspace(-2.4, 2.4, 33)
    edges[[0, -1]] = -4, 4
    density = lambda x: np.exp(-((x**2 - 1) ** 2) / (4 * temperature))
    p = np.array([quad(density, a, b)[0] for a, b in itertools.pairwise(edges)])
    draws = np.random.default_rng(0).multinomial(6_000, p / p.sum(), 400) / 6_000
    distances = 0.5 * np.abs(draws - p / p.sum()).sum(1)
    assert pair["expected"] == pytest.approx(distances.mean(), rel=0.02)
    # Six times the passage time leaves ½ e⁻⁶ = .0012 of the start.
    assert pair["measured"] < np.quantile(distances, 0.999) + 0.0012


def test_escapes_take_kramers_time(run):
    """Mean first passage times from −1 to +1 by adaptive quadrature; 500 passages: a standard error of 4.5 %."""
    headlines = run("gibbs")[0]["headlines"]
    height = lambda x: (x**2 - 1) ** 2 / 4
    for beta in (4, 8, 12):
        inner = lambda y, beta=beta: quad(lambda z: np.exp(beta * (height(y) - height(z))), -4, y)[0]
        exact = beta * quad(inner, -1, 1)[0]
        pair = headlines[f"1/T = {beta}: mean time from −1 to +1, against quadrature"]
        assert pair["expected"] == pytest.approx(exact, rel=1e-4)
        assert pair["measured"] == pytest.approx(exact, rel=0.16)
    kramers = np.sqrt(2) * np.pi * np.exp(12 / 4)
    pair = headlines["coldest: mean time over Kramers', against quadrature"]
    assert pair["expected"] == pytest.approx(exact / kramers, rel=1e-4)
    assert pair["measured"] == pytest.approx(1, abs=0.35)
    assert headlines["slope of log time in 1/T, against the barrier"]["measured"] == pytest.approx(
        0.25, abs=0.025
    )


def test_the_stationary_loss_depends_on_rate_over_batch_size(measured):
    numbers = measured("temperature")
    assert numbers["η/B constant: smallest p of equal losses, adjusted"] > 0.01
    assert numbers["η constant: largest p of equal losses, adjusted"] < 0.01
    assert numbers["SGD and SDE of one T: p, gap"][0] > 0.01
    # The relative standard error of a mean of 64 runs is 2 to 3 %, of the SDE's 32 4 %.
    for name in ("SGD, η/B constant", "SGD, η constant", "SDE"):
        assert np.allclose(numbers[f"{name}: excess loss / ½ T tr Σ"], 1, atol=0.15), name
    assert numbers["power of T in the excess loss"] == pytest.approx(1, abs=0.1)


def test_svag_decides_where_the_sde_fails(measured):
    numbers = measured("sde_validity")
    assert numbers["cells where the SDE holds"] == 1
    start, *_, end = numbers["η = 2, B = 4: distance in SD of SVAG(l) from the SDE, l = 1, 4, 32"]
    assert start > 0.7
    assert end < start / 2
    p_start, p_end = numbers["η = 2, B = 4: p, SGD and SVAG(32)"]
    assert p_start < 0.01 < p_end
    assert numbers["SDE against SDE: distance in SD, p"][1] > 0.01


@pytest.mark.parametrize("method", ["SGD", "Adam"])
def test_rescaled_training_is_the_same_training(measured, method):
    numbers = measured("batch_scaling")
    p, gap, loss = numbers[f"{method}, κ = 4, rescaled: p, largest gap in SD, last gap / loss"]
    p_naive, gap_naive, loss_naive = numbers[f"{method}, κ = 4, naive: p, largest gap in SD, last gap / loss"]
    assert p > 0.01
    assert p_naive < 0.01
    assert gap < 1 < 3 < gap_naive
    assert abs(loss) < 0.05
    assert loss_naive > 0.2


@pytest.mark.parametrize("name", ["gradient descent, digits", "Adam, 2-D"])
def test_the_modified_equation_closes_in_at_its_order(measured, name):
    slopes = measured("modified_equations")[f"{name}: slopes of orders 1, 2, 3, 4"]
    assert slopes[:3] == pytest.approx([1, 2, 3], abs=0.15)
    assert slopes[3] == pytest.approx(4, abs=0.3)


def test_pairs_of_steps_have_a_flow_where_single_steps_have_none(measured):
    numbers = measured("continuous_limit")
    for stride, edge in ((1, 1.0), (2, 1 + np.sqrt(2))):
        name = f"quadratic, stride {stride}"
        assert numbers[f"{name}: the gauge passes 1 at hλ"] == pytest.approx(edge, abs=0.005)
        low, high = numbers[f"{name}: it says converges up to, no limit from hλ"]
        assert edge - 0.15 < low < edge < high < edge + 0.15
    # The sharp coordinate, (1 − x)⁴, no flow of single steps has: it is the whole error, over the distance travelled.
    for x in (1.85, 2.15):
        sharp, weak = (1 - x) ** 4, (1 - 0.1 * x) ** 4
        lost = sharp / np.hypot(1 - sharp, 1 - weak)
        (single,), (pairs,) = (
            numbers[f"quadratic, stride {m}: error at hλ = {x:g}, order 4"] for m in (1, 2)
        )
        assert single == pytest.approx(lost, rel=1e-3)
        assert pairs < single / 100
    assert numbers["quadratic, principal flow: largest error at any hλ"] < 1e-7


def test_longer_steps_descend_a_penalised_loss(measured):
    numbers = measured("implicit_regularization")
    assert numbers["slope of the distance from the gradient flow"] == pytest.approx(1, abs=0.05)
    assert numbers["slope of the distance from the flow of L + (h/4)|∇L|²"] == pytest.approx(2, abs=0.1)
    flatter = {h: numbers[f"h = {h:g}: |∇L|² at L = 1 below gradient flow's, %"] for h in (0.1, 0.4)}
    assert flatter[0.1] > 1
    assert flatter[0.4] / flatter[0.1] == pytest.approx(4, rel=0.05)


def test_momentum_has_the_mass_of_its_formula(measured):
    numbers = measured("momentum_is_an_ode")
    for name, found in (("heavy ball", 0.95), ("Nesterov", 0.86)):
        assert numbers[f"{name}, β = 0.9: mass / η"] == pytest.approx(found, abs=1e-5)
        off = numbers[f"{name}, all β: largest error of mass / η, of friction / (1−β)"]
        assert max(off) < 1e-5
    slopes = {key: value for key, value in numbers.items() if "slope of the distance" in key}
    right = {
        key: value for key, value in slopes.items() if "½(1+β)η" in key or "0.9η" in key or "0.74η" in key
    }
    assert len(slopes) == 8
    assert list(right.values()) == pytest.approx([2, 2, 2], abs=0.25)
    assert [slopes[key] for key in slopes if key not in right] == pytest.approx([1] * 5, abs=0.1)
    assert numbers["Nesterov: largest loss × t² / |θ₀ − θ*|², at most 2"] < 2


def test_a_game_spirals_as_its_modified_flow_does(measured):
    numbers = measured("dirac_gan")
    assert numbers["bilinear game: factor of the radius a step, h = 0.2, against √(1 + h²)"] == pytest.approx(
        np.sqrt(1.04), rel=1e-12
    )
    slopes = {key: value for key, value in numbers.items() if "slope of the error" in key}
    assert list(slopes.values()) == pytest.approx([1, 1, 3, 2], abs=0.2)
    about = "alternating, h = 0.4: largest radius in 100,000 steps"
    assert numbers[f"bilinear game, {about}, against r/√(1 − h/2)"] == pytest.approx(
        0.7 / np.sqrt(0.8), rel=1e-4
    )
    assert numbers[f"Dirac-GAN, {about}"] < 0.8


@pytest.mark.parametrize(
    "case", ["simultaneous", "alternating", "simultaneous, with the R1 penalty γ = 0.15"]
)
def test_drift_is_of_second_order_in_every_game(run, case):
    about = f"Dirac-GAN, {case}: radius at t = 18 of"
    radius = lambda name: told(run("dirac_gan")[0], f"{about} {name}, against the iterates")
    flow, iterates = radius("the flow of the game")
    modified, _ = radius("modified flow, order 2")
    assert modified == pytest.approx(iterates, rel=0.07)
    if case == "alternating":
        assert iterates == pytest.approx(0.7, abs=0.1)
    else:
        assert abs(flow - iterates) > 0.2
        assert (iterates > 1.4) == (case == "simultaneous")


def test_small_rates_leave_gradient_flow_as_derived(measured):
    """The first power of η on all data, of 1/√B on mini-batches; 16 runs of 610 parameters have little scatter."""
    numbers = measured("digits_sweep")
    assert numbers["all data, η = 1e-4 and 2e-4: power of η in distance / way"] == pytest.approx(1, abs=0.02)
    assert numbers["all data, η = 1e-4: distance / way over ½η|Hg|/|g|"] == pytest.approx(1, abs=0.02)
    assert numbers["mini-batches, smallest η: power of B in distance / way"] == pytest.approx(-0.5, abs=0.05)
    ratios = numbers["mini-batches, smallest η: distance / way over √(tr Σ/(KB))/|g|"]
    assert ratios == pytest.approx([1, 1], abs=0.1)


def test_the_sde_is_told_from_sgd_at_large_rates_only(measured):
    numbers = {k: v for k, v in measured("digits_sweep").items() if k.startswith("SDE, η × sharpness")}
    small, _, large = numbers.values()
    assert small[0] <= 0.25  # one cell of four
    assert small[1] < 0.005
    assert large[0] == 1
    assert large[1] > 0.01
    assert measured("digits_sweep")["diverged"] == 0


def test_sharpness_stays_at_the_threshold(run, measured):
    """Sharpness over threshold is 1 wherever that is expected, and there alone does the loss ever rise."""
    numbers = measured("edge_of_stability")
    assert numbers["thresholds found over 2(1+β)/η: largest error"] < 1e-8
    ratios = {k: v for k, v in run("edge_of_stability")[0]["headlines"].items() if "sharpness" in k}
    for name, pair in ratios.items():
        method = name.split(":")[0]
        at_the_edge = pair["expected"] == 1
        if at_the_edge:
            assert pair["measured"] == pytest.approx(1, abs=0.08), name
        else:
            assert pair["measured"] < 0.7, name
        if method.startswith("gradient descent"):
            rises, change = numbers[f"{method}: share of steps up, loss / loss at the start"]
            assert (rises > 0.01) == at_the_edge
            assert change < 0.05
    assert [pair["expected"] for pair in ratios.values()] == [None, 1, 1, 1, 1]


def test_a_class_less_one_is_an_outlier(run, measured):
    """Means over random probes within 5 of their standard errors, which are of 10 probes and more."""
    numbers, headlines = measured("spectra"), run("spectra")[0]["headlines"]
    for classes in (2, 6):
        assert numbers[f"{classes} classes, loss 0.2: outliers from 2 starts"] == [classes - 1] * 2
    assert numbers["loss 0.2: outliers, iterated over exact: largest error"] < 1e-8
    noisy = {k: v for k, v in headlines.items() if "standard error" in k or "by quadrature" in k}
    assert len(noisy) == 5
    for name, pair in noisy.items():
        value, error = pair["measured"]
        assert abs(value - pair["expected"][0]) < 5 * error, name
        assert error < 0.25 * abs(value), name
    share, depth = (
        numbers[f"{name}, start and end"]
        for name in ("share of eigenvalues below 0", "−lowest / largest eigenvalue")
    )
    assert share[1] < share[0] / 2
    assert depth[1] < depth[0] / 5


def test_past_the_edge_iterates_keep_to_the_central_flow(measured):
    """On the toy it is known in closed form; none of its effective eigenvalues passes 2, as the stable flow's do."""
    numbers = measured("central_flows")
    assert numbers["toy: predicted loss over the closed form, worst"] == pytest.approx(1, abs=5e-3)
    assert numbers["toy: effective sharpness of the central flow, last"] == pytest.approx(2, abs=1e-6)
    assert numbers["toy: mean loss of the iterates over the closed form"] == pytest.approx(1, abs=3e-3)
    assert numbers["toy: central flow's, the largest"] == pytest.approx(2, abs=0.01)
    # The stable flow goes to where its drift rests, at y = z = Z, and its sharpness with it.
    assert 2.3 < numbers["toy: stable flow's, the last"] < 2.72
    assert numbers["toy: predicted loss of the last half / the iterates'"] == pytest.approx(1, abs=0.01)
    assert numbers["toy: last distance from the iterates / the stable flow's"] < 0.05


def test_predictor_and_stop_hold_up_what_theory_says(measured):
    """λ²/(4(λ + .2)) above η for the digits' own components, by NumPy, and the networks by their variances."""
    numbers = measured("why_simsiam_does_not_collapse")
    x = load_digits().data
    x = x[:, np.ptp(x, 0) > 0]
    variances = np.linalg.eigvalsh(np.cov(x.T, bias=True)) / x.var(0).mean()
    expected = [int((variances**2 / (4 * (variances + 0.2)) > decay).sum()) for decay in (0.2, 1)]
    for start in ("from principal components", "from random weights"):
        assert numbers[f"linear, {start}, α = 1: modes kept at η = 0.2, 1"] == expected
    assert numbers["squared weights from principal components: largest distance from theory"] < 1e-6
    assert numbers["no predictor: rate of |W|"] == pytest.approx(-0.3, abs=1e-6)
    assert numbers["optimal predictor: rate of |W|"] == pytest.approx(-0.1, abs=1e-4)
    assert numbers["no stop-gradient: largest |W| / bound, at most 1"] <= 1 + 1e-9
    assert numbers["SimSiam: |W| at the end / at the start"] > 0.5
    for name in ("SimSiam, no predictor", "SimSiam, no stop-gradient"):
        assert numbers[f"network, {name}: rank at η = 0.2, 1"] == [0, 0]
    kept, gone = numbers["network, SimSiam, α = 1: total variance"]
    assert gone < 1e-9 < 1 < kept
