"""`wrap` makes of a user's model the problem that the same loss, written out, is."""

import dataclasses
import pickle
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow._compiled import programs

try:
    from jax.extend.core import get_opaque_trace_state as trace_state
except ImportError:  # jax 0.8
    from jax.core import get_opaque_trace_state as trace_state

pytestmark = pytest.mark.promotes

X = np.random.default_rng(0).normal(size=(12, 3))
LABELS = np.arange(12) % 4
TARGETS = np.sin(X[:, :2])
MODULE = eqx.nn.MLP(3, 4, 5, 1, activation=jnp.tanh, key=jax.random.key(1))
GD = jf.optim.gd(0.1)


def by_hand(weights, biases, x):
    """The logits of MODULE in NumPy."""
    return np.tanh(x @ weights[0].T + biases[0]) @ weights[1].T + biases[1]


WEIGHTS, BIASES = ([np.asarray(getattr(layer, n)) for layer in MODULE.layers] for n in ("weight", "bias"))
LOGITS = by_hand(WEIGHTS, BIASES, X)
ENTROPY = np.mean(np.log(np.exp(LOGITS).sum(1)) - LOGITS[np.arange(12), LABELS])


@dataclasses.dataclass(frozen=True)
class Linen:
    """What a flax.linen module looks like: settings, `init` and `apply`."""

    features: int

    def init(self, key, x):
        return {"params": {"kernel": jax.random.normal(key, (x.shape[1], self.features))}}

    def apply(self, variables, x):
        return x @ variables["params"]["kernel"]


@jax.tree_util.register_pytree_node_class
class Nnx:
    """What a flax.nnx module looks like: a callable pytree that takes a batch and knows no `init`."""

    def __init__(self, kernel: Any, activation: Any):
        self.kernel, self.activation = kernel, activation

    def __call__(self, x):
        assert x.ndim == 2
        return self.activation(x @ self.kernel)

    def tree_flatten(self):
        return (self.kernel, self.activation), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def kernel_apply(params, x):
    return x @ params


KERNEL = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)))
KINDS = {
    "linen": (Linen(4), {"params": {"params": {"kernel": KERNEL}}}),
    "nnx": (Nnx(KERNEL, lambda x: x), {}),
    "function": (kernel_apply, {"params": KERNEL}),
    "partial": (jax.tree_util.Partial(lambda one, w, x: one * (x @ w), jnp.ones(())), {"params": KERNEL}),
}


def test_an_equinox_module_is_called_on_one_example_at_a_time():
    problem = jf.problems.wrap(MODULE, (X, LABELS), "cross_entropy")
    np.testing.assert_allclose(problem.predict(problem.params, problem.objective.data["x"]), LOGITS)
    np.testing.assert_allclose(problem.objective(problem.params), ENTROPY)
    assert problem.params is MODULE
    assert (problem.name, problem.test, problem.classes) == ("MLP", None, None)
    np.testing.assert_allclose(
        problem.score(MODULE, problem.objective.data), np.mean(LOGITS.argmax(1) == LABELS)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_take_a_batch(kind):
    model, params = KINDS[kind]
    problem = jf.problems.wrap(model, {"x": X, "y": LABELS}, "cross_entropy", **params)
    logits = X @ np.asarray(KERNEL)
    np.testing.assert_allclose(problem.predict(problem.params, X), logits)
    entropy = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(12), LABELS])
    np.testing.assert_allclose(problem.objective(problem.params), entropy)


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_train_alike(kind):
    model, params = KINDS[kind]
    problem = jf.problems.wrap(model, (X, LABELS), "cross_entropy", **params)
    run = jf.iterate(GD, problem.objective, problem.params, steps=5)
    w, onehot = np.asarray(KERNEL), np.eye(4)[LABELS]
    for _ in range(5):
        p = np.exp(X @ w)
        w = w - 0.1 * X.T @ (p / p.sum(1, keepdims=True) - onehot) / 12
    trained = next(leaf for leaf in jax.tree.leaves(run.params) if getattr(leaf, "shape", ()) == (3, 4))
    np.testing.assert_allclose(trained, w, rtol=1e-10)


def test_variables_are_made_from_the_key():
    problem = jf.problems.wrap(Linen(4), (X, LABELS), "cross_entropy", key=jax.random.key(5))
    same = Linen(4).init(jax.random.key(5), X)
    np.testing.assert_array_equal(problem.params["params"]["kernel"], same["params"]["kernel"])
    default = jf.problems.wrap(Linen(4), (X, LABELS), "cross_entropy").params["params"]["kernel"]
    np.testing.assert_array_equal(default, Linen(4).init(jax.random.key(0), X)["params"]["kernel"])


@dataclasses.dataclass(frozen=True)
class Averaged:
    """What a flax.linen module with a batch normalisation at rest looks like."""

    features: int = 4

    def init(self, key, x):
        averages = {"mean": jnp.full((1, x.shape[1]), 0.1), "var": jnp.full((1, x.shape[1]), 2.0)}
        return Linen(self.features).init(key, x) | {"batch_stats": {"norm": averages}}

    def apply(self, variables, x):
        averages = variables["batch_stats"]["norm"]
        return ((x - averages["mean"]) / jnp.sqrt(averages["var"])) @ variables["params"]["kernel"]


STATISTICS_VERBS = {
    "iterate": lambda f, p, **t: jf.iterate(jf.optim.adamw(0.1), f, p, steps=5, **t),
    "flow": lambda f, p, **t: jf.integrate(jf.dynamics.gradient_flow(f), p, [0.0, 0.1], **t),
    "SDE": lambda f, p, **t: jf.integrate(
        jf.dynamics.sgd(f, 0.1, 4), p, [0.0, 0.1], key=jax.random.key(0), **t
    ),
}


@pytest.mark.parametrize("verb", STATISTICS_VERBS)
def test_collections_other_than_params_are_carried(verb):
    """As if they were closed over, also where a prefix of flags names them."""
    problem = jf.problems.wrap(Averaged(), (X, LABELS), "cross_entropy")
    given = Averaged().init(jax.random.key(0), jnp.asarray(X[:1]))
    close = lambda params, x: Averaged().apply(given | params, x)
    plain = jf.problems.wrap(close, (X, LABELS), "cross_entropy", {"params": given["params"]})
    whole = STATISTICS_VERBS[verb](problem.objective, problem.params)
    flags = {"params": True, "batch_stats": True}
    flagged = STATISTICS_VERBS[verb](problem.objective, problem.params, trainable=flags)
    expected = STATISTICS_VERBS[verb](plain.objective, plain.params)
    for run in (whole, flagged):
        np.testing.assert_allclose(
            run.params["params"]["kernel"], expected.params["params"]["kernel"], rtol=1e-11
        )
        assert jax.tree.all(
            jax.tree.map(np.array_equal, dict(run.params["batch_stats"]), given["batch_stats"])
        )
        assert len(jax.tree.leaves(run.values)) == 1
        assert Averaged().apply(run.params, X).shape == (12, 4)  # the same kind of object
    assert jax.tree.structure(whole.params) == jax.tree.structure(problem.params)
    assert Averaged().apply(pickle.loads(pickle.dumps(whole.params)), X).shape == (12, 4)


def test_variables_that_nobody_wrapped_get_no_gradient_in_their_averages():
    problem = jf.problems.wrap(Averaged(), (X, LABELS), "cross_entropy")
    given = Averaged().init(jax.random.key(0), jnp.asarray(X[:1]))
    gradient = jax.grad(problem.objective)(given)
    assert not any(map(np.any, jax.tree.leaves(gradient["batch_stats"])))
    assert np.any(gradient["params"]["kernel"])


@jax.tree_util.register_pytree_node_class
class Counting(Nnx):
    """What a flax.nnx module with dropout looks like: it may count only where it was made."""

    def __init__(self, kernel: Any, calls: Any):
        super().__init__(kernel, calls)
        self.level = trace_state()

    def __call__(self, x):
        if self.level != trace_state():
            raise RuntimeError("Cannot mutate a counter from a different trace level")
        self.activation = self.activation + 1
        return x @ self.kernel


def test_a_module_that_counts_its_calls_is_taken():
    problem = jf.problems.wrap(Counting(KERNEL, jnp.zeros([], jnp.int32)), (X, LABELS), "cross_entropy")
    run = jf.iterate(GD, problem.objective, problem.params, steps=2)
    plain = jf.problems.wrap(kernel_apply, (X, LABELS), "cross_entropy", KERNEL)
    np.testing.assert_allclose(
        run.params.kernel, jf.iterate(GD, plain.objective, plain.params, steps=2).params, rtol=1e-12
    )
    assert run.params.activation == 0  # the counter is carried untouched


class Averaging(Nnx):
    """A module that changes an average of its own at each call."""

    def __call__(self, x):
        self.activation = 0.9 * self.activation + 0.1 * x.mean()
        return x @ self.kernel - self.activation


jax.tree_util.register_pytree_node_class(Averaging)


class ModifyScopeVariableError(Exception):
    """By this name flax refuses new running averages."""


class InvalidRngError(Exception):
    """By this name flax asks for random numbers."""


@dataclasses.dataclass(frozen=True)
class Raising(Linen):
    error: type = ValueError

    def apply(self, variables, x):
        raise self.error("of flax")


def test_losses():
    wrap = lambda y, loss: jf.problems.wrap(kernel_apply, (X, y), loss, KERNEL).objective(KERNEL)
    f = X @ np.asarray(KERNEL)
    onehot = np.eye(4)[LABELS]
    np.testing.assert_allclose(wrap(LABELS, "mse"), 0.5 * ((f - onehot) ** 2).sum(1).mean())
    np.testing.assert_allclose(wrap(np.sin(f), "mse"), 0.5 * ((f - np.sin(f)) ** 2).sum(1).mean())
    worst = np.abs(f - np.sin(f)).max(1).mean()
    np.testing.assert_allclose(wrap(np.sin(f), lambda p, y: jnp.abs(p - y).max()), worst)
    ours = wrap(LABELS, "cross_entropy")
    np.testing.assert_allclose(wrap(LABELS, optax.softmax_cross_entropy_with_integer_labels), ours)
    one = jf.problems.wrap(lambda w, x: x @ w, (X, LABELS // 2), "cross_entropy", jnp.asarray(KERNEL[:, 0]))
    z, y = f[:, 0], LABELS // 2
    np.testing.assert_allclose(one.objective(one.params), np.mean(np.log1p(np.exp(z)) - y * z))


def test_a_data_set_is_split_as_by_mlp():
    model = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
    wrapped, mlp = jf.problems.wrap(model, "iris", "cross_entropy"), jf.problems.mlp("iris")
    for a, b in ((wrapped.objective.data, mlp.objective.data), (wrapped.test, mlp.test)):
        np.testing.assert_array_equal(a["x"], b["x"])
        np.testing.assert_array_equal(a["y"], b["y"])
    assert (wrapped.name, wrapped.classes) == ("MLP on iris", mlp.classes)
    assert 0 <= float(wrapped.score(wrapped.params)) <= 1


def test_wrapping_again_compiles_nothing():
    def run():
        problem = jf.problems.wrap(MODULE, (X, LABELS), optax.softmax_cross_entropy_with_integer_labels)
        linen = jf.problems.wrap(Linen(4), (X, LABELS), "cross_entropy")
        for p in (problem, linen):
            jf.iterate(GD, p.objective, p.params, steps=2, record=p.objective)

    run()
    before = programs()
    run()
    assert programs() == before


def test_an_equinox_problem_goes_through_everything():
    problem = jf.problems.wrap(MODULE, (X, LABELS), "cross_entropy")
    objective, params = problem.objective, problem.params
    run = jf.iterate(GD, objective, params, steps=4)
    flow = jf.integrate(jf.dynamics.gradient_flow(objective), params, run.times)
    modified = jf.integrate(jf.dynamics.modified(GD, objective, order=2), params, run.times)
    assert 0 < jf.compare(run, modified).final < 0.1 * jf.compare(run, flow).final
    sde = jf.dynamics.sgd(objective, 0.1, 4)
    path = jf.integrate(sde, params, run.times, key=jax.random.key(0), substeps=4)
    assert jnp.isfinite(objective(path.params))
    assert float(jf.curvature.sharpness(objective, run.params).value) > 0


REFUSED = {
    "data of another type": ({"data": 3}, TypeError, "data must be a pair"),
    "data without y": ({"data": {"x": X, "labels": LABELS}}, ValueError, "'x' and 'y', got 'x', 'labels'"),
    "lengths": ({"data": (X, LABELS[:5])}, ValueError, r"got shapes \(12, 3\) and \(5,\)"),
    "a data set": ({"data": "mnist"}, ValueError, "dataset.* must be one of"),
    "a loss": ({"loss": "hinge"}, ValueError, "loss, unless a function, must be one of"),
    "no loss": ({"loss": None}, TypeError, "loss must be one of cross_entropy, mse or a function"),
    "a loss of shape (4,)": ({"loss": lambda f, y: f}, ValueError, r"loss must return a scalar.*\(2, 4\)"),
    "a label of no class": ({"data": (X, LABELS + 2)}, ValueError, "y must be labels from 0 to 3.*got 5"),
    "no label": (
        {"data": (X, LABELS - 1), "loss": "mse"},
        ValueError,
        "y must be labels from 0 to 3.*got -1",
    ),
    "real labels": ({"data": (X, TARGETS)}, ValueError, "loss 'cross_entropy' must have integer labels"),
    "one-hot labels": (
        {"data": (X, np.eye(4, dtype=int)[LABELS])},
        ValueError,
        "must have integer labels y",
    ),
    "broadcast": ({"data": (X, TARGETS[:, 0]), "loss": "mse"}, ValueError, r"shape.* \(2,\) and \(2, 4\)"),
    "no params": ({"model": kernel_apply}, TypeError, "params must be given for a model that is a function"),
    "two params": ({"params": KERNEL}, TypeError, "params must be left out for a module.* this MLP"),
    "a key": ({"key": jax.random.key(0)}, TypeError, "key must be left out"),
    "a seed": ({"model": Linen(4), "key": 3}, TypeError, "key must be"),
    "no model": ({"model": KERNEL}, TypeError, "model must be a module or a function"),
    "width": ({"data": (X[:, :2], LABELS)}, ValueError, r"model must take x of shape \(2, 2\)"),
    "new averages": (
        {"model": Raising(4, ModifyScopeVariableError)},
        ValueError,
        r"BatchNorm\(use_running_average=True\), or be trained by jf.Objective\(losses, data, state=…\)",
    ),
    "random numbers": (
        {"model": Raising(4, InvalidRngError)},
        ValueError,
        r"Dropout\(deterministic=True\), or be trained by .* losses\(params, batch, key\)",
    ),
    "its own averages": (
        {"model": Averaging(KERNEL, jnp.zeros((1, 1)))},
        ValueError,
        r"after model.eval\(\), or be trained by .*state=…\).* changed arrays of shapes \(1, 1\)",
    ),
    "not a batch": (
        {"model": lambda w, x: (x @ w).sum(), "params": KERNEL},
        ValueError,
        r"one prediction for each example.*\(\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(name):
    changed, kind, said = REFUSED[name]
    given = {"model": MODULE, "data": (X, LABELS), "loss": "cross_entropy"} | changed
    with pytest.raises(kind, match=said) as caught:
        jf.problems.wrap(**given)
    assert "\n" not in str(caught.value)
