"""Groups of parameters, each with an equation of its own: against the iterates of `optax.multi_transform`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy.linalg import expm, solve_continuous_lyapunov

import jaxflow as jf
from jaxflow import optim
from jaxflow.dynamics import limit_of, sde_of

pytestmark = pytest.mark.promotes
groups = optim.traceable(optax.multi_transform)
START = {"w": jnp.array([1.0, -0.6]), "b": jnp.array([0.8])}
LABELS = {"w": "first", "b": "second"}


def loss(p):
    """The groups pull at each other."""
    return jnp.sum(jnp.cosh(p["w"])) + 0.4 * p["b"][0] ** 2 * p["w"][0] + 0.5 * p["b"][0] ** 2


memory = lambda h, tau: float(np.exp(-h / tau))
PAIRS = {
    "gd and adam": lambda h: (optim.gd(h), optim.adam(h, memory(h, 0.3), memory(h, 0.5), 1e-3)),
    "momentum and sgdw": lambda h: (optim.momentum(h, 0.5), optim.sgdw(h, 0.3, 0.6)),
    "penalty and sign": lambda h: (optim.chain(optim.l2_regularization(0.5), optim.gd(h)), optim.sign(h)),
    "two rates": lambda h: (optim.gd(h), optim.momentum(h / 4, 0.5)),
    "two rates of averages": lambda h: (
        optim.adam(2 * h, memory(h, 0.3), memory(h, 0.5), 1e-3),
        optim.adamw(h / 2, memory(h, 0.3), memory(h, 0.5), 1e-3, 0.6),
    ),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_limits_of_groups_are_first_order(pair):
    gaps = []
    for h in (0.01, 0.005):
        optimizer, step = groups(dict(zip(("first", "second"), pair(h), strict=True)), LABELS), round(0.6 / h)
        run = jf.iterate(optimizer, loss, START, steps=jnp.asarray(step), every=None, time_step=h)
        flow = limit_of(optimizer, loss, time_step=h)
        path = jf.integrate(flow, START, [0.0, 0.6], step_size=h / 4)
        gap = jax.tree.map(lambda a, b: np.abs(np.subtract(a, b)).max(), run.params, path.params)
        gaps.append(max(jax.tree.leaves(gap)))
    assert np.log2(gaps[0] / gaps[1]) > 0.85
    assert gaps[1] < 0.01


def test_one_rate_is_the_clock():
    optimizer = groups({"first": optim.gd(0.1), "second": optim.adam(0.1)}, LABELS)
    flow, slow = limit_of(optimizer, loss), limit_of(optimizer, loss, time_step=0.2)
    state = flow.init(START)
    g, moved, slowly = jax.device_get(
        jax.jit(lambda: (jax.grad(loss)(START), flow.drift(0.0, state), slow.drift(0.0, state)))()
    )
    velocity = flow.params(moved)
    np.testing.assert_allclose(velocity["w"], -g["w"], rtol=1e-12)
    np.testing.assert_allclose(velocity["b"], -np.sign(g["b"]), rtol=1e-6)  # Adam's first step
    half = jax.tree.map(lambda v: 0.5 * v, moved)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), half, slowly)


def test_labels_may_be_a_function_and_groups_may_be_empty():
    optimizer = groups(
        {"first": optim.gd(0.1), "second": optim.sign(0.1), "third": optim.adam(0.1)},
        lambda params: {"w": "first", "b": "second"},
    )
    flow = limit_of(optimizer, loss)
    assert set(flow.init(START)) == {"first", "second"}
    path = jf.integrate(flow, START, [0.0, 0.1])
    assert jax.tree.structure(path.params) == jax.tree.structure(START)
    np.testing.assert_allclose(path.params["b"], [0.7], rtol=1e-4)


def test_a_frozen_part_stays():
    model = START | {"frozen": jnp.array([2.0]), "name": "a"}
    labels = LABELS | {"frozen": "first", "name": "first"}
    optimizer = groups({"first": optim.gd(0.1), "second": optim.sgdw(0.1, 0.5, 0.3)}, labels)
    whole = lambda m: loss(m) * m["frozen"][0]
    flags = {"w": True, "b": True, "frozen": False, "name": False}
    path = jf.integrate(limit_of(optimizer, whole), model, [0.0, 0.4], trainable=flags, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(path.params["frozen"], [2.0])
    assert path.params["name"] == "a"
    alone = limit_of(groups(optimizer.hyperparameters["transforms"], LABELS), lambda p: 2 * loss(p))
    expected = jf.integrate(alone, START, [0.0, 0.4], rtol=1e-9, atol=1e-9).params
    for name in START:
        np.testing.assert_allclose(path.params[name], expected[name], rtol=1e-6)


# --- The law on a quadratic: θ = (w, b) in one dimension each, gradient descent and momentum ---

H = np.array([[1.2, 0.5], [0.5, 0.9]])
CENTRES = np.random.default_rng(1).normal(size=(5, 2))
NOISE = H @ np.cov(CENTRES.T, bias=True) @ H / 2  # of batches of 2
OBJECTIVE = jf.Objective(
    lambda p, c: jax.vmap(lambda one: 0.5 * (stack(p) - one) @ jnp.asarray(H) @ (stack(p) - one))(c),
    jnp.asarray(CENTRES),
)
POINT = {"b": jnp.array(0.7), "w": jnp.array(-1.0)}


def stack(p):
    return jnp.stack([p["w"], p["b"]])


def law_of_iterates(rates, beta, steps):
    """Of (w, b, v): w descends, and v drives b. One mini-batch's noise is in all three."""
    move = np.eye(3)
    move[0, :2] -= rates[0] * H[0]
    v_new = np.append(H[1], beta)
    move[1] -= rates[1] * v_new
    move[2] = v_new
    kick = np.array([[-rates[0], 0], [0, -rates[1]], [0, 1]])
    shift = -H @ CENTRES.mean(0)
    mean, cov = np.array([-1.0, 0.7, 0.0]), np.zeros((3, 3))
    for _ in range(steps):
        mean, cov = move @ mean + kick @ shift, move @ cov @ move.T + kick @ NOISE @ kick.T
    return mean[:2], cov[:2, :2]


def law_of_sde(dynamics, time):
    begin = dynamics.init(POINT)
    flat, unravel = ravel_pytree(begin)
    drift = lambda z: ravel_pytree(dynamics.drift(0.0, unravel(z)))[0]
    column = lambda xi: ravel_pytree(dynamics.diffusion(0.0, begin, xi))[0]
    reading = jax.jacfwd(lambda z: stack(dynamics.params(unravel(z))))

    @jax.jit
    def matrices(z):
        return jax.jacfwd(drift)(z), drift(jnp.zeros_like(z)), jax.vmap(column)(jnp.eye(5)), reading(z)

    a, c, columns, read = jax.device_get(matrices(flat))
    n, kept = flat.size, expm(a * time)
    lifted = np.block([[a, c[:, None]], [np.zeros((1, n + 1))]])
    mean = (expm(lifted * time) @ np.append(flat, 1.0))[:n]
    stationary = solve_continuous_lyapunov(a, -columns.T @ columns)
    cov = stationary - kept @ stationary @ kept.T
    return read @ mean, read @ cov @ read.T


@pytest.mark.parametrize("ratio", [1.0, 0.25], ids=["one rate", "two rates"])
def test_means_and_covariances_of_groups_are_first_order(ratio):
    """Across the groups too, which one mini-batch moves."""
    gaps = []
    for h in (0.02, 0.01):
        steps, members = round(1 / h), {"first": optim.gd(h), "second": optim.momentum(ratio * h, 0.5)}
        exact = law_of_iterates((h, ratio * h), 0.5, steps)
        found = law_of_sde(sde_of(groups(members, LABELS), OBJECTIVE, 2, time_step=h), h * steps)
        gaps.append([np.abs(exact[0] - found[0]).max(), np.abs(exact[1] - found[1]).max() / h])
        assert (
            np.abs(exact[1][0, 1]) > 5 * gaps[-1][1] * h
        )  # so that a wrong covariance across groups is seen
    assert (np.log2(np.array(gaps[0]) / gaps[1]) > 0.85).all()


def test_pairs_of_draws_are_shared_with_groups_that_need_one():
    members = {"first": optim.gd(0.1), "second": optim.adam(0.1, 0.8, 0.9, 1e-3)}
    dynamics = sde_of(groups(members, LABELS), OBJECTIVE, 2)
    state, xi = dynamics.init(POINT), tuple(jnp.asarray(np.random.default_rng(0).normal(size=(2, 5))))
    shapes = dynamics.brownian(state)
    assert [shape.shape for shape in shapes] == [(5,), (5,)]
    alone = sde_of(optim.gd(0.1), OBJECTIVE, 2)
    noise, whole = jax.device_get(
        jax.jit(lambda: (dynamics.diffusion(0.0, state, xi), alone.diffusion(0.0, POINT, xi[0])))()
    )
    np.testing.assert_allclose(noise["first"]["w"], whole["w"], rtol=1e-12)
    # Adam's average takes a share λ/γ of the same noise, and adds the gradient.
    share = (2 * 0.2 / 1.8) / -np.expm1(-0.5 * 2 * 0.2 / 1.8) / 0.1
    np.testing.assert_allclose(noise["second"].first_moment["b"], -share * whole["b"], rtol=1e-10)
    path = jf.integrate(dynamics, POINT, [0.0, 0.2], key=jax.random.key(0))
    assert np.isfinite(path.params["b"])
    assert path.times.shape == (2,)


def test_groups_may_accumulate():
    members = {"first": optim.gd(0.1), "second": optim.momentum(0.1, 0.5)}
    several = optax.MultiSteps(groups(members, LABELS), 4)
    found, expected = sde_of(several, OBJECTIVE, 2), sde_of(groups(members, LABELS), OBJECTIVE, 8)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    np.testing.assert_allclose(*(law_of_sde(dynamics, 1.0)[1] for dynamics in (found, expected)), rtol=1e-12)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"first": optim.gd(0.1), "second": optim.gd(0.2)},
            r"time_step must be .* rates \(0.1, 0.2\), got None",
        ),
        ({"first": optim.gd(0.1), "second": optax.sgd(0.1)}, "hides its numbers"),
        ({"first": optim.gd(0.1), "second": optim.amsgrad(0.1)}, "is known for amsgrad"),
        ({"first": optim.gd(0.1), "second": optim.newton(0.1)}, "which asks for gradients itself"),
        (
            {"first": optim.gd(0.1), "second": optim.nesterov(0.1, lookahead=True)},
            "asks for gradients itself",
        ),
    ],
    ids=["rates", "plain", "unknown", "newton", "lookahead"],
)
def test_groups_without_an_equation_are_refused(members, message):
    with pytest.raises(ValueError, match=message):
        limit_of(groups(members, LABELS), loss)
    with pytest.raises(ValueError, match=message):
        sde_of(groups(members, LABELS), OBJECTIVE, 2)


def test_what_has_no_one_clock_is_refused():
    rate = optim.inverse_sqrt(0.1)
    with pytest.raises(ValueError, match=r"time_step must be None .* not a number, got 0.1"):
        limit_of(optim.adam(rate), loss, steps=5, time_step=0.1)
    with pytest.raises(ValueError, match=r"time_step must be .* above 0, got 0"):
        limit_of(optim.gd(0.1), loss, time_step=0)
    with pytest.raises(ValueError, match=r"labels must be among .*'first'.*got 'other'"):
        limit_of(groups({"first": optim.gd(0.1)}, {"w": "first", "b": "other"}), loss).init(START)
    both = groups({"first": optim.adam(rate), "second": optim.adam(rate)}, LABELS)
    assert jf.integrate(limit_of(both, loss, steps=5), START, [0.0, 0.2]).params["w"].shape == (2,)
