"""Leading eigenpairs, cold and warm, against NumPy's dense ones; residuals against NumPy products."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.curvature import sharpness, top_eigenpairs
from jaxflow.curvature.spectrum.powers import power_iteration

RNG = np.random.default_rng(0)
EPS = np.finfo(float).eps


def _form(matrix, x):
    x = ravel_pytree(x)[0]
    return 0.5 * x @ matrix @ x


def form(matrix):
    """A quadratic whose matrix is an argument of the compiled program."""
    return jax.tree_util.Partial(_form, jax.device_put(matrix))


def orthogonal(n, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def symmetric(values, seed=0):
    q = orthogonal(len(values), seed)
    return (q * np.asarray(values)) @ q.T


def leading(matrix, k):
    return np.linalg.eigvalsh(matrix)[::-1][:k]


def rows(vectors):
    """Vectors as the rows of a NumPy matrix."""
    return np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(vectors)], axis=1)


def honest(found, matrix, precision=EPS):
    """The pairs are orthonormal, their residuals are true, and bound the distance to an eigenvalue."""
    vectors, values, residuals = rows(found.vectors), np.asarray(found.values), np.asarray(found.residuals)
    size, n = np.abs(matrix).sum(1).max() or 1.0, len(matrix)
    ulps = (40 + 4 * n) * precision * size
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(values)), atol=200 * n * precision)
    true = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
    np.testing.assert_allclose(residuals, true, rtol=1e-2, atol=ulps)
    nearest = np.abs(np.linalg.eigvalsh(matrix)[:, None] - values[None]).min(0)
    assert (nearest <= residuals * 1.01 + ulps).all()
    assert (np.diff(values) <= 0).all()


@pytest.fixture(scope="module")
def digits():
    """A digits network on its way, and the product with its Hessian."""
    problem = jf.problems.mlp("digits", hidden=(32, 32), loss="mse")
    objective = jf.Objective(
        problem.objective.losses, jax.tree.map(lambda x: x[:500], problem.objective.data)
    )
    params = jf.iterate(jf.optim.gd(0.3), objective, problem.params, steps=200, every=None).params
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def product(objective, flat, v):
        return jax.jvp(jax.grad(lambda x: objective(unravel(x))), (flat,), (v,))[1]

    return objective, params, lambda v: np.asarray(product(objective, flat, jnp.asarray(v).ravel()))


def test_five_eigenvalues_of_a_digits_network(digits):
    """Against ARPACK; the benchmarks compare with the dense Hessian."""
    objective, params, product = digits
    found = top_eigenpairs(objective, params, 5)
    assert found.products <= 60
    operator = scipy.sparse.linalg.LinearOperator((3466, 3466), matvec=product, dtype=float)
    expected = np.sort(scipy.sparse.linalg.eigsh(operator, 5, which="LA", return_eigenvectors=False))[::-1]
    np.testing.assert_allclose(found.values, expected, rtol=1e-8)
    vectors = rows(found.vectors)
    images = np.stack([product(v) for v in vectors])
    true = np.linalg.norm(images - np.asarray(found.values)[:, None] * vectors, axis=1)
    np.testing.assert_allclose(found.residuals, true, rtol=1e-2, atol=50 * EPS * expected[0])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(5), atol=1e-12)


N, K = 12, 4
SPECTRA = {
    "spread": np.linspace(-3, 5, N),
    "repeated": np.repeat([4.0, 2.0, 1.0], 4),
    "identity": np.ones(N),
    "zero": np.zeros(N),
    "negative": -np.arange(1.0, N + 1),
    "rank one": np.append(np.zeros(N - 1), 3.0),
    "tiny": 1e-12 * np.arange(N),
    "huge": 1e12 * np.arange(N),
    "clustered": 1 + 1e-9 * np.arange(N),
}


@pytest.mark.parametrize("rotated", [True, False], ids=["rotated", "diagonal"])
@pytest.mark.parametrize("name", SPECTRA)
def test_small_matrices(name, rotated):
    values = SPECTRA[name]
    matrix = symmetric(values) if rotated else np.diag(values)
    found = top_eigenpairs(form(matrix), np.ones(N), K)
    size = np.abs(values).max() or 1.0
    np.testing.assert_allclose(found.values, np.sort(values)[::-1][:K], rtol=0, atol=20 * N * EPS * size)
    honest(found, matrix)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 2), (5, 5), (5, 4)])
def test_as_many_as_there_are(n, k):
    matrix = symmetric(np.arange(n) - 1.5)
    found = top_eigenpairs(form(matrix), np.ones(n), k)
    np.testing.assert_allclose(found.values, leading(matrix, k), atol=1e-13)
    honest(found, matrix)
    warm = top_eigenpairs(form(matrix + 0.1 * np.eye(n)), np.ones(n), k, start=found)
    np.testing.assert_allclose(warm.values, leading(matrix, k) + 0.1, atol=1e-12)


LARGE = 90  # above the products of a cold start


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "few values, diagonal": np.repeat([1.0, 3.0, -2.0], 30),
        "few values among zeros": np.append(np.zeros(LARGE - 3), [1.0, 2.0, 3.0]),
        "zero": np.zeros(LARGE),
        "identity": np.ones(LARGE),
        "negative": -np.repeat([1.0, 3.0], 45),
    }.items(),
)
def test_exactly_invariant_subspaces(name, values):
    """A Krylov space that is exhausted after two or three products; those left over are rounding."""
    for matrix in (np.diag(values), symmetric(values)):
        found = top_eigenpairs(form(matrix), np.ones(LARGE), 3)
        assert np.isfinite(np.asarray(found.values)).all()
        assert found.products <= 44 + 7 * 3
        assert float(found.values[0]) == pytest.approx(values.max(), abs=1e-12)
        honest(found, matrix)


def test_a_leading_eigenvalue_that_is_repeated():
    """No Krylov space of one vector has two directions of an eigenvalue: one is found, and the rest is honest."""
    values = np.append(np.linspace(-1, 4, LARGE - 3), [5.0, 5.0, 5.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = top_eigenpairs(form(symmetric(values)), np.ones(LARGE), 3)
    honest(found, symmetric(values))
    assert float(found.values[0]) == pytest.approx(5, rel=1e-12)


# A Hessian of a network, with several leaves, against which preconditioners are tried.
PARAMS = {"a": RNG.normal(size=(3, 4)), "b": RNG.normal(size=4), "c": np.array(0.2)}
DATA = {"x": RNG.normal(size=(9, 3)), "y": RNG.normal(size=(9, 4))}


def predict(params, x):
    return jnp.tanh(x @ params["a"] + params["b"][None]) * params["c"]


NETWORK = jf.Objective(jf.problems.PredictionLosses(predict, jf.problems.losses.squared_error), DATA)
FLAT, UNRAVEL = ravel_pytree(jax.tree.map(jnp.asarray, PARAMS))


@jax.jit
def _dense(flat):
    return jax.hessian(lambda x: NETWORK(UNRAVEL(x)))(flat)


@pytest.fixture(scope="module")
def network():
    return np.asarray(_dense(FLAT))


SCALES = np.exp(RNG.uniform(-2, 2, FLAT.size))


@pytest.mark.parametrize(
    ("preconditioner", "p"),
    [
        (None, np.ones(17)),
        (0.25, np.full(17, 0.25)),
        (np.float32(3), np.full(17, 3.0)),
        (UNRAVEL(SCALES), SCALES),
    ],
    ids=["none", "number", "single precision", "pytree"],
)
def test_preconditioned_eigenpairs(network, preconditioner, p):
    found = top_eigenpairs(NETWORK, PARAMS, 3, preconditioner=preconditioner)
    expected = scipy.linalg.eigh(network, np.diag(p), eigvals_only=True)[::-1][:3]
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)
    vectors, values = rows(found.vectors), np.asarray(found.values)
    np.testing.assert_allclose((vectors * p) @ vectors.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(vectors @ network, values[:, None] * vectors * p, atol=1e-11)
    assert jax.tree.map(jnp.shape, found.vectors) == {"a": (3, 3, 4), "b": (3, 4), "c": (3,)}
    root = np.diag(p**-0.5)
    honest(dataclasses.replace(found, vectors=vectors * np.sqrt(p)), root @ network @ root)


def test_warm_with_a_preconditioner(network):
    """The vectors given are P-orthonormal, and so are those returned, for a P that has changed."""
    start = top_eigenpairs(NETWORK, PARAMS, 3, preconditioner=UNRAVEL(SCALES))
    p = SCALES * 1.1
    found = top_eigenpairs(NETWORK, PARAMS, 3, preconditioner=UNRAVEL(p), start=start)
    expected = scipy.linalg.eigh(network, np.diag(p), eigvals_only=True)[::-1][:3]
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    vectors = rows(found.vectors)
    np.testing.assert_allclose((vectors * p) @ vectors.T, np.eye(3), atol=1e-12)
    assert found.products <= 9  # SCALES and p are proportional: the vectors are exact
    from_vectors = top_eigenpairs(NETWORK, PARAMS, 3, preconditioner=UNRAVEL(p), start=start.vectors)
    np.testing.assert_array_equal(from_vectors.values, found.values)


def test_gauss_newton():
    jacobian = np.asarray(jax.jit(jax.jacfwd(lambda x: predict(UNRAVEL(x), DATA["x"]).ravel()))(FLAT))
    matrix = jacobian.T @ jacobian / 9
    found = top_eigenpairs(NETWORK, PARAMS, 3, gauss_newton=True)
    np.testing.assert_allclose(found.values, leading(matrix, 3), rtol=1e-12)
    honest(found, matrix)
    chunked = jf.Objective(NETWORK.losses, DATA, chunk=4)
    estimate = sharpness(chunked, PARAMS, gauss_newton=True, preconditioner=2.0)
    assert float(estimate) == pytest.approx(leading(matrix, 1)[0] / 2, rel=1e-12)


def test_sharpness_is_the_first(network):
    estimate = sharpness(NETWORK, PARAMS)
    assert estimate.value.shape == estimate.error.shape == ()
    assert float(estimate) == pytest.approx(leading(network, 1)[0], rel=1e-12)
    assert abs(float(estimate) - leading(network, 1)[0]) <= float(estimate.error) + 1e-12
    lanes = jax.vmap(lambda x: sharpness(NETWORK, UNRAVEL(x)))(np.outer([1, 2], FLAT))
    expected = [leading(network, 1)[0], leading(np.asarray(_dense(2 * np.asarray(FLAT))), 1)[0]]
    np.testing.assert_allclose(lanes.value, expected, rtol=1e-12)


BASE = symmetric(np.append(np.linspace(0, 1, LARGE - 5), [2.0, 3.0, 4.0, 5.0, 6.0]))
BENT = BASE + 1e-2 * symmetric(np.linspace(-1, 1, LARGE), seed=1)


def test_warm_needs_fewer_products():
    old = top_eigenpairs(form(BASE), np.ones(LARGE), 3)
    cold = top_eigenpairs(form(BENT), np.ones(LARGE), 3)
    for tolerance in (1e-2, 1e-4, 1e-5):
        warm = top_eigenpairs(form(BENT), np.ones(LARGE), 3, start=old, tolerance=tolerance)
        assert warm.products <= 15 < cold.products
        honest(warm, BENT)
        assert (np.asarray(warm.residuals) <= tolerance * float(warm.values[0])).all()
        np.testing.assert_allclose(warm.values, leading(BENT, 3), rtol=tolerance**2 * 10 + 1e-13)


def test_eigenvalues_that_cross():
    """From 6 and 5 to 4.9 and 5.6, with the third beyond them both: the order changes, the span hardly."""
    q = orthogonal(LARGE)
    values = np.append(np.linspace(0, 1, LARGE - 3), [4.0, 5.0, 6.0])
    found = top_eigenpairs(form((q * values) @ q.T), np.ones(LARGE), 3)
    values[-3:] = [7.0, 5.6, 4.9]
    crossed = (q * values) @ q.T + 1e-3 * symmetric(np.linspace(-1, 1, LARGE), seed=2)
    warm = top_eigenpairs(form(crossed), np.ones(LARGE), 3, start=found)
    np.testing.assert_allclose(warm.values, leading(crossed, 3), rtol=1e-7)
    honest(warm, crossed)


@pytest.mark.parametrize("start", ["two equal", "all equal", "zero", "parallel and zero"])
def test_starts_of_a_lower_rank(start):
    one, two = symmetric(np.arange(LARGE))[:2]
    given = {
        "two equal": [one, one, two],
        "all equal": [one, one, one],
        "zero": [0 * one] * 3,
        "parallel and zero": [one, -2 * one, 0 * one],
    }[start]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may not have converged, from a start that is none
        found = top_eigenpairs(form(BASE), np.ones(LARGE), 3, start=np.array(given), products=30)
    honest(found, BASE)
    np.testing.assert_allclose(found.values, leading(BASE, 3), rtol=1e-4)


@pytest.mark.parametrize(("n", "k"), [(3, 2), (5, 2), (5, 3), (7, 3), (4, 3)])
def test_warm_in_a_space_of_few_more_dimensions(n, k):
    """Blocks of k do not fill n dimensions, and the last may be narrower: still every direction can be reached."""
    matrix = np.diag(np.arange(1.0, n + 1))
    start = np.eye(n)[:k]  # of the smallest eigenvalues, exactly invariant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = top_eigenpairs(form(matrix), np.ones(n), k, start=start, products=20 * k)
    np.testing.assert_allclose(found.values, leading(matrix, k), rtol=1e-6)


def test_warm_of_an_exact_eigenvector_costs_a_block_more():
    found = top_eigenpairs(form(BASE), np.ones(LARGE), 3)
    again = top_eigenpairs(form(BASE), np.ones(LARGE), 3, start=found)
    assert again.products == 6
    np.testing.assert_allclose(again.values, found.values, rtol=1e-13)


@pytest.mark.parametrize(("k", "products"), [(1, 1), (1, 2), (3, 3), (3, 4), (3, 6)])
def test_too_few_products_are_warned_of_and_kept_to(k, products):
    with pytest.warns(
        UserWarning, match=rf"of {k} eigenpairs did not converge: residual .* more products than"
    ):
        found = top_eigenpairs(form(BENT), np.ones(LARGE), k, products=products)
    assert found.products <= products
    honest(found, BENT)


def test_a_warm_start_far_away_is_warned_of():
    start = np.eye(LARGE)[:3]
    with pytest.warns(UserWarning, match="did not converge"):
        found = top_eigenpairs(form(BENT), np.ones(LARGE), 3, start=start, products=3)
    assert found.products == 3
    honest(found, BENT)


def test_a_loss_with_kinks_is_warned_of():
    with pytest.warns(UserWarning, match="not twice differentiable .relu"):
        found = sharpness(lambda x: jnp.sum(jax.nn.relu(x) ** 2), jnp.ones(4))
    assert float(found) == pytest.approx(2.0)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_lower_precision(dtype):
    loss = form(np.float32(BENT))
    found = top_eigenpairs(loss, jnp.ones(LARGE, dtype), 3)
    assert found.values.dtype == found.residuals.dtype == found.vectors.dtype == np.float32
    np.testing.assert_allclose(found.values, leading(BENT, 3), rtol=1e-5)
    honest(found, BENT, 1e-7)
    warm = top_eigenpairs(loss, jnp.ones(LARGE, dtype), 3, start=found)
    np.testing.assert_allclose(warm.values, leading(BENT, 3), rtol=1e-5)
    zero = top_eigenpairs(form(np.zeros((LARGE, LARGE), np.float32)), jnp.ones(LARGE, dtype), 3)
    assert np.abs(zero.values).max() < 1e-5


def test_lanes_are_single_calls():
    matrices = np.stack([BASE, BENT, BASE - 7 * np.eye(LARGE)])
    cold = jax.jit(jax.vmap(lambda m: top_eigenpairs(form(m), jnp.ones(LARGE), 3)))(matrices)
    starts = np.asarray(cold.vectors)[[0, 0, 2]]
    warm = jax.jit(jax.vmap(lambda m, s: top_eigenpairs(form(m), jnp.ones(LARGE), 3, start=s)))(
        matrices, starts
    )
    for i, matrix in enumerate(matrices):
        one = top_eigenpairs(form(matrix), np.ones(LARGE), 3)
        np.testing.assert_allclose(np.asarray(cold.values)[i], one.values, atol=1e-13)
        alone = top_eigenpairs(form(matrix), np.ones(LARGE), 3, start=starts[i])
        np.testing.assert_allclose(np.asarray(warm.values)[i], alone.values, atol=1e-13)
        assert np.asarray(warm.products)[i] == alone.products


def test_other_numbers_compile_nothing():
    top_eigenpairs(form(BASE), np.ones(LARGE), 3, preconditioner=1.5)
    before = programs()["curvature.spectrum.eigenpairs.top_eigenpairs"]
    top_eigenpairs(form(BENT), np.zeros(LARGE), 3, preconditioner=2.5, tolerance=1e-3)
    assert programs()["curvature.spectrum.eigenpairs.top_eigenpairs"] == before


def test_repr():
    found = top_eigenpairs(form(symmetric(np.arange(3.0))), np.ones(3), 2)
    found = dataclasses.replace(found, residuals=np.array([1e-5, 3e-4]), products=np.array(7))
    assert repr(found) == "Eigenpairs(2, 1; residuals ≤ 0.0003, 7 products)"
    assert "shape" in repr(jax.tree.map(lambda x: np.stack([x, x]), found))


ONES = np.ones(3)


def quadratic(x):
    return 0.5 * jnp.sum(x**2)


@pytest.mark.parametrize(
    ("objective", "changes", "error", "message"),
    [
        (1.0, {}, TypeError, "objective must be .*1.0"),
        (jf.games.VectorField(jnp.sin), {}, TypeError, "objective must be .*VectorField"),
        (quadratic, {"params": ONES * 1j}, TypeError, "params.*complex128"),
        (quadratic, {"params": {"w": np.arange(3)}}, TypeError, r"params.*\['w'\].*int64"),
        (quadratic, {"params": ()}, ValueError, "params must be a pytree with at least one array"),
        (quadratic, {"k": 0}, ValueError, "k must be .*at least 1, got 0"),
        (quadratic, {"k": 4}, ValueError, "k must be at most 3.*got 4"),
        (quadratic, {"k": 2.0}, TypeError, "k must be .*2.0"),
        (quadratic, {"k": 2, "products": 1}, ValueError, "products must be .*at least 2, got 1"),
        (quadratic, {"products": 2.5}, TypeError, "products must be .*2.5"),
        (quadratic, {"tolerance": 0.0}, ValueError, "tolerance must be .*0.0"),
        (quadratic, {"tolerance": float("nan")}, ValueError, "tolerance must be .*nan"),
        (quadratic, {"preconditioner": 0.0}, ValueError, "preconditioner must be positive.*got 0"),
        (quadratic, {"preconditioner": -2.0}, ValueError, "preconditioner must be positive.*got -2"),
        (quadratic, {"preconditioner": float("nan")}, ValueError, "preconditioner must be positive.*got nan"),
        (quadratic, {"preconditioner": float("inf")}, ValueError, "preconditioner must be .*inf"),
        (quadratic, {"preconditioner": np.array([1, 0, 2.0])}, ValueError, "preconditioner must be .*got 0"),
        (quadratic, {"preconditioner": np.array([1, np.nan, 2])}, ValueError, "preconditioner must be .*got nan"),
        (quadratic, {"preconditioner": 1j}, TypeError, "preconditioner must be"),
        (quadratic, {"preconditioner": "adam"}, TypeError, "preconditioner must be"),
        (quadratic, {"preconditioner": np.ones(2)}, ValueError, r"preconditioner must have .*\(2,\)"),
        (quadratic, {"preconditioner": np.ones(1)}, ValueError, r"preconditioner must have .*\(1,\)"),
        (quadratic, {"preconditioner": {"w": ONES}}, TypeError, "preconditioner must be a pytree like params"),
        (quadratic, {"start": ONES}, ValueError, "start must hold 1 vectors"),
        (quadratic, {"start": np.ones((2, 3))}, ValueError, r"start must hold 1 vectors.*\(2, 3\)"),
        (quadratic, {"start": {"w": np.ones((1, 3))}}, TypeError, "start must be Eigenpairs or a pytree"),
        (quadratic, {"start": 1j * np.ones((1, 3))}, TypeError, "start must be"),
        (quadratic, {"gauss_newton": True}, TypeError, "objective must be .*predict and loss"),
    ],
)  # fmt: skip
def test_refused(objective, changes, error, message):
    arguments = {"params": ONES} | changes
    with pytest.raises(error, match=message):
        top_eigenpairs(objective, **arguments)


@pytest.mark.parametrize("seed", range(3))
def test_power_iteration_of_a_symmetric_matrix(seed):
    values = np.append(np.linspace(-1, 1, 9), -2.0)
    matrix = symmetric(values, seed)
    powers = jax.jit(lambda m, v: power_iteration(lambda v: m @ v, v, 120))(matrix, np.ones(10))
    assert powers.growth.shape == powers.rayleigh.shape == (120,)
    assert float(powers.growth[-1]) == pytest.approx(2.0, rel=1e-10)
    assert float(powers.rayleigh[-1]) == pytest.approx(-2.0, rel=1e-10)
    first = np.linalg.norm(matrix @ np.ones(10)) / np.sqrt(10)
    assert float(powers.growth[0]) == pytest.approx(first, rel=1e-12)


def test_power_iteration_of_a_map_that_rotates():
    """A leading pair 1.5 e^{±i}, in oblique coordinates of a pytree: only the mean of log growth has a limit."""
    pair = 1.5 * np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    basis = np.array([[1.0, 5.0, 0.0], [0.0, 1.0, 3.0], [0.0, 0.0, 1.0]])
    matrix = basis @ scipy.linalg.block_diag(pair, 0.4) @ np.linalg.inv(basis)
    apply = lambda v: dict(zip("ab", jnp.split(matrix @ jnp.append(v["a"], v["b"]), [2]), strict=True))
    powers = jax.jit(lambda v: power_iteration(apply, v, 4000))({"a": jnp.ones(2), "b": jnp.ones(1)})
    radius = np.abs(np.linalg.eigvals(matrix)).max()
    growth = np.asarray(powers.growth)
    assert np.ptp(growth[-20:]) > 0.5
    # A bounded oscillation's share of the mean, log of the condition number / 4000, is left.
    assert np.exp(np.log(growth).mean()) == pytest.approx(radius, rel=2e-3)


def test_power_iteration_of_zero():
    powers = power_iteration(lambda v: 0 * v, jnp.ones(2), 3)
    np.testing.assert_array_equal(powers.growth, [0, 0, 0])
    np.testing.assert_array_equal(powers.rayleigh, [0, 0, 0])
