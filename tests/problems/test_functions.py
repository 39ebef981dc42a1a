"""Deterministic functions: stated stationary points, curvatures and flows against independent computations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from jaxflow import problems

ALL = {
    **problems.FUNCTIONS,
    "quadratic": lambda: problems.quadratic([3.0, 0.5, 10.0]),
    "rosenbrock in 5-D": lambda: problems.rosenbrock(5),
    "double_well in 3-D": lambda: problems.double_well(3),
}
WITH_FLOW = ["quadratic", "ravine", "double_well", "double_well in 3-D", "x_plus_sin_x"]


@jax.jit
def locally(objective, points):
    """Values, gradients and Hessians at stacked points."""
    return jax.vmap(lambda x: (objective(x), jax.grad(objective)(x), jax.hessian(objective)(x)))(points)


def newton(objective, points, steps):
    """Newton's method from stacked points, to whatever stationary point is near."""
    points = np.asarray(points)
    for _ in range(steps):
        _, gradients, hessians = map(np.asarray, locally(objective, points))
        points = points - np.linalg.solve(hessians, gradients[..., None])[..., 0]
    return points


def integrated(objective, x0, times):
    """Gradient flow by an eighth-order method whose error is far below the tolerance of these tests."""
    slope = jax.jit(jax.grad(objective))
    field = lambda t, x: -np.asarray(slope(jnp.asarray(x)))
    states = [np.asarray(x0)]
    for span in itertools.pairwise(times):  # not by interpolation, which is of lower order
        solution = solve_ivp(field, span, states[-1], "DOP853", rtol=1e-11, atol=1e-13)
        assert solution.success
        states.append(solution.y[:, -1])
    return np.array(states)


@pytest.mark.parametrize("name", ALL)
def test_minima_are_minima_and_saddles_saddles(name):
    problem = ALL[name]()
    for points, index in ((problem.minima, 0), (problem.saddles, 1)):
        if points is None:
            continue
        assert points.shape[1:] == problem.params.shape
        values, gradients, hessians = map(np.asarray, locally(problem.objective, points))
        spectra = np.linalg.eigvalsh(hessians)
        # Relative to the curvature: 1e-12 is where Newton's method on these functions stops in float64.
        assert (abs(gradients) <= 1e-12 * abs(spectra).max(axis=1, keepdims=True)).all()
        assert ((spectra < 0).sum(axis=1) == index).all()
        assert (np.diff(values) > -1e-12).all(), "deepest first"
        if index == 0:
            np.testing.assert_allclose(problem.curvature, spectra[0], rtol=1e-8)
            if problem.minimum is not None:
                np.testing.assert_allclose(values[0], problem.minimum, rtol=1e-13, atol=1e-25)
                assert float(jax.jit(problem.objective)(problem.params)) > problem.minimum


@pytest.mark.parametrize("name", WITH_FLOW)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_closed_flow_is_the_gradient_flow(name, seed):
    problem = ALL[name]()
    x0 = problem.params if seed == 0 else 3.0 * np.random.default_rng(seed).normal(size=problem.params.shape)
    times = np.array([0.0, 0.01, 0.3, 1.0, 4.0])
    flow = jax.jit(jax.vmap(problem.flow, (0, None)))(times, x0)
    np.testing.assert_allclose(flow, integrated(problem.objective, x0, times), rtol=1e-8, atol=1e-9)


def test_functions_without_a_flow_say_so():
    assert {name for name in ALL if ALL[name]().flow is not None} == set(WITH_FLOW)


@pytest.mark.parametrize("x0", [-7.0, -4.0, -3.0, -1e-3, 0.0, 3.0, 3.5, 9.0, 11.0])
def test_x_plus_sin_x_flows_on_every_branch(x0):
    problem = problems.x_plus_sin_x()
    times = np.array([0.0, 0.5, 20.0])
    flow = jax.jit(jax.vmap(problem.flow, (0, None)))(times, np.array([x0]))
    np.testing.assert_allclose(flow, integrated(problem.objective, [x0], times), rtol=1e-8, atol=1e-9)


def test_x_plus_sin_x_rests_at_its_inflections_and_creeps_to_them_like_2_over_t():
    problem = problems.x_plus_sin_x()
    slope, flow = jax.jit(jax.grad(problem.objective)), jax.jit(problem.flow)
    inflections = np.pi * np.array([-3.0, -1.0, 1.0, 3.0])
    np.testing.assert_allclose(slope(inflections), 0.0, atol=1e-15)
    np.testing.assert_allclose(flow(5.0, inflections), inflections, atol=1e-12)
    assert (np.asarray(slope(np.linspace(-20.0, 20.0, 1001))) >= 0).all()
    distance = np.asarray(flow(1e4, problem.params)) + np.pi
    np.testing.assert_allclose(distance * 1e4, 2.0, rtol=1e-3)


def test_the_double_well_flow_at_and_beyond_its_equilibria():
    problem = problems.double_well()
    flow, loss = problem.flow, jax.jit(problem.objective)
    for point in (-1.0, 0.0, 1.0):
        assert flow(1e6, np.array([point])) == point
    assert flow(1e6, np.array([-1e-8])) == -1.0
    assert jax.jit(jax.grad(lambda x: problem.flow(2.0, x)))(0.0) == pytest.approx(np.exp(2.0))
    barrier = float(loss(np.asarray(problem.saddles)[0])) - problem.minimum
    assert barrier == 0.25
    assert np.asarray(locally(problem.objective, problem.saddles)[2]) == -1.0
    assert float(loss(0.5)) == float(loss(np.array([0.5])))


def test_muller_brown_against_the_literature():
    """Points and energies as commonly tabulated, three to four digits; refined by Newton's method."""
    problem = problems.muller_brown()
    minima = {(-0.558, 1.442): -146.700, (0.623, 0.028): -108.167, (-0.050, 0.467): -80.768}
    saddles = {(0.212, 0.293): -72.249, (-0.822, 0.624): -40.665}
    for table, points in ((minima, problem.minima), (saddles, problem.saddles)):
        starts, energies = np.array(list(table)), list(table.values())
        np.testing.assert_allclose(points, starts, rtol=0, atol=1e-3)
        np.testing.assert_allclose(points, newton(problem.objective, starts, 6), rtol=0, atol=1e-10)
        np.testing.assert_allclose(jax.jit(jax.vmap(problem.objective))(points), energies, rtol=0, atol=6e-4)


def stationary_points(objective, limit):
    """Every zero of the derivative in [-limit, limit], by bracketing; with whether it is a minimum."""
    slope = jax.jit(jax.vmap(jax.grad(objective)))
    grid = np.linspace(-limit, limit, 20_001) + 1e-5
    values = np.asarray(slope(grid))
    found = {True: [], False: []}
    for i in np.flatnonzero(values[:-1] * values[1:] < 0):
        root = brentq(lambda x: float(slope(np.array([x]))[0]), grid[i], grid[i + 1], xtol=1e-15)
        found[bool(values[i] < 0)].append(root)
    return found


@pytest.mark.parametrize(("name", "limit"), [("sines_minus_parabola", 13.0), ("x_sin_x", 6.0)])
def test_every_stationary_point_of_a_ripple_is_listed(name, limit):
    # Outside |x| ≤ 12.5 the slope 2x − 25 cos x of the first has no zero at all.
    problem = problems.FUNCTIONS[name]()
    found = stationary_points(problem.objective, limit)
    np.testing.assert_allclose(np.sort(problem.minima.ravel()), found[True], atol=1e-10)
    np.testing.assert_allclose(np.sort(problem.saddles.ravel()), found[False], atol=1e-10)


def test_values_in_the_docstrings():
    peaks = problems.sines_minus_parabola()
    hill = lambda points: [-float(peaks.objective(x)) for x in points]
    np.testing.assert_allclose(hill(peaks.minima), [22.716, 4.454, -31.983, -86.370], rtol=0, atol=6e-4)
    np.testing.assert_allclose(hill(peaks.saddles), [-27.682, -49.169, -92.322], rtol=0, atol=6e-4)
    end = integrated(peaks.objective, [6.0], np.array([0.0, 5.0]))[-1]
    np.testing.assert_allclose(end, peaks.minima[2], atol=1e-8)
    himmelblau = problems.himmelblau()
    heights = [float(himmelblau.objective(x)) for x in himmelblau.saddles]
    np.testing.assert_allclose(heights, [13.31, 67.72, 104.02, 178.34], atol=6e-3)
    np.testing.assert_allclose(himmelblau.curvature, [54 - 20 * 2**0.5, 54 + 20 * 2**0.5], rtol=1e-14)
    ripples = problems.x_sin_x()
    values = [float(ripples.objective(x)) for x in (*ripples.minima, *ripples.saddles)]
    np.testing.assert_allclose(values, [-4.8145, -4.8145, 0.0, 1.8197, 1.8197], atol=6e-5)


def test_rosenbrock_has_another_local_minimum_in_four_dimensions():
    problem = problems.rosenbrock(4)
    x = newton(problem.objective, [[-1.0, 1.0, 1.0, 1.0]], 20)
    _, gradient, hessian = map(np.asarray, locally(problem.objective, x))
    np.testing.assert_allclose(gradient, 0.0, atol=1e-10)
    np.testing.assert_allclose(x, [[-0.776, 0.613, 0.382, 0.146]], atol=6e-4)
    assert problem.objective(x[0]) == pytest.approx(3.70, abs=6e-3)
    assert (np.linalg.eigvalsh(hessian) > 0).all()


def test_both_directions_of_a_ravine_matter():
    problem = problems.ravine(condition=400.0)
    halves = 0.5 * np.array([1.0, 400.0]) * np.asarray(problem.params) ** 2
    np.testing.assert_allclose(halves, 0.5, rtol=1e-14)
    slope = jax.jit(jax.grad(lambda c: problems.ravine(c).objective(jnp.ones(2))))(4.0)
    assert slope == 0.5


@pytest.mark.parametrize("given", [[1.0, 2.0], (1, 2), np.array([1.0, 2.0]), jnp.array([1, 2])])
def test_eigenvalues_come_in_any_form(given):
    problem = problems.quadratic(given)
    assert problem.params.dtype == jnp.float64
    assert problem.objective(problem.params) == 1.5


def test_the_curvature_of_a_quadratic_ascends():
    assert problems.quadratic([3.0, 1.0, 2.0]).curvature.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: problems.quadratic(1.0), ValueError, "shape"),
        (lambda: problems.quadratic([]), ValueError, "shape"),
        (lambda: problems.quadratic([1.0, -1.0]), ValueError, "at least 0"),
        (lambda: problems.quadratic([1.0, np.nan]), ValueError, "finite"),
        (lambda: problems.ravine(0.0), ValueError, "condition"),
        (lambda: problems.ravine("steep"), TypeError, "condition"),
        (lambda: problems.rosenbrock(1), ValueError, "dimension"),
        (lambda: problems.rosenbrock(2.0), TypeError, "dimension"),
        (lambda: problems.double_well(0), ValueError, "dimension"),
    ],
)
def test_bad_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()
