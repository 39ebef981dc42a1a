"""Pictures of nothing, of one number over and over, of what is infinite or not a number: drawn, or refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from matplotlib.figure import Figure

import jaxflow as jf
from jaxflow.curvature.spectrum.density import spectral_density

pytestmark = pytest.mark.promotes
NAN, INF = np.nan, np.inf
EXTREMES = {
    "nan": np.full(5, NAN),
    "infinite": np.full(5, INF),
    "negative infinite": np.full(5, -INF),
    "zero": np.zeros(5),
    "constant": np.ones(5),
    "negative": -np.ones(5),
    "mixed": np.array([1.0, INF, NAN, -1.0, 0.0]),
    "huge": np.array([1.0, 1e300, 1e308, 1e308, 1.0]),
    "tiny": np.full(5, 5e-324),
    "ended": np.array([1.0, 0.5, NAN, NAN, NAN]),
}
TIMES = np.arange(5.0)


@pytest.fixture
def ax():
    """Axes that are drawn for real once the test has put its picture there."""
    figure = Figure(figsize=(3, 2), dpi=40)
    yield figure.add_subplot()
    figure.canvas.draw()


@pytest.fixture(params=EXTREMES)
def values(request):
    return EXTREMES[request.param]


@pytest.fixture(scope="module")
def density():
    return spectral_density(lambda x: jnp.sum(x**4), jnp.arange(5.0), jax.random.key(0))


@pytest.fixture(scope="module")
def run():
    loss = lambda x: 0.5 * jnp.sum(x**2)
    return jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(2), steps=4, record=loss)


@pytest.mark.parametrize("members", [0, 1, 3, None])
@pytest.mark.parametrize("log", [True, False])
def test_trajectories(ax, run, values, members, log):
    values = values if members is None else np.tile(values, (members, 1))
    jf.plot.trajectories({"a": dataclasses.replace(run, times=TIMES, values=values)}, ax, log=log)
    shown = ax.lines[-1].get_ydata()
    good = np.abs(values) < 1e250 if members is None or members == 0 else np.abs(values[0]) < 1e250
    if members != 0:
        np.testing.assert_array_equal(np.isfinite(shown), good)
    assert ax.get_yscale() == ("log" if log and members != 0 and (shown > 0).any() else "linear")


@pytest.mark.parametrize("members", [None, 2])
def test_comparison(ax, run, values, members):
    values = values if members is None else np.tile(values, (members, 1))
    gap = dataclasses.replace(jf.compare(run, run), distance=values)
    jf.plot.comparison(gap, ax)


def test_a_trajectory_compared_with_itself_is_a_line_at_0(ax, run):
    jf.plot.comparison({"itself": jf.compare(run, run)}, ax)
    assert ax.get_yscale() == "linear"
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), 0)


def test_one_time_is_a_point_and_a_bare_run_is_refused(ax, run):
    jf.plot.trajectories({"a": dataclasses.replace(run, times=TIMES[:1], values=np.ones(1))}, ax)
    assert ax.lines[0].get_marker() == "o"
    with pytest.raises(TypeError, match=r"runs must be trajectories by name, \{name: run\}, got Trajectory"):
        jf.plot.trajectories(run, ax)


def test_plane(ax, run, values):
    path = {"a": dataclasses.replace(run, times=TIMES, values=np.stack([values, values], 1))}
    if (np.abs(values) < 1e30).any():
        jf.plot.plane(lambda x: jnp.sum(x**2), path, ax)
    else:
        with pytest.raises(ValueError, match="plane needs a finite point in its paths, or an extent"):
            jf.plot.plane(lambda x: jnp.sum(x**2), path, ax)


@pytest.mark.parametrize("height", [1.0, NAN, INF, -INF, 1e308])
def test_plane_over_a_flat_or_undefined_function(ax, height):
    jf.plot.plane(lambda x: jnp.where(x[0] > 0, height, -height), ax=ax, extent=(-1, 1, 0, 1))


@pytest.mark.parametrize("extent", [(0, 0, 0, 1), (NAN, 1, 0, 1), (-INF, 1, 0, 1), (0, 1, 2)])
def test_plane_of_no_extent(ax, extent):
    with pytest.raises(ValueError, match="extent must be four finite numbers"):
        jf.plot.plane(jnp.sum, ax=ax, extent=extent)


def test_sharpness(ax, values):
    jf.plot.sharpness(TIMES, values, 20.0, ax)
    jf.plot.sharpness(TIMES, np.ones(5), values, ax)
    jf.plot.sharpness(values, np.ones(5), INF, ax)


@pytest.mark.parametrize(
    ("part", "value"), [("nodes", NAN), ("nodes", INF), ("weights", NAN), ("weights", 0.0)]
)
def test_spectrum_of_no_density(ax, density, part, value):
    jf.plot.spectrum(density, ax, eigenvalues=EXTREMES["mixed"])
    bad = dataclasses.replace(density, **{part: jnp.full_like(getattr(density, part), value)})
    with pytest.raises(ValueError, match="spectrum draws a density of finite numbers above 0"):
        jf.plot.spectrum(bad, ax)


def test_order(ax, values):
    fit = jf.order_of_accuracy(lambda h: 3 * h**2, [0.1, 0.05, 0.025])
    jf.plot.order(dataclasses.replace(fit, errors=values[:3]), ax)
    jf.plot.order(dataclasses.replace(fit, slope=values[1], intercept=values[1]), ax)
    if (np.isfinite(values[:3]) & (values[:3] > 0) & (values[:3] < 1e250)).all():
        return
    with pytest.raises(ValueError, match="order draws errors at finite step sizes above 0"):
        jf.plot.order(dataclasses.replace(fit, step_sizes=values[:3]), ax)


def swept(metric, x, y=None):
    dims = ("x", "seed") if y is None else ("x", "y", "seed")
    metric = np.asarray(metric, float)[..., None]
    coordinates = {"x": x} | ({} if y is None else {"y": y})
    flags = np.zeros(metric.shape, bool)
    return xarray.Dataset({"m": (dims, metric), "diverged": (dims, flags)}, coordinates)


def test_sweep_of_such_a_metric(ax, values):
    jf.plot.sweep(swept(values, TIMES), "m", ax)
    jf.plot.sweep(swept(np.stack([values] * 2, 1), TIMES, [1.0, 2.0]), "m", Figure().add_subplot())


@pytest.mark.parametrize("upright", [False, True])
def test_sweep_over_such_an_axis_is_evenly_spaced(values, upright):
    figure = Figure()
    ax = figure.add_subplot()
    two = [1.0, 2.0]
    made = swept(np.ones((2, 5)), two, values) if upright else swept(np.ones((5, 2)), values, two)
    jf.plot.sweep(made, "m", ax, x="x", y="y")
    low, high = ax.get_ylim() if upright else ax.get_xlim()
    assert (low, high) == (-0.5, 4.5)
    figure.canvas.draw()


def test_samples_at_such_values(ax, values):
    flags, trials = np.zeros((5, 1), bool), {"a": ("trial", values), "b": ("trial", TIMES)}
    made = xarray.Dataset(
        {"m": (("trial", "seed"), TIMES[:, None]), "diverged": (("trial", "seed"), flags)}, trials
    )
    jf.plot.sweep(made, "m", ax)
    jf.plot.sweep(made, "m", Figure().add_subplot(), x="a")


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([0, 1e-3, 1e-2, 0.1], [-5e-4, 5e-4, 10**-2.5, 10**-1.5, 10**-0.5]),
        ([-10, -1, 0, 1, 10], [-(10**1.5), -(10**0.5), -0.5, 0.5, 10**0.5, 10**1.5]),
    ],
)
def test_a_zero_among_powers_of_ten_is_shown(values, edges):
    """Equal distances between neighbours, and cells that end half-way between them."""
    figure = Figure()
    ax = figure.add_subplot()
    jf.plot.sweep(
        swept(np.ones((len(values), 2)), np.asarray(values, float), [1.0, 2.0]), "m", ax, x="x", y="y"
    )
    assert ax.get_xscale() == "symlog"
    at = ax.transData.transform([(value, 1.0) for value in values])[:, 0]
    np.testing.assert_allclose(np.diff(at), np.diff(at)[0], rtol=1e-6)
    mesh = ax.collections[0].get_coordinates()[0, :, 0]
    np.testing.assert_allclose(mesh, edges, rtol=1e-9)
    figure.canvas.draw()
    assert [text.get_text() for text in ax.get_xticklabels()] == [f"{value:g}" for value in values]
    line = Figure().add_subplot()
    jf.plot.sweep(swept(np.ones(len(values)), np.asarray(values, float)), "m", line)
    assert (line.get_xscale(), line.get_xlabel()) == ("symlog", "x")


def test_a_zero_among_even_steps_stays_linear(ax):
    jf.plot.sweep(swept(np.ones(21), np.linspace(0.0, 20.0, 21)), "m", ax)
    assert ax.get_xscale() == "linear"


def test_a_sweep_does_not_claim_what_a_learning_rate_is(ax):
    made = jf.sweep(
        lambda h, key: h["learning_rate"] * 2.0, {"learning_rate": [0.0, 0.1, 1.0]}, progress=False
    )
    jf.plot.sweep(made, "value", ax)
    assert ax.get_xlabel() == "learning rate"
