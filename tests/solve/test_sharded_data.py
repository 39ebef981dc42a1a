"""Data laid over devices by their examples: the numbers of one device, and each device its share of the work.

The reference is the same call on the same data on one device. What each device does is read in the compiled program.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

import jaxflow as jf
from jaxflow._compiled import programs

pytestmark = pytest.mark.promotes

KEY = jax.random.key(0)
KINDS = {"automatic": AxisType.Auto, "explicit": AxisType.Explicit}
N, FEATURES, HIDDEN, BATCH = 96, 7, 5, 32
DRAWS = np.random.default_rng(0)
DATA = {"x": DRAWS.normal(size=(N, FEATURES)), "y": DRAWS.integers(0, 3, N).astype(np.int32)}
PARAMS = {
    "w": 0.3 * DRAWS.normal(size=(FEATURES, HIDDEN)),
    "b": np.zeros(HIDDEN),
    "v": 0.3 * DRAWS.normal(size=(HIDDEN, 3)),
}
COLLECTIVE = re.compile(r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\(")


@jax.jit
def losses(params, batch):
    logits = jnp.tanh(batch["x"] @ params["w"] + params["b"][None]) @ params["v"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][:, None], 1)[:, 0]


PLAIN = jf.Objective(losses, jax.tree.map(jnp.asarray, DATA))


def mesh_of(kind, count=4, shape=None, names=("data",)):
    devices = np.array(jax.devices()[:count]).reshape(shape or (count,))
    return Mesh(devices, names, axis_types=(KINDS[kind],) * len(names))


def laid(mesh, objective=PLAIN):
    return jax.device_put(objective, NamedSharding(mesh, PartitionSpec("data")))


def descend(objective, **draw):
    start = jax.tree.map(jnp.asarray, PARAMS)
    return jf.iterate(jf.optim.gd(0.1), objective, start, steps=6, **draw).values


def integrate(dynamics, **options):
    return jf.integrate(dynamics, PARAMS, np.linspace(0, 0.5, 3), **options).values


def train(objective, hyperparameters, key):
    rate = jf.optim.gd(hyperparameters["rate"])
    return jf.iterate(rate, objective, PARAMS, steps=4, batch_size=BATCH, key=key, record=objective)


def sweep(trial):
    return jf.sweep(trial, {"rate": [0.1, 0.2, 0.3]}, seeds=2, progress=False)["values"].values


VERBS = {
    "all data": descend,
    "batches": lambda o: descend(o, batch_size=BATCH, key=KEY),
    "batches of 30": lambda o: descend(o, batch_size=30, key=KEY),
    "batches of 3": lambda o: descend(o, batch_size=3, key=KEY),
    "masked draws": lambda o: descend(o, estimator=jf.solve.masked_draws(10, largest=16), key=KEY),
    "epochs": lambda o: descend(o, estimator=jf.solve.epochs(BATCH), key=KEY),
    "chunks": lambda o: descend(jf.Objective(losses, o.data, chunk=28)),
    "flow": lambda o: integrate(jf.dynamics.gradient_flow(o)),
    "modified": lambda o: integrate(jf.dynamics.modified(jf.optim.gd(0.1), o, order=2)),
    "SDE": lambda o: integrate(jf.dynamics.sgd(o, 0.1, BATCH), key=KEY, substeps=16),
    "eigenpairs": lambda o: jf.curvature.top_eigenpairs(o, PARAMS, 2).values,
    "covariance": lambda o: jf.gradient_covariance(o, PARAMS),
    "noise scale": lambda o: jf.noise_scale(o, PARAMS, eigenpairs=1).trace,
    "ensemble": lambda o: jf.ensemble(
        lambda k: descend(o, batch_size=BATCH, key=k), jax.random.split(KEY, 6)
    ),
    "sweep": lambda o: sweep(Partial(train, o)),
    "sweep around data": lambda o: sweep(lambda hyperparameters, key: train(o, hyperparameters, key)),
    "under jit": lambda o: jax.jit(lambda o: descend(o, batch_size=BATCH, key=KEY))(o),
    "made under jit": lambda o: jax.jit(
        lambda data: descend(jf.Objective(losses, data), batch_size=BATCH, key=KEY)
    )(o.data),
    "called alone": lambda o: (jax.grad(o)(PARAMS), jax.grad(o.minibatch)(PARAMS, jnp.arange(BATCH))),
    "a batch": lambda o: o.minibatch(PARAMS, jnp.arange(BATCH)),
    "slope in the data": lambda o: jax.grad(
        lambda x: jf.Objective(losses, {"x": x, "y": o.data["y"]}).minibatch(PARAMS, jnp.arange(8) ** 2)
    )(o.data["x"]),
}


def assert_close(found, expected):
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * scale), found, expected)


@pytest.mark.parametrize("verb", VERBS)
def test_the_numbers_are_those_of_one_device(verb):
    expected = VERBS[verb](PLAIN)
    for kind in KINDS:
        assert_close(VERBS[verb](laid(mesh_of(kind))), expected)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_devices(count):
    for verb in ("batches of 30", "chunks"):
        assert_close(VERBS[verb](laid(mesh_of("explicit", count))), VERBS[verb](PLAIN))


def test_within_a_mesh_that_is_set():
    for verb in ("batches", "SDE", "a batch"):
        expected = VERBS[verb](PLAIN)
        for kind in KINDS:
            objective = laid(mesh := mesh_of(kind))
            with jax.set_mesh(mesh):
                assert_close(VERBS[verb](objective), expected)


def test_members_of_an_ensemble_share_one_axis_and_their_data_the_other():
    """Five members on two rows of devices: one row is filled up."""
    keys = jax.random.split(KEY, 5)
    run = lambda objective, mesh=None: jf.ensemble(
        lambda key: descend(objective, batch_size=BATCH, key=key), keys, mesh
    )
    for kind in KINDS:
        mesh = mesh_of(kind, shape=(2, 2), names=("runs", "data"))
        assert_close(run(laid(mesh), mesh), run(PLAIN))
    with pytest.raises(TypeError, match=r"mesh must be a jax\.sharding\.Mesh with at least one axis, got 4"):
        run(PLAIN, 4)


# What is compiled.


def computations(text):
    """The computations of a compiled program by name, their lines; the outermost is `ENTRY`."""
    found, lines = {}, []
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+).* -> .*\{$", line)
        if head:
            lines = found.setdefault("ENTRY" if head[1] else head[2], [])
        lines.append(line)
    return found


def collectives(text):
    """The collectives of each kind in loops: what a step of a run costs."""
    lines = [line for name, body in computations(text).items() if name != "ENTRY" for line in body]
    return [found[1] for line in lines if (found := COLLECTIVE.search(line))]


def rows(text, members=""):
    """The first axis of all activations of the hidden layer, forwards and backwards."""
    found = re.findall(rf"f64\[{members}(\d+),{HIDDEN}\]", text)
    return {int(count) for count in found} - {1, 3, 6, 7, FEATURES}  # parameters, and their records


def program(run, objective):
    return jax.jit(run).lower(objective).compile().as_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_full_batches_is_one_sum_over_the_devices(kind):
    text = program(descend, laid(mesh_of(kind)))
    assert collectives(text) == ["all-reduce"]
    assert rows(text) == {N // 4}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("verb", "share"), [("batches", 8), ("batches of 30", 8), ("epochs", 8)])
def test_a_step_of_mini_batches_is_two_and_each_device_has_its_share(kind, verb, share):
    text = program(VERBS[verb], laid(mesh_of(kind)))
    assert collectives(text) == ["all-reduce"] * 2
    assert rows(text) == {share}


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_is_some_of_each_devices_examples(kind):
    """32 examples at a time are 8 of each device's 24."""
    text = program(descend, laid(mesh_of(kind), jf.Objective(losses, PLAIN.data, chunk=32)))
    assert set(collectives(text)) == {"all-reduce"}
    assert rows(text) == {8}


def test_a_step_of_an_ensemble_on_two_axes_is_two():
    mesh = mesh_of("automatic", shape=(2, 2), names=("runs", "data"))
    keys = jax.device_put(jax.random.split(KEY, 8), NamedSharding(mesh, PartitionSpec("runs")))
    members = lambda objective, keys: jax.vmap(lambda k: descend(objective, batch_size=BATCH, key=k))(keys)
    text = jax.jit(members).lower(laid(mesh), keys).compile().as_text()
    assert collectives(text) == ["all-reduce"] * 2
    assert rows(text, "4,") == {BATCH // 2}


def test_other_data_compile_nothing_new():
    count = lambda: programs()["solve.iteration.iterate"]
    objective = laid(mesh_of("explicit"))
    descend(objective, batch_size=BATCH, key=KEY)
    before = count()
    again = laid(mesh_of("explicit"), jax.tree.map(lambda x: x + 1 - 1, PLAIN))
    descend(again, batch_size=BATCH, key=jax.random.key(1))
    descend(laid(mesh_of("automatic")), batch_size=BATCH, key=KEY)
    assert count() == before


# What a batch is.

NAN = np.array([0x7FF8000000000123], np.uint64).view(np.float64)[0]


@pytest.mark.parametrize("size", [2, 8, 12])
def test_a_batch_keeps_every_bit(size):
    draws = np.random.default_rng(1)
    data = {
        "double": draws.normal(size=(24, 3)),
        "special": np.resize([-0.0, np.inf, 5e-324, NAN], 24),
        "single": draws.normal(size=(24, 2, 2)).astype(np.float32),
        "half": jnp.asarray(draws.normal(size=24), jnp.bfloat16),
        "label": np.arange(24, dtype=np.int8) - 12,
        "flag": np.arange(24) % 3 == 0,
        "complex": draws.normal(size=24) * (1 + 1j),
        "key": jax.random.split(KEY, 24),
    }
    plain = jf.Objective(lambda p, batch: batch["double"][:, 0], jax.tree.map(jnp.asarray, data))
    indices = jnp.asarray(draws.integers(-24, 24, size))
    for kind in KINDS:
        batch = laid(mesh_of(kind), plain).take(indices)
        for name, leaf in plain.data.items():
            bits = jax.random.key_data if name == "key" else lambda x: x
            found, expected = np.asarray(bits(batch[name])), np.asarray(bits(leaf))[np.asarray(indices)]
            assert found.dtype == expected.dtype
            assert found.tobytes() == expected.tobytes(), name


def test_a_stack_of_objectives_may_lie_on_devices_by_its_own_axis():
    """Four objectives, one on each device; 5 examples are not to be shared out."""
    stack = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.arange(20.0).reshape(4, 5))
    run = lambda o: jf.iterate(jf.optim.gd(0.1), o, 0.0, steps=3, batch_size=4, key=KEY).values
    expected = jax.vmap(run)(stack)
    assert_close(jax.vmap(run)(laid(mesh_of("automatic"), stack)), expected)


def test_data_that_the_devices_do_not_divide_are_refused_by_jax():
    objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.arange(10.0))
    with pytest.raises(
        ValueError, match=r"axis 0 is partitioned 4 times, but the dimension size is 10|divisible by 4"
    ):
        laid(mesh_of("automatic"), objective)
