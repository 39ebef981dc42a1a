"""Experiments on kernels in their quick form, once each: against dense derivatives and loops written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from experiment_files import check_files
from jax.flatten_util import ravel_pytree

from experiments.kernels import kernel_machine, lazy_and_rich, left_out_examples

pytestmark = pytest.mark.promotes

NAMES = ("kernel_machine", "lazy_and_rich")


@pytest.mark.parametrize("name", NAMES)
def test_figure_and_numbers_are_written_whole(run, name):
    check_files(name, *run(name))


def network(params, x):
    first, last = params
    return jnp.tanh(x @ first["w"] + first["b"][None]) @ last["w"] + last["b"][None]


def test_residuals_have_the_orders_of_their_rules(measured):
    numbers = measured("kernel_machine")
    assert numbers["cross-entropy, gauss: slope of the residual"] == pytest.approx(4, abs=0.2)
    assert numbers["cross-entropy, gauss: residual at h = .05"] < 1e-9
    for name in ("momentum", "Adam"):
        assert numbers[f"{name}, midpoint: slope of the residual"] > 1.6
        assert numbers[f"{name}, midpoint: residual at h = 0.05"] < 5e-5


def test_constant_coefficients_miss_what_the_path_form_does_not(measured):
    numbers = measured("kernel_machine")
    assert numbers["t = 4: constant coefficients, distance / change"] > 0.04
    assert numbers["t = 4: path form, left rule, distance / change"] < 0.005


def test_both_forms_are_those_of_dense_jacobians():
    """A loop in NumPy over four steps of gradient descent: 12 examples, two points."""
    objective, params, x, _ = kernel_machine.digits(12)
    true, path, constant = kernel_machine.constant_and_path(objective, params, x[:2], 0.3, 4)
    flat, unravel = ravel_pytree(params)
    data, labels = objective.data["x"], np.asarray(objective.data["y"])
    both = jnp.concatenate([data, x[:2]])
    jacobian = jax.jit(jax.jacrev(lambda f: network(unravel(f), both)))
    theta, slopes, kernels = np.asarray(flat), [], []
    first = np.asarray(network(params, x[:2]))
    for k in range(4):
        outputs = np.asarray(network(unravel(theta), data))
        chances = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
        slopes.append((chances - np.eye(10)[labels]) / 12)
        j = np.asarray(jacobian(theta))
        kernels.append(np.einsum("mcp,ndp->mncd", j[12:], j[:12]))
        theta = theta - 0.3 * np.einsum("nd,ndp->p", slopes[-1], j[:12])
        moved = -0.3 * sum(np.einsum("mncd,nd->mc", *pair) for pair in zip(kernels, slopes, strict=True))
        steady = -0.3 * np.einsum("mncd,nd->mc", sum(kernels), np.mean(slopes, 0))
        np.testing.assert_allclose(path[k], moved, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(constant[k], steady, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(true[k], np.asarray(network(unravel(theta), x[:2])) - first, atol=1e-10)


def test_leaving_out_helpful_examples_lowers_margins(measured):
    numbers = measured("kernel_machine")
    full = numbers["mean margin of 12 test images"]
    mean = {
        name: numbers[f"mean margin trained without 20 examples, {name}"] - full
        for name in ("the most helpful", "the most harmful", "random ones")
    }
    assert mean["the most helpful"] < -3
    assert mean["the most harmful"] > 1
    assert abs(mean["random ones"]) < 1


def test_a_network_trained_without_examples_is_that_of_a_plain_loop():
    """Heavy ball in NumPy on the batches that the key draws."""
    objective, params, x, _ = kernel_machine.digits(40)
    sizes = kernel_machine.QUICK._replace(steps=5)
    kept, key = np.arange(3, 40), jax.random.key(4)
    found = left_out_examples.retrain(
        objective, params, jnp.asarray(kept)[None], x[:1], jnp.array([[2, 7]]), sizes, key
    )
    flat, unravel = ravel_pytree(params)
    data, labels = (np.asarray(objective.data[name])[kept] for name in ("x", "y"))

    def loss(f, batch):
        outputs = network(unravel(f), data[batch])
        return (jax.nn.logsumexp(outputs, 1) - outputs[jnp.arange(50), labels[batch]]).mean()

    slope, velocity = jax.grad(loss), 0.0
    for k in range(5):
        batch = np.asarray(jax.random.randint(jax.random.fold_in(key, k), (50,), 0, 37))
        velocity = 0.9 * velocity + slope(flat, batch)
        flat = flat - 0.05 * velocity
    outputs = network(unravel(flat), x[:1])[0]
    np.testing.assert_allclose(found, [outputs[2] - outputs[7]], rtol=1e-8)


def test_a_scaled_network_tends_to_its_linearisation(measured):
    numbers = measured("lazy_and_rich")
    for name in ("distance from the linearised flow", "|w − w₀|", "kernel change"):
        assert numbers[f"slope in α, {name}"] == pytest.approx(-1, abs=0.05)
    assert numbers["α = 0.125, t = 60: kernel change / kernel"] > 1
    assert numbers["α = 8, t = 60: kernel change / kernel"] < 0.1


@pytest.fixture(scope="module")
def ten_digits():
    return lazy_and_rich.start(10, seed=3)


def test_the_linearised_flow_is_that_of_a_dense_kernel(ten_digits):
    """By SciPy's matrix exponential, at the training digits, where f = (1 − exp(−Kt/N)) Y."""
    s = ten_digits
    flat, unravel = ravel_pytree(s.w)
    j = np.asarray(jax.jit(jax.jacrev(lambda f: network(unravel(f), s.x).reshape(-1)))(flat))
    hot = np.eye(10)[np.asarray(s.y)].reshape(-1)
    expected = hot - scipy.linalg.expm(-j @ j.T * 2.0 / 10) @ hot
    np.testing.assert_allclose(s.lazy(jnp.array([0.0, 2.0])).train[1].reshape(-1), expected, atol=1e-10)


def test_scaled_flow_is_that_of_another_solver(ten_digits):
    """By SciPy, with a loss written out, at α = ¼."""
    s = ten_digits
    flat, unravel = ravel_pytree(s.w)
    first, hot = network(s.w, s.x), jnp.eye(10)[s.y]

    def loss(f):
        return 0.5 * jnp.sum((0.25 * (network(unravel(f), s.x) - first) - hot) ** 2) / 0.25**2 / 10

    slope = jax.jit(jax.grad(loss))
    known = scipy.integrate.solve_ivp(lambda t, f: -slope(f), (0, 0.5), flat, rtol=1e-8, atol=1e-10)
    found = lazy_and_rich.train_flow(s, 0.25, jnp.array([0.0, 0.5]), 1e-9)
    np.testing.assert_allclose(
        ravel_pytree(jax.tree.map(lambda x: x[1], found))[0], known.y[:, -1], atol=1e-6
    )


def test_values_are_read_off_at_a_level():
    """Between 1 and e⁻², in the middle of the logarithms."""
    assert lazy_and_rich.value_at_level(
        [0, 1, 2], ([2.0, 1.0, np.exp(-2)], [9.0, 4.0, 8.0]), np.exp(-1)
    ) == pytest.approx(6)
    assert np.isnan(lazy_and_rich.value_at_level([0, 1], ([2.0, 1.0], [9.0, 4.0]), 0.5))
