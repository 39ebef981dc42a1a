"""Spectral densities against spectra that are known, and their stated errors against the errors made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.curvature.spectrum.density import SpectralDensity, spectral_density
from jaxflow.curvature.spectrum.estimate import Estimate, mean

pytestmark = pytest.mark.promotes
KEY = jax.random.key(0)


def _diagonal(spectrum, x):
    return 0.5 * jnp.sum(spectrum * x**2)


def _form(matrix, x):
    return 0.5 * x @ matrix @ x


def symmetric(spectrum, seed=0):
    """A symmetric matrix of this spectrum, its eigenvectors random."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum),) * 2))
    return q @ np.diag(spectrum) @ q.T


def probes_of(key, probes, size):
    """The unit vectors that `spectral_density` starts from."""
    draws = np.stack([jax.random.normal(k, (size,)) for k in jax.random.split(key, probes)])
    return draws / np.linalg.norm(draws, axis=1, keepdims=True)


def test_a_probe_of_full_depth_is_its_spectral_measure():
    spectrum = np.array([-2.0, -0.5, 0.0, 0.1, 1.0, 3.0])
    density = spectral_density(Partial(_form, symmetric(spectrum)), np.zeros(6), KEY, probes=3, depth=100)
    assert density.nodes.shape == density.weights.shape == density.residuals.shape == (3, 6)
    np.testing.assert_allclose(density.nodes, np.tile(spectrum, (3, 1)), atol=1e-12)
    _, vectors = np.linalg.eigh(symmetric(spectrum))
    np.testing.assert_allclose(density.weights, (probes_of(KEY, 3, 6) @ vectors) ** 2, atol=1e-12)
    np.testing.assert_array_less(density.residuals, 1e-12)


def test_moments_are_those_of_each_probe_up_to_twice_the_depth():
    matrix = symmetric(np.linspace(-1, 2, 40))
    density = spectral_density(Partial(_form, matrix), np.zeros(40), KEY, probes=4, depth=5)
    vectors, nodes, weights = probes_of(KEY, 4, 40), *jax.device_get((density.nodes, density.weights))
    for power in range(10):
        seen = np.einsum("pi,ij,pj->p", vectors, np.linalg.matrix_power(matrix, power), vectors)
        np.testing.assert_allclose(np.sum(weights * nodes**power, 1), seen, rtol=1e-10)
        found = density.moment(power)
        np.testing.assert_allclose(found.value, seen.mean(), rtol=1e-10)
        np.testing.assert_allclose(found.error, seen.std(ddof=1) / 2, rtol=1e-6, atol=1e-14)


def test_residuals_bound_the_distance_to_an_eigenvalue():
    spectrum = np.concatenate([np.linspace(0, 1, 60), [5.0, 8.0]])
    density = spectral_density(Partial(_form, symmetric(spectrum)), np.zeros(62), KEY, probes=3, depth=12)
    distance = np.abs(np.asarray(density.nodes)[..., None] - spectrum).min(-1)
    assert np.all(distance <= density.residuals + 1e-12)
    residuals = np.asarray(density.residuals)
    assert np.all(residuals[:, -1] < 1e-6)  # the outliers have converged, the bulk has not
    assert np.all(residuals[:, 3] > 1e-3)


def test_the_smoothed_density_is_that_of_the_measure_and_integrates_to_one():
    density = spectral_density(Partial(_form, symmetric(np.linspace(-1, 2, 30))), np.zeros(30), KEY, depth=30)
    grid = np.linspace(-3, 4, 701)
    found = density.density(grid, 0.2)
    nodes, weights = np.asarray(density.nodes), np.asarray(density.weights)
    bumps = np.exp(-0.5 * ((grid[:, None, None] - nodes) / 0.2) ** 2) / (0.2 * np.sqrt(2 * np.pi))
    each = (bumps * weights).sum(2)
    np.testing.assert_allclose(found.value, each.mean(1), rtol=1e-10)
    np.testing.assert_allclose(found.error, each.std(1, ddof=1) / np.sqrt(10), rtol=1e-8, atol=1e-15)
    np.testing.assert_allclose(found.value.sum() * 0.01, 1.0, rtol=1e-6)
    default = density.density()
    np.testing.assert_allclose(np.trapezoid(default.value, density.grid()), 1.0, rtol=1e-4)
    np.testing.assert_allclose(density.width, 0.03, rtol=1e-10)


def test_equal_eigenvalues_have_one_node_in_effect_and_a_width():
    density = spectral_density(Partial(_diagonal, np.full(5, 3.0)), np.zeros(5), KEY)
    np.testing.assert_allclose(density.nodes, 3.0, rtol=1e-6)
    np.testing.assert_allclose(density.width, 0.03, rtol=1e-6)
    assert float(density.count_above(2.9)) == pytest.approx(5, abs=1e-9)


GAPS = np.concatenate([np.linspace(-1.0, -0.8, 7), np.linspace(0.0, 1.0, 180), [3.0, 3.2, 5.0]])


@pytest.fixture(scope="module")
def many():
    """Densities of one spectrum for 64 keys."""
    matrix = jnp.asarray(symmetric(GAPS))
    draw = jax.jit(
        jax.vmap(lambda key: spectral_density(Partial(_form, matrix), jnp.zeros(190), key, depth=40))
    )
    return draw(jax.random.split(KEY, 64))


@pytest.mark.parametrize(
    ("x", "above"), [(4.0, 1), (2.0, 3), (-0.4, 183)], ids=["one", "outliers", "all but the negative"]
)
def test_in_a_gap_the_error_of_a_count_is_the_error_made(many, x, above):
    count = jax.device_get(jax.vmap(lambda d: d.count_above(x))(many))
    z = (count.value - above) / count.error
    # The sum of 64 squares of standard normals is in [.55, 1.6]·64 but for 1 in 1,000; z is skewed: wider.
    assert 0.5 < np.mean(z**2) < 1.9
    assert abs(np.mean(count.value) - above) < 4 * np.std(count.value) / 8  # 1 in 16,000
    below = jax.vmap(lambda d: d.count_below(x))(many)
    np.testing.assert_allclose(below.value, 190 - count.value, atol=1e-9)


def test_within_a_cluster_the_error_of_a_count_covers_the_quadrature(many):
    for x in (0.013, 0.2, 0.5003, 0.87):
        count = jax.vmap(lambda d, x=x: d.count_above(x))(many)
        assert np.all(np.abs(count.value - (x < GAPS).sum()) < 4 * count.error)
        assert np.mean(count.error) < 20
    # Of 20 steps that cannot tell the bulk from its negative edge nothing is said that is not so.
    spectrum = np.concatenate([-np.geomspace(1e-7, 1e-4, 40), np.geomspace(1e-7, 1.0, 150)])
    density = spectral_density(Partial(_diagonal, spectrum), np.zeros(190), KEY, depth=20)
    count = density.count_below(0.0)
    assert abs(float(count) - 40) < count.error
    assert count.error > 20


def test_one_probe_has_no_standard_error_but_a_count_has_its_sampling_error():
    density = spectral_density(Partial(_diagonal, GAPS), np.zeros(190), KEY, probes=1)
    assert np.isinf(density.moment(1).error)
    assert density.count_above(4.0).error == pytest.approx(
        (2 * float(density.count_above(4.0))) ** 0.5, rel=0.05
    )


@pytest.fixture(scope="module")
def network():
    """A tanh network with two outputs, 31 parameters, and its Hessian and Gauss–Newton matrix by whole Jacobians."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    problem = jf.problems.mlp((x, y), (4,), loss="mse", key=jax.random.key(3), test_fraction=0.2)
    flat, unravel = jax.flatten_util.ravel_pytree(problem.params)
    hessian = jax.jit(jax.hessian(lambda p: problem.objective(unravel(p))))(flat)
    data = problem.objective.data
    jacobian = jax.jit(jax.jacobian(lambda p: problem.predict(unravel(p), data["x"]).ravel()))(flat)
    return problem, np.asarray(hessian), np.asarray(jacobian.T @ jacobian) / problem.objective.size


@pytest.mark.parametrize("gauss_newton", [False, True], ids=["Hessian", "Gauss-Newton"])
def test_a_network_of_full_depth_against_its_dense_matrix(network, gauss_newton):
    problem, hessian, gn = network
    density = spectral_density(problem.objective, problem.params, KEY, probes=2, gauss_newton=gauss_newton)
    size = len(hessian)
    assert density.size == size
    vectors = probes_of(KEY, 2, size)
    values, basis = np.linalg.eigh(gn if gauss_newton else hessian)
    for x in (-0.05, 0.02, 0.3):
        exact = ((vectors @ basis) ** 2)[:, values > x].sum(1)
        np.testing.assert_allclose(np.sum(density.weights * (density.nodes > x), 1), exact, atol=1e-8)


def test_a_preconditioner_scales_both_sides(network):
    problem, hessian, _ = network
    scale = jax.tree.map(lambda p: 1.0 + jnp.arange(p.size, dtype=p.dtype).reshape(p.shape), problem.params)
    density = spectral_density(problem.objective, problem.params, KEY, probes=2, preconditioner=scale)
    root = np.asarray(jax.flatten_util.ravel_pytree(scale)[0]) ** -0.5
    vectors, matrix = probes_of(KEY, 2, len(root)), root[:, None] * hessian * root
    expected = np.einsum("pi,ij,pj->p", vectors, matrix @ matrix, vectors)
    np.testing.assert_allclose(np.sum(density.weights * density.nodes**2, 1), expected, rtol=1e-9)
    whole = spectral_density(problem.objective, problem.params, KEY, probes=2, preconditioner=4.0)
    plain = spectral_density(problem.objective, problem.params, KEY, probes=2)
    np.testing.assert_allclose(4 * whole.nodes[:, -3:], plain.nodes[:, -3:], rtol=1e-9)


def test_chunks_agree_and_new_numbers_do_not_compile_anew(network):
    problem, *_ = network
    whole = spectral_density(problem.objective, problem.params, KEY, probes=2)
    chunked = jf.Objective(problem.objective.losses, problem.objective.data, chunk=5)
    pieces = spectral_density(chunked, problem.params, KEY, probes=2)
    np.testing.assert_allclose(pieces.moment(4).value, whole.moment(4).value, rtol=1e-9)
    before = programs()["curvature.spectrum.density.density"]
    moved = jax.tree.map(lambda p: p + 0.1, problem.params)
    spectral_density(problem.objective, moved, jax.random.key(9), probes=2)
    assert programs()["curvature.spectrum.density.density"] == before


def test_a_space_that_is_exhausted_at_once_in_single_precision():
    """Some of these keys have a probe that is exhausted to the last bit, after which Lanczos divides 0 by 0."""
    ones = Partial(_diagonal, np.ones(2, np.float32))
    for seed in range(20):
        density = spectral_density(ones, np.ones(2, np.float32), jax.random.key(seed))
        assert np.abs(density.nodes - 1).max() <= 2e-4
        assert np.abs(density.weights.sum(1) - 1).max() <= 1e-6
        assert np.isfinite(density.residuals).all()


def test_one_parameter_and_float32():
    density = spectral_density(lambda x: x**4, 1.0, KEY, probes=2)
    np.testing.assert_allclose(density.nodes, 12.0)
    np.testing.assert_allclose(density.weights, 1.0)
    single = spectral_density(
        Partial(_diagonal, np.arange(1, 9, dtype=np.float32)), np.zeros(8, np.float32), KEY
    )
    assert single.nodes.dtype == single.count_above(3.5).error.dtype == np.float32
    np.testing.assert_allclose(np.sort(single.nodes[0]), np.arange(1, 9), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"probes": 0}, ValueError, "probes must be an integer at least 1, got 0"),
        ({"depth": 0}, ValueError, "depth must be an integer at least 1, got 0"),
        ({"depth": 2.0}, TypeError, "depth must be an integer"),
        ({"preconditioner": 0.0}, ValueError, "preconditioner must be positive everywhere, got 0"),
        ({"preconditioner": np.array([1.0, -2.0])}, ValueError, "must be positive everywhere, got -2"),
        ({"preconditioner": np.ones(3)}, ValueError, "must have the shapes of params"),
        ({"gauss_newton": True}, TypeError, "predict and loss"),
        ({"key": 0}, TypeError, "key must be a PRNG key"),
        ({"params": 1j}, TypeError, "real arrays"),
        ({"objective": 3.0}, TypeError, "objective must be"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_input_is_refused(change, error, match):
    arguments = {"objective": lambda x: jnp.sum(x**2), "params": np.zeros(2), "key": KEY} | change
    with pytest.raises(error, match=match):
        spectral_density(**arguments)


def test_bad_widths_and_powers_are_refused():
    density = SpectralDensity(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.zeros((1, 1)), 1)
    with pytest.raises(ValueError, match="width must be a finite number above 0"):
        density.density(width=0.0)
    with pytest.raises(ValueError, match="power must be an integer at least 0"):
        density.moment(-1)


def test_estimates_read_as_numbers_with_their_errors():
    estimate = lambda value, error: Estimate(jnp.asarray(value), jnp.asarray(error))
    assert repr(estimate(12.3412, 0.0521)) == "12.341 ± 0.052"
    assert repr(estimate(-1234.5, 56.0)) == "-1234 ± 56"
    assert repr(estimate(3.0, 0.0)) == "3 ± 0"
    assert repr(estimate(3.0, np.inf)) == "3 ± inf"
    assert repr(estimate(1.5e-12, 2e-14)) == "1.5e-12 ± 2e-14"
    assert repr(estimate(np.ones(3), np.ones(3))) == "Estimate(value of shape [3])"
    assert float(estimate(2.5, 0.1)) == 2.5
    samples = np.random.default_rng(0).normal(size=(7, 2))
    found = mean(jnp.asarray(samples))
    np.testing.assert_allclose(found.error, samples.std(0, ddof=1) / 7**0.5)


ROTATION = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "values",
    [(0.0,) * 8, (3.0,) * 8, (-1e-6,) * 8, (1e3, 5, 1, 0, 0, 0, 0, 0), (2.0, 0, 0, 0, 0, 0, 0, -1)],
    ids=str,
)
def test_an_eigenvalue_that_is_0_is_on_no_side_of_it(values, dtype):
    """Counts at 0 are those of the signs: exact where all are alike, or else within 4 standard errors."""
    matrix = jnp.asarray(ROTATION @ np.diag(values) @ ROTATION.T, dtype)
    linear = not any(values)
    loss = (lambda x: jnp.sum(3 * x)) if linear else Partial(_form, matrix)
    density = spectral_density(loss, jnp.ones(8, dtype), jax.random.key(0), probes=20)
    for found, expected in (
        (density.count_above(0.0), np.sum(np.array(values) > 0)),
        (density.count_below(0.0), np.sum(np.array(values) < 0)),
    ):
        if expected in (0, 8):
            assert found.value == pytest.approx(expected, abs=1e-5)
        else:
            assert abs(found.value - expected) <= 4 * found.error
    if len(set(values)) == 1:
        assert density.count_above(values[0]).value == density.count_below(values[0]).value == 0
        np.testing.assert_allclose(density.nodes, values[0], rtol=1e-5)
