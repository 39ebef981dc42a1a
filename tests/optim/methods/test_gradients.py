"""Transformations of the gradient: the law of the noise, and the penalty's recursion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recursions
import scipy.stats
from cases import START, gradient, loss

import jaxflow as jf

pytestmark = pytest.mark.promotes

LANES = 4000


@pytest.mark.parametrize("gamma", [0.55, 2.0])
def test_noise_is_normal_with_variance_eta_over_a_power_of_t(gamma):
    """Vmapped keys give independent noise; each p-value > 1e-8 is a false alarm of 1e-7 over both cases."""
    gradients = jnp.array([1.0, -2.0])

    def noise(key):
        optimizer = jf.optim.gradient_noise(0.3, gamma, key=key)
        state, kept = optimizer.init(gradients), []
        for _ in range(4):
            updates, state = optimizer.update(gradients, state)
            kept.append(updates - gradients)
        return jnp.stack(kept)

    drawn = np.asarray(jax.jit(jax.vmap(noise))(jax.random.split(jax.random.key(0), LANES)))
    for t in range(4):
        scaled = drawn[:, t] / np.sqrt(0.3 / (1 + t) ** gamma)
        assert scipy.stats.kstest(scaled.ravel(), "norm").pvalue > 1e-8
    steps = np.corrcoef(drawn.reshape(LANES, 8).T) - np.eye(8)
    assert np.abs(steps).max() < 6 / np.sqrt(LANES)  # 28 pairs at six standard deviations: 6e-8


def test_noise_is_vmapped_over_its_strength():
    key = jax.random.key(3)
    one = lambda eta: jf.optim.gradient_noise(eta, key=key)
    draw = lambda optimizer: optimizer.update(jnp.zeros(3), optimizer.init(jnp.zeros(3)))[0]
    stack = jax.vmap(draw)(jax.vmap(one)(jnp.array([1.0, 4.0])))
    np.testing.assert_allclose(stack[1], 2 * stack[0], rtol=1e-14)


def test_the_penalty_is_in_the_gradient():
    optimizer = jf.optim.chain(jf.optim.l2_regularization(0.3), jf.optim.gd(0.05))
    ours = jf.iterate(optimizer, loss, START, steps=100).values
    theirs = recursions.l2_gd(gradient, START, 100, 0.05, 0.3)
    assert np.abs(ours - theirs).max() <= 1e-12 * np.abs(theirs).max()


def test_both_keep_the_dtype_of_the_gradient_and_differentiate():
    noise = jf.optim.gradient_noise(0.1, key=jax.random.key(0))
    ridge = jf.optim.l2_regularization(0.1)
    for optimizer in (noise, ridge):
        for dtype in ("bfloat16", "float16", "float32", "float64"):
            g = jnp.ones(2, dtype)
            assert optimizer.update(g, optimizer.init(g), g)[0].dtype == dtype

    derivative = jax.grad(lambda o: jnp.sum(o.update(jnp.zeros(2), o.init(jnp.ones(2)), jnp.ones(2))[0]))(
        ridge
    )
    assert derivative.hyperparameters == {"strength": 2.0}


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="eta must be"):
        jf.optim.gradient_noise(-1.0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="gamma must be"):
        jf.optim.gradient_noise(1.0, float("nan"), key=jax.random.key(0))
    with pytest.raises(TypeError, match="key must be a PRNG key"):
        jf.optim.gradient_noise(1.0, key=0)
    with pytest.raises(ValueError, match="strength must be"):
        jf.optim.l2_regularization(-0.1)
