"""Mini-batches of a traced size: the run of `with_replacement`, at any size of one program.

The loss ⟨w, x⟩ has the example itself as its gradient, so that one step of descent at rate 1 shows the mean
of the batch. Statistics are compared at z = 6.5 standard errors (two-sided 8e-11); there are fewer than 500
of them, so that a false alarm has probability below 1e-7.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow._compiled import programs

pytestmark = pytest.mark.promotes

compilations = lambda: programs()["solve.iteration.iterate"]

Z = 6.5
DRAWS = 20_000
N, LARGEST = 7, 8
SIZES = (1, 3, 8)
X = np.random.default_rng(0).normal(size=(N, 3)) * [1, 2, 0.5] + [1, 0, -1]
SIGMA = np.cov(X.T, bias=True)
LINEAR = jf.Objective(lambda w, x: x @ w, jnp.asarray(X))
QUADRATIC = jf.Objective(lambda w, x: 0.5 * jnp.sum((w[None] - x) ** 2, axis=1), jnp.asarray(X))
WELLS = jf.Objective(lambda w, x: jnp.sum(jnp.cosh(w[None] - x), axis=1), jnp.asarray(X))


def masked(size, key, objective=WELLS, steps=20, rate=0.05, **kwargs):
    optimizer = jf.optim.momentum(rate, 0.5)
    estimator = jf.solve.masked_draws(size, LARGEST)
    return jf.iterate(optimizer, objective, jnp.zeros(3), steps=steps, estimator=estimator, key=key, **kwargs)


def static(size, key, objective=WELLS, steps=20, rate=0.05):
    optimizer = jf.optim.momentum(rate, 0.5)
    return jf.iterate(optimizer, objective, jnp.zeros(3), steps=steps, batch_size=size, key=key)


@pytest.mark.parametrize("size", [2, 7, 1000, 2**31 - 1])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_a_longer_draw_begins_with_a_shorter_one(size, dtype):
    """What the agreement with `with_replacement` rests on."""
    for seed in range(5):
        key = jax.random.fold_in(jax.random.key(seed), seed)
        longest = jax.random.randint(key, (257,), 0, size, dtype)
        for count in (1, 2, 7, 32, 256):
            shorter = jax.random.randint(key, (count,), 0, size, dtype)
            np.testing.assert_array_equal(shorter, np.asarray(longest)[:count])


@pytest.mark.parametrize(
    "kind", [int, float, np.int64, np.float32, jnp.int32, jnp.uint8, jnp.float32, jnp.float64]
)
def test_it_is_the_run_with_replacement_whatever_type_the_size_has(kind):
    key = jax.random.key(1)
    for size in SIZES:
        expected = static(size, key).values
        np.testing.assert_allclose(masked(kind(size), key).values, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [int, float])
def test_lanes_over_sizes_are_the_runs_with_replacement(dtype):
    keys = jax.random.split(jax.random.key(2), 4)
    run = lambda size: jax.vmap(lambda key: masked(size, key))(keys)
    lanes = jax.vmap(run)(jnp.array(SIZES, dtype))
    assert lanes.values.shape == (3, 4, 21, 3)
    for lane, size in zip(lanes.values, SIZES, strict=True):
        expected = jnp.stack([static(size, key).values for key in keys])
        np.testing.assert_allclose(lane, expected, rtol=1e-12, atol=1e-12)


def test_all_sizes_are_one_compilation():
    key = jax.random.key(0)
    before = compilations()
    for size in (1, 2, 5, 8.0):
        masked(size, key, steps=3)
    assert compilations() == before + 1
    lanes = jax.jit(jax.vmap(lambda size: masked(size, key, steps=3).params))
    lanes(jnp.array([1, 2]))
    lanes(jnp.array([8, 3]))
    assert lanes._cache_size() == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mean_and_covariance_are_exact_and_steps_independent(seed):
    keys = jax.random.split(jax.random.key(seed), DRAWS)

    def gradients(size, key):
        estimator = jf.solve.masked_draws(size, LARGEST)
        return jf.iterate(
            jf.optim.gd(1.0), LINEAR, jnp.zeros(3), steps=2, estimator=estimator, key=key
        ).values

    values = jax.vmap(lambda size: jax.vmap(lambda key: gradients(size, key))(keys))(jnp.array(SIZES))
    for size, lane in zip(SIZES, np.asarray(values), strict=True):
        noise = -np.diff(lane, axis=1) - X.mean(axis=0)
        outer = noise[:, :, :, None] * noise[:, :, None, :]
        across = noise[:, 0, :, None] * noise[:, 1, None, :]
        for samples, expected in ((noise, 0), (outer, SIGMA / size), (across, 0)):
            error = samples.std(axis=0) / np.sqrt(DRAWS)
            assert (np.abs(samples.mean(axis=0) - expected) < Z * error).all()


def test_hypergradients_pass_through_it_and_not_through_the_size():
    """Against the recursion of w ← w − η(w − c̄) and of its derivative in η, in NumPy."""
    key, steps, rate = jax.random.key(5), 12, 0.3

    def final(rate, size):
        estimator = jf.solve.masked_draws(size, LARGEST)
        run = jf.iterate(
            jf.optim.gd(rate), QUADRATIC, jnp.zeros(3), steps=steps, estimator=estimator, key=key
        )
        return run.params.sum()

    slopes = jax.vmap(jax.grad(final), in_axes=(None, 0))(rate, jnp.array(SIZES))
    for size, slope in zip(SIZES, slopes, strict=True):
        w = dw = np.zeros(3)
        for k in range(steps):
            indices = jax.random.randint(jax.random.fold_in(key, k), (size,), 0, N)
            mean = X[np.asarray(indices)].mean(axis=0)
            w, dw = w - rate * (w - mean), (1 - rate) * dw - (w - mean)
        np.testing.assert_allclose(slope, dw.sum(), rtol=1e-12)
    assert jax.grad(final, argnums=1)(rate, 3.0) == 0


def test_a_traced_size_that_is_none_shows_as_a_diverged_run():
    sizes = [0.0, -2.0, 0.5, 2.5, 9.0, np.inf, np.nan]
    key = jax.random.key(0)
    lanes = jax.vmap(lambda size: masked(size, key))(jnp.array([*sizes, 3.0]))
    assert np.isnan(lanes.values[:-1, 1:]).all()
    assert (lanes.status[:-1] == jf.solve.trajectories.trajectory.DIVERGED).all()
    np.testing.assert_allclose(lanes.values[-1], static(3, key).values, rtol=1e-12, atol=1e-12)


def test_an_example_outside_the_batch_does_not_touch_it():
    """Weight 0 times an infinite gradient would be NaN."""
    objective = jf.Objective(lambda w, x: w * x, jnp.array([1.0, 2.0, jnp.inf]))
    seen = 0
    for seed in range(20):
        key = jax.random.key(seed)
        drawn = jax.random.randint(jax.random.fold_in(key, 0), (LARGEST,), 0, 3)
        if drawn[0] != 2 and (drawn == 2).any():
            estimator = jf.solve.masked_draws(1, LARGEST)
            run = jf.iterate(jf.optim.gd(1.0), objective, 0.0, steps=1, estimator=estimator, key=key)
            assert run.params == -objective.data[drawn[0]]
            seen += 1
    assert seen > 5


def test_single_precision_stays_so_and_the_size_is_the_only_leaf():
    estimator = jf.solve.masked_draws(3, LARGEST)
    assert jax.tree.leaves(estimator) == [3.0]
    assert jax.tree.leaves(estimator.replace(batch_size=5)) == [5.0]
    assert repr(estimator) == "masked_draws(batch_size=3.0, largest=8)"
    single = jf.Objective(lambda w, x: x @ w, jnp.asarray(X, jnp.float32))
    run = jf.iterate(
        jf.optim.gd(0.1),
        single,
        jnp.zeros(3, jnp.float32),
        steps=2,
        estimator=estimator,
        key=jax.random.key(0),
    )
    assert run.values.dtype == jnp.float32


@pytest.mark.parametrize("size", [0, -1, 9, 2.5, np.int64(9), float("nan"), float("inf")])
def test_a_concrete_size_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match="batch_size must be"):
        jf.solve.masked_draws(size, LARGEST)


@pytest.mark.parametrize("size", [True, "3", None, 3j, lambda step: 3])
def test_a_size_that_is_no_number_is_refused(size):
    with pytest.raises(TypeError, match="batch_size must be"):
        jf.solve.masked_draws(size, LARGEST)


def test_a_stack_of_sizes_and_a_bad_bound_are_refused():
    with pytest.raises(ValueError, match=r"one number, got shape \(2,\)"):
        jf.solve.masked_draws(jnp.array([1, 2]), LARGEST)
    for largest in (0, -3):
        with pytest.raises(ValueError, match="largest must be"):
            jf.solve.masked_draws(1, largest)
    with pytest.raises(TypeError, match="largest must be"):
        jf.solve.masked_draws(1, 8.0)  # type: ignore[arg-type]


def test_it_needs_data_and_a_key():
    estimator = jf.solve.masked_draws(3, LARGEST)
    with pytest.raises(ValueError, match="key must be"):
        jf.iterate(jf.optim.gd(0.1), LINEAR, jnp.zeros(3), steps=1, estimator=estimator)
    with pytest.raises(TypeError, match="Mini-batches need an Objective"):
        jf.iterate(jf.optim.gd(0.1), jnp.sum, jnp.zeros(3), steps=1, estimator=estimator)
