"""Ensembles against densities: the rate of false alarms, the power, and the verdict, with samples of known law."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxflow as jf
from jaxflow.density import Grid, compare_density
from jaxflow.density.comparing.merged_cells import merge_cells

pytestmark = pytest.mark.promotes  # integrate uses diffrax

GRID = Grid(-2.2, 2.2, 200)
PLANE = Grid((-4.0, -4.0), (4.0, 4.0), (40, 60))


def gibbs(temperature):
    weights = np.exp(-((np.asarray(GRID.centers(0)) ** 2 - 1) ** 2) / temperature)
    return weights / weights.sum()


def solution(masses, grid=GRID, times=(1.0,)):
    """What integrate returns, of given masses."""
    times = jnp.array(times)
    values = jnp.array(masses / np.asarray(grid.volume)).reshape(-1, *grid.shape)
    none = jnp.zeros((), int)
    return jf.Trajectory(times, values, values[-1], None, none, none, none, times[-1])


def members(points, times=(1.0,)):
    """An ensemble of given points (n, T, …)."""
    none, times = jnp.zeros(len(points), int), jnp.array(times)
    return jf.Trajectory(times, jnp.array(points), jnp.array(points[:, -1]), None, none, none, none, none)


def draw(seed, masses, n=4000, grid=GRID):
    """An exact sample: a cell by its mass, and a uniform place in it. (n, 1, d)."""
    rng = np.random.default_rng(seed)
    cells = np.unravel_index(rng.choice(masses.size, n, p=masses.ravel()), grid.shape)
    places = np.stack(cells, -1) + rng.random((n, grid.dimensions))
    return (np.asarray(grid.low) + places * np.asarray(grid.spacing))[:, None]


def normal(grid, variance=0.5):
    """A correlated normal law in the plane."""
    law = jf.density.gaussian(grid, 0.0, variance * jnp.array([[1.0, 0.5], [0.5, 1.0]]))
    return np.asarray(law * grid.volume)


def test_false_alarms_and_power_on_a_line():
    """200 nulls: for a rate of .05, outside .02 to .08 with a probability of 4 % (one set of seeds, 0 to 199)."""
    law, densities = gibbs(0.15), solution(gibbs(0.15))
    null = [compare_density(members(draw(seed, law)), densities, GRID) for seed in range(200)]
    assert 0.02 <= np.mean([one.differ for one in null]) <= 0.08
    # Each of the tests has uniform p-values: a false alarm in 1,000 each.
    for name in ("statistic_p_value", "surprise_p_value", "kolmogorov_p_value"):
        assert scipy.stats.kstest([getattr(one, name)[0] for one in null], "uniform").pvalue > 1e-3
    l1 = np.mean([one.l1[0] for one in null])
    np.testing.assert_allclose(l1, null[0].l1_by_chance[0], rtol=0.05)
    for temperature in (0.135, 0.165):
        other = gibbs(temperature)
        found = [compare_density(members(draw(seed, other)), densities, GRID) for seed in range(40)]
        assert np.mean([one.differ for one in found]) >= 0.9
        assert np.mean([np.sign(one.surprise[0]) == np.sign(temperature - 0.15) for one in found]) >= 0.9
    assert "have the density at t = 1 (p = " in found[0].message
    assert "more spread out" in found[0].message


def test_false_alarms_and_power_in_the_plane():
    law, densities = normal(PLANE), solution(normal(PLANE), PLANE)
    compare = lambda seed, p, n: compare_density(members(draw(seed, p, n, PLANE)), densities, PLANE)
    null = [compare(seed, law, 4000) for seed in range(200)]
    assert 0.02 <= np.mean([one.differ for one in null]) <= 0.08
    warm = normal(PLANE, 0.55)
    assert np.mean([compare(seed, warm, 4000).differ for seed in range(20)]) >= 0.9
    # Turned, with the same marginals: the boxes see it.
    turned = [compare(seed, law[:, ::-1], 400) for seed in range(20)]
    assert all(one.statistic_p_value[0] < 1e-3 for one in turned)
    assert np.isnan(null[0].kolmogorov).all()


def test_few_members_ring_no_more_false_alarms():
    """30 members, seeds 0 to 199: a rate above .09 has the probability .5 % where the true one is .05."""
    law = gibbs(0.15)
    densities = solution(law)
    null = [compare_density(members(draw(seed, law, 30)), densities, GRID).differ for seed in range(200)]
    assert np.mean(null) <= 0.09


def test_the_numbers_against_scipy():
    law, points = gibbs(0.15), draw(7, gibbs(0.16), 500)
    found = compare_density(members(points), solution(law), GRID, cells=9)
    edges = np.linspace(-2.2, 2.2, 201)
    cdf = lambda x: np.interp(x, edges, np.append(0, np.cumsum(law)))
    expected = scipy.stats.kstest(points[:, 0, 0], cdf)
    np.testing.assert_allclose(found.kolmogorov[0], expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(found.kolmogorov_p_value[0], expected.pvalue, rtol=1e-6)
    counts = np.histogram(points[:, 0, 0], edges)[0]
    boxes = merge_cells(500 * law, 9)
    seen, hoped = (np.array([x[box].sum() for box in boxes]) for x in (counts, 500 * law))
    raw = scipy.stats.power_divergence(seen, hoped, lambda_="log-likelihood")
    factor = 1 + (np.sum(500 / hoped) - 1) / (6 * 500 * 8)
    np.testing.assert_allclose(found.statistic[0] * factor, raw.statistic, rtol=1e-9)
    np.testing.assert_allclose(found.l1[0], np.abs(seen - hoped).sum() / 500, rtol=1e-9)
    gap = -(counts @ np.log(law)) / 500 + law @ np.log(law)
    np.testing.assert_allclose(found.surprise[0], gap, atol=1e-5)  # cut off in empty cells


@pytest.mark.parametrize("most", [2, 7, 12, 300])
def test_boxes_cover_the_grid_once_with_five_expected_each(most):
    rng = np.random.default_rng(most)
    for expected in (rng.gamma(0.3, 20, 50), rng.gamma(0.3, 3, (20, 30))):
        boxes = merge_cells(expected, most)
        covered = np.zeros(expected.shape, int)
        for box in boxes:
            covered[box] += 1
            assert expected[box].sum() >= 5
        assert (covered == 1).all()
        assert len(boxes) <= most
    even = merge_cells(np.ones((40, 40)), 16)
    assert {1600 // 16} == {int(np.ones((40, 40))[box].sum()) for box in even}


def test_members_outside_are_counted_and_judged():
    law, points = gibbs(0.15), draw(0, gibbs(0.15), 1000)
    densities = solution(law)
    assert not compare_density(members(points), densities, GRID).differ
    points[:3, 0], points[3, 0] = np.nan, 5.0
    found = compare_density(members(points), densities, GRID)
    assert (found.outside[0], found.strays[0], found.differ) == (4, 4, True)
    assert "4 of the members are outside the grid, diverged or ended at t = 1" in found.message
    # An absorbing wall has taken a tenth: as many are expected to have ended.
    ended = draw(1, law, 1000)
    ended[:100] = np.nan
    assert not compare_density(members(ended), solution(0.9 * law), GRID).differ
    assert compare_density(members(draw(1, law, 1000)), solution(0.9 * law), GRID).differ
    # A density in one cell: boxes tell nothing, cells that are empty do.
    spike = np.eye(200)[60]
    assert not compare_density(members(draw(2, spike, 50)), solution(spike), GRID).differ
    assert compare_density(members(draw(2, spike[::-1], 50)), solution(spike), GRID).differ


@pytest.fixture(scope="module")
def langevin():
    """An Ornstein–Uhlenbeck process in small steps, and the equation of its law."""
    grid, times = Grid(-4.5, 4.5, 300), jnp.array([0.0, 0.25, 1.0, 2.0])
    dynamics = lambda temperature: jf.dynamics.langevin(lambda x: 0.5 * x**2, temperature)

    def member(temperature, key):
        first, path = jax.random.split(key)
        start = 1 + 0.3 * jax.random.normal(first)
        return jf.integrate(dynamics(temperature), start, times, key=path, substeps=40)

    run = lambda temperature: jf.ensemble(
        lambda key: member(temperature, key), jax.random.split(jax.random.key(3), 1000)
    )
    equation = jf.density.fokker_planck(dynamics(0.5), grid)
    densities = jf.integrate(equation, jf.density.gaussian(grid, 1.0, 0.09), times)
    return run(0.5), run(0.65), densities, grid


def test_langevin_has_the_law_of_its_equation(langevin):
    """Seed 3; a false alarm in twenty."""
    right, wrong, densities, grid = langevin
    found = compare_density(right, densities)
    assert not found.differ, found
    assert repr(found).startswith("DensityComparison(No difference found between 1000 members and the")
    found = compare_density(wrong, densities, grid)
    assert found.differ
    assert found.adjusted[0] > 0.05 >= found.adjusted[-1]
    assert "do not have the density at 3 of 4 times" in found.message


def test_only_common_times_are_compared(langevin):
    right, _, densities, grid = langevin
    some = compare_density(right[1:], densities, grid)
    np.testing.assert_allclose(some.times, densities.times[1:])
    assert "1 time that only one of the two has is left out" in some.message
    moved = dataclasses.replace(right, times=right.times + 0.1)
    with pytest.raises(
        ValueError, match=r"a time in common with the ensemble, got 4 times from 0 to 2 against"
    ):
        compare_density(moved, densities)


def test_records_of_any_form_have_one_order():
    law = normal(PLANE)
    points = draw(5, law, 500, PLANE)
    whole = compare_density(members(points), solution(law, PLANE), PLANE)
    parts = dataclasses.replace(
        members(points), values={"a": jnp.array(points[..., 0]), "b": jnp.array(points[..., 1:])}
    )
    assert compare_density(parts, solution(law, PLANE), PLANE).statistic[0] == whole.statistic[0]


def test_bad_input_is_refused():
    compare: Any = compare_density
    law, points = gibbs(0.15), draw(0, gibbs(0.15), 20)
    good, densities = members(points), solution(law)
    with pytest.raises(TypeError, match=r"ensemble must be a Trajectory, got ndarray"):
        compare(points, densities, GRID)
    with pytest.raises(ValueError, match=r"ensemble must be made by jf.ensemble, .* got a single run"):
        compare(densities, densities, GRID)
    with pytest.raises(ValueError, match=r"densities must be one solution, got several"):
        compare(good, good, GRID)
    with pytest.raises(ValueError, match=r"grid must be given"):
        compare(good, densities)
    with pytest.raises(TypeError, match=r"grid must be a jaxflow.density.Grid, got int"):
        compare(good, densities, 3)
    with pytest.raises(ValueError, match=r"coordinates, 2, got 1 in leaves of shape \(1,\)"):
        compare(good, solution(normal(PLANE), PLANE), PLANE)
    with pytest.raises(ValueError, match=r"densities must have values of shape \(T, 40, 60\)"):
        compare(members(draw(0, normal(PLANE), 20, PLANE)), densities, PLANE)
    with pytest.raises(ValueError, match=r"at least 10 members for a test, got 9"):
        compare(members(points[:9]), densities, GRID)
    with pytest.raises(TypeError, match=r"real numbers, got dtype complex128"):
        compare(members(points + 0j), densities, GRID)
    with pytest.raises(ValueError, match=r"finite and at least 0, but they are not at 1 of 1 times"):
        compare(good, solution(law * np.nan), GRID)
    for level in (0, 1, "high"):
        with pytest.raises(ValueError, match=r"level must be a number between 0 and 1"):
            compare(good, densities, GRID, level=level)
    with pytest.raises(ValueError, match=r"cells must be an integer at least 2, got 1"):
        compare(good, densities, GRID, cells=1)
    with pytest.warns(UserWarning, match=r"Only one of ensemble and densities is on the clock"):
        compare(dataclasses.replace(good, counts_steps=True), densities, GRID)
    traced = jax.jit(lambda x: compare(dataclasses.replace(good, values=x), densities, GRID))
    with pytest.raises(ValueError, match=r"concrete, got traced values"):
        traced(good.values)
