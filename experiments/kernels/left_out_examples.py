"""Networks trained without the examples that a path kernel says made a prediction."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow as jf


def train(objective, params, sizes, key):
    """Training on mini-batches, by momentum; it is the same in `retrain`."""
    return {
        "optimizer": jf.optim.momentum(0.05, 0.9),
        "objective": objective,
        "params": params,
        "steps": sizes.steps,
        "batch_size": 50,
        "key": key,
    }


def retrain(objective, params, kept, x, pair, sizes, key):
    """Margins (k,) at points x (k, …) of networks trained on the examples `kept` (k, n)."""

    def margin(kept, x, pair):
        left = jf.Objective(objective.losses, objective.take(kept))
        run = jf.iterate(**train(left, params, sizes, key), every=None)
        outputs = objective.losses.predict(run.params, x[None])[0]
        return outputs[pair[0]] - outputs[pair[1]]

    return np.asarray(jax.jit(jax.vmap(margin))(kept, x, pair))


def without(machine, objective, params, x, sizes, key):
    """Margins of test images with all examples, and in networks trained without some of them."""
    pairs = np.array([machine.margin_of(i) for i in range(sizes.images)])
    rng, size = np.random.default_rng(0), objective.size
    effects = np.array([machine.effects(i) for i in range(sizes.images)])
    order = np.argsort(-effects, 1)
    left_out = {
        "the most helpful": order[:, : sizes.removed],
        "the most harmful": order[:, -sizes.removed :],
        "random ones": np.array([rng.permutation(size)[: sizes.removed] for _ in pairs]),
    }
    kept = {
        name: np.array([np.setdiff1d(np.arange(size), row) for row in rows])
        for name, rows in left_out.items()
    }
    given = (x[: sizes.images], jnp.asarray(pairs), sizes, key)
    margins = {name: retrain(objective, params, jnp.asarray(rows), *given) for name, rows in kept.items()}
    ends = np.asarray(machine.end)
    full = np.array([ends[i, a] - ends[i, b] for i, (a, b) in enumerate(pairs)])
    return full, margins
