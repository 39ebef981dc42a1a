"""Where an optimizer has a continuous limit: the radius of its step map, the verdict, and what stride 2 adds."""

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.dynamics import convergence, modified
from jaxflow.dynamics.modified_equations.step_logarithm import increment

pytestmark = pytest.mark.promotes
CURVATURES = jnp.array([0.3, 1.0, 7.0])
START = jnp.array([1.0, -2.0, 0.5])
CONVERGES, MARGINAL, NONE = range(3)


def bowl(x):
    return 0.5 * jnp.sum(CURVATURES * x**2)


def test_the_verdict_of_descent_changes_where_the_theory_says():
    """At hλ = 1 for single steps; for pairs at 1 + √2, and at 1 itself, where a step has no inverse."""
    sharpness = np.array([0.2, 0.5, 0.85, 0.96, 1.04, 1.5, 1.9, 2.1, 2.3, 2.39, 2.45, 2.5])
    rates = sharpness / 7
    run = lambda stride: jax.vmap(lambda h: convergence(jf.optim.gd(h), bowl, START, stride=stride))(rates)
    one = run(1)
    np.testing.assert_allclose(one.radius[:, 0], sharpness, rtol=1e-6)
    assert one.code[:, 0].tolist() == [CONVERGES] * 3 + [MARGINAL] * 2 + [NONE] * 7
    two = run(2)
    moved = np.abs((1 - np.asarray(rates)[:, None] * np.asarray(CURVATURES)) ** 2 - 1).max(1)
    np.testing.assert_allclose(two.radius[:, 0], moved, rtol=1e-3)
    assert (two.code[:, 0] < NONE).tolist() == [True] * 10 + [False] * 2
    # The run itself excites every direction here, and its terms tend to the ratio of the sharpest.
    assert (one.ratio[:, 0] > 0.9 * sharpness).all()


def test_what_a_run_does_not_excite_is_seen_too():
    report = convergence(jf.optim.gd(0.3), bowl, jnp.array([1.0, 1.0, 0.0]))
    assert report.ratio < 0.4
    np.testing.assert_allclose(report.radius, 2.1, rtol=1e-6)
    assert report.verdict == "no continuous limit here: h·sharpness = 2.1"
    assert (
        repr(convergence(jf.optim.gd(0.01), bowl, jnp.zeros(3)))
        == "Convergence(converges: h·sharpness = 0.07)"
    )


def test_memory_is_named_apart_from_sharpness():
    assert convergence(jf.optim.momentum(1e-6, 0.5), bowl, START).verdict == "converges: |Φ − 1| = 0.5"


def test_momentum_and_preconditioner_are_accounted_for():
    """Against the eigenvalues of the step map, formed densely in NumPy; at its threshold one of them is −1."""
    for beta in (0.5, 0.9):
        h = 2 * (1 + beta) / 7  # the stability threshold of heavy ball
        blocks = [np.array([[1 - h * c, -h * beta], [c, beta]]) for c in np.asarray(CURVATURES)]
        expected = max(np.abs(np.linalg.eigvals(block) - 1).max() for block in blocks)
        report = convergence(jf.optim.momentum(h, beta), bowl, START, iterations=200)
        np.testing.assert_allclose(report.radius, expected, rtol=2e-2)
        assert report.code == NONE
        np.testing.assert_allclose(expected, 2.0, rtol=1e-12)
    # And those of RMSProp, whose second moment moves with the parameters.
    optimizer = jf.optim.rmsprop(0.05, 0.9)
    state = modified(optimizer, bowl).init(START)
    state = state._replace(optimizer=jax.tree.map(lambda v: jnp.full_like(v, 0.25), state.optimizer))
    flat, unravel = jax.flatten_util.ravel_pytree(state)
    moved = lambda z: jax.flatten_util.ravel_pytree(increment(optimizer, bowl, unravel(z)))[0]
    expected = np.abs(np.linalg.eigvals(jax.jit(jax.jacfwd(moved))(flat))).max()
    report = convergence(optimizer, bowl, START, state=state, iterations=200)
    np.testing.assert_allclose(report.radius, expected, rtol=1e-2)


def test_along_a_run_the_verdict_says_from_when_on():
    """A quartic valley that sharpens: the measured radius is h times the second derivative at every iterate."""
    loss = lambda x: x[0] ** 4 / 12 - 2 * x[0]
    h = 0.2
    run = jf.iterate(jf.optim.gd(h), loss, jnp.array([0.5]), steps=40, every=10)
    report = convergence(jf.optim.gd(h), loss, jnp.array([0.5]), steps=40, every=10)
    np.testing.assert_allclose(report.times, run.times, rtol=1e-12)
    np.testing.assert_allclose(report.radius, h * run.values[:, 0] ** 2, rtol=1e-9)
    assert report.verdict.startswith("converges: h·sharpness = 0.")


def kicked_digits():
    """A network after some training, off its path by a little along its sharpest direction."""
    problem = jf.problems.mlp("digits", hidden=(8,), loss="mse")
    x, y = problem.objective.data["x"][:60], problem.objective.data["y"][:60]
    loss = jf.Objective(problem.objective.losses, {"x": x, "y": y})
    params = jf.iterate(jf.optim.gd(0.05), loss, problem.params, steps=400, every=None).params
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    slope = jax.grad(lambda z: loss(unravel(z)))
    power = lambda v, _: ((lambda w: w / jnp.linalg.norm(w))(jax.jvp(slope, (flat,), (v,))[1]), None)
    sharpest = jax.jit(lambda v: jax.lax.scan(power, v, None, length=60)[0])(
        jnp.cos(jnp.arange(flat.size) * 1.0)
    )
    return loss, unravel(flat + 0.02 * sharpest)


@pytest.mark.parametrize("problem", [lambda: (bowl, START), kicked_digits], ids=["quadratic", "digits"])
def test_stride_two_follows_descent_where_stride_one_cannot(problem):
    """At hλ = 1.9 the sharpest coordinate turns sign at every step, as no field of one step does."""
    loss, params = problem()
    unit = float(convergence(jf.optim.gd(1.0), loss, params).radius[0])
    optimizer = jf.optim.gd(1.9 / unit)
    run = jf.iterate(optimizer, loss, params, steps=8, every=2)

    def gap(stride):
        path = jf.integrate(modified(optimizer, loss, order=3, stride=stride), params, run.times, rtol=1e-6)
        return float(jf.compare(run, path).largest)

    assert convergence(optimizer, loss, params).code == NONE
    assert convergence(optimizer, loss, params, stride=2).code < NONE
    assert gap(1) > 10 * gap(2)


def test_compiles_once_and_refuses_in_a_sentence():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def radius(optimizer, params):
        return convergence(optimizer, bowl, params).radius

    np.testing.assert_allclose(
        radius(jf.optim.gd(0.1), START) * 2, radius(jf.optim.gd(0.2), -START), rtol=1e-9
    )
    for message, arguments in {
        "steps must be an integer at least 0, got -1": {"steps": -1},
        "every must be an integer at least 1, got 0": {"every": 0},
        "iterations must be an integer at least 4, got 3": {"iterations": 3},
        "stride must be an integer at least 1, got 0": {"stride": 0},
        "state must be a ModifiedState, got dict": {"state": {}},
    }.items():
        with pytest.raises((ValueError, TypeError), match=message):
            convergence(jf.optim.gd(0.1), bowl, START, **arguments)
    with pytest.raises(
        TypeError, match="params must be a pytree with a real or complex array to train, got dtype int64"
    ):
        convergence(jf.optim.gd(0.1), bowl, jnp.arange(3))
