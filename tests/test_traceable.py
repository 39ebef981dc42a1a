"""The decorator: which arguments are leaves, which are static, and what is compiled for whom."""

import pickle
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow._compiled import combine, compiled, is_numeric, partition, programs
from jaxflow._traceable import STRUCTURAL

pytestmark = pytest.mark.promotes

traceable = jf.optim.traceable


@traceable
def user_optimizer(rate, power: int = 1, *, scale=None, shout=False, wrap=None):
    """A user's own: rate·sign(g)|g|^power, built on a structural integer."""
    del shout, scale, wrap

    def update(updates, state, params=None):
        step = lambda g: -rate * jnp.sign(g) * jnp.prod(jnp.stack([jnp.abs(g)] * power), axis=0)
        return jax.tree.map(step, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def plain_constructor(rate):
    return optax.sgd(rate)


def test_a_users_constructor_becomes_an_optimizer():
    optimizer = user_optimizer(0.5, 2)
    assert isinstance(optimizer, jf.optim.Optimizer)
    assert isinstance(optimizer, optax.GradientTransformationExtraArgs)
    updates, _ = optimizer.update(jnp.array([2.0, -3.0]), optimizer.init(jnp.zeros(2)))
    np.testing.assert_allclose(updates, [-2.0, 4.5])
    twin = pickle.loads(pickle.dumps(optimizer))
    assert (
        repr(twin)
        == repr(optimizer)
        == "user_optimizer(rate=0.5, power=2, scale=None, shout=False, wrap=None)"
    )
    assert user_optimizer.__doc__.startswith("A user's own")


def test_numbers_are_leaves_and_the_rest_is_static():
    arrays = {"a": jnp.ones(3), "b": [2, np.float32(3)]}
    optimizer = user_optimizer(1, scale=arrays, shout=True, wrap=jnp.tanh)
    leaves = jax.tree.leaves(optimizer)
    assert [type(leaf) for leaf in leaves if not hasattr(leaf, "shape")] == [float] * 3
    assert len(leaves) == 4
    assert jax.tree.structure(optimizer) == jax.tree.structure(
        user_optimizer(2.5, scale=arrays, shout=True, wrap=jnp.tanh)
    )
    for changed in ({"power": 2}, {"shout": False}, {"wrap": jnp.sin}, {"scale": None}):
        other = optimizer.replace(**changed)
        assert jax.tree.structure(other) != jax.tree.structure(optimizer)


def test_true_is_not_one():
    """Both hash and compare alike in Python."""
    flagged, counted = user_optimizer(1.0, wrap=(True,)), user_optimizer(1.0, wrap=(1,))
    assert len(jax.tree.leaves(flagged)) + 1 == len(jax.tree.leaves(counted))
    static = [partition((x, "s"))[1] for x in (True, "s")]
    assert static[0] != static[1]
    assert partition((True,))[1] != partition((False,))[1]


@pytest.mark.parametrize(
    "tree", [(), (1.0, "a", None, True), {"x": [np.ones(2), print]}, [[], (2, ("b", 3))]]
)
def test_partition_and_combine_are_inverse(tree):
    dynamic, static = partition(tree)
    assert all(map(is_numeric, dynamic))
    back = combine(dynamic, static)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert all(a is b for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True))


def test_each_structural_value_compiles_and_numbers_do_not():
    @jax.jit
    @chex.assert_max_traces(n=2)
    def update(optimizer):
        return optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))[0]

    chex.clear_trace_counter()
    for power in (1, 2):
        for rate in (0.1, 1, np.float64(0.3), np.int32(2)):
            np.testing.assert_allclose(update(user_optimizer(rate, power)), -float(rate))


def test_structural_names_may_be_given_and_are_checked():
    two = traceable(plain_constructor, structural=("rate",))(0.5)
    assert jax.tree.leaves(two) == []
    assert two.hyperparameters == {"rate": 0.5}
    with pytest.raises(
        ValueError, match="structural names 'speed', which is not an argument of plain_constructor"
    ):
        traceable(plain_constructor, structural=("speed",))
    as_decorator = traceable(structural=("rate",))(plain_constructor)
    assert jax.tree.structure(as_decorator(0.5)) == jax.tree.structure(two)


def test_the_same_constructor_gives_the_same_structure_however_often_it_is_wrapped():
    once, again = traceable(plain_constructor), traceable(plain_constructor)
    assert once is again
    assert traceable(once) is once
    assert traceable(jf.optim.adam) is jf.optim.adam


def test_a_wrapped_constructor_pickles_with_its_structural_arguments():
    made = traceable(plain_constructor, structural=("rate",))(0.5)
    twin = pickle.loads(pickle.dumps(made))
    assert jax.tree.structure(twin) == jax.tree.structure(made)


def test_what_returns_something_else_is_refused():
    with pytest.raises(TypeError, match="must return an optax transformation, a schedule, a dynamics"):
        traceable(lambda x: x)(1.0)


def test_an_argument_that_cannot_be_hashed_is_refused():
    class Unhashable:
        __hash__ = None

    with pytest.raises(TypeError, match="must be hashable"):
        user_optimizer(0.1, wrap=Unhashable())


def test_a_schedule_is_one_too():
    @traceable
    def halving(start, period):
        return lambda k: start * 0.5 ** (k / period)

    schedule = halving(1, 2)
    assert isinstance(schedule, jf.optim.Schedule)
    np.testing.assert_allclose(schedule(jnp.arange(5)), 0.5 ** (np.arange(5) / 2))
    run = jf.iterate(jf.optim.gd(schedule), lambda x: x @ jnp.ones(1), jnp.zeros(1), steps=3)
    np.testing.assert_allclose(run.params, [-(1 + 0.5**0.5 + 0.5)])


BRANCHING = {
    "exponential_decay": (
        (0.1, 20, 0.5),
        ("transition_steps", "transition_begin", "decay_rate", "end_value"),
        r"\(init_value, decay_rate\) .* structural=\('transition_steps', 'transition_begin', …\)\)\.",
    ),
    "warmup_cosine_decay_schedule": (
        (0.0, 0.1, 5, 20),
        ("warmup_steps", "decay_steps", "peak_value"),
        r"peak_value.* structural=\('warmup_steps', 'decay_steps', …\)\)\.",
    ),
    "piecewise_constant_schedule": (
        (0.1, {10: 0.1}),
        ("boundaries_and_scales",),
        r"boundaries_and_scales.* structural=\(…\)\)\.",
    ),
}


@pytest.mark.parametrize("name", BRANCHING)
def test_a_schedule_that_branches_on_its_arguments_is_refused_in_a_sentence(name):
    arguments, structural, said = BRANCHING[name]
    loss = jf.Objective(lambda w, c: 0.5 * jnp.sum((w[None] - c) ** 2, axis=1), jnp.ones((4, 2)))
    constructor = getattr(optax, name)
    schedule = traceable(constructor)(*arguments)
    for use in (
        lambda: schedule(3),
        lambda: jf.iterate(jf.optim.gd(schedule), loss, jnp.zeros(2), steps=2),
        lambda: jf.dynamics.sde_of(jf.optim.gd(schedule), loss, 2, steps=2),
        lambda: jf.dynamics.limit_of(jf.optim.momentum(schedule), loss, steps=2),
        lambda: jax.vmap(traceable(constructor))(*jax.tree.map(lambda x: jnp.full(1, x), arguments)),
    ):
        with pytest.raises(TypeError, match=f"{name} must not branch in Python .*{said}") as caught:
            use()
        assert "\n" not in str(caught.value)
    named = traceable(constructor, structural=structural)(*arguments)
    np.testing.assert_allclose(
        named(jnp.arange(12)), jax.vmap(constructor(*arguments))(jnp.arange(12)), rtol=1e-6
    )


def test_what_branches_on_the_step_count_or_in_another_kind_of_constructor_is_refused():
    @traceable
    def stepped(value):
        return lambda k: value if k < 5 else 0.5 * value

    @traceable
    def unless_zero(rate, momentum):
        return optax.sgd(rate, momentum if momentum > 0 else None)

    with pytest.raises(TypeError, match=r"stepped must not branch in Python on .* \(the step count, value\)"):
        stepped(0.1)(3)
    with pytest.raises(TypeError, match=r"unless_zero must not branch .* \(rate, momentum\) or use"):
        jf.iterate(unless_zero(0.1, 0.9), lambda x: x @ x, jnp.ones(2), steps=2)


def test_seeds_and_integers_by_annotation_are_structural_in_foreign_constructors():
    def foreign(rate, seed, number: "int", length):
        del seed, number, length
        return optax.sgd(rate)

    assert jax.tree.leaves(traceable(foreign)(1, 2, 3, 4)) == [4.0, 1.0]


class Settings(NamedTuple):
    double: bool


ONCE = Settings(False)


@compiled(static=("settings",))
@chex.assert_max_traces(n=3)
def _apply(function, x, extra=None, *, settings=ONCE):
    """A number or twice as much."""
    return function(x) * (2 if settings.double else 1)


def test_compiled_traces_numbers_and_keeps_the_rest_static():
    chex.clear_trace_counter()
    for x in (1.0, 2.0, np.float64(3), 4.0):
        assert float(_apply(jnp.square, x)) == x**2
        assert float(_apply(x=x, function=jnp.square, extra=None, settings=Settings(False))) == x**2
    assert float(_apply(jnp.square, 3.0, settings=Settings(True))) == 18
    assert float(_apply(jnp.negative, 3.0)) == -3
    assert _apply.cache_size() == programs()[f"{__name__}.apply"] == 3
    assert _apply.__doc__ == "A number or twice as much."


def test_static_arguments_are_static_as_a_whole_and_told_apart_by_type():
    """A number among them stays a Python number; True is not 1, and NumPy's 3 is 3."""

    @compiled(static=("shape", "flag"))
    def ones(scale, shape, flag):
        assert type(shape[0]) is int
        return scale * jnp.ones(shape), type(flag) is bool

    value, flag = ones(2.0, (3,), flag=1)
    np.testing.assert_array_equal(value, [2.0, 2.0, 2.0])
    assert not flag
    assert ones(2.0, (3,), flag=True)[1]
    assert not ones(3.0, (3,), flag=np.int64(1))[1]
    assert ones.cache_size() == 2


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, 2, 3), {}),
        ((1, 2), {"a": 1, "c": 3}),
        ((1,), {"a": 1, "c": 3}),
        ((1,), {"c": 3, "d": 4}),
        ((1,), {"d": 4}),
    ],
)
def test_compiled_refuses_the_calls_that_python_refuses(args, kwargs):
    def plain(a, b=2, *, c):
        return a + b + c

    with pytest.raises(TypeError):
        plain(*args, **kwargs)
    with pytest.raises(TypeError, match="argument"):
        compiled(plain)(*args, **kwargs)


def test_misnamed_static_arguments_and_arguments_without_a_name_are_refused_at_decoration():
    def plain(a, b):
        return a

    with pytest.raises(
        ValueError, match=r"static names 'c', which is not an argument of plain; it has a, b\."
    ):
        compiled(static=("a", "c"))(plain)
    for nameless in (lambda *a: a, lambda a, /: a, lambda **a: a):
        with pytest.raises(TypeError, match="must have a name"):
            compiled(nameless)


def test_paths_of_leaves_are_named_after_the_arguments():
    optimizer = jf.optim.lookahead(jf.optim.gd(0.1), steps=3, alpha=0.2)
    paths = jax.tree_util.tree_flatten_with_path(optimizer)[0]
    names = {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in paths}
    assert names == {"alpha": 0.2, "inner.learning_rate": 0.1, "steps": 3.0}


def test_an_argument_that_is_structural_twice_over_counts_once():
    # As of optax.contrib.muon, listed by us, in the versions of optax that annotate its ns_steps.
    assert jax.tree.leaves(traceable(plain_constructor, structural=("rate", "rate"))(0.5)) == jax.tree.leaves(
        traceable(plain_constructor, structural=("rate",))(0.5)
    )


def test_an_argument_that_is_listed_and_annotated_is_structural_once(monkeypatch):
    def annotated(rate: float, turns: int = 3):
        return optax.sgd(rate * turns)

    monkeypatch.setitem(STRUCTURAL, f"{annotated.__module__}.annotated", ("turns",))
    assert jax.tree.leaves(traceable(annotated)(0.5, turns=2)) == [0.5]


def test_paths_are_told_where_leaves_are_replaced():
    """As equinox does when it parts what is differentiable from what is not: None is no leaf."""
    optimizer = jf.optim.gd(jf.optim.warmup(0.1, 5.0))
    leaves, structure = jax.tree.flatten(optimizer)
    paths = [path for path, _ in jax.tree.leaves_with_path(optimizer)]
    emptied = jax.tree.unflatten(structure, [None, *leaves[1:]])
    assert [path for path, _ in jax.tree.leaves_with_path(emptied)] == paths[1:]
