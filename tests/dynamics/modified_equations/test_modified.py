"""The modified equation of an optimizer: its field, warm-up, clock, noise, and what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow.dynamics import ModifiedState, modified, modified_sde
from jaxflow.dynamics.modified_equations.step_logarithm import weights
from jaxflow.solve.trajectories.trajectory import FINISHED, LEFT, WARMING

pytestmark = pytest.mark.promotes
CURVATURES = np.array([1.0, 3.0])
START = jnp.array([1.0, -0.7])
traceable = jf.optim.traceable


def bowl(x):
    return 0.5 * jnp.sum(CURVATURES * x**2)


def uneven(x):
    return bowl(x) + 0.3 * jnp.sum(x**4) + 0.2 * x[0] * x[1] ** 2 + jnp.sum(jnp.sin(x))


def test_weights_are_those_of_the_logarithm():
    assert weights(1).tolist() == [1]
    np.testing.assert_allclose(weights(4), [25 / 12, -23 / 12, 13 / 12, -1 / 4], rtol=1e-15)
    # On an eigenvector, of multiplier 1 − x, the increments are −x (1 − x)^j and their sum is log(1 − x) to order p.
    for order in range(1, 9):
        x, powers = 1e-2, np.arange(order)
        gap = np.sum(weights(order) * -x * (1 - x) ** powers) - np.log1p(-x)
        np.testing.assert_allclose(gap, x ** (order + 1) / (order + 1), rtol=0.1, atol=1e-16)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradient_descent_on_a_quadratic_gives_the_series_of_the_logarithm(stride):
    h = 0.1
    moved = 1 - (1 - h * CURVATURES) ** stride
    for order in (1, 2, 5, 8):
        dynamics = modified(jf.optim.gd(h), bowl, order=order, stride=stride)
        series = -sum(moved**k / k for k in range(1, order + 1)) / (h * stride)
        got = jax.jit(lambda d: d.drift(0.0, d.init(START)))(dynamics)
        np.testing.assert_allclose(got.params, series * START, rtol=1e-12)
        np.testing.assert_allclose(got.steps, 1 / h, rtol=1e-12)


ANY = {
    "momentum": jf.optim.momentum(0.1, 0.5),
    "nesterov-lookahead": jf.optim.nesterov(0.1, 0.5, lookahead=True),
    "sgdw": jf.optim.sgdw(0.1, 0.5, 0.1),
    "adagrad": jf.optim.adagrad(0.1),
    "adam-scheduled": jf.optim.adam(jf.optim.inverse_sqrt(0.1)),
    "nadam": jf.optim.nadam(0.1),
    "newton": jf.optim.newton(0.1),
    "chain": jf.optim.chain(optax.add_decayed_weights(0.1), optax.scale_by_adam(), optax.scale(-0.1)),
    "alternating": jf.optim.alternating(jf.optim.adam(0.1)),
    "optax.adam": optax.adam(0.1),
    "optax.adamw": optax.adamw(optax.cosine_decay_schedule(0.1, 30)),
    "optax.sgd": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "optax.rmsprop": optax.rmsprop(0.1, centered=True),
    "optax.lamb": traceable(optax.lamb)(0.1),
    "optax.adabelief": optax.adabelief(0.1),
    "optax.novograd": optax.novograd(0.1),
    "optax.adan": optax.adan(0.1),
    "optax.contrib.muon": optax.contrib.muon(0.1),
    "optax.inject_hyperparams": optax.inject_hyperparams(optax.adam)(0.1),
    "optax.apply_if_finite": optax.apply_if_finite(optax.adam(0.1), 3),
    "optax.masked": optax.masked(optax.adam(0.1), (True, True)),
    "optax.partition": optax.partition({0: optax.adam(0.1), 1: optax.sgd(0.1)}, (0, 1)),
}


@pytest.mark.filterwarnings("ignore:The update of")
@pytest.mark.parametrize("name", ANY)
def test_the_field_is_the_logarithm_of_any_optimizers_own_iterates(name):
    """From a state with integer counts: iterates are run and subtracted, in float64, here; the field adds updates."""
    optimizer, params = ANY[name], (START, jnp.array([[0.5, -1.5], [1.0, 0.3]]))
    loss = lambda p: uneven(p[0]) + jnp.sum((p[1] - 1) ** 2) + 0.1 * jnp.sum(p[0]) * jnp.sum(p[1])
    floats = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, float), tree)

    @jax.jit
    def both():
        states = [(params, optimizer.init(params))]
        for _ in range(6):
            run = jf.optim.updates.advance(optimizer, *states[-1], loss)
            states.append(run)
        lifted = [ModifiedState(p, floats(s), jnp.asarray(float(k))) for k, (p, s) in enumerate(states)]
        dynamics = modified(optimizer, loss, order=3, time_step=0.1, warmup=0)
        jax.eval_shape(dynamics.init, params)
        return lifted[3:], dynamics.drift(0.0, lifted[3])

    (z0, z1, z2, z3), drift = jax.device_get(both())
    expected = jax.tree.map(
        lambda a, b, c, d: (11 / 6 * (b - a) - 7 / 6 * (c - b) + (d - c) / 3) / 0.1, z0, z1, z2, z3
    )
    chex.assert_trees_all_close(drift, expected, rtol=1e-9, atol=1e-9)


def test_a_run_begins_with_the_iterates_themselves():
    run = jf.iterate(jf.optim.adam(1e-2), uneven, START, steps=60)
    dynamics = modified(jf.optim.adam(1e-2), uneven, order=4)
    flow = jf.integrate(dynamics, START, run.times)
    np.testing.assert_allclose(flow.values[:21], run.values[:21], atol=1e-13)
    assert 1e-12 < jf.compare(run, flow).largest < 1e-6
    cold = jf.integrate(modified(jf.optim.adam(1e-2), uneven, order=4, warmup=0), START, run.times)
    assert jf.compare(run, cold).final > 5 * jf.compare(run, flow).final
    # Between two iterates there is a straight line, and at c times the speed all is there c times as early.
    twice = jf.integrate(2.0 * dynamics, START, [0.0, 0.0525, 0.3], substeps=40)
    np.testing.assert_allclose(twice.values[1], np.asarray(run.values)[10:12].mean(0), atol=1e-13)
    np.testing.assert_allclose(twice.params, flow.params, atol=1e-7)
    assert flow.state.steps == pytest.approx(60)


def test_what_a_run_records_of_the_iterates_is_traceable():
    times = jnp.linspace(0.0, 0.6, 7)
    run = lambda rate: jf.integrate(
        modified(jf.optim.adam(rate), uneven, warmup=5), START, times, record=uneven
    )
    losses = jax.vmap(run)(jnp.array([1e-2, 2e-2])).values
    np.testing.assert_allclose(losses[1], run(2e-2).values, rtol=1e-6)
    discrete = jf.iterate(jf.optim.adam(2e-2), uneven, START, steps=5, every=5, record=uneven)
    np.testing.assert_allclose(losses[1, 1], discrete.values[-1], rtol=1e-12)  # t = 5 · 2e-2


def test_a_warm_up_must_end_within_the_times():
    with pytest.raises(
        ValueError, match=r"warmup must end before the times do, which span 0\.1: its 20 steps take 0\.2"
    ):
        jf.integrate(modified(jf.optim.adam(1e-2), uneven), START, [0.0, 0.1])


def test_a_schedule_sets_the_clock_of_the_field_too():
    schedule = jf.optim.warmup(0.05, 200, 0.01)
    run = jf.iterate(jf.optim.gd(schedule), uneven, START, steps=60)
    gaps = [
        jf.compare(
            run, jf.integrate(modified(jf.optim.gd(schedule), uneven, order=p), START, run.times)
        ).final
        for p in (1, 3)
    ]
    assert gaps[0] > 100 * gaps[1]
    plain = modified(optax.sgd(schedule), uneven, order=3)  # hides its rate: its clock counts steps
    counted = jf.integrate(plain, START, jnp.arange(61.0))
    np.testing.assert_allclose(counted.params, run.params, atol=1e-4)


def test_a_schedule_may_begin_and_end_at_zero():
    """Steps of rate 0 take no time: the iterates' times repeat, and so do the values."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.05, 10, 60)
    run = jf.iterate(jf.optim.adam(schedule), uneven, START, steps=40)
    flow = jf.integrate(modified(jf.optim.adam(schedule), uneven, order=3), START, run.times)
    assert run.times[1] == run.times[0]
    np.testing.assert_allclose(flow.values[:21], run.values[:21], atol=1e-12)
    assert jf.compare(run, flow).largest < 1e-4
    still = jf.integrate(jf.dynamics.gradient_flow(bowl), START, [0.0, 0.5, 0.5])
    np.testing.assert_array_equal(still.values[1], still.values[2])


def test_on_mini_batches_it_is_the_sde_of_sgd():
    losses = lambda w, c: 0.5 * jnp.sum((w[None] - c) ** 2, -1) + jnp.sum(w**4)
    objective = jf.Objective(losses, np.arange(8.0).reshape(4, 2))
    known = jf.dynamics.sgd(objective, 0.1, 2, order=2)
    made = modified_sde(jf.optim.gd(0.1), objective, 2)
    xi = np.arange(4.0) - 1
    state = made.init(START)
    assert made.brownian(state) == known.brownian(START)
    found, expected = jax.jit(
        lambda x: (made.diffusion(0.0, state, x).params, known.diffusion(0.0, START, x))
    )(xi)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # The known drift is −∇(L + η|∇L|²/4): what two steps see of it differs at the next order.
    drifts = jax.jit(
        lambda h: (
            modified_sde(jf.optim.gd(h), objective, 2).drift(0.0, state).params
            - jf.dynamics.sgd(objective, h, 2, order=2).drift(0.0, START)
        )
    )
    np.testing.assert_allclose(np.divide(drifts(1e-3), drifts(5e-4)), 4.0, rtol=0.05)
    path = jf.integrate(made, START, [0.0, 1.0], key=jax.random.key(0), substeps=160)
    same = jf.integrate(known, START, [0.0, 1.0], key=jax.random.key(0), substeps=160)
    np.testing.assert_allclose(path.params, same.params, atol=0.02)


def test_noise_reaches_the_parameters_through_the_optimizer():
    centres = np.arange(8.0).reshape(4, 2)
    objective = jf.Objective(lambda w, c: 0.5 * jnp.sum((w[None] - c) ** 2, -1), centres)
    rate, beta, xi = 0.1, 0.9, np.array([1.0, -2.0, 0.5, 0.25])
    made = modified_sde(jf.optim.momentum(rate, beta), objective, 2, replacement=False)
    response = jax.jit(lambda xi: made.diffusion(0.0, made.init(START), xi))(xi)
    each = np.asarray(START)[None] - centres
    n = np.sqrt((4 - 2) / (4 - 1) / 2) * each.T @ (xi - xi.mean()) / 2
    np.testing.assert_allclose(jax.tree.leaves(response.optimizer)[0], n / np.sqrt(rate), rtol=1e-12)
    np.testing.assert_allclose(response.params, -rate * n / np.sqrt(rate), rtol=1e-12)


def test_noise_reaches_gradients_taken_elsewhere_too():
    losses = lambda w, c: 0.5 * ((w[0] - c[:, 0]) ** 2 + (w[1] - c[:, 1]) ** 2)
    objective = jf.Objective(losses, np.arange(8.0).reshape(4, 2))
    params, xi = (jnp.array(1.0), jnp.array(-0.7)), np.array([1.0, -2.0, 0.5, 0.25])

    def response(optimizer):
        made = modified_sde(optimizer, objective, 2, time_step=0.1)
        return jax.jit(lambda xi: made.diffusion(0.0, made.init(params), xi))(xi)

    plain = response(jf.optim.gd(0.1)).params
    chex.assert_trees_all_close(response(jf.optim.alternating(jf.optim.gd(0.1))).params, plain, rtol=1e-12)
    ahead = response(jf.optim.nesterov(0.1, 0.5, lookahead=True)).params
    chex.assert_trees_all_close(ahead, plain, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:Complex dtype support")
def test_complex_parameters_flow_as_their_real_and_imaginary_parts():
    complex_loss = lambda z: jnp.sum(jnp.abs(z - 1j) ** 2) + 0.1 * jnp.sum(z.real**4)
    real_loss = lambda x: complex_loss(x[0] + 1j * x[1])
    start = jnp.array([0.5 + 0.2j])
    ends = [
        jf.integrate(modified(jf.optim.gd(0.1), loss, order=2), at, [0.0, 1.0]).params
        for loss, at in ((complex_loss, start), (real_loss, jnp.stack([start.real, start.imag])))
    ]
    np.testing.assert_allclose(ends[0], np.array([1, 1j]) @ ends[1], rtol=1e-6)


def test_a_warm_up_that_outlasts_a_lane_is_told():
    run = lambda rate: jf.integrate(
        modified(jf.optim.adam(rate), uneven, warmup=5), START, jnp.array([0.0, 0.05, 0.1])
    )
    paths = jax.vmap(run)(jnp.array([1e-2, 1e-1]))
    assert paths.status.tolist() == [FINISHED, WARMING]
    assert np.isnan(paths.params[1]).all()
    assert np.isfinite(paths.values).all()
    steps = jf.iterate(jf.optim.adam(1e-1), uneven, START, steps=1)
    np.testing.assert_allclose(paths.values[1, 1:], [np.mean(steps.values, 0), steps.params], rtol=1e-12)


def test_a_warm_up_that_diverges_is_dated_by_its_own_values():
    run = jf.iterate(jf.optim.momentum(1e3), lambda x: jnp.sum(x**4), START[:1], steps=10)
    dynamics = modified(jf.optim.momentum(1e3), lambda x: jnp.sum(x**4), warmup=8)
    path = jf.integrate(dynamics, START[:1], run.times)
    assert path.diverged
    assert path.stopped == run.stopped
    finite = np.isfinite(run.values)
    np.testing.assert_allclose(np.asarray(path.values)[finite], run.values[finite], rtol=1e-12)


def test_sums_and_reversals_of_what_begins_with_steps_are_refused():
    dynamics = modified(jf.optim.momentum(1e-2), uneven)
    for made, message in (
        (dynamics + dynamics, "warmup must be 0 for a sum"),
        (-1.0 * dynamics, "factor must be"),
    ):
        with pytest.raises(ValueError, match=message):
            jf.integrate(made, START, [0.0, 1.0])


def test_a_flow_goes_on_from_a_run():
    begun = jf.iterate(jf.optim.adam(1e-2), uneven, START, steps=30)
    run = jf.iterate(jf.optim.adam(1e-2), uneven, begun.params, steps=20, state=begun.state)
    dynamics = modified(jf.optim.adam(1e-2), uneven, order=3)
    flow = jf.integrate(dynamics, START, run.times, state=jf.dynamics.modified_state(begun))
    np.testing.assert_allclose(flow.params, run.params, atol=1e-5)
    assert flow.state.steps == pytest.approx(50)
    with pytest.raises(TypeError, match="modified_state"):
        jf.integrate(dynamics, START, run.times, state=begun.state)


def test_single_precision_keeps_the_field():
    wide = np.array([1.0, -0.7, 0.4])
    narrow = np.float32(wide)
    loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 3.0, 9.0], x.dtype) * x**2) + jnp.sum(jnp.cos(2 * x))
    worst = 0.0
    for order in (1, 2, 3, 4):

        @jax.jit
        def field(h, x, order=order):
            dynamics = modified(jf.optim.gd(h), loss, order=order)
            return dynamics.drift(0.0, dynamics.init(x)).params

        for h in (1e-1, 1e-2, 1e-3, 1e-4):
            exact = np.asarray(field(float(np.float32(h)), narrow.astype(float)))
            gap = np.linalg.norm(field(np.float32(h), narrow) - exact) / np.linalg.norm(exact)
            worst = max(worst, gap)
    assert worst < 2e-6


def test_no_other_rate_or_start_compiles_anew():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def drift(dynamics, params):
        return dynamics.drift(0.0, dynamics.init(params)).params

    for rate in (1e-3, 1e-2):
        drift(modified(jf.optim.adam(rate, 0.9 + rate), uneven, order=3), START * rate)


def test_a_flow_out_of_the_domain_stops_and_says_when():
    """Near a saddle one step of RMSProp multiplies the gradient, and order 2 draws the second moment below 0."""
    dynamics = modified(jf.optim.rmsprop(0.1, 0.9), lambda x: -0.5 * jnp.sum(x**2), order=2, warmup=0)
    start = jnp.array([1e-2])
    state = ModifiedState(
        start, jax.tree.map(lambda v: v + 1e-4, dynamics.init(start).optimizer), jnp.array(0.0)
    )
    path = jf.integrate(dynamics, start, [0.0, 0.5, 1.0], state=state)
    assert path.status == LEFT
    assert 0 < path.stopped < 0.1
    assert "left the domain of its equation at t = 0.0" in path.message
    assert np.isnan(np.asarray(path.values)[1:]).all()


REFUSED = {
    "order must be an integer from 1 to 8, got 9": {"order": 9},
    "order must be an integer at least 1, got 0": {"order": 0},
    "order must be an integer at least 1, got 2.0": {"order": 2.0},
    "time_step must be a finite number above 0, got 0": {"time_step": 0},
    "time_step must be a finite number above 0, got -0.1": {"time_step": -0.1},
    "stride must be an integer at least 1, got 0": {"stride": 0},
    "warmup must be an integer at least 0, got -1": {"warmup": -1},
    "optimizer must be an optax transformation, got 0.1": {"optimizer": 0.1},
    "objective must be an Objective or a function of the parameters, got 3": {"objective": 3},
    "random": {
        "optimizer": jf.optim.chain(jf.optim.gradient_noise(0.1, key=jax.random.key(0)), jf.optim.gd(0.1))
    },
    "learning rate|time_step": {"optimizer": jf.optim.gd(0.0)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused_in_a_sentence(message):
    arguments = {"optimizer": jf.optim.gd(0.1), "objective": bowl} | REFUSED[message]
    with pytest.raises((ValueError, TypeError), match=message) as refusal:
        modified(**arguments)
    assert "\n" not in str(refusal.value)


def test_random_state_and_states_of_no_arrays_are_refused_before_anything_runs():
    noisy = modified(optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.sgd(0.1)), bowl)
    with pytest.raises(ValueError, match="random"):
        jf.integrate(noisy, START, [0.0, 40.0])
    odd = optax.GradientTransformation(lambda p: {"name": "x"}, lambda g, s, p=None: (g, s))
    with pytest.raises(TypeError, match="array"):
        jf.integrate(modified(odd, bowl), START, [0.0, 40.0])


@pytest.mark.parametrize(
    ("falling", "dtype"),
    [
        (optax.linear_schedule(0.1, 0.0, 50), "float64"),
        (lambda k: 0.1 * jnp.maximum(50 - k, 0) / 50, "float32"),  # optax's may end at a rounding error there
        (optax.cosine_decay_schedule(0.1, 50), "float64"),
        (optax.cosine_decay_schedule(0.1, 50), "float32"),
    ],
)
def test_where_a_schedule_ends_at_0_the_flow_stops_with_the_clock(falling, dtype):
    """Orders 1, 2 and 3 come closer to the iterates, as under any schedule; they were NaN at the end."""
    loss = lambda x: 0.5 * jnp.sum(x**2) + jnp.sum(x**4) / 10
    optimizer, start = jf.optim.gd(falling), jnp.ones(1, dtype)
    run = jf.iterate(optimizer, loss, start, steps=52)
    gaps = []
    for order in (1, 2, 3):
        path = jf.integrate(modified(optimizer, loss, order=order), start, run.times)
        assert path.status == FINISHED
        assert path.state.steps < 51
        gaps.append(float(jf.compare(run, path).final))
    assert gaps[0] < 4e-3
    assert gaps[1] < gaps[0] / 10
    assert gaps[2] < gaps[1] / 8
