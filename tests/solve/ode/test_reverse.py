"""Reverse mode through our own solvers: closed forms, diffrax's derivative, many steps, lanes, and its programs."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow import dynamics
from jaxflow._compiled import programs
from jaxflow.solve.ode.ours.tape import FREE, KEPT, blank_tape

pytestmark = pytest.mark.promotes

RKC2 = jf.RKC2()


@dynamics.traceable
def forced(rate, push):
    """A field that depends on the time, on a number and on an array, and is not linear."""
    return dynamics.Field(drift=lambda t, x: -rate * x - 0.1 * x**3 + push["by"] * jnp.sin(t))


@dynamics.traceable
def spin(rate):
    return dynamics.Field(drift=lambda t, x: rate * jnp.array([-x[1], x[0]]))


def shown(rate, push, start, times, **more):
    """A number made of the end, of values between the steps, and of a record with an array of its own."""
    flow = forced(rate, {"by": push, "index": jnp.arange(3)})
    path = jf.integrate(flow, start, times, **more)
    return path.params.sum() + jnp.sum(path.values**2 * jnp.arange(1.0, times.size + 1)[:, None])


def forward_derivative(function, *arguments):
    """By diffrax's own solver, forwards through each of its steps, which it compiles the fastest."""
    every = tuple(range(len(arguments)))
    return jax.jit(jax.jacfwd(partial(function, adjoint=diffrax.ForwardMode()), every))(*arguments)


ARGUMENTS = (
    jnp.asarray(0.7),
    jnp.array([0.5, -0.3]),
    jnp.array([1.0, -2.0]),
    jnp.array([0.2, 0.9, 1.0, 3.0]),
)


@pytest.mark.parametrize("solver", [None, RKC2], ids=["Tsit5", "RKC2"])
@pytest.mark.parametrize("steps", [{"substeps": 7}, {}], ids=["equal", "adaptive"])
def test_the_derivative_is_that_of_diffrax(solver, steps):
    """To rounding where the steps are the same; diffrax lets the first adaptive step vary."""
    value = partial(shown, **steps, solver=solver, rtol=1e-9, max_steps=4000)
    ours = jax.jit(jax.grad(value, (0, 1, 2, 3)))(*ARGUMENTS)
    theirs = forward_derivative(value, *ARGUMENTS)
    tolerance = 1e-12 if steps else (1e-7 if solver is None else 1e-4)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("solver", [None, RKC2], ids=["Tsit5", "RKC2"])
@pytest.mark.parametrize("steps", [{"substeps": 5}, {"step_size": 0.03}], ids=["substeps", "step_size"])
def test_equal_steps_against_central_differences(solver, steps):
    """Of every argument along a random direction; with steps that are given, nothing else is chosen."""
    function = jax.jit(lambda *x: shown(*x, **steps, solver=solver))
    rng = np.random.default_rng(1)
    arguments = jax.device_get(ARGUMENTS)
    ways = [0.3 * rng.normal(size=x.shape) for x in arguments]
    slopes = jax.jit(jax.grad(function, (0, 1, 2, 3)))(*ARGUMENTS)
    if solver is not None:  # how many stages a step has, jumps with the field
        ways[0] = 0.0
    move = lambda by: function(*(x + by * way for x, way in zip(arguments, ways, strict=True)))
    slope = sum(np.sum(a * b) for a, b in zip(slopes, ways, strict=True))
    assert slope == pytest.approx(float(move(1e-4) - move(-1e-4)) / 2e-4, rel=1e-6)


def test_values_and_the_end_move_with_their_times():
    """A value's derivative by its own time is the velocity there, and by no other time."""
    flow, times = spin(0.8), jnp.array([0.0, 0.4, 0.5, 2.0])
    of = {"values": lambda path: path.values, "end": lambda path: path.params[None]}
    solve = lambda t, name: of[name](jf.integrate(flow, jnp.array([1.0, 0.0]), t, rtol=1e-10))
    for name in of:
        slope = jax.jit(jax.jacrev(solve), static_argnums=1)(times, name)
        angles = 0.8 * np.asarray(times)
        velocity = 0.8 * np.stack([-np.sin(angles), np.cos(angles)], 1)
        exact = np.einsum("tn,ts->tns", velocity, np.eye(4)) - np.einsum("tn,s->tns", velocity, np.eye(4)[0])
        np.testing.assert_allclose(slope, exact[-len(slope) :], atol=2e-6)


def test_thousands_of_steps_in_both_precisions():
    """Many times more steps than states are kept, as a closed form says; a lane with few steps, and one with none."""
    times = lambda end: jnp.stack([jnp.zeros_like(end), 0.37 * end, end])

    def last(rate, start, end, **more):
        path = jf.integrate(spin(rate), start, times(end), max_steps=9000, **more)
        return path.params[0] + path.values[1, 1]

    def exact(rate, start, end, **more):
        turn = lambda a: jnp.array([[jnp.cos(a), -jnp.sin(a)], [jnp.sin(a), jnp.cos(a)]])
        return (turn(rate * end) @ start)[0] + (turn(0.37 * rate * end) @ start)[1]

    start = jnp.array([1.0, 0.3])
    check = lambda f, *x, tolerance, **more: jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * 100),
        jax.jit(jax.grad(lambda *x: f(last, *x, **more), (0, 1, 2)))(*x),
        jax.jit(jax.grad(lambda *x: f(exact, *x), (0, 1, 2)))(*x),
    )
    one = lambda f, *x, **more: f(*x, **more)
    rate, end = jnp.asarray(1.0), jnp.asarray(50.0)
    steps = jf.integrate(spin(rate), start, times(end), rtol=1e-12, atol=1e-12, max_steps=9000).steps
    assert steps > 40 * KEPT
    check(one, rate, start, end, tolerance=1e-8, rtol=1e-12, atol=1e-12)
    single = [x.astype(jnp.float32) for x in (rate, start, end)]
    check(one, *single, tolerance=1e-3, step_size=jnp.float32(0.02))
    lanes = jnp.array([0.01, 1.0]), jnp.stack([start, start]), jnp.array([1.0, 20.0])
    lanewise = lambda f, *x, **more: jax.vmap(lambda *x: f(*x, **more))(*x).sum()
    check(lanewise, *lanes, tolerance=1e-7, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("number", [1, KEPT, KEPT + 1, 1000, 100_000])
def test_the_tape_keeps_states_evenly(number):
    """At most 64 of them, at every multiple of the stride, and more than half of that where it is full."""

    def note(tape, k):
        return tape.note(jnp.asarray(True), k.astype(float), k[None].astype(float), k), None

    blank = blank_tape(jnp.zeros(1), jnp.zeros(2), number)
    tape = jax.jit(lambda tape: jax.lax.scan(note, tape, jnp.arange(number + 1, dtype=jnp.int32))[0])(blank)
    kept = np.asarray(tape.index)
    held = kept >= 0
    assert tape.number == number
    np.testing.assert_array_equal(tape.ends, np.arange(number + 1))
    np.testing.assert_array_equal(np.asarray(tape.states)[held, 0], kept[held])
    assert held.sum() <= KEPT
    assert not held[-FREE:].any()
    assert set(range(0, number + 1, int(tape.stride))) <= set(kept[held].tolist())
    assert tape.stride == 1 or number / int(tape.stride) > KEPT / 2 - 1


@pytest.mark.filterwarnings("ignore:Complex dtype support in Diffrax")
def test_complex_states_frozen_leaves_and_recorders():
    """Against diffrax: a loss of complex parameters, a model with a function in it, and a recorder with a memory."""

    def complex_end(z, **more):
        flow = dynamics.gradient_flow(lambda z: jnp.sum(jnp.abs(z) ** 2 + 0.1 * jnp.abs(z) ** 4))
        return jnp.sum(jnp.abs(jf.integrate(flow, z, [0.0, 0.3, 1.0], substeps=6, **more).values) ** 2)

    model = {"w": jnp.array([1.0, -0.5]), "act": jnp.tanh, "n": jnp.arange(2)}
    loss = lambda model: jnp.sum(model["act"](model["w"]) ** 2 * (1 + model["n"]))

    def frozen_end(w, **more):
        flow = dynamics.gradient_flow(loss)
        path = jf.integrate(flow, model | {"w": w}, [0.0, 0.5, 1.0], substeps=6, record=loss, **more)
        return path.values.sum() + path.params["w"].prod()

    def length_end(w, **more):
        @jf.optim.traceable
        def way(scale):
            def look(memory, params, state):
                length = memory[1] + scale * jnp.sum((params - memory[0]) ** 2)
                return length, (params, length)

            return jf.Recorder(begin=lambda params, state: (params, jnp.zeros(())), look=look)

        flow = dynamics.heavy_ball(lambda x: jnp.sum(jnp.cosh(x)), 0.9, 0.1)
        return jf.integrate(flow, w, [0.0, 0.5, 1.0], substeps=6, record=way(w[0]), **more).values.sum()

    z = jnp.array([1 + 2j, 0.5j])
    by_parts = lambda x, y, **more: complex_end(jax.lax.complex(x, y), **more)
    by_real, by_imaginary = forward_derivative(by_parts, z.real, z.imag)
    np.testing.assert_allclose(jax.jit(jax.grad(complex_end))(z), by_real - 1j * by_imaginary, rtol=1e-12)
    for end in (frozen_end, length_end):
        ours, (theirs,) = jax.jit(jax.grad(end))(model["w"]), forward_derivative(end, model["w"])
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, err_msg=end.__name__)


def test_lanes_that_fail_do_not_touch_the_others():
    """One diverges, one begins as NaN, and one is good: its derivative is that of it alone."""
    flow = dynamics.gradient_flow(lambda x: -jnp.sum(x**3))
    end = lambda x: jf.integrate(flow, x, [0.0, 0.1, 0.5]).values.sum()
    starts = jnp.array([[1.0], [jnp.nan], [0.2]])
    slopes = jax.vmap(jax.grad(end))(starts)
    np.testing.assert_allclose(slopes[2], jax.grad(end)(starts[2]), rtol=1e-10)


def test_second_derivatives_integers_in_a_record_and_no_leaks():
    """Forward over reverse against central differences of the gradient, with equal steps."""
    flow = dynamics.gradient_flow(lambda x: jnp.sum(jnp.cosh(x)))
    record = lambda x: {"where": jnp.argmax(x), "x": x}
    end = lambda x: jnp.sum(
        jf.integrate(flow, x, [0.0, 0.3, 1.0], substeps=5, record=record).values["x"] ** 2
    )
    at, by = np.array([0.5, -0.8]), 1e-5 * np.eye(2)
    with jax.checking_leaks():
        slope = jax.jit(jax.grad(end))
        slope(at)
    differences = [np.subtract(slope(at + way), slope(at - way)) / 2e-5 for way in by]
    np.testing.assert_allclose(
        jax.jit(jax.jacfwd(jax.grad(end)))(at), np.stack(differences, 1), rtol=1e-7, atol=1e-8
    )


def test_two_programs_without_jit_and_no_limit_of_steps_is_refused():
    loss = lambda x: jnp.sum(jnp.cosh(x))
    flow, times = dynamics.gradient_flow(loss), jnp.array([0.0, 0.5, 1.0])
    before = programs()["solve.ode.flow.follow"]
    pull = jax.vjp(lambda x: jf.integrate(flow, x, times).values, jnp.ones(3))[1]
    pull(jnp.ones((3, 3)))
    assert programs()["solve.ode.flow.follow"] - before <= 2
    with pytest.raises(ValueError, match="max_steps"):
        jax.grad(lambda x: jf.integrate(flow, x, times, max_steps=None).params.sum())(jnp.ones(3))
