"""`traceable` over every optimizer of optax and optax.contrib: its numbers, and one compilation."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow._compiled import programs

pytestmark = pytest.mark.promotes

compilations = lambda: programs()["solve.iteration.iterate"]
START = np.linspace(-2, 2, 12)

EXCLUDED = {
    "optimistic_adam": "deprecated",
    "dpsgd": "takes per-example gradients",
}
NEEDED = {
    "noisy_sgd": {"key": jax.random.key(0)},
    "schedule_free": {"base_optimizer": optax.sgd(0.1)},
    "mechanize": {"base_optimizer": optax.sgd(0.1)},
    "split_real_and_imaginary": {"inner": optax.sgd(0.1)},
}
WITHOUT_RATE = (optax.polyak_sgd, optax.contrib.mechanize, optax.contrib.split_real_and_imaginary)


def constructors():
    """Everything public of optax that takes a learning rate, and a few that do not."""
    for module in (optax, optax.contrib):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            takes_rate = "learning_rate" in inspect.signature(function).parameters
            if takes_rate and name not in EXCLUDED and not name.startswith("_"):
                yield function
    yield from WITHOUT_RATE


ALL = list(constructors())


def loss(params):
    x = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    h = jnp.linspace(0.5, 2, x.size, dtype=x.dtype)
    return jnp.sum(0.5 * h * (x - 1) ** 2 + 0.1 * jnp.cos(3 * x))


def settings(constructor, rate):
    needed = NEEDED.get(constructor.__name__, {})
    takes_rate = "learning_rate" in inspect.signature(constructor).parameters
    return needed | ({"learning_rate": rate} if takes_rate else {})


def run(optimizer, loss, dtype):
    start = {"w": jnp.asarray(START[:9].reshape(3, 3), dtype), "b": jnp.asarray(START[9:], dtype)}
    return jf.iterate(optimizer, loss, start, steps=8, time_step=1.0).values


def gap(ours, theirs):
    """The largest difference, and how far the parameters went."""
    pairs = [
        (np.asarray(a), np.asarray(b)) for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True)
    ]
    assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in pairs)
    return max(np.abs(a - b).max() for a, b in pairs), max(np.abs(a - a[0]).max() for a, _ in pairs)


def test_there_are_about_fifty():
    assert len(ALL) > 40


@pytest.mark.parametrize("constructor", ALL, ids=lambda c: c.__name__)
def test_the_numbers_are_those_of_the_plain_one_and_two_rates_compile_once(constructor):
    own_loss = lambda params: loss(params)
    traceable = jf.optim.traceable(constructor)
    before = compilations()
    ours = run(traceable(**settings(constructor, 0.05)), own_loss, float)
    run(traceable(**settings(constructor, 0.03)), own_loss, float)
    assert compilations() - before == 1
    error, distance = gap(ours, run(constructor(**settings(constructor, 0.05)), own_loss, float))
    assert error <= 1e-12
    assert distance > 1e-7


@pytest.mark.parametrize("name", ["adam", "adafactor", "lion", "lamb"])
def test_the_numbers_are_those_of_the_plain_one_in_single_precision(name):
    constructor = getattr(optax, name)
    ours = run(jf.optim.traceable(constructor)(0.05), loss, jnp.float32)
    assert gap(ours, run(constructor(0.05), loss, jnp.float32))[0] <= 1e-6


def test_line_searches_and_polyak_steps_work_as_they_are():
    """L-BFGS solves a quadratic in as many steps as it has distinct curvatures and a few more."""
    h = jnp.array([1.0, 10.0, 100.0])
    quadratic = lambda x: 0.5 * jnp.sum(h * (x - 1) ** 2)
    lbfgs = jf.iterate(optax.lbfgs(), quadratic, jnp.zeros(3), steps=12)
    assert np.abs(lbfgs.params - 1).max() < 1e-6
    polyak = jf.iterate(optax.polyak_sgd(), quadratic, jnp.zeros(3), steps=3)
    x, expected = np.zeros(3), []
    for _ in range(3):  # optax: step L/|g|², here with ε = 0 and a largest rate of 1
        g = np.asarray(h) * (x - 1)
        x = x - min(1.0, 0.5 * np.sum(np.asarray(h) * (x - 1) ** 2) / (g @ g)) * g
        expected.append(x)
    np.testing.assert_allclose(polyak.values[1:], expected, rtol=1e-12)


def test_sophia_is_handed_the_loss():
    """On ½hx² its estimate of h is exact, so ν = h(1 − βᵏ), and a step takes off ηx/(γ(1 − βᵏ))."""
    optimizer = optax.contrib.sophia(0.01, b1=0.0, b2=0.5, weight_decay=0.0, gamma=0.1, update_interval=1)
    rates = 0.01 / 0.1 / (1 - 0.5 ** np.arange(1, 9))
    exact = (1e-9 - 0.01 * 4e-9 / 1e-8) * np.cumprod(1 - rates)  # the first step is divided by ε, as ν = 0
    run = jf.iterate(optimizer, lambda x: 2.0 * jnp.sum(x**2), jnp.full(1, 1e-9), steps=9, time_step=1.0)
    np.testing.assert_allclose(run.values[2:, 0], exact, rtol=1e-12)


def test_two_plain_optax_objects_are_two_compilations_and_a_traceable_one_is_vmapped():
    own_loss = lambda params: loss(params)
    before = compilations()
    loop = [run(optax.adam(rate), own_loss, float)["b"] for rate in (0.01, 0.02)]
    assert compilations() - before == 2
    stack = jax.vmap(jf.optim.traceable(optax.adam))(jnp.array([0.01, 0.02]))
    ours = jax.vmap(lambda optimizer: run(optimizer, own_loss, float)["b"])(stack)
    assert np.abs(ours - np.stack(loop)).max() <= 1e-14
