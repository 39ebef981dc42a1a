"""Pictures of sweeps: every value, gap and tick on them is the dataset's."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Rectangle

import jaxflow as jf
from jaxflow.plot.sweeps.scales import Scale, compact_number, is_geometric

RATES, BATCHES, SEEDS = np.geomspace(1e-3, 1.0, 7), np.array([4, 16, 64, 256]), 5


@pytest.fixture
def grid():
    """Seven rates by four batch sizes by five seeds: a corner diverged, and one cell in part."""
    rng = np.random.default_rng(0)
    loss = 10.0 ** rng.uniform(-3, 0, (7, 4, SEEDS))
    diverged = np.zeros(loss.shape, bool)
    diverged[5:, :2] = True
    diverged[4, 1, :2] = True
    dims = ("learning_rate", "batch_size", "seed")
    return xarray.Dataset(
        {
            "test_loss": (dims, np.where(diverged, np.nan, loss), {"units": "nats"}),
            "accuracy": (dims, np.where(diverged, np.nan, 0.5 + loss / 2)),
            "steps": (dims, rng.integers(1, 9, loss.shape)),
            "diverged": (dims, diverged),
            "distance": ((*dims, "time"), np.stack([0 * loss, loss, 2 * loss], -1)),
            "spectrum": ((*dims, "rank"), np.stack([loss, loss], -1)),
            "message": (dims, np.full(loss.shape, "ok")),
        },
        {
            "learning_rate": ("learning_rate", RATES, {"units": "1/step"}),
            "batch_size": BATCHES,
            "seed": np.arange(SEEDS),
            "time": [0.0, 1.0, 2.0],
        },
    )


@pytest.fixture
def samples():
    """Forty samples, log-uniform rates and uniform momenta, the largest rates diverged."""
    rng = np.random.default_rng(1)
    rate, momentum = 10.0 ** rng.uniform(-4, 0, 40), rng.uniform(0, 1, 40)
    loss = rng.uniform(1, 2, (40, 3))
    diverged = np.broadcast_to(rate[:, None] > 0.3, loss.shape).copy()
    diverged[np.argmin(rate), 0] = True
    return xarray.Dataset(
        {
            "loss": (("trial", "seed"), np.where(diverged, np.nan, loss)),
            "diverged": (("trial", "seed"), diverged),
        },
        {
            "learning_rate": ("trial", rate),
            "momentum": ("trial", momentum),
            "trial": np.arange(40),
            "seed": np.arange(3),
        },
    )


def only(artists, kind):
    (artist,) = [a for a in artists if isinstance(a, kind)]
    return artist


def legend(ax):
    return [] if ax.get_legend() is None else [text.get_text() for text in ax.get_legend().get_texts()]


def hatched(ax):
    """The diverged cells of a map, by the rectangle they fill: left, bottom, right, top."""
    return {
        tuple(np.round(patch.get_bbox().extents, 12))
        for patch in ax.patches
        if isinstance(patch, Rectangle) and patch.get_hatch()
    }


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def colour_bar(ax):
    return ax.figure.axes[1]


def test_a_map_shows_the_medians_in_cells_around_the_values(ax, grid):
    assert jf.plot.sweep(grid, "test_loss", ax) is ax
    mesh = only(ax.collections, QuadMesh)
    values = grid["test_loss"].values.copy()
    shown = mesh.get_array().reshape(4, 7)
    for i in range(7):
        for j in range(4):
            kept = values[i, j][~grid["diverged"].values[i, j]]
            if kept.size:
                np.testing.assert_allclose(shown[j, i], np.median(kept), rtol=1e-12)
            else:
                assert shown.mask[j, i]
    columns, rows = mesh.get_coordinates()[0, :, 0], mesh.get_coordinates()[:, 0, 1]
    np.testing.assert_allclose(columns[1:-1], np.sqrt(RATES[1:] * RATES[:-1]))
    np.testing.assert_allclose(rows, [2, 8, 32, 128, 512])
    assert ax.get_xscale() == ax.get_yscale() == "log"
    np.testing.assert_allclose((*ax.get_xlim(), *ax.get_ylim()), (columns[0], columns[-1], 2, 512))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning rate (1/step)", "batch size")
    assert (ax.get_title(), colour_bar(ax).get_ylabel()) == ("", "test loss (nats)")


def test_a_map_hatches_what_diverged_and_crosses_what_did_in_part(ax, grid):
    jf.plot.sweep(grid, "test_loss", ax)
    columns = Scale.of(grid["learning_rate"]).edges()
    rows = Scale.of(grid["batch_size"]).edges()
    cells = {(columns[i], rows[j], columns[i + 1], rows[j + 1]) for i in (5, 6) for j in (0, 1)}
    assert hatched(ax) == {tuple(np.round(cell, 12)) for cell in cells}
    (crosses,) = ax.lines
    np.testing.assert_allclose(crosses.get_xydata(), [[RATES[4], 16]])
    assert legend(ax) == ["diverged (all seeds)", "some seeds diverged"]


def test_x_and_y_choose_what_runs_across_and_up(ax, grid):
    jf.plot.sweep(grid, "test_loss", ax, x="batch_size")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("batch size", "learning rate (1/step)")
    other = plt.figure().add_subplot()
    jf.plot.sweep(grid, "test_loss", other, y="learning_rate")
    same = [only(a.collections, QuadMesh).get_array() for a in (ax, other)]
    np.testing.assert_array_equal(*same)
    np.testing.assert_allclose(same[0][0, 3], np.median(grid["test_loss"].values[0, 3]))
    plt.close(other.figure)


def test_values_need_not_be_sorted(ax, grid):
    mixed = grid.isel(learning_rate=[3, 0, 6, 1, 5, 2, 4], batch_size=[1, 3, 0, 2])
    jf.plot.sweep(mixed, "test_loss", ax)
    other = jf.plot.sweep(grid, "test_loss", plt.figure().add_subplot())
    meshes = [only(a.collections, QuadMesh) for a in (ax, other)]
    np.testing.assert_array_equal(*(mesh.get_array() for mesh in meshes))
    np.testing.assert_array_equal(*(mesh.get_coordinates() for mesh in meshes))
    assert hatched(ax) == hatched(other)
    plt.close(other.figure)


def test_colours_are_logarithmic_where_results_span_decades(ax, grid):
    other = jf.plot.sweep(grid, "accuracy", plt.figure().add_subplot())
    jf.plot.sweep(grid, "test_loss", ax)
    assert isinstance(only(ax.collections, QuadMesh).norm, LogNorm)
    assert type(only(other.collections, QuadMesh).norm) is Normalize
    assert all("$" not in text for text in labels(colour_bar(ax).yaxis))
    negative = grid.assign(test_loss=grid["test_loss"] - 0.5)
    jf.plot.sweep(negative, "test_loss", other.figure.add_subplot())
    assert type(only(other.figure.axes[2].collections, QuadMesh).norm) is Normalize
    plt.close(other.figure)


def test_the_palette_rises_in_lightness_and_has_no_grey():
    from jaxflow.plot.sweeps.cells import PALETTE

    rgb = plt.get_cmap(PALETTE)(np.linspace(0, 1, 64))[:, :3]
    assert np.all(np.diff(rgb @ [0.2126, 0.7152, 0.0722]) > 0)
    assert np.ptp(rgb, axis=1).min() > 0.15


def test_the_share_that_diverged_is_a_metric_too(ax, grid):
    jf.plot.sweep(grid, "diverged", ax)
    mesh = only(ax.collections, QuadMesh)
    np.testing.assert_allclose(mesh.get_array().reshape(4, 7), grid["diverged"].mean("seed").values.T)
    assert (mesh.norm.vmin, mesh.norm.vmax, type(mesh.norm)) == (0, 1, Normalize)
    assert not hatched(ax)
    assert not legend(ax)
    assert colour_bar(ax).get_ylabel() == "share of seeds diverged"
    row = jf.plot.sweep(grid.isel(batch_size=1), "diverged", plt.figure().add_subplot())
    np.testing.assert_allclose(row.lines[0].get_ydata(), [0, 0, 0, 0, 0.4, 1, 1])
    assert (row.get_ylabel(), len(row.lines), row.get_yscale()) == ("share of seeds diverged", 1, "linear")
    plt.close(row.figure)


def test_a_line_is_the_median_in_its_band_and_stops_where_all_diverged(ax, grid):
    jf.plot.sweep(grid.sel(batch_size=16), "test_loss", ax)
    values = grid["test_loss"].values[:, 1]
    line, partly, lost = ax.lines
    np.testing.assert_allclose(line.get_xdata(), RATES)
    np.testing.assert_allclose(line.get_ydata()[:5], [np.median(v[np.isfinite(v)]) for v in values[:5]])
    assert np.isnan(line.get_ydata()[5:]).all()
    (band,) = ax.collections
    vertices = band.get_paths()[0].vertices
    for rate, of_seeds in zip(RATES[:5], values[:5], strict=True):
        low, high = np.quantile(of_seeds[np.isfinite(of_seeds)], (0.1, 0.9))
        at = vertices[np.isclose(vertices[:, 0], rate), 1]
        np.testing.assert_allclose((at.min(), at.max()), (low, high))
    assert vertices[:, 0].max() < RATES[5] * 0.99
    np.testing.assert_allclose(partly.get_xdata(), RATES[4:5])
    np.testing.assert_allclose(lost.get_xdata(), RATES[5:])
    assert partly.get_markerfacecolor() == "none" != lost.get_markerfacecolor()
    assert all((mark.get_ydata() == 1).all() for mark in (partly, lost))  # as a fraction of the axes
    assert legend(ax) == ["middle 80 %", "median of 5 seeds", "some seeds diverged", "diverged (all seeds)"]
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_ylabel()) == ("log", "log", "test loss (nats)")


@pytest.mark.parametrize("select", [{"seed": [2]}, {"seed": 2}])
def test_a_single_seed_has_no_band(ax, grid, select):
    jf.plot.sweep(grid.isel(batch_size=0, **select), "test_loss", ax)
    assert not ax.collections
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), grid["test_loss"].values[:, 0, 2])
    assert legend(ax) == ["diverged"]


def test_a_metric_with_times_is_drawn_at_its_last(ax, grid):
    jf.plot.sweep(grid.isel(batch_size=3), "distance", ax)
    last = np.median(grid["distance"].values[:, 3, :, -1], -1)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), last)
    other = jf.plot.sweep(grid.isel(batch_size=3, time=1), "distance", plt.figure().add_subplot())
    np.testing.assert_allclose(other.lines[0].get_ydata(), last / 2)
    plt.close(other.figure)


def test_integers_leave_out_seeds_that_diverged(ax, grid):
    jf.plot.sweep(grid, "steps", ax)
    shown = only(ax.collections, QuadMesh).get_array().reshape(4, 7)
    assert shown[1, 4] == np.median(grid["steps"].values[4, 1, 2:])
    assert len(hatched(ax)) == 4


def test_names_stand_evenly_and_nothing_connects_them(ax, grid):
    names = ["constant", "cosine", "linear", "static"]
    named = grid.assign_coords(batch_size=names).rename(batch_size="schedule")
    jf.plot.sweep(named, "test_loss", ax, x="schedule")
    assert labels(ax.xaxis) == names
    np.testing.assert_array_equal(ax.get_xticks(), range(4))
    np.testing.assert_allclose(only(ax.collections, QuadMesh).get_coordinates()[0, :, 0], np.arange(5) - 0.5)
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "log")
    row = jf.plot.sweep(named.isel(learning_rate=0), "test_loss", plt.figure().add_subplot())
    assert row.lines[0].get_linestyle() == "None"
    (bars,) = row.collections
    values = grid["test_loss"].values[0]
    spans = np.array([path.vertices[:, 1] for path in bars.get_paths()])
    np.testing.assert_allclose(spans, np.quantile(values, (0.1, 0.9), axis=-1).T)
    assert labels(row.xaxis) == names
    plt.close(row.figure)


def test_few_values_are_the_ticks(ax, grid):
    jf.plot.sweep(grid.isel(learning_rate=[0, 2, 4, 6]), "test_loss", ax)
    assert labels(ax.xaxis) == ["0.001", "0.01", "0.1", "1"]
    assert labels(ax.yaxis) == ["4", "16", "64", "256"]
    assert not any(labels_minor.get_text() for labels_minor in ax.xaxis.get_ticklabels(minor=True))


def test_of_many_values_as_many_are_labelled_as_fit(ax):
    rates = np.geomspace(1e-4, 1, 33)
    dims = ("learning_rate", "seed")
    many = xarray.Dataset(
        {"loss": (dims, np.ones((33, 1))), "diverged": (dims, np.zeros((33, 1), bool))},
        {"learning_rate": rates},
    )
    jf.plot.sweep(many, "loss", ax)
    assert 3 <= len(ax.get_xticks()) <= 8
    assert np.isin(ax.get_xticks(), rates).all()


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([8, 16, 32, 64, 128], True),
        ([0.001, 0.1], True),
        ([1, 2, 5, 10, 20, 50], True),
        (np.linspace(0.1, 2, 20), False),  # wide but even
        ([1, 2, 4, 8], False),  # geometric but narrow
        ([0.0, 0.01, 0.1, 1.0], False),
        ([-10, -1], False),
    ],
)
def test_which_axes_are_logarithmic(values, log):
    assert is_geometric(np.array(values, float)) == log


def test_edges_lie_half_way():
    linear = Scale("momentum", np.array([0.0, 0.5, 0.9]), log=False)
    np.testing.assert_allclose(linear.edges(), [-0.25, 0.25, 0.7, 1.1])
    np.testing.assert_allclose(Scale("rate", np.array([1.0, 100.0]), log=True).edges(), [0.1, 10, 1000])


def test_tick_labels_are_compact():
    assert [compact_number(v) for v in (0.02, 4.0, 1e-5, 65536.0, 0.0031622777)] == [
        "0.02",
        "4",
        "1e-05",
        "65536",
        "0.00316",
    ]


def test_samples_are_points_coloured_by_their_median(ax, samples):
    jf.plot.sweep(samples, "loss", ax)
    points = only(ax.collections, PathCollection)
    rate, momentum = samples["learning_rate"].values, samples["momentum"].values
    kept = rate <= 0.3
    np.testing.assert_allclose(points.get_offsets(), np.stack([rate, momentum], -1)[kept])
    np.testing.assert_allclose(points.get_array(), np.nanmedian(samples["loss"].values[kept], -1))
    crosses, partly = ax.lines
    np.testing.assert_allclose(crosses.get_xdata(), rate[~kept])
    np.testing.assert_allclose(partly.get_xdata(), [rate.min()])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert (ax.get_xlabel(), ax.get_ylabel(), colour_bar(ax).get_ylabel()) == (
        "learning rate",
        "momentum",
        "loss",
    )
    assert legend(ax) == ["diverged (all seeds)", "some seeds diverged"]


def test_samples_against_one_of_their_numbers(ax, samples):
    jf.plot.sweep(samples, "loss", ax, x="learning_rate")
    middle, partly, lost = ax.lines
    kept = samples["learning_rate"].values <= 0.3
    np.testing.assert_allclose(middle.get_ydata()[kept], np.nanmedian(samples["loss"].values[kept], -1))
    assert middle.get_linestyle() == "None"
    assert (len(partly.get_xdata()), len(lost.get_xdata())) == (1, (~kept).sum())
    assert (ax.get_xscale(), ax.get_ylabel()) == ("log", "loss")


def test_the_single_number_sampled_is_found_and_two_may_be_swapped(ax, samples):
    jf.plot.sweep(samples.drop_vars("momentum"), "loss", ax)
    assert ax.get_xlabel() == "learning rate"
    other = jf.plot.sweep(samples, "loss", plt.figure().add_subplot(), y="learning_rate")
    assert (other.get_xlabel(), other.get_yscale()) == ("momentum", "log")
    plt.close(other.figure)


@pytest.mark.parametrize("seeds", [1, 5])
def test_where_everything_diverged_the_picture_says_so(ax, grid, samples, seeds):
    word = "diverged" if seeds == 1 else "diverged (all seeds)"
    all_lost = grid.isel(seed=slice(0, seeds)).copy()
    all_lost["diverged"] = all_lost["diverged"] | True
    jf.plot.sweep(all_lost, "test_loss", ax)
    assert (len(hatched(ax)), legend(ax), len(ax.figure.axes)) == (28, [word], 1)
    row = jf.plot.sweep(all_lost.isel(batch_size=0), "test_loss", plt.figure().add_subplot())
    assert (legend(row), len(row.get_yticks())) == ([word], 0)
    lost = samples.assign(diverged=samples["diverged"] | True)
    cloud = jf.plot.sweep(lost, "loss", plt.figure().add_subplot())
    assert legend(cloud) == ["diverged (all seeds)"]
    for drawn in (row, cloud):
        drawn.figure.canvas.draw()
        plt.close(drawn.figure)


def test_equal_results_can_be_drawn(ax, grid):
    jf.plot.sweep(grid.assign(test_loss=0 * grid["steps"] + 3), "test_loss", ax)
    assert set(only(ax.collections, QuadMesh).get_array().compressed()) == {3.0}


def test_a_cell_without_a_number_is_not_called_diverged(ax, grid):
    holes = grid.copy(deep=True)
    holes["test_loss"][0, 0] = np.nan
    jf.plot.sweep(holes, "test_loss", ax)
    assert legend(ax) == ["diverged (all seeds)", "no value", "some seeds diverged"]
    assert len(hatched(ax)) == 4


def test_axes_of_one_value_do_not_count(ax, grid):
    jf.plot.sweep(grid.isel(batch_size=[3]), "test_loss", ax)
    assert ax.get_xlabel() == "learning rate (1/step)"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.median(grid["test_loss"].values[:, 3], -1))


def test_without_axes_the_current_ones_are_used(grid):
    figure, ax = plt.subplots()
    assert jf.plot.sweep(grid, "test_loss") is ax
    plt.close(figure)


def test_what_is_not_a_sweep_is_refused(ax, grid):
    with pytest.raises(TypeError, match=r"must be an xarray\.Dataset, as a sweep returns, got DataArray"):
        jf.plot.sweep(grid["test_loss"], "test_loss", ax)
    with pytest.raises(ValueError, match="must have the variable 'diverged'"):
        jf.plot.sweep(grid[["test_loss"]], "test_loss", ax)
    with pytest.raises(ValueError, match=r"must hold a trial, got none: .*'learning_rate': 0"):
        jf.plot.sweep(grid.sel(learning_rate=slice(5, 6)), "test_loss", ax)


def test_metrics_that_cannot_be_drawn_are_refused(ax, grid):
    with pytest.raises(
        ValueError, match=r"metric must be one of .*got 'tset_loss'\. Did you mean 'test_loss'"
    ):
        jf.plot.sweep(grid, "tset_loss", ax)
    with pytest.raises(
        ValueError, match=r"one number for each trial, got 'spectrum' over rank too: .*isel\(\{'rank': 0\}\)"
    ):
        jf.plot.sweep(grid, "spectrum", ax)
    with pytest.raises(ValueError, match="metric must be a variable of numbers, got 'message'"):
        jf.plot.sweep(grid, "message", ax)


def test_axes_that_cannot_be_drawn_are_refused(ax, grid):
    with pytest.raises(ValueError, match=r"an axis of more than one value, got \{'learning_rate': 1\}"):
        jf.plot.sweep(grid.isel(learning_rate=[0], batch_size=0), "test_loss", ax)
    with pytest.raises(ValueError, match=r"more than one value, got no axes"):
        jf.plot.sweep(grid.isel(learning_rate=0, batch_size=0), "test_loss", ax)
    five = grid.expand_dims(schedule=["constant", "cosine"], width=[8, 16], depth=[1, 2]).copy()
    with pytest.raises(
        ValueError,
        match=r"one to 4 axes and the dataset has 5, .*: select .*dataset\.sel\(batch_size=4\)",
    ):
        jf.plot.sweep(five, "test_loss", ax, x="learning_rate")
    with pytest.raises(ValueError, match=r"x must be one of .*Did you mean 'learning_rate'"):
        jf.plot.sweep(grid, "test_loss", ax, x="learning_rates")
    with pytest.raises(ValueError, match="x and y must differ, got 'batch_size' for both"):
        jf.plot.sweep(grid, "test_loss", ax, x="batch_size", y="batch_size")
    with pytest.raises(ValueError, match="y must be left out for a line"):
        jf.plot.sweep(grid.isel(batch_size=0), "test_loss", ax, y="learning_rate")


def test_coordinates_of_samples_that_cannot_be_drawn_are_refused(ax, samples):
    named = samples.assign_coords(schedule=("trial", ["cosine"] * 40))
    with pytest.raises(
        ValueError, match=r"x must name the sampled coordinate .*momentum, schedule; got None"
    ):
        jf.plot.sweep(named, "loss", ax)
    with pytest.raises(ValueError, match="y must be a coordinate of numbers, got 'schedule'"):
        jf.plot.sweep(named, "loss", ax, x="momentum", y="schedule")
    with pytest.raises(ValueError, match=r"x must be one of .*Did you mean 'momentum'"):
        jf.plot.sweep(samples, "loss", ax, x="momentun")
