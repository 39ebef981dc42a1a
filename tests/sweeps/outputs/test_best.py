"""The best cell of a sweep, against a search in plain Python."""

import itertools

import numpy as np
import pytest
import xarray

from jaxflow.sweeps.outputs.best_cell import best

RATES, WIDTHS, SEEDS, TIMES = (0.01, 0.1, 1.0), (4, 8), 3, (0.0, 0.5, 1.0, 2.0)
GRID = ("learning_rate", "width", "seed")
COORDINATES = {
    "learning_rate": list(RATES),
    "width": list(WIDTHS),
    "seed": np.arange(SEEDS),
    "time": list(TIMES),
}


def table(seed):
    """Random numbers, and trials that diverged: their loss is NaN at the later times."""
    rng = np.random.default_rng(seed)
    shape = (len(RATES), len(WIDTHS), SEEDS)
    loss, accuracy = rng.normal(size=(*shape, len(TIMES))), rng.random(shape)
    diverged = rng.random(shape) < 0.15
    loss[diverged, 2:], accuracy[diverged] = np.nan, np.nan
    variables = {
        "loss": ((*GRID, "time"), loss),
        "accuracy": (GRID, accuracy),
        "correct": (GRID, rng.integers(0, 1000, shape)),
        "diverged": (GRID, diverged),
    }
    return xarray.Dataset(variables, COORDINATES)


def searched(dataset, metric, sign):
    """By the definition, a cell at a time."""
    found, score = None, np.inf
    for rate, width in itertools.product(RATES, WIDTHS):
        cell = dataset.sel(learning_rate=rate, width=width)
        values = [cell[metric].sel(seed=s).values for s in range(SEEDS)]
        last = [float(v[-1] if v.ndim else v) for v in values]
        mean = sign * sum(last) / SEEDS
        if not cell["diverged"].any() and np.isfinite(mean) and mean < score:
            found, score = (rate, width), mean
    return found


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("metric", ["loss", "accuracy", "correct"])
@pytest.mark.parametrize("largest", [False, True])
def test_it_is_the_cell_a_search_finds(seed, metric, largest):
    dataset = table(seed)
    rate, width = searched(dataset, metric, -1 if largest else 1)
    cell = best(dataset, metric, largest=largest)
    assert (cell["learning_rate"].item(), cell["width"].item()) == (rate, width)
    assert dict(cell.sizes) == {"seed": SEEDS, "time": len(TIMES)}
    xarray.testing.assert_identical(cell, dataset.sel(learning_rate=rate, width=width))
    assert best(dataset.transpose("time", "seed", ...), metric, largest=largest)["width"].item() == width


def test_samples_are_cells_too():
    trials, rates = 5, [0.3, 0.1, 0.7, 0.2, 0.5]
    loss = np.array([[3.0, 3.0], [2.0, 2.2], [1.0, 1.0], [2.2, 1.9], [0.5, 9.0]])
    diverged = np.zeros((trials, 2), bool)
    diverged[2, 1] = True
    samples = xarray.Dataset(
        {"loss": (("trial", "seed"), loss), "diverged": (("trial", "seed"), diverged)},
        {"trial": np.arange(trials), "seed": [0, 1], "learning_rate": ("trial", rates)},
    )
    cell = best(samples, "loss")
    assert cell["learning_rate"].item() == 0.2
    assert cell["trial"].item() == 3
    assert best(samples, "loss", largest=True)["learning_rate"].item() == 0.5


def test_of_equal_cells_the_first():
    dataset = table(0).assign(diverged=(GRID, np.zeros((3, 2, SEEDS), bool)))
    dataset = dataset.assign(loss=xarray.zeros_like(dataset["loss"]))
    for largest in (False, True):
        cell = best(dataset, "loss", largest=largest)
        assert (cell["learning_rate"].item(), cell["width"].item()) == (RATES[0], WIDTHS[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_metric_that_is_not_finite_does_not_compete_even_where_no_trial_diverged(bad):
    loss = np.array([[1.0, bad], [5.0, 5.0]])
    flags = np.zeros((2, 2), bool)
    dims = ("learning_rate", "seed")
    dataset = xarray.Dataset({"loss": (dims, loss), "diverged": (dims, flags)}, {"learning_rate": [0.1, 0.2]})
    for largest in (False, True):
        assert best(dataset, "loss", largest=largest)["learning_rate"].item() == 0.2


def test_a_clock_of_its_own_name_is_a_time():
    dataset = table(1).rename(time="run.time")
    assert best(dataset, "loss")["learning_rate"].item() == searched(table(1), "loss", 1)[0]


def test_single_precision_means_are_taken_in_double():
    """In float32 both means would be 2²⁴."""
    dims = ("x", "seed")
    loss = np.array([[2.0**24, 2.0**24 + 2, 2.0**24], [2.0**24] * 3], np.float32)
    dataset = xarray.Dataset(
        {"loss": (dims, loss), "diverged": (dims, np.zeros((2, 3), bool))}, {"x": [1, 2]}
    )
    assert best(dataset, "loss")["x"].item() == 2


def test_metrics_that_cannot_be_compared_are_refused():
    dataset = table(0)
    with pytest.raises(ValueError, match=r"metric must be one of .* Did you mean 'accuracy'"):
        best(dataset, "acuracy")
    wide = dataset.assign(
        norms=((*GRID, "layer"), np.zeros((3, 2, SEEDS, 5))),
        twice=((*GRID, "a.time", "b.time"), np.zeros((3, 2, SEEDS, 2, 2))),
        mean=dataset["accuracy"].mean("learning_rate"),
        name=(GRID, np.full((3, 2, SEEDS), "x")),
        phase=(GRID, np.zeros((3, 2, SEEDS), complex)),
    )
    with pytest.raises(ValueError, match="'norms' is over learning_rate, width, seed, layer"):
        best(wide, "norms")
    with pytest.raises(ValueError, match="'twice' is over"):
        best(wide, "twice")
    with pytest.raises(ValueError, match="'mean' is over width, seed"):
        best(wide, "mean")
    for metric in ("name", "phase", "diverged"):
        with pytest.raises(TypeError, match="metric must be of real numbers"):
            best(wide, metric)


def test_where_no_cell_finished_it_says_how_many_trials_diverged():
    flags = np.zeros((3, 2, SEEDS), bool)
    flags[..., 1] = True
    dataset = table(0).assign(diverged=(GRID, flags))
    with pytest.raises(ValueError, match="of its 18 trials in 6 cells 6 diverged"):
        best(dataset, "accuracy")


@pytest.mark.parametrize(
    "dataset",
    [
        table(0).drop_vars("diverged"),
        xarray.Dataset({"diverged": ("x", [True])}),
        xarray.Dataset(),
        {"loss": 3},
        None,
    ],
)
def test_what_is_no_sweep_is_refused(dataset):
    with pytest.raises(ValueError, match="dataset must be what a sweep returned"):
        best(dataset, "loss")
