"""Theory of dynamics: experiments in their quick form, once each, and their parts against loops and other solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from experiment_files import check_claims, check_files
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from experiments.batches import iterate_laws, label_noise, weak_orders, without_replacement
from experiments.edge import catapult, self_stabilisation, warm_up
from experiments.limits import balancedness, margin, sigmoidal_learning
from experiments.noise import stationary_covariance

pytestmark = pytest.mark.promotes
NAMES = (
    "balancedness",
    "catapult",
    "label_noise",
    "margin",
    "self_stabilisation",
    "sigmoidal_learning",
    "stationary_covariance",
    "warm_up",
    "weak_orders",
    "without_replacement",
)


@pytest.mark.parametrize("name", NAMES)
def test_figure_and_numbers_are_written_whole(run, name):
    check_files(name, *run(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_is_reached(run, name):
    """Most have an interval from theory, which the quick version is in too; those with noise have fixed keys."""
    check_claims(run(name)[0])


def network(params, x):
    first, last = params
    return jnp.tanh(x @ first["w"] + first["b"][None]) @ last["w"] + last["b"][None]


def test_an_epoch_is_a_loop_over_its_batches():
    """The mean over two orders, with a cross-entropy written out."""
    objective, params, batches = without_replacement.setting()
    flat, unravel = ravel_pytree(params)
    data, labels = objective.data["x"], objective.data["y"]

    def loss(theta, index):
        outputs = network(unravel(theta), data[index])
        return (jax.nn.logsumexp(outputs, 1) - outputs[jnp.arange(len(index)), labels[index]]).mean()

    slope, ends = jax.jit(jax.grad(loss)), []
    for order in ([2, 0, 3, 1], [1, 1, 0, 2]):
        theta = flat
        for k in order:
            theta = theta - 0.1 * slope(theta, batches[k])
        ends.append(theta)
    found = without_replacement.mean_end(
        objective, params, batches, 0.1, jnp.array([[2, 0, 3, 1], [1, 1, 0, 2]])
    )
    np.testing.assert_allclose(found, np.mean(ends, 0), rtol=1e-10, atol=1e-13)


def test_the_drift_is_the_integral_of_its_speed_along_the_flow():
    """By SciPy, with gradients in NumPy: (Q(t) − Q(0))/η of descent tends to ∫ (GᵀG − GGᵀ) dt."""
    objective, weights = balancedness.linear(20)
    x, hot = np.asarray(objective.data["x"]), np.eye(10)[np.asarray(objective.data["y"])]
    shapes = [w.shape for w in weights]
    ends = np.cumsum([0, *(np.prod(shape) for shape in shapes)])

    def speed(t, state):
        a, b, c = (state[i:j].reshape(s) for i, j, s in zip(ends[:-1], ends[1:], shapes, strict=True))
        error = (c @ b @ a @ x.T - hot.T) / 20
        gradient = [(c @ b).T @ error @ x, c.T @ error @ (a @ x.T).T, error @ (b @ a @ x.T).T]
        first, second, third = gradient
        drift = [second.T @ second - first @ first.T, third.T @ third - second @ second.T]
        return np.concatenate([-np.concatenate([g.ravel() for g in gradient]), *(d.ravel() for d in drift)])

    start = np.concatenate([*(np.asarray(w).ravel() for w in weights), np.zeros(2 * 16 * 16)])
    known = scipy.integrate.solve_ivp(speed, (0, 4), start, rtol=1e-8, atol=1e-10).y[ends[-1] :, -1]
    rates, errors = (0.0025, 0.00125), []
    for rate in rates:
        found = balancedness.descend(objective, weights, balancedness.balance, rate)[1][-1] / rate
        errors.append(np.linalg.norm(found - known) / np.linalg.norm(known))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)
    assert errors[1] < 0.05


def test_the_exact_equation_is_the_fixed_point_of_second_moments():
    """E[δδᵀ] over mini-batches of 16 from a small data set, step by step in NumPy."""
    s, rate = stationary_covariance.setting(), 0.15
    x, y = s.objective.data["x"][:40], s.objective.data["y"][:40]
    x, y = np.asarray(x, float), np.asarray(y, float)
    minimum = np.linalg.lstsq(x, y)[0]
    slopes = x * (x @ minimum - y)[:, None]
    hessian, noise = x.T @ x / 40, slopes.T @ slopes / 40 / stationary_covariance.BATCH
    moments = np.zeros_like(hessian)
    for _ in range(3000):
        # The gradient of example i at θ* + δ is slope_i + x_i x_iᵀ δ; E[δ] = 0, and so the cross terms are 0.
        curved = np.einsum("ni,nj,jk,nk,nl->il", x, x, moments, x, x, optimize=True) / 40
        drift = hessian @ moments + moments @ hessian
        spread = noise + (curved - hessian @ moments @ hessian) / stationary_covariance.BATCH
        moments = moments - rate * drift + rate**2 * (hessian @ moments @ hessian + spread)
    small = s._replace(x=x, hessian=hessian, noise=noise)
    np.testing.assert_allclose(
        stationary_covariance.covariance(small, rate, "exact"), moments, rtol=1e-8, atol=1e-12
    )


def test_moments_of_the_heavy_ball_are_a_recursion_of_three_matrices():
    """E θθᵀ, E θvᵀ and E vvᵀ with a batch's Hessian and gradient at 0 as the random numbers they are, in NumPy."""
    objective, rate, beta, batch = weak_orders.setting((1, 2)), 0.05, 0.6, 3
    x, y = (np.asarray(objective.data[name], float) for name in "xy")
    hessians, slopes = np.einsum("ni,nj->nij", x, x), -x * y[:, None]
    h, b = hessians.mean(0), slopes.mean(0)
    theta, v = np.array([0.5, -1.0]), np.zeros(2)
    tt, tv, vv = np.outer(theta, theta), np.zeros((2, 2)), np.zeros((2, 2))
    for _ in range(12):
        each = np.einsum("nij,jk,nlk->il", hessians, tt, hessians) / len(x)
        crossed = np.einsum("nij,j,nk->ik", hessians, theta, slopes) / len(x)
        single = each + crossed + crossed.T + slopes.T @ slopes / len(x)
        several = h @ tt @ h + np.outer(h @ theta, b) + np.outer(b, h @ theta) + np.outer(b, b)
        gg = single / batch + (1 - 1 / batch) * several
        tg, vg = tt @ h + np.outer(theta, b), tv.T @ h + np.outer(v, b)
        theta_v = beta * tv + tg  # of θ and the new v
        vv = beta**2 * vv + beta * (vg + vg.T) + gg
        tt = tt - rate * (theta_v + theta_v.T) + rate**2 * vv
        tv = theta_v - rate * vv
        v = beta * v + h @ theta + b
        theta = theta - rate * v
    found = iterate_laws.of_linear(
        jf.optim.momentum(rate, beta), objective, jnp.array([0.5, -1.0]), 12, batch
    )
    np.testing.assert_allclose(found.mean, theta, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, tt - np.outer(theta, theta), rtol=1e-9)


def test_closed_moments_of_rmsprop_and_signs_are_those_of_runs():
    """100,000 runs in NumPy, at 4.5 standard errors: a false alarm in 70,000 normal numbers for each of four."""
    objective, rng, count, steps, keep = weak_orders.setting((2,)), np.random.default_rng(0), 100_000, 20, 0.9
    x, y = (np.asarray(objective.data[name], float) for name in "xy")
    x, rate, batch = x[:, 0], 1 / steps, 8

    def gradients(theta):
        quadratic = np.stack([theta**2, theta, np.ones_like(theta)])
        mean = theta * (x @ x) / len(x) - x @ y / len(x)
        square = np.array([np.mean(x**4), -2 * np.mean(x**3 * y), np.mean((x * y) ** 2)]) @ quadratic
        return mean + np.sqrt((square - mean**2) / batch) * rng.standard_normal(count)

    theta, v, signed = np.zeros(count), np.ones(count), np.zeros(count)
    for _ in range(steps):
        g = gradients(theta)
        v = keep * v + (1 - keep) * g**2
        theta = theta - rate * g / (np.sqrt(v) + 1e-8)
        signed = signed - rate * np.sign(gradients(signed))
    optimizer, start = jf.optim.rmsprop(rate, keep), jnp.zeros(1)
    own, *others = optimizer.init(start)
    state = (own._replace(nu=jnp.ones(1)), *others)
    closed = iterate_laws.of_gaussian(optimizer, objective, start, state, steps, batch)
    exact = iterate_laws.of_signs(objective, start, rate, steps, batch)
    for runs, found in ((theta, closed), (signed, exact)):
        away = (runs - runs.mean()) ** 2
        assert abs(runs.mean() - found.mean[0]) < 4.5 * runs.std() / count**0.5
        assert abs(away.mean() - found.covariance[0, 0]) < 4.5 * away.std() / count**0.5


def test_the_flow_along_minima_is_that_of_a_loss_with_a_small_penalty():
    """By SciPy, without a projection: −K∇L − ¼∇ tr H with a large K, in NumPy."""
    x, y = label_noise.examples()
    params = label_noise.start(x, y)
    weight = np.square(x).mean(0)

    def drift(t, state):
        u, v = np.split(state, 2)
        slope = x.T @ (x @ (u**2 - v**2) - y) / len(y)
        return -1e4 * np.concatenate([2 * u * slope, -2 * v * slope]) - 2 * np.tile(weight, 2) * state

    begin = np.concatenate([params["u"], params["v"]])
    known = scipy.integrate.solve_ivp(drift, (0, 6), begin, method="LSODA", rtol=1e-8, atol=1e-10).y[:, -1]
    expected = 4 * np.tile(weight, 2) @ known**2
    found = label_noise.follow(params, x, 0.0, 6.0)[1][-1]
    assert expected < 6.5  # of 8.5 at the start
    assert found == pytest.approx(expected, rel=2e-3)


def test_the_support_vector_machine_satisfies_its_conditions_of_optimality():
    """They are sufficient, as the problem is convex."""
    z = margin.signed_digits()
    machine = margin.support_vectors(z)
    assert (z @ machine.weights).min() > 1 - 1e-9
    assert machine.alpha.min() >= 0
    np.testing.assert_allclose(z.T @ machine.alpha, machine.weights, atol=1e-10)
    np.testing.assert_allclose(machine.alpha * (z @ machine.weights - 1), 0, atol=1e-10)


def test_the_flow_in_log_time_is_gradient_flow():
    """By SciPy in t itself, to t = 200; and log L where the loss is too small for a float."""
    z = margin.signed_digits()[::6]
    known = scipy.integrate.solve_ivp(
        lambda t, theta: z.T @ (1 / (1 + np.exp(z @ theta))) / len(z),
        (0, 200),
        np.zeros(z.shape[1]),
        rtol=1e-9,
        atol=1e-11,
    )
    times, theta = margin.flow(z, np.log(201))
    assert times[-1] == pytest.approx(np.log(201))
    np.testing.assert_allclose(theta[-1], known.y[:, -1], rtol=1e-6, atol=1e-7)
    far = 1e4 * margin.support_vectors(z).weights
    margins = z @ far
    expected = -margins.min() + np.log(np.exp(margins.min() - margins).mean())
    assert margin.log_loss(z, far) == pytest.approx(expected, rel=1e-12)


def test_the_linear_model_is_that_of_a_loop():
    """Descent on two vectors in NumPy, at ηλ₀ = 3, against the library's run and the recursion of two numbers."""
    width, rng = 500, np.random.default_rng(0)
    u, v = rng.normal(size=(2, width))
    start = {"u": jnp.asarray(u)[None], "v": jnp.asarray(v)[None]}
    level, output = (u @ u + v @ v) / width, u @ v / width**0.5
    rate, rows = 3 / level, []
    for _ in range(31):
        rows.append((u @ v / width**0.5, (u @ u + v @ v) / width))
        u, v = u - rate * rows[-1][0] * v / width**0.5, v - rate * rows[-1][0] * u / width**0.5
    f, levels = np.array(rows).T
    losses, found = catapult.runs(start, jnp.array([3.0]), 30)
    np.testing.assert_allclose(losses[0], f**2 / 2, rtol=1e-6)
    np.testing.assert_allclose(found[0], levels, rtol=1e-9)
    np.testing.assert_allclose(catapult.recursion(output, level, rate, width, 30)[1], levels, rtol=1e-9)
    assert losses[0].max() > 10 * losses[0, 0]
    assert levels[-1] * rate < 2


def test_bisection_finds_where_a_condition_begins():
    found = catapult.bisect(lambda x: x > jnp.array([1.3, 2.7]), 1.0, 3.0, 2)
    np.testing.assert_allclose(found, [1.3, 2.7], atol=2**-12)


def test_stability_under_warm_up_is_that_of_a_loop():
    """Rates 0 to the peak in three steps, written out, on a quadratic of curvature 1: 1 − η a step."""
    quadratic = jax.tree_util.Partial(lambda p: 0.5 * jnp.sum(p**2))
    starts, peaks, length = jnp.array([[1.0], [1.0]]), [2.5, 2.9], 3.0
    for steps in (4, 8):
        expected = []
        for peak in peaks:
            point = 1.0
            for k in range(steps):
                point *= 1 - min(peak / 3 + (peak - peak / 3) * k / 3, peak)
            expected.append(abs(point) < 1)
        found = warm_up.is_stable(quadratic, starts, jnp.array(peaks), jnp.array([length] * 2), steps)
        assert found.tolist() == expected


def test_two_numbers_are_descent_on_the_simplest_valley():
    """½yx² − αy, on which S = y at x = 0, β = 1 and nothing is left out."""
    rate, alpha, x, y, rows = self_stabilisation.RATE, 0.05, 0.01, 2 / self_stabilisation.RATE, []
    for _ in range(100):
        rows.append((x, y - 2 / rate))
        x, y = x - rate * y * x, y - rate * (x**2 / 2 - alpha)
    found = self_stabilisation.simple(alpha, 1.0, 0.01, 100)
    np.testing.assert_allclose(found, np.transpose(rows), atol=1e-9)
    assert found[1].max() > 0.1
    assert found[1].min() < -0.1


def test_the_third_order_at_the_edge_is_that_of_differences():
    """S, α and β of the valley by NumPy's eigenvalues of its Hessian and central differences of S."""
    point, step = np.array([0.1, 5.7, 11.0]), 1e-5

    def top(p):
        hessian = [[p[1], p[0], 0], [p[0], 0.01, -0.01], [0, -0.01, 0.02]]
        values, vectors = np.linalg.eigh(hessian)
        return values[-1], vectors[:, -1]

    value, u = top(point)
    rise = np.array([(top(point + step * e)[0] - top(point - step * e)[0]) / (2 * step) for e in np.eye(3)])
    rise = rise - rise @ u * u
    x, y, z = point
    slope = np.array([y * x, x**2 / 2 + 0.01 * (y - z), 0.01 * (2 * z - y - 12)])
    at = self_stabilisation.edge(jax.tree_util.Partial(self_stabilisation.valley), jnp.asarray(point))
    assert at.sharpness == pytest.approx(value, rel=1e-8)
    assert at.beta == pytest.approx(rise @ rise, rel=1e-6)
    assert at.alpha == pytest.approx(-rise @ slope, rel=1e-6)
    assert at.displacement**2 == pytest.approx((u @ slope / value) ** 2, rel=1e-6)


def test_modes_of_a_linear_network_are_those_of_another_solver():
    """By SciPy, with the gradients of whitened data in NumPy, from small random weights."""
    found = sigmoidal_learning.modes()
    weights = [np.asarray(w) for w in sigmoidal_learning.small(found)]
    sigma = found.left @ np.diag(found.strengths) @ found.right.T
    x, y = found.objective.data["x"], found.objective.data["y"]
    np.testing.assert_allclose(x.T @ x / len(x), np.eye(20), atol=1e-10)
    np.testing.assert_allclose(y.T @ x / len(x), sigma, atol=1e-10)
    shapes, cut = [w.shape for w in weights], weights[0].size

    def drift(t, state):
        first, last = state[:cut].reshape(shapes[0]), state[cut:].reshape(shapes[1])
        error = sigma - last @ first
        return np.concatenate([(last.T @ error).ravel(), (error @ first.T).ravel()])

    start = np.concatenate([w.ravel() for w in weights])
    known = scipy.integrate.solve_ivp(drift, (0, 25), start, rtol=1e-9, atol=1e-12).y[:, -1]
    ended = known[:cut].reshape(shapes[0])[None], known[cut:].reshape(shapes[1])[None]
    expected = found.of(ended)[0]
    assert expected[0] / found.strengths[0] > 0.1
    values = sigmoidal_learning.flow(found, [jnp.asarray(w) for w in weights], jnp.array([0.0, 25.0]))[-1]
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_the_time_in_theory_is_that_of_the_sigmoid_for_two_layers():
    time = sigmoidal_learning.time_to(0.2, 0.3, 1e-4, 2)
    curve = sigmoidal_learning.closed_form(np.array([0.3]), 1e-4, np.array([time]))
    assert curve[0, 0] == pytest.approx(0.2, rel=1e-8)
