"""Stability thresholds against closed forms, against independent matrices, and against runs on a quadratic."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import optim
from jaxflow._compiled import programs
from jaxflow.curvature.stability.preconditioners import preconditioner_of
from jaxflow.curvature.stability.thresholds import stability_threshold
from jaxflow.optim.table import ENTRIES, entry_of

pytestmark = pytest.mark.promotes

GRID = [(rate, beta) for rate in (1e-3, 0.1, 3.0) for beta in (0.0, 0.5, 0.9, 0.99)]
DECAY = 0.3


def heavy_ball(rate, beta):
    return 2 * (1 + beta) / rate


def average(rate, beta):
    return 2 * (1 + beta) / ((1 - beta) * rate)


def nesterov(rate, beta):
    return (2 + 2 * beta) / ((1 + 2 * beta) * rate)


def descent(rate, beta):
    return 2 / rate


def made(constructor, *names, **fixed):
    return lambda rate, beta: constructor(**dict(zip(names, (rate, beta), strict=False)), **fixed)


RATE, BETA, B1 = ("learning_rate",), ("learning_rate", "beta"), ("learning_rate", "b1")
CLOSED = {
    "gd": (made(optim.gd, *RATE), descent),
    "momentum": (made(optim.momentum, *BETA), heavy_ball),
    "momentum, average": (made(optim.momentum, *BETA, ema=True, debias=True), average),
    "nesterov": (made(optim.nesterov, *BETA), nesterov),
    "nesterov, look-ahead": (made(optim.nesterov, *BETA, lookahead=True), nesterov),
    "sgdw": (
        made(optim.sgdw, *BETA, weight_decay=DECAY),
        lambda rate, beta: (1 + beta) * (2 - rate * DECAY) / rate,
    ),
    "adagrad": (made(optim.adagrad, *RATE), descent),
    "rmsprop": (made(optim.rmsprop, "learning_rate", "decay"), descent),
    "scalar_rmsprop": (made(optim.scalar_rmsprop, "learning_rate", "decay"), descent),
    "adam": (made(optim.adam, *B1), average),
    "adamw": (
        made(optim.adamw, *B1, weight_decay=DECAY),
        lambda rate, beta: average(rate, beta) * (1 - rate * DECAY / 2),
    ),
    "amsgrad": (made(optim.amsgrad, *B1), average),
    "nadam": (made(optim.nadam, *B1), lambda rate, beta: nesterov(rate, beta) / (1 - beta)),
    "nadam, scheduled": (
        made(optim.nadam, *B1, momentum_decay=0.1),
        lambda rate, beta: nesterov(rate, beta) / (1 - beta),
    ),
    "radam": (made(optim.radam, *B1), average),
    "adabound": (made(optim.adabound, "final_learning_rate", "b1"), average),
    "swats": (made(optim.swats, *B1), average),
    "L2 and momentum": (
        lambda rate, beta: optim.chain(optim.l2_regularization(DECAY), optim.momentum(rate, beta)),
        lambda rate, beta: heavy_ball(rate, beta) - DECAY,
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_by_one_program(name):
    make, exact = CLOSED[name]
    made = []
    for rate, beta in GRID:
        assert stability_threshold(make(rate, beta)) == pytest.approx(exact(rate, beta), rel=1e-8)
        made.append(programs()["curvature.stability.thresholds.threshold"])
    assert made[0] > 0
    assert made[1:] == made[:-1]  # the first may be found in the process, from another file's tests


def test_the_table_of_optimizers_writes_the_same_closed_forms():
    written = set()
    for make, exact in CLOSED.values():
        for rate, beta in GRID:
            entry, chosen = entry_of(make(rate, beta)), optim.hyperparameters(make(rate, beta))
            if entry is not None:  # a chain has none
                assert eval(entry.threshold, {}, chosen) == pytest.approx(exact(rate, beta), rel=1e-12)
                written.add(entry)
    assert written == {entry for entry in ENTRIES if isinstance(entry.threshold, str)}


@pytest.mark.parametrize(
    ("optimizer", "exact"),
    [
        (optax.adam(0.01), 3800),
        (optax.amsgrad(0.01), 3800),
        (optax.adamax(0.01), 3800),
    ],
    ids=["adam", "amsgrad", "adamax"],
)
def test_optimizers_of_optax(optimizer, exact):
    """Adamax divides by the first power of what it calls `nu`."""
    assert stability_threshold(optimizer) == pytest.approx(exact, rel=1e-9)


def test_a_period_of_accumulated_gradients():
    optimizer = optax.MultiSteps(optax.sgd(0.1), 3).gradient_transformation()
    assert stability_threshold(optimizer, period=3) == pytest.approx(20, rel=1e-6)  # it averages in float32


def test_lookahead_around_gradient_descent():
    """1 - α + α(1 - ηh)^k is 1 at ηh = 2 for even k, and -1 at 1 + ((2 - α)/α)^(1/k) for odd k."""
    for steps, alpha in ((1, 0.5), (4, 0.5), (5, 0.5), (5, 0.8), (6, 0.3)):
        exact = 1 + ((2 - alpha) / alpha) ** (1 / steps) if steps % 2 else 2.0
        optimizer = optim.lookahead(optim.gd(0.1), steps, alpha)
        assert stability_threshold(optimizer) == pytest.approx(exact / 0.1, rel=1e-8)


@pytest.mark.parametrize("reset", [False, True], ids=["kept", "reset"])
def test_lookahead_around_an_average(reset):
    """A period as a product of 2 × 2 matrices, and the eigenvalues of NumPy, at its first passage of 1."""
    rate, beta, steps, alpha = 0.1, 0.9, 5, 0.5
    optimizer = optim.lookahead(optim.momentum(rate, beta, ema=True), steps, alpha, reset=reset)

    def radius(h):
        fast = np.array([[1 - rate * (1 - beta) * h, -rate * beta], [(1 - beta) * h, beta]])
        period = np.linalg.matrix_power(fast, steps)
        period[0] = alpha * period[0] + (1 - alpha) * np.array([1.0, 0.0])
        period[1] *= not reset
        return abs(np.linalg.eigvals(period)).max()

    threshold = stability_threshold(optimizer)
    assert radius(threshold * (1 + 1e-6)) > 1
    assert max(map(radius, np.linspace(1e-3, 1 - 1e-6, 4000) * float(threshold))) < 1


def rectification(t, b2):
    limit = 2 / (1 - b2) - 1
    rho = limit - 2 * t * b2**t / (1 - b2**t)
    return np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)) if rho > 4 else 1.0


def test_at_a_step_count():
    for t in (1, 4, 10, 100, 5000):
        exact = average(0.1, 0.9) / rectification(t, 0.999)
        assert stability_threshold(optim.radam(0.1), count=t) == pytest.approx(exact, rel=1e-6)
        assert stability_threshold(optim.adam(0.1), count=t) == pytest.approx(380, rel=1e-9)
        assert stability_threshold(optim.adabound(0.1), count=t) == pytest.approx(380, rel=1e-9)
        ahead, now = 0.9 / (1 - 0.9 ** (t + 1)), 0.1 / (1 - 0.9**t)
        exact = 3.8 / (0.1 * ahead + 1.9 * now) / 0.1
        assert stability_threshold(optim.nadam(0.1), count=t) == pytest.approx(exact, rel=1e-9)
        schedule = optim.inverse_sqrt(0.1)
        exact = 2 / float(schedule(t - 1))
        assert stability_threshold(optim.gd(schedule), count=t) == pytest.approx(exact, rel=1e-9)


def test_swats_after_its_switch():
    optimizer = optim.swats(0.1, 0.9)
    state = optimizer.init(jnp.zeros(()))
    state = state._replace(switched=jnp.asarray(True), rate=jnp.asarray(0.02), adam_rate=jnp.asarray(0.1))
    assert preconditioner_of(optimizer, state) == 1
    assert stability_threshold(optimizer, state=state) == pytest.approx(average(0.02, 0.9), rel=1e-9)


@functools.partial(jax.jit, static_argnums=4)
def growth(optimizer, state, params, h, steps=600):
    grad_fn = lambda p: h * p

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return (params + updates, state), params

    path = jnp.abs(jax.lax.scan(step, (params, state), None, steps)[1]) / params
    return path.max(), path[-1]  # an adaptive method that has grown forgets it


SLOW = 1 - 1e-10  # a second moment that stays through a run
RUN = {
    "momentum": optim.momentum(0.1, 0.9),
    "nesterov": optim.nesterov(0.1, 0.5, lookahead=True),
    "lookahead": optim.lookahead(optim.momentum(0.1, 0.9, ema=True)),
    "rmsprop": optim.rmsprop(0.1, SLOW),
    "adam": optim.adam(0.1, 0.9, SLOW),
    "adamw": optim.adamw(0.1, 0.9, SLOW, weight_decay=1.0),
    "adabound": optim.adabound(0.1, 0.9, SLOW),
}


@pytest.mark.parametrize("name", RUN)
def test_runs_decay_below_and_grow_above(name):
    """At 2 % from the threshold, with v = 4, on the preconditioner that the state has."""
    optimizer, params = RUN[name], jnp.asarray(1e-5)
    given = {"nu": 4.0, "nu_max": 4.0, "count": 10_000_000}

    def place(path, leaf):
        return jnp.full_like(leaf, given.get(getattr(path[-1], "name", ""), leaf)) if path else leaf

    state = jax.tree_util.tree_map_with_path(place, optimizer.init(params))
    edge = stability_threshold(optimizer) * preconditioner_of(optimizer, state)
    assert growth(optimizer, state, params, 0.98 * edge)[1] < 0.1
    assert growth(optimizer, state, params, 1.02 * edge)[0] > 100


def test_rates_in_a_stack():
    rates = jnp.array([1e-3, 0.1, 3.0])
    found = jax.jit(jax.vmap(lambda rate: stability_threshold(optim.gd(rate))))(rates)
    np.testing.assert_allclose(found, 2 / rates, rtol=1e-8)


def test_in_single_precision_it_is_as_exact_as_its_dtype():
    with jax.enable_x64(False):
        threshold = stability_threshold(optim.adam(jnp.asarray(0.1)))
        assert threshold.dtype == jnp.float32
        assert threshold == pytest.approx(380, rel=2e-7)
        traced = jax.jit(lambda optimizer: stability_threshold(optimizer))(optim.gd(0.3))
        assert traced.dtype == jnp.float32
        assert traced == pytest.approx(2 / 0.3, rel=1e-4)


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (optim.sign(0.1), "^sign has no .* in proportion"),
        (optax.lion(0.1), "^The optax optimizer .* in proportion"),
        (
            optim.traceable(optax.contrib.muon)(0.1),
            "^muon .* no finite derivative where the gradient vanishes",
        ),
        (optim.gd(0.0), "^gd .* does not depend on a small gradient"),
        (optim.genetic(key=jax.random.key(0)), "^genetic .* more than 32 numbers"),
    ],
    ids=["sign", "lion", "muon", "rate 0", "genetic"],
)
def test_where_there_is_none(optimizer, reason):
    with pytest.warns(UserWarning, match=reason) as caught:
        assert np.isnan(stability_threshold(optimizer))
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_none_under_a_trace_is_not_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(jax.jit(stability_threshold)(optim.sign(0.1)))


def test_every_curvature_and_none():
    assert stability_threshold(optim.newton()) == np.inf
    # 1 - ηh/(h + μ) is -1 at h = 2μ/(η - 2).
    assert stability_threshold(optim.newton(3.0, 0.5)) == pytest.approx(1, rel=1e-8)
    assert stability_threshold(optim.chain(optax.add_decayed_weights(-1.0), optim.gd(0.1))) == 0


def test_it_has_no_derivative():
    with pytest.raises(TypeError, match="no derivative"):
        jax.jvp(lambda rate: stability_threshold(optim.gd(rate)), (0.1,), (1.0,))


GD = optim.gd(0.1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: stability_threshold(0.1), TypeError, "optimizer must be an optax"),  # type: ignore[arg-type]
        (lambda: stability_threshold(GD, count=0), ValueError, "count must be an integer at least 1, got 0"),
        (lambda: stability_threshold(GD, count=2.5), TypeError, "count must be an integer"),
        (lambda: stability_threshold(GD, count=3_000_000_000), ValueError, "count must be at most"),
        (lambda: stability_threshold(GD, period=0), ValueError, "period must be an integer at least 1"),
        (lambda: stability_threshold(GD, count=1, state=GD.init(0.0)), ValueError, "count must be None"),
        (lambda: stability_threshold(GD, state=(1.0,)), ValueError, "state must be one of gd"),
        (
            lambda: stability_threshold(optim.adam(0.1), state=optim.adam(0.1).init(jnp.ones(2))),
            ValueError,
            "for one scalar parameter",
        ),
    ],
    ids=["optimizer", "count", "no integer", "large", "period", "both", "state", "shape"],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


ENDED = {
    "linear": optax.linear_schedule(0.1, 0.0, 10),
    "of 49 steps, whose reciprocal rounds": optax.linear_schedule(0.3, 0.0, 49),
    "of a power": optax.polynomial_schedule(0.1, 0.0, 2, 49),
    "joined": optax.join_schedules([optax.constant_schedule(0.1), optax.linear_schedule(0.1, 0.0, 7)], [5]),
}


@pytest.mark.parametrize("schedule", ENDED.values(), ids=ENDED)
@pytest.mark.parametrize("x64", [False, True])
def test_a_schedule_that_has_ended_at_0_leaves_no_threshold(schedule, x64):
    optimizer = optim.momentum(schedule, 0.5)
    with jax.enable_x64(x64):
        for count in (60, None):
            with pytest.warns(
                UserWarning, match="momentum has no stability threshold: its update does not depend"
            ):
                assert np.isnan(stability_threshold(optimizer, count=count))
        np.testing.assert_allclose(stability_threshold(optimizer, count=1), 3 / schedule(0), rtol=1e-6)
        assert np.isnan(jax.jit(stability_threshold)(optimizer))


def test_a_sum_of_averages():
    """At the eigenvalue -1 an average of weight w and decay β answers with w(1-β)/(1+β) of the gradient."""
    answer = 0.1 / 1.9 + 3.0 * 0.02 / 1.98
    found = stability_threshold(optax.contrib.ademamix(0.1, b3=0.98, alpha=3.0))
    np.testing.assert_allclose(found, 2 / answer / 0.1, rtol=1e-9)
    found = stability_threshold(optax.contrib.simplified_ademamix(0.1, b1=0.9, alpha=3.0))
    np.testing.assert_allclose(found, 2 / (1 / 1.9 + 3) / 0.1, rtol=1e-9)


def test_estimates_of_the_length_of_a_step():
    """Adam's threshold for steps as long as d; in Prodigy the root of the second moment carries a d as well."""
    found = stability_threshold(optax.contrib.prodigy(0.1, estim_lr0=0.5))
    np.testing.assert_allclose(found, 38 / 0.1 / 0.5**2, rtol=1e-9)
    found = stability_threshold(optax.contrib.dadapt_adamw(0.1, estim_lr0=0.5))
    np.testing.assert_allclose(found, 38 / 0.1 / 0.5, rtol=1e-9)


def test_sophia_divides_by_the_curvature():
    """P = ν is the curvature itself, so that γ times Adam's threshold is one of the rate alone."""
    found = stability_threshold(optax.contrib.sophia(0.1, b1=0.9, gamma=0.05, weight_decay=0.0))
    np.testing.assert_allclose(found, 0.05 * 38 / 0.1, rtol=1e-9)


def test_matrices_apart_from_numbers():
    """Groups by the number of axes: the matrix of one entry has momentum, which a single number has not."""
    group = lambda params: jax.tree.map(lambda x: "matrix" if x.ndim == 2 else "other", params)
    optimizer = optax.partition({"matrix": optax.sgd(0.1, 0.9), "other": optax.sgd(0.1)}, group)
    np.testing.assert_allclose(stability_threshold(optimizer), 38, rtol=1e-9)


@pytest.mark.parametrize(("rate", "beta"), [(0.1, 0.9), (0.01, 0.5)])
def test_averages_over_all_steps_are_those_of_late_steps(rate, beta):
    """The average x of schedule-free SGD moves by 1/t of a step: late z descends the slope at βx + (1−β)z alone."""
    found = stability_threshold(optax.contrib.schedule_free_sgd(rate, b1=beta))
    np.testing.assert_allclose(found, 2 / ((1 - beta) * rate), rtol=1e-7)


def test_a_stack_is_refused_and_mapped_over():
    stack = jax.vmap(optim.gd)(jnp.array([0.1, 0.2]))
    with pytest.raises(
        ValueError, match=r"optimizer must be a single one, got a stack of 2, gd\(.*; use jax.vmap"
    ):
        stability_threshold(stack)
    np.testing.assert_allclose(jax.vmap(stability_threshold)(stack), [20, 10], rtol=1e-6)
    with pytest.raises(ValueError, match="count must be an integer at least 1, got 0"):
        stability_threshold(optim.gd(0.1), count=jnp.asarray(0))
