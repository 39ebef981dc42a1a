"""The sharpness along runs of every kind, against dense eigenvalues at the parameters that were recorded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.curvature import preconditioner_of, record_sharpness, sharpness_along

pytestmark = pytest.mark.promotes

RNG = np.random.default_rng(0)
DATA = {"x": RNG.normal(size=(8, 3)), "y": RNG.normal(size=(8, 2))}
PARAMS = {"a": RNG.normal(size=(3, 4)), "b": RNG.normal(size=4), "c": RNG.normal(size=(4, 2))}


def losses(params, batch):
    outputs = jnp.tanh(batch["x"] @ params["a"] + params["b"][None]) @ params["c"]
    return 0.5 * jnp.sum((outputs - batch["y"]) ** 2, axis=1)


def keep(params):
    return params


OBJECTIVE = jf.Objective(losses, DATA)
compilations = lambda: programs()["solve.iteration.iterate"]
FLAT, UNRAVEL = ravel_pytree(jax.tree.map(jnp.asarray, PARAMS))
K = 2


@jax.jit
def hessians(path):
    flats = jax.vmap(lambda p: ravel_pytree(p)[0])(path)
    return jax.lax.map(jax.hessian(lambda x: OBJECTIVE(UNRAVEL(x))), flats)


def dense(path, preconditioners=None, k=K):
    """The k leading eigenvalues at each time of a path; (T, k)."""
    matrices = np.asarray(hessians(path))
    diagonals = np.ones(matrices.shape[:2]) if preconditioners is None else preconditioners
    pairs = zip(matrices, diagonals, strict=True)
    return np.stack([scipy.linalg.eigh(h, np.diag(p), eigvals_only=True)[::-1][:k] for h, p in pairs])


def flats(tree):
    """Leaves (T, …) as rows (T, n)."""
    return np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(tree)], axis=1)


def right(record, expected, rtol=1e-3):
    """Within the residuals of the dense eigenvalues, and nearer, as the residuals enter squared."""
    values, residuals = np.asarray(record.eigenvalues), np.asarray(record.residuals)
    assert values.shape == residuals.shape == expected.shape
    assert (residuals <= 2e-2 * np.abs(expected).max(1, keepdims=True)).all()
    assert (np.abs(values - expected) <= residuals + 1e-11 * np.abs(expected)).all()
    np.testing.assert_allclose(values, expected, rtol=rtol)
    np.testing.assert_array_equal(record.sharpness, values[..., 0])


RECORD = record_sharpness(OBJECTIVE, K, record=keep)


def descend(learning_rate, steps=30, record=RECORD, objective=OBJECTIVE, **more):
    return jf.iterate(jf.optim.gd(learning_rate), objective, PARAMS, steps=steps, record=record, **more)


def test_full_batch():
    run = descend(0.3)
    right(run.values, dense(run.values.recorded))
    plain = descend(0.3, record=None)
    np.testing.assert_allclose(flats(run.values.recorded), flats(plain.values), rtol=1e-12)
    # Another rate, another start, other data and a record made anew: the same program.
    before = compilations()
    again = jf.Objective(losses, jax.tree.map(lambda x: 1.5 * x, DATA))
    other = descend(0.1, objective=again, record=record_sharpness(OBJECTIVE, K, record=keep))
    assert compilations() == before
    right(other.values, dense(other.values.recorded))


def test_mini_batches_at_every_seventh_step_and_stride():
    record = record_sharpness(OBJECTIVE, K, record=keep, stride=2)
    run = descend(0.1, record=record, batch_size=3, key=jax.random.key(1), every=7)
    assert run.times.shape == (6,)  # 0, 7, …, 28, 30
    expected = dense(run.values.recorded)
    values = jax.device_get(run.values)
    right(jax.tree.map(lambda x: x[::2], values), expected[::2])
    assert np.isnan(values.eigenvalues[1::2]).all()
    assert np.isnan(values.residuals[1::2]).all()
    assert np.isfinite(flats(run.values.recorded)).all()
    before = compilations()
    other = record_sharpness(OBJECTIVE, K, record=keep, stride=4)
    sparse = descend(0.1, record=other, batch_size=3, key=jax.random.key(1), every=7)
    assert compilations() == before
    np.testing.assert_array_equal(
        np.isfinite(sparse.values.sharpness), [True, False, False, False, True, False]
    )


def test_a_run_that_is_gone_on_with_and_an_optimizers_preconditioner():
    """P as scipy is given it is read off the state at the ends of three runs, each of which begins where one ended.

    Without ε P is of the size of rounding before the first step: that record means nothing, later ones do.
    """
    optimizer = jf.optim.adam(0.02, b2=0.99, eps=0.0)
    record = record_sharpness(OBJECTIVE, K, preconditioner=optimizer, record=keep)
    run, params, state = None, PARAMS, None
    for _ in range(3):
        previous = run
        run = jf.iterate(optimizer, OBJECTIVE, params, steps=6, record=record, state=state)
        params, state = run.params, run.state
        p = flats(jax.tree.map(lambda x: np.asarray(x)[None], preconditioner_of(optimizer, state)))
        values = jax.device_get(run.values)
        end = jax.tree.map(lambda x: x[-1:], values)
        right(end, dense(end.recorded, p))
        if previous is not None:
            begin = jax.tree.map(lambda x: x[0], values)
            np.testing.assert_allclose(
                begin.eigenvalues, np.asarray(previous.values.eigenvalues)[-1], rtol=1e-5
            )
            np.testing.assert_array_equal(flats(run.values.recorded)[0], flats(previous.values.recorded)[-1])


def test_a_traced_number_of_steps():
    run = jax.jit(lambda steps: descend(0.3, steps=steps, every=None))(jnp.asarray(20))
    assert run.values.eigenvalues.shape == (2, K)
    right(run.values, dense(run.values.recorded))
    assert int(run.steps) == 20


def test_lanes_are_single_runs():
    rates = np.array([0.02, 0.1, 0.3])
    lanes = jax.device_get(jax.jit(jax.vmap(descend))(rates).values)
    for i, rate in enumerate(rates):
        lane, alone = jax.tree.map(lambda x: x[i], lanes), descend(float(rate)).values  # noqa: B023
        np.testing.assert_allclose(lane.eigenvalues, alone.eigenvalues, rtol=1e-7)
        right(lane, dense(lane.recorded))


def test_a_stream_of_batches():
    pick = np.random.default_rng(3).integers(8, size=(9, 4))
    batches = [jax.tree.map(lambda x: x[i], DATA) for i in pick]  # noqa: B023
    run = descend(
        0.1, steps=9, estimator=batches, every=2, record=record_sharpness(OBJECTIVE, K, stride=2, record=keep)
    )
    assert run.times.shape == (6,)  # 0, 2, …, 8, 9
    values = jax.device_get(run.values)
    right(jax.tree.map(lambda x: x[::2], values), dense(values.recorded)[::2])
    assert np.isnan(values.sharpness[1::2]).all()
    by_hand, gradient = PARAMS, jax.jit(jax.grad(lambda p, b: losses(p, b).mean()))
    for batch in batches:
        by_hand = jax.tree.map(lambda x, g: x - 0.1 * np.asarray(g), by_hand, gradient(by_hand, batch))
    np.testing.assert_allclose(flats(run.values.recorded)[-1], ravel_pytree(by_hand)[0], rtol=1e-12)


TIMES = np.linspace(0, 2, 9)


def test_gradient_flow_and_an_event_that_stops_it():
    norm = np.linalg.norm(jax.jit(lambda p: ravel_pytree(jax.grad(OBJECTIVE)(p))[0])(PARAMS))
    flow, event = jf.dynamics.gradient_flow(OBJECTIVE), jf.gradient_norm_below(norm / 3)
    path = jf.integrate(flow, PARAMS, TIMES, record=RECORD, event=event)
    seen = np.isfinite(flats(path.values.recorded)).all(1)
    assert 2 < seen.sum() < len(TIMES)
    assert (np.diff(seen.astype(int)) <= 0).all()
    values = jax.device_get(path.values)
    before = jax.tree.map(lambda x: x[seen], values)
    right(before, dense(before.recorded))
    assert np.isnan(values.eigenvalues[~seen]).all()
    assert np.isnan(values.residuals[~seen]).all()


def root_of(state):
    return jax.tree.map(jnp.sqrt, state.second_moment)


@jf.optim.traceable
def seen(scale, inner=None):
    """A user's own: parameters and state as they are shown, how many records came before, and another's records."""

    def begin(params, state):
        return jnp.zeros(()), None if inner is None else inner.begin(params, state)

    def look(memory, params, state):
        count, memory = memory
        values, memory = (None, None) if inner is None else inner.look(memory, params, state)
        return (params, state, count, values), (count + scale, memory)

    return jf.Recorder(begin=begin, look=look)


def test_an_adaptive_flow_with_the_preconditioner_of_its_state():
    flow = jf.dynamics.rmsprop(OBJECTIVE, 0.02, eps=1e-6)
    params = jax.tree.map(jnp.asarray, PARAMS)
    moments = jax.tree.map(lambda x: jnp.full(x.shape, 0.01), params)
    record = seen(1.0, record_sharpness(OBJECTIVE, K, preconditioner=root_of))
    times = np.linspace(0, 0.3, 6)
    for start in (moments, jax.tree.map(jnp.zeros_like, moments)):
        state = flow.init(params)._replace(second_moment=start)
        shown, states, count, found = jf.integrate(flow, params, times, state=state, record=record).values
        np.testing.assert_array_equal(flats(shown), flats(states.params))
        np.testing.assert_array_equal(count, np.arange(6))
        p = np.sqrt(flats(states.second_moment))
        if start is moments:
            right(found, dense(shown, p))
        else:  # P = 0: that record means nothing, but the next ones do
            assert np.isfinite(found.eigenvalues[1:]).all()
            right(jax.tree.map(lambda x: x[-1:], found), dense(jax.tree.map(lambda x: x[-1:], shown), p[-1:]))


def test_a_modified_flow_that_begins_with_steps_of_its_optimizer():
    """Inside the warm-up the recorder is shown the iterates; states are the flow's, from where it begins."""
    optimizer = jf.optim.rmsprop(0.02, 0.9, 1e-3)
    flow = jf.dynamics.modified(optimizer, OBJECTIVE, warmup=4)
    record = seen(1.0, record_sharpness(OBJECTIVE, K))
    params, state, _, found = jf.integrate(flow, PARAMS, 0.02 * np.arange(9), record=record).values
    right(found, dense(params))
    steps = jf.iterate(optimizer, OBJECTIVE, PARAMS, steps=8)
    np.testing.assert_allclose(flats(params)[:5], flats(steps.values)[:5], rtol=1e-10)
    np.testing.assert_allclose(flats(state.params)[5:], flats(params)[5:], rtol=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_a_path_with_noise(seed):
    flow = jf.dynamics.sgd(OBJECTIVE, 0.05, 2)
    path = jf.integrate(flow, PARAMS, TIMES / 4, key=jax.random.key(seed), substeps=40, record=RECORD)
    assert flats(path.values.recorded).std(0).min() > 0
    right(path.values, dense(path.values.recorded))


def test_a_recorder_of_ones_own_is_shown_the_optimizers_state():
    optimizer = jf.optim.rmsprop(0.02)
    run = jf.iterate(optimizer, OBJECTIVE, PARAMS, steps=7, every=3, record=seen(2.0))
    params, state, count, _ = run.values
    np.testing.assert_array_equal(count, [0, 2, 4, 6])  # at 0, 3, 6, 7
    np.testing.assert_array_equal(flats(params)[-1], ravel_pytree(run.params)[0])
    last = jax.tree.map(lambda x: x[-1], state)
    assert jax.tree.structure(last) == jax.tree.structure(run.state.optimizer)
    np.testing.assert_array_equal(ravel_pytree(last)[0], ravel_pytree(run.state.optimizer)[0])


T = 6
PATH = jax.vmap(UNRAVEL)(np.asarray(FLAT)[None] * np.linspace(0.5, 1.2, T)[:, None])
POSITIVE = np.exp(RNG.uniform(-1, 1, (1, FLAT.size)) * np.linspace(0.5, 1.5, T)[:, None])


@pytest.mark.parametrize(
    ("given", "p"),
    [
        (np.arange(1.0, T + 1), np.arange(1.0, T + 1)[:, None] * np.ones_like(POSITIVE)),
        (jax.vmap(UNRAVEL)(POSITIVE), POSITIVE),
    ],
    ids=["numbers", "pytrees"],
)
def test_along_a_path(given, p):
    right(sharpness_along(OBJECTIVE, PATH, K, preconditioners=given), dense(PATH, p))


def test_along_lanes_of_paths():
    lanes = jax.tree.map(lambda x: np.stack([x, 0.5 * np.asarray(x)]), PATH)
    found = jax.device_get(jax.jit(jax.vmap(lambda path: sharpness_along(OBJECTIVE, path, K)))(lanes))
    for i in range(2):
        right(jax.tree.map(lambda x: x[i], found), dense(jax.tree.map(lambda x: x[i], lanes)))  # noqa: B023


def test_along_in_single_precision():
    objective = jf.Objective(losses, jax.tree.map(np.float32, DATA))
    found = sharpness_along(objective, jax.tree.map(np.float32, PATH), K)
    assert found.eigenvalues.dtype == found.residuals.dtype == np.float32
    np.testing.assert_allclose(found.eigenvalues, dense(PATH), rtol=1e-4)


def steep(x):
    """Its Hessian is diagonal, of entries between 1/2 and 1 and the squares of x."""
    return jnp.sum(x**2 * jnp.linspace(0.5, 1, x.size)) / 2 + jnp.sum(x**4) / 12


def test_a_leader_that_rises_elsewhere_is_seen():
    """The vectors followed are exactly invariant; the new leader overtakes by steps, and is seen in a few records."""
    path = np.tile(np.linspace(0, 0.3, 30), (41, 1))
    path[:, 2] = np.linspace(0, 2, 41)
    found = sharpness_along(steep, path)
    expected = (np.linspace(0.5, 1, 30) + path**2).max(1)
    assert (expected[-5:] > 3).all()
    np.testing.assert_allclose(found.sharpness[-5:], expected[-5:], rtol=1e-3)
    late = np.abs(found.sharpness - expected) > 1e-2 * expected
    assert late.sum() <= 5


def test_more_eigenvalues_than_half_the_parameters():
    def loss(x):
        return (jnp.sum(x**4) + 0.3 * jnp.sum(x) ** 4) / 12

    path = np.linspace([1.0, 0.2, -1.5], [0.3, 1.4, 0.6], 8)
    for k in (2, 3):
        found = sharpness_along(loss, path, k)
        matrices = [np.diag(x**2) + 0.3 * x.sum() ** 2 for x in path]
        expected = np.stack([np.linalg.eigvalsh(matrix)[::-1][:k] for matrix in matrices])
        np.testing.assert_allclose(found.eigenvalues, expected, rtol=1e-6)


def test_a_hessian_that_is_not_finite_once_is_not_the_end():
    def loss(x):
        return jnp.where(jnp.abs(x[0] - 0.5) < 1e-9, jnp.nan, 1.0) * jnp.sum(jnp.arange(1.0, 9.0) * x**2)

    found = sharpness_along(loss, np.array([1.0, 0.5, 2.0, 3.0, 4.0, 5.0])[:, None] * np.ones(8))
    np.testing.assert_array_equal(np.isnan(found.sharpness), np.arange(6) == 1)
    np.testing.assert_allclose(found.sharpness[np.array([0, 4, 5])], 16.0, rtol=1e-3)


def test_a_run_that_diverges():
    run = jf.iterate(
        jf.optim.gd(3.0), steep, jnp.full(4, 2.0), steps=12, record=record_sharpness(steep, record=keep)
    )
    assert run.diverged
    finite = np.isfinite(flats(run.values.recorded)).all(1)
    assert 1 < finite.sum() < 13
    assert np.isnan(run.values.sharpness[~finite]).all()
    expected = (np.linspace(0.5, 1, 4) + flats(run.values.recorded)[:3] ** 2).max(1)
    np.testing.assert_allclose(run.values.sharpness[:3], expected, rtol=1e-6)


def test_a_loss_with_kinks_is_warned_of():
    def loss(x):
        return jnp.sum(jax.nn.relu(x) ** 2)

    with pytest.warns(UserWarning, match="not twice differentiable .relu"):
        run = jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(3), steps=2, record=record_sharpness(loss))
    np.testing.assert_allclose(run.values.sharpness, 2.0)


def quadratic(x):
    return 0.5 * jnp.sum(x**2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"objective": 2.0}, TypeError, "objective must be .*2.0"),
        ({"objective": jf.games.VectorField(jnp.sin)}, TypeError, "objective must be .*VectorField"),
        ({"k": 0}, ValueError, "k must be .*at least 1, got 0"),
        ({"k": 1.5}, TypeError, "k must be .*1.5"),
        ({"stride": 0}, ValueError, "stride must be .*got 0"),
        ({"stride": -3}, ValueError, "stride must be .*got -3"),
        ({"stride": 1.5}, (TypeError, ValueError), "stride must be .*got 1.5"),
        ({"stride": float("nan")}, (TypeError, ValueError), "stride must be .*nan"),
        ({"stride": float("inf")}, (TypeError, ValueError), "stride must be .*inf"),
        ({"stride": None}, TypeError, "stride must be .*None"),
        ({"stride": "2"}, TypeError, "stride must be .*'2'"),
        ({"preconditioner": 1.0}, TypeError, "preconditioner must be .*1.0"),
        ({"preconditioner": np.ones(3)}, TypeError, "preconditioner must be .*array"),
        ({"preconditioner": "adam"}, TypeError, "preconditioner must be .*'adam'"),
    ],
)
def test_refused_when_made(arguments, error, message):
    with pytest.raises(error, match=message):
        record_sharpness(**{"objective": quadratic} | arguments)


@pytest.mark.parametrize(
    ("k", "preconditioner", "error", "message"),
    [
        (4, None, ValueError, "k must be at most 3.*got 4"),
        (1, jf.optim.adam(0.1), ValueError, "state must be one of adam"),
        (1, lambda state: np.ones(2), ValueError, r"preconditioner must .*\(2,\)"),
        (1, lambda state: np.ones(1), ValueError, r"preconditioner must .*\(1,\)"),
        (1, lambda state: [1.0, 1.0, 1.0], TypeError, "preconditioner must be"),
    ],
    ids=["k", "another optimizer", "shape", "one of three", "list"],
)  # fmt: skip
def test_refused_in_a_run(k, preconditioner, error, message):
    record = record_sharpness(quadratic, k, preconditioner=preconditioner)
    with pytest.raises(error, match=message):
        jf.iterate(jf.optim.gd(0.1), quadratic, jnp.ones(3), steps=1, record=record)


@pytest.mark.parametrize(
    ("path", "k", "preconditioners", "error", "message"),
    [
        (np.ones((4, 3)), 0, None, ValueError, "k must be .*got 0"),
        (np.ones((4, 3)), 4, None, ValueError, "k must be at most 3.*got 4"),
        (np.array(1.0), 1, None, ValueError, "path must have"),
        (np.ones((4, 3), int), 1, None, TypeError, "path.*int64"),
        (np.ones((0, 3)), 1, None, ValueError, "path must"),
        ({"a": np.ones((4, 3)), "b": np.ones((5, 3))}, 1, None, ValueError, "path must have"),
        (np.ones((4, 3)), 1, np.ones((3, 3)), ValueError, "path must have|preconditioners must"),
        (np.ones((4, 3)), 1, np.ones((4, 2)), ValueError, "preconditioners? must"),
        (np.ones((4, 3)), 1, np.ones((4, 1)), ValueError, "preconditioners? must"),
        (np.ones((4, 3)), 1, np.zeros((4, 3)), ValueError, "preconditioners? must be positive.*0"),
        (np.ones((4, 3)), 1, -np.ones(4), ValueError, "preconditioners? must be positive.*-1"),
        (np.ones((4, 3)), 1, {"w": np.ones((4, 3))}, TypeError, "preconditioners? must be"),
    ],
)
def test_refused_along(path, k, preconditioners, error, message):
    with pytest.raises(error, match=message):
        sharpness_along(quadratic, path, k, preconditioners=preconditioners)


def test_a_recorder_that_is_not_made_by_a_traceable_constructor():
    bare = jf.Recorder(lambda params, state: jnp.ones(()), lambda memory, params, state: (memory, 2 * memory))
    run = jf.iterate(jf.optim.gd(0.1), quadratic, jnp.ones(3), steps=3, record=bare)
    np.testing.assert_array_equal(run.values, [1, 2, 4, 8])
    path = jf.integrate(
        jf.dynamics.gradient_flow(quadratic), jnp.ones(3), [0.0, 1.0], substeps=2, record=bare
    )
    np.testing.assert_array_equal(path.values, [1, 2])
