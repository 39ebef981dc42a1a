"""The lazy limit: one flow, as a closed form, as an equation in function space, and as a model that is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxflow as jf
from jaxflow.kernels import Predictions, lazy_flow, lazy_predictions, linearized, tangent_kernel
from jaxflow.problems.losses import PredictionLosses, cross_entropy, squared_error

TIMES = jnp.array([0.0, 0.5, 3.0, 20.0])


@pytest.fixture(scope="module")
def digits():
    """Predictor, parameters, 12 training examples with their labels, and 5 other inputs."""
    problem = jf.problems.mlp("digits", hidden=(6,))
    batch = problem.objective.take(jnp.arange(12))
    return problem.predict, problem.params, batch["x"], batch["y"], problem.test["x"][:5]


def lazy_parts(digits):
    predict, params, x, _, x_test = digits
    start = Predictions(*jax.jit(lambda p: (predict(p, x), predict(p, x_test)))(params))
    return tangent_kernel(predict, params, x), start, tangent_kernel(predict, params, x_test, x)


def trained_predictions(digits, loss):
    """Independent: gradient flow of the linearised model in its parameters, and its predictions on the way."""
    predict, params, x, y, x_test = digits
    objective = linearized(jf.Objective(PredictionLosses(predict, loss), {"x": x, "y": y}), params)
    moved = objective.losses.predict
    path = jf.integrate(
        jf.dynamics.gradient_flow(objective), params, TIMES, rtol=1e-9, record=PredictionsOf(moved, x, x_test)
    )
    return path.values


@jax.tree_util.register_pytree_node_class
class PredictionsOf:
    def __init__(self, predict, *x):
        self.predict, self.x = predict, x

    def __call__(self, params):
        return Predictions(*(self.predict(params, x) for x in self.x))

    def tree_flatten(self):
        return (self.predict, *self.x), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def close(found, expected, tolerance):
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=tolerance)


def test_three_ways_agree_for_squared_error(digits):
    kernel, start, test_kernel = lazy_parts(digits)
    y = digits[3]
    closed = lazy_predictions(kernel, start, jax.nn.one_hot(y, 10), TIMES, test_kernel=test_kernel)
    flow = lazy_flow(kernel, squared_error, y, test_kernel)
    path = jf.integrate(flow, start, TIMES, rtol=1e-9)
    close(path.values, closed, 1e-6)
    close(trained_predictions(digits, squared_error), closed, 1e-6)


def test_two_ways_agree_for_cross_entropy(digits):
    kernel, start, test_kernel = lazy_parts(digits)
    path = jf.integrate(lazy_flow(kernel, cross_entropy, digits[3], test_kernel), start, TIMES, rtol=1e-9)
    close(trained_predictions(digits, cross_entropy), path.values, 1e-6)


@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_closed_form_is_the_matrix_exponential_for_a_singular_kernel(shape):
    """The matrix is extended by the test points, whose motion is then part of one linear equation (SciPy)."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(9, 3))  # rank 3
    whole = factor @ factor.T
    targets, start = rng.normal(size=(2, 9, *shape[1:]))
    found = lazy_predictions(
        whole[:6, :6], Predictions(start[:6], start[6:]), targets[:6], TIMES, test_kernel=whole[6:, :6]
    )
    generator = np.zeros((9, 9))
    generator[:, :6] = -whole[:, :6] / 6
    for i, t in enumerate(TIMES.tolist()):
        moved = scipy.linalg.expm(generator * t) @ np.concatenate([start[:6] - targets[:6], start[6:]])
        np.testing.assert_allclose(np.asarray(found.train)[i], targets[:6] + moved[:6], atol=1e-12)
        np.testing.assert_allclose(np.asarray(found.test)[i], moved[6:], atol=1e-12)


def test_kernel_of_the_linearised_model_stays_where_it_was(digits):
    predict, params, x, _, _ = digits
    model = linearized(predict, params)
    moved = jax.tree.map(lambda p: 1.5 * np.asarray(p) + 0.3, params)
    np.testing.assert_allclose(
        tangent_kernel(model, moved, x), tangent_kernel(predict, params, x), rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(model(params, x), predict(params, x), rtol=1e-14)


def bent(w, x):
    return jnp.sum(jnp.sin(w[None] * x), 1)


def test_linearised_prediction_is_the_first_two_terms_of_taylor():
    w, x, d = np.array([0.3, -0.4]), np.array([[1.0, 2.0]]), np.array([0.2, 0.1])
    expected = np.sum(np.sin(w * x[0]) + np.cos(w * x[0]) * x[0] * d)
    np.testing.assert_allclose(jax.jit(lambda p: linearized(bent, w)(p, x))(w + d), [expected], rtol=1e-14)


def test_curvature_of_the_linearised_objective_is_the_gauss_newton_matrix(digits):
    predict, params, x, y, _ = digits
    objective = jf.Objective(PredictionLosses(predict, cross_entropy), {"x": x, "y": y}, chunk=5)
    v = jax.tree.map(lambda p: np.cos(p) - 0.9, params)
    expected = jf.curvature.ggn_vp(objective, params, v)
    lazy = linearized(objective, params)
    for found in (jf.curvature.ggn_vp(lazy, params, v), jf.curvature.hvp(lazy, params, v)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), found, expected)


def test_scaled_networks_tend_to_their_linearisation(digits):
    """Chizat, Oyallon & Bach 2019: with the loss l(α(f − f₀))/α² the distance from the lazy limit falls as 1/α."""
    predict, start, x, y, _ = digits
    targets, first = jax.nn.one_hot(y, 10), predict(start, x)

    def scaled(params, alpha):
        return alpha * (predict(params, x) - first)

    def distance(alpha):
        def loss(params):
            outputs = scaled(params, alpha)
            return 0.5 * jnp.sum((outputs - targets) ** 2) / alpha**2 / 12

        path = jf.integrate(jf.dynamics.gradient_flow(loss), start, jnp.array([0.0, 3.0]), rtol=1e-9)
        outputs = scaled(path.params, alpha)
        return float(jnp.linalg.norm(outputs - limit))

    zero = Predictions(jnp.zeros((12, 10)))
    limit = lazy_predictions(tangent_kernel(predict, start, x), zero, targets, jnp.array([3.0])).train[0]
    slope = np.polyfit(np.log([8.0, 32.0]), np.log([distance(8.0), distance(32.0)]), 1)[0]
    assert abs(slope + 1) < 0.05


@pytest.mark.promotes
def test_what_is_not_trained_stays(digits):
    predict, params, x, y, _ = digits
    objective = jf.Objective(PredictionLosses(predict, squared_error), {"x": x, "y": y})
    trainable = ({"w": False, "b": False}, {"w": True, "b": True})
    lazy = linearized(objective, params, trainable=trainable)
    start = (dict.fromkeys(("w", "b")), params[1])
    run = jf.iterate(jf.optim.gd(0.1), lazy, start, steps=3)
    whole = jf.iterate(jf.optim.gd(0.1), objective, params, steps=3, trainable=trainable)
    np.testing.assert_allclose(
        run.params[1]["w"], whole.params[1]["w"], rtol=1e-10
    )  # it is linear in the last layer


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"kernel": jnp.eye(3)}, ValueError, r"kernel must have shape \(2, 2\).*got \(3, 3\)"),
        ({"start": jnp.zeros(2)}, TypeError, "start must be Predictions"),
        ({"targets": jnp.zeros(3)}, ValueError, "targets must be shaped like the outputs"),
        ({"times": 1.0}, ValueError, r"times must have shape \(T,\)"),
        ({"test_kernel": jnp.eye(2)}, ValueError, "given together"),
    ],
)
def test_refusals(change, error, match):
    given = {
        "kernel": jnp.eye(2),
        "start": Predictions(jnp.zeros(2)),
        "targets": jnp.zeros(2),
        "times": TIMES,
    }
    with pytest.raises(error, match=match):
        lazy_predictions(**(given | change))


def test_flow_refuses_a_start_of_another_shape():
    flow = lazy_flow(jnp.eye(2), squared_error, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"kernel must have shape"):
        jf.integrate(flow, Predictions(jnp.zeros(3)), TIMES)
    with pytest.raises(TypeError, match="loss must be a function"):
        lazy_flow(jnp.eye(2), None, jnp.zeros(2))


def test_an_objective_without_parts_is_refused():
    with pytest.raises(TypeError, match="predict and loss"):
        linearized(jf.Objective(lambda w, c: (w - c) ** 2, jnp.ones(2)), jnp.ones(()))
    losses = PredictionLosses(bent, squared_error)
    once = linearized(jf.Objective(losses, {"x": jnp.ones((2, 2)), "y": jnp.ones(2)}), jnp.ones(2))
    with pytest.raises(TypeError, match="linearised before"):
        linearized(once, jnp.ones(2))
