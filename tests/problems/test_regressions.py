"""Linear and logistic regression against normal equations, an ODE solver and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from sklearn.linear_model import LogisticRegression

from jaxflow import problems


@jax.jit
def derivatives(objective, params):
    return jax.grad(objective)(params), jax.hessian(objective)(params)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_minimum_solves_the_normal_equations(seed):
    problem = problems.linear_regression(key=jax.random.key(seed), noise=0.5)
    x, y = (np.asarray(problem.objective.data[name]) for name in "xy")
    w = np.linalg.solve(x.T @ x, x.T @ y)
    minimum = np.asarray(problem.minima)[0]
    np.testing.assert_allclose(minimum, w, rtol=1e-10)
    assert problem.minimum == pytest.approx(0.5 * np.mean((x @ w - y) ** 2), rel=1e-12)
    np.testing.assert_allclose(problem.curvature, np.linalg.eigvalsh(x.T @ x / 128), rtol=1e-10)
    slope, hessian = derivatives(problem.objective, minimum)
    np.testing.assert_allclose(hessian, x.T @ x / 128, atol=1e-12)
    np.testing.assert_allclose(slope, 0.0, atol=1e-13)


@pytest.mark.parametrize(("examples", "features"), [(40, 5), (4, 7)])
def test_the_flow_is_the_gradient_flow(examples, features):
    rng = np.random.default_rng(0)
    problem = problems.linear_regression(rng.normal(size=(examples, features)), rng.normal(size=examples))
    slope = jax.jit(jax.grad(problem.objective))
    x0 = rng.normal(size=features)
    times = np.array([0.0, 0.1, 1.0, 10.0])
    field = lambda t, w: -np.asarray(slope(jnp.asarray(w)))
    expected = solve_ivp(field, (0, 10), x0, "DOP853", times, rtol=1e-11, atol=1e-13).y.T
    found = jax.jit(jax.vmap(problem.flow, (0, None)))(times, x0)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("shape", [(4, 7), (9, 3)])
def test_of_many_minima_the_one_of_least_norm(shape):
    x = np.random.default_rng(0).normal(size=shape)
    x[:, 2] = x[:, 0] - x[:, 1]  # of rank 4 and 2
    y = np.arange(1.0, len(x) + 1)
    problem = problems.linear_regression(x, y)
    np.testing.assert_allclose(problem.minima[0], np.linalg.pinv(x) @ y, rtol=1e-9)
    rank = np.linalg.matrix_rank(x)
    assert (np.asarray(problem.curvature) > 0).sum() == rank
    assert problem.curvature.shape == (shape[1],)


def test_drawn_data_follow_the_stated_law():
    """Residual variance over 20 seeds has 2,400 degrees of freedom, σ = 2.9 %: 4.5σ, one false alarm in 1e5."""
    drawn = [problems.linear_regression(key=jax.random.key(seed), noise=0.3) for seed in range(20)]
    variance = np.mean([2 * float(problem.minimum) * 128 / (128 - 8) for problem in drawn])
    assert variance == pytest.approx(0.09, rel=4.5 * 0.029)
    x = np.concatenate([problem.objective.data["x"] for problem in drawn])
    # 20,480 standard normals: mean ± 0.007, variance ± 0.0099.
    assert abs(x.mean()) < 4.5 * 0.007
    assert abs(x.var() - 1) < 4.5 * 0.0099
    for problem in drawn:
        assert not np.isin(problem.test["x"], problem.objective.data["x"]).any()
        assert problem.score(problem.minima[0]) > 0.9
    exact = problems.linear_regression(noise=0.0)
    assert exact.minimum < 1e-28
    assert exact.score(exact.minima[0]) == pytest.approx(1.0, abs=1e-13)


def test_linear_regression_stacks_over_keys_and_data():
    keys = jax.random.split(jax.random.key(0), 3)
    stack = jax.jit(jax.vmap(lambda key: problems.linear_regression(key=key)))(keys)
    one = problems.linear_regression(key=keys[1])
    np.testing.assert_allclose(stack.minima[1], one.minima, rtol=1e-10)
    x, y = one.objective.data["x"], one.objective.data["y"]
    np.testing.assert_allclose(jax.jit(problems.linear_regression)(x, y).minima, one.minima, rtol=1e-10)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_agrees_with_scikit_learn(classes):
    rng = np.random.default_rng(classes)
    x, y = rng.normal(size=(200, 3)), rng.integers(classes, size=200)  # noise: no hyperplane separates it
    problem = problems.logistic_regression((x, y), test_fraction=0.0)
    data = problem.objective.data
    assert problem.test is None
    reference = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(data["x"], data["y"])
    w, b = reference.coef_.T, reference.intercept_
    params = {"w": w[:, 0], "b": b[0]} if classes == 2 else {"w": w, "b": b}
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, problem.params)
    for slope in jax.tree.leaves(jax.jit(jax.grad(problem.objective))(params)):
        np.testing.assert_allclose(slope, 0.0, atol=1e-5)
    probabilities = reference.predict_proba(data["x"])[np.arange(200), data["y"]]
    losses = jax.jit(problem.objective.losses)(params, data)
    np.testing.assert_allclose(losses, -np.log(probabilities), rtol=1e-10)
    assert problem.score(params, data) == pytest.approx(reference.score(data["x"], data["y"]))
    assert problem.objective(problem.params) == pytest.approx(np.log(classes))


@pytest.mark.parametrize("z", [-1e4, -30.0, 0.0, 30.0, 1e4])
def test_the_single_logit_is_the_two_class_softmax_and_does_not_overflow(z):
    from jaxflow.problems.losses import cross_entropy

    labels, cross_entropy = np.array([0, 1]), jax.jit(cross_entropy)
    single = cross_entropy(np.array([z, z]), labels)
    double = cross_entropy(np.array([[0.0, z], [0.0, z]]), labels)
    np.testing.assert_allclose(single, double, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(single, np.logaddexp(0, z) - np.array([0, z]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: problems.linear_regression([[1.0]]), ValueError, "only x"),
        (lambda: problems.linear_regression(y=[1.0]), ValueError, "only y"),
        (lambda: problems.linear_regression([[1.0], [2.0]], [1.0]), ValueError, "shape"),
        (lambda: problems.linear_regression([1.0, 2.0], [1.0, 2.0]), ValueError, "shape"),
        (lambda: problems.linear_regression([[np.nan]], [1.0]), ValueError, "x must hold finite"),
        (lambda: problems.linear_regression(examples=0), ValueError, "examples"),
        (lambda: problems.linear_regression(features=2.5), TypeError, "features"),
        (lambda: problems.linear_regression(noise=-1.0), ValueError, "noise"),
        (lambda: problems.linear_regression(key=0), TypeError, "key"),
        (lambda: problems.logistic_regression("diabetes"), ValueError, "diabetes is a regression"),
    ],
)
def test_bad_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()
