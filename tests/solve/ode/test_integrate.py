"""Solving dynamics: accuracy against closed forms, saved times, divergence, events, derivatives, bad input."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.solve.trajectories.trajectory import DIVERGED, FINISHED, LEFT, MAX_STEPS, STOPPED

pytestmark = pytest.mark.promotes
CURVATURE = jnp.array([1.0, 10.0])
START = jnp.array([1.0, -2.0])
TIMES = jnp.linspace(0.0, 2.0, 9)


def loss(x):
    return 0.5 * jnp.sum(CURVATURE * x**2)


def runaway(x):
    return -0.25 * jnp.sum(x**4)  # dx/dt = x³ from 1 leaves the line at t = 1/2


FLOW = jf.dynamics.gradient_flow(loss)
EXACT = np.exp(-np.outer(TIMES, CURVATURE)) * np.asarray(START)


def test_fifty_eigenvalues_over_four_decades_to_1e_9():
    problem = jf.problems.quadratic(np.geomspace(1e-2, 1e2, 50))
    times = jnp.linspace(0.0, 5.0, 21)
    flow = jf.dynamics.gradient_flow(problem.objective)
    path = jf.integrate(flow, problem.params, times, rtol=1e-10, atol=1e-12, max_steps=20_000)
    exact = np.exp(-np.outer(times, np.geomspace(1e-2, 1e2, 50)))
    assert np.abs(path.values - exact).max() <= 1e-9 * np.linalg.norm(exact, axis=1).min()


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(jnp.float64, 1e-6), (jnp.float32, 1e-3), (jnp.bfloat16, 0.1)],
    ids=["f64", "f32", "bf16"],
)
def test_default_tolerance_follows_the_dtype(dtype, bound):
    path = jf.integrate(FLOW, START.astype(dtype), TIMES.astype(dtype))
    assert path.values.dtype == dtype
    assert np.abs(np.asarray(path.values, float) - EXACT).max() < bound


@pytest.mark.parametrize(
    "solver", [diffrax.Dopri8(), diffrax.Kvaerno5(), jf.RKC2()], ids=lambda s: type(s).__name__
)
def test_any_diffrax_solver(solver):
    path = jf.integrate(FLOW, START, TIMES, solver=solver, rtol=1e-7, atol=1e-7)
    assert np.abs(path.values - EXACT).max() < 1e-5
    assert path.status == FINISHED


def test_fixed_steps_converge_at_the_order_of_the_solver():
    solve = lambda **steps: jf.integrate(FLOW, START, TIMES, solver=diffrax.Heun(), **steps)
    error = lambda path: np.abs(path.values[-1] - EXACT[-1]).max()
    # A size of step is traced, a number of them is not: these are one program.
    errors = [error(solve(step_size=0.25 / n)) for n in (16, 32, 64)]
    slopes = -np.diff(np.log2(errors))
    assert np.all(np.abs(slopes - 2) < 0.1)
    np.testing.assert_allclose(error(solve(substeps=16)), errors[0], rtol=1e-6)


def test_values_are_saved_at_exactly_the_times_whatever_the_solver_steps():
    times = jnp.array([0.3, 0.31, 0.97, 1.9])
    path = jf.integrate(FLOW, START, times, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(path.times, times)
    np.testing.assert_allclose(
        path.values, np.exp(-np.outer(times - 0.3, CURVATURE)) * np.asarray(START), atol=1e-7
    )


@pytest.mark.parametrize("solver", [None, diffrax.Euler(), diffrax.Heun(), diffrax.Dopri5()], ids=str)
def test_evaluations_are_those_made(solver):
    calls = []

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return loss(x)

    fixed = {"substeps": 2} if isinstance(solver, diffrax.Euler) else {}
    path = jf.integrate(jf.dynamics.gradient_flow(counted), START, TIMES, solver=solver, **fixed)
    jax.block_until_ready(path)
    jax.effects_barrier()
    # The first velocity, for the first step size, is the only evaluation made when steps are fixed but not counted.
    assert len(calls) - int(path.evaluations) in ((0,) if not fixed else (0, 1))


def test_record_keeps_what_is_asked():
    path = jf.integrate(FLOW, START, TIMES, record=loss, rtol=1e-9)
    assert path.values.shape == TIMES.shape
    np.testing.assert_allclose(path.values, [loss(x) for x in EXACT], rtol=1e-6)


def test_a_blow_up_is_recorded_with_its_time():
    path = jf.integrate(jf.dynamics.gradient_flow(runaway), jnp.ones(1), jnp.linspace(0.0, 1.0, 11))
    assert path.status == DIVERGED
    np.testing.assert_allclose(path.stopped, 0.5, atol=1e-3)
    before, after = np.asarray(path.times) < 0.49, np.asarray(path.times) > 0.51
    np.testing.assert_allclose(path.values[before, 0], (1 - 2 * path.times[before]) ** -0.5, rtol=1e-5)
    assert np.isnan(path.values[after]).all()
    assert "diverged at t = 0.5" in path.message


@pytest.mark.parametrize("bad", [jnp.array([jnp.nan, 1.0]), jnp.array([jnp.inf, 1.0])], ids=["nan", "inf"])
def test_a_lane_that_starts_bad_stops_at_its_first_step_and_harms_no_other(bad):
    starts = jnp.stack([START, bad, 2 * START])
    paths = jax.vmap(lambda x: jf.integrate(FLOW, x, TIMES))(starts)
    alone = jf.integrate(FLOW, START, TIMES)
    assert paths.status.tolist() == [FINISHED, DIVERGED, FINISHED]
    assert paths.steps[1] <= 2
    assert paths.steps[0] == alone.steps
    np.testing.assert_allclose(paths.values[0], EXACT, atol=1e-6)
    assert np.isnan(paths.values[1]).all()
    assert np.isnan(paths.params[1]).all()


def test_a_drift_that_turns_nan_on_the_way_stops_there():
    @jf.dynamics.traceable
    def torn(rate):
        return jf.dynamics.Field(drift=lambda t, x: jnp.where(x > 0.5, -rate * x, jnp.nan))

    path = jf.integrate(torn(1.0), jnp.ones(1), jnp.linspace(0.0, 2.0, 5))
    assert path.status == LEFT
    assert path.diverged
    assert path.message.startswith("left the domain of its equation at t = 0.693")
    np.testing.assert_allclose(path.stopped, np.log(2), atol=1e-3)
    assert path.steps < 200


def test_fixed_steps_that_lose_the_state_say_so():
    flow = jf.dynamics.gradient_flow(lambda x: -jnp.sum(x**3))
    path = jf.integrate(flow, jnp.ones(1), [0.0, 0.2, 1.0, 2.0], substeps=50)
    assert path.status == DIVERGED
    assert path.stopped == 1.0  # the first time whose value is not finite; it is lost at 1/3


def test_running_out_of_steps_is_said():
    path = jf.integrate(FLOW, START, TIMES, max_steps=3)
    assert path.status == MAX_STEPS
    assert "max_steps" in path.message


def test_event_stops_at_a_gradient_norm():
    path = jf.integrate(FLOW, START, jnp.array([0.0, 1.0, 100.0]), event=jf.gradient_norm_below(1e-3))
    assert path.status == STOPPED
    # |∇L| = e^{-t} once the fast direction is gone; the step in which it falls below is completed.
    assert np.log(1e3) <= path.stopped < np.log(1e3) + 1.0
    assert np.linalg.norm(CURVATURE * path.params) <= 1e-3
    assert np.isnan(path.values[-1]).all()
    assert np.isfinite(path.values[:-1]).all()


def test_reverse_and_forward_derivatives_of_the_flow():
    end = lambda x, **more: jf.integrate(FLOW, x, TIMES, rtol=1e-10, atol=1e-10, **more).params
    exact = np.diag(EXACT[-1] / START)
    np.testing.assert_allclose(jax.jit(jax.jacrev(end))(START), exact, atol=1e-8)
    forward = jax.jit(jax.jacfwd(lambda x: end(x, adjoint=diffrax.ForwardMode())))(START)
    np.testing.assert_allclose(forward, exact, atol=1e-8)


def test_auto_takes_rkc2_only_where_stiff_and_not_rotating():
    from jaxflow.solve.ode.stiffness import is_stiff

    @jf.dynamics.traceable
    def spin(rate):
        return jf.dynamics.Field(drift=lambda t, x: rate * jnp.array([-x[1], x[0]]))

    assert not is_stiff(FLOW, START, jnp.array([0.0, 1.0]))
    assert is_stiff(FLOW, START, jnp.array([0.0, 100.0]))
    assert not is_stiff(spin(10.0), START, jnp.array([0.0, 100.0]))
    path = jf.integrate(FLOW, START, 50 * TIMES, solver="auto", rtol=1e-6)
    assert np.abs(path.values - np.exp(-np.outer(50 * TIMES, CURVATURE)) * np.asarray(START)).max() < 1e-4
    with pytest.raises(TypeError, match="under jit"):
        jax.jit(lambda x: jf.integrate(FLOW, x, TIMES, solver="auto").params)(START)


def test_numbers_compile_nothing_new():
    data = [jax.random.normal(jax.random.key(i), (5, 2)) for i in range(3)]
    losses = lambda w, batch: jnp.sum((batch - w[None]) ** 2, 1)
    before = programs()["solve.ode.flow.follow"]
    for i, x in enumerate(data):
        jf.integrate(
            jf.dynamics.gradient_flow(jf.Objective(losses, x)), START * i, TIMES + i, rtol=10.0 ** -(5 + i)
        )
    assert programs()["solve.ode.flow.follow"] == before + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": [0.0, 1.0, 0.5]}, "times must be finite and increase, got 1 followed by 0.5 at index 2"),
        ({"times": [1.0, 1.0]}, "times must be finite and increase, got 1 followed by 1 at index 1"),
        (
            {"times": [0.0, 1.0, 1.0], "substeps": 2},
            "times must be finite and increase, got 1 followed by 1 at index 2",
        ),
        ({"times": [1.0]}, "at least two numbers"),
        ({"times": [0.0, np.nan]}, "times must be finite"),
        ({"rtol": -1e-3}, "rtol must be a finite number above 0, got -0.001"),
        ({"atol": 0}, "atol must be"),
        ({"step_size": np.nan}, "step_size must be"),
        ({"substeps": 0}, "substeps must be an integer at least 1, got 0"),
        ({"substeps": 2, "step_size": 0.1}, "either substeps or step_size"),
        ({"max_steps": 0}, "max_steps must be"),
        ({"solver": "outo"}, "Did you mean 'auto'"),
        ({"solver": diffrax.Euler()}, "Euler has no error estimate; give step_size or substeps"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_bad_values_are_refused_in_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        jf.integrate(FLOW, START, **({"times": TIMES} | change))


def test_bad_types_are_refused():
    with pytest.raises(TypeError, match="dynamics must be a Dynamics"):
        jf.integrate(loss, START, TIMES)
    with pytest.raises(TypeError, match="int"):
        jf.integrate(FLOW, jnp.arange(2), TIMES)
    with pytest.raises(TypeError, match="solver must be"):
        jf.integrate(FLOW, START, TIMES, solver=diffrax.Tsit5)
