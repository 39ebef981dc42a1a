"""Estimators that users write: decorated, as plain `Draws`, as an object with a `draw`; with a key and without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow._compiled import programs

DATA = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([1.0, -1.0, 3.0]))
GD = jf.optim.gd(1.0)


def in_order(objective, state, step, key):
    return (lambda w: objective.minibatch(w, (step % objective.size)[None])), state


def at_random(objective, state, step, key):
    index = jax.random.randint(key, (1,), 0, objective.size)
    return (lambda w: objective.minibatch(w, index)), state


class Alternating:
    """Remembers in its state which example comes next."""

    batch_size = 1

    def init(self, objective, key):
        return jnp.zeros([], jnp.int32)

    def draw(self, objective, state, step, key):
        return (lambda w: objective.minibatch(w, state[None])), (state + 2) % objective.size


def run(estimator, **others):
    return jf.iterate(GD, DATA, 0.0, steps=5, estimator=estimator, **others)


def test_draws_and_objects_are_taken_as_they_are_and_need_no_key():
    decorated = jf.optim.traceable(lambda: jf.solve.Draws(in_order, batch_size=1))
    for estimator in (jf.solve.Draws(in_order, batch_size=1), decorated()):
        np.testing.assert_array_equal(run(estimator).values, [0, 1, -1, 3, 1, -1])
    sampler = Alternating()
    first = run(sampler)
    np.testing.assert_array_equal(first.values, [0, 1, 3, -1, 1, 3])
    before = programs()
    rest = jf.iterate(GD, DATA, first.params, steps=5, estimator=sampler, state=first.state)
    np.testing.assert_array_equal(rest.values, [3, -1, 1, 3, -1, 1])
    assert (
        programs()["solve.iteration.iterate"] - before["solve.iteration.iterate"] == 1
    )  # the one that goes on
    run(sampler)
    assert programs()["solve.iteration.iterate"] - before["solve.iteration.iterate"] == 1


def test_what_draws_at_random_needs_a_key():
    estimator = jf.solve.Draws(at_random, batch_size=1)
    with pytest.raises(ValueError, match="key must be a PRNG key"):
        run(estimator)
    ours = run(jf.solve.with_replacement(1), key=jax.random.key(3))
    np.testing.assert_array_equal(run(estimator, key=jax.random.key(3)).values, ours.values)


def test_a_function_is_refused_in_a_sentence():
    with pytest.raises(
        TypeError,
        match=r"estimator must have a draw, got the function in_order; if it is a constructor, call it",
    ):
        run(in_order)
    with pytest.raises(TypeError, match=r"got the function epochs; if it is a constructor, call it"):
        run(jf.solve.epochs, key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"estimator must come from jaxflow\.solve or be an iterable"):
        run(3)


class Body:
    """A draw that is given, and nothing else."""

    def __init__(self, draw, **others):
        self.draw = draw
        vars(self).update(others)


def changed(objective, state, step, key):
    return objective, jnp.zeros(3)


def counted(objective, state, step, key):
    return objective, state + 0.5


WRONG = {
    "no key": (
        Body(at_random),
        ValueError,
        r"key must be .* for the estimator at_random, which draws at random",
    ),
    "no key for epochs": (
        jf.solve.epochs(1),
        ValueError,
        r"for the estimator epochs\(batch_size=1\), which draws",
    ),
    "only a loss": (
        Body(lambda objective, state, step, key: lambda w: objective(w)),
        TypeError,
        r"estimator must have a draw that returns a pair \(loss, state\), .* returned the function <lambda> alone\.",
    ),
    "a value": (
        Body(lambda objective, state, step, key: (objective(0.0), state)),
        TypeError,
        r"whose loss is a function of the parameters, but <lambda> returned \(float64\[\], \(\)\)\.",
    ),
    "another state": (
        Body(changed),
        TypeError,
        r"returns a state .* the given one, \(\), but changed returned the state float64\[3\]",
    ),
    "another dtype": (
        Body(counted, init=lambda objective, key: jnp.zeros([], jnp.int32)),
        TypeError,
        r"given one, int32\[\], but counted returned the state float64\[\]",
    ),
    "a signature": (
        Body(lambda objective: objective),
        TypeError,
        r"estimator must have draw\(objective, state, step, key\), got <lambda>\(objective\)\.",
    ),
    "an init": (
        Body(in_order, init=lambda: ()),
        TypeError,
        r"estimator must have init\(objective, key\), got <lambda>\(\)\.",
    ),
    "no function": (Body(3), TypeError, r"estimator must have draw\(.*\), got 3, which is not a function\."),
    "a batch size": (
        Body(in_order, batch_size=1.5),
        TypeError,
        "batch_size must be an integer at least 1, got 1.5",
    ),
}


@pytest.mark.promotes
@pytest.mark.parametrize("key", [None, jax.random.key(0)])
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_body_is_refused_in_a_sentence_and_compiles_nothing(case, key):
    estimator, error, said = WRONG[case]
    if case.startswith("no key") and key is not None:
        return
    before = programs()
    with pytest.raises(error, match=said) as caught:
        run(estimator, key=key)
    assert "\n" not in str(caught.value)
    assert programs() == before


def test_a_state_of_plain_numbers_is_carried():
    """A Python number takes the dtype that the draw gives it."""
    every_other = lambda objective, state, step, key: (objective, state + jnp.float32(1.0))
    assert run(Body(every_other, init=lambda objective, key: 0.0)).state.estimator == 5
