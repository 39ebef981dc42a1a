"""Products with second and third derivatives, against dense matrices and against differences of a NumPy gradient."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.curvature import ggn_vp, hvp, third_derivative

RNG = np.random.default_rng(0)
PARAMS = {
    "b": RNG.normal(size=4),
    "c": np.array(0.3),
    "layers": (RNG.normal(size=(3, 4)), RNG.normal(size=(4, 2)) / 2),
}
DATA = {"x": RNG.normal(size=(7, 3)), "y": RNG.normal(size=(7, 2))}


def predict(params, x):
    first, last = params["layers"]
    return jnp.tanh(x @ first + params["b"][None]) @ last + params["c"]


def quartic_error(outputs, y):
    """Convex in the outputs, with a Hessian that is neither constant nor diagonal."""
    square = jnp.sum((outputs - y) ** 2, axis=1)
    return square / 2 + square**2 / 8


def linear(params, x):
    return x @ params["w"] + params["b"][None]


LOSSES = jf.problems.PredictionLosses(predict, quartic_error)
NETWORK = jf.Objective(LOSSES, DATA)
FLAT, UNRAVEL = ravel_pytree(jax.tree.map(jnp.asarray, PARAMS))
U, V = RNG.normal(size=(2, FLAT.size))


def numpy_gradient(flat):
    """Backpropagation by hand; the leaves lie in the order b, c, first, last."""
    b, c, first, last = flat[:4], flat[4], flat[5:17].reshape(3, 4), flat[17:].reshape(4, 2)
    x, y = DATA["x"], DATA["y"]
    hidden = np.tanh(x @ first + b)
    error = hidden @ last + c - y
    out = error * (1 + (error**2).sum(1, keepdims=True) / 2) / len(x)
    inner = (out @ last.T) * (1 - hidden**2)
    return np.concatenate([inner.sum(0), [out.sum()], (x.T @ inner).ravel(), (hidden.T @ out).ravel()])


def extrapolated(difference, h):
    """Richardson's limit of a central difference, whose error has even powers of h only."""
    table = [difference(h / 2**i) for i in range(4)]
    for order in range(1, 4):
        table = [(4**order * b - a) / (4**order - 1) for a, b in itertools.pairwise(table)]
    return table[0]


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def close(a, b, rtol):
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


@pytest.fixture(scope="module")
def dense():
    return np.asarray(jax.jit(jax.hessian(lambda x: NETWORK(UNRAVEL(x))))(FLAT))


def test_hessian_product_against_dense_and_differences(dense):
    found = hvp(NETWORK, PARAMS, UNRAVEL(V))
    assert jax.tree.structure(found) == jax.tree.structure(PARAMS)
    assert [leaf.shape for leaf in jax.tree.leaves(found)] == [(4,), (), (3, 4), (4, 2)]
    close(flat(found), dense @ V, 1e-13)
    at = np.asarray(FLAT)
    slope = lambda h: (numpy_gradient(at + h * V) - numpy_gradient(at - h * V)) / (2 * h)
    close(flat(found), extrapolated(slope, 0.02), 1e-10)


def test_hessian_product_is_a_symmetric_bilinear_form(dense):
    product = jax.jit(lambda v: flat_of(hvp(NETWORK, UNRAVEL(FLAT), UNRAVEL(v))))
    hu, hv, both = (np.asarray(product(x)) for x in (U, V, 2 * U - 3 * V))
    assert U @ hv == pytest.approx(V @ hu, rel=1e-12)
    close(both, 2 * hu - 3 * hv, 1e-13)
    assert not np.asarray(product(np.zeros_like(U))).any()


def flat_of(tree):
    return ravel_pytree(tree)[0]


def test_third_derivative_against_mixed_differences():
    at = np.asarray(FLAT)
    mixed = lambda h: (
        sum(s * t * numpy_gradient(at + h * (s * U + t * V)) for s in (1, -1) for t in (1, -1)) / (4 * h**2)
    )
    expected = extrapolated(mixed, 0.04)
    found = third_derivative(NETWORK, PARAMS, UNRAVEL(U), UNRAVEL(V))
    assert jax.tree.structure(found) == jax.tree.structure(PARAMS)
    close(flat(found), expected, 1e-8)
    close(flat(third_derivative(NETWORK, PARAMS, UNRAVEL(V), UNRAVEL(U))), expected, 1e-8)


def test_third_derivative_along_an_eigenvector_is_the_gradient_of_its_eigenvalue(dense):
    _, vectors = np.linalg.eigh(dense)
    found = flat(third_derivative(NETWORK, PARAMS, UNRAVEL(vectors[:, -1]), UNRAVEL(vectors[:, -1])))
    matrix = jax.jit(jax.hessian(lambda x: NETWORK(UNRAVEL(x))))
    leading = lambda x: np.linalg.eigvalsh(np.asarray(matrix(x)))[-1]
    for direction in (U, V):
        slope = lambda h, d=direction: (leading(FLAT + h * d) - leading(FLAT - h * d)) / (2 * h)
        assert found @ direction == pytest.approx(extrapolated(slope, 4e-3), rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 7, 10])
def test_chunks_change_nothing(chunk):
    chunked = jf.Objective(LOSSES, DATA, chunk=chunk)
    u, v = UNRAVEL(U), UNRAVEL(V)
    for product in (hvp, ggn_vp):
        close(flat(product(chunked, PARAMS, v)), flat(product(NETWORK, PARAMS, v)), 1e-12)
    if chunk == 3:  # with a rest
        expected = flat(third_derivative(NETWORK, PARAMS, u, v))
        close(flat(third_derivative(chunked, PARAMS, u, v)), expected, 1e-12)


def test_gauss_newton_against_its_definition():
    outputs = lambda flat: predict(UNRAVEL(flat), DATA["x"])
    jacobian = np.asarray(jax.jit(jax.jacfwd(outputs))(FLAT))  # (7, 2, n)
    error = np.asarray(outputs(FLAT)) - DATA["y"]
    square = (error**2).sum(1)[:, None, None]
    inner = (1 + square / 2) * np.eye(2) + error[:, :, None] * error[:, None, :]
    expected = np.einsum("ncp,ncd,ndq->pq", jacobian, inner, jacobian) / len(error)
    product = jax.jit(jax.vmap(lambda v: flat_of(ggn_vp(NETWORK, UNRAVEL(FLAT), UNRAVEL(v)))))
    found = np.asarray(product(np.eye(FLAT.size)))
    close(found, expected, 1e-13)
    values = np.linalg.eigvalsh(found)
    assert values[0] > -1e-13 * values[-1]


def test_gauss_newton_of_a_linear_model_is_its_hessian():
    data = {"x": DATA["x"], "y": np.arange(7) % 3}
    losses = jf.problems.PredictionLosses(linear, jf.problems.losses.cross_entropy)
    model = jf.Objective(losses, data, chunk=2)
    params = {"w": RNG.normal(size=(3, 3)), "b": RNG.normal(size=3)}
    v = {"w": RNG.normal(size=(3, 3)), "b": RNG.normal(size=3)}
    found = flat(ggn_vp(model, params, v))
    close(found, flat(hvp(model, params, v)), 1e-13)
    # The Fisher information: outer products of gradients, averaged over labels of the model's own.
    logits = data["x"] @ params["w"] + params["b"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    fisher = 0.0
    for x, row in zip(data["x"], p, strict=True):
        for label in range(3):
            error = row - np.eye(3)[label]
            score = np.concatenate([error, np.outer(x, error).ravel()])
            fisher = fisher + row[label] * np.outer(score, score) / len(p)
    close(found, fisher @ flat(v), 1e-13)


@pytest.mark.parametrize("product", [hvp, ggn_vp])
def test_vmap_over_vectors_and_parameters(product):
    some = np.asarray(FLAT)[None] + 0.1 * RNG.normal(size=(3, FLAT.size))
    vectors = RNG.normal(size=(3, FLAT.size))
    one = lambda x, v: flat_of(product(NETWORK, UNRAVEL(x), UNRAVEL(v)))
    lanes = jax.jit(jax.vmap(one))(some, vectors)
    shared = jax.jit(jax.vmap(one, (None, 0)))(some[0], vectors)
    single = jax.jit(one)
    for i in range(3):
        close(lanes[i], np.asarray(single(some[i], vectors[i])), 1e-13)
        close(shared[i], np.asarray(single(some[0], vectors[i])), 1e-13)


def test_third_derivative_under_vmap_and_jit():
    lanes = jax.jit(
        jax.vmap(lambda u: flat_of(third_derivative(NETWORK, UNRAVEL(FLAT), UNRAVEL(u), UNRAVEL(V))))
    )
    found = np.asarray(lanes(np.stack([U, V, U + V])))
    close(found[2], found[0] + found[1], 1e-12)
    close(found[0], flat(third_derivative(NETWORK, PARAMS, UNRAVEL(U), UNRAVEL(V))), 1e-12)


@pytest.mark.parametrize(
    ("dtype", "kept", "rtol"),
    [(np.float32, np.float32, 1e-5), (jnp.bfloat16, np.float32, 2e-2), (np.float16, np.float32, 2e-3)],
)
def test_dtypes(dense, dtype, kept, rtol):
    cast = lambda tree, to: jax.tree.map(lambda x: jax.device_put(np.asarray(x, to)), tree)
    objective = jf.Objective(LOSSES, cast(DATA, np.float32))
    params, v = cast(PARAMS, dtype), cast(UNRAVEL(V), dtype)
    for product in (hvp, ggn_vp):
        found = product(objective, params, v)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(kept)}
    close(flat(hvp(objective, params, v)).astype(float), dense @ V, rtol)


def test_a_vector_of_another_dtype_or_of_integers_is_cast():
    loss = lambda x: jnp.sum(x**3) / 6
    for v in (np.ones(2, int), np.ones(2, np.float32), jnp.ones(2)):
        found = hvp(loss, jnp.array([1.0, 2.0]), v)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, [1, 2])
    assert float(hvp(lambda x: x**3, 2, 1)) == 12.0


def test_a_linear_loss_and_a_loss_that_depends_on_one_leaf():
    assert not np.asarray(hvp(jnp.sum, jnp.ones(3), jnp.ones(3))).any()
    found = hvp(lambda p: p["a"] ** 2, {"a": 1.0, "b": np.ones(2)}, {"a": 1.0, "b": np.ones(2)})
    assert float(found["a"]) == 2.0
    np.testing.assert_array_equal(found["b"], [0, 0])


def test_other_numbers_and_data_compile_nothing():
    again = jf.Objective(LOSSES, jax.tree.map(lambda x: x + 1, DATA))
    more = jax.tree.map(lambda x: x + 1, UNRAVEL(FLAT))
    for product in (hvp, ggn_vp):
        name = f"curvature.products.{product.__name__}"
        product(NETWORK, UNRAVEL(FLAT), UNRAVEL(V))
        before = programs()[name]
        product(again, more, more)
        assert programs()[name] == before


ROW = {"a": np.ones(3)}
FIELD = jf.games.VectorField(jnp.sin)


@pytest.mark.parametrize("product", [hvp, third_derivative])
@pytest.mark.parametrize(
    ("objective", "params", "v", "error", "message"),
    [
        ("loss", np.ones(2), np.ones(2), TypeError, "objective must be .*got 'loss'"),
        (FIELD, np.ones(2), np.ones(2), TypeError, "objective must be .*got"),
        (jnp.sum, np.ones(2) * 1j, np.ones(2), TypeError, "params.*complex128"),
        (jnp.sum, np.ones(2, int), np.ones(2), TypeError, "params.*int64"),
        (jnp.sum, {"a": {"b": np.ones(2, bool)}}, np.ones(2), TypeError, r"params.*\['a'\]\['b'\].*bool"),
        (jnp.sum, "θ", np.ones(2), TypeError, "params"),
        (jnp.sum, (), (), ValueError, "params must be a pytree with at least one array"),
        (jnp.sum, np.ones(2), [1.0, 1.0], TypeError, "v must be a pytree like params"),
        (jnp.sum, np.ones(2), np.ones(3), ValueError, r"v must have .*\(2,\).*got .*\(3,\)"),
        (jnp.sum, np.ones(2), np.ones((2, 1)), ValueError, r"v must have the shapes of params.*\(2, 1\)"),
        (jnp.sum, ROW, {"b": np.ones(3)}, TypeError, "v must be a pytree like params"),
        (jnp.sum, np.ones(2), 1j * np.ones(2), TypeError, "v.*complex"),
    ],
    ids=[
        "no function", "vector field", "complex", "integers", "nested flags", "text", "nothing", "list", "shape",
        "rank", "name", "complex v",
    ],
)  # fmt: skip
def test_refused(product, objective, params, v, error, message):
    arguments = (v, v) if product is third_derivative else (v,)
    message = message.replace("v must", "[uv] must").replace("v.*", "[uv].*")
    with pytest.raises(error, match=message):
        product(objective, params, *arguments)


def test_gauss_newton_refuses_losses_without_parts():
    plain = jf.Objective(lambda p, batch: (p - batch) ** 2, np.ones(3))
    for objective in (jnp.sum, plain):
        with pytest.raises(TypeError, match=r"objective .* predict and loss"):
            ggn_vp(objective, 1.0, 1.0)
    with pytest.raises(ValueError, match="no data"):
        ggn_vp(jf.Objective(LOSSES), PARAMS, PARAMS)
    with pytest.raises(TypeError, match="v must be a pytree like params"):
        ggn_vp(NETWORK, PARAMS, np.ones(25))
