"""Problems as pytrees: one compilation a shape, pickling, vmap, both precisions; scores."""

import pickle
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import Objective, problems
from jaxflow.problems import Problem

EVERY = {
    **problems.FUNCTIONS,
    "quadratic": lambda: problems.quadratic([1.0, 3.0]),
    "linear_regression": problems.linear_regression,
    "logistic_regression": lambda: problems.logistic_regression("iris"),
    "binary logistic_regression": lambda: problems.logistic_regression("breast_cancer"),
    "mlp": lambda: problems.mlp("iris", hidden=(5,)),
    "mlp on a regression": lambda: problems.mlp("diabetes", hidden=(5, 4), activation="relu"),
}


@pytest.fixture
def single_precision():
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


def first_score_or_flow(problem):
    loss = problem.objective(problem.params)
    score = None if problem.predict is None else problem.score(problem.params)
    flow = None if problem.flow is None else problem.flow(0.5, problem.params)
    return loss, score, flow


@pytest.mark.parametrize("name", EVERY)
def test_a_problem_made_twice_compiles_once_and_pickles(name):
    evaluate = jax.jit(chex.assert_max_traces(first_score_or_flow, n=1))
    first, second = EVERY[name](), EVERY[name]()
    copy = pickle.loads(pickle.dumps(first))
    assert jax.tree.structure(first) == jax.tree.structure(second) == jax.tree.structure(copy)
    chex.assert_trees_all_equal(evaluate(first), evaluate(second), evaluate(copy))
    chex.clear_trace_counter()


@pytest.mark.parametrize("name", EVERY)
def test_single_precision(name, single_precision):
    problem = EVERY[name]()
    value, gradient = jax.jit(jax.value_and_grad(problem.objective))(problem.params)
    assert value.dtype == jnp.float32
    assert np.isfinite(value)
    assert {leaf.dtype for leaf in jax.tree.leaves((gradient, problem.params))} == {jnp.dtype(jnp.float32)}
    for result in jax.tree.leaves(jax.eval_shape(first_score_or_flow, problem)):
        assert result.dtype == jnp.float32
    for leaf in jax.tree.leaves((problem.minima, problem.saddles, problem.curvature)):
        assert leaf.dtype == jnp.float32


def test_other_numbers_of_one_shape_compile_nothing():
    evaluate = jax.jit(chex.assert_max_traces(lambda problem: problem.objective(problem.params), n=1))
    assert evaluate(problems.quadratic([1.0, 3.0])) == 2.0
    assert evaluate(problems.quadratic([2.0, 4.0])) == 3.0
    chex.clear_trace_counter()


def test_objectives_of_other_networks_and_data_compile_nothing():
    evaluate = jax.jit(chex.assert_max_traces(lambda objective, params: objective(params), n=1))
    x = np.arange(12.0).reshape(6, 2)
    a = problems.mlp((x, [0, 1, 0, 1, 0, 1]), hidden=(3,), key=jax.random.key(1))
    b = problems.mlp((x**2, [1, 1, 0, 0, 1, 0]), hidden=(3,), key=jax.random.key(2))
    assert evaluate(a.objective, a.params) != evaluate(b.objective, b.params)
    chex.clear_trace_counter()


def test_problems_stack_under_vmap():
    stack = jax.vmap(problems.quadratic)(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    values = jax.vmap(lambda problem: problem.objective(problem.params))(stack)
    assert values.tolist() == [1.5, 3.5]
    assert stack.minimum.tolist() == [0.0, 0.0]
    assert stack.minima.shape == (2, 1, 2)


def test_a_plain_function_becomes_a_pytree():
    problem = Problem(lambda x: x**2, 3.0)
    assert jax.jit(lambda problem: problem.objective(problem.params))(problem) == 9.0
    assert jax.tree.leaves(problem) == [3.0]
    with pytest.raises(TypeError, match="objective"):
        Problem(3.0, 1.0)


def identity(params, x):
    return x + params


def test_accuracy_and_coefficient_of_determination():
    scored = lambda x, y: Problem(jnp.sum, 0.0, {"x": jnp.asarray(x), "y": jnp.asarray(y)}, identity)
    logits = scored([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [5.0, 1.0, 1.0]], [0, 2, 2, 0])
    assert jax.jit(lambda problem: problem.score(problem.params))(logits) == 0.75
    assert scored([-1.0, 2.0, 0.5], [0, 1, 0]).score(0.0) == pytest.approx(2 / 3)
    rng = np.random.default_rng(0)
    y, f = rng.normal(size=(2, 20, 3))
    expected = 1 - ((y - f) ** 2).sum() / (20 * y.var(axis=0)).sum()
    assert scored(f, y).score(0.0) == pytest.approx(expected, rel=1e-12)
    assert scored(np.broadcast_to(y.mean(0), y.shape), y).score(0.0) == pytest.approx(0.0, abs=1e-12)
    assert logits.score(0.0, {"x": jnp.eye(2), "y": jnp.array([0, 1])}) == 1.0


def test_what_has_no_score_says_so():
    with pytest.raises(ValueError, match="ravine predicts nothing"):
        problems.ravine().score(jnp.ones(2))
    problem = problems.linear_regression([[1.0], [2.0]], [1.0, 2.0])
    with pytest.raises(ValueError, match="no held-out examples"):
        problem.score(problem.params)


@pytest.mark.parametrize("name", [name for name in EVERY if "regression" in name or "mlp" in name])
def test_the_objective_is_the_mean_of_the_per_example_losses(name):
    problem = EVERY[name]()
    objective = problem.objective
    assert isinstance(objective, Objective)
    one = jax.tree.map(lambda a: np.asarray(a)[3:4], objective.data)
    losses, mean, loss = jax.device_get(
        jax.jit(lambda o, p: (o.losses(p, o.data), o(p), o.losses(p, one)))(objective, problem.params)
    )
    assert losses.shape == (objective.size,)
    assert mean == pytest.approx(losses.mean(), rel=1e-12)
    np.testing.assert_allclose(loss, losses[3:4], rtol=1e-12)


def test_scikit_learn_is_not_imported_until_it_is_needed():
    code = "import sys, jaxflow; jaxflow.problems.mlp('digits'); assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"'digits' .*jaxflow\[experiments\]"):
        problems.mlp("digits")
