"""RKC2 against its stability polynomial evaluated by NumPy, closed forms, and the behaviour it promises."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import Chebyshev
from scipy.integrate import solve_ivp

from jaxflow.solve.ode.diffrax_solves.pid import CountingPID
from jaxflow.solve.ode.diffrax_solves.rkc import RKC2, RKC2State, evaluations

PID = {"pcoeff": 0.3, "icoeff": 0.4, "dtmin": 1e-10, "force_dtmin": False}


def polynomial(s, z, derivative=0):
    """The stability polynomial of s stages, or a derivative of it, from NumPy's Chebyshev series."""
    T = Chebyshev.basis(s)
    w0 = 1 + np.longdouble(2) / 13 / s**2  # more digits: at large s it is the reference that rounds
    first, second = T.deriv(1)(w0), T.deriv(2)(w0)
    b, w1 = second / first**2, first / second
    if derivative:
        return b * w1**derivative * T.deriv(derivative)(w0 + w1 * z)
    return 1 - b * T(w0) + b * T(w0 + w1 * z)


@jax.jit
def one_step(z, s, solver=RKC2()):  # noqa: B008
    """A step of length 1 on y' = z y from 1 with s stages: y, the error estimate, evaluations."""
    y, term = jnp.ones_like(z), dfx.ODETerm(lambda t, y, z: z * y)
    radius = ((s - 0.5) ** 2 - 1) / (1.54 * 1.2)
    state = RKC2State(z, y / jnp.linalg.norm(y), jnp.asarray(radius, float), jnp.zeros((), jnp.int32))
    time = lambda t: jnp.asarray(t, z.dtype)
    y, error, _, state, _ = solver.step(term, time(0), time(1), y, z, state, False)
    return y, error, state.evaluations


def solve(field, y0, t1, rtol=1e-4, args=None, max_stages=500, controller=None, save=None, dt0=0.01):
    solver = RKC2(max_stages=max_stages, counted=controller is None)
    options = {"throw": False, "max_steps": 20_000}
    options["saveat"] = save or dfx.SaveAt(t1=True, solver_state=True, controller_state=True)
    options["stepsize_controller"] = controller or CountingPID(rtol, rtol, **PID)
    return dfx.diffeqsolve(dfx.ODETerm(field), solver, 0.0, t1, dt0, y0, args, **options)


def constant(field, y0, t1, h, args=None, **options):
    options = {"dt0": h, "controller": dfx.ConstantStepSize(), "save": dfx.SaveAt(t1=True)} | options
    return solve(field, y0, t1, args=args, **options).ys


@pytest.mark.parametrize("s", [2, 3, 4, 7, 20, 100])
def test_one_step_is_the_stability_polynomial(s):
    z = -np.concatenate([np.linspace(0, 0.65 * (s**2 - 1), 201), [1e-9, 1e-3, 0.1]])
    got, error, spent = one_step(jnp.asarray(z), s)
    exact, atol = polynomial(s, z), max(1e-12, 1e-15 * s**2)
    np.testing.assert_allclose(got, exact, rtol=0, atol=atol)
    np.testing.assert_allclose(error, 0.8 * (1 - exact) + 0.4 * z * (1 + exact), rtol=0, atol=atol * s**2)
    assert spent == s + 1


@pytest.mark.parametrize("s", [20, 200])
def test_coefficients_keep_their_digits_without_float64(s):
    # The polynomial itself magnifies rounding by up to s^2 towards the end of its interval.
    z = -np.linspace(0, 0.65 * (s**2 - 1), 50, dtype=np.float32)
    with jax.enable_x64(False):
        got, _, _ = one_step(jnp.asarray(z), s)
        assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, polynomial(s, z), rtol=0, atol=max(2e-5, 2e-8 * s**2))


@pytest.mark.parametrize("s", [2, 5, 40])
def test_stability_interval(s):
    end = 0.65 * (s**2 - 1)
    inside, _, _ = one_step(jnp.linspace(-end, -1e-3 * end, 2001), s)
    assert jnp.all(jnp.abs(inside) < 1)
    outside, _, _ = one_step(jnp.linspace(-1.3 * end, -1.15 * end, 5), s)
    assert jnp.all(jnp.abs(outside) > 1)


def test_order_two_on_a_nonlinear_equation_and_its_dense_output():
    times = jnp.linspace(0.0, 2.0, 101)
    exact = 1 / (2 - np.cos(times))
    field, save = lambda t, y, args: -(y**2) * jnp.sin(t), dfx.SaveAt(ts=times)
    run = jax.jit(lambda h: constant(field, jnp.ones(()), 2.0, h, save=save))
    errors = np.array([np.abs(run(2 / n) - exact) for n in (25, 50, 100)])
    for size in (errors[:, -1], errors.max(1)):
        np.testing.assert_allclose(np.log2(size[:-1] / size[1:]), 2, atol=0.1)


def test_order_two_on_a_stiff_linear_equation():
    # The fast mode holds nothing but sets the stages; far beyond explicit stability, h·rate = 25 and up.
    turn = jnp.array([[0.8, -0.6], [0.6, 0.8]])
    matrix = turn @ jnp.diag(jnp.array([1.0, 1000.0])) @ turn.T
    run = jax.jit(lambda h: constant(lambda t, y, matrix: -matrix @ y, turn[:, 0], 1.0, h, matrix)[0])
    errors = [np.linalg.norm(run(1 / n) - turn[:, 0] * np.exp(-1)) for n in (10, 20, 40)]
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.1)


def test_steps_far_beyond_explicit_stability_are_damped():
    # Each of 200 steps multiplies a mode with h·rate = 100 … 10^4 by at most 1 − damping/3.
    run = jax.jit(lambda rate: constant(lambda t, y, rate: -rate * y, jnp.ones(2), 20.0, 0.1, rate))
    for rate in (1e3, 1e4, 1e5):
        assert jnp.all(jnp.abs(run(rate * jnp.array([0.5, 1.0]))) <= 0.96**200)


def brusselator(t, y, args):
    """Diffusion and reaction on a line of 40 points; Hairer & Wanner (1996), IV.1."""
    curve = lambda w, edge: 0.02 * 41**2 * jnp.convolve(jnp.pad(w, 1, constant_values=edge), LAPLACE, "valid")
    u, v = y["u"], y["v"]
    return {"u": 1 + u**2 * v - 4 * u + curve(u, 1.0), "v": 3 * u - u**2 * v + curve(v, 3.0)}


LAPLACE = np.array([1.0, -2.0, 1.0])


def test_adaptive_error_follows_the_tolerance():
    y0 = {"u": 1 + np.sin(2 * np.pi * np.arange(1, 41) / 41), "v": np.full(40, 3.0)}
    flat = lambda tree: np.concatenate([np.ravel(tree["u"]), np.ravel(tree["v"])])
    field = jax.jit(lambda y: brusselator(0.0, {"u": y[:40], "v": y[40:]}, None))
    reference = solve_ivp(lambda t, y: flat(field(y)), (0, 5), flat(y0), "LSODA", rtol=1e-10, atol=1e-10).y[
        :, -1
    ]
    run = jax.jit(lambda rtol: solve(brusselator, y0, 5.0, rtol))
    tolerances = np.array([1e-3, 1e-4, 1e-5, 1e-6])
    solutions = [run(rtol) for rtol in tolerances]
    errors = np.array([np.abs(flat(solution.ys) - reference).max() for solution in solutions])
    # The error of a step follows the tolerance, the number of steps its cube root: 2/3 or better overall.
    assert 0.55 < np.polyfit(np.log(tolerances), np.log(errors), 1)[0] < 1.1
    assert np.all(errors < 10 * tolerances ** (2 / 3))
    # Tsit5 is held to steps below 3.3 over the spectral radius, 4 · 0.02 · 41² ≈ 134, of 6 evaluations.
    assert int(evaluations(solutions[1])) < 0.5 * (6 * 5 * 134 / 3.3)


def test_lanes_of_a_vmap_equal_single_runs_and_a_nan_one_stops():
    def run(rate, limit):
        field = lambda t, y, args: jnp.where(t > limit, jnp.nan, -rate * (y - jnp.cos(t)) * (1 + 0.1 * y))
        return solve(field, jnp.ones(2), 1.0, 1e-5)

    rates, limits = jnp.array([0.1, 30.0, 3000.0, 30.0]), jnp.array([2.0, 2.0, 2.0, 0.5])
    together, run = jax.jit(jax.vmap(run))(rates, limits), jax.jit(run)
    for lane in range(4):
        alone = run(rates[lane], limits[lane])
        np.testing.assert_allclose(together.ys[lane], alone.ys, rtol=1e-10)
        assert evaluations(together)[lane] == evaluations(alone)
    stopped = together.result == dfx.RESULTS.dt_min_reached
    np.testing.assert_array_equal(stopped, [False, False, False, True])
    assert jnp.all(together.stats["num_steps"] < 150)


def test_a_state_that_is_nan_makes_one_short_step_with_a_nan_estimate():
    _, error, spent = one_step(jnp.array([jnp.nan, -1.0]), 2)
    assert jnp.isnan(error[0])
    assert spent == 3


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("checkpointed", jax.jacrev), ("lax", jax.jacfwd), ("bounded", jax.jacrev), ("bounded", jax.jacfwd)],
)
def test_derivatives_are_those_of_the_stability_polynomial(kind, mode):
    s, solver = 9, RKC2(max_stages=20, scan_kind=kind)
    z = -jnp.linspace(0.1, 50.0, 7)
    got = jax.jit(mode(lambda z: one_step(z, s, solver)[0]))(z)
    np.testing.assert_allclose(got, np.diag(polynomial(s, np.asarray(z), 1)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "adjoint", "mode"),
    [("lax", dfx.ForwardMode(), jax.jacfwd), ("bounded", dfx.DirectAdjoint(), jax.jacrev)],
)
def test_derivatives_of_a_solve(kind, adjoint, mode):
    h, n, rate = 0.5, 4, 40.0
    s = int(np.ceil(np.sqrt(1 + 1.54 * 1.2 * h * rate)))
    value = polynomial(s, -h * rate)
    exact = np.array([-n * h * value ** (n - 1) * polynomial(s, -h * rate, 1), value**n], float)
    term, solver = dfx.ODETerm(lambda t, y, rate: -rate * y), RKC2(max_stages=20, scan_kind=kind)
    final = lambda rate, y0: dfx.diffeqsolve(
        term, solver, 0.0, n * h, h, y0, rate, max_steps=6, adjoint=adjoint
    ).ys[0]
    got = jax.jit(mode(final, argnums=(0, 1)))(jnp.asarray(rate), jnp.ones(()))
    np.testing.assert_allclose(got, exact, rtol=1e-10)


def test_gradient_through_adaptive_and_rejected_steps():
    logistic = lambda t, y, args: -50 * y * (y - 1)
    run = lambda y0: solve(logistic, y0, 0.1, 1e-7, dt0=0.1)
    growth, y0 = np.exp(5.0), jnp.asarray(0.2)
    value, gradient = jax.jit(jax.value_and_grad(lambda y0: run(y0).ys[0]))(y0)
    np.testing.assert_allclose(value, y0 * growth / (1 - y0 + y0 * growth), rtol=1e-5)
    np.testing.assert_allclose(gradient, growth / (1 - y0 + y0 * growth) ** 2, rtol=1e-4)


def test_evaluations_are_those_made():
    calls = []

    def field(t, y, args):
        jax.debug.callback(lambda: calls.append(1))
        return -1e3 * (y - jnp.cos(t)) * y

    solution = solve(field, jnp.array([5.0]), 1.0, 1e-5)
    jax.effects_barrier()
    steps, rejected = solution.stats["num_steps"], solution.stats["num_rejected_steps"]
    assert rejected > 0
    # A product is one call that makes two evaluations: 10 at the start and one a step.
    assert evaluations(solution) == len(calls) + 10 + steps
    assert evaluations(solution) > solution.solver_state.evaluations


def test_a_mode_that_wakes_is_found():
    # The second rate is 1, then 10^4. A plain power iteration has forgotten its direction by then.
    field = lambda t, y, args: -jnp.stack([1e2 + 0 * t, jnp.where(t < 5, 1.0, 1e4)]) * (y - jnp.cos(t))
    solution = solve(field, jnp.ones(2), 10.0)
    assert solution.result == dfx.RESULTS.successful
    np.testing.assert_allclose(solution.ys[0], np.cos(10.0), atol=1e-2)
    np.testing.assert_allclose(solution.solver_state.radius, 1e4, rtol=0.02)
    assert evaluations(solution) < 10_000  # an explicit method of order 2 needs 25,000 steps from t = 5 on


@pytest.mark.parametrize("seed", range(3))
def test_radius_at_the_start(seed):
    # 300 rates spread over [0, 1], two above: an estimate within the factor of safety, and never above.
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(302, 302)))
    matrix = jnp.asarray(basis @ np.diag([*rng.uniform(size=300), 1.8, 2.0]) @ basis.T)
    term = dfx.ODETerm(lambda t, y, matrix: -matrix @ y)
    state = jax.jit(lambda matrix: RKC2().init(term, 0.0, 1.0, jnp.zeros(302), matrix))(matrix)
    assert 2 / 1.2 < state.radius <= 2 * (1 + 1e-12)
    assert state.evaluations == 21


def test_steps_beyond_max_stages_are_shortened_or_nan():
    field = lambda t, y, args: -1e4 * (y - jnp.cos(t))
    solution = solve(field, jnp.ones(1), 1.0, max_stages=20)
    assert solution.result == dfx.RESULTS.successful
    np.testing.assert_allclose(solution.ys[0], np.cos(1.0), atol=1e-3)
    assert solution.stats["num_accepted_steps"] >= 1.54 * 1.2 * 1e4 / (20**2 - 1)
    # A controller that cannot shorten steps gets NaN, not instability.
    for stages in (20, 21):
        y, error, spent = one_step(-jnp.ones(2), stages, RKC2(max_stages=20))
        assert jnp.isnan(y).all() == jnp.isinf(error).all() == (stages == 21)
        assert spent == (21 if stages == 20 else 3)


def test_pytrees_and_jumps():
    field = lambda t, y, args: {"a": jnp.where(t < 1, 1.0, -2.0) * jnp.ones((2, 3)), "b": (-y["b"][0],)}
    controller = dfx.PIDController(1e-6, 1e-6, jump_ts=jnp.array([1.0]), **PID)
    y0 = {"a": jnp.zeros((2, 3)), "b": (jnp.ones(()),)}
    solution = solve(field, y0, 2.0, controller=controller, save=dfx.SaveAt(t1=True, solver_state=True))
    np.testing.assert_allclose(solution.ys["a"], np.full((1, 2, 3), -1.0), rtol=1e-5)
    np.testing.assert_allclose(solution.ys["b"][0], [np.exp(-2.0)], atol=1e-4)
    assert solution.stats["num_rejected_steps"] <= 2
    assert solution.solver_state.evaluations > 2 * 21  # a jump starts the power iteration anew


def test_backward_in_time():
    back = solve(lambda t, y, args: 500 * (y - jnp.cos(t)), jnp.ones(()), -1.0, dt0=-0.01)
    np.testing.assert_allclose(back.ys[0], np.cos(1.0), atol=1e-2)


def test_single_precision_throughout():
    with jax.enable_x64(False):
        field = lambda t, y, rates: -rates * (y - jnp.cos(t))
        solution = solve(field, jnp.ones(2), 1.0, 1e-5, jnp.array([1e2, 1e4]), dt0=0.01)
        assert solution.ys.dtype == jnp.float32
        assert solution.stats["num_steps"] < 200
    np.testing.assert_allclose(solution.ys[0], np.cos(1.0) + np.array([1e-2, 1e-4]) * np.sin(1.0), atol=2e-4)


def test_leaves_of_mixed_precision():
    y = {"single": jnp.ones(2, jnp.float32), "double": jnp.ones(3)}
    term = dfx.ODETerm(lambda t, y, args: jax.tree.map(lambda leaf: -30 * leaf, y))

    @jax.jit
    def step(start, end):
        state = RKC2().init(term, start, end, y, None)
        return RKC2().step(term, start, end, y, None, state, False)[0]

    stepped = step(jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32))
    exact = float(polynomial(int(np.ceil(np.sqrt(1 + 1.54 * 1.2 * 30))), -30.0))
    np.testing.assert_allclose(stepped["single"], np.full(2, exact), rtol=1e-5)
    np.testing.assert_allclose(stepped["double"], np.full(3, exact), rtol=1e-12)


def test_is_a_static_pytree():
    assert jax.tree.leaves(RKC2()) == []
    assert RKC2(max_stages=20) == RKC2(max_stages=20)
    assert hash(RKC2()) == hash(RKC2())


@pytest.mark.parametrize("options", [{"max_stages": 1}, {"max_stages": 10.0}, {"scan_kind": "reverse"}])
def test_bad_options_are_refused(options):
    with pytest.raises((TypeError, ValueError), match=f"{next(iter(options))} must be"):
        RKC2(**options)


def test_what_it_cannot_do_is_refused():
    term = dfx.ODETerm(lambda t, y, args: -y)
    with pytest.raises(TypeError, match="must not be complex"):
        RKC2().init(term, 0.0, 1.0, jnp.ones(2, complex), None)
    controller = CountingPID(1e-3, 1e-3)
    with pytest.raises(TypeError, match=r"RKC2\(counted=True\)"):
        dfx.diffeqsolve(term, RKC2(), 0.0, 1.0, 0.1, jnp.ones(2), stepsize_controller=controller)
