"""Training networks: experiments in their quick form, and their parts against loops and made-up grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiment_files import check_claims, check_files

import jaxflow as jf
from experiments.training import (
    adaptive_families,
    batches_at_equal_cost,
    regularizers,
    schedules,
    weight_decay,
)

pytestmark = pytest.mark.promotes
NAMES = ("adaptive_families", "batches_at_equal_cost", "regularizers", "schedules", "weight_decay")


@pytest.mark.parametrize("name", NAMES)
def test_figure_and_numbers_are_written_whole(run, name):
    check_files(name, *run(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_is_reached(run, name):
    check_claims(run(name)[0])


@pytest.mark.parametrize("name", list(weight_decay.METHODS))
def test_decay_is_where_a_loop_puts_it(name):
    """Five steps on a quadratic with Adam and SGD written out: in the gradient, or beside the step."""
    rate, decay, bends = 0.1, 0.3, np.array([1.0, 20.0])
    run = jf.iterate(
        weight_decay.METHODS[name][0](rate, decay),
        lambda x: 0.5 * jnp.sum(bends * x**2),
        jnp.ones(2),
        steps=5,
    )
    theta, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    for k in range(1, 6):
        g = bends * theta + (0 if name == "AdamW" else decay * theta)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
        theta = theta - rate * (g if name == "SGD + L2" else step + (decay * theta if name == "AdamW" else 0))
    np.testing.assert_allclose(run.params, theta, rtol=1e-12)


@pytest.mark.parametrize("power", [0, -1])
def test_the_price_of_one_decay_is_zero_where_the_best_has_that_form(power):
    """A bowl whose best decay is 6.3 − power · i on the grid, plus what differs between seeds."""
    i, j, seed = np.meshgrid(np.arange(4), np.arange(12), np.arange(3), indexing="ij")
    losses = 0.1 * (j - 6.3 - power * i) ** 2 + i + 0.01 * seed
    told, error = weight_decay.jackknife(weight_decay.slope, losses)
    assert told == pytest.approx(power, abs=1e-9)
    assert error < 1e-9
    assert weight_decay.price(losses, steps=power == -1) == pytest.approx(0, abs=1e-9)
    assert weight_decay.price(losses, steps=power == 0) > 0.1


def test_tables_hold_the_schedules_written_out():
    steps, peaks = 60, np.array([0.2, 1.0])
    k, found = (
        np.arange(steps),
        dict(zip(schedules.schedules(steps), schedules.tables(steps, peaks), strict=True)),
    )
    cosine = lambda share: 0.5 * (1 + np.cos(np.pi * share))
    shapes = {
        "constant": np.ones(steps),
        "step": np.where(k < 30, 1, np.where(k < 45, 0.1, 0.01)),
        "exponential": 0.01 ** (k / steps),
        "linear": 1 - k / steps,
        "cosine": cosine(k / steps),
        "warm-up, cosine": np.where(k < 6, k / 6, cosine((k - 6) / 54)),
        "triangular, 3 cycles": 0.1 + 0.9 * (1 - np.abs(k % 20 / 10 - 1)),
    }
    for name, shape in shapes.items():
        # A step of optax's piecewise schedule may be one later than its boundary.
        late = np.isin(k, (30, 45)) if name == "step" else np.zeros(steps, bool)
        expected = (peaks[:, None] * shape)[:, ~late]
        np.testing.assert_allclose(np.asarray(found[name])[:, ~late], expected, atol=1e-12)


def test_a_table_is_the_schedule_that_it_holds():
    schedule = jf.optim.one_cycle(0.3, 20)
    train = lambda rate: jf.iterate(jf.optim.gd(rate), lambda x: 0.5 * x @ x, jnp.ones(2), steps=20).values
    found = train(schedules.tabulated(schedule(jnp.arange(20))))
    np.testing.assert_allclose(found, train(schedule), rtol=1e-12)


def test_a_share_of_the_labels_is_wrong():
    """A fifth is drawn from ten, so that 18 % are wrong: 1,437 of them, within 4 standard errors."""
    (right, _), (drawn, _) = schedules.task(0.0), schedules.task(0.2)
    wrong = float(jnp.mean(right.data["y"] != drawn.data["y"]))
    assert wrong == pytest.approx(0.18, abs=4 * (0.18 * 0.82 / 1437) ** 0.5)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, right.data["x"], drawn.data["x"]))


def test_differences_are_paired():
    """Two schedules that differ by 1 ± .1 while the keys differ by far more."""
    keys, noise = 100.0 * np.arange(8)[:, None] * np.ones((1, 3)), 0.1 * np.array([1, -1] * 4)[:, None]
    gap, error = schedules.pair_differences(np.stack([keys, keys + 1 + noise]))
    np.testing.assert_allclose(gap[1], 1, atol=1e-9)
    np.testing.assert_allclose(error[1], 0.1 / 7**0.5, rtol=1e-9)


def test_the_hyperbola_is_found_again():
    sizes = np.array([1, 8, 64, 512])
    least, critical = batches_at_equal_cost.hyperbola(sizes, 3 * (1 + 70 / sizes))
    assert (least, critical) == (pytest.approx(3, rel=1e-9), pytest.approx(70, rel=1e-9))


def test_steps_to_a_loss_are_linear_between_records():
    records, line = np.array([0, 4, 8, 12]), np.log([2.0, 1.0, 0.25, 0.3])
    assert batches_at_equal_cost.steps_to(0.5, records, line) == pytest.approx(6)
    assert batches_at_equal_cost.steps_to(0.1, records, line) == np.inf
    logs = np.stack([line, line - np.log(2)])[:, None]
    assert batches_at_equal_cost.fewest_steps(0.5, records, logs) == (pytest.approx(4), 1)


def test_the_noise_scale_is_that_of_gradients_one_by_one():
    """At the networks of a run of its own, with every example's gradient written out."""
    keys = jax.random.split(jax.random.key(5), 1)
    found = batches_at_equal_cost.noise_at((0.5,), keys)
    weights, batches = jax.random.split(keys[0])
    problem = batches_at_equal_cost.digits(weights)
    run = jf.iterate(
        jf.optim.gd(0.4), problem.objective, problem.params, steps=40, batch_size=16, key=batches
    )
    losses = jax.jit(jax.vmap(problem.objective))(run.values)
    params = jax.tree.map(lambda x: x[int(np.flatnonzero(losses <= 0.5)[0])], run.values)

    def one(x, label):
        return jax.grad(lambda p: -jax.nn.log_softmax(problem.predict(p, x[None])[0])[label])(params)

    slopes = jax.jit(jax.vmap(one))(problem.objective.data["x"], problem.objective.data["y"])
    flat = np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(slopes)], 1)
    expected = flat.var(0).sum() / (flat.mean(0) ** 2).sum()
    np.testing.assert_allclose(found, [[expected]], rtol=1e-9)


def test_lookahead_rests_where_its_variance_maps_to_itself(run):
    """φ' = (1 − α + αrᵏ)φ + αn, with n the noise of k steps of SGD, of variance Σ r²ʲ of one step's."""
    theory = np.array(run("adaptive_families")[0]["theory"])
    for (alpha, k), row in zip(adaptive_families.CELLS[1:], theory, strict=True):
        for curvature, expected in zip(adaptive_families.CURVATURES, row, strict=True):
            r, slow, sgd = 1 - adaptive_families.RATE * curvature, 0.0, 0.0
            noise = np.sum(r ** (2 * np.arange(k)))
            for _ in range(4000):
                slow = (1 - alpha + alpha * r**k) ** 2 * slow + alpha**2 * noise
                sgd = r**2 * sgd + 1
            assert slow / sgd == pytest.approx(expected, rel=1e-9)


def test_the_rectification_begins_at_five():
    """At t = 4 the formula has no real root with β₂ = .999; at t = 5 the experiment's first is positive and small."""
    limit = 2 / 0.001 - 1
    rho = [limit - 2 * t * 0.999**t / (1 - 0.999**t) for t in (4, 5)]
    assert rho[0] < 4 < rho[1]
    r = adaptive_families.rectification(20_000)
    assert 0 < r[0] < 0.05
    assert r[-1] == pytest.approx(1, abs=1e-3)
    assert np.all(np.diff(r) >= -1e-12)


def test_columns_are_the_regularizers_written_out():
    """One batch of three digits in NumPy: the penalty, the smoothed target, a mask, and both normalizations."""
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(64, 16)) / 8, "b": random.normal(size=16)}
    params = (weights, {"w": random.normal(size=(16, 10)) / 4, "b": random.normal(size=10)})
    x, y = random.normal(size=(3, 64)), np.array([3, 1, 4])
    plain = regularizers.columns(x, y)
    z = x @ params[0]["w"] + params[0]["b"]

    def loss(z, target, mask=1.0):
        out = np.tanh(z) * mask @ params[1]["w"] + params[1]["b"]
        return np.log(np.exp(out).sum(1)) - (target * out).sum(1)

    eye, size = np.eye(10)[y], sum(np.sum(a**2) for layer in params for a in layer.values())
    kept, mean = (random.random((3, 16)) > 0.2) / 0.8, random.normal(size=(3, 16))
    smooth = 0.9 * eye + 0.01
    own = (z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True)
    for change, expected in (
        ({}, loss(z, eye)),
        ({"decay": np.full(3, 0.3)}, loss(z, eye) + 0.15 * size),
        ({"mask": kept}, loss(z, eye, kept)),
        ({"target": smooth}, loss(z, smooth)),
        ({"layer": np.ones(3)}, loss(own, eye)),
        ({"mean": mean, "deviation": np.full((3, 16), 2.0)}, loss((z - mean) / 2, eye)),
    ):
        found = regularizers.losses(
            jax.tree.map(jnp.asarray, params), jax.tree.map(jnp.asarray, plain | change)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-12)
