"""Paths between minima against closed forms, an independent NumPy band, and saddles that are known to all digits."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import jaxflow as jf
from jaxflow._compiled import programs
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
from jaxflow.landscape.paths.band_forces import Band, pull_on

pytestmark = pytest.mark.promotes

MB = jf.problems.muller_brown()
KEY = jax.random.key(0)
TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]


def valley(params, bend=0.5, stiff=50.0):
    """Two minima at x = ±1 and a saddle of height 1 at x = 0, in the bent valley y = bend·(1 − x²), z = 0, turned."""
    x, y, z = jnp.asarray(TURN, params["x"].dtype) @ jnp.concatenate([params["x"], params["yz"]])
    return (x**2 - 1) ** 2 + stiff / 2 * ((y - bend * (1 - x**2)) ** 2 + z**2)


def at(x, y, z=0.0):
    """Parameters at a place of the valley."""
    rows = TURN.T @ np.array([x, y, z])
    return {"x": jnp.array(rows[:1]), "yz": jnp.array(rows[1:])}


def ring(x, tilt=0.1):
    """A circular valley, whose lower half is lower."""
    return (jnp.sum(x**2) - 1) ** 2 + tilt * x[1]


A, B = at(-1, 0), at(1, 0)


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


def numpy_band(spring, points, steps, rate):
    """The band in the plane of the Müller–Brown surface by plain descent, image by image, without climbing."""
    slope = lambda x: np.asarray(SLOPE(jnp.asarray(x)))
    x = np.linspace(MB.minima[1], MB.minima[2], points)
    for _ in range(steps):
        values, g, force = np.asarray(VALUE(jnp.asarray(x))), slope(x), np.zeros_like(x)
        for i in range(1, points - 1):
            forth, back = x[i + 1] - x[i], x[i] - x[i - 1]
            after, before = values[i + 1], values[i - 1]
            if after > values[i] > before:
                tangent = forth
            elif after < values[i] < before:
                tangent = back
            else:
                most = max(abs(after - values[i]), abs(before - values[i]))
                least = min(abs(after - values[i]), abs(before - values[i]))
                tangent = most * forth + least * back if after > before else least * forth + most * back
            tangent = tangent / np.linalg.norm(tangent)
            stretch = spring * (np.linalg.norm(forth) - np.linalg.norm(back))
            force[i] = -(g[i] - (g[i] @ tangent) * tangent) + stretch * tangent
        x = x + rate * force
    return x


SLOPE = jax.jit(jax.vmap(jax.grad(MB.objective)))
VALUE = jax.jit(jax.vmap(MB.objective))


def test_steps_of_a_band_are_those_of_a_loop_over_its_images():
    gd = jf.optim.gd(2e-4)
    path = neb(
        MB.objective,
        MB.minima[1],
        MB.minima[2],
        points=7,
        optimizer=gd,
        spring=100.0,
        climb=False,
        max_steps=40,
    )
    np.testing.assert_allclose(path.params, numpy_band(100.0, 7, 40, 2e-4), rtol=1e-11)
    assert "ran out of steps" in path.message


@pytest.mark.parametrize(("pair", "saddle"), [((0, 1), 1), ((1, 2), 0)])
def test_both_saddles_of_muller_brown(pair, saddle):
    """Both to all digits, in fewer evaluations than ASE's improved tangent with a climbing image: 2,179."""
    place = [[0.212486582001, 0.292988325107], [-0.822001558733, 0.624312802815]][saddle]
    height = [-72.248940112325, -40.664843508657][saddle]
    path = neb(MB.objective, *(MB.minima[i] for i in pair))
    np.testing.assert_allclose(path.top, place, atol=1e-9)
    assert abs(path.saddle - height) < 1e-12
    assert path.status == 1
    assert path.evaluations < 2179
    loose = neb(MB.objective, *(MB.minima[i] for i in pair), tolerance=0.01)
    assert abs(loose.saddle - height) < 1e-6
    assert loose.evaluations / 7 < 250


def test_a_bent_valley_of_any_pytree():
    path = neb(valley, A, B, points=7)
    np.testing.assert_allclose(path.saddle, 1, rtol=1e-12)
    np.testing.assert_allclose(path.barrier, 1, rtol=1e-12)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-8), path.top, at(0, 0.5))
    assert path.params["yz"].shape == (7, 2)
    straight = interpolate(valley, A, B)
    assert straight.barrier > 5  # 1 + 50/8 at the middle


def test_images_between_climb_and_stay_evenly_spaced():
    path = neb(valley, A, B, points=9)
    side = np.diff(path.arclength)[:4]
    np.testing.assert_allclose(side, side.mean(), rtol=0.2)
    without = neb(valley, A, B, points=8, climb=False)
    assert without.saddle < 0.99  # an even number of images straddles the saddle


def test_dense_bands_converge_to_the_path():
    """Its length tends to that of the flow down from the saddle, by SciPy's solver.

    The order is at least that of the tangents, 1, as they are taken from one side.
    """

    def down(t, state):
        x, y, _ = state
        off = y - 0.5 * (1 - x**2)
        slope = np.array([4 * x * (x**2 - 1) + 50 * off * x, 50 * off])
        return [*-slope, np.linalg.norm(slope)]

    # From the saddle along its unstable direction, which is across to y by symmetry.
    flow = scipy.integrate.solve_ivp(down, (0, 12), [1e-5, 0.5, 1e-5], method="LSODA", rtol=1e-9, atol=1e-12)
    length, off = 2 * flow.y[2, -1], []
    for points in (9, 17, 33):
        path = neb(valley, A, B, points=points, tolerance=1e-5)
        off.append(length - float(path.arclength[-1]))
        z = TURN @ np.concatenate([path.params["x"], path.params["yz"]], 1).T
        assert abs(z[2]).max() < 1e-6
    slopes = np.log2(np.array(off[:-1]) / np.array(off[1:]))
    assert (slopes > 1).all(), (off, slopes)


def test_images_are_added_where_the_path_is_high():
    sharp = lambda x: jnp.exp(-100 * (x[0] - 0.35) ** 2) + 0.1 * (x[0] ** 2 - 1) ** 2 + x[1] ** 2
    ends = jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.0])
    few = neb(sharp, *ends, points=5, climb=False)
    more = neb(sharp, *ends, points=5, climb=False, insert=4, rounds=4)
    places = np.asarray(more.params[:, 0])
    added = places[abs(places[:, None] - few.params[:, 0][None]).min(1) > 1e-3]
    assert 7 <= len(more) <= 9
    assert len(added) >= 2
    assert (abs(added - 0.35) < 0.35).all()
    assert few.saddle < 0.9 < more.saddle
    flat = neb(lambda x: 0.0 * x.sum(), *ends, points=4, insert=3)  # equal losses are no reason, and no NaN
    assert len(flat) == 4
    assert flat.barrier == 0


@pytest.mark.parametrize(
    "optimizer", [jf.optim.momentum(0.01, 0.8), jf.optim.adam(0.02), jf.optim.nesterov(0.01)]
)
def test_other_optimizers_relax_a_band(optimizer):
    path = neb(valley, A, B, points=5, optimizer=optimizer, max_steps=1500, tolerance=1e-5)
    np.testing.assert_allclose(path.saddle, 1, atol=1e-6)


def test_a_band_goes_on_from_a_path():
    ends = jnp.array([-1.0, -0.05]), jnp.array([1.0, -0.05])
    start = curve(ring, *ends, key=KEY, optimizer=jf.optim.gd(0.1), steps=300, points=9)
    path = neb(ring, *ends, start=start, tolerance=1e-8)
    assert len(path) == 9
    assert path.params[4, 1] < -0.9  # on the lower half
    again = neb(ring, *ends, start=path, tolerance=1e-8)
    assert again.evaluations <= 9 + 7 + 7


def test_folds_come_undone():
    """A path that turns back on itself has no force across it: there an image feels all of its forces."""
    images = jnp.array([[0.0, 0.0], [1.0, 0.5], [0.0, 0.0]])
    band = Band(images, jnp.array([0.0, 0.5, 1.0]), jnp.asarray(3), jnp.zeros(2))
    pull = pull_on(jax.value_and_grad(lambda x: 0.5 * x @ x), band, jnp.asarray(3.0), None)
    np.testing.assert_allclose(pull.slope, images[1:2] + 2 * 3.0 * images[1:2], rtol=1e-12)
    line = interpolate(valley, A, B, points=8)
    order = jnp.array([0, 2, 4, 3, 2, 5, 6, 7])
    folded = dataclasses.replace(line, params=jax.tree.map(lambda x: x[order], line.params))
    path = neb(valley, A, B, start=folded, tolerance=1e-6)
    np.testing.assert_allclose(path.saddle, 1, rtol=1e-9)
    assert path.arclength[-1] < 1.4 * line.arclength[-1]


def test_fire_minimises_at_any_first_step():
    bowl = lambda x: 0.5 * (x[0] ** 2 + 400 * x[1] ** 2)
    for first in (1e-4, 0.03, 10.0):
        run = jf.iterate(fire(first), bowl, jnp.ones(2), steps=600, every=None)
        assert abs(run.params).max() < 1e-7


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
    scores = jax.vmap(problem.score)(bent.params)
    assert scores.shape == (51,)
    band = neb(problem.objective, run.params, other, points=7, max_steps=200, tolerance=1e-3)
    assert band.barrier < straight.barrier / 3


class Decayed:
    """Losses with a penalty, without which a network that fits all has no minimum; one object compiles once."""

    def __init__(self, losses):
        self.losses = losses

    def __call__(self, params, batch):
        return self.losses(params, batch) + 5e-4 * sum(jnp.sum(x**2) for x in jax.tree.leaves(params))


def test_two_networks_on_digits_are_connected():
    """As published for such networks: a line is blocked, a curve and a band are not, and accuracy stays."""
    make = lambda seed: jf.problems.mlp("digits", (32,), key=jax.random.key(seed))
    problem = jax.tree.map(
        lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, make(0)
    )
    objective = jf.problems.models.networks.compute_by_columns(problem.objective)
    objective = dataclasses.replace(objective, losses=Decayed(objective.losses))
    single = lambda params: jax.tree.map(lambda x: x.astype(jnp.float32), params)
    train = lambda seed: jf.iterate(
        jf.optim.momentum(0.1, 0.9), objective, single(make(seed).params), steps=1000, every=None
    )
    a, b = train(0).params, train(1).params
    assert interpolate(objective, a, b).barrier > 0.15
    bent = curve(objective, a, b, key=KEY, optimizer=jf.optim.adam(3e-3), steps=2000)
    band = refine(objective, neb(objective, a, b, points=17, max_steps=200))
    assert bent.barrier < 0.006
    assert band.barrier < 0.0025
    for path in (bent, band):
        scores = jax.vmap(problem.score)(path.params)
        assert scores.min() > jnp.minimum(scores[0], scores[-1]) - 0.005


def test_modules_keep_what_is_not_trained():
    make = lambda seed: eqx.nn.MLP(2, "scalar", 3, 1, jnp.tanh, key=jax.random.key(seed))
    x = jax.random.normal(KEY, (10, 2))
    data = jf.Objective(lambda model, x: (jax.vmap(model)(x) - x[:, 0]) ** 2, x)
    a, b = make(0), make(1)
    path = neb(data, a, b, points=4, max_steps=5)
    assert isinstance(path.top, eqx.nn.MLP)
    assert path[1].activation is a.activation
    np.testing.assert_allclose(data(path[0]), path.losses[0])
    np.testing.assert_allclose(data(path[3]), data(b))
    line = interpolate(data, a, b, points=3)
    np.testing.assert_allclose(data(line[1]), line.losses[1])
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
    assert (lines.passes >= tree.passes - 1e-9).all()
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
    stack = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x]), B)
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


def test_a_band_as_a_flow_and_by_any_optimizer_rests_where_neb_does():
    """In integrate, on the clock of gradient flow; what falls on the way are the forces, not a loss."""
    inner = lambda path: jax.tree.map(lambda x: x[1:-1], path.params)
    line, rest = interpolate(valley, A, B, points=7), neb(valley, A, B, points=7, spring=8.0)
    field = band_field(valley, A, B, spring=8.0)
    run = jf.integrate(jf.dynamics.gradient_flow(field), inner(line), jnp.array([0.0, 1.0, 12.0]), rtol=1e-8)
    stepped = jf.iterate(jf.optim.gd(0.01), field, inner(line), steps=3000, every=None).params
    for found in (run.params, stepped):
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), found, inner(rest))
    forces = [
        np.concatenate(
            [x.ravel() for x in jax.tree.leaves(field(jax.tree.map(lambda x, t=t: x[t], run.values)))]
        )
        for t in range(3)
    ]
    assert np.abs(forces[0]).max() > 1 > 0.1 > np.abs(forces[1]).max()
    assert np.abs(forces[2]).max() < 1e-6
    still = band_field(valley, A, B, spring=8.0, climb=False)
    settled = jf.iterate(jf.optim.gd(0.01), still, inner(line), steps=3000, every=None).params
    without = neb(valley, A, B, points=7, spring=8.0, climb=False)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), settled, inner(without))


def test_a_path_through_the_records_of_a_run():
    run = jf.iterate(jf.optim.gd(0.01), valley, B | {"yz": B["yz"] + 1}, steps=20)
    path = path_through(valley, run.values)
    flat = np.concatenate([run.values["x"], run.values["yz"]], 1)
    np.testing.assert_allclose(path.arclength[-1], np.linalg.norm(np.diff(flat, axis=0), axis=1).sum())
    np.testing.assert_allclose(path.losses, jax.vmap(valley)(run.values), rtol=1e-12)
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


def test_fire_goes_on_after_a_force_has_jumped():
    """As it does where another image becomes the highest: a change over a tiny step is no curvature of 1e9."""
    scales = jnp.array([1.0, 10.0])
    bowl = jf.VectorField(lambda x, middle: scales * (x - middle), (jnp.zeros(2),))
    near = jf.iterate(fire(0.1), bowl, jnp.ones(2), steps=150, every=None)
    assert np.abs(near.params).max() < 1e-8
    moved = dataclasses.replace(bowl, data=(jnp.ones(2),))
    there = jf.iterate(fire(0.1), moved, near.params, steps=150, every=None, state=near.state)
    np.testing.assert_allclose(there.params, 1, atol=1e-6)
