"""Studies past the edge of stability: against closed forms, dense eigenvalues and distances taken in NumPy."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

import jaxflow as jf
from jaxflow.comparison.edge.effective_sharpness import unit
from jaxflow.comparison.edge.measurement import gaussian_average
from jaxflow.comparison.edge.stable_approach import approach

pytestmark = pytest.mark.promotes
A = B = 0.05
FAR, RATE, BEGIN = 27.2, 0.1, 26.0


def losses(p, tilt):
    """Minimal in x at 0, sharper there as y grows to z, which drifts to `FAR`; u only makes for an early hump."""
    x, y, z, u = p
    return 0.5 * y * x**2 + 0.5 * A * (y - z) ** 2 + 0.5 * B * (z - FAR) ** 2 + 2 * u**4 - tilt * x


def hessian(p):
    x, y, _, u = np.asarray(p)
    return np.array([[y, x, 0, 0], [x, A, -A, 0], [0, -A, A + B, 0], [0, 0, 0, 24 * u**2]])


def study_of(start, tilt, level):
    with jax.numpy_dtype_promotion("standard"):
        toy = jf.Objective(losses, jnp.array([tilt]))
        return jf.edge_study(jf.optim.gd(RATE), toy, jnp.asarray(start), steps=200, modes=1, level=level)


@pytest.fixture(scope="module")
def toy_study():
    return study_of([np.sqrt(0.6), 20.0, BEGIN, 0.0], 0.0, None)


def test_toy_is_on_its_closed_form(toy_study):
    """y stays at 2/η, z relaxes to z∞ at rate a + b, X = 2a(z − y), and the predicted loss is L + X/η."""
    times = np.asarray(toy_study.times)
    np.testing.assert_allclose(times, RATE * np.arange(1, 200), rtol=1e-12)
    far = (A * 20 + B * FAR) / (A + B)
    z = far + (BEGIN - far) * np.exp(-(A + B) * times)
    x = 2 * A * (z - 20)
    predicted = 0.5 * A * (z - 20) ** 2 + 0.5 * B * (z - FAR) ** 2 + x / RATE
    # tr X is in the coordinates U'PU = 1: X there over η. x, of an iterate at first, decays as e^{−2k}.
    np.testing.assert_allclose(toy_study.central.loss[2:], predicted[2:], rtol=5e-3)
    np.testing.assert_allclose(toy_study.covariance[2:, 0, 0], x[2:] / RATE, rtol=5e-3)
    np.testing.assert_allclose(toy_study.central.eigenvalues[2:, 0], 2.0, atol=2e-3)
    np.testing.assert_allclose(toy_study.central.params, [0.0, 20.0, z[-1], 0.0], atol=5e-3)
    # Brute force over 200 steps: .99941 of the prediction.
    assert float(np.mean(toy_study.iterates.loss)) == pytest.approx(np.mean(predicted), rel=3e-3)
    ratio = np.mean(toy_study.iterates.squared_gradient) / np.mean(toy_study.central.squared_gradient)
    assert float(ratio) == pytest.approx(1, abs=5e-3)


def test_the_squared_gradient_of_a_whole_burst_is_predicted():
    """Of a calm start, by NumPy: before the first burst a thousandth of the prediction, over the whole of it all."""
    points = [np.array([0.01, 19.5, BEGIN])]
    slope = lambda x, y, z: np.array([x * y, 0.5 * x**2 + A * (y - z), A * (z - y) + B * (z - FAR)])
    for _ in range(200):
        points.append(points[-1] - RATE * slope(*points[-1]))
    _, y, z = np.array(points).T
    squares = np.array([np.sum(slope(*point) ** 2) for point in points])
    first, last = np.flatnonzero((y[:-1] < 20) & (y[1:] >= 20)) + 1
    far = (A * 20 + B * FAR) / (A + B)
    held = far + (z[first] - far) * np.exp(-RATE * (A + B) * np.arange(last - first))
    predicted = 800 * A * (held - 20) + (A * (held - 20)) ** 2 + (A * (held - 20) + B * (held - FAR)) ** 2
    assert predicted[:50].sum() > 50 * squares[first : first + 50].sum()
    assert squares[first + 60 : first + 80].sum() > 5 * predicted[60:80].sum()
    assert predicted.sum() == pytest.approx(squares[first:last].sum(), rel=0.03)
    study = study_of([0.01, 19.5, BEGIN, 0.0], 0.0, None)
    assert study.burst_ratios == pytest.approx([predicted.sum() / squares[first:last].sum()], rel=0.01)
    total = np.mean(study.central.squared_gradient) / np.mean(study.iterates.squared_gradient)
    assert float(study.squared_gradient_total_ratio) == pytest.approx(float(total), rel=1e-12)


def test_below_the_edge_nothing_parts_the_flows():
    """The sharpness ends at 17.2 × .1: both flows are one, and no time is named at which iterates leave it."""
    with jax.numpy_dtype_promotion("standard"):
        toy = jf.Objective(losses, jnp.array([0.0]))
        start = jnp.array([0.3, 17.0, 17.2, 0.0])
        study = jf.edge_study(jf.optim.gd(RATE), toy, start, steps=12, modes=1, level=None)
        assert "the edge was not reached" in repr(study)
    assert np.isnan(study.reached)
    assert np.isnan(study.left)
    assert (study.covariance == 0).all()
    assert study.burst_ratios.shape == (0,)
    assert study.distance_ratio == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(study.central.params, study.stable.params, atol=1e-5)
    labels = lambda ax: ax.get_legend_handles_labels()[1]
    assert "the edge was not reached" in labels(jf.plot.edge(study, Figure().subplots(3))[1])


def test_toy_iterates_are_those_of_gradient_descent(toy_study):
    """By hand, with midpoints and distances taken in NumPy."""
    points = [np.array([np.sqrt(0.6), 20.0, BEGIN, 0.0])]
    for _ in range(200):
        x, y, z, _ = points[-1]
        slope = np.array([x * y, 0.5 * x**2 + A * (y - z), -A * (y - z) + B * (z - FAR), 0.0])
        points.append(points[-1] - RATE * slope)
    path = np.stack(points)
    middle = (path[:-2] + 2 * path[1:-1] + path[2:]) / 4
    np.testing.assert_allclose(toy_study.iterates.params, path[-2], rtol=1e-9)
    np.testing.assert_allclose(
        toy_study.iterates.distance, np.linalg.norm(path[1:-1] - middle, axis=1), rtol=1e-7
    )
    leading = [RATE * np.linalg.eigvalsh(hessian(p))[-1] for p in middle]
    np.testing.assert_allclose(toy_study.iterates.eigenvalues[:, 0], leading, rtol=1e-6)
    for name in ("central", "stable"):
        ends = getattr(toy_study, name)
        gap = np.linalg.norm(np.asarray(ends.params) - middle[-1])
        assert float(ends.distance[-1]) == pytest.approx(gap, rel=1e-9)
    # The stable flow has x -> 0 and y -> z: it leaves the edge upwards.
    assert toy_study.stable.eigenvalues[-1, 0] > 2.1
    assert toy_study.distance_ratio < 0.05


def test_average_is_the_midpoints_plus_the_averaged_oscillation(toy_study):
    """x alternates about 0, so what the iterates have above their midpoints is ½yx², 10 X at the edge."""
    np.testing.assert_allclose(toy_study.averaged_loss[20:180], toy_study.central.loss[20:180], rtol=0.05)
    assert float(toy_study.window) == 20


def test_averaged_against_its_definition():
    values = np.random.default_rng(0).normal(size=30)
    at = np.arange(30)
    weights = np.exp(-0.5 * ((at[:, None] - at) / 2.0) ** 2) * (abs(at[:, None] - at) <= 9)
    np.testing.assert_allclose(gaussian_average(values, 2.0), weights @ values / weights.sum(1), rtol=1e-12)
    np.testing.assert_allclose(gaussian_average(np.full(5, 3.0), 50.0), 3.0, rtol=1e-12)


def test_a_study_begins_where_the_sharpness_rises_through_the_level():
    """24 u² begins at an effective 3.5 and decays, y begins at 1.4 and grows: only the rise of y counts."""
    study = study_of([0.1, 14.0, BEGIN, 1.2], 0.3, 1.8)
    way = np.asarray(study.approach_sharpness)
    assert way[0] == pytest.approx(24 * 1.2**2 * RATE, rel=1e-6)
    assert way[1:].min() < 1.5
    assert way[-1] == pytest.approx(1.8, rel=1e-3)
    assert (way[np.argmax(way < 1.8) : -1] < 1.8).all()
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian(study.start))[-1] * RATE, way[-1], rtol=1e-6)
    for path in (study.central, study.stable):
        top = np.linalg.eigvalsh(hessian(path.params))[-1] * RATE
        assert float(path.eigenvalues[-1, 0]) == pytest.approx(top, rel=2e-3)
    assert float(study.central.eigenvalues.max()) < 2.001
    assert float(study.stable.eigenvalues[-1, 0]) > 2.1


def test_second_moments_are_handed_over():
    """RMSProp on a quadratic: effective eigenvalues are η h/(√ν + ε) with the ν after the update at each iterate."""
    scales = jnp.array([1.0, 4.0])
    loss = lambda x: 0.5 * jnp.sum(scales * x**2)
    optimizer = jf.optim.rmsprop(0.01, decay=0.9, eps=1e-3)
    study = jf.edge_study(optimizer, loss, jnp.array([1.0, 0.5]), steps=12, modes=2, level=None)
    x, nu, after, points = np.array([1.0, 0.5]), np.zeros(2), [], []
    for _ in range(13):
        points.append(x)
        slope = np.asarray(scales) * x
        nu = 0.9 * nu + 0.1 * slope**2
        after.append(nu)
        x = x - 0.01 * slope / (np.sqrt(nu) + 1e-3)
    after = np.stack(after)
    middle = (after[:-2] + 2 * after[1:-1] + after[2:]) / 4
    expected = 0.01 * np.asarray(scales) / (np.sqrt(middle) + 1e-3)
    np.testing.assert_allclose(study.iterates.eigenvalues, -np.sort(-expected, axis=1), rtol=1e-6)
    np.testing.assert_allclose(study.iterates.params, points[11], rtol=1e-12)
    # The central flow's first substep begins with ν after the first update.
    first = 0.01 * np.asarray(scales) / (np.sqrt(after[0]) + 1e-3)
    np.testing.assert_allclose(study.central.eigenvalues[0], first[::-1], rtol=1e-4)
    assert study.approach_times.size == 0


class Way:
    """A stand-in for a solve: a sharpness that is a function of time, and a state that is the time."""

    message = "reached the last time"

    def __init__(self, shape, times):
        self.values, self.state = self, float(times[-1])
        self.sharpness = shape(np.asarray(times))


def follow(shape, level, most=100, rate=0.1):
    return approach(
        lambda state, times: Way(shape, times),
        rate=rate,
        start=0.0,
        level=level,
        most=most,
        length=10,
        watch=lambda stage, done: None,
    )


def test_approach_waits_for_the_rise_after_an_early_hump():
    """3 e^{−t} + t/4 starts at 3, falls below 1.8 and rises through it at 7.19, linear to a step's third order."""
    found = follow(lambda t: 3 * np.exp(-t) + t / 4, 1.8)
    root = 7.2
    for _ in range(50):
        root = 4 * (1.8 - 3 * np.exp(-root))
    assert found.start == pytest.approx(root, rel=1e-4)
    assert found.sharpness[-1] == pytest.approx(1.8, rel=1e-4)
    assert found.times[-1] == found.start
    assert found.sharpness[0] == 3
    np.testing.assert_allclose(found.sharpness[:-1], 3 * np.exp(-found.times[:-1]) + found.times[:-1] / 4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            lambda t: t / 10,
            r"rises within 100 steps, got 1\.8: it begins at 0, ends at 1 and lies between 0 and 1; "
            r"with a learning rate of about 0\.18 it",
        ),
        (lambda t: 4 - t / 10, r"begins at 4, ends at 3 .* level=None .* begins at the parameters"),
        (lambda t: t / 10 - 0.5, r"between -0\.5 and 0\.5; with a learning rate of about 0\.36 it would"),
        # 1.2 times the least, 2.8, is there at t = 2.8, and 14 of its own steps later at 1.8/3.36 of the rate.
        (lambda t: 2.8 + t / 5, r"between 2\.8 and 4\.8; with a learning rate of about 0\.054 it would"),
        (
            lambda t: np.where(t > 5, np.nan, t / 10),
            r"got 1\.8: it reached the last time, and its .* 0\.5 at most",
        ),
    ],
    ids=["too slow", "falling", "below 0", "never below", "diverges"],
)
def test_a_level_not_reached_is_said_with_the_sharpness_there_was(shape, message):
    with pytest.raises(ValueError, match=message):
        follow(shape, 1.8)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": 3}, ValueError, "steps must be an integer at least 4, got 3"),
        ({"modes": 0}, ValueError, "modes must be an integer at least 1, got 0"),
        ({"modes": 5}, ValueError, "modes must be at most 4, the number of parameters, got 5"),
        ({"level": -1.0}, ValueError, "level must be a finite number above 0"),
        ({"window": 0.0}, ValueError, "window must be a finite number above 0"),
        ({"approach_steps": 0}, ValueError, "approach_steps must be an integer at least 1"),
        ({"order": 9}, ValueError, "order must be an integer from 1 to 8, got 9"),
        ({"optimizer": jf.optim.rmsprop(0.1, decay=0.0)}, ValueError, "decay must be above 0"),
        ({"optimizer": optax.noisy_sgd(0.1, key=0)}, ValueError, "optimizer must be deterministic"),
        ({"optimizer": 0.1}, TypeError, "optimizer must be an optax transformation, got 0.1"),
        ({"objective": 3.0}, TypeError, "objective"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_bad_input(changes, error, message):
    toy = jf.Objective(losses, jnp.zeros(1))
    given = {"optimizer": jf.optim.gd(0.1), "objective": toy, "steps": 10} | changes
    with pytest.raises(error, match=message):
        jf.edge_study(given.pop("optimizer"), given.pop("objective"), jnp.ones(4), **given)


def test_a_study_inside_a_program_is_refused():
    toy = jf.Objective(losses, jnp.zeros(1))
    study = lambda params: jf.edge_study(jf.optim.gd(0.1), toy, params, steps=10).loss_ratio
    for use in (jax.jit(study), jax.jit(lambda _: study(jnp.ones(4))), jax.vmap(study)):
        with pytest.raises(
            TypeError, match=r"edge_study computes on the host: call it outside of jit and vmap"
        ):
            use(jnp.ones((1, 4)))


def test_pairs_and_rods_are_on_the_closed_form_too(toy_study):
    """In bursts that die out both come to rest where the central flow is: y at 20, loss L + X/η."""
    for path in (toy_study.rods, toy_study.pairs):
        late = slice(150, None)
        np.testing.assert_allclose(path.eigenvalues[late, 0], 2.0, atol=5e-3)
        ratio = np.mean(path.loss[late]) / np.mean(toy_study.central.loss[late])
        assert ratio == pytest.approx(1, abs=0.03)
        gap = np.linalg.norm(np.asarray(path.params) - np.asarray(toy_study.central.params))
        assert gap < 1e-2
    assert toy_study.distance_ratios["pairs"] < 2e-3
    assert toy_study.distance_ratios["rods"] < 0.05
    assert toy_study.loss_ratios["pairs"] == pytest.approx(1, abs=3e-3)
    assert toy_study.distance_ratio == toy_study.distance_ratios["central"]


def toy_loss(p):
    return 0.5 * p[1] * p[0] ** 2 + 0.05 * (31 - p[1]) ** 2 - 0.3 * p[0]


@pytest.fixture(scope="module")
def heavy_ball_study():
    """η = .1, β = .5: the edge is at y = 2(1 + β)/η = 30, and y goes to 31."""
    with jax.numpy_dtype_promotion("standard"):
        optimizer = jf.optim.momentum(0.1, 0.5)
        return jf.edge_study(optimizer, toy_loss, jnp.array([0.5, 25.0]), steps=300, modes=1, level=1.9)


def test_momentum_has_no_central_flow_but_pairs(heavy_ball_study):
    study = heavy_ball_study
    assert study.central is None
    assert study.covariance is None
    assert list(study.flows) == ["stable", "rods", "pairs"]
    # 1.9 of 2 is y = 28.5 of 30.
    assert float(study.start[1]) == pytest.approx(28.5, rel=1e-3)
    assert study.sharpness == pytest.approx(2, abs=0.05)
    assert float(study.stable.eigenvalues[-1, 0]) > 2.06
    assert study.distance_ratio < 0.1
    assert study.distance_ratio == study.distance_ratios["pairs"]
    assert study.loss_ratio == pytest.approx(1, abs=0.02)
    assert study.stable_loss_ratio < 0.8
    assert np.isfinite(study.left)
    assert "predicted by the flow of pairs" in repr(study)


def test_effective_eigenvalues_of_momentum_are_over_its_threshold(heavy_ball_study):
    """Of [[y, x], [x, a]] at each path's last point, times 2/30."""
    for path in (heavy_ball_study.iterates, heavy_ball_study.stable, heavy_ball_study.pairs):
        x, y = np.asarray(path.params)
        top = np.linalg.eigvalsh([[y, x], [x, 0.1]])[-1] * 2 / 30
        assert float(path.eigenvalues[-1, 0]) == pytest.approx(top, rel=2e-3)


def test_adam_goes_on_from_its_own_state_and_step_count():
    """Effective sharpness by hand: η λ / (√(ν̂) + ε) (1 − β₁)/(1 + β₁), ν after the update, a schedule going on."""
    schedule = lambda k: 0.02 * 0.9 ** (k / 10)
    optimizer = jf.optim.adam(schedule, 0.9, 0.99)
    with jax.numpy_dtype_promotion("standard"):
        study = jf.edge_study(optimizer, toy_loss, jnp.array([0.5, 2.0]), steps=6, modes=2, level=None)
        run = jf.iterate(optimizer, toy_loss, jnp.array([0.5, 2.0]), steps=28)
    np.testing.assert_allclose(study.start, run.values[20], rtol=1e-12)
    np.testing.assert_allclose(study.iterates.params, run.values[25], rtol=1e-10)
    np.testing.assert_allclose(study.times, run.times[21:26] - run.times[20], rtol=1e-10)
    slopes = np.stack(
        [np.array([x * y - 0.3, 0.5 * x**2 - 0.1 * (31 - y)]) for x, y in np.asarray(run.values)]
    )
    nu, after = np.zeros(2), []
    for slope in slopes:
        nu = 0.99 * nu + 0.01 * slope**2
        after.append(nu)
    for row, k in enumerate(range(21, 26)):
        middle = (run.values[k - 1] + 2 * run.values[k] + run.values[k + 1]) / 4
        x, y = np.asarray(middle)
        moment = (after[k - 1] + 2 * after[k] + after[k + 1]) / 4 / (1 - 0.99 ** (k + 1))
        scale = np.sqrt(
            0.02 * 0.9 ** (k / 10) / ((1 - 0.9 ** (k + 1)) * (np.sqrt(moment) + 1e-8)) * 0.1 / 1.9
        )
        found = np.linalg.eigvalsh(np.array([[y, x], [x, 0.1]]) * np.outer(scale, scale))[::-1]
        np.testing.assert_allclose(study.iterates.eigenvalues[row], found, rtol=1e-4)


def test_thresholds_under_a_schedule_are_those_of_each_step_and_compile_once(caplog):
    """2 over 2(1 + β)/η_k; each piece of an approach asks again, at other steps."""
    optimizer = jf.optim.momentum(lambda k: 0.1 * 0.99**k, 0.5)
    steps = np.arange(4.0)
    np.testing.assert_allclose(unit(optimizer, steps), 0.1 * 0.99**steps / 1.5, rtol=1e-8)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        later = unit(optimizer, steps + 4)
    np.testing.assert_allclose(later, 0.1 * 0.99 ** (steps + 4) / 1.5, rtol=1e-8)
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


def test_a_sign_has_no_effective_sharpness():
    """A level is refused, with the reason; without one the paths are run, and eigenvalues are not known."""
    start = jnp.array([0.5, 2.0])
    with jax.numpy_dtype_promotion("standard"):
        with (
            pytest.warns(UserWarning, match="takes the sign"),
            pytest.raises(
                ValueError, match=r"level must be None .* got 1\.8: .*does not shrink in proportion"
            ),
        ):
            jf.edge_study(jf.optim.sign(0.01), toy_loss, start, steps=4, modes=1)
        with pytest.warns(UserWarning, match="takes the sign"):
            study = jf.edge_study(jf.optim.sign(0.01), toy_loss, start, steps=4, level=None, modes=1)
    assert np.isnan(study.iterates.eigenvalues).all()
    np.testing.assert_allclose(study.iterates.params, [0.5 - 0.03, 2.0 + 0.03], rtol=1e-12)
    assert "the edge was not reached" not in repr(study)


def test_a_study_is_a_pytree_that_prints_in_a_line(toy_study):
    assert jax.tree.map(lambda x: x, toy_study).times.shape == (199,)
    text = repr(toy_study)
    assert "200 steps" in text
    assert len(text.splitlines()) == 1
    assert "shape" in repr(jax.tree.map(lambda x: jnp.asarray(x)[None], toy_study))
