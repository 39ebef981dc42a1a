"""The rule of names: which dynamics are stochastic; and names that broke it, which still work and warn."""

import pickle
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf

D, O = jf.dynamics, jf.optim


def losses(params, examples):
    return 0.5 * jnp.sum((params[None] - examples) ** 2, axis=1)


OBJECTIVE = jf.Objective(losses, jnp.array([[-1.0, 0.5], [2.0, 3.0]]))
STOCHASTIC = ("sgd", "sde", "langevin")
PARAMS = jnp.array([1.0, -2.0])
# Every constructor, and arguments for it.
ARGUMENTS = {
    "adagrad": (OBJECTIVE, 0.1),
    "adam": (OBJECTIVE, 0.1),
    "adam_sde": (OBJECTIVE, 0.1, 1),
    "central_flow": (O.gd(0.1), OBJECTIVE),
    "gradient_flow": (OBJECTIVE,),
    "heavy_ball": (OBJECTIVE, 1.0, 0.1),
    "implicit_gradient_regularization": (OBJECTIVE, 0.1),
    "langevin": (OBJECTIVE, 0.1),
    "modified": (O.gd(0.1), OBJECTIVE),
    "modified_sde": (O.gd(0.1), OBJECTIVE, 1),
    "momentum_loss_flow": (OBJECTIVE, 0.1, 0.5),
    "momentum_sgd": (OBJECTIVE, 0.1, 1),
    "nesterov": (OBJECTIVE,),
    "nesterov_sgd": (OBJECTIVE, 0.1, 1),
    "newton_flow": (OBJECTIVE,),
    "principal_flow": (OBJECTIVE, 0.1),
    "rmsprop": (OBJECTIVE, 0.1),
    "rmsprop_sde": (OBJECTIVE, 0.1, 1),
    "sgd": (OBJECTIVE, 0.1, 1),
    "sign_descent": (OBJECTIVE,),
    "sign_sgd": (OBJECTIVE, 0.1, 1),
    "slow_manifold": (O.momentum(0.1, 0.5), OBJECTIVE),
    "pair_flow": (O.gd(0.1), OBJECTIVE),
    "rod_flow": (O.gd(0.1), OBJECTIVE),
    "stable_flow": (O.gd(0.1), OBJECTIVE),
    "underdamped_langevin": (OBJECTIVE, 0.1),
}


def test_every_constructor_is_in_the_table():
    made = {name for name in dir(D) if hasattr(getattr(D, name), "structural")}
    assert set(ARGUMENTS) == made - {"record_pairs"}  # a recorder


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_name_says_whether_an_equation_is_stochastic(name):
    dynamics = getattr(D, name)(*ARGUMENTS[name])
    assert isinstance(dynamics, D.Dynamics)
    if not any(word in name for word in STOCHASTIC):
        assert dynamics.diffusion is None
        assert dynamics.brownian is None
        # A central flow alone has a step of its own, which draws nothing.
        assert dynamics.step is None or name == "central_flow"
        return
    state = dynamics.init(PARAMS)
    draw = lambda x: np.linspace(-1.0, 2.0, x.size).astype(x.dtype).reshape(x.shape)
    moved = jax.jit(dynamics.diffusion)(0.0, state, jax.tree.map(draw, dynamics.brownian(state)))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(moved))


# (The call by its old name, the same equation by its new one, what the warning names.)
OLD = {
    "momentum": (
        lambda: D.momentum(OBJECTIVE, 0.1, 1, beta=0.5),
        lambda: D.momentum_sgd(OBJECTIVE, 0.1, 1, 0.5),
        "jaxflow.dynamics.momentum_sgd",
    ),
    "adam by name": (
        lambda: D.adam(OBJECTIVE, 0.1, batch_size=1, malladi=True),
        lambda: D.adam_sde(OBJECTIVE, 0.1, 1, malladi=True),
        "jaxflow.dynamics.adam_sde",
    ),
    "adam by place": (
        lambda: D.adam(OBJECTIVE, 0.1, 1, 0.8, 0.9, 1e-3),
        lambda: D.adam_sde(OBJECTIVE, 0.1, 1, 0.8, 0.9, 1e-3),
        "jaxflow.dynamics.adam_sde",
    ),
    "adam without batches, by place": (
        lambda: D.adam(OBJECTIVE, 0.1, None, 0.8, 0.9, 1e-3),
        lambda: D.adam(OBJECTIVE, 0.1, b1=0.8, b2=0.9, eps=1e-3),
        "by keyword",
    ),
    "rmsprop": (
        lambda: D.rmsprop(OBJECTIVE, 0.1, 1, 0.8, replacement=False),
        lambda: D.rmsprop_sde(OBJECTIVE, 0.1, 1, decay=0.8, replacement=False),
        "jaxflow.dynamics.rmsprop_sde",
    ),
    "rmsprop without batches": (
        lambda: D.rmsprop(OBJECTIVE, 0.1, batch_size=None, decay=0.8),
        lambda: D.rmsprop(OBJECTIVE, 0.1, decay=0.8),
        "by keyword",
    ),
    "modified": (
        lambda: D.modified(O.gd(0.1), OBJECTIVE, order=1, batch_size=1, warmup=0),
        lambda: D.modified_sde(O.gd(0.1), OBJECTIVE, 1, order=1),
        "jaxflow.dynamics.modified_sde",
    ),
    "modified without batches": (
        lambda: D.modified(O.gd(0.1), OBJECTIVE, batch_size=None, warmup=3),
        lambda: D.modified(O.gd(0.1), OBJECTIVE, warmup=3),
        "by keyword",
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_old_names_are_the_new_ones_and_warn_once_at_the_call(name):
    old, new, named = OLD[name]
    with pytest.warns(DeprecationWarning, match=named) as told:
        dynamics = old()
    assert [warning.filename for warning in told] == [__file__]
    chex.assert_trees_all_equal(dynamics, new())
    # Warnings are errors: nothing rebuilds by the old name.
    rebuilt = jax.jit(jax.vmap(lambda d: d.drift(0.0, d.init(PARAMS)), axis_size=2, in_axes=None))(dynamics)
    assert jax.tree.leaves(rebuilt)[0].shape[0] == 2
    assert repr(pickle.loads(pickle.dumps(dynamics))) == repr(dynamics.replace()) == repr(new())


def test_old_names_under_vmap_are_one_call():
    with pytest.warns(DeprecationWarning, match="momentum_sgd") as told:
        stack = jax.vmap(lambda rate: D.momentum(OBJECTIVE, rate, 1))(jnp.array([0.1, 0.2]))
    assert len(told) == 1
    assert stack.hyperparameters["learning_rate"].shape == (2,)


def test_old_calls_that_were_refused_still_are():
    with (
        pytest.warns(DeprecationWarning, match="modified_sde"),
        pytest.raises(ValueError, match=r"warmup must be left out .* got 5"),
    ):
        D.modified(O.gd(0.1), OBJECTIVE, batch_size=1, warmup=5)
    for constructor in (D.adam, D.rmsprop):
        with pytest.warns(DeprecationWarning, match="_sde"), pytest.raises(TypeError, match="batch_size"):
            constructor(OBJECTIVE, 0.1, malladi=True)
        with pytest.raises(TypeError, match="nothing"):
            constructor(OBJECTIVE, 0.1, 1, nothing=3)
    with pytest.raises(AttributeError, match="nothing"):
        _ = D.nothing


PICKLED = {  # a module and a name of now, what an earlier version wrote, arguments
    "momentum": ("diffusions.inertial", "momentum_sgd", "inertial", (0.1, 1)),
    "adam": ("diffusions.averaged_squares", "adam_sde", "adaptive", (0.1, 1)),
    "rmsprop": ("diffusions.averaged_squares", "rmsprop_sde", "adaptive", (0.1, 1)),
}


@pytest.mark.parametrize("name", PICKLED)
def test_pickles_by_the_old_names_open(name):
    module, now, before, arguments = PICKLED[name]
    dynamics = getattr(D, now)(OBJECTIVE, *arguments)
    written, old = f"cjaxflow.dynamics.{module}\n{now}\n", f"cjaxflow.dynamics.{before}\n{name}\n"
    data = pickle.dumps(dynamics, protocol=0)
    assert written.encode() in data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        opened = pickle.loads(data.replace(written.encode(), old.encode()))
    assert repr(opened) == repr(dynamics)
