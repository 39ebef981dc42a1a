"""Models whose leaves are not all arrays, and models of which a part is frozen, go through everything.

The oracle is the same loss of a plain dictionary of arrays, which closes over all that is not trained.
"""

import sys
from collections.abc import Callable
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow._losses.models import join_model, split_model
from jaxflow.comparison.edge.study_plan import plan

pytestmark = pytest.mark.promotes

X = jax.random.normal(jax.random.key(1), (24, 3))
DATA = {"x": X, "y": jnp.sin(X.sum(1, keepdims=True))}
MODEL = {
    "first": {"w": jax.random.normal(jax.random.key(2), (3, 2)), "b": jnp.zeros((1, 2))},
    "last": {"w": 0.3 * jax.random.normal(jax.random.key(3), (2, 1)), "b": jnp.zeros((1, 1))},
    "activation": jnp.tanh,
    "scale": 2,
    "calls": jnp.asarray(7, jnp.uint32),
    "key": jax.random.key(4),
    "mode": "train",
    "nothing": None,
    "flag": True,
}
LAYERS = ("first", "last")
PLAIN = {name: MODEL[name] for name in LAYERS}


def losses(model, batch):
    assert model["mode"] == "train"
    assert model["scale"] == 2  # a Python number still
    assert model["flag"] is True
    assert model["nothing"] is None
    # Of the key its numbers alone: a draw would be most of every program.
    shift = jax.random.key_data(model["key"]).astype(float).sum() + model["calls"].astype(float)
    hidden = model["activation"](batch["x"] @ model["first"]["w"] + model["first"]["b"])
    out = hidden @ model["last"]["w"] + model["last"]["b"]
    return jnp.square(model["scale"] * out + 0.01 * shift - batch["y"]).sum(1)


OBJECTIVE = jf.Objective(losses, DATA)
PLAIN_OBJECTIVE = jf.Objective(lambda params, batch: losses(MODEL | params, batch), DATA)
TIMES = np.array([0.0, 0.05, 0.1])
GD = jf.optim.momentum(0.05, 0.8)


def same(a, b, rtol=1e-11):
    """Whether two pytrees have the same leaves; what is an argument of one program is a constant of the other."""
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=0)


def layers_of(model):
    return {name: model[name] for name in LAYERS}


RUNS = {
    "iterate": lambda f, p: jf.iterate(GD, f, p, steps=6, every=2),
    "mini-batches": lambda f, p: jf.iterate(GD, f, p, steps=6, batch_size=4, key=jax.random.key(0)),
    "flow": lambda f, p: jf.integrate(jf.dynamics.gradient_flow(f), p, TIMES),
    "sum": lambda f, p: jf.integrate(
        jf.dynamics.gradient_flow(f) + 0.5 * jf.dynamics.sign_descent(f), p, TIMES, substeps=4
    ),
    "modified": lambda f, p: jf.integrate(jf.dynamics.modified(jf.optim.gd(0.05), f, order=2), p, TIMES),
    "SDE": lambda f, p: jf.integrate(jf.dynamics.sgd(f, 0.05, 4), p, TIMES, key=jax.random.key(0)),
    "adam's flow": lambda f, p: jf.integrate(jf.dynamics.adam(f, 0.05), p, TIMES + 0.05, substeps=8),
    "central flow": lambda f, p: jf.integrate(
        jf.dynamics.central_flow(jf.optim.gd(0.05), f, modes=1), p, TIMES
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_model_runs_as_its_arrays_do(name):
    whole, plain = RUNS[name](OBJECTIVE, MODEL), RUNS[name](PLAIN_OBJECTIVE, PLAIN)
    same(layers_of(whole.params), plain.params)
    same(layers_of(whole.values), plain.values)
    assert whole.params.keys() == MODEL.keys()
    for carried in ("activation", "scale", "calls", "key", "mode", "nothing", "flag"):
        assert whole.params[carried] is MODEL[carried]
        assert whole.values[carried] is None


def test_a_loss_may_draw_with_the_key_in_its_model():
    noisy = lambda model, batch: losses(model, batch) * (2 + jax.random.normal(model["key"], (1,)))
    whole = jf.iterate(GD, jf.Objective(noisy, DATA), MODEL, steps=3)
    plain = jf.iterate(GD, jf.Objective(lambda p, batch: noisy(MODEL | p, batch), DATA), PLAIN, steps=3)
    same(layers_of(whole.params), plain.params)


def test_a_run_goes_on_with_the_whole_model():
    whole = jf.iterate(GD, OBJECTIVE, MODEL, steps=6)
    half = jf.iterate(GD, OBJECTIVE, MODEL, steps=3)
    rest = jf.iterate(GD, OBJECTIVE, half.params, steps=3, state=half.state)
    same(layers_of(rest.params), layers_of(whole.params))
    before = programs()
    jf.iterate(jf.optim.momentum(0.01, 0.9), OBJECTIVE, half.params, steps=3, state=half.state)
    jf.iterate(GD, OBJECTIVE, whole.params, steps=6)
    assert programs() == before


def test_records_see_the_whole_model():
    record = lambda model: OBJECTIVE(model)
    run = jf.iterate(GD, OBJECTIVE, MODEL, steps=4, record=record)
    plain = jf.iterate(GD, PLAIN_OBJECTIVE, PLAIN, steps=4, record=PLAIN_OBJECTIVE)
    np.testing.assert_allclose(run.values, plain.values, rtol=1e-14)

    @jf.optim.traceable
    def count(start):
        look = lambda memory, model, state: (memory + model["scale"], memory + model["scale"])
        return jf.Recorder(lambda model, state: jnp.asarray(start) + model["calls"], look)

    flow = jf.integrate(jf.dynamics.gradient_flow(OBJECTIVE), MODEL, TIMES, record=count(0.0))
    np.testing.assert_array_equal(flow.values, [9, 11, 13])
    both = jf.integrate(jf.dynamics.gradient_flow(OBJECTIVE), MODEL, TIMES, record=lambda model: (model, 1.5))
    same(
        both.values[0]["first"],
        jf.integrate(jf.dynamics.gradient_flow(OBJECTIVE), MODEL, TIMES).values["first"],
    )
    np.testing.assert_array_equal(both.values[0]["calls"], [7, 7, 7])
    np.testing.assert_array_equal(both.values[1], [1.5, 1.5, 1.5])
    assert both.values[0]["activation"] is None


def test_the_sharpness_along_a_path_of_models():
    path = jf.iterate(GD, OBJECTIVE, MODEL, steps=2)
    along = jf.curvature.sharpness_along(OBJECTIVE, path.values, model=path.params)
    plain = jf.curvature.sharpness_along(PLAIN_OBJECTIVE, {name: path.values[name] for name in LAYERS})
    same(along.eigenvalues, plain.eigenvalues, 1e-9)
    with pytest.raises(
        ValueError, match="model must be the whole model of which the path is the trained part"
    ):
        jf.curvature.sharpness_along(OBJECTIVE, {"first": jnp.ones((2, 3))}, model=path.params)


def test_under_transformations():
    one = lambda key: jf.iterate(GD, OBJECTIVE, MODEL, steps=3, batch_size=2, key=key)
    keys = jax.random.split(jax.random.key(0), 5)
    alone = one(keys[2])
    for at_once in (None, 2):
        members = jf.ensemble(one, keys, at_once=at_once)
        assert members.params["activation"] is jnp.tanh
        same(jax.tree.map(lambda x: np.asarray(x)[2], layers_of(members.values)), layers_of(alone.values))
    same(layers_of(jax.jit(one)(keys[2]).params), layers_of(alone.params))
    slope = lambda rate, f, p: jf.iterate(jf.optim.gd(rate), f, p, steps=3, record=f).values[-1]
    exact = jax.jit(jax.grad(lambda rate: slope(rate, PLAIN_OBJECTIVE, PLAIN)))(0.05)
    assert jax.grad(slope)(0.05, OBJECTIVE, MODEL) == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
def test_an_objective_is_called_with_the_whole_model(chunk, dtype):
    cast = lambda tree: jax.tree.map(
        lambda x: (
            jax.device_put(np.asarray(x, dtype)) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x
        ),
        tree,
    )
    model = MODEL | cast(PLAIN)
    objective, plain = (jf.Objective(f.losses, DATA, chunk) for f in (OBJECTIVE, PLAIN_OBJECTIVE))
    assert float(objective(model)) == pytest.approx(float(plain(cast(PLAIN))), rel=1e-13)
    weights = np.linspace(0.0, 1.0, 24)
    assert float(objective.weighted(model, weights)) == pytest.approx(
        float(plain.weighted(cast(PLAIN), weights)), rel=1e-13
    )
    same(
        layers_of(jf.iterate(GD, objective, model, steps=2).params),
        jf.iterate(GD, plain, cast(PLAIN), steps=2).params,
    )


TRAINABLE = {
    "prefix": dict.fromkeys(MODEL, False) | {"last": True, "nothing": None},
    "whole mask": jax.tree.map(lambda _: False, MODEL) | {"last": {"w": True, "b": True}},
    "function": lambda path, leaf: path.startswith("last/"),
}
LAST = jf.Objective(lambda params, batch: losses(MODEL | {"last": params}, batch), DATA)


@pytest.mark.parametrize("form", TRAINABLE)
def test_a_frozen_part_is_as_if_closed_over(form):
    chosen = TRAINABLE[form]
    for verb in ("mini-batches", "SDE"):
        plain = RUNS[verb](LAST, MODEL["last"])
        if verb == "SDE":
            whole = jf.integrate(
                jf.dynamics.sgd(OBJECTIVE, 0.05, 4), MODEL, TIMES, key=jax.random.key(0), trainable=chosen
            )
        else:
            whole = jf.iterate(
                GD, OBJECTIVE, MODEL, steps=6, batch_size=4, key=jax.random.key(0), trainable=chosen
            )
        same(whole.params["last"], plain.params)
        same(whole.values, plain.values)
        same(whole.params["first"], MODEL["first"])


def test_a_frozen_part_has_no_curvature_and_no_noise():
    chosen, params, key = TRAINABLE["function"], MODEL["last"], jax.random.key(0)
    c = jf.curvature
    ones = jax.tree.map(jnp.ones_like, params)
    v = jax.tree.map(lambda _: None, MODEL) | {"last": ones}
    whole = jf.iterate(GD, OBJECTIVE, MODEL, steps=2, trainable=chosen, record=c.record_sharpness(OBJECTIVE))
    plain = jf.iterate(GD, LAST, params, steps=2, record=c.record_sharpness(LAST))
    measures = {
        "hvp": lambda f, p, u, **t: c.hvp(f, p, u, **t),
        "third": lambda f, p, u, **t: c.third_derivative(f, p, u, u, **t),
        "sharpness": lambda f, p, u, **t: c.sharpness(f, p, **t),
        "pairs": lambda f, p, u, **t: c.top_eigenpairs(f, p, 2, **t).values,
        "trace": lambda f, p, u, **t: c.trace(f, p, key, **t),
        "density": lambda f, p, u, **t: c.spectral_density(f, p, key, **t).nodes,
        "index": lambda f, p, u, **t: c.saddle_index(f, p, **t),
        "noise": lambda f, p, u, **t: jf.noise_scale(f, p, **t),
        "covariance": lambda f, p, u, **t: jf.gradient_covariance(f, p, **t),
    }
    pairs = {
        name: (measure(OBJECTIVE, MODEL, v, trainable=chosen), measure(LAST, params, ones))
        for name, measure in measures.items()
    } | {"recorded": (whole.values.eigenvalues, plain.values.eigenvalues)}
    for name, (ours, expected) in pairs.items():
        ours, expected = jax.tree.leaves(ours), jax.tree.leaves(expected)
        assert len(ours) == len(expected), name
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=name)


def test_gauss_newton_of_a_frozen_part():
    predict = lambda model, x: model["activation"](x @ model["first"]["w"]) @ model["last"]["w"]
    square = lambda out, y: 0.5 * jnp.square(out - y).sum(1)
    whole = jf.Objective(jf.problems.PredictionLosses(predict, square), DATA)
    close = lambda params, x: predict(MODEL | {"last": params}, x)
    plain = jf.Objective(jf.problems.PredictionLosses(close, square), DATA)
    params, chosen = MODEL["last"], TRAINABLE["function"]
    ones = jax.tree.map(jnp.ones_like, params)
    v = dict.fromkeys(MODEL) | {"first": {"w": None, "b": None}, "last": ones}
    ours = jf.curvature.ggn_vp(whole, MODEL, v, trainable=chosen)
    same(ours, jf.curvature.ggn_vp(plain, params, ones))


def test_an_equinox_network_needs_nothing_more():
    """Against Equinox's own partition into arrays and the rest, in a loop written by hand."""
    model = eqx.nn.MLP(3, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    objective = jf.Objective(lambda m, b: jnp.square(jax.vmap(m)(b["x"]) - b["y"]).sum(1), DATA)
    run = jf.iterate(jf.optim.gd(0.1), objective, model, steps=5)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    gradient = jax.jit(jax.grad(lambda p: objective.losses(eqx.combine(p, static), DATA).mean()))
    for _ in range(5):
        params = jax.tree.map(lambda p, g: p - 0.1 * np.asarray(g), params, gradient(params))
    assert isinstance(run.params, eqx.nn.MLP)
    np.testing.assert_allclose(run.params(jnp.ones(3)), eqx.combine(params, static)(jnp.ones(3)), rtol=1e-12)
    flow = jf.integrate(jf.dynamics.gradient_flow(objective), model, run.times)
    assert 0 < jf.compare(run, flow).distance[-1] < 1
    mask = eqx.tree_at(lambda m: m.layers[1].bias, jax.tree.map(lambda _: False, model), True)
    frozen = jf.iterate(jf.optim.gd(0.1), objective, model, steps=1, trainable=mask).params
    changed = jax.tree.map(
        lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))),
        *(eqx.filter(m, eqx.is_array) for m in (model, frozen)),
    )
    assert jax.tree.leaves(changed) == [False, False, False, True]
    assert "MLP" in repr(flow.params)


class Net(eqx.Module):
    weights: list
    activation: Callable

    def __call__(self, x):
        return self.activation(x @ self.weights[0]) @ self.weights[1]


@pytest.mark.parametrize("name", ["mini-batches", "flow", "SDE", "modified"])
def test_a_module_and_a_list_of_its_arrays_are_bit_for_bit_the_same(name):
    weights = [MODEL[layer]["w"] for layer in LAYERS]
    of_module = jf.Objective(lambda net, b: jnp.square(net(b["x"]) - b["y"]).sum(1), DATA)
    of_list = jf.Objective(lambda w, b: jnp.square(Net(w, jnp.tanh)(b["x"]) - b["y"]).sum(1), DATA)
    module, plain = RUNS[name](of_module, Net(weights, jnp.tanh)), RUNS[name](of_list, weights)
    same(module.params.weights, plain.params, rtol=0)
    same(module.values, plain.values, rtol=0)


def test_a_game_of_models():
    model = {"x": jnp.array([1.0, 0.0]), "speed": jnp.asarray(2, jnp.int32), "turn": jnp.flip}
    field = jf.VectorField(lambda m: m | {"x": m["speed"] * m["turn"](m["x"]) * jnp.array([-1.0, 1.0])})
    run = jf.iterate(jf.optim.gd(0.1), field, model, steps=1)
    np.testing.assert_allclose(run.params["x"], [1.0, -0.2])
    assert run.params["turn"] is jnp.flip


def edge_loss(objective, params):
    """The loss of an edge study, as it is planned, at what it will train."""
    chosen = plan(
        optimizer=jf.optim.gd(0.05), objective=objective, params=params, steps=6, modes=1, level=None
    )
    return jax.jit(jax.value_and_grad(chosen.objective))(chosen.params)


STUDIES = {
    "edge": edge_loss,
    "order": lambda f, p: (
        jf.order_study(
            jf.family_of(jf.optim.gd(0.1)), f, p, orders=(1, 2), time=0.2, step_sizes=[0.0125, 0.025, 0.05]
        ).slopes
    ),
    "convergence": lambda f, p: jf.dynamics.convergence(jf.optim.gd(0.05), f, p),
    "effective": lambda f, p: jf.dynamics.effective(jf.optim.gd(0.05), f, p),
    "moments": lambda f, p: jf.comparison.moment_descent(f, p, learning_rate=0.1, batch_size=4, steps=2),
}


@pytest.mark.parametrize("name", STUDIES)
def test_studies_of_models(name):
    ours, expected = (
        jax.tree.leaves(STUDIES[name](*of)) for of in ((OBJECTIVE, MODEL), (PLAIN_OBJECTIVE, PLAIN))
    )
    assert len(ours) == len(expected) > 0
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-10)


def test_split_and_join():
    trained, rest = split_model(MODEL)
    assert [leaf.dtype for leaf in jax.tree.leaves(trained)] == [jnp.float64] * 4
    again = join_model(trained, rest)
    assert all(again[name] is MODEL[name] for name in MODEL if name not in LAYERS)
    assert split_model(PLAIN) == (PLAIN, None)
    assert split_model(PLAIN, trainable=True)[1] is None


class Settings(eqx.Module):
    weight: jax.Array
    rate: float = 3.0


@pytest.mark.parametrize(
    ("params", "trained"),
    [
        ([1, 2.0], 2),
        (1, 1),
        ({"w": jnp.ones(2), "b": 0.0}, 2),
        ({"w": jnp.ones(2), "n": 3}, 1),
        (Settings(jnp.ones(2)), 1),
    ],
)
def test_plain_numbers_are_trained_unless_they_are_settings(params, trained):
    assert len(jax.tree.leaves(split_model(params)[0])) == trained


@jax.tree_util.register_pytree_with_keys_class
class Mapped(dict):
    """A container of its own, with the keys of a dict."""

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.DictKey(key), self[key]) for key in self], tuple(self)

    @classmethod
    def tree_unflatten(cls, keys, children):
        return cls(zip(keys, children, strict=True))


class Variable(eqx.Module):
    """What a variable of flax.nnx looks like."""

    value: jax.Array


class Param(Variable):
    """One that is trained."""


class BatchStat(Variable):
    """One that is not."""


@pytest.mark.parametrize("trainable", [None, True, lambda path, leaf: "scale" in path or "mean" in path])
def test_of_the_variables_of_nnx_only_params_are_trained(monkeypatch, trainable):
    monkeypatch.setitem(sys.modules, "flax.nnx", SimpleNamespace(Variable=Variable, Param=Param))
    model = {"scale": Param(jnp.array(2.0)), "mean": BatchStat(jnp.array(1.0))}
    trained, rest = split_model(model, trainable)
    assert jax.tree.leaves(trained) == [2.0]
    assert rest is not None
    loss = lambda m: (m["scale"].value - m["mean"].value) ** 2
    run = jf.iterate(jf.optim.gd(0.25), loss, model, steps=1, trainable=trainable)
    assert (run.params["scale"].value, run.params["mean"].value) == (1.5, 1.0)
    assert isinstance(run.params["mean"], BatchStat)
    with pytest.raises(TypeError, match=r"array to train, got \['mean'\]\.value has dtype float64"):
        split_model({"mean": model["mean"]})


def test_bad_input():
    run = lambda model, trainable=None: jf.iterate(GD, OBJECTIVE, model, steps=1, trainable=trainable)
    with pytest.raises(TypeError, match="record must return a pytree of numbers and arrays, got 'a' in it"):
        jf.iterate(GD, PLAIN_OBJECTIVE, PLAIN, steps=1, record=lambda params: {"name": "a"})
    with pytest.raises(TypeError, match=r"array to train, got \['a'\] has dtype int64; \['f'\] has"):
        run({"a": jnp.arange(3), "f": jnp.tanh})
    with pytest.raises(ValueError, match=r"one of which trainable must leave, got .* has dtype float64"):
        run(MODEL, False)
    flags = (
        r"trainable must be a function of path and leaf, or flags in a structure that begins that of params, "
    )
    with pytest.raises(ValueError, match=flags + r"got one that has no flag for '.*'\.$"):
        run(MODEL, {"last": True})
    tree = {"w": jnp.ones(2), "more": {"b": jnp.ones(1)}}
    of_tree = lambda trainable: jf.iterate(
        GD, lambda p: jnp.sum(p["w"] ** 2), tree, steps=1, trainable=trainable
    )
    with pytest.raises(ValueError, match=flags + r"got one that has no flag for 'more/b'\.$"):
        of_tree({"w": True})
    with pytest.raises(ValueError, match=r"has a flag for 'more/c', which params do not have\.$"):
        of_tree({"w": True, "more": {"b": True, "c": True}})
    with pytest.raises(ValueError, match=r"is made of other containers\.$"):
        of_tree({"w": True, "more": Mapped(b=True)})
    with pytest.raises(
        TypeError, match=r"trainable must hold, or return, True or False for every leaf, got 1"
    ):
        run(MODEL, lambda path, leaf: 1)
