"""The tangent kernel against dense Jacobians, products of either against each other, and the limit of great width."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from jaxflow._devices import memory
from jaxflow.kernels.tape import layers_of, tape_of

tangent_kernel, product = jf.kernels.tangent_kernel, jf.kernels.tangent_kernel_product


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@functools.partial(jax.jit, static_argnums=0)
def dense(predict, params, x, y):
    """Independent: forward-mode Jacobians of flat parameters, multiplied as matrices."""
    flat, unravel = ravel_pytree(params)
    of = lambda batch: jax.jacfwd(lambda p: predict(unravel(p), batch))(flat)
    return jnp.tensordot(of(x), of(y), (-1, -1))


def block(predict, params, x, y):
    found = dense(predict, params, x, y)
    return found if found.ndim == 2 else jnp.swapaxes(found, 1, 2)


def scalar(p, x):
    return jnp.tanh(x @ p["w"] + p["b"][None]) @ p["v"]


def tied(p, x):
    return jax.nn.relu(jax.nn.relu(x @ p["w"]) @ p["w"].T) @ p["w"] @ p["v"]


def rescaled(p, x):
    return jnp.tanh(x @ (p["w"] / 2.0)) @ p["v"] + jnp.sum(p["b"])


def shared_bias(p, x):
    h = jnp.tanh(x @ p["w"] + p["b"][None])
    return (h @ p["u"] + p["b"][None] + h) @ p["v"]


def residual(p, x):
    z = x @ p["w"]
    return jnp.concatenate([z + p["b"][None], jnp.sin(z)], 1) @ jnp.concatenate([p["v"], p["v"]])


def attention(p, x):
    tokens = x.reshape(-1, 2, 2)
    h = tokens @ p["k"]
    weights = jax.nn.softmax(jnp.einsum("bij,bkj->bik", h, tokens), -1)
    return (weights @ h).reshape(-1, 4) @ p["q"]


def convolution(p, x):
    image = x.reshape(-1, 1, 2, 2)
    h = jax.lax.conv_general_dilated(image, p["filters"], (1, 1), "SAME") + p["c"][None, :, None, None]
    return jnp.tanh(h).reshape(x.shape[0], -1) @ p["top"]


def repeated(p, x):
    h = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["stack"])[0]
    return jax.jit(jnp.matmul)(jax.jit(jnp.matmul)(h, p["u"]), p["u2"])


def bilinear(p, x):
    return jnp.einsum("bi,ijc,bj->bc", x, p["three"], x)


def only_bias(p, x):
    return x[:, :3] * 0.0 + p["b"][None]


PARAMS = {
    "w": normal(1, 4, 3),
    "b": normal(2, 3),
    "u": normal(3, 3, 3),
    "v": normal(4, 3),
    "k": normal(5, 2, 2),
    "q": normal(6, 4, 2),
    "filters": normal(7, 2, 1, 2, 2),
    "c": normal(8, 2),
    "top": normal(9, 8, 3),
    "stack": normal(10, 2, 4, 4),
    "three": normal(11, 4, 4, 2),
    "u2": normal(12, 3, 3),
}
USED = {
    scalar: "wbv",
    tied: "wv",
    rescaled: "wvb",
    shared_bias: "wbuv",
    residual: "wbv",
    attention: "kq",
    convolution: ("filters", "c", "top"),
    only_bias: "b",
    bilinear: ("three",),
}
X, Y = normal(20, 5, 4), normal(21, 3, 4)


def repeated_parameters():
    return {"stack": PARAMS["stack"], "u": normal(13, 4, 3), "u2": PARAMS["u2"]}


@pytest.mark.parametrize("predict", [*USED, repeated])
def test_any_network_agrees_with_its_dense_jacobian(predict):
    params = repeated_parameters() if predict is repeated else {name: PARAMS[name] for name in USED[predict]}
    expected = block(predict, params, X, Y)
    for method in ("structured", "jacobian"):
        found = tangent_kernel(predict, params, X, Y, method=method)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def digits():
    problem = jf.problems.mlp("digits", hidden=(32, 32))
    return problem.predict, problem.params, problem.objective.data["x"]


def test_digits_block_and_trace(digits):
    predict, params, x = digits
    x, y = x[:30], x[30:70]
    expected = block(predict, params, x, y)
    for chunk in (None, 11):
        found = tangent_kernel(predict, params, x, y, chunk=chunk)
        assert float(abs(found - expected).max()) < 1e-12
        traced = tangent_kernel(predict, params, x, y, chunk=chunk, output="trace")
        np.testing.assert_allclose(traced, jnp.einsum("ijcc->ij", expected), rtol=1e-12)
    assert float(abs(tangent_kernel(predict, params, x) - block(predict, params, x, x)).max()) < 1e-12


@pytest.mark.parametrize("columns", [False, True])
def test_layers_of_a_network_are_found(columns):
    network = jf.problems.models.networks.Network("tanh", columns=columns)
    params = jf.problems.mlp("digits", hidden=(8, 7)).params
    leaves, treedef = jax.tree.flatten(params)
    play = lambda leaves, x: network(jax.tree.unflatten(treedef, leaves), x)
    layers = layers_of(tape_of(jax.make_jaxpr(play)(leaves, jnp.ones((1, 64)))), len(leaves))
    assert sorted((layer.weight, layer.bias) for layer in layers) == [(1, 0), (3, 2), (5, 4)]
    found = tangent_kernel(network, params, jnp.ones((2, 64)))
    np.testing.assert_allclose(found, block(network, params, *[jnp.ones((2, 64))] * 2), rtol=1e-12)


def test_layers_are_found_where_a_module_is_mapped_over_examples():
    """The bias is then added to a product whose axes were moved."""
    one = lambda p, x: p["v"].T @ jnp.tanh(p["w"].T @ x + p["b"])
    mapped = lambda p, x: jax.vmap(one, (None, 0))(p, x)
    params = {"b": PARAMS["b"], "v": PARAMS["u"], "w": PARAMS["w"]}
    leaves, treedef = jax.tree.flatten(params)
    play = lambda leaves, x: mapped(jax.tree.unflatten(treedef, leaves), x)
    layers = layers_of(tape_of(jax.make_jaxpr(play)(leaves, X[:1])), 3)
    assert sorted((layer.weight, layer.bias) for layer in layers) == [(1, None), (2, 0)]
    np.testing.assert_allclose(tangent_kernel(mapped, params, X), block(mapped, params, X, X), rtol=1e-12)


def linear(w, x):
    return x @ w


def test_linear_model_has_the_kernel_of_its_inputs():
    expected = (X @ Y.T)[:, :, None, None] * jnp.eye(2)[None, None]
    np.testing.assert_allclose(tangent_kernel(linear, normal(3, 4, 2), X, Y), expected, rtol=1e-13)


def test_products_agree_with_the_block(digits):
    predict, params, x = digits
    x, y, v = x[:30], x[30:50], normal(5, 20, 10)
    expected = jnp.einsum("ijcd,jd->ic", tangent_kernel(predict, params, x, y), v)
    np.testing.assert_allclose(product(predict, params, x, v, y), expected, rtol=1e-11, atol=1e-11)
    symmetric = product(predict, params, y, v)
    expected = jnp.einsum("ijcd,jd->ic", tangent_kernel(predict, params, y), v)
    np.testing.assert_allclose(symmetric, expected, rtol=1e-11, atol=1e-11)
    few = {name: PARAMS[name] for name in "wbv"}
    np.testing.assert_allclose(
        product(scalar, few, X, normal(6, 3), Y), tangent_kernel(scalar, few, X, Y) @ normal(6, 3), rtol=1e-12
    )


def test_what_is_not_trained_has_no_derivatives():
    params = {name: PARAMS[name] for name in "wbv"}
    alone = lambda p, x: scalar(params | p, x)
    expected = block(alone, {"v": params["v"]}, X, Y)
    trainable = {"w": False, "b": False, "v": True}
    found = tangent_kernel(scalar, params, X, Y, trainable=trainable)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    along = product(scalar, params, X, normal(6, 3), Y, trainable=trainable)
    np.testing.assert_allclose(along, expected @ normal(6, 3), rtol=1e-12)


def test_under_vmap_over_parameters():
    params = {name: PARAMS[name] for name in "wbv"}
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 2.0 * leaf]), params)
    found = jax.jit(jax.vmap(lambda p: tangent_kernel(scalar, p, X)))(two)
    np.testing.assert_allclose(found[0], dense(scalar, params, X, X), rtol=1e-12)


def relu_network(params, x):
    return jax.nn.relu(x @ params["w"].T) @ params["a"] / jnp.sqrt(params["a"].size)


def relu_kernel(x, y):
    """The limit of great width where all weights are standard normal (Cho & Saul 2009; Jacot et al. 2018)."""
    lengths = jnp.linalg.norm(x, axis=1)[:, None] * jnp.linalg.norm(y, axis=1)[None]
    u = jnp.clip(x @ y.T / lengths, -1.0, 1.0)
    angle = jnp.arccos(u)
    signals = (jnp.pi - angle) / (2 * jnp.pi)
    return lengths * jnp.sqrt(1 - u**2) / (2 * jnp.pi) + 2 * x @ y.T * signals


def test_wide_relu_networks_have_the_kernel_of_the_closed_form():
    """The error falls as width^-1/2. Over 256 networks of each width the slope has a standard deviation of some .01,
    as it was .018 over 64: .05 is five of them."""
    widths = np.array([32, 128, 512, 2048])
    expected = relu_kernel(X, Y)

    def errors(width):
        def of(key):
            keys = jax.random.split(key)
            params = {"w": jax.random.normal(keys[0], (width, 4)), "a": jax.random.normal(keys[1], (width,))}
            return tangent_kernel(relu_network, params, X, Y) - expected

        found = jax.jit(jax.vmap(of))(jax.random.split(jax.random.key(3), 256))
        assert float(abs(found.mean(0)).max()) < 4.5 * float(found.std(0).max()) / 16  # unbiased at any width
        return float(jnp.sqrt((found**2).mean()))

    slope = np.polyfit(np.log(widths), np.log([errors(width) for width in widths.tolist()]), 1)[0]
    assert abs(slope + 0.5) < 0.05


def test_a_block_larger_than_memory_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda: 2**20)
    x = jnp.ones((1000, 4))
    with pytest.raises(
        ValueError, match=r"0\.0298 GiB of 0\.0009766: output='trace' takes 0\.007451 GiB; 8 "
    ):
        tangent_kernel(linear, jnp.ones((4, 2)), x)
    with pytest.raises(ValueError, match=r"of 0\.0009766: 32 examples of x at a time"):
        tangent_kernel(linear, jnp.ones(4), x)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((linear, jnp.ones(4), X), {"output": "tarce"}, ValueError, "output must be one of .*'trace'"),
        ((linear, jnp.ones(4), X), {"method": "fast"}, ValueError, "method must be one of"),
        ((linear, jnp.ones(4), X), {"chunk": 0}, ValueError, "chunk must be"),
        ((3, jnp.ones(4), X), {}, TypeError, "predict must be a function"),
        ((lambda w, x: w.sum(), jnp.ones(4), X), {}, ValueError, "predict must return one number or"),
        ((linear, jnp.ones(4), {}), {}, ValueError, "x must be arrays that share"),
        ((linear, jnp.ones(4, complex), X), {}, TypeError, "real"),
    ],
)
def test_refusals(arguments, options, error, match):
    with pytest.raises(error, match=match):
        tangent_kernel(*arguments, **options)


def test_a_vector_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"v must have the shape of the outputs at y, \(5, 2\), got \(5,\)"):
        product(linear, jnp.ones((4, 2)), X, jnp.ones(5))
