"""The semidefinite complementarity problem against closed forms, planted solutions and other methods in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxflow.dynamics.edge.semidefinite_complementarity import complementarity
from jaxflow.dynamics.edge.symmetric_vectors import smat, svec

ROOT = np.sqrt(2.0)


def vec(X):
    """The orthonormal vectorisation, written out."""
    k = len(X)
    return np.array([X[i, j] * (1 if i == j else ROOT) for i in range(k) for j in range(i, k)])


def mat(x):
    k = int(np.sqrt(2 * len(x)))
    X, entries = np.zeros((k, k)), iter(x)
    for i in range(k):
        for j in range(i, k):
            X[i, j] = X[j, i] = next(entries) / (1 if i == j else ROOT)
    return X


def gram(rng, k, rank=None):
    n = k * (k + 1) // 2
    G = rng.normal(size=(n if rank is None else rank, n))
    return G.T @ G / len(G)


def planted(rng, B, k, rank, shared=0):
    """A with the solution X: X and S share eigenvectors, not their supports; `shared` are zero in both."""
    Q = np.linalg.qr(rng.normal(size=(k, k)))[0]
    x, s = rng.uniform(0.1, 2.0, (2, k))
    x[rank:] = s[:rank] = s[k - shared :] = 0
    X, S = (Q * x) @ Q.T, (Q * s) @ Q.T
    return S - mat(B @ vec(X)), X


def violation(A, B, X):
    """The largest of −λ(X), −λ(S) and |⟨X, S⟩|, beside the sizes of X, A and both."""
    X = np.asarray(X, float)
    S = A + mat(B @ vec(X))
    x, a = (np.linalg.norm(M) or 1.0 for M in (X, A))
    return max(-np.linalg.eigvalsh(X)[0] / x, -np.linalg.eigvalsh(S)[0] / a, abs(np.sum(X * S)) / (x * a))


def single(*matrices):
    return tuple(matrix.astype(np.float32) for matrix in matrices)


def test_vectorisation_is_an_isometry_both_ways():
    to_vectors, to_matrices = jax.jit(jax.vmap(svec)), jax.jit(jax.vmap(smat))
    rng = np.random.default_rng(0)
    for k in (1, 3, 16):
        X = rng.normal(size=(4, k, k))
        X = X + X.transpose(0, 2, 1)
        x = to_vectors(X)
        np.testing.assert_allclose(x, [vec(one) for one in X], rtol=1e-15)
        np.testing.assert_allclose(np.sum(np.square(x), 1), np.sum(X**2, (1, 2)), rtol=1e-13)
        np.testing.assert_allclose(to_matrices(x), X, rtol=1e-14)


def test_one_direction_has_a_closed_form():
    for a in (-3.0, -1e-6, 0.0, 1e-6, 2.0):
        for b in (1e-4, 1.0, 50.0):
            found = complementarity(np.array([[a]]), np.array([[b]]))
            np.testing.assert_allclose(found.X, [[max(0, -a / b)]], rtol=1e-12)
            assert found.iterations == int(a < 0)


@pytest.mark.parametrize(
    ("c", "expected"),
    [
        ((0.5, 0.3, 0.2), [[1.0, 0.2], [0.2, 0.6]]),
        ((0.5, -0.3, 0.2), [[1.01418079, 0.15300055], [0.15300055, 0.02308185]]),
    ],
    ids=["interior", "boundary"],
)
def test_two_directions_worked_out(c, expected):
    c1, c2, c3 = c
    A, B = -np.array([[c1, c3], [c3, c2]]), np.diag([0.5, 1.0, 0.5])
    found = complementarity(A, B)
    np.testing.assert_allclose(found.X, expected, atol=1e-7 if c2 > 0 else 1e-8)
    assert found.residual <= 1e-10
    assert violation(A, B, found.X) <= 1e-9


KINDS = {"definite": None, "rank 1": lambda k: 1, "half rank": lambda k: max(1, k * (k + 1) // 4)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_planted_solutions_of_every_rank(k, kind):
    # Strictly complementary, or with one or two eigenvalues that are zero in both.
    for rank in range(k + 1):
        for shared in range(min(k - rank, 2) + 1):
            rng = np.random.default_rng((k, rank, shared))
            B = gram(rng, k, KINDS[kind] and KINDS[kind](k))
            A, X = planted(rng, B, k, rank, shared)
            found = complementarity(A, B)
            assert violation(A, B, found.X) <= 1e-6
            assert found.iterations <= 30
            # Twice degenerate, there is no error bound, and the last digits may not be had.
            assert found.residual <= (1e-10 if kind == "definite" or not shared else 1e-7)
            if kind == "definite":
                # ‖Y − X‖ ≤ 2 cond(B) · residual · ‖A‖/‖B‖: the natural map's, for a B of norm 1.
                bound = 2e-10 * np.linalg.norm(A) / np.linalg.eigvalsh(B)[0]
                np.testing.assert_allclose(found.X, X, atol=bound + 1e-13)


def test_sixteen_directions():
    rng = np.random.default_rng(16)
    for rank in (None, 40):
        B = gram(rng, 16, rank) + (np.eye(136) if rank is None else 0)
        A, X = planted(rng, B, 16, 6, shared=1)
        found = complementarity(A, B)
        assert found.residual <= 1e-10
        assert violation(A, B, found.X) <= 1e-6
        if rank is None:
            np.testing.assert_allclose(found.X, X, atol=1e-7)


@pytest.mark.parametrize("seed", range(8))
def test_ill_conditioned_operator(seed):
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.normal(size=(15, 15)))[0]
    B = (U * np.geomspace(1e-5, 1, 15)) @ U.T
    A, X = planted(rng, B, 5, 1 + seed % 4, seed % 2)
    found = complementarity(A, B)
    assert found.residual <= 1e-10
    np.testing.assert_allclose(found.X, X, atol=2e-5 * np.linalg.norm(A))  # twice cond(B) times the residual


EYE, NONE = np.eye(3), np.zeros((6, 6))
DEFINITE = gram(np.random.default_rng(3), 3) + 0.1 * np.eye(6)
CORNER = np.diag([1.0, 0, 0, 0, 0, 0])  # acts on the entry (1, 1) only
STARTS = pytest.mark.parametrize("start", [None, 100 * np.ones((3, 3))], ids=["cold", "wrong start"])


@STARTS
@pytest.mark.parametrize(
    ("A", "B"),
    [
        (EYE, DEFINITE),
        (np.diag([2.0, 0, 0]), DEFINITE),
        (np.ones((3, 3)), CORNER),
        (0 * EYE, DEFINITE),
        (EYE, NONE),
        (0 * EYE, NONE),
    ],
    ids=["definite", "singular", "all singular", "A = 0", "B = 0", "both 0"],
)
def test_a_semidefinite_matrix_has_the_solution_zero(A, B, start):
    found = complementarity(A, B, start)
    assert not found.X.any()
    assert found.residual <= 1e-15
    assert found.iterations == 0


@STARTS
def test_a_negative_matrix(start):
    found = complementarity(-EYE, np.eye(6), start)
    np.testing.assert_allclose(found.X, EYE, atol=1e-9)
    found = complementarity(-EYE, DEFINITE, start)
    assert found.residual <= 1e-10
    assert violation(-EYE, DEFINITE, found.X) <= 1e-8
    found = complementarity(np.diag([-1.0, 1, 1]), CORNER, start)
    np.testing.assert_allclose(found.X, np.diag([1.0, 0, 0]), atol=1e-9)


@STARTS
@pytest.mark.parametrize("B", [NONE, CORNER], ids=["B = 0", "B in a corner"])
def test_without_a_solution_the_residual_says_so(B, start):
    for cast in (lambda *x: x, single):
        if start is None or cast is not single:
            found = complementarity(*cast(-EYE, B), start)
            assert np.isfinite(found.X).all()
            assert 0.5 < found.residual < 2


@pytest.mark.parametrize("size", [1e12, 1e20, 1e300])
def test_a_start_beyond_all_digits_is_not_taken_for_a_solution(size):
    found = complementarity(-np.eye(3), np.zeros((6, 6)), size * np.eye(3))
    assert np.isfinite(found.X).all()
    assert found.residual > 0.5
    found = complementarity(-np.eye(3), np.eye(6), size * np.eye(3))
    np.testing.assert_allclose(found.X, np.eye(3), atol=1e-9)


def factored(A, B, start):
    """min over V of the problem's objective at V Vᵀ: smooth, unconstrained, no spurious local minima at full rank."""
    k = len(A)

    def objective(v):
        V = v.reshape(k, k)
        X = V @ V.T
        BX = mat(B @ vec(X))
        return 0.5 * np.sum(X * BX) + np.sum(A * X), (2 * (A + BX) @ V).ravel()

    found = optimize.minimize(
        objective, start.ravel(), jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 5000}
    )
    V = found.x.reshape(k, k)
    return V @ V.T


def alternating(A, B, rounds=20_000):
    """ADMM: a linear solve, a projection, a multiplier."""
    n = len(B)
    step = np.sqrt(np.prod(np.linalg.eigvalsh(B)[[0, -1]]))
    inverse = np.linalg.inv(B + step * np.eye(n))
    y = u = np.zeros(n)
    for _ in range(rounds):
        x = inverse @ (step * (y - u) - vec(A))
        values, vectors = np.linalg.eigh(mat(x + u))
        new = vec((vectors * np.maximum(values, 0)) @ vectors.T)
        u = u + x - new
        if np.linalg.norm(new - y) + np.linalg.norm(x - new) < 1e-13:
            break
        y = new
    return mat(new)


@pytest.mark.parametrize("seed", range(4))
def test_other_methods_find_the_same(seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(3, 3))
    A, B = A + A.T - 0.5 * np.eye(3), gram(rng, 3) + 0.05 * np.eye(6)
    found = complementarity(A, B)
    np.testing.assert_allclose(found.X, alternating(A, B), atol=1e-6)
    np.testing.assert_allclose(found.X, factored(A, B, rng.normal(size=(3, 3))), atol=1e-6)


@pytest.mark.parametrize("k", [3, 5])
def test_from_a_nearby_solution_three_steps_at_most(k):
    # As a flow goes: the top direction crosses its threshold, then a second one; each problem starts at the last.
    rng = np.random.default_rng(k)
    B = gram(rng, k) + 0.1 * np.eye(k * (k + 1) // 2)
    drift = rng.normal(size=(k, k))
    drift, gaps = (drift + drift.T) / 20, np.diag(np.arange(k) + 1.0)
    X, ranks = np.zeros((k, k)), set()
    for time in np.linspace(0, 1, 201):
        A = gaps - 3 * time * np.eye(k) + np.sin(2 * np.pi * time) * drift
        found, cold = complementarity(A, B, X), complementarity(A, B)
        X = found.X
        rank = np.linalg.matrix_rank(np.asarray(X), tol=1e-6, hermitian=True)
        ranks.add(int(rank))
        assert found.residual <= 1e-10
        assert found.iterations <= (3 if rank else 0)
        np.testing.assert_allclose(X, cold.X, atol=1e-7)
    assert ranks >= {0, 1, 2}


def test_lanes_are_as_alone():
    # Lanes that need nothing, Newton only, both methods, and one without a solution.
    problems = [(EYE, DEFINITE), (-EYE, NONE)]
    for seed in range(8):
        rng = np.random.default_rng(seed)
        B = gram(rng, 3)
        problems.append((planted(rng, B, 3, seed % 4)[0], B))
    A, B = (jnp.asarray(np.stack(part)) for part in zip(*problems, strict=True))
    together = jax.jit(jax.vmap(complementarity))(A, B)
    assert np.unique(together.iterations).size >= 4
    for lane, problem in enumerate(problems):
        alone = complementarity(*problem)
        assert alone.iterations == together.iterations[lane]
        np.testing.assert_allclose(alone.X, together.X[lane], rtol=0, atol=1e-9 * abs(alone.X).max())
        np.testing.assert_allclose(alone.residual, together.residual[lane], rtol=1e-3, atol=1e-13)


@pytest.mark.parametrize(
    ("a", "b"), [(1e-20, 1.0), (1.0, 1e20), (1e100, 1e-100), (1e-100, 1e100), (3.0, 7.0)], ids=str
)
def test_scale_does_not_matter(a, b):
    rng = np.random.default_rng(5)
    B = gram(rng, 3)
    A, _ = planted(rng, B, 3, 2)
    one, other = complementarity(A, B), complementarity(a * A, b * B)
    np.testing.assert_allclose(other.X * (b / a), one.X, atol=1e-9)
    np.testing.assert_allclose(other.residual, one.residual, rtol=1e-2, atol=1e-14)
    assert other.iterations == one.iterations


@pytest.mark.parametrize("definite", [True, False], ids=["definite", "rank 1"])
def test_single_precision(definite):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        B = gram(rng, 3) + 0.3 * np.eye(6) if definite else gram(rng, 3, 1)
        A, X = planted(rng, B, 3, seed % 4)
        found = complementarity(*single(A, B))
        assert found.X.dtype == found.residual.dtype == jnp.float32
        assert found.iterations.dtype == jnp.int32
        assert found.residual <= 1e-5
        assert violation(A, B, found.X) <= 1e-3
        if definite:
            np.testing.assert_allclose(found.X, X, atol=2e-5 * np.linalg.norm(A) / 0.3)


def test_tolerance_and_limit_are_obeyed():
    rng = np.random.default_rng(7)
    B = gram(rng, 3)
    A, _ = planted(rng, B, 3, 2)
    loose, exact = complementarity(A, B, tolerance=1e-2), complementarity(A, B, tolerance=1e-13)
    assert exact.residual <= 1e-13 < loose.residual <= 1e-2
    assert loose.iterations < exact.iterations
    cut = complementarity(A, B, max_iterations=1)
    assert cut.iterations == 1
    assert cut.residual > 1e-10
    assert np.linalg.eigvalsh(cut.X)[0] >= -1e-14


def test_bad_shapes_are_refused():
    eye = np.eye(2)
    for A in (
        np.ones((2, 3)),
        np.ones(3),
        np.zeros((0, 0)),
        np.eye(2, dtype=int),
        np.eye(2, dtype=np.float16),
    ):
        with pytest.raises(ValueError, match="A must be a square matrix of float32 or float64"):
            complementarity(A, np.eye(3))
    with pytest.raises(
        ValueError, match=r"B must be of shape \(3, 3\) for A of shape \(2, 2\), got \(4, 4\)"
    ):
        complementarity(eye, np.eye(4))
    with pytest.raises(ValueError, match=r"start must be of A's shape \(2, 2\), got \(3, 3\)"):
        complementarity(eye, np.eye(3), np.eye(3))
