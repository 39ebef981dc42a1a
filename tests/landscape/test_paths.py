"""Lines, curves and trees between minima against closed forms, and what is refused of all paths."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_losses import A, B, ring, valley

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.dynamics.penalty import penalized
from jaxflow.landscape import (
    Path,
    SpanningTree,
    band_field,
    connect,
    curve,
    fire,
    interpolate,
    neb,
    path_through,
    refine,
)

pytestmark = pytest.mark.promotes

MB = jf.problems.muller_brown()
KEY = jax.random.key(0)


def test_a_straight_line_against_numpy():
    quartic = lambda x: jnp.sum(x**4 - x**2) + x[0]
    a, b = np.array([-1.0, 0.5]), np.array([0.7, -0.2])
    path = interpolate(quartic, jnp.array(a), jnp.array(b), points=21)
    t = np.linspace(0, 1, 21)[:, None]
    line = (1 - t) * a + t * b
    values = np.sum(line**4 - line**2, 1) + line[:, 0]
    chord = (1 - t[:, 0]) * values[0] + t[:, 0] * values[-1]
    np.testing.assert_allclose(path.params, line, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(path.losses, values, rtol=1e-13)
    np.testing.assert_allclose(path.arclength, t[:, 0] * np.linalg.norm(b - a), rtol=1e-13)
    np.testing.assert_allclose(path.barrier, np.max(values - chord), rtol=1e-12)
    np.testing.assert_allclose(path.saddle, values.max())
    np.testing.assert_allclose(path.above_higher, values.max() - max(values[0], values[-1]), atol=1e-15)
    np.testing.assert_allclose(path.above_lower, values.max() - min(values[0], values[-1]))
    slope = lambda x: np.linalg.norm(4 * x**3 - 2 * x + np.array([1.0, 0.0]))
    np.testing.assert_allclose(path.gradients, [slope(a), slope(b)])
    assert (path.params[0] == a).all()
    assert (path.params[-1] == b).all()
    assert f"gradient norms at the ends {slope(a):.3g} and {slope(b):.3g}" in path.message


def test_barriers_in_closed_form():
    """(x² − 1)² from −1 to 1 has the barrier 1; a convex loss has none; refining keeps the points."""
    double = lambda x: (x**2 - 1) ** 2
    path = interpolate(double, -1.0, 1.0, points=4)
    np.testing.assert_allclose(path.barrier, (1 / 9 - 1) ** 2)
    dense = refine(double, path, 2)
    assert len(dense) == 10
    np.testing.assert_allclose(dense.params[::3], path.params, atol=1e-15)
    np.testing.assert_allclose(refine(double, path, 5).barrier, 1)
    assert interpolate(lambda x: x**2, -1.0, 3.0).barrier == 0
    assert interpolate(double, 1.0, 1.0).barrier == 0  # a path of length 0


@pytest.mark.parametrize("kind", ["bezier", "polychain"])
@pytest.mark.parametrize("draws", [1, 4])
def test_a_curve_has_the_shape_of_its_bends(kind, draws):
    """A linear loss has the bend's gradient w(t) c: after plain descent the bend is known from the t drawn alone."""
    c, a, b = jnp.array([1.0, -2.0]), jnp.zeros(2), jnp.ones(2)
    path = curve(
        lambda x: c @ x,
        a,
        b,
        key=KEY,
        kind=kind,
        draws=draws,
        optimizer=jf.optim.gd(0.1),
        steps=400,
        points=5,
    )
    middle = np.asarray(path.params[2])
    bend = 2 * middle - 0.5 if kind == "bezier" else middle  # φ(½) = (a + b)/4 + θ/2
    weight = 1 / 3 if kind == "bezier" else 0.5  # E 2t(1 − t), E (1 − |2t − 1|)
    moved = (0.5 - bend) / np.asarray(c) / 0.1 / 400
    # Standard deviations of a draw .149 and .289: five of those of the mean of 400.
    np.testing.assert_allclose(moved, weight, atol=5 * 0.29 / 20)
    t = np.linspace(0, 1, 5)[:, None]
    shape = (
        2 * t * (1 - t) * bend + t**2
        if kind == "bezier"
        else np.where(t < 0.5, 2 * t * bend, bend + (2 * t - 1) * (1 - bend))
    )
    np.testing.assert_allclose(path.params, shape, atol=1e-12)
    assert path.evaluations == 400 * draws + 7


def test_curves_go_round_a_ring():
    """A quarter of a circle: through its middle by one bend a parabola has a loss of 1e-3 at most."""
    ends = jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])
    free = partial(ring, tilt=0.0)
    for bends, most in ((1, 0.002), (3, 0.0002)):
        path = curve(free, *ends, key=KEY, bends=bends, draws=4, optimizer=jf.optim.adam(0.03), steps=800)
        assert path.barrier < most
    np.testing.assert_allclose(interpolate(free, *ends).barrier, 0.25)


@jax.jit
def scores_of(problem, params):
    return jax.vmap(problem.score)(params)


def tiny(seed):
    problem = jf.problems.mlp("iris", hidden=(4,), key=jax.random.key(seed))
    return problem, jf.iterate(jf.optim.adam(0.03), problem.objective, problem.params, steps=300, every=None)


def test_a_network_on_mini_batches():
    problem, run = tiny(0)
    other = tiny(1)[1].params
    straight = interpolate(problem.objective, run.params, other)
    bent = curve(problem.objective, run.params, other, key=KEY, batch_size=30, steps=600)
    assert straight.barrier > 0.1
    assert bent.barrier < straight.barrier / 3
    scores = scores_of(problem, bent.params)
    assert scores.shape == (51,)
    band = neb(problem.objective, run.params, other, points=7, max_steps=200, tolerance=1e-3)
    assert band.barrier < straight.barrier / 3


def test_two_networks_on_digits_are_connected():
    """As published for such networks: a line is blocked, a curve and a band are not, and accuracy stays."""
    make = lambda seed: jf.problems.mlp("digits", (32,), key=jax.random.key(seed))
    problem = jax.tree.map(lambda x: np.float32(x) if jnp.issubdtype(x.dtype, jnp.floating) else x, make(0))
    objective = jf.problems.models.networks.compute_by_columns(problem.objective)
    objective = penalized(objective, 1e-3)  # without it a network that fits all has no minimum
    single = lambda params: jax.tree.map(np.float32, params)
    train = lambda seed: jf.iterate(
        jf.optim.momentum(0.1, 0.9), objective, single(make(seed).params), steps=300, every=None
    )
    a, b = train(0).params, train(1).params
    assert interpolate(objective, a, b).barrier > 0.15
    bent = curve(objective, a, b, key=KEY, optimizer=jf.optim.adam(3e-3), steps=700)
    band = refine(objective, neb(objective, a, b, points=17, max_steps=120))
    assert bent.barrier < 0.006
    assert band.barrier < 0.0025
    for path in (bent, band):
        scores = np.asarray(scores_of(problem, path.params))
        assert scores.min() > min(scores[0], scores[-1]) - 0.005


def test_modules_keep_what_is_not_trained():
    make = lambda seed: eqx.nn.MLP(2, "scalar", 3, 1, jnp.tanh, key=jax.random.key(seed))
    x = jax.random.normal(KEY, (10, 2))
    data = jf.Objective(lambda model, x: (jax.vmap(model)(x) - x[:, 0]) ** 2, x)
    loss = eqx.filter_jit(data.__call__)
    a, b = make(0), make(1)
    path = neb(data, a, b, points=4, max_steps=5)
    assert isinstance(path.top, eqx.nn.MLP)
    assert path[1].activation is a.activation
    np.testing.assert_allclose(loss(path[0]), path.losses[0])
    np.testing.assert_allclose(loss(path[3]), loss(b))
    line = interpolate(data, a, b, points=3)
    np.testing.assert_allclose(loss(line[1]), line.losses[1])
    assert np.isfinite(refine(data, line).barrier)
    frozen = interpolate(data, a, b, trainable=lambda name, leaf: "layers/0" in name)
    np.testing.assert_array_equal(frozen[50].layers[1].weight, a.layers[1].weight)


def test_a_tree_over_many_minima():
    problem = jf.problems.himmelblau()
    tree = connect(problem.objective, problem.minima, points=11)
    assert isinstance(tree, SpanningTree)
    heights = [round(float(path.saddle), 2) for path in tree.paths]
    # The lowest three of the four passes; the fourth, of 178.34, is not needed.
    assert heights == [13.31, 67.72, 104.02]
    assert tree.edges.tolist() == [[0, 3], [0, 1], [1, 2]]
    np.testing.assert_allclose(tree.passes[2, 3], tree.paths[2].saddle)
    np.testing.assert_allclose(tree.passes[1, 3], tree.paths[1].saddle)
    lines = connect(problem.objective, problem.minima, path="straight", points=11)
    assert (np.asarray(lines.passes) >= np.asarray(tree.passes) - 1e-9).all()
    curves = connect(
        problem.objective, problem.minima[:2], path="curve", key=KEY, steps=20, optimizer=jf.optim.gd(1e-3)
    )
    assert curves.edges.tolist() == [[0, 1]]


def test_other_numbers_compile_nothing_and_stacks_go_through():
    count = lambda: sum(n for name, n in programs().items() if "paths" in name or "iterat" in name)
    run = lambda scale, k, seed: (
        neb(valley, A, jax.tree.map(lambda x: scale * x, B), points=5, spring=k, max_steps=50),
        interpolate(valley, A, jax.tree.map(lambda x: scale * x, B), points=5),
        curve(valley, A, B, key=jax.random.key(seed), optimizer=jf.optim.gd(scale * 1e-3), steps=10),
    )
    run(1.0, 2.0, 0)
    before = count()
    run(1.1, 3.0, 1)
    assert count() == before
    stack = jax.tree.map(lambda x: np.stack([x, 1.1 * np.asarray(x)]), B)
    many = jax.vmap(lambda b: neb(valley, A, b, points=5, max_steps=200))(stack)
    one = neb(valley, A, B, points=5, max_steps=200)
    np.testing.assert_allclose(many.losses[0], one.losses, rtol=1e-8, atol=1e-20)
    assert "of 2 paths" in many.message
    inside = jax.jit(lambda b: neb(valley, A, b, points=5, insert=2, max_steps=200))(B)
    assert len(inside) == 7  # copies of the end fill it up
    slope = jax.grad(lambda b: interpolate(valley, A, b, points=5).losses.sum())(B)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_lost_images_are_named():
    path = neb(MB.objective, MB.minima[1], MB.minima[2], points=5, optimizer=jf.optim.gd(10.0))
    bad = np.flatnonzero(~np.isfinite(path.losses))
    assert bad.size > 0
    assert ", ".join(map(str, bad)) in path.message
    assert "lost" in repr(path)
    assert np.isnan(path.barrier)
    bent = curve(ring, jnp.zeros(2), jnp.ones(2), key=KEY, optimizer=jf.optim.gd(1e9), steps=9, points=4)
    assert "lost: points 1, 2 of 0 … 3 are not finite" in bent.message
    tree = connect(ring, jnp.eye(2), path="curve", key=KEY, optimizer=jf.optim.gd(1e9), steps=9)
    assert "the paths (0, 1) are lost" in tree.message


ONE = jnp.ones(2)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: interpolate(3.0, ONE, ONE), TypeError, "objective must be"),
        (lambda: interpolate(ring, ONE, {"x": ONE}), TypeError, "b must be a pytree like a"),
        (lambda: interpolate(ring, ONE, jnp.ones(3)), ValueError, "b must have the shapes of a"),
        (lambda: interpolate(ring, ONE, ONE * 1j), TypeError, "b must be a pytree of real"),
        (lambda: interpolate(ring, ONE, ONE, points=2), ValueError, "points must be an integer at least 3"),
        (lambda: refine(ring, ONE), TypeError, "path must be a Path"),
        (lambda: neb(ring, ONE, -ONE, points=2), ValueError, "points must be an integer at least 3"),
        (lambda: neb(ring, ONE, -ONE, points=4.0), TypeError, "points must be"),
        (lambda: neb(ring, ONE, -ONE, spring=-1.0), ValueError, "spring must be"),
        (lambda: neb(ring, ONE, -ONE, tolerance=0.0), ValueError, "tolerance must be"),
        (lambda: neb(ring, ONE, -ONE, insert=-1), ValueError, "insert must be"),
        (lambda: neb(ring, ONE, -ONE, rounds=0), ValueError, "rounds must be"),
        (lambda: neb(ring, ONE, -ONE, max_steps=0), ValueError, "max_steps must be"),
        (lambda: neb(ring, ONE, -ONE, optimizer="adam"), TypeError, "optimizer must be"),
        (lambda: neb(ring, ONE, -ONE, start=ONE), TypeError, "start must be a Path"),
        (
            lambda: neb(ring, ONE, -ONE, start=interpolate(valley, A, B)),
            TypeError,
            "start must be a pytree like a",
        ),
        (lambda: curve(ring, ONE, -ONE, key=KEY, kind="spline"), ValueError, "kind must be one of"),
        (lambda: curve(ring, ONE, -ONE, key=KEY, bends=0), ValueError, "bends must be"),
        (lambda: curve(ring, ONE, -ONE, key=KEY, draws=0), ValueError, "draws must be"),
        (lambda: curve(ring, ONE, -ONE, key=KEY, steps=0), ValueError, "steps must be"),
        (lambda: curve(ring, ONE, -ONE, key=0), TypeError, "key must be"),
        (lambda: curve(ring, ONE, -ONE, key=KEY, batch_size=4), TypeError, "need an Objective"),
        (lambda: connect(ring, jnp.ones(())), ValueError, "minima must be"),
        (lambda: connect(ring, ONE[None]), ValueError, "minima must be"),
        (lambda: connect(ring, jnp.eye(2), path="road"), ValueError, "path must be one of"),
        (lambda: connect(ring, jnp.eye(2), path="curve"), ValueError, "key must be given"),
        (lambda: fire(0.0), ValueError, "step_size must be"),
    ],
)
def test_bad_arguments_are_refused(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


def test_a_path_is_a_pytree():
    path = interpolate(ring, ONE, -ONE, points=3)
    same = jax.tree.unflatten(jax.tree.structure(path), jax.tree.leaves(path))
    assert isinstance(same, Path)
    assert jax.tree.map(lambda x: x, path).message == path.message
    assert "traced" in repr(jax.eval_shape(lambda: path))


def test_a_path_through_the_records_of_a_run():
    run = jf.iterate(jf.optim.gd(0.01), valley, B | {"yz": B["yz"] + 1}, steps=20)
    path = path_through(valley, run.values)
    flat = np.concatenate([run.values["x"], run.values["yz"]], 1)
    np.testing.assert_allclose(path.arclength[-1], np.linalg.norm(np.diff(flat, axis=0), axis=1).sum())
    np.testing.assert_allclose(path.losses, jax.jit(jax.vmap(valley))(run.values), rtol=1e-12)
    assert path.barrier == 0
    for points, error, said in (
        (jnp.ones((1, 2)), ValueError, "n at least 2"),
        ({"a": jnp.ones((3, 2)), "b": jnp.ones(2)}, ValueError, "one n"),
        ({"a": jnp.ones((3, 2), complex)}, TypeError, "real"),
    ):
        with pytest.raises(error, match=said):
            path_through(valley, points)
    with pytest.raises(ValueError, match="spring must be"):
        band_field(valley, A, B, spring=-1.0)
