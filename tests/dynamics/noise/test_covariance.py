"""Σ, its trace and eigenpairs against per-example gradients written out, and against estimators enumerated."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from jaxflow._compiled import programs

N = 23
RNG = np.random.default_rng(0)
DATA = {"x": jnp.asarray(RNG.normal(size=(N, 2))), "y": jnp.asarray(RNG.normal(size=N))}
PARAMS = {"w": jnp.asarray(RNG.normal(size=(2, 5))), "out": jnp.asarray(RNG.normal(size=5))}


def losses(params, batch):
    return 0.5 * (jnp.tanh(batch["x"] @ params["w"]) @ params["out"] - batch["y"]) ** 2


OBJECTIVE = jf.Objective(losses, DATA)
CHUNKED = jf.Objective(losses, DATA, chunk=5)
FLAT, UNRAVEL = ravel_pytree(PARAMS)
GRADIENTS = np.asarray(jax.jit(jax.jacfwd(lambda p: losses(UNRAVEL(p), DATA)))(FLAT))
SIGMA = np.cov(GRADIENTS.T, bias=True)
MEAN = GRADIENTS.mean(0)


def linear(slopes):
    """An objective whose per-example gradients are the rows of `slopes`."""
    return jf.Objective(lambda theta, c: c @ theta, jnp.asarray(slopes))


@pytest.mark.parametrize("objective", [OBJECTIVE, CHUNKED], ids=["whole", "chunked"])
def test_matrix_is_that_of_the_gradients_in_raveled_order(objective):
    np.testing.assert_allclose(jf.gradient_covariance(objective, PARAMS), SIGMA, atol=1e-13)


@pytest.mark.parametrize("objective", [OBJECTIVE, CHUNKED], ids=["whole", "chunked"])
def test_scale_and_eigenpairs_are_those_of_the_matrix(objective):
    scale = jf.noise_scale(objective, PARAMS, eigenpairs=3)
    np.testing.assert_allclose(scale.trace, np.trace(SIGMA), rtol=1e-13)
    np.testing.assert_allclose(scale.squared_gradient, MEAN @ MEAN, rtol=1e-13)
    np.testing.assert_allclose(scale.simple, np.trace(SIGMA) / (MEAN @ MEAN), rtol=1e-12)
    np.testing.assert_allclose(scale.eigenvalues, np.linalg.eigvalsh(SIGMA)[:-4:-1], rtol=1e-11)
    assert scale.eigenvectors["w"].shape == (3, 2, 5)
    vectors = np.asarray(jax.vmap(lambda v: ravel_pytree(v)[0])(scale.eigenvectors))
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=1e-13)
    np.testing.assert_allclose(vectors @ SIGMA, np.asarray(scale.eigenvalues)[:, None] * vectors, atol=1e-11)


def test_more_directions_than_the_iteration_takes():
    # 60 directions, 24 products: the leading one of a spectrum that decays as gradient noise does.
    slopes = np.random.default_rng(1).normal(size=(80, 60)) / np.arange(1, 61)
    top = np.linalg.eigvalsh(np.cov(slopes.T, bias=True))[-1]
    scale = jf.noise_scale(linear(slopes), jnp.zeros(60), eigenpairs=1)
    np.testing.assert_allclose(scale.eigenvalues, [top], rtol=1e-10)


def test_two_batch_sizes_estimate_it_without_bias():
    # McCandlish et al., appendix A.1: both estimators, averaged over every batch of 1 and of 3 of four examples.
    slopes = np.random.default_rng(2).normal(size=(4, 3)) + 1.0
    small, big = (
        np.mean([(slopes[list(i)].mean(0) ** 2).sum() for i in itertools.product(range(4), repeat=size)])
        for size in (1, 3)
    )
    scale = jf.noise_scale(linear(slopes), jnp.zeros(3))
    np.testing.assert_allclose(scale.squared_gradient, (3 * big - small) / 2, rtol=1e-12)
    np.testing.assert_allclose(scale.trace, (small - big) / (1 - 1 / 3), rtol=1e-12)


def test_small_noise_on_a_large_gradient_keeps_its_digits():
    slopes = np.random.default_rng(3).normal(size=(50, 2))
    scale = jf.noise_scale(linear(1e8 + slopes), jnp.zeros(2))  # |g|² is 1e16 times the trace
    np.testing.assert_allclose(scale.trace, slopes.var(0).sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("slopes", "expected"),
    [
        (np.ones((5, 4)), [0, 0, 0]),
        (np.array([[1.0, 0, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 0]]), [2 / 3, 0, 0]),
        (np.concatenate([np.eye(4), -np.eye(4)]), [1 / 4, 1 / 4, 1 / 4]),
    ],
    ids=["none", "one direction", "isotropic"],
)
def test_degenerate_noise(slopes, expected):
    scale = jf.noise_scale(linear(slopes), jnp.zeros(4), eigenpairs=3)
    np.testing.assert_allclose(scale.eigenvalues, expected, atol=1e-14)
    np.testing.assert_allclose(scale.eigenvectors @ scale.eigenvectors.T, np.eye(3), atol=1e-10)


def test_without_eigenpairs_their_axis_is_empty():
    scale = jf.noise_scale(OBJECTIVE, PARAMS)
    assert scale.eigenvalues.shape == (0,)
    assert scale.eigenvectors["w"].shape == (0, 2, 5)


def test_single_precision():
    single = jax.tree.map(lambda x: x.astype(jnp.float32), (DATA, PARAMS))
    scale = jf.noise_scale(jf.Objective(losses, single[0]), single[1], eigenpairs=2)
    assert scale.trace.dtype == scale.eigenvalues.dtype == scale.eigenvectors["w"].dtype == jnp.float32
    np.testing.assert_allclose(scale.eigenvalues, np.linalg.eigvalsh(SIGMA)[:-3:-1], rtol=1e-4)


def test_compiles_once_and_goes_through_vmap():
    jf.noise_scale(OBJECTIVE, PARAMS)
    before = programs()["dynamics.noise.covariance.noise_scale"]
    other = jf.Objective(losses, jax.tree.map(lambda x: 2 * x, DATA))
    jf.noise_scale(other, jax.tree.map(jnp.negative, PARAMS))
    assert programs()["dynamics.noise.covariance.noise_scale"] == before
    stack = jax.tree.map(lambda x: jnp.stack([x, x]), PARAMS)
    scales = jax.jit(jax.vmap(lambda p: jf.noise_scale(OBJECTIVE, p)))(stack)
    np.testing.assert_allclose(scales.simple, 2 * [np.trace(SIGMA) / (MEAN @ MEAN)], rtol=1e-12)
    assert repr(scales) == "NoiseScale(trace of shape (2,))"


def test_repr_says_the_numbers():
    scale = jf.noise_scale(linear([[-1.0], [5.0]]), jnp.zeros(1), eigenpairs=1)
    assert repr(scale) == "NoiseScale(simple 2.25: trace 9 over squared gradient 4; eigenvalues 9)"


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="need an Objective"):
        jf.noise_scale(jnp.sum, PARAMS)
    with pytest.raises(TypeError, match="params must be real floats"):
        jf.gradient_covariance(OBJECTIVE, jnp.ones(2, complex))
    with pytest.raises(ValueError, match=r"at most 20,000 numbers .* got 30,000"):
        jf.gradient_covariance(OBJECTIVE, jnp.zeros(30_000))
    with pytest.raises(ValueError, match="eigenpairs must be at most 15"):
        jf.noise_scale(OBJECTIVE, PARAMS, eigenpairs=16)
    with pytest.raises(TypeError, match="eigenpairs must be an integer"):
        jf.noise_scale(OBJECTIVE, PARAMS, eigenpairs=1.0)
