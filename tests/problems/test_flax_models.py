"""Modules of flax itself, where it is installed: what they look like is in `test_wrapping`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf

linen = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")

pytestmark = [
    pytest.mark.promotes,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # flax's own
    pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types"),  # of float32 models
]

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
LABELS = np.arange(12) % 4


class Linen(linen.Module):
    averages: bool = True
    dropout: bool = False

    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=self.averages)(linen.Dense(5)(x))
        x = linen.Dropout(0.5, deterministic=not self.dropout)(x)
        return linen.Dense(4)(linen.tanh(x))


class Nnx(nnx.Module):
    def __init__(self, norm=False):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs) if norm else jnp.tanh
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.last = nnx.Linear(5, 4, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(self.norm(self.first(x))))


def wrap(model, *params):
    return jf.problems.wrap(model, (X, LABELS), "cross_entropy", *params)


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_averages_of_linen_are_carried():
    problem = wrap(Linen())
    run = jf.iterate(jf.optim.adamw(0.05), problem.objective, problem.params, steps=5)
    assert same(run.params["batch_stats"], problem.params["batch_stats"])
    assert not same(run.params["params"], problem.params["params"])
    np.testing.assert_array_equal(Linen().apply(run.params, X), problem.predict(run.params, X))


@pytest.mark.parametrize("state", [False, True])
def test_averages_of_nnx_are_carried(state):
    model = Nnx(norm=True)
    model.eval()
    graph, variables = nnx.split(model)
    problem = wrap(lambda s, x: nnx.merge(graph, s)(x), variables) if state else wrap(model)
    run = jf.iterate(jf.optim.adamw(0.05), problem.objective, problem.params, steps=5)
    assert type(run.params) is type(problem.params)
    after = nnx.split(run.params)[1] if not state else run.params
    assert same(after["norm"]["mean"], variables["norm"]["mean"])
    assert same(after["norm"]["var"], variables["norm"]["var"])
    assert not same(after["norm"]["scale"], variables["norm"]["scale"])


def test_active_dropout_of_nnx_is_that_of_an_objective():
    """Its counter is carried untouched, so that the mask is the same at every step."""
    problem = wrap(Nnx())
    losses = lambda model, batch: optax.softmax_cross_entropy_with_integer_labels(model(batch[0]), batch[1])
    by_hand = jf.Objective(losses, (jnp.asarray(X), jnp.asarray(LABELS)))
    runs = [jf.iterate(jf.optim.gd(0.1), f, Nnx(), steps=3) for f in (problem.objective, by_hand)]
    a, b = (nnx.state(run.params, nnx.Param) for run in runs)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), a, b)
    assert nnx.state(runs[0].params, nnx.RngCount)["dropout"]["rngs"]["count"][...] == 0


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Linen(averages=False), "use_running_average=True.*state="),
        (Linen(dropout=True), r"deterministic=True.*losses\(params, batch, key\)"),
        (Nnx(norm=True), r"model\.eval\(\).*state="),
    ],
)
def test_what_changes_or_draws_is_refused(model, said):
    with pytest.raises(ValueError, match=said):
        wrap(model)
