"""The flow of the parameters alone on an optimizer's slow manifold, and what the optimizer amounts to."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow.dynamics import effective, modified, slow_manifold
from jaxflow.dynamics.modified_equations.effective_loss import slow_coefficients

pytestmark = pytest.mark.promotes
START = jnp.array([1.0, -0.7])
coefficients = jax.jit(slow_coefficients, static_argnums=1)


def uneven(x):
    return (
        0.5 * jnp.sum(x**2) + x[1] ** 2 + 0.3 * jnp.sum(x**4) + 0.2 * x[0] * x[1] ** 2 + jnp.sum(jnp.sin(x))
    )


SLOPE, HESSIAN = map(np.asarray, jax.jit(lambda x: (jax.grad(uneven)(x), jax.hessian(uneven)(x)))(START))


def gap(a, b):
    return np.linalg.norm(np.subtract(a, b)) / np.linalg.norm(b)


def adaptive(b1, b2, eps):
    size = abs(SLOPE) + eps
    unit = SLOPE / size
    weight = (1 + b1) / (1 - b1) - (1 + b2) / (1 - b2) * abs(SLOPE) / size
    return -unit, -0.5 * (HESSIAN @ unit) / size * weight


def linear(beta, shift):
    return -SLOPE / (1 - beta), -shift / (2 * (1 - beta) ** 3) * HESSIAN @ SLOPE


KNOWN = {
    "gd": (jf.optim.gd(0.1), linear(0.0, 1.0)),
    "heavy ball": (jf.optim.momentum(0.1, 0.9), linear(0.9, 1.9)),
    "slow heavy ball": (jf.optim.momentum(0.1, 0.99), linear(0.99, 1.99)),
    "nesterov": (jf.optim.nesterov(0.1, 0.9), linear(0.9, 0.1 + 2 * 0.81)),
    "look-ahead": (jf.optim.nesterov(0.1, 0.5, lookahead=True), linear(0.5, 1.0)),
    "average": (jf.optim.momentum(0.1, 0.9, ema=True, debias=True), (-SLOPE, -9.5 * HESSIAN @ SLOPE)),
    "rmsprop": (jf.optim.rmsprop(0.1, 0.9, 0.1), adaptive(0.0, 0.9, 0.1)),
    "adam": (jf.optim.adam(0.1, 0.9, 0.99, 0.1), adaptive(0.9, 0.99, 0.1)),
    "adam, eps": (jf.optim.adam(0.1, 0.9, 0.99, 1e-8), adaptive(0.9, 0.99, 1e-8)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_slow_fields_are_the_closed_forms(name):
    optimizer, expected = KNOWN[name]
    first, second = coefficients(optimizer, uneven, START)
    assert gap(first, expected[0]) < 1e-8
    assert gap(second, expected[1]) < 1e-6


def test_without_memory_it_is_the_field_of_the_same_order():
    for order in (1, 3):
        slow = slow_manifold(jf.optim.gd(0.1), uneven, order=order)
        field = modified(jf.optim.gd(0.1), uneven, order=order)
        both = lambda x, slow=slow, field=field: (
            slow.drift(0.0, x),
            field.drift(0.0, field.init(x)).params,
        )
        np.testing.assert_allclose(*jax.jit(both)(START), rtol=1e-14)


def test_iterates_that_have_forgotten_their_start_follow_it():
    """From the warmed-up parameters alone: what is left of the transient is β^warm, what differs is the order."""
    loss = lambda x: 0.02 * uneven(x)  # η·sharpness is 5e-3 at most: under (1 − √.8)² = .011
    optimizer, warm = jf.optim.momentum(0.05, 0.8), 80
    run = jf.iterate(optimizer, loss, START, steps=880)
    times, values = np.asarray(run.times), np.asarray(run.values)
    gaps = []
    for order in (1, 2):
        flow = jf.integrate(slow_manifold(optimizer, loss, order=order), values[warm], times[warm::100])
        gaps.append(np.abs(np.subtract(flow.values, values[warm::100])).max())
    assert gaps[0] > 20 * gaps[1]


def test_the_effective_learning_rate_and_loss():
    eta, beta = 0.01, 0.9
    found = effective(jf.optim.momentum(eta, beta), uneven, START)
    np.testing.assert_allclose(found.learning_rate, eta / (1 - beta), rtol=1e-10)
    penalty = eta * (1 + beta) / (4 * (1 - beta) ** 2)
    np.testing.assert_allclose(found.penalty, penalty, rtol=1e-9)
    assert max(found.misalignment, found.residual) < 1e-8
    value = float(jax.jit(uneven)(START)) + penalty * SLOPE @ SLOPE
    modified_loss = jax.jit(lambda x: found.modified_loss(uneven, x))
    np.testing.assert_allclose(modified_loss(START), value, rtol=1e-9)
    plain = effective(jf.optim.gd(eta), uneven, START)
    np.testing.assert_allclose([plain.learning_rate, plain.penalty], [eta, eta / 4], rtol=1e-9)
    assert effective(jf.optim.adam(eta, 0.9, 0.99), uneven, START).residual > 0.1
    with pytest.raises(TypeError, match="VectorField"):
        found.modified_loss(jf.VectorField(lambda x: x), START)


def test_no_other_rate_compiles_anew_and_rates_stack():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def drift(dynamics, params):
        return dynamics.drift(0.0, params)

    make = lambda rate: slow_manifold(jf.optim.adam(rate, 0.9, 0.99), uneven)
    alone = [drift(make(rate), START) for rate in (1e-5, 1e-4)]
    stack = jax.jit(jax.vmap(lambda rate: make(rate).drift(0.0, START)))(np.array([1e-5, 1e-4]))
    np.testing.assert_allclose(stack, alone, rtol=1e-9)


def test_memory_that_forgets_nothing_has_no_slow_manifold():
    drift = jax.jit(slow_manifold(jf.optim.adagrad(0.1), uneven).drift)
    assert np.isnan(drift(0.0, START)).all()


REFUSED = {
    "order must be an integer from 1 to 4, got 5": {"order": 5},
    "order must be an integer at least 1, got 0": {"order": 0},
    "time_step must be a finite number above 0, got 0": {"time_step": 0},
    "time_step must be a number": {"time_step": jf.optim.inverse_sqrt(0.1)},
    "learning_rate must be a number": {"optimizer": jf.optim.gd(jf.optim.inverse_sqrt(0.1))},
    "optimizer must be an optax transformation, got 0.1": {"optimizer": 0.1},
    "objective must be an Objective or a function of the parameters, got 3": {"objective": 3},
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused_in_a_sentence(message):
    arguments = {"optimizer": jf.optim.momentum(0.1), "objective": uneven} | REFUSED[message]
    with pytest.raises((ValueError, TypeError), match=message):
        slow_manifold(**arguments)


def test_an_optimizer_without_a_rate_of_its_own_has_no_effective_one():
    with pytest.raises(ValueError, match="optimizer must have a learning_rate among its arguments"):
        effective(optax.adam(0.1), uneven, START)
    with pytest.raises(ValueError, match="step_size must be a finite number above 0, got 0"):
        effective(jf.optim.gd(0.1), uneven, START, step_size=0)
