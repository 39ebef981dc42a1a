"""The objective: means, mini-batches and chunks against NumPy, and what it refuses."""

import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow._gradients import gradient

RNG = np.random.default_rng(0)
N, D = 12, 3
X, Y = RNG.normal(size=(N, D)), RNG.normal(size=N)
W = RNG.normal(size=D)


def squares(w, batch):
    return 0.5 * (batch["x"] @ w - batch["y"]) ** 2


def objective(chunk=None, x=X, y=Y, losses=squares):
    return jf.Objective(losses, {"x": jnp.asarray(x), "y": jnp.asarray(y)}, chunk)


def residuals(w=W):
    return X @ w - Y


def test_it_is_the_mean_loss_and_its_gradient_the_mean_gradient():
    value, grad = jax.jit(jax.value_and_grad(objective()))(W)
    np.testing.assert_allclose(value, 0.5 * np.mean(residuals() ** 2), rtol=1e-14)
    np.testing.assert_allclose(grad, X.T @ residuals() / N, rtol=1e-13)


@pytest.mark.parametrize("chunk", [1, 3, 5, 7, 12, 100])
def test_chunks_dividing_or_not_change_nothing(chunk):
    """Value, gradient and Hessian-vector product; 12 examples."""
    chunked = objective(chunk)
    v = np.arange(3.0)

    @jax.jit
    def derivatives(w):
        return *jax.value_and_grad(chunked)(w), jax.jvp(jax.grad(chunked), (w,), (v,))[1]

    value, grad, product = derivatives(W)
    np.testing.assert_allclose(value, 0.5 * np.mean(residuals() ** 2), rtol=1e-14)
    np.testing.assert_allclose(grad, X.T @ residuals() / N, rtol=1e-13)
    np.testing.assert_allclose(product, X.T @ X @ v / N, rtol=1e-12)
    assert value.dtype == jnp.float64


def test_chunks_never_see_more_than_a_chunk():
    seen = []

    def losses(w, batch):
        seen.append(batch["x"].shape[0])
        return squares(w, batch)

    jax.grad(objective(5, losses=losses))(jnp.asarray(W))
    assert set(seen) == {5, 2}


def test_chunked_single_precision_stays_so():
    half = jf.Objective(squares, jax.tree.map(jnp.float32, {"x": X, "y": Y}), 5)
    assert half(jnp.asarray(W, jnp.float32)).dtype == jnp.float32


def test_size_and_minibatches():
    f = objective()
    assert f.size == N
    indices = np.array([4, 4, 0])
    np.testing.assert_allclose(
        f.minibatch(jnp.asarray(W), jnp.asarray(indices)),
        0.5 * np.mean(residuals()[indices] ** 2),
        rtol=1e-14,
    )
    weights = np.array([0.5, -1.0, 2.0])
    np.testing.assert_allclose(
        jax.grad(f.minibatch)(jnp.asarray(W), jnp.asarray(indices), jnp.asarray(weights)),
        X[indices].T @ (weights * residuals()[indices]),
        rtol=1e-13,
    )
    whole = f.minibatch(jnp.asarray(W), jnp.arange(N))
    np.testing.assert_allclose(whole, f(jnp.asarray(W)), rtol=1e-14)


def test_one_compilation_serves_two_data_sets_of_a_shape():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def evaluate(f, w):
        return f(w)

    chex.clear_trace_counter()
    for scale in (1.0, 2.0):
        value = evaluate(objective(x=scale * X), jnp.asarray(W))
        np.testing.assert_allclose(value, 0.5 * np.mean((scale * X @ W - Y) ** 2), rtol=1e-14)


def test_it_is_a_pytree_of_its_data():
    f = objective(4)
    assert [leaf.shape for leaf in jax.tree.leaves(f)] == [(N, D), (N,)]
    doubled = jax.tree.map(lambda leaf: 2 * leaf, f)
    np.testing.assert_allclose(doubled(jnp.asarray(W)), 4 * f(jnp.asarray(W)), rtol=1e-14)
    assert jax.tree.structure(f) != jax.tree.structure(objective(5))
    assert jax.tree.leaves(jax.tree.map(jnp.sum, f))[1].shape == ()  # any tree map may pass through
    assert jax.tree.map(lambda leaf: None, f) is not None


def test_it_differentiates_in_the_data_and_vmaps_over_data_sets():
    by_data = jax.grad(lambda f: f(jnp.asarray(W)))(objective())
    np.testing.assert_allclose(by_data.data["y"], -residuals() / N, rtol=1e-13)
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), objective())
    values = jax.vmap(lambda f: f(jnp.asarray(W)))(stack)
    np.testing.assert_allclose(values, 0.5 * np.mean(residuals() ** 2) * np.array([1, 4]), rtol=1e-13)


def test_it_pickles_and_compares_by_its_function():
    twin = pickle.loads(pickle.dumps(objective(4)))
    assert twin.losses is squares
    assert twin.chunk == 4
    np.testing.assert_array_equal(twin.data["x"], X)


def test_without_data_it_serves_batches_only():
    f = jf.Objective(squares)
    with pytest.raises(ValueError, match="has no data: it can only be minimised over a stream"):
        f(jnp.asarray(W))
    batch = {"x": X[:2], "y": Y[:2]}
    np.testing.assert_allclose(f.per_example(W, batch), 0.5 * residuals()[:2] ** 2, rtol=1e-14)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: jf.Objective(3.0, jnp.ones(2)), TypeError, "losses must be a function"),
        (lambda: jf.Objective(squares, {"x": X, "y": Y[:-1]}), ValueError, r"share their leading axis N, got .*11"),
        (lambda: jf.Objective(squares, {"x": X, "y": jnp.ones(())}), ValueError, "share their leading axis"),
        (lambda: jf.Objective(squares, {"x": X, "y": 3.0}), ValueError, "share their leading axis"),
        (lambda: jf.Objective(squares, {"x": X, "y": [1.0, 2.0]}), ValueError, "share their leading axis"),
        (lambda: jf.Objective(squares, {"x": X}, 0), ValueError, "chunk must be an integer at least 1, got 0"),
        (lambda: jf.Objective(squares, {"x": X}, 2.0), TypeError, "chunk must be an integer"),
        (lambda: objective(losses=lambda w, b: squares(w, b).mean())(W), ValueError, r"shape \(12,\), got"),
        (lambda: objective(losses=lambda w, b: squares(w, b)[:, None])(W), ValueError, "one value per example"),
        (lambda: objective(5, losses=lambda w, b: jnp.sum(squares(w, b)))(W), ValueError, "one value per example"),
    ],
)  # fmt: skip
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_gradient_of_complex_parameters_is_the_direction_of_steepest_ascent():
    """∂/∂x + i ∂/∂y, by central differences."""
    loss = lambda z: jnp.real(z) ** 2 * 3 + jnp.imag(z) * jnp.real(z) + jnp.abs(z - 1) ** 2
    z, h = 0.3 - 0.7j, 1e-6
    value = jax.jit(loss)
    along = lambda d: float(value(z + h * d) - value(z - h * d)) / (2 * h)
    np.testing.assert_allclose(jax.jit(gradient(loss))(z), along(1) + 1j * along(1j), rtol=1e-8)
