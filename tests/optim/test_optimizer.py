"""An optimizer is a pytree of its hyperparameters that can be looked at, changed, copied and pickled."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, SCHEDULE_CASES, by_id

import jaxflow as jf

pytestmark = pytest.mark.promotes
optim = jf.optim


def same_object(ours, theirs):
    """Equal as pytrees: structure (static arguments included) and every leaf."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return jax.tree.structure(ours) == jax.tree.structure(theirs) and all(
        (a == b).all() if hasattr(a, "shape") else a == b for a, b in pairs
    )


NESTED = optim.lookahead(optim.adam(optim.warmup(optim.inverse_sqrt(0.1), 5)), steps=4)


@pytest.mark.parametrize("case", CASES + SCHEDULE_CASES, **by_id)
def test_leaves_are_the_numbers_each_once(case):
    made = case.make()
    numbers = [
        float(v) for v in case.settings.values() if isinstance(v, (int, float)) and type(v) is not bool
    ]
    if "size" in case.settings:
        numbers.remove(case.settings["size"])  # a shape, so structural
    leaves = [leaf for leaf in jax.tree.leaves(made) if isinstance(leaf, float)]
    nested = [v for v in case.settings.values() if isinstance(v, (optim.Optimizer, optim.Schedule))]
    defaults = {k: v for k, v in made.hyperparameters.items() if isinstance(v, float)}.keys() - set(
        case.settings
    )
    expected = numbers + jax.tree.leaves(nested) + [made.hyperparameters[name] for name in defaults]
    assert sorted(leaves) == sorted(expected)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(made)[0]]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("case", CASES, **by_id)
def test_copies_and_pickles_are_the_same_optimizer(case):
    optimizer = case.make()
    for twin in (pickle.loads(pickle.dumps(optimizer)), copy.copy(optimizer), copy.deepcopy(optimizer)):
        assert type(twin) is optim.Optimizer
        assert same_object(twin, optimizer)
        assert repr(twin) == repr(optimizer)


@pytest.mark.parametrize(
    "made",
    [
        NESTED,
        optim.traceable(optax.lion)(1e-4, b1=0.8),
        optim.chain(optim.traceable(optax.clip)(0.5), optim.gd(0.1)),
        optim.sgdr(0.1, 5),
    ],
    ids=["nested", "lion", "chain", "schedule"],
)
def test_nested_and_foreign_ones_pickle_too(made):
    twin = pickle.loads(pickle.dumps(made))
    assert same_object(twin, made)
    assert twin is not made
    if isinstance(made, optim.Optimizer):
        first = lambda optimizer: optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)), jnp.ones(2))[0]
        np.testing.assert_array_equal(first(twin), first(made))


def test_arrays_among_the_hyperparameters_pickle():
    stack = jax.vmap(optim.gd)(jnp.array([0.1, 0.2]))
    assert same_object(pickle.loads(pickle.dumps(stack)), stack)


def test_tree_map_acts_on_the_hyperparameters():
    halved = jax.tree.map(lambda x: x / 2, NESTED)
    assert halved.hyperparameters["steps"] == 2
    adam = halved.hyperparameters["inner"]
    assert adam.hyperparameters["b1"] == 0.45
    assert adam.hyperparameters["learning_rate"].hyperparameters["peak"].hyperparameters == {"value": 0.05}


def test_representations_are_the_constructors_calls():
    assert repr(optim.gd(1)) == "gd(learning_rate=1.0)"
    assert (
        repr(optim.chain(optim.gd(0.1), optim.sign(0.2)))
        == "chain(gd(learning_rate=0.1), sign(learning_rate=0.2))"
    )
    assert "lookahead(inner=adam(learning_rate=warmup(peak=inverse_sqrt(value=0.1), steps=5.0" in repr(NESTED)
    assert repr(jax.vmap(optim.gd)(jnp.array([0.1, 0.2]))) == "gd(learning_rate=float64[2])"
    jax.jit(lambda optimizer: repr(optimizer) and 0)(NESTED)  # traced ones have one too


def test_hyperparameters_are_named_in_the_constructors_order():
    names = ["learning_rate", "b1", "b2", "eps", "final_learning_rate", "gamma", "amsbound", "paper"]
    optimizer = optim.adabound(paper=True)
    assert list(optimizer.hyperparameters) == names
    assert optimizer.hyperparameters["paper"] is True
    assert optim.hyperparameters(optimizer) == optimizer.hyperparameters
    assert optim.hyperparameters(optax.sgd(0.1)) == {}
    optimizer.hyperparameters["eps"] = 5.0  # of a new dict
    assert optimizer.hyperparameters["eps"] == 1e-8


def test_replace_calls_the_constructor_again():
    optimizer = optim.adam(0.1)
    assert same_object(optimizer.replace(b1=0.5, learning_rate=1), optim.adam(1.0, 0.5))
    assert optimizer.hyperparameters["b1"] == 0.9
    with pytest.raises(ValueError, match="adam has no argument 'beta'; it has learning_rate, b1, b2, eps"):
        optimizer.replace(beta=0.5)
    with pytest.raises(ValueError, match="b1 must be in"):
        optimizer.replace(b1=1.5)
    momentum = optim.momentum(0.1).replace(ema=True, debias=True)
    assert same_object(momentum, optim.momentum(0.1, ema=True, debias=True))


def test_the_learning_rate_is_found_wherever_it_is():
    rate = optim.learning_rate_of
    schedule = optim.inverse_sqrt(0.1)
    assert rate(optim.gd(0.1)) == 0.1
    assert same_object(rate(optim.lookahead(optim.adam(schedule))), schedule)
    assert rate(optim.chain(optax.clip(1.0), optim.l2_regularization(0.1), optim.gd(0.3))) == 0.3
    assert rate(optim.chain(optax.clip(1.0))) is None
    assert rate(optax.sgd(0.1)) is None
    assert rate(optim.traceable(optax.sgd)(0.1)) == 0.1
    with pytest.raises(ValueError, match="2 learning rates; say which one is the clock by time_step="):
        rate(optim.chain(optim.gd(0.1), optim.gd(0.2)))


MASK = {"w": True, "b": False}
HOLDING_A_RATE = {
    "chain": lambda gd: optax.chain(optax.clip(1.0), gd),
    "nested chains": lambda gd: optax.chain(optax.chain(optax.clip(1.0), optax.chain(gd)), optax.clip(2.0)),
    "named chain": lambda gd: optax.named_chain(("clip", optax.clip(1.0)), ("descent", gd)),
    "masked": lambda gd: optax.masked(gd, MASK),
    "groups": lambda gd: optax.multi_transform({"a": gd, "b": gd}, {"w": "a", "b": "b"}),
    "groups, one at rest": lambda gd: optax.multi_transform(
        {"a": gd, "b": optax.set_to_zero()}, {"w": "a", "b": "b"}
    ),
    "apply_if_finite": lambda gd: optax.apply_if_finite(gd, 3),
    "chain in a mask": lambda gd: optax.masked(optax.chain(optax.clip(1.0), gd), MASK),
    "extra arguments": lambda gd: optax.with_extra_args_support(optax.chain(gd)),
    "ours around optax's": lambda gd: optim.chain(optax.chain(optax.clip(1.0), gd)),
}


@pytest.mark.parametrize("name", HOLDING_A_RATE)
def test_the_learning_rate_is_found_inside_plain_optax_wrappers(name):
    schedule = optim.inverse_sqrt(0.1)
    assert optim.learning_rate_of(HOLDING_A_RATE[name](optim.gd(0.3))) == 0.3
    assert same_object(optim.learning_rate_of(HOLDING_A_RATE[name](optim.gd(schedule))), schedule)
    assert optim.learning_rate_of(HOLDING_A_RATE[name](optax.clip(1.0))) is None
    traced = jax.jit(lambda gd: optim.learning_rate_of(HOLDING_A_RATE[name](gd)))(optim.gd(0.3))
    np.testing.assert_allclose(traced, 0.3, rtol=1e-6)


def test_the_learning_rate_is_found_under_injection_and_other_names():
    assert optim.learning_rate_of(optax.inject_hyperparams(optax.sgd)(learning_rate=0.2)) == 0.2
    for name in ("lr", "step_size"):
        scope: dict = {"optax": optax}
        exec(f"def mine({name}, beta=0.9):\n    return optax.sgd({name}, beta)", scope)
        assert optim.learning_rate_of(optim.traceable(scope["mine"])(0.2)) == 0.2
    assert optim.learning_rate_of(optim.chain(optim.traceable(optax.scale)(0.5), optim.gd(0.2))) == 0.2
    groups = optax.multi_transform({"a": optim.gd(0.1), "b": optim.gd(0.2)}, {"w": "a", "b": "b"})
    with pytest.raises(ValueError, match="2 learning rates; say which one is the clock by time_step="):
        optim.learning_rate_of(groups)


def test_chain_refuses_what_is_no_transformation():
    with pytest.raises(TypeError, match="each of transforms must be an optax transformation, got"):
        optim.chain(optim.gd(0.1), 0.1)


def test_the_members_of_a_chain_are_its_hyperparameters():
    chain = optim.chain(optax.identity(), optim.gd(0.1))
    assert chain.hyperparameters["transforms"][1].hyperparameters == {"learning_rate": 0.1}
    assert same_object(chain.replace(transforms=(optim.gd(0.2),)), optim.chain(optim.gd(0.2)))


@pytest.mark.parametrize("case", [c for c in CASES if "learning_rate" in c.settings], **by_id)
def test_a_bad_learning_rate_is_refused_by_name(case):
    for bad in (-0.1, float("nan"), float("inf"), np.float64(-1)):
        with pytest.raises(ValueError, match="learning_rate must be a finite number at least 0, got"):
            case.make(learning_rate=bad)
    for bad in ("0.1", None, True, 1j):
        with pytest.raises(TypeError, match="learning_rate must be a finite number"):
            case.make(learning_rate=bad)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: optim.momentum(0.1, 1.0), ValueError, r"beta must be in \[0, 1\), got 1.0"),
        (lambda: optim.momentum(0.1, debias=True), ValueError, "debias must be False unless ema=True"),
        (
            lambda: optim.momentum(0.1, optim.constant(0.9), ema=True, debias=True),
            ValueError,
            "debias must be False when beta is a schedule",
        ),
        (lambda: optim.nesterov(0.1, -0.5), ValueError, "beta must be"),
        (lambda: optim.sgdw(0.1, weight_decay=-1), ValueError, "weight_decay must be"),
        (lambda: optim.sgdw(0.1, multiplier=-1), ValueError, "multiplier must be"),
        (lambda: optim.adamw(multiplier=float("nan")), ValueError, "multiplier must be"),
        (lambda: optim.adagrad(0.1, -1.0), ValueError, "eps must be"),
        (lambda: optim.adagrad(0.1, initial_accumulator=-1.0), ValueError, "initial_accumulator must be"),
        (lambda: optim.rmsprop(0.1, 1.0), ValueError, "decay must be"),
        (lambda: optim.adam(b1=1.0), ValueError, "b1 must be"),
        (lambda: optim.amsgrad(b2=-0.1), ValueError, "b2 must be"),
        (lambda: optim.adabound(gamma=0.0), ValueError, "gamma must be"),
        (lambda: optim.adabound(final_learning_rate=-1), ValueError, "final_learning_rate must be"),
        (lambda: optim.adabound(optim.warmup(0.1, 5)), ValueError, "learning_rate must be above 0 at step 0"),
        (lambda: optim.radam(threshold=3.9), ValueError, "threshold must be at least 4, got 3.9"),
        (lambda: optim.nadam(momentum_decay=-1), ValueError, "momentum_decay must be"),
        (lambda: optim.swats(tolerance=-1), ValueError, "tolerance must be"),
        (lambda: optim.lookahead(optim.gd(0.1), 0), ValueError, "steps must be at least 1, got 0"),
        (lambda: optim.lookahead(optim.gd(0.1), alpha=1.5), ValueError, r"alpha must be in \[0, 1\]"),
        (lambda: optim.lookahead(0.1), TypeError, "inner must be an optax transformation, got 0.1"),
        (lambda: optim.newton(damping=-1), ValueError, "damping must be"),
    ],
)  # fmt: skip
def test_bad_hyperparameters_are_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("case", [case for case in CASES if case.needs], **by_id)
def test_what_needs_a_function_says_so(case):
    optimizer = case.make()
    with pytest.raises(ValueError, match=f"needs params and {case.needs}="):
        optimizer.update(jnp.ones(4), optimizer.init(jnp.ones(4)), jnp.ones(4))


def test_lookahead_says_that_it_needs_params():
    optimizer = optim.lookahead(optim.gd(0.1))
    with pytest.raises(ValueError, match="lookahead needs params"):
        optimizer.update(jnp.ones(4), optimizer.init(jnp.ones(4)))
