"""`iterate` against hand-written loops: records, clocks, resuming, transforms, divergence."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow._compiled import programs

pytestmark = pytest.mark.promotes

compilations = lambda: programs()["solve.iteration.iterate"]
optim = jf.optim
H = np.array([1.0, 4.0])
START = jnp.array([1.0, -2.0])
EXAMPLES = np.random.default_rng(0).normal(size=(10, 2))
OBJECTIVE = jf.Objective(lambda w, x: 0.5 * jnp.sum((w[None] - x) ** 2, axis=1), jnp.asarray(EXAMPLES))


def quadratic(x):
    return 0.5 * jnp.sum(jnp.asarray(H, x.dtype) * x**2)


def powers(steps, rate=0.1):
    """Gradient descent on the quadratic, in closed form: (1 - ηh)^k x₀."""
    return (1 - rate * H) ** np.asarray(steps)[:, None] * np.asarray(START)


@pytest.mark.parametrize("optimizer", [optax.adamw(0.01), optax.chain(optax.clip(0.3), optax.sgd(0.1, 0.9))])
def test_it_is_the_hand_written_loop_of_optax(optimizer):
    params, state, expected = START, optimizer.init(START), [START]
    for _ in range(7):
        updates, state = optimizer.update(jax.grad(quadratic)(params), state, params)
        params = optax.apply_updates(params, updates)
        expected.append(params)
    run = jf.iterate(optimizer, quadratic, START, steps=7)
    np.testing.assert_allclose(run.values, np.stack(expected), rtol=1e-14)
    assert (run.params == run.values[-1]).all()
    for ours, theirs in zip(jax.tree.leaves(run.state.optimizer), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    assert int(run.steps) == int(run.evaluations) == int(run.state.step) == 7


@pytest.mark.parametrize(
    ("every", "kept"),
    [
        (1, range(13)),
        (3, [0, 3, 6, 9, 12]),
        (5, [0, 5, 10, 12]),
        (12, [0, 12]),
        (50, [0, 12]),
        (None, [0, 12]),
    ],
)
def test_every_keeps_those_steps_and_the_last(every, kept):
    kept = np.array(kept)
    run = jf.iterate(optim.gd(0.1), quadratic, START, steps=12, every=every)
    np.testing.assert_allclose(run.values, powers(kept), rtol=1e-13)
    assert (np.asarray(run.times) == 0.1 * kept).all()
    assert int(run.steps) == 12
    assert run.message == "reached the last time"


def test_record_chooses_what_is_kept():
    record = lambda x: {"loss": quadratic(x), "first": x[0], "constant": 1.0}
    run = jf.iterate(optim.gd(0.1), quadratic, START, steps=5, every=2, record=record)
    path = powers([0, 2, 4, 5])
    np.testing.assert_allclose(run.values["loss"], 0.5 * path**2 @ H, rtol=1e-13)
    np.testing.assert_allclose(run.values["first"], path[:, 0], rtol=1e-13)
    assert (run.values["constant"] == 1).all()
    np.testing.assert_allclose(run.params, path[-1], rtol=1e-13)


def test_a_scalar_start_is_a_parameter_too():
    run = jf.iterate(optim.gd(0.5), lambda x: 0.5 * x**2, 1, steps=3)
    assert (run.values == 0.5 ** np.arange(4)).all()


def test_the_clock_is_steps_times_the_rate_to_the_last_bit():
    run = jf.iterate(optim.gd(0.1), quadratic, START, steps=1000, every=7)
    kept = np.append(np.arange(0, 1000, 7), 1000)
    assert (np.asarray(run.times) == kept * 0.1).all()


def test_the_clock_of_a_schedule_is_its_running_sum():
    schedule = optim.inverse_sqrt(0.1)
    expected = np.append(0, np.cumsum(0.1 / np.sqrt(np.arange(1, 51))))
    wrapped = optim.lookahead(optim.chain(optax.clip(1.0), optim.gd(schedule)))
    for optimizer in (optim.gd(schedule), wrapped):
        times = jf.iterate(optimizer, quadratic, START, steps=50, every=4).times
        np.testing.assert_allclose(times, expected[np.append(np.arange(0, 50, 4), 50)], rtol=1e-14)


def test_without_a_rate_the_clock_counts_steps_and_time_step_overrides_it():
    times = lambda optimizer, **kw: np.asarray(jf.iterate(optimizer, quadratic, START, steps=3, **kw).times)
    assert (times(optax.sgd(0.1)) == [0, 1, 2, 3]).all()
    assert (times(optim.gd(0.1), time_step=0.5) == [0, 0.5, 1.0, 1.5]).all()
    assert (times(optim.gd(0.1), time_step=lambda k: k + 1.0) == [0, 1, 3, 6]).all()
    both = optim.chain(optim.gd(0.1), optim.gd(0.2))
    with pytest.raises(ValueError, match="2 learning rates; say which one is the clock by time_step="):
        times(both)
    assert (times(both, time_step=0.25) == [0, 0.25, 0.5, 0.75]).all()


ESTIMATORS = {
    "all data": {},
    "batches": {"batch_size": 3, "key": jax.random.key(1)},
    "distinct": {"estimator": jf.solve.without_replacement(3), "key": jax.random.key(1)},
    "epochs": {"estimator": jf.solve.epochs(3), "key": jax.random.key(1)},
    "svag": {"estimator": jf.solve.svag(2, 3.0), "key": jax.random.key(1)},
}


@pytest.mark.parametrize(("estimator", "first"), [*((name, 7) for name in ESTIMATORS), ("epochs", 6)])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(estimator, first):
    """The schedule goes on too; six steps end an epoch of three, seven stop within one."""
    optimizer = optim.momentum(optim.sgdr(0.1, 4), 0.5)
    settings = ESTIMATORS[estimator]
    whole = jf.iterate(optimizer, OBJECTIVE, START, steps=11, **settings)
    begun = jf.iterate(optimizer, OBJECTIVE, START, steps=first, **settings)
    ended = jf.iterate(optimizer, OBJECTIVE, begun.params, steps=11 - first, state=begun.state, **settings)
    assert (np.concatenate([begun.values, ended.values[1:]]) == np.asarray(whole.values)).all()
    np.testing.assert_allclose(np.append(begun.times, ended.times[1:]), whole.times, rtol=1e-14)
    assert int(ended.state.step) == 11
    assert int(ended.steps) == 11 - first


def test_a_traced_number_of_steps_ends_where_a_static_one_does():
    optimizer = optim.momentum(optim.inverse_sqrt(0.1), 0.5)
    settings = {"batch_size": 3, "key": jax.random.key(1), "every": None}
    static = jf.iterate(optimizer, OBJECTIVE, START, steps=9, **settings)
    before = compilations()
    for steps in (9, 5, 3):
        traced = jf.iterate(optimizer, OBJECTIVE, START, steps=jnp.asarray(steps), **settings)
        assert int(traced.steps) == steps
        if steps == 9:
            assert (traced.values == static.values).all()
            np.testing.assert_allclose(traced.times, static.times, rtol=1e-14)
    assert compilations() - before == 1


def test_lanes_of_a_vmap_may_take_different_numbers_of_steps():
    run = lambda steps: jf.iterate(optim.gd(0.1), quadratic, START, steps=steps, every=None)
    lanes = jax.vmap(run)(jnp.array([1, 4, 9]))
    np.testing.assert_allclose(lanes.params, powers([1, 4, 9]), rtol=1e-13)
    np.testing.assert_allclose(lanes.times[:, 1], 0.1 * np.array([1, 4, 9]), rtol=1e-15)
    assert list(lanes.steps) == [1, 4, 9]


def test_divergence_is_reported_at_the_first_record_that_shows_it():
    """x ← x - 3x = (-2)^k overflows when 3·2^(k-1) first passes the largest number, 2^1024: at k = 1024."""
    for every, seen in ((1, 1024), (50, 1050)):
        run = jf.iterate(optim.gd(1.0), lambda x: 1.5 * jnp.sum(x**2), jnp.ones(1), steps=1100, every=every)
        assert bool(run.diverged)
        assert float(run.stopped) == seen
        assert run.message == f"diverged at t = {seen}"
        assert int(run.steps) == 1100
        assert (np.isfinite(run.values[:, 0]) == (np.asarray(run.times) < seen)).all()
    lanes = jax.vmap(lambda rate: jf.iterate(optim.gd(rate), quadratic, START, steps=2000, every=10))
    assert list(lanes(jnp.array([0.1, 1.0])).diverged) == [False, True]


def test_a_gradient_that_becomes_nan_diverges_though_nothing_overflows():
    run = jf.iterate(optim.gd(0.1), lambda x: jnp.sum(jnp.sqrt(x)), jnp.array([0.55]), steps=20)
    assert bool(run.diverged)
    assert np.isfinite(run.values[0]).all()


def test_a_warning_says_when_the_record_is_large():
    big = jax.ShapeDtypeStruct((2**20,), jnp.float64)  # 8 MiB
    run = lambda p, **kw: jf.iterate(optim.gd(0.1), lambda x: jnp.sum(x**2), p, steps=200, **kw)
    with pytest.warns(
        UserWarning, match=r"Recording the parameters 201 times takes 1.6 GiB; keep less by record="
    ):
        jax.eval_shape(run, big)
    jax.eval_shape(lambda p: run(p, every=10), big)  # no warning, which would be an error
    jax.eval_shape(lambda p: run(p, record=jnp.sum), big)


def test_complex_parameters_descend_as_their_real_and_imaginary_parts_do():
    loss = lambda z: jnp.abs(z[0] - 1j * z[1]) ** 2 + 0.5 * jnp.real(z[1]) ** 2 + jnp.abs(z[0] - 1) ** 2
    pair = lambda x: loss(x[:, 0] + 1j * x[:, 1])
    start = jnp.array([[0.5, -1.0], [2.0, 0.3]])
    for optimizer in (optim.gd(0.1), optim.momentum(0.05, 0.9)):
        real = jf.iterate(optimizer, pair, start, steps=20).values
        ours = jf.iterate(optimizer, loss, start[:, 0] + 1j * start[:, 1], steps=20).values
        np.testing.assert_allclose(ours, real[..., 0] + 1j * real[..., 1], rtol=1e-12)


def test_update_is_handed_value_gradient_and_both_functions():
    """An optimizer made of those alone: half of the mini-batch gradient here and half of it at 0."""

    def update(updates, state, params=None, *, value, grad, value_fn, grad_fn):
        away = jax.tree.map(jnp.zeros_like, params)
        mixed = jax.tree.map(lambda g, a: -0.05 * (g + a), grad, grad_fn(away))
        return mixed, state + value - value_fn(away)

    own = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    run = jf.iterate(own, quadratic, START, steps=6)
    np.testing.assert_allclose(run.values, powers(range(7), 0.05), rtol=1e-13)
    losses = 0.5 * powers(range(6), 0.05) ** 2 @ H
    np.testing.assert_allclose(run.state.optimizer, losses.sum(), rtol=1e-13)


def test_it_goes_through_jit_vmap_and_grad():
    """d/dη of (1 - ηh)^k x₀ is -kh (1 - ηh)^(k-1) x₀."""
    final = lambda rate, x: jf.iterate(optim.gd(rate), quadratic, x, steps=5).params
    np.testing.assert_allclose(jax.jit(final)(0.1, START), powers([5])[0], rtol=1e-13)
    rates = jnp.array([0.1, 0.2])
    both = jax.vmap(final, (0, None))(rates, START)
    np.testing.assert_allclose(both, np.concatenate([powers([5], 0.1), powers([5], 0.2)]), rtol=1e-13)
    slope = -5 * H * (1 - 0.1 * H) ** 4 * np.asarray(START)
    for jacobian in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jacobian(final)(0.1, START), slope, rtol=1e-12)
    by_start = jax.jacrev(final, 1)(0.1, START)
    np.testing.assert_allclose(by_start, np.diag((1 - 0.1 * H) ** 5), rtol=1e-12)


def test_other_numbers_data_keys_and_equal_shapes_compile_nothing():
    losses = lambda w, x: 0.5 * jnp.sum((w[None] - x) ** 2, axis=1)
    before = compilations()
    for seed in range(3):
        data = jnp.asarray(EXAMPLES + seed)
        settings = {"steps": 4, "batch_size": 2, "key": jax.random.key(seed)}
        jf.iterate(optim.adam(0.1 * seed), jf.Objective(losses, data), START + seed, **settings)
    assert compilations() - before == 1


@pytest.mark.promotes
def test_a_clock_of_many_steps_in_single_precision():
    """A million steps of .1 under a schedule: summed naively they end at 100958.34."""
    tenth = jnp.float32(0.1)
    state = jf.iterate(jf.optim.gd(0.1), lambda x: jnp.sum(x), jnp.ones(1, jnp.float32), steps=1).state
    state = state._replace(time=jnp.float32(0), step=jnp.asarray(0, jnp.int32))
    for steps in (jnp.asarray(1_000_000), 1_000_000):
        run = jf.iterate(
            jf.optim.gd(0.1), lambda x: jnp.sum(x), jnp.ones(1, jnp.float32),
            steps=steps, every=None, time_step=jf.optim.constant(tenth), state=state,
        )  # fmt: skip
        assert run.times.dtype == jnp.float32
        assert abs(float(run.times[-1]) - 1e6 * float(tenth)) <= 4 * 2.0**-7  # units in the last place
