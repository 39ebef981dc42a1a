"""What has no place in an ensemble, and optimizers that `iterate` cannot step, each in a sentence."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxflow as jf

pytestmark = pytest.mark.promotes

DATA = jf.Objective(lambda w, x: 0.5 * (w - x) ** 2, jnp.arange(4.0))
GD = jf.optim.gd(0.1)


def test_a_stream_has_no_members():
    run = lambda key: jf.iterate(GD, DATA, 0.0, steps=2, estimator=[jnp.ones(1), jnp.zeros(1)])
    with pytest.raises(ValueError, match="estimator must not be a stream of batches inside ensemble"):
        jf.ensemble(run, jax.random.split(jax.random.key(0), 2))
    assert run(None).steps == 2  # outside it, and after a refusal, it runs


def test_members_must_be_the_run_alone():
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 2)
    with pytest.raises(ValueError, match=r"keys must be of a kind whose draws vmap leaves alone.* got rbg"):
        jf.ensemble(lambda key: jf.iterate(GD, DATA, 0.0, steps=2, batch_size=1, key=key), keys)


def test_optimizers_with_a_step_of_their_own_are_refused():
    for opaque in (False, True):
        sam = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1), opaque_mode=opaque)
        with pytest.raises(TypeError, match=r"such as optax\.contrib\.sam, needs a loop of its own"):
            jf.iterate(sam, DATA, jnp.zeros(()), steps=1)


def test_newton_takes_real_parameters():
    with pytest.raises(TypeError, match="newton takes real parameters"):
        jf.iterate(jf.optim.newton(), lambda z: jnp.abs(z) ** 2, jnp.ones((), complex), steps=1)


def test_gradient_noise_takes_a_raw_key():
    """The same numbers from both forms of a key."""
    updates = []
    for key in (jax.random.key(3), jax.random.PRNGKey(3)):
        noise = jf.optim.gradient_noise(0.1, key=key)
        updates.append(noise.update(jnp.zeros(3), noise.init(jnp.zeros(3)))[0])
    assert (updates[0] == updates[1]).all()
    assert (updates[0] != 0).all()
