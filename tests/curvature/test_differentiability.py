"""Which losses are told to be not twice differentiable, and by what name."""

import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax, nn

import jaxflow as jf
from jaxflow.curvature.differentiability import switches, warn_unless_twice_differentiable
from jaxflow.curvature.spectrum.density import spectral_density
from jaxflow.curvature.spectrum.traces import saddle_index, trace

pytestmark = pytest.mark.promotes
X = jnp.linspace(-1.0, 1.0, 24).reshape(6, 4)
LABELS = jnp.arange(6) % 4


def attention(x, causal):
    heads = x[None, :, None]
    return nn.dot_product_attention(heads, heads, heads, is_causal=causal)


SMOOTH = {
    **{
        f.__name__: f
        for f in (nn.softplus, nn.silu, nn.sigmoid, nn.log_sigmoid, nn.softmax, nn.log_softmax, nn.mish)
    },
    **{
        f.__name__: f
        for f in (nn.logsumexp, nn.squareplus, nn.standardize, jnp.tanh, jnp.var, jnp.sinc, jnp.cosh)
    },
    "gelu": nn.gelu,
    "exact gelu": lambda x: nn.gelu(x, approximate=False),
    "logaddexp": lambda x: jnp.logaddexp(x, -x),
    "erf": jax.scipy.special.erf,
    "log_ndtr": jax.scipy.special.log_ndtr,
    "xlogy": lambda x: jax.scipy.special.xlogy(x, x),
    "entropy": jax.scipy.special.entr,
    "norm": jnp.linalg.norm,
    "norm kept from 0": lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12),
    "norm where not 0": lambda x: jnp.where((x**2).sum() > 0, jnp.sqrt((x**2).sum()), 0.0),
    "layer norm": lambda x: (
        (x - x.mean()) * lax.rsqrt(jnp.maximum(0.0, (x**2).mean() - x.mean() ** 2) + 1e-5)
    ),
    "determinant": lambda x: jnp.linalg.det(x.T @ x),
    "log determinant": lambda x: jnp.linalg.slogdet(x.T @ x + jnp.eye(4))[1],
    "inverse": lambda x: jnp.linalg.inv(x.T @ x + jnp.eye(4)),
    "Cholesky": lambda x: jnp.linalg.cholesky(x.T @ x + jnp.eye(4)),
    "eigenvalues": lambda x: jnp.linalg.eigvalsh(x.T @ x),
    "square of abs": lambda x: jnp.abs(x) ** 2,
    "log of abs": lambda x: jnp.log(jnp.abs(x)),
    "power spectrum": lambda x: jnp.abs(jnp.fft.fft(x)) ** 2,
    "clipped probability": lambda x: jnp.log(jnp.clip(nn.softmax(x), 1e-7, 1 - 1e-7)),
    "cross entropy": lambda x: optax.softmax_cross_entropy_with_integer_labels(x, LABELS),
    "binary cross entropy": lambda x: optax.sigmoid_binary_cross_entropy(x, X > 0),
    "one hot": lambda x: nn.one_hot(LABELS, 4) * x,
    "condition on data": lambda x: jnp.where(X > 0, x, 0.0),
    "maximum of data": lambda x: x * jnp.maximum(X, 0).max() * jnp.sort(X),
    "dropout": lambda x: jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), x, 0.0),
    "indices": lambda x: x.at[LABELS].add(1.0)[jnp.array([-1, 2])],
    "convolution": lambda x: jnp.convolve(x[0], x[1]),
    "mean pooling": lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 2), (2, 2), "VALID"),
    "attention": lambda x: attention(x, False),
    "causal attention": lambda x: attention(x, True),
    "nan_to_num": jnp.nan_to_num,
    "scan": lambda x: lax.scan(lambda c, row: (jnp.tanh(c + row), c), x[0], x)[0],
    "checkpoint": jax.checkpoint(jnp.tanh),
    "branch on data": lambda x: lax.cond(X.sum() > 0, jnp.sin, jnp.cos, x),
    "straight through": lambda x: x + lax.stop_gradient(jnp.round(x) - x),
    "unused": lambda x: (jnp.abs(x), nn.relu(x), x**2)[2],
}
ROUGH = {
    **{
        f.__name__: (f, f.__name__)
        for f in (nn.relu, nn.leaky_relu, nn.relu6, nn.hard_tanh, nn.elu, nn.selu, nn.celu)
    },
    "abs": (jnp.abs, "abs"),
    "maximum": (lambda x: jnp.maximum(x, 0), "max"),
    "minimum of two": (lambda x: jnp.minimum(x, 2 * x), "min"),
    "largest": (lambda x: x.max(1), "max"),
    "clip": (lambda x: jnp.clip(x, -1, 1), "clip"),
    "sort": (jnp.sort, "sort"),
    "median": (jnp.median, "median"),
    "top k": (lambda x: lax.top_k(x, 2)[0], "order of entries"),
    "max pooling": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID"),
        "max pooling",
    ),
    "where": (lambda x: jnp.where(x > 0, x, 2 * x), "condition"),
    "where, its condition stopped": (lambda x: jnp.where(lax.stop_gradient(x) > 0, x, 0.0), "condition"),
    "condition as a factor": (lambda x: x * (x > 0), "condition"),
    "branch": (lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), "condition"),
    "hinge": (lambda x: optax.hinge_loss(x, jnp.sign(X)), "max"),
    "Huber": (lambda x: optax.huber_loss(x, X), "abs, min"),
    "1-norm": (lambda x: jnp.linalg.norm(x, 1, axis=1), "abs"),
    "accuracy": (lambda x: (x.argmax(1) == LABELS).mean(), "order of entries"),
    "round": (jnp.round, "round"),
    "to integers": (lambda x: x.astype(int).astype(float), "round"),
    "remainder": (lambda x: jnp.mod(x, 1.0), "rem"),
    "relu in a scan": (lambda x: lax.scan(lambda c, row: (nn.relu(c + row), c), x[0], x)[0], "relu"),
    "relu in a checkpoint": (jax.checkpoint(nn.relu), "relu"),
    "two": (lambda x: nn.relu(x) + jnp.abs(x), "relu, abs"),
}


@pytest.mark.parametrize("function", SMOOTH.values(), ids=SMOOTH)
def test_smooth_losses_are_silent(function):
    loss = lambda x: jnp.sum(jnp.real(function(x)))
    jax.make_jaxpr(loss)(X)  # silence is of the reading, not of a loss that cannot be traced
    assert switches(loss, X) == []


@pytest.mark.parametrize(("function", "name"), ROUGH.values(), ids=ROUGH)
def test_switches_are_named(function, name):
    assert name in ", ".join(switches(lambda x: jnp.sum(function(x)), X))


@pytest.mark.parametrize("activation", jf.problems.ACTIVATIONS)
def test_networks(activation):
    for loss in ("cross_entropy", "mse"):
        problem = jf.problems.mlp("iris", (3, 3), activation, loss)
        expected = [activation] if activation in ("relu", "elu") else []
        assert switches(problem.objective, problem.params) == expected
        chunked = jf.Objective(problem.objective.losses, problem.objective.data, chunk=50)
        assert switches(chunked, problem.params) == expected


def test_all_other_problems_are_smooth():
    problems = [make() for make in jf.problems.FUNCTIONS.values()]
    problems += [jf.problems.linear_regression(), jf.problems.logistic_regression("breast_cancer")]
    assert [p.name for p in problems if switches(p.objective, p.params)] == []


def test_one_warning_under_every_transformation_and_none_twice():
    def checked(x):
        warn_unless_twice_differentiable(loss, {"x": x})
        return x

    loss = lambda params: jnp.sum(nn.relu(params["x"]) ** 2)
    calls = (
        checked,
        jax.jit(checked),
        jax.vmap(checked),
        jax.jit(jax.vmap(jax.grad(lambda x: jnp.sum(checked(x))))),
    )
    for call in calls:
        with pytest.warns(
            UserWarning, match=r"not twice differentiable \(relu\): where it switches"
        ) as caught:
            call(X)
        assert len(caught) == 1


def test_the_data_may_be_traced():
    losses = jf.problems.PredictionLosses(lambda w, x: nn.relu(x @ w), lambda f, y: (f - y) ** 2)

    @jax.jit
    @jax.vmap
    def name(x):
        assert switches(jf.Objective(losses, {"x": x, "y": x[:, 0]}), x[0]) == ["relu"]
        return x

    name(X[None])


def test_what_cannot_be_traced_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_unless_twice_differentiable(lambda x: float(x), 1.0)
        warn_unless_twice_differentiable(lambda x: x["missing"], {"x": 1.0})
        warn_unless_twice_differentiable(lambda x: None, 1.0)


def test_reading_a_network_takes_milliseconds():
    problem = jf.problems.mlp("digits", (32, 32, 32), "relu")
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        switches(problem.objective, problem.params)
        best = min(best, time.perf_counter() - start)
    assert best < 0.1  # measured 5 ms; this is against minutes


def test_the_whole_spectrum_of_a_kink_is_warned_of():
    key, x = jax.random.key(0), np.array([-1.0, 2.0])
    calls = {
        "spectral_density": lambda f: spectral_density(f, x, key, probes=1),
        "trace": lambda f: trace(f, x, key, probes=1),
        "saddle_index": lambda f: saddle_index(f, x),
        "its estimate": lambda f: saddle_index(f, x, key=key, dense=False),
    }
    for call in calls.values():
        with pytest.warns(UserWarning, match=r"not twice differentiable \(abs\)"):
            call(lambda x: jnp.sum(jnp.abs(x) * x**2))
    # A Gauss–Newton matrix has the first derivatives of the network only.
    losses = jf.problems.PredictionLosses(lambda w, x: nn.relu(x @ w), lambda f, y: (f - y) ** 2)
    objective = jf.Objective(losses, {"x": np.array([[1.0, 2.0]]), "y": np.ones(1)})
    assert float(trace(objective, x, key, probes=1, gauss_newton=True)) > 0
