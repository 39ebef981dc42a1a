"""Distances against hand-made ones, orders against known slopes, and how mismatches are refused."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow._compiled import programs

pytestmark = pytest.mark.promotes
RATES = jnp.array([1.0, 3.0])


def loss(x):
    return 0.5 * jnp.sum(RATES * x**2)


def flat_loss(p):
    return 0.0 * sum(map(jnp.sum, jax.tree.leaves(p)))


def made(times, values):
    """A trajectory of given values."""
    run = jf.iterate(jf.optim.gd(1.0), flat_loss, 1.0, steps=1)
    return dataclasses.replace(run, times=jnp.asarray(times), values=values)


def test_distance_relative_final_and_largest_by_hand():
    t = np.array([0.0, 1.0, 2.0])
    a = made(t, {"w": jnp.array([[0.0], [3.0], [3.0]]), "b": jnp.array([0.0, 4.0, 0.0])})
    b = made(t, {"w": jnp.array([[0.0], [0.0], [3.0]]), "b": jnp.array([0.0, 0.0, 1.0])})
    gap = jf.compare(a, b)
    np.testing.assert_allclose(gap.distance, [0, 5, 1])
    np.testing.assert_allclose(gap.relative, [0, 1, 1 / 9])  # the path travelled: 5, then 5 + 4
    assert (gap.final, gap.largest) == (1, 5)
    assert repr(gap) == ("Comparison(distance 1 at t = 2, 11.1 % of the path travelled; largest 5 at t = 1)")


def test_one_entry_of_a_record_by_hand():
    t = np.array([0.0, 1.0, 2.0])
    deep = [{"w": jnp.array([[0.0, 0], [3, 4], [0, 0]])}, {"w": jnp.array([0.0, 0, 5])}]
    a = made(t, {"w": jnp.array([0.0, 3.0, 3.0]), "loss": jnp.array([9.0, 4.0, 1.0]), "deep": deep})
    b = made(t, {"w": jnp.zeros(3), "deep": jax.tree.map(jnp.zeros_like, deep)})
    gap = jf.compare(a, b, entry="w")
    np.testing.assert_allclose(gap.distance, [0, 3, 3])
    np.testing.assert_allclose(gap.relative, [0, 1, 1])
    np.testing.assert_allclose(jf.compare(a, b, entry="deep/0/w").distance, [0, 5, 0])
    np.testing.assert_allclose(jf.compare(a, b, entry="deep/1").distance, [0, 0, 5])
    np.testing.assert_allclose(jf.compare(a, b, entry="deep").distance, [0, 5, 5])
    with pytest.raises(ValueError, match="differ in structure"):
        jf.compare(a, b)


def test_an_entry_of_an_ensemble_and_of_a_record_with_names():
    run = lambda x: jf.iterate(jf.optim.gd(0.1), loss, x, steps=3, record=lambda x: {"loss": loss(x), "x": x})
    starts = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    many, one = jax.vmap(run)(starts), run(jnp.zeros(2))
    gap = jf.compare(many, one, entry="loss")
    way = (1 - 0.1 * np.asarray(RATES)) ** (2 * np.arange(4)[:, None])
    np.testing.assert_allclose(gap.distance, 0.5 * (np.asarray(starts) ** 2 * np.asarray(RATES)) @ way.T)
    sharp = jf.iterate(jf.optim.gd(0.1), loss, starts[0], steps=2, record=jf.curvature.record_sharpness(loss))
    assert jf.compare(sharp, sharp, entry="eigenvalues").final == 0


@pytest.mark.parametrize(
    ("values", "entry", "error", "message"),
    [
        ({"w": jnp.zeros(2), "b": [jnp.ones(2)]}, "v", ValueError, "that a recorded, 'b/0', 'w', got 'v'"),
        ({"w": jnp.zeros(2)}, "", ValueError, "that a recorded, 'w', got ''"),
        (jnp.zeros(2), "w", ValueError, "entry must be left out, as a recorded a single array, got 'w'"),
        (jnp.zeros(2), "", ValueError, "entry must be left out"),
        ({"w": jnp.zeros(2)}, 0, TypeError, "entry must be the name of an entry, .*, got 0"),
    ],
)
def test_an_entry_that_is_not_there_is_refused(values, entry, error, message):
    with pytest.raises(error, match=message):
        jf.compare(made([0.0, 1], values), made([0.0, 1], values), entry=entry)


def test_gradient_descent_leaves_the_flow_by_the_closed_form():
    run = jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(2), steps=20)
    flow = jf.integrate(jf.dynamics.gradient_flow(loss), jnp.ones(2), run.times, rtol=1e-10, atol=1e-10)
    k = np.arange(21)[:, None]
    exact = np.linalg.norm((1 - 0.1 * np.asarray(RATES)) ** k - np.exp(-0.1 * np.asarray(RATES) * k), axis=1)
    np.testing.assert_allclose(jf.compare(run, flow).distance, exact, atol=1e-8)


def test_not_finite_values_are_told_and_do_not_hide_the_rest():
    t = np.arange(4.0)
    gap = jf.compare(made(t, jnp.array([0.0, 1, 2, jnp.nan])), made(t, jnp.array([0.0, 0, 0, 0])))
    assert "not finite from t = 3 on" in repr(gap)
    assert "largest 2 at t = 2" in repr(gap)
    everything = jf.compare(made(t, jnp.full(4, jnp.nan)), made(t, jnp.zeros(4)))
    assert repr(everything) == "Comparison(no finite distance)"


def test_identical_trajectories_have_distance_zero_and_a_finite_derivative():
    run = jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(2), steps=3)
    assert jf.compare(run, run).largest == 0
    shifted = lambda s: jf.compare(run, jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(2) + s, steps=3)).final
    assert np.isfinite(jax.grad(shifted)(0.0))


def test_an_ensemble_is_compared_member_by_member():
    times = jnp.array([0.0, 1.0])
    single = made(times, jnp.array([0.0, 0.0]))
    members = dataclasses.replace(
        jax.tree.map(lambda x: jnp.stack([x] * 3), single),
        values=jnp.array([[0.0, 1.0], [0.0, 2.0], [0.0, jnp.nan]]),
        times=times,
    )
    gap = jf.compare(single, members)
    np.testing.assert_array_equal(gap.distance, [[0, 1], [0, 2], [0, np.nan]])
    np.testing.assert_array_equal(gap.times, times)
    np.testing.assert_array_equal(jf.compare(members, members).final, [0, 0, np.nan])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_times_match_up_to_rounding_of_their_dtype(dtype):
    k = jnp.arange(1001)
    product, summed = (k * 0.1).astype(dtype), jnp.linspace(0, 100, 1001).astype(dtype)
    values = jnp.zeros(1001)
    assert jf.compare(made(product, values), made(summed, values)).largest == 0
    with pytest.raises(ValueError, match=r"differ in their times, first at index \d+: 0\.\d+ against"):
        jf.compare(made(product, values), made(summed * 1.01, values))


@pytest.mark.parametrize(
    ("values", "times", "message"),
    [
        (jnp.zeros(3), [0.0, 1, 2], "number of times: 2 against 3, spanning 0 … 1 and 0 … 2"),
        (jnp.zeros((2, 4)), [0.0, 1], r"differ in shape at the values: \(\) against \(4,\)"),
        ({"w": jnp.zeros(2)}, [0.0, 1], "differ in structure"),
    ],
)
def test_mismatches_are_refused_saying_how(values, times, message):
    with pytest.raises(ValueError, match=message):
        jf.compare(made([0.0, 1], jnp.zeros(2)), made(times, values))


def test_only_trajectories_are_compared():
    with pytest.raises(TypeError, match="b must be a Trajectory, got list"):
        jf.compare(made([0.0, 1], jnp.zeros(2)), [1, 2])


def test_slope_and_uncertainty_are_those_of_ordinary_least_squares():
    from scipy.stats import linregress

    h = np.geomspace(1e-3, 1e-1, 7)
    wiggle = np.exp(0.1 * np.sin(np.arange(7)))
    fit = jf.order_of_accuracy(lambda s: 2 * s**1.5 * jnp.interp(s, h, wiggle), h)
    reference = linregress(np.log(h), np.log(2 * h**1.5 * wiggle))
    np.testing.assert_allclose([fit.slope, fit.intercept], [reference.slope, reference.intercept], rtol=1e-10)
    np.testing.assert_allclose(fit.uncertainty, reference.stderr, rtol=1e-8)


def test_gradient_descent_leaves_the_flow_at_first_order_in_one_compilation():
    objective = jf.problems.rosenbrock().objective
    start = jnp.array([-0.5, 0.5])

    def gap(h):
        run = jf.iterate(jf.optim.gd(h), objective, start, steps=jnp.round(0.5 / h).astype(int), every=None)
        flow = jf.integrate(jf.dynamics.gradient_flow(objective), start, run.times, rtol=1e-10, atol=1e-10)
        return jf.compare(run, flow).final

    before = programs()["solve.iteration.iterate"]
    fit = jf.order_of_accuracy(gap, 0.5 / 2.0 ** jnp.arange(11, 17))
    assert programs()["solve.iteration.iterate"] <= before + 1
    assert abs(fit.slope - 1) <= 0.05
    assert "slope 1.0" in repr(fit)


@pytest.mark.parametrize(
    ("run", "sizes", "message"),
    [
        (lambda h: h, [0.1, 0.2], "at least three"),
        (lambda h: h, [0.1, 0.1, 0.2], "positive and distinct"),
        (lambda h: h, [0.1, -0.1, 0.2], "positive and distinct"),
        (lambda h: jnp.ones(2), [0.1, 0.2, 0.3], "one number for each step size"),
        (
            lambda h: jnp.where(h > 0.15, jnp.nan, h),
            [0.1, 0.2, 0.3],
            "positive finite errors, got .*nan.* 0.2",
        ),
    ],
)
def test_bad_ladders_are_refused(run, sizes, message):
    with pytest.raises(ValueError, match=message):
        jf.order_of_accuracy(run, sizes)


def apart(x, y):
    x, y = jnp.asarray(x), jnp.asarray(y)
    return jf.compare(made(np.arange(float(len(x))), x), made(np.arange(float(len(x))), y))


@pytest.mark.parametrize(
    ("dtype", "x", "y"),
    [
        (np.int32, [1_000_000, 900_000, 810_000], [1_000_000, 800_000, 640_000]),
        (np.int32, [2**31 - 1, -(2**31), 7], [-(2**31), 2**31 - 1, 7]),
        (np.int64, [2**63 - 1, -(2**63), 2**53 + 1], [-(2**63), 2**63 - 1, 2**53]),
        (np.uint8, [0, 3, 255], [255, 250, 1]),
        (np.uint64, [0, 2**64 - 1, 5], [2**64 - 1, 0, 6]),
        (np.float16, [6e4, -6e4, 1e-4], [-6e4, 6e4, 3e-4]),
        (np.float32, [1e30, -1e-30, 3], [-2e30, 1e-30, 4]),
        (np.bool_, [True, False, True], [False, False, True]),
        (np.complex64, [3e30 + 4e30j, 1j, 0], [0, -1j, 0]),
    ],
)
def test_distances_are_those_of_exact_numbers_whatever_the_dtype(dtype, x, y):
    """The distance, and the way travelled, of Python's own numbers."""
    x, y = np.array(x, dtype), np.array(y, dtype)
    plain = (lambda z: [int(v) for v in z]) if x.dtype.kind in "iub" else lambda z: z.tolist()
    exact = np.array([float(abs(a - b)) for a, b in zip(plain(x), plain(y), strict=True)])
    way = np.cumsum([float(abs(b - a)) for a, b in itertools.pairwise(plain(x))])
    gap = apart(x, y)
    rtol = 4e-16 if gap.distance.dtype == jnp.float64 else 3e-7
    np.testing.assert_allclose(gap.distance, exact, rtol=rtol)
    np.testing.assert_allclose(gap.relative[1:], exact[1:] / way, rtol=2 * rtol, atol=1e-40)
    several = apart(np.stack([x, x, x, x], 1), np.stack([y, y, y, y], 1))
    np.testing.assert_allclose(several.distance, 2 * exact, rtol=2 * rtol)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({}, ValueError, "a must hold records of at least one number, got leaves of shape none"),
        (jnp.zeros((2, 0)), ValueError, r"at least one number, got leaves of shape \(2, 0\)"),
        (jax.random.split(jax.random.key(0)), TypeError, r"the record has dtype key<fry>"),
    ],
)
def test_records_that_hold_no_number_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        jf.compare(made([0.0, 1], values), made([0.0, 1], values))


def test_what_is_not_finite_is_nan():
    np.testing.assert_array_equal(apart([0.0, jnp.inf, 1], [0.0, 0, 0]).distance, [0, np.nan, 1])
