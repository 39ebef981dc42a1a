"""Central and stable flows: closed forms, brute-force averages of iterates, order of convergence, refusals."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.dynamics import central_flow, flow_state, optimizer_state, stable_flow

pytestmark = pytest.mark.promotes
ETA, RISE, PULL, TOP = 0.1, 0.05, 0.05, 27.2  # η, a, b, Z of the toy


def toy(p):
    """x oscillates in the curvature y, which z draws up."""
    return 0.5 * p[1] * p[0] ** 2 + 0.5 * RISE * (p[1] - p[2]) ** 2 + 0.5 * PULL * (p[2] - TOP) ** 2


losses = jax.jit(jax.vmap(toy))
squared_gradients = jax.jit(jax.vmap(lambda p: jnp.sum(jax.grad(toy)(p) ** 2)))


def mean(values, steps):
    return np.asarray(values)[steps].mean()


def closed_form(times):
    """z, X in units of the parameters, and the average loss, with y at 2/η = 20."""
    end = (20 * RISE + PULL * TOP) / (RISE + PULL)
    z = end + (26 - end) * np.exp(-(RISE + PULL) * np.asarray(times))
    x = 2 * RISE * (z - 20)
    return z, x, 0.5 * RISE * (z - 20) ** 2 + 0.5 * PULL * (z - TOP) ** 2 + 10 * x


@pytest.fixture(scope="module")
def iterates():
    return jf.iterate(jf.optim.gd(ETA), toy, jnp.array([0.6**0.5, 20.0, 26.0]), steps=200)


@pytest.fixture(scope="module")
def paths(iterates):
    """The flow with 4, 8, 16, 32, 64 substeps a step."""
    flow, start = central_flow(jf.optim.gd(ETA), toy, modes=1), jnp.array([0.0, 20.0, 26.0])
    return {n: jf.integrate(flow, start, iterates.times, substeps=n) for n in (4, 8, 16, 32, 64)}


def extrapolated(values):
    """Richardson's limit of values whose substeps halve."""
    values = [np.asarray(value) for value in values]
    for k in range(1, len(values)):
        values = [(2**k * late - early) / (2**k - 1) for early, late in itertools.pairwise(values)]
    return values[0]


def test_toy_against_its_closed_form(iterates, paths):
    z, x, loss = closed_form(iterates.times)
    limit = extrapolated([path.values for path in paths.values()])
    np.testing.assert_allclose(limit[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(limit[:, 1], 20, rtol=1e-9)
    np.testing.assert_allclose(limit[:, 2], z, rtol=1e-9)
    covariance = extrapolated([path.observed.covariance for path in paths.values()])
    np.testing.assert_allclose(ETA * covariance[1:, 0, 0], x[1:], rtol=1e-9)
    predicted = extrapolated([path.observed.loss for path in paths.values()])
    np.testing.assert_allclose(predicted[1:], loss[1:], rtol=1e-9)
    assert max(np.asarray(path.observed.complementarity_residual)[-1] for path in paths.values()) < 1e-10


def test_orders_in_the_substep(iterates, paths):
    """Two of the parameters; one of the covariance, which is that over the substep before."""
    z, x, _ = closed_form(iterates.times)
    covariance = lambda p: ETA * np.asarray(p.observed.covariance)[:, 0, 0]
    for exact, of, order in ((z, lambda p: np.asarray(p.values)[:, 2], 2), (x, covariance, 1)):
        errors = [np.abs(of(path) - exact)[1:].max() for path in paths.values()]
        slope = np.polyfit(np.log(1 / np.array(list(paths))), np.log(errors), 1)[0]
        assert slope == pytest.approx(order, abs=0.02)


def test_toy_against_averages_of_the_iterates(iterates, paths):
    _, x, loss = closed_form(iterates.times)
    path, steps = paths[64], slice(0, 200)
    squares = squared_gradients(iterates.values)
    assert mean(np.asarray(iterates.values)[:, 0] ** 2, steps) == pytest.approx(mean(x, steps), rel=3e-3)
    assert mean(losses(iterates.values), steps) == pytest.approx(mean(loss, steps), rel=3e-3)
    predicted = mean(path.observed.squared_gradient, slice(1, 201))
    assert mean(squares, steps) == pytest.approx(predicted, rel=3e-3)


def test_below_the_edge_it_is_the_stable_flow():
    """Nothing oscillates, and after many substeps both are the same differential equation."""
    start, times = jnp.array([0.1, 10.0, 12.0]), np.linspace(0, 3, 4)
    optimizer = jf.optim.scalar_rmsprop(0.05, 0.9)
    stable = jf.integrate(stable_flow(optimizer, toy), start, times, rtol=1e-9)
    runs = [jf.integrate(central_flow(optimizer, toy, modes=2), start, times, substeps=n) for n in (256, 512)]
    assert all((np.asarray(run.observed.covariance) == 0).all() for run in runs)
    np.testing.assert_allclose(extrapolated([run.values for run in runs]), stable.values, atol=3e-4)


def quadratic_losses(w, curvatures):
    return 0.5 * jnp.sum(curvatures * w[None] ** 2, 1)


def quadratic(curvatures):
    """Curvatures are data, so that another test's compile nothing."""
    return jf.Objective(quadratic_losses, jnp.array([curvatures]))


def test_below_the_edge_substeps_do_not_imitate_descent():
    """Gradient flow of a quadratic at ηλ = 1.7, in the substeps it takes by itself: exp(−λt), not (1 − ηλ)ᵏ."""
    flow = central_flow(jf.optim.gd(0.1), quadratic([17.0, 1.0]), modes=1)
    path = jf.integrate(flow, jnp.ones(2), np.linspace(0, 1, 11))
    exact = np.exp(-np.outer(np.linspace(0, 1, 11), [17.0, 1.0]))
    np.testing.assert_allclose(path.values, exact, atol=2e-4)
    assert path.observed.substeps[-1] <= 20


def test_stable_flow_of_gradient_descent_is_gradient_flow():
    start, times = jnp.array([0.1, 3.0, 5.0]), jnp.linspace(0, 5, 6)
    stable = jf.integrate(stable_flow(jf.optim.gd(0.3), toy), start, times)
    flow = jf.integrate(jf.dynamics.gradient_flow(toy), start, times)
    np.testing.assert_allclose(stable.values, flow.values, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(stable.state.steps, 5 / 0.3, rtol=1e-9)


METHODS = {
    "rmsprop": (jf.optim.rmsprop(0.02, 0.8, 1e-3), lambda v: np.sqrt(v) + 1e-3, lambda g: g**2),
    "rmsprop, eps inside": (
        jf.optim.rmsprop(0.02, 0.8, 1e-3, eps_in_sqrt=True),
        lambda v: np.sqrt(v + 1e-3),
        lambda g: g**2,
    ),
    "scalar": (jf.optim.scalar_rmsprop(0.02, 0.8, 1e-3), lambda v: np.sqrt(v) + 1e-3, lambda g: (g**2).sum()),
}


@pytest.mark.parametrize("name", METHODS)
def test_stable_flow_of_an_adaptive_method_against_a_solver_of_its_own(name):
    """The equation written out in NumPy and solved by SciPy, from one update at the start."""
    from scipy.integrate import solve_ivp

    optimizer, denominator, pooled = METHODS[name]
    curvature, start = np.array([1.0, 4.0]), np.array([1.0, -2.0])
    gradient = lambda w: curvature * w

    def velocity(k, z):
        w, v = z[:2], z[2:]
        return [*(-0.02 * gradient(w) / denominator(v)), *(0.25 * (pooled(gradient(w)) - v))]

    nu = 0.2 * np.atleast_1d(pooled(gradient(start)))
    times = np.array([0.0, 0.2, 0.6])
    expected = solve_ivp(velocity, (0, 30), [*start, *nu], t_eval=times / 0.02, rtol=1e-10, atol=1e-12).y.T
    loss = lambda w: 0.5 * jnp.sum(jnp.asarray(curvature) * w**2)
    path = jf.integrate(stable_flow(optimizer, loss), jnp.asarray(start), times)
    np.testing.assert_allclose(path.values, expected[:, :2], rtol=1e-5)
    np.testing.assert_allclose(jnp.atleast_1d(path.state.second_moment), expected[-1, 2:], rtol=1e-5)


def test_rmsprop_past_the_edge_against_averages_of_its_iterates():
    optimizer = jf.optim.rmsprop(0.01, 0.99)
    start = jf.dynamics.StableState(jnp.array([0.01, 20.0, 26.0]), jnp.full(3, 0.012), jnp.zeros(()))
    begin = jf.solve.begin(optimizer_state(optimizer, toy, start))
    run = jf.iterate(optimizer, toy, start.params, steps=1000, state=begin)
    flow = central_flow(optimizer, toy, modes=1)
    end = jf.integrate(stable_flow(optimizer, toy), start.params, [0.0, 1e-12], state=start)
    path = jf.integrate(flow, start.params, run.times, state=flow_state(flow, end))
    loss = losses(run.values)
    squares = squared_gradients(run.values)
    for half in (slice(0, 500), slice(500, 1000)):
        assert mean(path.observed.loss, half) == pytest.approx(mean(loss, half), rel=0.03)
        assert mean(path.observed.squared_gradient, half) == pytest.approx(mean(squares, half), rel=0.02)
    np.testing.assert_allclose(np.asarray(path.observed.eigenvalues)[200:], 2, atol=0.01)
    np.testing.assert_allclose(path.params[1:], run.params[1:], rtol=2e-3)


def test_a_schedule_moves_the_edge_and_keeps_the_clock():
    """η from .08 up to .1 in 1,000 steps: the curvature has to come down with 2/η."""
    optimizer = jf.optim.gd(jf.optim.warmup(0.1, 1000, 0.08))
    run = jf.iterate(optimizer, toy, jnp.array([0.5, 24.9, 26.0]), steps=1000)
    path = jf.integrate(central_flow(optimizer, toy, modes=1), jnp.array([0.0, 24.9, 26.0]), run.times)
    assert float(path.state.steps) == pytest.approx(1000, abs=1e-6)
    rates = 0.08 + 0.02 * np.arange(1001) / 1000
    np.testing.assert_allclose(np.asarray(path.values)[50:, 1], 2 / rates[50:], rtol=1e-3)
    np.testing.assert_allclose(path.params[2], run.params[2], rtol=1e-3)
    loss = losses(run.values)
    late = slice(500, None)
    assert mean(path.observed.loss, late) == pytest.approx(mean(loss, late), rel=0.02)


def test_a_constant_schedule_is_a_number():
    # No time is that of a step; as many as those of `paths`, whose program it is.
    start, times = jnp.array([0.0, 20.0, 26.0]), np.linspace(0, 2.05, 201)
    a, b = (
        jf.integrate(central_flow(jf.optim.gd(rate), toy, modes=1), start, times, substeps=8)
        for rate in (ETA, jf.optim.constant(ETA))
    )
    np.testing.assert_allclose(a.values, b.values, atol=2e-3)
    np.testing.assert_allclose([a.state.steps, b.state.steps], 20.5, rtol=1e-9)


@pytest.fixture(scope="module")
def network():
    """A network of 51 parameters on 40 examples, and where gradient flow comes to a sharpness of 2/η at η = .5."""
    keys = jax.random.split(jax.random.key(3), 3)
    x = np.asarray(jax.random.normal(keys[0], (40, 4)))
    y = np.sin(x @ np.asarray(jax.random.normal(keys[1], (4, 1))))
    problem = jf.problems.mlp((x, y), (8,), key=keys[2])
    flow = jf.integrate(jf.dynamics.gradient_flow(problem.objective), problem.params, [0.0, 30.0], rtol=1e-6)
    return problem.objective, flow.params


STEPS = np.arange(30.0)  # as many times in several tests of the network, so that they share a program


@jax.jit
def dense(objective, params):
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    loss = lambda w: objective(unravel(w))
    return flat, jax.grad(loss)(flat), jax.hessian(loss)(flat), jax.jacfwd(jax.hessian(loss))(flat)


def test_one_critical_direction_against_the_formula(network):
    """X = max(0, −2⟨∇S, ∇L⟩/|∇S|²) from dense third derivatives, the limit of small substeps."""
    objective, params = network
    _, gradient, hessian, third = map(np.asarray, dense(objective, params))
    values, vectors = np.linalg.eigh(hessian)
    rate, u = 2 / values[-1], vectors[:, -1]
    slope = np.einsum("ijk,i,j->k", third, u, u)
    expected = max(0.0, -2 * slope @ gradient / (slope @ slope))
    flow = central_flow(jf.optim.gd(rate), objective, modes=2)
    found = [
        np.asarray(jf.integrate(flow, params, STEPS * dt * rate).observed.covariance)[1, 0, 0] * rate
        for dt in (1e-3, 5e-4)
    ]
    assert expected > 0
    np.testing.assert_allclose(extrapolated(found), expected, rtol=1e-4)


def test_several_directions_at_once_stay_at_the_edge(network):
    """Three of them past it: every effective eigenvalue is held at 2, or below it without oscillation."""
    objective, params = network
    values = np.linalg.eigvalsh(dense(objective, params)[2])
    rate = 2 / values[-3]
    flow = central_flow(jf.optim.gd(rate), objective, modes=4)
    path = jf.integrate(flow, params, np.arange(0, 60) * rate)
    x, effective = np.asarray(path.observed.covariance)[-1], np.asarray(path.observed.eigenvalues)[-1]
    own = rate * np.linalg.eigvalsh(dense(objective, path.params)[2])[::-1][:4]
    np.testing.assert_allclose(effective, own, atol=2e-3)
    assert (own < 2.001).all()
    assert np.linalg.eigvalsh(x).min() > -1e-9
    assert abs(np.trace(x @ np.diag(2 - own))) < 1e-3 * max(np.trace(x), 1e-9)
    assert np.asarray(path.observed.complementarity_residual)[-1] < 1e-9
    assert np.asarray(path.observed.eigenvector_residual)[-1] < 1e-2


def test_lanes_are_runs_of_their_own_and_another_rate_compiles_nothing(network):
    objective, params = network
    top = np.linalg.eigvalsh(dense(objective, params)[2])[-1]
    rates = np.array([1.5, 2.0, 2.4]) / top
    solve = lambda rate: jf.integrate(
        central_flow(jf.optim.gd(rate), objective, modes=2), params, STEPS * rate
    )
    together = jax.device_get(jax.jit(jax.vmap(solve))(rates))
    made = []
    for i, rate in enumerate(rates):
        alone = solve(rate)
        made.append(programs()["solve.one_step_map.follow"])
        for a, b in zip(jax.tree.leaves(alone.values), jax.tree.leaves(together.values), strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-8, atol=1e-10)
        np.testing.assert_array_equal(alone.observed.substeps, together.observed.substeps[i])
    assert made[1:] == made[:-1]


def test_single_precision(network):
    objective, params = jax.tree.map(lambda x: jax.device_put(np.float32(x)), network)
    flow = central_flow(jf.optim.gd(0.3), objective, modes=2)
    path = jf.integrate(flow, params, STEPS * 0.3)
    double = jf.integrate(central_flow(jf.optim.gd(0.3), network[0], modes=2), network[1], STEPS * 0.3)
    assert {leaf.dtype for leaf in jax.tree.leaves(path.params)} == {jnp.dtype("float32")}
    assert np.asarray(path.observed.loss)[-1] == pytest.approx(np.asarray(double.observed.loss)[-1], rel=1e-3)


@pytest.mark.parametrize("constructor", [jf.optim.rmsprop, jf.optim.scalar_rmsprop, jf.optim.adagrad])
def test_handing_over_keeps_the_second_moment(constructor):
    """One update of the optimizer at the start makes of its ν the flow's."""
    optimizer = constructor(0.01)
    loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 4.0]) * w["a"] ** 2)
    path = jf.integrate(stable_flow(optimizer, loss), {"a": jnp.array([1.0, -2.0])}, [0.0, 0.01])
    before = optimizer_state(optimizer, loss, path.state)
    update = jax.jit(lambda state, params: optimizer.update(jax.grad(loss)(params), state, params))
    _, after = update(before, path.params)
    flow = central_flow(optimizer, loss, modes=1)
    carried = flow_state(flow, path).second_moment
    for a, b in zip(jax.tree.leaves(after[0].nu), jax.tree.leaves(carried), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    # And from a discrete run, whose ν has not seen the gradient at its end.
    run = jf.iterate(optimizer, loss, {"a": jnp.array([1.0, -2.0])}, steps=3)
    _, after = update(run.state.optimizer, run.params)
    carried = flow_state(flow, run).second_moment
    for a, b in zip(jax.tree.leaves(after[0].nu), jax.tree.leaves(carried), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "why"),
    [
        (jf.optim.momentum(0.1, 0.9), "2605.06821"),
        (jf.optim.nesterov(0.1, 0.9), "2605.06821"),
        (jf.optim.adam(0.1), "2605.06821"),
        (jf.optim.sign(0.1), "not a preconditioned gradient descent"),
        (jf.optim.chain(jf.optim.gd(0.1)), "not a preconditioned gradient descent"),
    ],
    ids=["momentum", "nesterov", "adam", "sign", "chain"],
)
def test_other_methods_are_refused_with_the_reason(optimizer, why):
    for flow in (central_flow, stable_flow):
        with pytest.raises(ValueError, match=f"optimizer must be one of gd, .*{re.escape(why)}"):
            flow(optimizer, toy)


def test_bad_input_is_refused():
    gd, start = jf.optim.gd(0.1), jnp.array([0.0, 20.0, 26.0])
    flow = central_flow(gd, toy, modes=1)
    with pytest.raises(ValueError, match="modes must be an integer at least 1, got 0"):
        central_flow(gd, toy, modes=0)
    with pytest.raises(ValueError, match="modes must be at most 3, the number of parameters, got 4"):
        jf.integrate(central_flow(gd, toy, modes=4), start, [0.0, 1.0])
    with pytest.raises(TypeError, match="objective must be"):
        central_flow(gd, 3.0)
    with pytest.raises(TypeError, match="objective must be"):
        central_flow(gd, jf.VectorField(lambda p: p))
    for name, value in {
        "key": jax.random.key(0),
        "rtol": 1e-3,
        "step_size": 0.1,
        "noise_substeps": 4,
    }.items():
        with pytest.raises(ValueError, match=f"{name} must be None for a dynamics stepped"):
            jf.integrate(flow, start, [0.0, 1.0], **{name: value})
    with pytest.raises(ValueError, match="no drift for another solver"):
        jf.integrate(flow + jf.dynamics.gradient_flow(toy), start, [0.0, 1.0])
    with pytest.raises(TypeError, match="dynamics must be a central_flow or a stable_flow"):
        flow_state(jf.dynamics.gradient_flow(toy), None)
    with pytest.raises(TypeError, match="start must be a Trajectory"):
        flow_state(flow, None)
    with pytest.raises(TypeError, match="state must be that of"):
        optimizer_state(gd, toy, None)


def test_a_learning_rate_of_nothing_is_refused_or_ends():
    start, times = jnp.array([0.0, 20.0, 26.0]), np.linspace(0, 10, 41)
    with pytest.raises(ValueError, match=r"learning_rate must be a finite number above 0, got 0\.0"):
        central_flow(jf.optim.gd(0.0), toy)
    with pytest.raises(ValueError, match=r"decay must be above 0 for a flow of its average, got 0\.0"):
        stable_flow(jf.optim.rmsprop(0.1, 0.0), toy)

    # A schedule from 0 to .1 and back in 40 steps: its times begin with two that are equal, and end at 4 - .1.
    def bump(k):
        return 0.1 * jnp.clip(jnp.minimum(k / 20, 2 - k / 20), 0, 1)

    optimizer = jf.optim.gd(bump)
    run = jf.iterate(optimizer, toy, start, steps=40)
    flow = central_flow(optimizer, toy, modes=1)
    path = jf.integrate(flow, start, run.times)
    assert float(path.state.steps) == pytest.approx(40, abs=1e-3)
    np.testing.assert_allclose(path.params[2], run.params[2], rtol=2e-3)
    assert bool(jf.integrate(flow, start, times).diverged)  # the schedule has no time as late as 10


def test_an_oscillation_that_nothing_holds_ends_the_flow():
    """A quadratic at ηλ = 2.5: descent grows by 1.5 a step, without a bound for a flow to stay at."""
    flow = central_flow(jf.optim.gd(0.1), quadratic([25.0, 1.0]), modes=1)
    path = jf.integrate(flow, jnp.array([0.1, 1.0]), np.arange(11.0))
    assert path.diverged
    assert path.stopped == 1
    assert np.isnan(path.params).all()


def test_a_state_or_a_run_of_another_kind_is_refused():
    start, times = jnp.array([0.0, 20.0, 26.0]), [0.0, 0.1]
    one = jax.eval_shape(lambda: central_flow(jf.optim.gd(0.1), toy, modes=1).init(start))
    with pytest.raises(ValueError, match="state must be one of central_flow"):
        jf.integrate(central_flow(jf.optim.gd(0.1), toy, modes=2), start, times, state=one)
    run = jf.iterate(jf.optim.gd(0.1), toy, start, steps=1)
    with pytest.raises(ValueError, match="start must be a run of rmsprop"):
        flow_state(stable_flow(jf.optim.rmsprop(0.1), toy), run)


def test_an_objective_without_a_third_derivative_is_named():
    with pytest.warns(UserWarning, match="relu"):
        jf.integrate(
            central_flow(jf.optim.gd(0.1), lambda w: jnp.sum(jax.nn.relu(w) ** 3 + w**2), modes=1),
            jnp.array([1.0, 2.0]),
            [0.0, 0.2],
        )


def test_a_run_that_diverges_is_data():
    quartic = lambda w: jnp.sum(w**4)
    path = jf.integrate(
        central_flow(jf.optim.gd(10.0), quartic, modes=1), jnp.array([1e200]), [0.0, 10.0, 20.0]
    )
    assert bool(path.diverged)
