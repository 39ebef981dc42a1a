"""SimSiam and BYOL: the fields against NumPy, their numbers as leaves, the data they take and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_branches import (
    BYOL,
    ETA,
    SIGMA,
    SIMSIAM,
    SPEED,
    TAU,
    VARIANCES,
    anywhere,
    by_hand,
    examples,
    small,
)

import jaxflow as jf
from jaxflow._compiled import programs
from jaxflow.problems import self_supervised

pytestmark = pytest.mark.promotes


velocity = jax.jit(lambda game, players: game(players))


@pytest.mark.parametrize("stopped", [True, False])
def test_the_field_of_the_linear_simsiam_is_the_published_one(stopped):
    problem = small(stop_gradient=stopped, **SIMSIAM)
    params = anywhere(problem.params)
    found = velocity(problem.objective, params)
    expected = by_hand(*map(np.asarray, params), np.asarray(params.online), TAU, stopped)
    np.testing.assert_allclose(found.online, -expected[0], rtol=1e-12)
    np.testing.assert_allclose(found.predictor, -expected[1], rtol=1e-12)


def test_the_field_of_byol_and_one_without_predictor():
    problem = small(method="byol", **BYOL)
    params = jax.device_get(anywhere(problem.params))
    found = velocity(problem.objective, params)
    expected = by_hand(*map(np.asarray, params), 1.0, True)
    np.testing.assert_allclose(found.online, -expected[0], rtol=1e-12)
    np.testing.assert_allclose(found.predictor, -expected[1], rtol=1e-12)
    np.testing.assert_allclose(found.teacher, 0.7 * (params.teacher - params.online), rtol=1e-12)
    plain = small(predictor=False, **SIMSIAM)
    assert plain.params.predictor is None
    expected, _ = by_hand(np.asarray(params.online), np.eye(2), np.asarray(params.online), TAU, True)
    found = velocity(plain.objective, plain.params._replace(online=params.online))
    np.testing.assert_allclose(found.online, -expected, rtol=1e-12)


def numpy_loss(online, predictor, target, views, cosine):
    """The loss of a network of one hidden layer, in NumPy."""

    def network(layers, x):
        first, last = layers
        return np.tanh(x @ first["w"] + first["b"]) @ last["w"] + last["b"]

    total = 0
    for one, other in (views, views[::-1]):
        p, z = network(online, one) @ predictor.T, network(target, other)
        if cosine:
            norms = np.linalg.norm(p, axis=-1) * np.linalg.norm(z, axis=-1)
            total += np.mean(1 - np.sum(p * z, -1) / norms)
        else:
            total += 0.5 * np.mean(np.sum((p - TAU * z) ** 2, -1))
    return total / 2


@pytest.mark.parametrize("case", ["squared", "cosine", "without the stop", "byol"])
def test_the_field_of_a_network_is_a_difference_quotient_with_the_target_held(case):
    """Central differences of a NumPy loss along a random direction; the target moves only without the stop."""
    cosine, taught, stopped = case in ("cosine", "byol"), case == "byol", case != "without the stop"
    numbers = {
        k: v for k, v in (BYOL if taught else SIMSIAM).items() if not (cosine and k == "teacher_scale")
    }
    options = {"method": "byol"} if taught else {"stop_gradient": stopped}
    distance = "cosine" if cosine else "squared"
    x = np.random.default_rng(1).normal(size=(5, 3))
    problem = self_supervised(x, 2, (4,), distance=distance, draws=2, scale=False, **options, **numbers)
    views = problem.objective.data[0]
    np.testing.assert_allclose(views["x"], x - x.mean(0), atol=1e-14)
    seen = np.asarray(views["x"])[None, None] + SIGMA * np.asarray(views["noise"])
    params, aside = jax.device_get((anywhere(problem.params), anywhere(problem.params, 2)))
    held = params.teacher if taught else params.online

    def loss(t):
        moved = jax.tree.map(lambda p, d: p + t * d, params, aside)
        target = moved.online if not stopped else held
        return numpy_loss(moved.online, moved.predictor, target, seen, cosine)

    found = jax.device_get(velocity(problem.objective, params))
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    along = lambda tree: flat(tree) @ flat((aside.online, aside.predictor))
    decay = along((params.online, params.predictor)) * ETA
    slopes = (found.online, (found.predictor - ETA * params.predictor) / SPEED + ETA * params.predictor)
    np.testing.assert_allclose(along(slopes) - decay, (loss(1e-5) - loss(-1e-5)) / 2e-5, rtol=1e-7)


def test_the_linear_loss_is_the_mean_of_drawn_ones():
    """Without noise, and with units that are linear, the field of a network is that of the linear model."""
    x = np.random.default_rng(3).normal(size=(7, 3))
    drawn = self_supervised(x, 2, (3,), activation="identity", augmentation=0.0, scale=False)
    exact = self_supervised(x, 2, augmentation=0.0, scale=False)
    first, last = drawn.params.online
    through = drawn.params._replace(online=({**first, "w": jnp.eye(3)}, last))
    found = velocity(drawn.objective, through)
    expected = velocity(exact.objective, exact.params._replace(online=last["w"].T))
    np.testing.assert_allclose(np.transpose(found.online[1]["w"]), expected.online, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.predictor, expected.predictor, rtol=1e-12, atol=1e-14)


def test_numbers_are_leaves():
    """Twenty sets of them compile once, and a vmapped constructor gives what a loop gives."""
    names = tuple(SIMSIAM)
    rows = np.random.default_rng(5).uniform(0.1, 1.0, (20, 4))
    step = lambda row: small(**dict(zip(names, row, strict=True)))
    before = programs()["solve.iteration.iterate"]
    runs = [
        jf.iterate(jf.optim.gd(0.01), step(row).objective, step(row).params, steps=3).params for row in rows
    ]
    assert programs()["solve.iteration.iterate"] - before <= 1
    at = anywhere(step(rows[0]).params)
    found = jax.jit(jax.vmap(lambda row: step(row).objective(at)))(rows)
    expected = [velocity(step(row).objective, at) for row in rows]
    np.testing.assert_allclose(found.online, [v.online for v in expected], rtol=1e-12)
    np.testing.assert_allclose(found.predictor, [v.predictor for v in expected], rtol=1e-12)
    assert len({np.asarray(run.online)[0, 0] for run in runs}) == 20


def test_each_feature_may_have_noise_of_its_own():
    """A list too; the part of the field that comes from it is W_pᵀW_pWX′."""
    deviations = [0.1, 0.5, 2.0]
    noisy, silent = (small(augmentation=a) for a in (deviations, 0.0))
    params = anywhere(noisy.params)
    found = noisy.objective(params).online - silent.objective(params).online
    w, p = np.asarray(params.online), np.asarray(params.predictor)
    np.testing.assert_allclose(found, p.T @ p @ w @ np.diag(np.square(deviations)), rtol=1e-10)
    assert len(jax.tree.leaves(noisy.objective)) == 6


def test_data_of_many_kinds():
    x = np.random.default_rng(0).normal(size=(6, 2, 2)) * 3 + 1
    problem = self_supervised(x, 3)
    flat = x.reshape(6, 4) - x.reshape(6, 4).mean(0)
    covariance = flat.T @ flat / 6
    np.testing.assert_allclose(problem.objective.data[0], covariance / np.trace(covariance) * 4, rtol=1e-12)
    labelled = self_supervised((x, np.arange(6)), 3, scale=False)
    np.testing.assert_allclose(labelled.objective.data[0], covariance, rtol=1e-12)
    assert problem.predict(problem.params, flat).shape == (6, 3)
    network = self_supervised(x, 3, (5,), method="byol")
    assert network.predict(network.params, flat).shape == (6, 3)
    listed = self_supervised([[1.0, 0.0], [2.0, 3.0], [3.0, 5.0]], 3)
    assert listed.params.online.shape == (3, 2)
    assert self_supervised("digits").params.online.shape == (16, 61)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"data": np.ones((4, 3))},
            ValueError,
            "data must have features that vary, got constant ones at .* 0, 1",
        ),
        ({"data": np.array([[0.0, 2.0], [1.0, 2.0]])}, ValueError, "constant ones at the indices 1"),
        (
            {"data": np.array([[0.0, 2.0], [1.0, np.nan]])},
            ValueError,
            r"x of data .* finite .* nan at \[1, 1\]",
        ),
        ({"data": np.array([["a"], ["b"]])}, ValueError, "x of data must hold real numbers"),
        ({"data": np.ones((1, 3))}, ValueError, "data must hold at least 2 examples"),
        ({"data": np.ones(3)}, ValueError, r"data must hold at least 2 examples .* got shape \(3,\)"),
        ({"data": "digit"}, ValueError, "Did you mean 'digits'"),
        ({"features": 0}, ValueError, "features must be an integer at least 1"),
        ({"features": 2.0}, TypeError, "features must be an integer"),
        ({"hidden": 3}, TypeError, "hidden must be a sequence of widths"),
        ({"hidden": (0,)}, ValueError, "hidden must be an integer at least 1"),
        ({"method": "simclr"}, ValueError, "method must be one of byol, simsiam"),
        ({"method": "byol", "stop_gradient": False}, ValueError, "stop_gradient must be True for the method"),
        (
            {"method": "byol", "teacher_scale": 2.0},
            ValueError,
            "teacher_scale must be left out for the method",
        ),
        ({"teacher_rate": 2.0}, ValueError, "teacher_rate must be left out for the method 'simsiam'"),
        ({"distance": "cosine"}, ValueError, "distance must be 'squared' for the linear model"),
        (
            {"distance": "cosine", "hidden": (2,), "teacher_scale": 0.5},
            ValueError,
            "teacher_scale must be left out for the distance 'cosine'",
        ),
        ({"activation": "step"}, ValueError, "activation must be one of"),
        ({"draws": 0, "hidden": (2,)}, ValueError, "draws must be an integer at least 1"),
        ({"draws": 10**13, "hidden": (2,)}, ValueError, "draws must fit in memory"),
        ({"augmentation": -1.0}, ValueError, "augmentation must be a finite number at least 0"),
        ({"augmentation": np.ones(2)}, ValueError, r"augmentation must be a number or of shape \(3,\)"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be a finite number at least 0"),
        ({"weight_decay": None}, TypeError, "weight_decay must be"),
        ({"predictor_speed": float("nan")}, ValueError, "predictor_speed must be a finite number at least 0"),
        ({"key": 0}, TypeError, "key must be a PRNG key"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(options, error, message):
    options = {"data": examples(VARIANCES), **options}
    with pytest.raises(error, match=message):
        self_supervised(**options)
