"""Directions against NumPy, laws of random walks and the symmetries of networks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_losses import NETWORK, bowl

from jaxflow.landscape import (
    between,
    eigen_directions,
    principal_directions,
    project,
    random_directions,
    slice,
)

KEY = jax.random.key(0)


def scaled(params, factors):
    """A ReLU network with the same function: unit i of hidden layer l, and what leads from it, by factors[l][i]."""
    layers = [dict(layer) for layer in params]
    for i, factor in enumerate(factors):
        f = jnp.asarray(factor)
        layers[i] = {"w": layers[i]["w"] * f[None], "b": layers[i]["b"] * f}
        layers[i + 1]["w"] = layers[i + 1]["w"] / f[:, None]
    return tuple(layers)


def with_biases(params):
    rng = np.random.default_rng(5)
    return tuple({"w": layer["w"], "b": jnp.asarray(rng.normal(size=layer["b"].shape))} for layer in params)


def test_every_filter_has_the_norm_of_its_parameters():
    """Columns of (in, out) kernels, channels of convolutions, rows of weights (out, in); biases have direction 0."""
    rng = np.random.default_rng(0)
    shapes = {"conv": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "linear": {"weight": (5, 6), "scale": (5,)}}
    params = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s)), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )
    found = random_directions(params, KEY, count=3)
    assert len(found) == 3
    for i in range(3):
        d = found[i]
        np.testing.assert_allclose(
            np.linalg.norm(np.moveaxis(d["conv"]["kernel"], -1, 0).reshape(4, -1), axis=1),
            np.linalg.norm(np.moveaxis(params["conv"]["kernel"], -1, 0).reshape(4, -1), axis=1),
        )
        np.testing.assert_allclose(
            np.linalg.norm(d["linear"]["weight"], axis=1), np.linalg.norm(params["linear"]["weight"], axis=1)
        )
        assert not np.any(d["conv"]["bias"])
        assert not np.any(d["linear"]["scale"])
    whole = random_directions(params, KEY, "layer")
    np.testing.assert_allclose(
        np.linalg.norm(whole[0]["linear"]["weight"]), np.linalg.norm(params["linear"]["weight"])
    )
    rows = random_directions(
        params, KEY, filters=lambda path, leaf: (1,) if path == "linear/weight" else None
    )
    assert not np.any(rows.vectors["conv"]["kernel"])
    np.testing.assert_allclose(
        np.linalg.norm(rows[1]["linear"]["weight"], axis=1),
        np.linalg.norm(params["linear"]["weight"], axis=1),
    )
    plain = random_directions(params, KEY, None)
    assert np.all(plain[0]["conv"]["bias"] != 0)
    assert plain.span is None
    np.testing.assert_array_equal(found.span, [[-1, 1]] * 3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_plain_draw_is_standard_normal(seed):
    """Mean and variance of 40,000 draws within 5 standard errors: a false alarm in 10⁶."""
    x = np.asarray(random_directions(jnp.zeros((100, 200)), jax.random.key(seed), None).vectors).ravel()
    assert abs(x.mean()) < 5 / 200
    assert abs(x.var() - 1) < 5 * np.sqrt(2) / 200


def test_the_order_of_a_dictionary_does_not_matter():
    a, b = jnp.ones((2, 3)), jnp.ones((3, 2))
    one = random_directions({"a": a, "b": b}, KEY)
    # A structure that lists its leaves in another order.
    other = random_directions(jax.tree.map(lambda x: x, {"b": b, "a": a}), KEY)
    alone = random_directions({"b": b}, KEY)
    np.testing.assert_array_equal(one.vectors["b"], other.vectors["b"])
    np.testing.assert_array_equal(one.vectors["b"], alone.vectors["b"])
    assert not np.allclose(one.vectors["a"].reshape(2, 6), one.vectors["b"].reshape(2, 6))


def test_zero_filters_have_direction_zero_and_are_told():
    params = {"w": jnp.array([[1.0, 0.0, 2.0], [1.0, 0.0, 0.0]]), "v": jnp.zeros((2, 2))}
    found = random_directions(params, KEY)
    assert np.isfinite(found.vectors["w"]).all()
    assert not np.any(found.vectors["w"][:, :, 1])
    assert not np.any(found.vectors["v"])
    assert "filters of norm 0 have direction 0: v (2), w (1)" in found.message


@pytest.mark.parametrize("factors", [(3.0, 0.2), (100.0, 1e-3)])
def test_rescaled_layers_leave_a_filter_normalised_slice_as_it_is(factors):
    params = with_biases(NETWORK.params)
    same = scaled(params, [np.full(7, factors[0]), np.full(5, factors[1])])
    loss = jax.jit(lambda p: NETWORK.objective(p))
    np.testing.assert_allclose(loss(same), loss(params), rtol=1e-12)
    one, other = (
        slice(NETWORK.objective, p, random_directions(p, KEY), points=9).losses for p in (params, same)
    )
    assert np.max(np.abs(one - other) / np.abs(one)) <= 1e-12
    raw, changed = (
        slice(NETWORK.objective, p, random_directions(p, KEY, None), 1.0, 9).losses for p in (params, same)
    )
    assert np.max(np.abs(raw - changed)) > 0.1


def test_rescaled_units_change_it_unless_the_direction_is_scaled_with_them():
    """MATH 11: the next layer's columns are not scaled uniformly when units are."""
    params = with_biases(NETWORK.params)
    factors = [np.geomspace(0.2, 5, 7), np.geomspace(4, 0.1, 5)]
    same = scaled(params, factors)
    directions = random_directions(params, KEY)
    one = slice(NETWORK.objective, params, directions, points=9).losses
    drawn = slice(NETWORK.objective, same, random_directions(same, KEY), points=9).losses
    assert np.max(np.abs(one - drawn)) > 0.1
    carried = jax.vmap(partial(scaled, factors=factors))(directions.vectors)
    along = slice(NETWORK.objective, same, carried, 1.0, 9).losses
    np.testing.assert_allclose(along, one, rtol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_principal_directions_of_a_random_walk(seed):
    """The shares 6/(πk)² within 2 %. In 50,000 dimensions they scatter by √(2/50000) = .6 %: a false alarm in 10³."""
    steps = np.random.default_rng(seed).standard_normal((200, 50_000), np.float32)
    found = principal_directions(jnp.asarray(np.cumsum(steps, 0)), 4)
    k = np.arange(1, 5)
    np.testing.assert_allclose(found.values, 6 / (np.pi * k) ** 2, rtol=0.02)
    assert "a random walk's would hold 0.61, 0.15, 0.068, 0.038" in found.message


@pytest.mark.parametrize("shape", [(30, 7), (7, 30)])
def test_principal_directions_against_a_singular_value_decomposition(shape):
    x = np.random.default_rng(1).normal(size=shape) * np.geomspace(1, 0.01, shape[1])
    values = {"a": jnp.asarray(x[:, :3].reshape(-1, 1, 3)), "b": jnp.asarray(x[:, 3:])}
    found = principal_directions(values, 3)
    _, sizes, rows = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(found.values, (sizes**2 / np.sum(sizes**2))[:3], rtol=1e-10)
    flat = np.concatenate([found.vectors["a"].reshape(3, 3), found.vectors["b"]], 1)
    np.testing.assert_allclose(np.abs(np.sum(flat * rows[:3], 1)), 1, rtol=1e-8)


def test_principal_directions_of_a_line_and_of_a_lost_run():
    line = jnp.arange(5.0)[:, None] * jnp.array([[3.0, 4.0, 0.0]])
    found = principal_directions(line.at[2].set(jnp.nan), 2)
    np.testing.assert_allclose(found.values, [1, 0], atol=1e-15)
    np.testing.assert_allclose(np.abs(found.vectors), [[0.6, 0.8, 0], [0, 0, 0]], atol=1e-12)


def test_eigen_directions_against_numpy():
    values, vectors = np.linalg.eigh(np.array([[1, 1, 0], [1, 8, 0], [0, 0, 4.0]]))
    found = eigen_directions(bowl, jnp.ones(3))
    np.testing.assert_allclose(found.values, values[::-1][:2], rtol=1e-8)
    np.testing.assert_allclose(np.abs(found.vectors), np.abs(vectors.T[::-1][:2]), atol=1e-7)
    top = slice(lambda x: bowl(x), jnp.zeros(3), found, points=3).losses
    np.testing.assert_allclose(top[0, 1], 1, rtol=1e-8)  # risen by one at the end of the span


def test_three_points_span_a_plane_with_true_distances():
    rng = np.random.default_rng(2)
    a, b, c = (
        {"x": jnp.asarray(rng.normal(size=4)), "y": jnp.asarray(rng.normal(size=(2, 2)))} for _ in range(3)
    )
    plane = slice(lambda p: jnp.sum(p["x"]), a, between(a, b, c), points=5)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), a, b, c)
    found = project(stacked, plane)
    flat = np.stack([np.concatenate([p["x"], p["y"].ravel()]) for p in (a, b, c)])
    for i in range(3):
        for j in range(3):
            apart = np.linalg.norm(found.coordinates[i] - found.coordinates[j])
            np.testing.assert_allclose(apart, np.linalg.norm(flat[i] - flat[j]), atol=1e-12)
    np.testing.assert_allclose(found.distances, 0, atol=1e-6)
    np.testing.assert_allclose(found.share, 1)
    assert all(x.min() < found.coordinates[:, i].min() for i, x in enumerate(plane.coordinates))
    assert all(x.max() > found.coordinates[:, i].max() for i, x in enumerate(plane.coordinates))
