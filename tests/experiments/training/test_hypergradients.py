"""Hypergradients against closed forms and a complex step through NumPy; the experiment's quick form once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiment_files import check_files

import jaxflow as jf
from experiments.training import hypergradients

pytestmark = pytest.mark.promotes

CURVATURE, START = np.array([1.0, 4.0]), np.array([2.0, -1.0])


def quadratic(x):
    return 0.5 * jnp.sum(CURVATURE * x**2)


def hypergradient(loss, optimizer, start, steps):
    """An optimizer-shaped gradient of the loss at the end of training."""
    final = lambda optimizer: loss(
        jf.iterate(optimizer, loss, jnp.array(start), steps=steps, every=None).params
    )
    return jax.grad(final)(optimizer).hyperparameters


def test_one_step_of_descent():
    """L(θ − ηg) with g = aθ: dL/dη = −g·a(θ − ηg)."""
    gradient = CURVATURE * START
    expected = -gradient @ (CURVATURE * (START - 0.1 * gradient))
    found = hypergradient(quadratic, jf.optim.gd(0.1), START, 1)
    assert found["learning_rate"] == pytest.approx(expected, rel=1e-14)


def test_two_steps_of_momentum():
    """v₁ = g₀, θ₁ = θ₀ − ηg₀, v₂ = βg₀ + aθ₁, θ₂ = θ₁ − ηv₂: dθ₂/dη = −g₀ − v₂ + ηag₀, dθ₂/dβ = −ηg₀."""
    rate, beta, first = 0.1, 0.7, CURVATURE * START
    middle = START - rate * first
    velocity = beta * first + CURVATURE * middle
    slope = CURVATURE * (middle - rate * velocity)
    found = hypergradient(quadratic, jf.optim.momentum(rate, beta), START, 2)
    along = -first - velocity + rate * CURVATURE * first
    assert found["learning_rate"] == pytest.approx(slope @ along, rel=1e-14)
    assert found["beta"] == pytest.approx(slope @ (-rate * first), rel=1e-14)


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def trained(at, steps):
    """The end of Adam on Rosenbrock's function from its coordinates, which may be complex, in NumPy."""
    rate, eps = np.exp(at[0]), np.exp(at[3])
    b1, b2 = 1 / (1 + np.exp(-at[1:3]))
    x, mean, square = np.array([-1.2, 1.0], complex), np.zeros(2, complex), np.zeros(2, complex)
    for t in range(1, steps + 1):
        off = x[1] - x[0] ** 2
        slope = np.array([-400 * x[0] * off - 2 * (1 - x[0]), 200 * off])
        mean, square = b1 * mean + (1 - b1) * slope, b2 * square + (1 - b2) * slope**2
        x = x - rate * (mean / (1 - b1**t)) / (np.sqrt(square / (1 - b2**t)) + eps)
    return rosenbrock(x)


def test_all_four_numbers_of_adam():
    """A complex step has no cancellation: the derivative is Im f(x + 1e-30 i)/1e-30 to rounding."""
    at, steps = hypergradients.coordinates(jf.optim.adam(0.05, 0.8, 0.95, eps=0.3)), 25
    expected = [trained(np.asarray(at) + 1e-30j * unit, steps).imag / 1e-30 for unit in np.eye(4)]
    final = lambda at: rosenbrock(
        jf.iterate(
            hypergradients.adam(at), rosenbrock, jnp.array([-1.2, 1.0]), steps=steps, every=None
        ).params
    )
    assert final(at) == pytest.approx(trained(np.asarray(at), steps).real, rel=1e-10)
    for gradient in (jax.grad(final)(at), jax.jacfwd(final)(at)):
        assert np.abs(gradient / np.array(expected) - 1).max() < 1e-9
    assert np.abs(expected).min() > 1e-5


def test_coordinates_have_an_inverse():
    numbers = (3e-3, 0.85, 0.995, 1e-5)
    back = hypergradients.adam(hypergradients.coordinates(jf.optim.adam(*numbers)))
    assert list(back.hyperparameters.values()) == pytest.approx(numbers, rel=1e-12)


def test_no_example_is_in_two_parts():
    problem, learn, validation = hypergradients.digits()
    parts = [np.asarray(x) for x in (learn.data["x"], validation.data["x"], problem.test["x"])]
    assert [len(x) for x in parts] == [1000, 437, 360]
    joined = np.concatenate(parts)
    # Two of the 1,797 images may be alike; of whole parts in common there would be hundreds.
    assert len(np.unique(joined, axis=0)) > 1790


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    output = tmp_path_factory.mktemp("hypergradients")
    with jax.numpy_dtype_promotion("standard"):
        returned = hypergradients.main(["--quick", "--output", str(output)])
    return check_files("hypergradients", returned, output)


@pytest.fixture
def numbers(result):
    return {name: pair["measured"] for name, pair in result["headlines"].items()}


def test_the_hypergradient_is_right(numbers):
    differences = [value for name, value in numbers.items() if "finite differences" in name]
    assert len(differences) == 4
    assert max(differences) < 1e-6
    assert numbers["largest deviation of any from forward mode"] < 1e-9


def test_all_hypergradients_are_one_program(numbers):
    assert numbers["programs compiled for all hypergradients"] == 1
    reverse, forward = numbers["seconds of reverse, of forward mode / of the trainings alone"]
    assert reverse > 1  # it contains a training
    assert forward > 1


def test_tuning_all_four_beats_the_best_rate(numbers):
    of = lambda what: numbers[f"30 steps, {what} at the start, of the best rate, tuned"]
    for what in ("keys tuned on: validation loss", "fresh keys: validation loss", "fresh keys: test loss"):
        start, rate, tuned = of(what)
        assert start > 1.9  # hardly below log 10 = 2.3, that of a guess
        assert 0.8 < tuned / rate < 0.97, what
    assert of("fresh keys: test accuracy")[2] > 0.9
    gap, error = numbers["30 steps, fresh keys: test loss, tuned − best rate, ± SE"]
    assert gap < -3 * error < 0


def test_tuned_numbers_are_of_training_that_is_short(numbers):
    rate, tuned_rate, b1, b2, eps = numbers["30 steps: the best rate; η, b1, b2, ε tuned"]
    assert 0.02 < rate < 0.06
    assert 0.02 < tuned_rate < 0.06
    assert 0.3 < b1 < 0.85
    assert 0.3 < b2 < 0.85
    assert 1e-4 < eps < 1e-2


def test_the_tuned_loss_comes_to_rest(result):
    losses = np.array(result["runs"]["30 steps"]["losses"])
    assert len(losses) == 51
    assert losses.argmin() > 30
    assert losses[-1] < losses.min() * 1.01
    assert np.ptp(losses[-10:]) < 1e-3


def test_hypergradients_explode_at_large_rates(numbers):
    small, large = numbers["30 steps: d loss / d log η of one run, rms, at η = .001, 1"]
    assert 0.1 < small < 1
    assert large > 1e4
