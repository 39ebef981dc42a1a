"""Slices and projections against losses one by one, NumPy and closed forms, and what is refused."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from sample_losses import NETWORK, bowl

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow._programs.jaxprs import programs_of
from jaxflow._text.progress import Bar
from jaxflow.landscape import (
    Directions,
    between,
    principal_directions,
    project,
    random_directions,
    slice,
)
from jaxflow.landscape.slices import grids

KEY = jax.random.key(0)


def test_a_slice_is_the_losses_one_by_one():
    params = NETWORK.params
    directions = random_directions(params, KEY)
    plane = slice(NETWORK.objective, params, directions, [0.5, (-1.0, 2.0)], (4, 7))
    assert plane.losses.shape == (4, 7)
    x, y = plane.coordinates
    np.testing.assert_allclose(x, np.linspace(-0.5, 0.5, 4), atol=1e-15)
    np.testing.assert_allclose(y, np.linspace(-1, 2, 7), atol=1e-15)
    loss = jax.jit(NETWORK.objective.__call__)
    start, ways = jax.device_get((params, directions.vectors))
    for i in range(4):
        for j in range(7):
            point = jax.tree.map(lambda p, d, i=i, j=j: p + x[i] * d[0] + y[j] * d[1], start, ways)
            np.testing.assert_allclose(plane.losses[i, j], loss(point), rtol=1e-12)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), plane[x[3], y[6]], point)


def test_a_line_and_a_loss_that_is_lost():
    line = slice(lambda x: jnp.log(x), 1.0, jnp.ones(1), (-2.0, 1.0), 3)
    np.testing.assert_allclose(line.losses, [np.nan, np.log(0.5), np.log(2)])
    assert "1 not finite" in repr(line)
    assert line.losses.shape == (3,)


def test_no_memory_and_no_program_for_more_points():
    objective, params = NETWORK.objective, NETWORK.params
    directions = random_directions(params, KEY)

    def memory(points):
        made = (
            jax.jit(lambda p, d: slice(objective, p, d, 1.0, points).losses)
            .lower(params, directions)
            .compile()
        )
        return made.memory_analysis().temp_size_in_bytes

    few, many = memory(5), memory(100)
    assert many - few < 64 * 100**2  # some numbers for each point, where an evaluation takes 12,000
    name = "landscape.slices.grids.losses_on"
    before = programs()[name]
    for span in (0.5, 1.0, (-1.0, 3.0)):
        slice(objective, jax.tree.map(lambda x: np.asarray(x) * 1.1, params), directions, span, 11)
    assert programs()[name] == before + 1


def test_points_are_spread_over_devices_whole_or_in_pieces(monkeypatch):
    seen = []
    spread = grids.spread
    monkeypatch.setattr(grids, "spread", lambda *given: seen.append(spread(*given)) or seen[-1])
    directions = jnp.asarray(np.eye(3)[:2])
    whole = slice(bowl, jnp.ones(3), directions, 1.0, (7, 9))
    assert len(seen) == 1
    assert len(seen[0].sharding.device_set) == len(jax.local_devices()) > 1
    pieces = slice(bowl, jnp.ones(3), directions, 1.0, (7, 9), progress=True)
    assert len(seen) > 5
    assert len({x.shape for x in seen[1:]}) == 1
    x, y = np.meshgrid(np.linspace(-1, 1, 7), np.linspace(-1, 1, 9), indexing="ij")
    exact = ((1 + x) ** 2 + 8 * (1 + y) ** 2 + 4) / 2 + (1 + x) * (1 + y)
    np.testing.assert_allclose(whole.losses, exact, rtol=1e-14)
    np.testing.assert_allclose(pieces.losses, exact, rtol=1e-14)


def test_an_interrupted_slice_keeps_what_is_done(monkeypatch):
    advance, count = Bar.advance, []

    def stop(bar, units, **told):
        advance(bar, units, **told)
        count.append(units)
        if len(count) == 3:
            monkeypatch.setattr(grids, "losses_on", interrupt)

    def interrupt(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(Bar, "advance", stop)
    with pytest.warns(UserWarning, match="interrupted after 12 of 80 points"):
        plane = slice(bowl, jnp.ones(3), jnp.asarray(np.eye(3)[:2]), 1.0, (8, 10), progress=True)
    assert np.isfinite(plane.losses.ravel()[:12]).all()
    assert np.isnan(plane.losses.ravel()[12:]).all()


def test_slices_of_models_and_of_parts_of_them():
    model = eqx.nn.MLP(2, 3, 4, 1, key=KEY)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)))
    loss = eqx.filter_jit(lambda m: jnp.sum(jax.vmap(m)(x) ** 2))
    directions = random_directions(model, KEY)
    plane = slice(loss, model, directions, 0.5, 3)
    point = plane[0.5, -0.5]
    assert isinstance(point, eqx.nn.MLP)
    np.testing.assert_allclose(plane.losses[2, 0], loss(point), rtol=1e-12)
    last = lambda path, leaf: path.startswith("layers/1")
    some = random_directions(model, KEY, trainable=last)
    assert some.vectors.layers[0].weight is None
    part = slice(loss, model, some, 0.5, 3, trainable=last)
    np.testing.assert_array_equal(part[0.5, 0.5].layers[0].weight, model.layers[0].weight)
    np.testing.assert_allclose(part.losses[1, 1], loss(model), rtol=1e-12)


def test_slices_through_jit_vmap_grad_and_data_on_several_devices():
    directions = jnp.asarray(np.eye(3)[:2])
    starts = np.arange(6.0).reshape(2, 3)
    many = jax.jit(jax.vmap(lambda p: slice(bowl, p, directions, 1.0, 3).losses))(starts)
    for start, losses in zip(starts, many, strict=True):
        np.testing.assert_allclose(losses, slice(bowl, start, directions, 1.0, 3).losses, rtol=1e-14)
    slope = jax.grad(lambda s: slice(bowl, jnp.zeros(3), directions, s, 3).losses[2, 1])(2.0)
    np.testing.assert_allclose(slope, 2.0)  # ½ s² along the first direction
    mesh = jax.make_mesh((4,), ("data",))
    objective = jf.Objective(lambda p, b: (b - p) ** 2, jnp.arange(8.0))
    laid = jax.device_put(objective, NamedSharding(mesh, PartitionSpec("data")))
    exact = np.mean((np.arange(8)[None] - np.linspace(-1, 1, 5)[:, None]) ** 2, 1)
    for one in (objective, laid):
        np.testing.assert_allclose(slice(one, 0.0, jnp.ones(1), 1.0, 5).losses, exact, rtol=1e-12)


class Convolutional:
    """A residual network of convolutions, with sums, quotients and means of what is linear in its parameters."""

    images = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6, 6, 1)))

    def start(self):
        draw = lambda *shape: jax.device_put(np.random.default_rng(sum(shape)).normal(size=shape) / 3)
        return {
            "first": draw(3, 3, 1, 4),
            "second": draw(3, 3, 4, 4),
            "last": draw(4, 2),
            "bias": draw(4),
            "gain": draw(1),
        }

    def __call__(self, params):
        convolve = lambda x, w: jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = convolve(self.images, params["first"]) + params["bias"][None, None, None]
        x = (x - x.mean((1, 2), keepdims=True)) / 2 - 1
        inside, _ = jax.lax.scan(
            lambda h, _: (h + jax.nn.relu(convolve(h, params["second"])), None), x, length=3
        )
        outputs = jax.jit(lambda h: h.mean((1, 2)) @ params["last"])(inside + 0.1 * x)
        return jnp.mean(jax.nn.logsumexp(-params["gain"][0] * outputs, axis=1)) + jnp.sum(params["last"] ** 2)


def test_what_is_affine_is_computed_once_and_the_losses_are_the_same():
    network = Convolutional()
    params = network.start()
    directions = random_directions(params, KEY, None)
    plane = slice(network, params, directions, 0.7, 4)
    loss = jax.jit(lambda p: network(p))
    start, ways, coordinates = jax.device_get((params, directions.vectors, plane.coordinates))
    for i in range(4):
        for j in range(4):
            x, y = coordinates[0][i], coordinates[1][j]
            point = jax.tree.map(lambda p, d, x=x, y=y: p + x * d[0] + y * d[1], start, ways)
            np.testing.assert_allclose(plane.losses[i, j], loss(point), rtol=1e-10)

    params, objective = NETWORK.params, NETWORK.objective
    directions = random_directions(params, KEY).vectors
    traced = jax.make_jaxpr(lambda p, d: slice(objective, p, d, 1.0, 5).losses)(params, directions)
    inside = [eqn for eqn in operations(traced.jaxpr) if eqn.primitive.name == "scan"]
    products = [eqn for loop in inside for eqn in operations(loop.params["jaxpr"].jaxpr)]
    assert len([eqn for eqn in products if eqn.primitive.name == "dot_general"]) == 2  # of three layers


def test_functions_that_are_affine_or_constant_throughout():
    plane = slice(lambda x: x[0] - 2 * x[2] + 1, jnp.ones(3), jnp.asarray(np.eye(3)[:2]), 1.0, 3)
    np.testing.assert_allclose(plane.losses, np.linspace(-1, 1, 3)[:, None] + np.zeros((1, 3)), atol=1e-15)
    flat = slice(lambda x: 3.0, jnp.ones(3), jnp.asarray(np.eye(3)[:2]), 1.0, 3)
    np.testing.assert_array_equal(flat.losses, np.full((3, 3), 3.0))
    step = slice(
        lambda x: jnp.where(x[0] > 0, x[1], 1 - x[1]), jnp.zeros(3), jnp.asarray(np.eye(3)[:2]), 1.0, (2, 3)
    )
    np.testing.assert_allclose(step.losses, [[2, 1, 0], [-1, 0, 1]], atol=1e-15)


def operations(jaxpr):
    """All operations of a program, those in loops and calls too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for program in programs_of(eqn):
            yield from operations(program.jaxpr)


# Projections.


@pytest.mark.promotes
def test_runs_on_a_slice():
    rng = np.random.default_rng(4)
    basis = rng.normal(size=(2, 5)) * np.array([[1.0], [0.01]])  # oblique, of unlike lengths
    true, off = rng.normal(size=(30, 2)), rng.normal(size=(30, 5))
    off -= off @ np.linalg.pinv(basis) @ basis
    points = 2.0 + true @ basis + off
    plane = slice(lambda p: jnp.sum(p["x"]), {"x": jnp.full(5, 2.0)}, {"x": jnp.asarray(basis)}, 1.0, 3)
    found = project({"x": jnp.asarray(points)}, plane)
    np.testing.assert_allclose(found.coordinates, true, rtol=1e-9)
    np.testing.assert_allclose(found.distances, np.linalg.norm(off, axis=1), rtol=1e-9)
    inside = true @ basis
    share = np.sum((inside - inside.mean(0)) ** 2) / np.sum((points - points.mean(0)) ** 2)
    np.testing.assert_allclose(found.share, share, rtol=1e-9)
    assert "random walk" not in found.message

    run = jf.iterate(jf.optim.gd(0.05), bowl, jnp.array([1.0, 1.0, 1.0]), steps=60)
    plane = slice(bowl, run.params, principal_directions(run), points=3)
    on = project(run, plane)
    assert on.coordinates.shape == (61, 2)
    np.testing.assert_allclose(on.share, plane.directions.values.sum(), rtol=1e-9)
    assert "a random walk of as many records would have 0.76 of its motion in its own" in on.message
    lost = project(np.where(np.arange(61)[:, None] == 3, np.nan, run.values), plane)
    assert np.isnan(lost.coordinates[3]).all()
    assert np.isfinite(np.delete(lost.coordinates, 3, 0)).all()


@pytest.mark.promotes
def test_several_runs_and_paths_on_one_slice():
    one = lambda key: jf.iterate(jf.optim.gd(0.05), bowl, jax.random.normal(key, (3,)), steps=10)
    runs = jf.ensemble(one, jax.random.split(KEY, 4))
    directions = principal_directions(runs, 3)
    np.testing.assert_allclose(directions.values.sum(), 1, rtol=1e-9)
    plane = slice(bowl, jnp.zeros(3), jax.tree.map(lambda x: x[:2], directions.vectors), 1.0, 3)
    assert project(runs, plane).coordinates.shape == (44, 2)
    path = jf.landscape.interpolate(bowl, jnp.zeros(3), jnp.ones(3), points=5)
    assert project(path, plane).coordinates.shape == (5, 2)


# Bad input.

POINT = {"w": jnp.ones((2, 3))}
PAIR = {"w": jnp.ones((2, 2, 3))}


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: random_directions(POINT, 3), TypeError, "key must be"),
        (
            lambda: random_directions(POINT, KEY, "units"),
            ValueError,
            "normalization must be one of filter, layer",
        ),
        (lambda: random_directions(POINT, KEY, count=0), ValueError, "count must be"),
        (lambda: random_directions(POINT, KEY, filters=3), TypeError, "filters must be a function"),
        (lambda: random_directions(POINT, KEY, filters=lambda *_: (4,)), TypeError, "axes of the leaf"),
        (lambda: random_directions({"w": jnp.ones(2, complex)}, KEY), TypeError, "real"),
        (lambda: principal_directions(jnp.ones((1, 3))), ValueError, "count must be at most 0"),
        (
            lambda: principal_directions({"a": jnp.ones((3, 2)), "b": jnp.ones((2, 2))}),
            ValueError,
            "one length T",
        ),
        (lambda: principal_directions(jnp.ones((5, 3)), 0), ValueError, "count must be"),
        (lambda: between(POINT, POINT), ValueError, "b must differ from a"),
        (
            lambda: between(jnp.zeros(2), jnp.ones(2), 3 * jnp.ones(2)),
            ValueError,
            "c must not lie on the line",
        ),
        (lambda: between(POINT, {"v": jnp.ones((2, 3))}), TypeError, "b must be a pytree like a"),
        (lambda: between(jnp.ones(2), jnp.ones(3)), ValueError, "b must have the shapes of a"),
        (lambda: slice("loss", POINT, PAIR, 1.0), TypeError, "objective must be"),
        (lambda: slice(lambda p: p["w"], POINT, PAIR, 1.0), ValueError, "objective must return a scalar"),
        (lambda: slice(jnp.sum, POINT, PAIR), ValueError, "span must be given"),
        (lambda: slice(jnp.sum, POINT, PAIR, 0.0), ValueError, "span must be a finite number above 0"),
        (lambda: slice(jnp.sum, POINT, PAIR, (1.0, -1.0)), ValueError, "low below high"),
        (lambda: slice(jnp.sum, POINT, PAIR, (1.0, np.inf)), ValueError, "span must be finite"),
        (lambda: slice(jnp.sum, POINT, PAIR, (1.0, 2.0, 3.0)), ValueError, "a number or a pair"),
        (lambda: slice(jnp.sum, POINT, PAIR, [1.0]), ValueError, "one entry for each of 2"),
        (lambda: slice(jnp.sum, POINT, PAIR, "wide"), TypeError, "span must be"),
        (lambda: slice(jnp.sum, POINT, PAIR, 1.0, 1), ValueError, "points must be an integer at least 2"),
        (lambda: slice(jnp.sum, POINT, PAIR, 1.0, (3, 4, 5)), ValueError, "points must be"),
        (lambda: slice(jnp.sum, POINT, {"w": jnp.ones((3, 2, 3))}, 1.0), ValueError, "one or two, got 3"),
        (
            lambda: slice(jnp.sum, POINT, {"w": jnp.ones((2, 2))}, 1.0),
            ValueError,
            "directions must have the shapes",
        ),
        (
            lambda: slice(jnp.sum, POINT, {"v": jnp.ones((2, 2, 3))}, 1.0),
            TypeError,
            "directions must be like",
        ),
        (lambda: project(PAIR, PAIR), TypeError, "slice must be what"),
        (
            lambda: project(jnp.ones((4, 2)), slice(bowl, jnp.ones(3), jnp.eye(3)[:1], 1.0, 3)),
            ValueError,
            "shapes",
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, error, said):
    with pytest.raises(error, match=said) as caught:
        call()
    assert str(caught.value).endswith(".")


def test_what_is_shown():
    found = Directions(jnp.eye(2), "principal", jnp.array([0.9, 0.1]), records=5)
    assert found.labels == ("principal direction 1 (90 %)", "principal direction 2 (10 %)")
    assert "0.9, 0.1 of the variance of 5 records" in repr(found)
    said = []
    jax.make_jaxpr(lambda d: said.append(repr(d)))(found)
    assert said == ["Directions(<traced>)"]
