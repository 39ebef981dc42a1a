"""Networks against an independent forward pass in NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logsumexp, softmax

from jaxflow import problems
from jaxflow.problems import losses

ACTIVATIONS = {
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": expit,
    "silu": lambda x: x * expit(x),
    "softplus": lambda x: np.logaddexp(0, x),
    "swish": lambda x: x * expit(x),
    "tanh": np.tanh,
}


def forward(params, x, activation):
    for i, layer in enumerate(params):
        x = np.einsum("bm,mn->bn", x, layer["w"]) + np.asarray(layer["b"])
        if i < len(params) - 1:
            x = activation(x)
    return x


def perturbed(params, seed):
    """Parameters with biases that are not 0."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: np.asarray(p) + 0.3 * rng.normal(size=p.shape), params)


@pytest.mark.parametrize(
    ("activation", "hidden"),
    [*((activation, (5, 4)) for activation in problems.ACTIVATIONS), ("tanh", ()), ("relu", [6])],
)
def test_the_forward_pass(activation, hidden):
    problem = problems.mlp("wine", hidden, activation)
    params, x = perturbed(problem.params, 1), problem.test["x"]
    assert len(params) == len(hidden) + 1
    expected = forward(params, np.asarray(x), ACTIVATIONS[activation])
    np.testing.assert_allclose(problem.predict(params, x), expected, rtol=1e-10, atol=1e-12)


def test_cross_entropy_on_classes():
    problem = problems.mlp("digits")
    data, params = problem.objective.data, perturbed(problem.params, 2)
    logits, y = forward(params, np.asarray(data["x"]), np.tanh), np.asarray(data["y"])
    expected = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    np.testing.assert_allclose(problem.objective.losses(params, data), expected, rtol=1e-10)
    assert problem.objective(params) == pytest.approx(expected.mean(), rel=1e-12)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.cross_entropy_of_columns])
@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_cross_entropy_looks_labels_up_in_any_integers(loss, dtype):
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(4, 300)), np.array([0, 44, 255, 7], dtype)  # 300 is past uint8
    values, pull = jax.vjp(jax.jit(loss), logits, labels)
    expected = logsumexp(logits, axis=1) - logits[np.arange(4), labels]
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    onehot = np.arange(300) == labels[:, None]
    np.testing.assert_allclose(pull(np.ones(4))[0], softmax(logits, axis=1) - onehot, atol=1e-15)
    none = jax.jit(loss)(logits[:3, :3], np.array([-1, 3, 2]))
    np.testing.assert_array_equal(np.isnan(none), [True, True, False])


def test_squared_error_on_classes_and_on_targets():
    problem = problems.mlp("iris", hidden=(4,), loss="mse")
    data = problem.objective.data
    outputs = forward(problem.params, np.asarray(data["x"]), np.tanh)
    expected = 0.5 * ((outputs - np.eye(3)[np.asarray(data["y"])]) ** 2).sum(axis=1)
    np.testing.assert_allclose(problem.objective.losses(problem.params, data), expected, rtol=1e-10)
    problem = problems.mlp("diabetes", hidden=(4,))
    data = problem.objective.data
    outputs = forward(problem.params, np.asarray(data["x"]), np.tanh)
    assert outputs.shape == data["y"].shape == (353, 1)
    expected = 0.5 * (outputs - np.asarray(data["y"]))[:, 0] ** 2
    np.testing.assert_allclose(problem.objective.losses(problem.params, data), expected, rtol=1e-10)


def test_several_outputs():
    rng = np.random.default_rng(0)
    problem = problems.mlp((rng.normal(size=(20, 3)), rng.normal(size=(20, 2))), hidden=(4,))
    assert problem.predict(problem.params, problem.test["x"]).shape == (4, 2)
    assert jnp.isfinite(problem.score(problem.params))


def test_weights_have_variance_one_over_fan_in():
    """Three keys of 64·200 and 200·10 weights: the variance's σ is √(2/n); 4.5σ, one false alarm in 1e5 each."""
    draws = [problems.mlp("digits", (200,), key=jax.random.key(seed)).params for seed in range(3)]
    for layer in range(2):
        w = np.stack([params[layer]["w"] for params in draws])
        assert w.var() * w.shape[1] == pytest.approx(1.0, abs=4.5 * np.sqrt(2 / w.size))
        assert all((params[layer]["b"] == 0).all() for params in draws)
    assert not np.array_equal(draws[0][0]["w"], draws[1][0]["w"])
    default = problems.mlp("digits", (200,)).params
    assert np.array_equal(default[0]["w"], draws[0][0]["w"])


def test_a_key_may_be_traced_and_changes_no_data():
    keys = jax.random.split(jax.random.key(0), 3)
    starts = jax.vmap(lambda key: problems.mlp("iris", (4,), key=key).params)(keys)
    one = problems.mlp("iris", (4,), key=keys[2])
    np.testing.assert_allclose(starts[0]["w"][2], one.params[0]["w"], rtol=1e-12)
    np.testing.assert_array_equal(one.test["x"], problems.mlp("iris", (4,)).test["x"])


def test_digits_can_be_learned():
    problem = problems.mlp("digits")
    step = lambda _, params: jax.tree.map(
        lambda p, g: p - 0.5 * g, params, jax.grad(problem.objective)(params)
    )
    params = jax.jit(lambda params: jax.lax.fori_loop(0, 100, step, params))(problem.params)
    assert problem.score(problem.params) < 0.3
    assert problem.score(params) > 0.9


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: problems.mlp("iris", activation="tahn"), ValueError, "Did you mean 'tanh'"),
        (lambda: problems.mlp("iris", loss="crossentropy"), ValueError, "Did you mean 'cross_entropy'"),
        (lambda: problems.mlp("diabetes", loss="cross_entropy"), ValueError, "diabetes is a regression"),
        (lambda: problems.mlp("iris", hidden=(0,)), ValueError, "hidden"),
        (lambda: problems.mlp("iris", hidden=(2.0,)), TypeError, "hidden"),
        (lambda: problems.mlp("iris", hidden=32), TypeError, "hidden"),
        (lambda: problems.mlp("iris", hidden="32"), TypeError, "hidden"),
        (lambda: problems.mlp("iris", key=0), TypeError, "key"),
        (lambda: problems.mlp("iris", test_fraction=1.0), ValueError, "test_fraction"),
    ],
)
def test_bad_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()
