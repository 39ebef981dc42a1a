"""Bands between minima against an independent NumPy band, and saddles that are known to all digits."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from sample_losses import TURN, A, B, at, ring, valley

import jaxflow as jf
from jaxflow.landscape import band_field, curve, fire, interpolate, neb
from jaxflow.landscape.paths.band_forces import Band, pull_on

pytestmark = pytest.mark.promotes

MB = jf.problems.muller_brown()
KEY = jax.random.key(0)
SLOPE = jax.jit(jax.vmap(jax.grad(MB.objective)))
VALUE = jax.jit(jax.vmap(MB.objective))


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
    assert np.asarray(path.params)[4, 1] < -0.9  # on the lower half
    again = neb(ring, *ends, start=path, tolerance=1e-8)
    assert again.evaluations <= 9 + 7 + 7


def test_folds_come_undone():
    """A path that turns back on itself has no force across it: there an image feels all of its forces."""
    images = jnp.array([[0.0, 0.0], [1.0, 0.5], [0.0, 0.0]])
    band = Band(images, jnp.array([0.0, 0.5, 1.0]), jnp.asarray(3), jnp.zeros(2))
    value_and_grad = jax.value_and_grad(lambda x: 0.5 * x @ x)
    pull = jax.jit(lambda band, spring: pull_on(value_and_grad, band, spring, None))(band, 3.0)
    np.testing.assert_allclose(pull.slope, 7 * np.asarray(images)[1:2], rtol=1e-12)
    line = interpolate(valley, A, B, points=8)
    order = np.array([0, 2, 4, 3, 2, 5, 6, 7])
    folded = dataclasses.replace(line, params=jax.tree.map(lambda x: np.asarray(x)[order], line.params))
    path = neb(valley, A, B, start=folded, tolerance=1e-6)
    np.testing.assert_allclose(path.saddle, 1, rtol=1e-9)
    assert path.arclength[-1] < 1.4 * line.arclength[-1]


def test_fire_minimises_at_any_first_step():
    bowl = lambda x: 0.5 * (x[0] ** 2 + 400 * x[1] ** 2)
    for first in (1e-4, 0.03, 10.0):
        run = jf.iterate(fire(first), bowl, jnp.ones(2), steps=600, every=None)
        assert np.abs(run.params).max() < 1e-7


def test_a_band_as_a_flow_and_by_any_optimizer_rests_where_neb_does():
    """In integrate, on the clock of gradient flow; what falls on the way are the forces, not a loss."""
    inner = lambda path: jax.tree.map(lambda x: np.asarray(x)[1:-1], path.params)
    line, rest = interpolate(valley, A, B, points=7), neb(valley, A, B, points=7, spring=8.0)
    field = band_field(valley, A, B, spring=8.0)
    run = jf.integrate(jf.dynamics.gradient_flow(field), inner(line), jnp.array([0.0, 1.0, 12.0]), rtol=1e-8)
    stepped = jf.iterate(jf.optim.gd(0.01), field, inner(line), steps=3000, every=None).params
    for found in (run.params, stepped):
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), found, inner(rest))
    of_all = jax.jit(jax.vmap(lambda path: field(path)))(run.values)
    forces = np.concatenate([np.reshape(x, (3, -1)) for x in jax.tree.leaves(of_all)], 1)
    assert np.abs(forces[0]).max() > 1 > 0.1 > np.abs(forces[1]).max()
    assert np.abs(forces[2]).max() < 1e-6
    still = band_field(valley, A, B, spring=8.0, climb=False)
    settled = jf.iterate(jf.optim.gd(0.01), still, inner(line), steps=3000, every=None).params
    without = neb(valley, A, B, points=7, spring=8.0, climb=False)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), settled, inner(without))


def test_fire_goes_on_after_a_force_has_jumped():
    """As it does where another image becomes the highest: a change over a tiny step is no curvature of 1e9."""
    scales = jnp.array([1.0, 10.0])
    bowl = jf.VectorField(lambda x, middle: scales * (x - middle), (jnp.zeros(2),))
    near = jf.iterate(fire(0.1), bowl, jnp.ones(2), steps=150, every=None)
    assert np.abs(near.params).max() < 1e-8
    moved = dataclasses.replace(bowl, data=(jnp.ones(2),))
    there = jf.iterate(fire(0.1), moved, near.params, steps=150, every=None, state=near.state)
    np.testing.assert_allclose(there.params, 1, atol=1e-6)
