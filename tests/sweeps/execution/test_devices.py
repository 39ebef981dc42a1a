"""A sweep over four devices against one, against its trials one by one, and what it compiles."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.tree_util import Partial

import jaxflow as jf

pytestmark = pytest.mark.promotes

KEY = jax.random.key(3)
IRIS = jf.problems.mlp("iris", hidden=(8,))
PRECISION = {"float32": 1e-6, "float64": 1e-12}
_compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **said: _compiled.append(said.get("fun_name", "")) if "backend_compile" in name else None
)


def compilations():
    """How many programs XLA has compiled so far in this process, and how many of them were a sweep's batches."""
    return np.array([len(_compiled), sum("_batch" in str(name) for name in _compiled)])


def devices(count):
    return Mesh(np.array(jax.devices()[:count]), ("trials",))


def cast(tree, dtype):
    narrow = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
    return jax.tree.map(narrow, tree)


def sgd(problem, hyperparameters, key):
    """Mini-batches on a network from a random start."""
    dtype = problem.params[0]["w"].dtype
    rate, beta = (hyperparameters[name].astype(dtype) for name in ("learning_rate", "beta"))
    shift = 0.1 * jax.random.normal(key, (), dtype)
    start = jax.tree.map(lambda x: x + shift, problem.params)
    return jf.iterate(
        jf.optim.momentum(rate, beta),
        problem.objective,
        start,
        steps=20,
        batch_size=8,
        key=key,
        record=lambda params: {"loss": problem.objective(params), "w": params[-1]["w"]},
        every=10,
    )


def flow(start, hyperparameters, key):
    """An adaptive solver whose lanes take different numbers of steps: a valley as steep as asked."""
    steep = hyperparameters["steep"].astype(start.dtype)
    loss = lambda x: 0.5 * (x[0] - 1) ** 2 + steep * (x[1] - x[0] ** 2) ** 2
    times = jnp.linspace(0.0, 2.0, 5, dtype=start.dtype)
    begin = start + jax.random.normal(key, (2,), start.dtype)
    return jf.integrate(jf.dynamics.gradient_flow(loss), begin, times)


def network(dtype):
    axes = {"learning_rate": [0.5, 0.02, 0.1, 0.2, 0.05, 0.01, 0.3], "beta": [0.0, 0.9]}
    return Partial(sgd, cast(IRIS, dtype)), axes


def valley(dtype):
    return Partial(flow, jnp.array([-0.5, 0.3], dtype)), {"steep": np.geomspace(0.1, 50.0, 14)}


TRIALS = {"iterate": network, "integrate": valley}


def swept(trial, axes, **settings):
    return jf.sweep(trial, axes, **({"seeds": 3, "key": KEY, "progress": False} | settings))


def assert_identical(one, other):
    assert set(one.variables) == set(other.variables)
    for name in one.variables:
        assert one[name].dtype == other[name].dtype
        assert one[name].values.tobytes() == other[name].values.tobytes(), name


def assert_close(one, other, precision):
    """Within a precision, relative to the largest number of each trial's array."""
    assert set(one.variables) == set(other.variables)
    for name in one.data_vars:
        a, b = one[name].values, other[name].values
        assert a.dtype == b.dtype
        if a.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
            continue
        trials = one["diverged"].shape
        a, b = a.reshape(*trials, -1), b.reshape(*trials, -1)
        error = np.abs(a - b).max(axis=-1) / np.abs(b).max(axis=-1)
        assert error.max() <= precision, name


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("kind", TRIALS)
def test_four_devices_give_the_numbers_of_one(kind, dtype):
    """42 trials in batches of 8 and 6 cells: the last batch is not full, nor a multiple of the devices."""
    trial, axes = TRIALS[kind](dtype)
    four = swept(trial, axes, batch=24)
    assert not four["diverged"].any()
    recorded = four["loss"] if kind == "iterate" else four["values"]
    assert recorded.dtype == dtype
    assert len(np.unique(recorded.isel(time=-1))) == recorded.isel(time=-1).size  # all lanes are different
    # Two cells on each device, as on one device that is given two.
    two = swept(trial, axes, batch=6, mesh=devices(1))
    if kind == "integrate":
        # The first record is the start that the trial computes: XLA rounds it as it fuses it, in one bit.
        assert_close(four, two, 2 * np.finfo(dtype).eps)
        first = {"values": two["values"].where(two["time"] > two["time"][0], four["values"])}
        two = two.assign(first)
    assert_identical(four, two)
    assert_close(four, swept(trial, axes, batch=24, mesh=devices(1)), PRECISION[dtype])


def place(hyperparameters, key):
    a, b, c, d = (hyperparameters[name] for name in "abcd")
    return {"digits": 1000 * a + 100 * b + 10 * c + d, "drawn": jax.random.uniform(key)}


@pytest.mark.parametrize("batch", [None, 1, 3, 4, 7, 16, 1000])
@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("cells", [1, 2, 5, 9])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_any_number_of_trials_fits_any_batch_and_any_number_of_devices(batch, seeds, cells, count):
    axes = {"a": range(cells), "b": [2], "c": [3], "d": [4]}
    table = swept(place, axes, seeds=seeds, batch=batch, mesh=devices(count))
    draws = [float(jax.random.uniform(jax.random.fold_in(KEY, seed))) for seed in range(seeds)]
    assert table["digits"].values.reshape(cells, seeds).tolist() == [
        [1000 * a + 234] * seeds for a in range(cells)
    ]
    assert table["drawn"].values.reshape(cells, seeds).tolist() == [draws] * cells


def test_a_mesh_of_the_user_is_as_good():
    trial, axes = network("float64")
    expected = swept(trial, axes, batch=24)
    grid = np.array(jax.devices()).reshape(2, 2)
    for mesh in (Mesh(grid, ("rows", "columns")), Mesh(grid[::-1], ("x", "y")), jax.make_mesh((4,), ("n",))):
        assert_identical(swept(trial, axes, batch=24, mesh=mesh), expected)


def test_a_mesh_that_is_set_around_the_call_is_refused():
    axes = {"a": range(5), "b": [2], "c": [3], "d": [4]}
    with (
        jax.set_mesh(jax.make_mesh((2, 2), ("rows", "columns"))),
        pytest.raises(ValueError, match=r"mesh must be given as an argument"),
    ):
        swept(place, axes)


def test_the_devices_of_the_mesh_are_those_that_run():
    seen = []

    def trial(hyperparameters, key):
        jax.debug.callback(lambda *_: seen.append(1), hyperparameters["a"], jax.random.uniform(key))
        return hyperparameters["a"]

    for count in (1, 2, 4):
        seen.clear()
        swept(trial, {"a": np.arange(8.0)}, seeds=1, mesh=devices(count))
        jax.effects_barrier()
        assert len(seen) == 8


@pytest.mark.parametrize(
    ("cells", "seeds"), [(64, 8), (8, 64), (3, 128), (1, 256), (65, 1), (1, 65), (10, 65), (13, 5)]
)
def test_hardly_any_trial_is_run_more_than_once(cells, seeds):
    """Batches are filled up to a multiple of the devices; by default that is little."""
    seen = []

    def trial(hyperparameters, key):
        jax.debug.callback(lambda *_: seen.append(1), hyperparameters["a"], jax.random.uniform(key))
        return hyperparameters["a"]

    swept(trial, {"a": np.arange(float(cells))}, seeds=seeds)
    jax.effects_barrier()
    assert cells * seeds <= len(seen) <= 1.5 * cells * seeds


def test_a_mesh_without_devices_is_refused():
    with pytest.raises(ValueError, match="mesh must have a device of this process, got 0 devices"):
        swept(place, {name: [1] for name in "abcd"}, mesh=Mesh(np.array([], dtype=object), ("trials",)))
    with pytest.raises(TypeError, match=r"mesh must be a jax\.sharding\.Mesh"):
        swept(place, {name: [1] for name in "abcd"}, mesh=jax.devices())


# What is compiled.


@pytest.mark.parametrize("batch", [None, 20, 24, 54])
@pytest.mark.parametrize("directory", [False, True])
def test_four_axes_are_one_compilation(tmp_path, batch, directory):
    """Of 54 trials: batches that divide them, and that do not."""

    def trial(hyperparameters, key):
        return place(hyperparameters, key) | {"batch": jnp.zeros(3)}

    axes = {"a": [1.0, 2.0, 3.0], "b": [4, 5, 6], "c": [7.5, 8.5, 9.5], "d": [0.0]}
    folder = (lambda name: tmp_path / name) if directory else lambda name: None
    before = compilations()
    first = swept(trial, axes, seeds=2, batch=batch, directory=folder("one"))
    assert (compilations() - before)[1] == 1
    # Not one program more for other values, another key, or what is finished.
    before = compilations()
    others = {name: [-value for value in values] for name, values in axes.items()}
    second = swept(trial, others, seeds=2, batch=batch, directory=folder("other"), key=jax.random.key(4))
    swept(trial, axes, seeds=2, batch=batch, directory=folder("one"))
    assert (compilations() == before).all()
    np.testing.assert_array_equal(second["digits"], -first["digits"])
    assert not (second["drawn"] == first["drawn"]).any()


def test_other_data_of_a_partial_are_no_compilation():
    function = lambda data, hyperparameters, key: (data * hyperparameters["a"]).sum()
    axes = {"a": [1.0, 2.0, 3.0]}
    data, other = jnp.arange(5.0), jnp.asarray(np.arange(1.0, 6.0))
    first = swept(Partial(function, data), axes)
    before = compilations()
    second = swept(Partial(function, other), axes)
    assert (compilations() == before).all()
    assert first["value"].values[:, 0].tolist() == [10, 20, 30]
    assert second["value"].values[:, 0].tolist() == [15, 30, 45]


def test_static_axes_are_a_compilation_for_each_of_their_combinations():
    def trial(hyperparameters, key):
        widths = jnp.full((hyperparameters["width"],), hyperparameters["rate"])
        return getattr(jnp, hyperparameters["function"])(widths).sum() * hyperparameters["scale"]

    axes = {"width": [1, 2, 3], "rate": [0.1, 0.2], "function": ["sin", "cos"], "scale": [1.0, 2.0, 3.0]}
    before = compilations()
    table = swept(trial, axes, static=("width", "function"), batch=4)
    assert (compilations() - before)[1] == 3 * 2
    before = compilations()
    swept(trial, axes | {"rate": [0.3, 0.4]}, static=("width", "function"), batch=4)
    assert (compilations() == before).all()
    for width, rate, function, scale in itertools.product(*axes.values()):
        expected = width * getattr(np, function)(rate) * scale
        found = table["value"].sel(width=width, rate=rate, function=function, scale=scale)
        np.testing.assert_allclose(found, expected, rtol=1e-14)


# Trials one by one.

OPTIMIZERS = {
    "gd": lambda h: jf.optim.gd(h["learning_rate"]),
    "momentum": lambda h: jf.optim.momentum(h["learning_rate"], h["beta"]),
    "adam": lambda h: jf.optim.adam(h["learning_rate"], b1=h["beta"]),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_cell_is_the_trial_run_alone(optimizer):
    def trial(hyperparameters, key):
        return jf.iterate(
            OPTIMIZERS[optimizer](hyperparameters),
            IRIS.objective,
            jf.problems.mlp("iris", hidden=(8,), key=key).params,
            steps=100,
            record=lambda params: {"loss": IRIS.objective(params), "w": params[0]["w"]},
            every=50,
        )

    axes = {"learning_rate": [0.003, 0.01, 0.03], "beta": [0.0, 0.5, 0.9]}
    table = swept(trial, axes, seeds=2, batch=8)
    alone = jax.jit(trial)
    for rate, beta, seed in itertools.product(*axes.values(), range(2)):
        run = alone({"learning_rate": rate, "beta": beta}, jax.random.fold_in(KEY, seed))
        cell = table.sel(learning_rate=rate, beta=beta, seed=seed)
        for name, values in run.values.items():
            np.testing.assert_allclose(cell[name], values, rtol=1e-12, atol=1e-12 * np.abs(values).max())
        assert run.values["loss"][-1] < run.values["loss"][0]
        np.testing.assert_array_equal(cell["times"], run.times)
