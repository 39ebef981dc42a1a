"""Streams of batches from the host: the same steps as in memory, early ends, resuming."""

import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow._text.progress import Bar
from jaxflow.solve.discrete import host_batches

pytestmark = pytest.mark.promotes

X = np.random.default_rng(0).normal(size=(12, 2))
SHIFTS = jf.Objective(lambda w, x: 0.5 * jnp.sum((w[None] - x) ** 2, axis=1))
START = jnp.array([1.0, -2.0])
BATCHES = X.reshape(6, 2, 2)


def momentum_path(rate=0.1, beta=0.9, batches=BATCHES):
    x, v, path = np.asarray(START), 0.0, [np.asarray(START)]
    for k, batch in enumerate(batches):
        v = beta * v + (x - batch.mean(axis=0))
        x = x - (rate(k) if callable(rate) else rate) * v
        path.append(x)
    return np.stack(path)


@pytest.mark.parametrize(("every", "kept"), [(1, range(7)), (4, [0, 4, 6]), (None, [0, 6])])
def test_a_stream_is_the_run_on_those_batches(every, kept):
    kept = np.array(kept)
    for batches in (list(BATCHES), iter(BATCHES), (jnp.asarray(b) for b in BATCHES)):
        run = jf.iterate(jf.optim.momentum(0.1), SHIFTS, START, steps=6, estimator=batches, every=every)
        np.testing.assert_allclose(run.values, momentum_path()[kept], rtol=1e-13)
        np.testing.assert_allclose(run.times, 0.1 * kept, rtol=1e-15)
        assert int(run.steps) == int(run.state.step) == 6
        assert not run.diverged


def test_no_batch_is_taken_beyond_the_last_step():
    stream = iter(BATCHES)
    jf.iterate(jf.optim.gd(0.1), SHIFTS, START, steps=4, estimator=stream)
    np.testing.assert_array_equal(next(stream), BATCHES[4])


def test_it_is_the_run_in_memory_on_the_same_examples():
    """Whole passes of the data as batches of all examples, against no stream at all."""
    memory = jf.iterate(jf.optim.adam(0.1), jf.Objective(SHIFTS.losses, jnp.asarray(X)), START, steps=5)
    stream = jf.iterate(jf.optim.adam(0.1), SHIFTS, START, steps=5, estimator=[X] * 5)
    np.testing.assert_allclose(stream.values, memory.values, rtol=1e-13)
    assert (stream.times == memory.times).all()


@pytest.mark.parametrize("every", [1, 4])
def test_an_early_end_warns_and_gives_what_there_is(every):
    with pytest.warns(UserWarning, match="The stream of batches ended after 5 of 9 steps"):
        run = jf.iterate(jf.optim.momentum(0.1), SHIFTS, START, steps=9, estimator=BATCHES[:5], every=every)
    kept = np.arange(6) if every == 1 else np.array([0, 4, 5])
    np.testing.assert_allclose(run.values, momentum_path()[kept], rtol=1e-13)
    np.testing.assert_allclose(run.times, 0.1 * kept, rtol=1e-15)
    assert int(run.steps) == 5
    assert run.message.startswith("the stream of batches ended")


def test_a_resumed_stream_is_the_uninterrupted_one_under_a_schedule():
    schedule = jf.optim.inverse_sqrt(0.1)
    optimizer = jf.optim.momentum(schedule)
    begun = jf.iterate(optimizer, SHIFTS, START, steps=2, estimator=BATCHES[:2])
    ended = jf.iterate(optimizer, SHIFTS, begun.params, steps=4, estimator=BATCHES[2:], state=begun.state)
    path = momentum_path(lambda k: 0.1 / np.sqrt(k + 1))
    np.testing.assert_allclose(np.concatenate([begun.values, ended.values[1:]]), path, rtol=1e-13)
    times = np.append(0, np.cumsum(0.1 / np.sqrt(np.arange(1, 7))))
    np.testing.assert_allclose(np.append(begun.times, ended.times[1:]), times, rtol=1e-14)
    assert int(ended.state.step) == 6


def test_a_diverging_stream_is_marked_and_an_early_end_does_not_hide_it():
    batches = [np.full((1, 2), 1.0), np.full((1, 2), np.nan), np.full((1, 2), 1.0)]
    run = jf.iterate(jf.optim.gd(0.5), SHIFTS, START, steps=3, estimator=batches)
    assert bool(run.diverged)
    assert float(run.stopped) == 1.0
    with pytest.warns(UserWarning, match="ended after 3 of 5"):
        run = jf.iterate(jf.optim.gd(0.5), SHIFTS, START, steps=5, estimator=batches)
    assert bool(run.diverged)


def test_no_program_takes_all_records_as_its_arguments(caplog):
    """The time to make such a program grows faster than the number of records."""
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        run = jf.iterate(jf.optim.gd(0.1), SHIFTS, START, steps=301, estimator=itertools.repeat(X))
    assert run.values.shape == (302, 2)
    sizes = [text.count("float64[2]") for text in caplog.messages if text.startswith("Compiling ")]
    assert sizes
    assert max(sizes) < 10


def test_the_bar_shows_the_loss_of_the_batch_before(monkeypatch):
    told = []

    class Shown(Bar):
        is_due = True

        def advance(self, units, **more):
            told.append(more)
            super().advance(units, **more)

    monkeypatch.setattr(host_batches, "Bar", Shown)
    run = jf.iterate(jf.optim.gd(0.1), SHIFTS, START, steps=6, estimator=BATCHES, progress=True)
    losses = 0.5 * np.sum((np.asarray(run.values)[:-1, None] - BATCHES) ** 2, axis=2).mean(axis=1)
    assert told[0] == {}
    np.testing.assert_allclose([more["loss"] for more in told[1:]], losses[:-1], rtol=1e-13)
    quiet = jf.iterate(jf.optim.gd(0.1), SHIFTS, START, steps=6, estimator=BATCHES)
    assert jax.tree.all(jax.tree.map(np.array_equal, run, quiet))


def test_record_sees_the_parameters():
    run = jf.iterate(jf.optim.momentum(0.1), SHIFTS, START, steps=6, estimator=BATCHES, record=jnp.sum)
    np.testing.assert_allclose(run.values, momentum_path().sum(axis=1), rtol=1e-12)


def test_batches_may_be_pytrees_of_changing_size():
    losses = lambda w, batch: 0.5 * batch["weight"] * jnp.sum((w[None] - batch["x"]) ** 2, axis=1)
    sizes = [2, 3, 2]
    parts = np.split(X[:7], np.cumsum(sizes)[:-1])
    stream = [{"x": part, "weight": np.full(len(part), 2.0)} for part in parts]
    run = jf.iterate(jf.optim.gd(0.1), jf.Objective(losses), START, steps=3, estimator=stream)
    expected = momentum_path(0.2, 0.0, parts)
    np.testing.assert_allclose(run.values, expected, rtol=1e-12)
