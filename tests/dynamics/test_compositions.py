"""Accumulated gradients and schedules in the equations of optimizers, against the iterates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow import optim
from jaxflow.dynamics import limit_of, sde_of

pytestmark = pytest.mark.promotes
START = jnp.array([1.5, -0.8])
K = 3


def loss(x):
    return jnp.sum(jnp.cosh(x)) + 0.3 * x[0] * x[1] ** 2


CENTRES = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))
OBJECTIVE = jf.Objective(lambda w, c: jax.vmap(lambda one: 0.5 * jnp.sum((w - one) ** 2))(c), CENTRES)
SIGMA = np.cov(CENTRES.T, bias=True)

# --- optax.MultiSteps ---


@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: o.gradient_transformation()], ids=["object", "pair"])
def test_accumulated_steps_follow_the_inner_equation_on_the_clock_of_updates(wrap):
    gaps = []
    for h in (0.02, 0.01):
        several = wrap(optax.MultiSteps(optim.momentum(h, 0.5), K))
        run = jf.iterate(several, loss, START, steps=K * round(1 / h), time_step=h / K)
        assert np.isclose(run.times[-1], 1.0)
        flow = limit_of(several, loss)
        assert repr(flow) == repr(limit_of(optim.momentum(h, 0.5), loss))
        path = jf.integrate(flow, START, [0.0, 1.0], rtol=1e-9, atol=1e-11)
        gaps.append(np.abs(np.asarray(run.params - path.params)).max())
    assert np.log2(gaps[0] / gaps[1]) > 0.9


def covariance_of_noise(dynamics):
    columns = jax.vmap(lambda xi: dynamics.diffusion(0.0, START, xi))(jnp.eye(5))
    return np.asarray(columns.T @ columns)


@pytest.mark.parametrize("replacement", [True, False])
def test_accumulated_noise_is_that_of_the_mean_of_so_many_batches(replacement):
    """Per update, against 4,000 runs of one update; their variance is off by 10 % at a chance of 1 in 10⁵ a seed."""
    rate, batch = 0.1, 2
    several = optax.MultiSteps(optim.gd(rate), K)
    dynamics = sde_of(several, OBJECTIVE, batch, replacement=replacement)
    assert dynamics.time_step == rate
    factor = 1 / batch if replacement else (5 - batch) / (batch * 4)
    np.testing.assert_allclose(covariance_of_noise(dynamics), rate * factor / K * SIGMA, atol=1e-12)
    draws = jf.solve.with_replacement if replacement else jf.solve.without_replacement
    for seed in range(3):
        run = lambda key: (
            jf.iterate(
                several, OBJECTIVE, START, steps=K, time_step=rate / K, estimator=draws(batch), key=key
            ).params
        )
        ends = jf.ensemble(run, jax.random.split(jax.random.key(seed), 4000))
        np.testing.assert_allclose(np.var(ends, 0), rate**2 * factor / K * np.diag(SIGMA), rtol=0.1)


def test_a_batch_size_that_varies_is_accumulated():
    several = optax.MultiSteps(optim.gd(0.1), K)
    varying = sde_of(several, OBJECTIVE, lambda t: 2.0 + t)
    np.testing.assert_allclose(covariance_of_noise(varying), 0.1 / (2 * K) * SIGMA, atol=1e-12)


def test_rules_change_the_optimizer_inside():
    found = jf.rescale(optax.MultiSteps(optim.adam(0.1), K), 2, 8)
    assert isinstance(found, optax.MultiSteps)
    assert repr(found.inner_opt) == repr(jf.rescale(optim.adam(0.1), 2, 8))
    run = jf.iterate(found, loss, START, steps=2 * K)
    assert np.array_equal(run.values[K - 1], START)
    assert not np.array_equal(run.values[K], START)
    assert np.array_equal(run.values[K], run.values[2 * K - 1])


def test_rules_change_every_group_by_its_own_rule():
    """At κ = 4: the linear rule for one, the square-root rule for the other, and s = 1/2 for a family."""
    labels, groups = {"w": "a", "b": "b"}, optim.traceable(optax.multi_transform)
    members = {
        "a": optim.chain(optim.l2_regularization(0.3), optim.momentum(0.1, 0.81)),
        "b": optim.traceable(optax.adam)(0.2),
    }
    found = jf.rescale(groups(members, labels), 1, 4).hyperparameters["transforms"]
    assert repr(found) == repr({label: jf.rescale(member, 1, 4) for label, member in members.items()})
    half = jf.family_of(groups(members, labels), 0.1)(0.05).hyperparameters["transforms"]
    assert repr(half) == repr({label: jf.family_of(member, 0.1)(0.05) for label, member in members.items()})
    with pytest.raises(ValueError, match="2 learning rates; say which one is the clock by time_step="):
        jf.family_of(groups(members, labels))
    with pytest.raises(ValueError, match=r"known scaling rule .* got sign"):
        jf.rescale(groups({"a": optim.sign(0.1), "b": optim.gd(0.1)}, labels), 1, 4)


@pytest.mark.parametrize(
    ("several", "message"),
    [
        (optax.MultiSteps(optim.gd(0.1), lambda k: 1 + k), "every_k_schedule must be an integer"),
        (optax.MultiSteps(optim.gd(0.1), K, use_grad_mean=False), "use_grad_mean must be True"),
        (
            optax.MultiSteps(optim.gd(0.1), K, should_skip_update_fn=optax.skip_not_finite),
            "should_skip_update_fn must be None",
        ),
        (optax.MultiSteps(optax.sgd(0.1), K), "hides its numbers"),
    ],
    ids=["schedule", "sum", "skip", "plain"],
)
def test_what_accumulates_otherwise_is_refused(several, message):
    for use in (
        lambda: limit_of(several, loss),
        lambda: sde_of(several, OBJECTIVE, 2),
        lambda: jf.rescale(several, 1, 2),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_a_family_is_that_of_the_optimizer_inside():
    with pytest.raises(TypeError, match=r"optimizer must be .* inner_opt"):
        jf.family_of(optax.MultiSteps(optim.gd(0.1), K))


def test_what_is_no_optimizer_is_refused():
    for use in (lambda: limit_of(3, loss), lambda: sde_of(None, OBJECTIVE, 2)):
        with pytest.raises(TypeError, match="optimizer must be an optax transformation, got"):
            use()


# --- Schedules ---

memory = lambda h, tau: float(np.exp(-h / tau))


@optim.traceable
def swelling(h):
    """The time step h, which rises and falls by half of itself on the clock of time."""
    return lambda k: h * (1 + 0.5 * jnp.sin(4 * k * h))


@optim.traceable
def falling(h):
    return lambda k: 0.5 - 0.2 * jnp.sin(3 * k * h)


@pytest.mark.parametrize(
    "method",
    [
        lambda rate, h: optim.gd(rate),
        lambda rate, h: optim.momentum(rate, 0.5),
        lambda rate, h: optim.momentum(rate, falling(h)),
        lambda rate, h: optim.momentum(rate, memory(h, 0.3), ema=True),
        lambda rate, h: optim.nesterov(rate, 0.5),
        lambda rate, h: optim.sgdw(rate, 0.5, 0.6),
        lambda rate, h: optim.adam(rate, memory(h, 0.3), memory(h, 0.5), 1e-3),
        lambda rate, h: optim.adamw(rate, memory(h, 0.3), memory(h, 0.5), 1e-3, 0.6),
        lambda rate, h: optim.adagrad(rate, initial_accumulator=4 / h),
    ],
    ids=["gd", "momentum", "beta", "ema", "nesterov", "sgdw", "adam", "adamw", "adagrad"],
)
def test_limits_with_schedules_are_first_order(method):
    """The rate rises and falls by half of itself, so that an equation with its first value is off at order 0."""
    gaps = []
    for h in (0.01, 0.005):
        optimizer = method(swelling(h), h)
        run = jf.iterate(optimizer, loss, START, steps=jnp.asarray(round(1 / h)), every=None)
        flow = limit_of(optimizer, loss, steps=200)
        path = jf.integrate(flow, START, run.times, step_size=h / 8)
        gaps.append(np.abs(np.asarray(run.params - path.params)).max())
    assert np.log2(gaps[0] / gaps[1]) > 0.85
    assert gaps[1] < 0.01
