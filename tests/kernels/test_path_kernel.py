"""Path kernels against plain loops over dense derivatives, closed forms, and the orders of their rules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow._devices import memory
from jaxflow.kernels import path_flow, path_kernel
from jaxflow.optim.optax_names import as_ours
from jaxflow.problems.losses import PredictionLosses, cross_entropy, squared_error

pytestmark = pytest.mark.promotes

NODES = {
    "left": ([0.0], [1.0]),
    "midpoint": ([0.5], [1.0]),
    "simpson": ([0.0, 0.5, 1.0], [1 / 6, 2 / 3, 1 / 6]),
    "gauss": ([(1 - 3**-0.5) / 2, (1 + 3**-0.5) / 2], [0.5, 0.5]),
}
X, TEST = jax.random.normal(jax.random.key(0), (2, 7, 3))
TEST = TEST[:2]


def small(p, x):
    return jnp.tanh(x @ p["w"] + p["b"][None]) @ p["v"]


SMALL = {
    "w": jax.random.normal(jax.random.key(1), (3, 4)),
    "b": jnp.zeros(4),
    "v": jax.random.normal(jax.random.key(2), (4, 2)),
}
LABELS = jnp.array([0, 1, 1, 0, 1, 0, 0])
SMALL_OBJECTIVE = jf.Objective(PredictionLosses(small, cross_entropy), {"x": X, "y": LABELS})
FLAT, UNRAVEL = ravel_pytree(SMALL)
jacobian = jax.jit(jax.jacrev(lambda f: small(UNRAVEL(f), TEST)))
gradients = jax.jit(jax.jacfwd(lambda f: cross_entropy(small(UNRAVEL(f), X), LABELS)))


def plain_loop(name, rate, steps, rule, weights=None, decay=0.0):
    """Independent: NumPy recursions with one vector of parameters and full Jacobians.

    `weights` (steps, N) are those of the examples in the loss of each step.
    """
    weights = np.full((steps, 7), 1 / 7) if weights is None else np.asarray(weights)
    theta, contributions, regularizer = np.asarray(FLAT), np.zeros((7, 2, 2)), np.zeros((2, 2))
    average, second = np.zeros((7, FLAT.size)), np.zeros(FLAT.size)
    for k in range(1, steps + 1):
        g = weights[k - 1][:, None] * np.asarray(gradients(theta))
        if name == "gd":
            shares = -rate * g
        elif name in ("momentum", "sgdw"):
            average = 0.9 * average + g
            shares = -rate * average
        elif name == "nesterov":
            average = 0.9 * average + g
            shares = -rate * (g + 0.9 * average)
        elif name == "rmsprop":
            second = 0.9 * second + 0.1 * g.sum(0) ** 2
            shares = -rate * g / (np.sqrt(second) + 1e-8)
        elif name == "adagrad":
            second = second + g.sum(0) ** 2
            shares = -rate * g / (np.sqrt(second) + 1e-10)
        else:
            average, second = 0.9 * average + 0.1 * g, 0.999 * second + 0.001 * g.sum(0) ** 2
            corrected = np.sqrt(second / (1 - 0.999**k)) + 1e-8
            shares = -rate * average / (1 - 0.9**k) / corrected
        alone = -rate * decay * theta
        d = shares.sum(0) + alone
        for s, w in zip(*NODES[rule], strict=True):
            at = np.asarray(jacobian(theta + s * d))
            contributions += w * np.einsum("mcp,np->nmc", at, shares)
            regularizer += w * at @ alone
        theta = theta + d
    return contributions, regularizer


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [
        (jf.optim.gd(0.3), "left"),
        (jf.optim.gd(0.3), "gauss"),
        (jf.optim.momentum(0.1, 0.9), "midpoint"),
        (jf.optim.adam(0.05), "simpson"),
        (jf.optim.rmsprop(0.05), "midpoint"),
        (jf.optim.adagrad(0.05), "left"),
        (jf.optim.traceable(optax.sgd)(0.1, momentum=0.9), "midpoint"),
    ],
    ids=lambda given: getattr(getattr(given, "constructor", None), "__name__", given),
)
def test_contributions_are_those_of_a_plain_loop(optimizer, rule):
    machine = path_kernel(optimizer, SMALL_OBJECTIVE, SMALL, TEST, steps=6, rule=rule)
    name = as_ours(optimizer).constructor.__name__
    expected = plain_loop(name, jf.optim.learning_rate_of(optimizer), 6, rule)[0]
    np.testing.assert_allclose(machine.contributions, expected, rtol=1e-9, atol=1e-12)


KEY = jax.random.key(3)


def counts(*indices):
    """The weights of examples in batches (steps, B)."""
    return np.array([np.bincount(batch, minlength=7) / len(batch) for batch in np.stack(indices)])


def independent(size, steps=6):
    draw = jax.jit(jax.vmap(lambda k: jax.random.randint(jax.random.fold_in(KEY, k), (size,), 0, 7)))
    return list(np.asarray(draw(np.arange(steps))))


def two_passes():
    order = lambda epoch: np.asarray(jax.random.permutation(jax.random.fold_in(KEY, epoch), 7))
    return [order(epoch)[2 * place : 2 * place + 2] for epoch in (0, 1) for place in range(3)]


def amplified():
    """Of two batches of two each, with the weights (1 ± √3)/2 of l = 2."""
    one, two = (counts(*(batch[part] for batch in independent(4))) for part in (slice(2), slice(2, 4)))
    return (1 + 3**0.5) / 2 * one + (1 - 3**0.5) / 2 * two


@pytest.mark.parametrize(
    ("optimizer", "drawn", "weights"),
    [
        (jf.optim.gd(0.3), {"batch_size": 9}, counts(*independent(9))),
        (jf.optim.rmsprop(0.05), {"estimator": jf.solve.epochs(2)}, counts(*two_passes())),
        (jf.optim.momentum(0.1, 0.9), {"estimator": jf.solve.svag(2, 2)}, amplified()),
        (jf.optim.nesterov(0.1, 0.9), {"batch_size": 3}, counts(*independent(3))),
        (jf.optim.sgdw(0.1, 0.9, weight_decay=0.2), {"batch_size": 3}, counts(*independent(3))),
        (jf.optim.adamw(0.05, weight_decay=0.2), {"batch_size": 3}, counts(*independent(3))),
    ],
    ids=lambda given: getattr(getattr(given, "constructor", None), "__name__", ""),
)
def test_batches_are_those_of_iterate_and_shared_among_their_examples(optimizer, drawn, weights):
    drawn = drawn | {"key": KEY}
    machine = path_kernel(optimizer, SMALL_OBJECTIVE, SMALL, TEST, steps=6, **drawn)
    run = jf.iterate(optimizer, SMALL_OBJECTIVE, SMALL, steps=6, **drawn)
    jax.tree.map(np.testing.assert_array_equal, machine.params, run.params)
    name, decay = optimizer.constructor.__name__, jf.optim.hyperparameters(optimizer).get("weight_decay")
    contributions, regularizer = plain_loop(
        name, jf.optim.learning_rate_of(optimizer), 6, "midpoint", weights, decay or 0.0
    )
    np.testing.assert_allclose(machine.contributions, contributions, rtol=1e-9, atol=1e-12)
    if decay is None:
        assert machine.regularizer is None
    else:
        np.testing.assert_allclose(machine.regularizer, regularizer, rtol=1e-9, atol=1e-12)
    moved = np.subtract(machine.end, machine.start)
    assert np.abs(machine.residual).max() < 1e-2 * np.abs(moved).max()


def test_an_example_that_is_never_drawn_contributes_nothing():
    drawn = np.unique(np.concatenate(independent(1, 4)))
    machine = path_kernel(jf.optim.gd(0.3), SMALL_OBJECTIVE, SMALL, TEST, steps=4, batch_size=1, key=KEY)
    assert set(np.flatnonzero(np.abs(machine.contributions).sum((1, 2)))) == set(drawn.tolist())
    assert drawn.size < 7


@pytest.mark.parametrize("rule", NODES)
@pytest.mark.parametrize(
    "optimizer",
    [jf.optim.gd(lambda k: 0.3 / (1 + k)), jf.optim.momentum(0.1, 0.8, ema=True), jf.optim.amsgrad(0.03)],
    ids=lambda optimizer: optimizer.constructor.__name__,
)
def test_contributions_add_up_to_the_total_of_the_rule(optimizer, rule):
    """Along the iterates that `iterate` makes, with the increments between them."""
    machine = path_kernel(optimizer, SMALL_OBJECTIVE, SMALL, TEST, steps=8, rule=rule)
    run = jf.iterate(optimizer, SMALL_OBJECTIVE, SMALL, steps=8)
    values = jax.device_get(run.values)
    starts = jax.tree.map(lambda x: x[:-1], values)
    increments = jax.tree.map(lambda x: np.diff(x, axis=0), values)
    total = sum(w * np.sum(along(starts, increments, s), 0) for s, w in zip(*NODES[rule], strict=True))
    np.testing.assert_allclose(np.sum(machine.contributions, 0), total, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(machine.end, jax.jit(small)(run.params, TEST), rtol=1e-12)
    assert repr(machine) == "KernelMachine(contributions of 7 examples to predictions at 2 points)"
    np.testing.assert_allclose(np.add(machine.predictions, machine.residual), machine.end, rtol=1e-13)


@jax.jit
def along(starts, increments, s):
    """The derivatives of predictions along increments, at the share s of each."""
    shifted = jax.tree.map(lambda x, y: x + s * y, starts, increments)
    return jax.vmap(lambda p, d: jax.jvp(lambda p: small(p, TEST), (p,), (d,))[1])(shifted, increments)


def linear(w, x):
    return x @ w


def test_linear_regression_has_its_contributions_in_closed_form():
    """Errors decay as $(1 - h K/N)^k$, so that example i adds $-K_{*i}$ times the sum of its errors, times h/N."""
    y = np.arange(7.0) - 3
    objective = jf.Objective(PredictionLosses(linear, squared_error), {"x": X, "y": y})
    machine = path_kernel(jf.optim.gd(0.4), objective, jnp.ones(3), TEST, steps=5, rule="left")
    x, test = np.asarray(X), np.asarray(TEST)
    decay = np.eye(7) - 0.4 * x @ x.T / 7
    errors = sum(np.linalg.matrix_power(decay, k) @ (x.sum(1) - y) for k in range(5))
    expected = -0.4 / 7 * x @ test.T * errors[:, None]
    np.testing.assert_allclose(machine.contributions, expected, rtol=1e-12)
    np.testing.assert_allclose(
        machine.residual, 0.0, atol=1e-14
    )  # its derivative does not change along a step


def test_another_number_of_steps_compiles_nothing_and_a_derivative_goes_through_all_of_them():
    run = lambda rate, steps: path_kernel(jf.optim.gd(rate), SMALL_OBJECTIVE, SMALL, TEST, steps=steps)
    made, found = [], []
    for steps in (3, 5, 8):
        found.append(run(0.1, steps).predictions)
        made.append(programs()["kernels.path_kernel.path_kernel"])
    assert made[1:] == made[:-1]
    end = lambda rate: run(rate, 5).predictions.sum()
    slope = jax.jit(jax.grad(end))(0.1)
    assert slope == pytest.approx(float(end(0.1 + 1e-5) - end(0.1 - 1e-5)) / 2e-5, rel=1e-6)
    np.testing.assert_allclose(jax.jit(lambda rate: run(rate, 8).predictions)(0.1), found[2], rtol=1e-12)


def digits(loss):
    """100 digits with pixels in [0, 1], a network with 32 hidden units, and 10 other digits."""
    problem = jf.problems.mlp("digits", hidden=(32,), standardize=False)
    batch = problem.objective.take(jnp.arange(100))
    objective = jf.Objective(PredictionLosses(problem.predict, loss), {"x": batch["x"] / 16, "y": batch["y"]})
    return objective, problem.params, problem.test["x"][:10] / 16


def residuals(make, loss, steps, time, rule):
    objective, params, x = digits(loss)
    runs = [path_kernel(make(time / n), objective, params, x, steps=n, rule=rule) for n in steps]
    return [np.abs(run.residual).max() for run in runs]


def slope(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize(("rule", "order"), [("left", 1), ("midpoint", 2), ("simpson", 4), ("gauss", 4)])
@pytest.mark.parametrize(
    ("loss", "time", "steps"), [(cross_entropy, 4.0, (40, 80)), (squared_error, 0.5, (50, 100))]
)
def test_orders_of_the_rules(rule, order, loss, time, steps):
    errors = residuals(jf.optim.gd, loss, steps, time, rule)
    assert abs(slope(steps, errors) - order) < 0.2
    if order == 4 and loss is cross_entropy:
        assert errors[1] < 1e-9


@pytest.mark.parametrize(
    "make", [lambda h: jf.optim.momentum(0.1 * h, 0.9), lambda h: jf.optim.adam(0.02 * h)]
)
def test_midpoint_is_of_order_two_with_averaged_gradients(make):
    steps = (80, 160)
    assert slope(steps, residuals(make, cross_entropy, steps, 4.0, "midpoint")) > 1.7


def test_flow_adds_up_and_is_the_limit_of_descent():
    flow = path_flow(SMALL_OBJECTIVE, TEST)
    path = jf.integrate(flow, SMALL, jnp.array([0.0, 2.0]), rtol=1e-9)
    found = path.state.contributions
    np.testing.assert_allclose(found.sum(0), small(path.params, TEST) - small(SMALL, TEST), atol=1e-7)
    whole = jf.integrate(jf.dynamics.gradient_flow(SMALL_OBJECTIVE), SMALL, jnp.array([0.0, 2.0]), rtol=1e-9)
    np.testing.assert_allclose(path.params["w"], whole.params["w"], atol=1e-7)
    steps = (40, 80)
    of = lambda n: path_kernel(jf.optim.gd(2.0 / n), SMALL_OBJECTIVE, SMALL, TEST, steps=n).contributions
    assert abs(slope(steps, [float(abs(of(n) - found).max()) for n in steps]) - 1) < 0.1


def test_what_is_not_trained_contributes_nothing():
    trainable = {"w": False, "b": True, "v": True}
    machine = path_kernel(
        jf.optim.gd(0.3), SMALL_OBJECTIVE, SMALL, TEST, steps=4, rule="gauss", trainable=trainable
    )
    run = jf.iterate(jf.optim.gd(0.3), SMALL_OBJECTIVE, SMALL, steps=4, trainable=trainable)
    assert machine.params["w"] is None
    np.testing.assert_allclose(machine.end, small(run.params, TEST), rtol=1e-12)
    assert float(abs(machine.residual).max()) < 1e-4


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def draw(self, objective, state, step, key):
        return lambda params: lambda: 0.5 * objective(params), state


class Unknown:
    def draw(self, objective, state, step, key):
        return lambda params: objective.over(params, objective.data), state


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"optimizer": jf.optim.nadam(0.1)}, ValueError, "optimizer must be one of gd, momentum"),
        (
            {"optimizer": jf.optim.momentum(0.1, lambda k: 0.9)},
            ValueError,
            "beta must be a number, not a schedule",
        ),
        (
            {"optimizer": jf.optim.momentum(0.1, 0.9, ema=True, debias=True)},
            ValueError,
            "debias must be False",
        ),
        ({"optimizer": jf.optim.nesterov(0.1, lookahead=True)}, ValueError, "lookahead must be False"),
        ({"optimizer": jf.optim.adamw(0.1, multiplier=1.0)}, ValueError, "multiplier must be None"),
        ({"batch_size": 2}, ValueError, "key must be a PRNG key"),
        ({"batch_size": 2, "key": 0}, TypeError, "key must be a PRNG key"),
        ({"estimator": [X]}, TypeError, "estimator must come from jaxflow.solve"),
        ({"estimator": Scaled(0.5)}, ValueError, "estimator must take the loss .* as it is"),
        ({"estimator": Scaled(2)}, ValueError, "estimator must take the loss .* as it is"),
        ({"estimator": Unknown()}, ValueError, "estimator must take the loss .* no attribute 'over'"),
        ({"rule": "trapezoid"}, ValueError, "rule must be one of"),
        ({"steps": 0}, ValueError, "steps must be an integer at least 1"),
        ({"objective": lambda p: 0.0}, TypeError, "parts predict and loss"),
        ({"x_test": jnp.zeros(())}, ValueError, "x_test must be arrays that share"),
    ],
)
def test_refusals(change, error, match):
    given = {"optimizer": jf.optim.gd(0.1), "objective": SMALL_OBJECTIVE, "params": SMALL, "x_test": TEST}
    with pytest.raises(error, match=match):
        path_kernel(**(given | {"steps": 1} | change))


def test_more_gradients_than_memory_holds_are_refused(monkeypatch):
    """Of the seven examples, with two gradients of each in a step of `gd`; of one at a time they fit."""
    one = sum(leaf.nbytes for leaf in jax.tree.leaves(SMALL))
    monkeypatch.setattr(memory, "device_memory", lambda: 9 * one)
    given = (SMALL_OBJECTIVE, SMALL, TEST)
    with pytest.raises(ValueError, match="needs 14 gradients of single examples"):
        path_kernel(jf.optim.gd(0.1), *given, steps=1)
    with pytest.raises(ValueError, match="needs 11 gradients of single examples"):
        path_kernel(jf.optim.adam(0.1), *given, steps=1, batch_size=2, key=KEY)
    path_kernel(jf.optim.gd(0.1), *given, steps=1, batch_size=1, key=KEY)
