"""Two experiments on laws at rest in their quick form, once: headline numbers against independent formulas."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from experiment_files import check_files, told

import jaxflow as jf
from experiments.noise import swept_areas

pytestmark = pytest.mark.promotes


@pytest.mark.parametrize("name", ["limit_cycles", "temperature_is_everything"])
def test_figure_and_numbers_are_written_whole(run, name):
    check_files(name, *run(name))


def test_a_grid_finds_the_current_of_an_ornstein_uhlenbeck_process(measured):
    """S by SciPy's Lyapunov equation, W = TD − HS, and tr Wᵀ(TD)⁻¹WS⁻¹ = 8/7."""
    numbers = measured("limit_cycles")
    h, spread = np.diag([1.0, 3.0]), 0.5 * np.array([[1.0, 0.8], [0.8, 1.2]])
    s = scipy.linalg.solve_continuous_lyapunov(h, 2 * spread)
    w = spread - h @ s
    produced = np.trace(w.T @ np.linalg.inv(spread) @ w @ np.linalg.inv(s))
    assert produced == pytest.approx(8 / 7)
    exact = {"S₁₁": s[0, 0], "S₁₂": s[0, 1], "S₂₂": s[1, 1], "W₁₂": w[0, 1], "entropy production": produced}
    for name, value in exact.items():
        plain, extrapolated = numbers[f"grid: {name}, on the finer grid and extrapolated"]
        assert plain == pytest.approx(value, rel=3e-3 if name == "entropy production" else 0.01), name
        # The error of what is produced falls faster than the second order that is extrapolated.
        rounding = 2e-3 if name == "entropy production" else 5e-4
        assert extrapolated == pytest.approx(value, rel=rounding), name
    assert numbers["grid: largest error of Φ where it is below 4T, in T"] < 0.03
    # Both integrands are of degree 2 in the distance, whose integral over a ray leaves (xᵀS⁻¹x)⁻² of the angle.
    angles = np.linspace(0, 2 * np.pi, 20_001)[:-1]
    x = np.stack([np.cos(angles), np.sin(angles)])
    flow, slope, weight = w @ np.linalg.inv(s) @ x, h @ x, (x * (np.linalg.inv(s) @ x)).sum(0) ** -2
    sizes = np.linalg.norm(flow, axis=0) * np.linalg.norm(slope, axis=0)
    crossing = (weight * abs((flow * slope).sum(0))).sum() / (weight * sizes).sum()
    along, across = numbers["grid: |cos| of current and gradient of Φ, of L"]
    assert along < 0.01
    assert across == pytest.approx(crossing, rel=0.01)
    assert crossing > 0.3


def test_the_law_of_iterates_and_the_planes_of_a_current():
    rng = np.random.default_rng(0)
    h, c = (a @ a.T / 30 for a in rng.normal(size=(2, 30, 30)))
    rate, one = 0.2, np.eye(30)
    s = swept_areas.covariance_of_iterates(np.linalg.eigh(h), c, rate)
    root = swept_areas.root_of(s)
    exact = scipy.linalg.solve_discrete_lyapunov(one - rate * h, rate**2 * c)
    np.testing.assert_allclose(s, exact, atol=1e-10 * abs(exact).max())
    np.testing.assert_allclose(root @ root.T, s, atol=1e-12 * abs(s).max())
    current = c - c.T + h @ c - c @ h
    directions, share = swept_areas.turning_planes(current)
    np.testing.assert_allclose(directions @ directions.T, np.eye(20), atol=1e-12)
    inside = directions @ current @ directions.T
    turns = np.sort(abs(np.linalg.eigvals(current)))[::-1][:20:2]
    np.testing.assert_allclose(-swept_areas.in_planes(inside), turns, rtol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(inside) ** 2, 2 * np.sum(turns**2), rtol=1e-10)
    assert share == pytest.approx(2 * turns.sum() / abs(np.linalg.eigvals(current)).sum())


def test_the_noise_that_curvatures_add():
    rng = np.random.default_rng(1)
    hessians = np.array([a + a.T for a in rng.normal(size=(5, 3, 3))])
    objective = jf.Objective(lambda x, h: 0.5 * jnp.einsum("i,nij,j->n", x, h, x), jnp.array(hessians))
    root = rng.normal(size=(3, 3))
    added = swept_areas.noise_of_curvatures(objective, jnp.ones(3), root)
    away = hessians - hessians.mean(0)
    np.testing.assert_allclose(added, np.mean(away @ root @ root.T @ away, 0), rtol=1e-12)


def test_sgd_of_a_network_at_rest_circulates(run, measured):
    """4 standard errors of 64 chains, 32 of isotropic noise: false alarms 2e-4, 4e-4 for each of ten planes."""
    numbers = measured("limit_cycles")
    assert numbers["network: loss above the minimum, by ½gᵀH⁻¹g"] < 1e-20
    double, single = numbers["network: rank of D in float64, in float32"]
    assert double == 249 > single
    assert 1 < numbers["network: effective rank of D"] < 249 / 4
    assert numbers["B = 64: largest |z| from η(HS − SH), from −2ηW"][0] < 4
    assert np.allclose(numbers["B = 64: area a step / η(HS − SH), ten planes"], 1, atol=0.2)
    for b in (16, 64):
        ratio, error = numbers[f"B = {b}: sum over planes / predicted, standard error"]
        assert ratio == pytest.approx(1, abs=0.12)
        assert error < ratio / 50
    end, error = numbers["the same as 1/B → 0, standard error"]
    assert abs(end - 1) < 4 * error
    assert error < 0.03
    content = run("limit_cycles")[0]
    slope, by_curvatures = told(content, "its slope in 1/B, standard error; that by curvatures")
    assert abs(slope[0] - by_curvatures[0]) < 4 * slope[1]
    assert numbers["reversed in time: sum over planes / forwards"] == pytest.approx(-1, abs=0.06)
    assert max(numbers["isotropic noise: largest |z| of ten planes, |z| of the sum"]) < 4
    ratio, error = numbers["isotropic noise: sum / SGD's, standard error"]
    assert abs(ratio) < 4 * error < 0.05
    # For small η the two predictions are one.
    exact, limit = (np.array(content[f"{name}_at_batch_one"]) for name in ("predicted", "limit"))
    assert (exact > 0).all()
    assert np.allclose(limit / exact, 1, atol=0.05)


def wells(x):
    """The loss of the asymmetric double well."""
    return -np.logaddexp(-0.6 * (x + 10) ** 2, -4.5 - 0.0375 * (x - 6) ** 2) / 30


def integral(f, low, high):
    inside = [point for point in (-10, 6) if low < point < high]
    return scipy.integrate.quad(f, low, high, points=inside, limit=400, epsabs=1e-13)[0]


def at_rest(temperature):
    """The probability beyond the ridge, and the entropy, of exp(−L/T), by adaptive quadrature."""
    weight = lambda x: np.exp(-wells(x) / temperature)
    total = integral(weight, -60, 110)
    mean = integral(lambda x: wells(x) * weight(x), -60, 110) / total
    return integral(weight, -5.5, 110) / total, np.log(total) + mean / temperature


def test_the_wide_well_has_what_the_free_energies_say(run):
    content = run("temperature_is_everything")[0]
    pair = lambda name: told(content, name)
    law = {name: np.array(values) for name, values in content["at_rest"].items()}
    exact = np.array([at_rest(t) for t in law["temperature"][::5]])
    np.testing.assert_allclose(law["wide"][::5], exact[:, 0], rtol=1e-3)
    np.testing.assert_allclose(law["entropy"][::5], exact[:, 1], rtol=1e-3)
    assert max(pair("wide well: probability less that by exp(−ΔF/T), largest")) < 1e-9
    found, by_curvature = pair("wide well, T = 1/32: probability, and that by Δ − ½T log 16")
    assert by_curvature == pytest.approx(1 / (1 + np.exp(0.15 * 32) / 4))
    assert found == pytest.approx(by_curvature, rel=2e-3)
    half, estimated = pair("temperature at which both wells have half, and 2Δ/log 16")
    assert at_rest(half)[0] == pytest.approx(0.5, abs=1e-3)
    assert half == pytest.approx(estimated, rel=0.05)
    grown, by_variance = pair("entropy at T = 1/2 less at 1/32, and ∫ Var(L)/T² dlog T")
    assert grown == pytest.approx(by_variance, rel=1e-4)
    assert max(pair("temperatures from which to the next the entropy falls")) == 0


def test_density_depends_on_rate_over_batch_size(measured):
    """p > .002 of two tests: a false alarm in 250. Means within 4 standard errors: 6e-5 for each of four."""
    numbers = measured("temperature_is_everything")
    assert numbers["η ≤ 1: smallest p of equal densities, adjusted"] > 0.004
    assert numbers["η/B = ¼, B = 64: p of the density of T = 1/8"] < 1e-4
    own, other = numbers["η = 1, B = 2: p of the density of T = 0.25, of T = 1/8"]
    assert other < 1e-10 < own
    for temperature in (0.125, 0.25):
        names = ("probability of the wide well", "entropy")
        # At the end e⁻⁵ of the start, or less, is left.
        for name, exact, left in zip(names, at_rest(temperature), (0.005, 0.03), strict=True):
            value, error = numbers[f"SGD, T = {temperature:g}: {name}, standard error"]
            assert abs(value - exact) < 4 * error + left
            assert error < 0.04
