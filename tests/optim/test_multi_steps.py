"""An `optax.MultiSteps` is no transformation: every public door that takes an optimizer takes it or says why not."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf

pytestmark = pytest.mark.promotes

K = 3
INNER = jf.optim.momentum(0.05, 0.5)
SEVERAL = optax.MultiSteps(INNER, K)
START = jnp.array([1.5, -0.8])
OBJECTIVE = jf.Objective(lambda w, c: 0.5 * jnp.sum((w[None] - c) ** 4, axis=1), jnp.eye(2))
LINE = jf.problems.linear_regression()
TIMES = [0.0, 0.2]
WARM = {"warmup": 0}
d, c = jf.dynamics, jf.curvature


def loss(x):
    return jnp.sum(jnp.cosh(x)) + 0.3 * x[0] * x[1] ** 2


def solve(dynamics, **more):
    run = jf.integrate(dynamics, START, TIMES, substeps=2, **more)
    return run.params, dynamics.time_step


STATE = d.ModifiedState(START, INNER.init(START), jnp.zeros(()))
DESCENT = jf.optim.gd(0.05)
# What is asked about updates on all data: the same as of the optimizer inside.
OF_UPDATES = {
    "central_flow": lambda o: solve(d.central_flow(o, loss, modes=1)),
    "convergence": lambda o: d.convergence(o, loss, START, **WARM).radius,
    "effective": lambda o: d.effective(o, loss, START).penalty,
    "limit_of": lambda o: solve(d.limit_of(o, loss)),
    "modified": lambda o: solve(d.modified(o, loss, **WARM)),
    "pair_flow": lambda o: solve(d.pair_flow(o, loss, **WARM)),
    "pair_state": lambda o: d.pair_state(o, loss, STATE),
    "rod_flow": lambda o: solve(d.rod_flow(o, loss, **WARM)),
    "slow_manifold": lambda o: solve(d.slow_manifold(o, loss)),
    "stability_threshold": lambda o: c.stability_threshold(o),
    "stable_flow": lambda o: solve(d.stable_flow(o, loss)),
}
# What takes steps with it: each mini-batch is one.
OF_STEPS = {
    "alternating": lambda o: two(jf.optim.alternating(o)),
    "chain": lambda o: steps(jf.optim.chain(o, jf.optim.gd(1.0))),
    "curve": lambda o: (
        jf.landscape.curve(OBJECTIVE, START, -START, key=jax.random.key(0), steps=4, optimizer=o).losses
    ),
    "iterate": lambda o: steps(o),
    "lookahead": lambda o: steps(jf.optim.lookahead(o, 2)),
    "neb": lambda o: jf.landscape.neb(loss, START, -START, points=3, max_steps=7, optimizer=o).losses,
    "repeated": lambda o: steps(jf.optim.repeated(o, 2)),
    "train": lambda o: jf.train(o, loss, START, until={"gradients": 4}, time_step=0.1).params,
}
REFUSED = {
    "edge_study": lambda o: jf.edge_study(o, loss, START, steps=4),
    "family_of": jf.family_of,
    "optimizer_state": lambda o: d.optimizer_state(o, loss, STATE),
    "path_kernel": lambda o: jf.kernels.path_kernel(
        o, LINE.objective, LINE.params, jnp.ones((1, 2)), steps=2
    ),
}
# Tested in `dynamics.test_compositions`, or told below.
OTHERS = {"sde_of", "modified_sde", "rescale", "hyperparameters", "learning_rate_of", "preconditioner_of"}


def steps(optimizer):
    return jf.iterate(optimizer, loss, START, steps=2 * K + 1, time_step=0.1).values


def two(optimizer):
    game = jf.game(lambda p: (p[0] * p[1], -p[0] * p[1]))
    return jf.iterate(optimizer, game, (START[0], START[1]), steps=2 * K, time_step=0.1).values


def same(a, b, rtol=0.0):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol)


def test_every_public_door_is_in_a_table():
    rooms = (jf, jf.optim, jf.dynamics, jf.curvature, jf.solve, jf.density, jf.landscape, jf.kernels)
    rooms += (jf.comparison, jf.games, jf.problems, jf.sweeps)
    names = {"optimizer", "optimizers", "inner", "transforms"}
    doors = set()
    for room in rooms:
        for name, door in inspect.getmembers(room, inspect.isfunction):
            if not name.startswith("_") and names & set(inspect.signature(door).parameters):
                doors.add(name)
    assert doors == {*OF_UPDATES, *OF_STEPS, *REFUSED, *OTHERS}


@pytest.mark.parametrize("door", OF_UPDATES)
def test_what_is_asked_about_updates_is_asked_about_the_optimizer_inside(door):
    inner = INNER
    if door in ("central_flow", "stable_flow"):
        inner = DESCENT
    several = optax.MultiSteps(inner, K)
    for given in (several, several.gradient_transformation()):
        same(OF_UPDATES[door](given), OF_UPDATES[door](inner), rtol=1e-12)


def test_its_preconditioner_is_in_the_state_of_the_optimizer_inside():
    """After two updates, from gradients that optax averages in float32."""
    inner = jf.optim.rmsprop(0.05)
    several = optax.MultiSteps(inner, K)
    runs = {}
    for given, each in ((inner, 1), (several, K), (several.gradient_transformation(), K)):
        record = c.record_sharpness(loss, preconditioner=given)
        run = jf.iterate(given, loss, START, steps=2 * each, every=each, time_step=0.1, record=record)
        runs[given] = run.values.sharpness, c.preconditioner_of(given, run.state)
    for found in runs.values():
        same(found, runs[inner], rtol=1e-6)


@pytest.mark.parametrize("door", OF_STEPS)
def test_what_takes_steps_takes_those_of_mini_batches(door):
    same(OF_STEPS[door](SEVERAL), OF_STEPS[door](SEVERAL.gradient_transformation()))


@pytest.mark.parametrize("door", REFUSED)
def test_where_it_has_no_meaning_it_is_refused_in_a_sentence(door):
    for given in (SEVERAL, SEVERAL.gradient_transformation()):
        with pytest.raises(
            (TypeError, ValueError), match=r"optimizer must be (the one inside|one of)"
        ) as caught:
            REFUSED[door](given)
        assert "\n" not in str(caught.value)


def test_its_numbers_are_hidden():
    assert jf.optim.hyperparameters(SEVERAL) == {}
    assert jf.optim.learning_rate_of(SEVERAL) is None  # a step is no update


def test_the_modified_equation_is_that_of_the_updates_on_their_clock():
    several = optax.MultiSteps(jf.optim.gd(0.05), K)
    run = jf.iterate(several, loss, START, steps=4 * K, time_step=0.05 / K, every=K)
    gaps = []
    for order in (1, 2, 3):
        path = jf.integrate(d.modified(several, loss, order=order), START, run.times, rtol=1e-9, atol=1e-11)
        gaps.append(float(jf.compare(run, path).final))
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]


@pytest.mark.parametrize("replacement", [True, False])
def test_the_noise_is_that_of_the_mean_of_its_mini_batches(replacement):
    state = d.modified_sde(INNER, OBJECTIVE, 1).init(START)
    covariance = {}
    for name, optimizer in (("one", INNER), ("several", SEVERAL)):
        found = d.modified_sde(optimizer, OBJECTIVE, 1, replacement=replacement)
        columns = jax.vmap(lambda xi, found=found: found.diffusion(0.0, state, xi).params)(jnp.eye(2))
        covariance[name] = columns.T @ columns
    np.testing.assert_allclose(K * covariance["several"], covariance["one"], rtol=1e-12)


def test_what_accumulates_otherwise_has_no_equation():
    summed = optax.MultiSteps(INNER, K, use_grad_mean=False)
    for door in ("modified", "convergence", "stability_threshold", "pair_flow"):
        with pytest.raises(ValueError, match="use_grad_mean must be True for an equation of MultiSteps"):
            OF_UPDATES[door](summed)
    assert steps(summed).shape == (2 * K + 2, 2)
    descent = optax.MultiSteps(DESCENT, K, use_grad_mean=False)
    assert c.stability_threshold(descent, period=K) == pytest.approx(40 / K, rel=1e-6)
