"""The linear theory of SimSiam: thresholds, points of rest, what is conserved, and how fast the rest collapses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
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
    follow,
    small,
)
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import jaxflow as jf
from jaxflow.comparison.orders.slope import fit
from jaxflow.problems import optimal_predictor, self_supervised, simsiam_modes

pytestmark = pytest.mark.promotes


def test_modes_collapse_past_the_threshold_and_below_the_lower_point_of_rest():
    """η at .98 and 1.02 η*, and starts at .98 and 1.02 p₋, by the library's own solver in lanes of one program."""
    variances, sigma, tau, speed = np.array([1.0, 3.0, 0.4]), SIGMA, 0.9, 2.0
    numbers = {"augmentation": sigma, "predictor_speed": speed, "teacher_scale": tau}
    threshold = np.asarray(simsiam_modes(variances, weight_decay=0.0, **numbers).threshold)
    kappa = variances + sigma**2
    np.testing.assert_allclose(threshold, tau**2 * variances**2 / (4 * kappa), rtol=1e-14)
    lam = np.tile(variances, 4)
    eta = np.concatenate([0.98 * threshold, 1.02 * threshold, 0.8 * threshold, 0.8 * threshold])
    modes = simsiam_modes(lam, weight_decay=eta, **numbers)
    low = np.asarray(modes.collapses_below)
    start = np.concatenate([np.ones(6), 1.02 * low[6:9], 0.98 * low[9:]])
    lives = np.repeat([True, False, True, False], 3)
    assert (np.asarray(modes.survives) == np.repeat([True, False, True, True], 3)).all()

    @jax.vmap
    def end(covariance, decay, p):
        problem = self_supervised([1.0, -1.0] @ np.eye(2)[:, :, None], 1, weight_decay=decay, **numbers)
        field = jf.VectorField(problem.objective.field, (covariance, problem.objective.data[1]))
        params = jf.problems.SimSiamPlayers(p / speed**0.5, p)
        return jf.integrate(jf.dynamics.gradient_flow(field), params, jnp.array([0.0, 700.0])).params

    found = end(lam[:, None, None], jnp.asarray(eta), jnp.asarray(start)[:, None, None])
    p, s = np.asarray(found.predictor).ravel(), np.asarray(found.online).ravel() ** 2
    np.testing.assert_allclose(p[lives], np.asarray(modes.predictor)[lives], atol=1e-6)
    np.testing.assert_allclose(s[lives], np.asarray(modes.strength)[lives], atol=1e-6)
    assert np.abs(p[~lives]).max() < 1e-6
    larger = [np.roots([k, -tau * v, e]).real.max() for k, v, e in zip(kappa, variances, eta, strict=False)]
    np.testing.assert_allclose(p[:3], larger, atol=1e-6)


def test_points_of_rest_do_not_lose_digits_and_have_derivatives():
    modes = simsiam_modes(np.float32(2.0), augmentation=0.5, weight_decay=1e-6)
    assert modes.collapses_below.dtype == np.float32
    np.testing.assert_allclose(modes.collapses_below, 1e-6 / 2, rtol=1e-5)
    end = lambda decay: simsiam_modes(
        jnp.array([1.0, 0.1]), augmentation=0.5, weight_decay=decay
    ).threshold.sum()
    assert jax.jit(jax.grad(end))(0.1) == 0
    rest = jax.jit(
        lambda decay: jnp.nansum(
            simsiam_modes(jnp.array([3.0, 0.1]), augmentation=0.5, weight_decay=decay)[3]
        )
    )
    assert jax.jit(jax.grad(rest))(0.1) == pytest.approx(
        float(rest(0.1 + 1e-6) - rest(0.1 - 1e-6)) / 2e-6, rel=1e-6
    )
    problem = small(method="byol", **BYOL)
    modes = simsiam_modes(VARIANCES[:2], augmentation=SIGMA, weight_decay=ETA, predictor_speed=SPEED)
    online = np.diag(np.sqrt(modes.strength)) @ np.eye(2, 3)
    rest = problem.params._replace(online=online, predictor=np.diag(modes.predictor), teacher=online)
    assert max(np.abs(leaf).max() for leaf in jax.jit(lambda p: problem.objective(p))(rest)) < 1e-14


def test_digits_keep_the_modes_that_theory_keeps():
    """From principal components and from a random start, in lanes of one program, until settled."""
    problem = self_supervised("digits", 32, augmentation=SIGMA)
    covariance = problem.objective.data[0]
    variances, directions = np.linalg.eigh(covariance)
    decays = np.array([0.05, 0.2, 0.5, 1.0, 2.0])
    modes = simsiam_modes(variances[::-1], augmentation=SIGMA, weight_decay=decays[:, None])
    survives, strength = np.asarray(modes.survives), np.asarray(modes.strength)
    expected = survives.sum(1)
    assert list(expected) == [27, 14, 8, 4, 2]
    starts = [directions[:, ::-1][:, :32].T, 2 * np.asarray(problem.params.online)]
    for i, decay in enumerate(decays):
        field = self_supervised("digits", 32, augmentation=SIGMA, weight_decay=decay).objective
        for start in starts:
            end = jf.integrate(
                jf.dynamics.gradient_flow(field),
                problem.params._replace(online=jnp.asarray(start)),
                np.array([0.0, 60 + 25 / decay]),
                rtol=1e-5,
                atol=1e-8,
                max_steps=20_000,
                solver=jf.RKC2(),
            )
            strengths = np.linalg.svd(end.params.online, compute_uv=False) ** 2
            predicted = np.where(survives[i], np.nan_to_num(strength[i]), 0)[:32]
            assert (strengths > 1e-2).sum() == (strengths > 1e-5).sum() == expected[i]
            np.testing.assert_allclose(strengths, predicted, atol=1e-5)


def imbalance(params, speed=SPEED):
    """WWᵀ − W_pᵀW_p/α_p at all times."""
    w, p = np.asarray(params.online), np.asarray(params.predictor)
    return w @ np.swapaxes(w, -1, -2) - np.swapaxes(p, -1, -2) @ p / speed


def test_the_imbalance_is_conserved_by_flows_and_drifts_under_descent_at_first_order():
    times = np.linspace(0, 2, 5)
    problem = small(**SIMSIAM)
    start = anywhere(problem.params)
    flow = jf.integrate(jf.dynamics.gradient_flow(problem.objective), start, times, rtol=1e-12)
    expected = np.exp(-2 * ETA * times)[:, None, None] * imbalance(start)
    assert np.abs(imbalance(flow.values) - expected).max() < 1e-10

    def plain(_, z):
        w, p = z[:6].reshape(2, 3), z[6:].reshape(2, 2)
        return np.concatenate([v.ravel() for v in by_hand(w, p, w, TAU, True)])

    path = solve_ivp(plain, (0, 2), ravel_pytree(start)[0], method="DOP853", rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(ravel_pytree(flow.params)[0], path.y[:, -1], atol=1e-9)
    taught = small(method="byol", **BYOL)
    begin = taught.params._replace(online=start.online, predictor=start.predictor)
    assert np.abs(imbalance(follow(taught, begin, times, 1e-12)) - expected).max() < 1e-10

    steps, drift = np.array([0.02, 0.01, 0.005, 0.0025]), []
    for h in steps:
        run = jf.iterate(
            jf.optim.gd(h), problem.objective, start, steps=jnp.asarray(round(2 / h)), every=None
        )
        drift.append(np.abs(imbalance(run.params) - expected[-1]).max())
    assert fit(steps, np.array(drift)).slope == pytest.approx(1, abs=0.05)


def test_without_the_stop_it_collapses_at_least_as_fast_as_the_bound():
    times = np.linspace(0, 20, 41)
    norms = {}
    for stopped in (True, False):
        problem = small(stop_gradient=stopped, augmentation=SIGMA, weight_decay=ETA)
        path = follow(problem, anywhere(problem.params)._replace(predictor=jnp.eye(2)), times)
        norms[stopped] = np.linalg.norm(path.online, axis=(1, 2))
    bound = norms[True][0] * np.exp(-(SIGMA**2 + ETA) * times)
    assert (norms[False] <= bound * (1 + 1e-9)).all()
    assert (norms[True][20:] > 10 * bound[20:]).all()
    assert norms[True][-1] > 0.5


def test_without_predictor_it_collapses_at_the_predicted_rate():
    times = np.linspace(0, 10, 5)
    problem = small(predictor=False, **SIMSIAM)
    rates = (TAU - 1) * np.array(VARIANCES) - SIGMA**2 - ETA
    path = follow(problem, problem.params, times)
    expected = np.asarray(problem.params.online) * np.exp(rates * times[:, None, None])
    np.testing.assert_allclose(path.online, expected, atol=1e-9)
    taught = small(predictor=False, method="byol", **BYOL)
    start = taught.params._replace(teacher=2 * taught.params.online)
    path = follow(taught, start, times)
    for i, v in enumerate(VARIANCES):
        matrix = expm(times[-1] * np.array([[-v - SIGMA**2 - ETA, v], [0.7, -0.7]]))
        both = matrix @ np.stack([start.online[:, i], start.teacher[:, i]])
        np.testing.assert_allclose([path.online[-1, :, i], path.teacher[-1, :, i]], both, atol=1e-9)


def test_the_optimal_predictor_keeps_the_gram_matrix():
    """In closed form, by a fast predictor with a deviation of order 1/α_p, and by a predictor of many steps."""
    problem = small(augmentation=SIGMA, weight_decay=ETA)
    x, w = np.diag(VARIANCES), np.asarray(problem.params.online)
    gram = w @ w.T
    best = optimal_predictor(problem.objective, problem.params)
    np.testing.assert_allclose(
        best, w @ x @ w.T @ np.linalg.inv(w @ (x + SIGMA**2 * np.eye(3)) @ w.T), rtol=1e-10
    )
    start, time, off = problem.params._replace(predictor=best), 2.0, []
    for speed in (20.0, 40.0, 80.0):
        fast = small(augmentation=SIGMA, weight_decay=ETA, predictor_speed=speed)
        end = np.asarray(follow(fast, start, [0.0, time]).online[-1])
        off.append(np.abs(end @ end.T - np.exp(-2 * ETA * time) * gram).max())
    assert fit(1 / np.array([20.0, 40.0, 80.0]), np.array(off)).slope == pytest.approx(1, abs=0.1)
    fast = small(augmentation=SIGMA, weight_decay=ETA, predictor_speed=100.0)
    turns = jf.optim.alternating(jf.optim.gd(0.005), jf.optim.repeated(jf.optim.gd(0.003), 40))
    end = jf.iterate(turns, fast.objective, start, steps=400, every=None, time_step=0.005).params
    w = np.asarray(end.online)
    assert np.abs(w @ w.T - np.exp(-2 * ETA * time) * gram).max() < 0.004
    np.testing.assert_allclose(end.predictor, optimal_predictor(fast.objective, end), atol=1e-3)
    taught = small(method="byol", **BYOL)
    params = anywhere(taught.params)
    params = params._replace(predictor=optimal_predictor(taught.objective, params))
    free = small(method="byol", **BYOL | {"weight_decay": 0.0})
    assert np.abs(free.objective(params).predictor).max() < 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variances": [1.0, -1.0]}, "variances must be a finite number at least 0"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
        ({"predictor_speed": 0.0}, "predictor_speed must be a finite number above 0"),
        ({"variances": 0.0, "augmentation": 0.0}, "variances must be above 0 where there is no augmentation"),
    ],
)
def test_theory_refuses_in_a_sentence(change, message):
    numbers = {"variances": 1.0, "augmentation": 0.5, "weight_decay": 0.1} | change
    with pytest.raises(ValueError, match=message):
        simsiam_modes(numbers.pop("variances"), **numbers)


def test_the_best_predictor_of_a_network_is_refused():
    problem = self_supervised(examples(VARIANCES), 2, (3,))
    with pytest.raises(TypeError, match="objective must be that of a linear self_supervised problem"):
        optimal_predictor(problem.objective, problem.params)
