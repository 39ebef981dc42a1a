"""Networks trained from different starts: their losses, their runs, their ends."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxflow as jf
from jaxflow._norms import norm
from jaxflow.commands.shared.programs import jit_once
from jaxflow.commands.shared.progress import Progress, iterate_in_chunks
from jaxflow.dynamics.penalty import penalized
from jaxflow.problems.models.networks import compute_by_columns
from jaxflow.solve.discrete.optimizer_steps import start

PyTree = Any
RECORDS = 50  # of each part of a run


class Losses(NamedTuple):
    """What is minimised, the loss of the training examples with the penalty, and that of the held-out ones."""

    train: jf.Objective
    test: jf.Objective


class Runs(NamedTuple):
    """The parameters of the networks along their runs, leaves (networks, T, …), and at the ends (networks, …).

    `steps` is the number of steps at each record.
    """

    values: PyTree
    ends: PyTree
    steps: Any


def losses_of(problem: Any, penalty: float) -> Losses:
    """The losses of a problem whose networks are to have minima."""
    plain = compute_by_columns(problem.objective)
    return Losses(penalized(plain, 2 * penalty), dataclasses.replace(plain, data=problem.test))


def network(params: PyTree, i: int) -> PyTree:
    """One of stacked networks."""
    return jax.tree.map(lambda x: x[i], params)


def train(settings: Any, objective: jf.Objective, optimizer: jf.optim.Optimizer, bar: Progress) -> Runs:
    """Train all networks together, on mini-batches and then on all data."""
    starts, states, keys = _starts(settings, optimizer)

    def sample_runs(params, states, steps):
        one = lambda m: jf.iterate(
            optimizer,
            objective,
            m[1],
            steps=steps,
            batch_size=settings.batch_size,
            key=m[0],
            state=m[2],
            every=every,
        )
        return jf.ensemble(one, (keys, params, states))

    def whole(params, states, steps):
        one = lambda m: jf.iterate(optimizer, objective, m[0], steps=steps, state=m[1], every=every)
        return jf.ensemble(one, (params, states))

    every = max(1, settings.steps // RECORDS)
    first, _ = iterate_in_chunks(sample_runs, starts, states, settings.steps, every, bar)
    counts = [*range(0, settings.steps, every), settings.steps]
    # What the optimizer remembers of mini-batches is no start on all data.
    fresh = jit_once(jax.vmap(lambda p: start(optimizer, p)))(first.params)
    every = max(1, settings.settle // RECORDS)
    last, _ = iterate_in_chunks(whole, first.params, fresh, settings.settle, every, bar)
    counts += [settings.steps + k for k in (*range(every, settings.settle, every), settings.settle)]
    values = jax.tree.map(lambda x, y: jnp.concatenate([x, y[:, 1:]], 1), first.values, last.values)
    return Runs(values, last.params, counts)


def measure_ends(problem: Any, losses: Losses, runs: Runs) -> list[dict[str, float]]:
    """Losses, score and the norm of the gradient at the end of every network."""

    @jax.jit
    def measure(params, losses, held_out):
        value, slope = jax.value_and_grad(lambda p: losses.train(p))(params)
        return {
            "training_loss": value,
            "test_loss": losses.test(params),
            "score": problem.score(params, held_out),
            "gradient_norm": norm(slope),
        }

    count = jax.tree.leaves(runs.ends)[0].shape[0]
    found = [measure(network(runs.ends, i), losses, problem.test) for i in range(count)]
    return [{name: float(value) for name, value in one.items()} for one in found]


def _starts(settings: Any, optimizer: jf.optim.Optimizer):
    """The starts, the states of the optimizer and the keys of the mini-batches, one for each network."""
    begin, draws = jax.random.split(jax.random.key(settings.seed))
    data = (
        jf.problems.load(settings.data, encode=True) if settings.encode else jf.problems.load(settings.data)
    )
    make = lambda key: (
        jf.problems.mlp(data, settings.hidden, settings.activation, settings.loss, key=key).params
    )
    starts = jax.vmap(make)(jax.random.split(begin, settings.networks))
    states = jit_once(jax.vmap(lambda params: start(optimizer, params)))(starts)
    return starts, states, jax.random.split(draws, settings.networks)
