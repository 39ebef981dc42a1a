"""Maps of a sweep over three and four hyperparameters: each panel is that of its own values."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

import jaxflow as jf

RATES, BATCHES, DECAYS, SCHEDULES = np.geomspace(1e-3, 1.0, 4), [4, 16, 64], [0.99, 0.0, 0.9], ["one", "two"]
DIMS = ("learning_rate", "batch_size", "decay", "schedule", "seed")


@pytest.fixture
def grid():
    """Four hyperparameters, the third unsorted, three seeds; one cell of one panel has diverged."""
    loss = 10.0 ** np.random.default_rng(0).uniform(-3, 0, (4, 3, 3, 2, 3))
    diverged = np.zeros(loss.shape, bool)
    diverged[3, 0, 0, 1] = True
    return xarray.Dataset(
        {"loss": (DIMS, np.where(diverged, np.nan, loss), {"units": "nats"}), "diverged": (DIMS, diverged)},
        dict(zip(DIMS, (RATES, BATCHES, DECAYS, SCHEDULES, range(3)), strict=True)),
    )


def mesh(ax):
    (found,) = [a for a in ax.collections if isinstance(a, QuadMesh)]
    return found


def test_the_third_axis_makes_columns_and_the_fourth_rows(grid):
    every = jf.plot.sweep(grid, "loss")
    figure = every[0, 0].figure
    figure.canvas.draw()
    assert every.shape == (2, 3)
    colours = {(mesh(ax).norm.vmin, mesh(ax).norm.vmax) for ax in every.flat}
    medians = grid["loss"].median("seed")
    assert colours == {(float(medians.min()), float(medians.max()))}
    for (i, j), ax in np.ndenumerate(every):
        decay = sorted(DECAYS)[j]
        assert ax.get_title() == f"schedule = {SCHEDULES[i]}\ndecay = {decay:g}"
        expected = medians.sel(decay=decay, schedule=SCHEDULES[i]).transpose("batch_size", "learning_rate")
        np.testing.assert_allclose(mesh(ax).get_array().filled(np.nan), expected)
    assert (every[1, 0].get_xlabel(), every[1, 0].get_ylabel()) == ("learning rate", "batch size")
    assert not every[0, 1].get_xlabel()
    (bar,) = [ax for ax in figure.axes if ax not in every.flat]
    assert bar.get_ylabel() == "loss (nats)"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["diverged (all seeds)"]
    plt.close(figure)


def test_three_axes_make_one_row_on_axes_that_are_given(grid):
    given = Figure(layout="constrained").subplots(3)
    every = jf.plot.sweep(grid.sel(schedule="one"), "loss", given, x="decay")
    assert [every[0, i] for i in range(3)] == list(given)
    assert [ax.get_title() for ax in given] == [f"batch size = {size}" for size in BATCHES]
    medians = grid["loss"].sel(schedule="one").median("seed").sortby("decay")
    for size, ax in zip(BATCHES, given, strict=True):
        expected = medians.sel(batch_size=size).transpose("learning_rate", "decay")
        np.testing.assert_allclose(mesh(ax).get_array(), expected)
    assert not given[0].figure.legends


def test_shares_of_seeds_have_all_of_the_scale(grid):
    every = jf.plot.sweep(grid, "diverged", Figure(layout="constrained").subplots(2, 3))
    assert {(mesh(ax).norm.vmin, mesh(ax).norm.vmax) for ax in every.flat} == {(0, 1)}


def test_where_everything_diverged_there_are_no_colours(grid):
    lost = grid.assign(diverged=grid["diverged"] | True)
    every = jf.plot.sweep(lost, "loss", Figure(layout="constrained").subplots(2, 3))
    assert len(every[0, 0].figure.axes) == 6


def test_another_number_of_axes_is_refused(grid):
    with pytest.raises(ValueError, match=r"2 × 3 Axes, .* decay across and schedule down, got 1"):
        jf.plot.sweep(grid, "loss", Figure().add_subplot())
    with pytest.raises(ValueError, match=r"1 × 3 Axes, .* panels of decay across, got 2"):
        jf.plot.sweep(grid.sel(schedule="one"), "loss", Figure().subplots(2))
