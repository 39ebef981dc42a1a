"""Traces and saddle indices against NumPy on whole matrices, and their errors against the errors made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.curvature.spectrum.traces import saddle_index, trace

pytestmark = pytest.mark.promotes
KEY = jax.random.key(0)


def _form(matrix, x):
    return 0.5 * x @ matrix @ x


def symmetric(spectrum, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum),) * 2))
    return q @ np.diag(spectrum) @ q.T


@pytest.fixture(scope="module")
def network():
    """A network of 67 parameters on 60 irises; its Hessian and Gauss–Newton matrix by whole Jacobians."""
    problem = jf.problems.mlp("iris", (8,), "tanh")
    data = jax.tree.map(lambda x: x[:60], problem.objective.data)
    objective = jf.Objective(problem.objective.losses, data)
    flat, unravel = jax.flatten_util.ravel_pytree(problem.params)
    hessian = jax.jit(jax.hessian(lambda p: objective(unravel(p))))(flat)
    logits = lambda p: problem.predict(unravel(p), data["x"])
    jacobian = np.asarray(jax.jit(jax.jacfwd(logits))(flat))
    share = np.asarray(jax.nn.softmax(logits(flat)))
    inner = np.einsum("ia,ab->iab", share, np.eye(3)) - np.einsum("ia,ib->iab", share, share)
    gn = np.einsum("iap,iab,ibq->pq", jacobian, inner, jacobian) / 60
    return objective, problem.params, np.asarray(hessian), gn


@pytest.mark.parametrize("gauss_newton", [False, True], ids=["Hessian", "Gauss-Newton"])
def test_the_trace_of_a_network_is_within_its_error(network, gauss_newton):
    objective, params, *matrices = network
    exact = np.trace(matrices[gauss_newton])
    estimate = lambda key: trace(objective, params, key, gauss_newton=gauss_newton)
    found = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 40))
    z = (found.value - exact) / found.error
    # Of 40 squares of t-distributed numbers (31 degrees of freedom) the mean is in [.5, 1.8] but for 1 in 500.
    assert 0.5 < np.mean(z**2) < 1.8
    assert abs(np.mean(z)) < 4 / 40**0.5
    off = 2 * (np.sum(matrices[gauss_newton] ** 2) - np.sum(np.diag(matrices[gauss_newton]) ** 2))
    assert np.mean(found.error**2) == pytest.approx(off / 32, rel=0.15)  # the variance said in the docstring


def test_a_diagonal_hessian_is_exact_and_a_preconditioner_divides():
    curvature, scale = np.array([1.0, -3.0, 7.0]), np.array([2.0, 4.0, 0.5])
    found = trace(lambda x: 0.5 * jnp.sum(curvature * x**2), np.ones(3), KEY, probes=3, preconditioner=scale)
    assert float(found) == pytest.approx(np.sum(curvature / scale), rel=1e-14)
    assert float(found.error) < 1e-14
    matrix = symmetric(np.linspace(-1, 3, 6))
    whole = trace(Partial(_form, matrix), np.zeros(6), KEY, probes=500, preconditioner=scale.repeat(2))
    assert abs(float(whole) - np.sum(np.diag(matrix) / scale.repeat(2))) < 4 * float(
        whole.error
    )  # 1 in 16,000


def test_one_probe_has_an_infinite_error_and_keys_do_not_compile_anew():
    matrix = symmetric(np.linspace(-1, 3, 6))
    assert np.isinf(trace(Partial(_form, matrix), np.zeros(6), KEY, probes=1).error)
    before = programs()["curvature.spectrum.traces.trace"]
    found = trace(Partial(_form, 2 * matrix), np.ones(6), jax.random.key(1), probes=1)
    assert programs()["curvature.spectrum.traces.trace"] == before
    draw = jax.random.rademacher(jax.random.split(jax.random.key(1), 1)[0], (6,), float)
    assert float(found) == pytest.approx(float(2 * draw @ matrix @ draw), rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "at", "index"),
    [
        (lambda x: x[0] ** 2 - x[1] ** 2, np.zeros(2), 1),
        (lambda x: x[0] ** 2 + x[1] ** 2, np.zeros(2), 0),
        (lambda x: -jnp.sum(x**2), np.zeros(5), 5),
        (lambda x: x[0] ** 2 + 0 * x[1], np.zeros(2), 0),
        (lambda x: jnp.sum(x**3), np.array([-1.0, 0.0, 2.0]), 1),
        (lambda x: x**2 - x**4, 1.0, 1),
        (lambda x: 0.0 * x, 1.0, 0),
    ],
    ids=["saddle", "minimum", "maximum", "flat direction", "cubic", "scalar", "nothing"],
)
def test_the_index_of_functions(loss, at, index):
    found = saddle_index(loss, at)
    assert (float(found), float(found.error)) == (index, 0)


def test_the_index_of_a_network_and_its_tolerance(network):
    objective, params, hessian, _ = network
    values = np.linalg.eigvalsh(hessian)
    assert float(saddle_index(objective, params)) == np.sum(values < -1e-6 * np.abs(values).max()) > 5
    for tolerance in (0.05, 0.3):
        expected = np.sum(values < -tolerance * np.abs(values).max())
        assert float(saddle_index(objective, params, tolerance=tolerance)) == expected > 0
    estimate = saddle_index(objective, params, dense=False, key=KEY, tolerance=0.3)
    assert 0 < float(estimate.error) < 10
    assert abs(float(estimate) - np.sum(values < -0.3 * np.abs(values).max())) < 3 * float(
        estimate.error
    )  # 1 in 400


def test_negative_eigenvalues_apart_from_zero_are_counted_within_the_error():
    spectrum = np.concatenate([np.linspace(-2, -1, 8), np.linspace(0.5, 3, 32)])
    matrix = jnp.asarray(symmetric(spectrum))
    estimate = lambda key: saddle_index(Partial(_form, matrix), jnp.zeros(40), key=key, dense=False)
    found = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 40))
    z = (found.value - 8) / found.error
    assert 0.5 < np.mean(z**2) < 1.8  # the mean of 40 squares: 1 in 500
    exact = jax.jit(jax.vmap(lambda a: saddle_index(Partial(_form, a * matrix), jnp.zeros(40)).value))
    np.testing.assert_array_equal(exact(jnp.array([1.0, -1.0])), [8, 32])


def test_beyond_the_dense_size_a_key_is_needed():
    with pytest.raises(ValueError, match="key must be given to estimate the index of a Hessian of 2,001"):
        saddle_index(lambda x: jnp.sum(x**2), np.zeros(2001))
    with pytest.raises(ValueError, match="key must be given"):
        saddle_index(lambda x: jnp.sum(x**2), np.zeros(2), dense=False)
    found = saddle_index(lambda x: -jnp.sum(x**2), np.zeros(2001), key=KEY)
    assert float(found) == pytest.approx(2001, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda f: trace(f, 1.0, KEY, probes=0), ValueError, "probes must be an integer at least 1"),
        (lambda f: trace(f, 1.0, 3), TypeError, "key must be a PRNG key"),
        (lambda f: trace(f, 1.0, KEY, preconditioner=-1.0), ValueError, "preconditioner must be positive"),
        (lambda f: trace(f, 1.0, KEY, gauss_newton=True), TypeError, "predict and loss"),
        (
            lambda f: saddle_index(f, 1.0, tolerance=-1.0),
            ValueError,
            "tolerance must be a finite number at least 0",
        ),
        (lambda f: saddle_index(f, 1j), TypeError, "real arrays"),
        (lambda f: saddle_index(3, 1.0), TypeError, "objective must be"),
        (lambda f: saddle_index(f, 1.0, dense=False, key=1), TypeError, "key must be a PRNG key"),
    ],
    ids=["probes", "seed", "preconditioner", "parts", "tolerance", "complex", "no loss", "seed of the index"],
)
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call(lambda x: x**2)


def test_rounding_of_a_null_space_is_no_direction_of_escape():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    matrix = rotation @ np.diag([1e3, 5, 1, 0, 0, 0, 0, -2]) @ rotation.T
    for loss, expected in ((lambda x: 0.5 * x @ matrix @ x, 1), (jnp.sum, 0)):
        assert saddle_index(loss, jnp.ones(8), tolerance=0.0).value == expected
