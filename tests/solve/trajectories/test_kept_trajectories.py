"""Trajectories in files, tables, slices and joined: what is read is what was written, to the bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf

pytestmark = pytest.mark.promotes
METRICS = {"loss": jf.solve.metrics.loss, "cosine": jf.solve.metrics.update_cosine}
DATA = jf.Objective(
    lambda p, x: jnp.log(jnp.cosh(x @ p["w"] + p["b"])), jnp.linspace(-1, 2, 24).reshape(8, 3)
)
PARAMS = {"w": jnp.array([0.3, -0.2, 0.5]), "b": jnp.array(0.1)}
ESTIMATORS = {
    "full": jf.solve.full_batch(),
    "replaced": jf.solve.with_replacement(2),
    "distinct": jf.solve.without_replacement(3),
    "epochs": jf.solve.epochs(3),
    "svag": jf.solve.svag(2, 2.0),
    "masked": jf.solve.masked_draws(3, largest=4),
}


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_saved_run_goes_on(name, tmp_path):
    run = lambda params, steps, **others: jf.iterate(
        jf.optim.adam(0.05), DATA, params, steps=steps, estimator=ESTIMATORS[name], metrics=METRICS, **others
    )
    first = run(PARAMS, 3, key=jax.random.key(3))
    first.save(tmp_path / "run.npz")
    loaded = jf.Trajectory.load(tmp_path / "run.npz", like=lambda: run(PARAMS, 1, key=jax.random.key(0)))
    keys = lambda tree: jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree
    )
    same(keys(loaded), keys(first))
    assert jax.tree.structure(loaded) == jax.tree.structure(first)
    assert [x.dtype for x in jax.tree.leaves(loaded)] == [x.dtype for x in jax.tree.leaves(first)]
    rest, other = (run(before.params, 3, state=before.state) for before in (first, loaded))
    same((rest.params, rest.metrics), (other.params, other.metrics))
    whole = run(PARAMS, 6, key=jax.random.key(3))
    same(jf.solve.join(first, other).values, whole.values)
    same(rest.params, whole.params)


def test_half_precision_keys_python_numbers_and_functions(tmp_path):
    model = {
        "w": jnp.ones(3, jnp.bfloat16),
        "act": jnp.tanh,
        "n": 3,
        "key": jax.random.key(1),
        "on": True,
        "none": None,
    }
    loss = lambda p: jnp.sum(p["act"](p["w"]) ** p["n"]).astype(jnp.float32)
    run = lambda: jf.iterate(jf.optim.gd(0.1), loss, model, steps=2)
    first = run()
    first.save(tmp_path / "run.npz")
    for like in (run, first):
        loaded = jf.Trajectory.load(tmp_path / "run.npz", like)
        assert loaded.params["act"] is jnp.tanh
        assert (loaded.params["n"], loaded.params["on"], loaded.params["none"]) == (3, True, None)
        assert type(loaded.params["n"]) is int
        assert loaded.params["w"].dtype == jnp.bfloat16
        same(loaded.params["w"], first.params["w"])
        assert (jax.random.key_data(loaded.params["key"]) == jax.random.key_data(model["key"])).all()
    bare = jf.Trajectory.load(tmp_path / "run.npz")
    same(bare.values["w"], first.values["w"])
    assert bare.message == first.message


def test_integers_of_another_width_are_the_same_where_they_fit(tmp_path):
    """An earlier version kept how a run in double precision ended as int64."""
    path = tmp_path / "run.npz"
    run = jf.iterate(jf.optim.adam(0.1), lambda p: jnp.sum(p["w"] ** 2), PARAMS, steps=1)
    dataclasses.replace(run, status=run.status.astype(jnp.int64)).save(path)
    loaded = jf.Trajectory.load(path, run)
    assert loaded.status.dtype == jnp.int32
    assert int(loaded.status) == int(run.status)
    dataclasses.replace(run, status=jnp.int64(2**40)).save(path)
    with pytest.raises(ValueError, match=r"its status is int64\[\], not int32\[\]"):
        jf.Trajectory.load(path, run)


def test_a_file_that_does_not_fit_is_refused_with_the_difference(tmp_path):
    path = tmp_path / "run.npz"
    run = lambda optimizer, params=PARAMS, **more: (
        lambda: jf.iterate(optimizer, lambda p: jnp.sum(p["w"] ** 2), params, steps=1, **more)
    )
    run(jf.optim.adam(0.1))().save(path)
    wider = {"w": jnp.ones(4), "b": jnp.array(0.0)}
    for like, message in (
        (run(jf.optim.gd(0.1)), r"does not fit: it has state/optimizer/0/count, int32\[\], too"),
        (run(jf.optim.adam(0.1), wider), r"its params/w is float64\[3\], not float64\[4\]"),
        (run(jf.optim.adam(0.1), metrics=METRICS), r"it has no observed/cosine, which is float64\[2\]"),
        (run(jf.optim.adam(0.1), record=lambda p: 0.5), r"it has no values, which is .*\[2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            jf.Trajectory.load(path, like)
    with pytest.raises(TypeError, match="like must be a trajectory or a function that makes one, got 3"):
        jf.Trajectory.load(path, 3)
    with pytest.raises(TypeError, match="save it outside of jit and vmap"):
        jax.jit(lambda w: run(jf.optim.adam(0.1), PARAMS | {"w": w})().save(path))(PARAMS["w"])
    path.write_bytes(path.read_bytes()[:-90])
    with pytest.raises(ValueError, match=r"is not a file that jaxflow saved, or is damaged\.$"):
        jf.Trajectory.load(path)
    np.savez(path, a=np.ones(2))
    with pytest.raises(ValueError, match="is not a file that jaxflow saved, or is damaged"):
        jf.Trajectory.load(path)
    with pytest.raises(FileNotFoundError):
        jf.Trajectory.load(tmp_path / "none.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]  # nothing half written


def test_tables():
    run = jf.iterate(
        jf.optim.gd(0.25), DATA, PARAMS, steps=4, metrics={"w": lambda step: step.loss, **METRICS}
    )
    table = run.to_xarray()
    assert table["w"].dims == ("time", "w_0")
    same(table["w"].values, run.values["w"])
    same(table["observed/w"].values, run.metrics["w"])
    same(table["b"].sel(time=0.5).values, run.values["b"][2])
    frame = run.to_dataframe()
    assert [*frame.columns] == ["b", "w[0]", "w[1]", "w[2]", "cosine", "loss", "observed/w"]
    same(frame["w[1]"].to_numpy(), run.values["w"][:, 1])
    assert frame.index.to_list() == [0.0, 0.25, 0.5, 0.75, 1.0]

    alone = lambda key: jf.iterate(
        jf.optim.gd(0.1), DATA, PARAMS, steps=3, batch_size=2, key=key, record=DATA
    )
    many = jf.ensemble(alone, jax.random.split(jax.random.key(0), 2))
    assert many.to_xarray()["value"].dims == ("member", "time")
    frame = many.to_dataframe()
    same(frame["value"].xs(1, level="member").to_numpy(), many.values[1])
    lanes = jax.vmap(lambda rate: jf.iterate(jf.optim.gd(rate), DATA, PARAMS, steps=3, record=DATA))
    clocks = lanes(jnp.array([0.1, 0.2]))
    assert clocks.to_xarray()["time"].dims == ("member", "record")
    same(clocks.to_dataframe().index.get_level_values("time").to_numpy(), np.ravel(clocks.times))


def test_slices():
    run = jf.iterate(jf.optim.gd(0.25), DATA, PARAMS, steps=6, metrics=METRICS)
    part = run[1:6:2]
    same(
        (part.times, part.values, part.metrics),
        jax.tree.map(lambda x: x[1:6:2], (run.times, run.values, run.metrics)),
    )
    same(part.params, run.params)
    alone = lambda key: jf.iterate(jf.optim.gd(0.1), DATA, PARAMS, steps=3, batch_size=2, key=key)
    many = jf.ensemble(alone, jax.random.split(jax.random.key(0), 2))
    assert (many[-2:].values["w"].shape, many[-2:].times.shape) == ((2, 2, 3), (2,))
    with pytest.raises(TypeError, match=r"sliced by its records, such as run\[10:20\], got run\[3\]"):
        run[3]


def test_joined_runs_of_an_ensemble_and_of_a_flow():
    alone = lambda key: jf.iterate(jf.optim.gd(0.1), DATA, PARAMS, steps=4, batch_size=2, key=key)
    more = lambda run: jf.iterate(jf.optim.gd(0.1), DATA, run.params, steps=2, batch_size=2, state=run.state)
    keys = jax.random.split(jax.random.key(0), 2)
    first = jf.ensemble(alone, keys)
    rest = jax.vmap(lambda params, state: jf.iterate(
        jf.optim.gd(0.1), DATA, params, steps=2, batch_size=2, key=jax.random.key(0), state=state
    ))(first.params, first.state)  # fmt: skip
    assert more(alone(keys[0])).steps == 2
    with pytest.raises(ValueError, match="runs must have the same members"):
        jf.solve.join(first, rest)
    flow = jf.dynamics.gradient_flow(DATA)
    path = jf.integrate(flow, PARAMS, [0.0, 0.5, 1.0])
    later = jf.integrate(flow, PARAMS, [1.0, 2.0], state=path.state)
    both = jf.solve.join(path, later)
    np.testing.assert_array_equal(both.times, [0.0, 0.5, 1.0, 2.0])
    same(both.params, later.params)


def test_runs_that_do_not_follow_each_other_are_refused():
    run = lambda **more: jf.iterate(jf.optim.gd(0.25), DATA, PARAMS, steps=2, **more)
    for runs, error, message in (
        ((run(), run()), ValueError, r"one ends at t = 0.5 and the next begins at t = 0"),
        ((run(), run(state=run().state, record=DATA)), ValueError, "runs must have the same record"),
        ((run(), 3), TypeError, "runs must be trajectories, got int"),
        ((), ValueError, "runs must be at least one trajectory, got none"),
    ):
        with pytest.raises(error, match=message):
            jf.solve.join(*runs)
