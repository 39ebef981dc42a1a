"""What it costs to watch a run, and to train a module in the place of a dict: ratios to the bare run."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import jaxflow as jf
from experiments.benchmarks.runs.speed import digits
from experiments.benchmarks.timing import medians

metrics = jf.solve.metrics
CHEAP = {
    "loss": metrics.loss,
    "gradient": metrics.gradient_norm,
    "update": metrics.update_norm,
    "cosine": metrics.update_cosine,
}


def nothing(params):
    """A record of nothing. It is one function, as a new one at each call would compile anew."""
    return ()


def cheap_metrics(batch: int | None, every: int, quick: bool) -> float:
    """`iterate` on the digits network with four metrics of what a step has computed, against none."""
    problem, steps = digits("float32"), 50 if quick else 500
    run = lambda chosen: (
        jf.iterate(
            jf.optim.adam(1e-3),
            problem.objective,
            problem.params,
            steps=steps,
            every=every,
            batch_size=batch,
            key=jax.random.key(0),
            record=nothing,
            metrics=chosen,
        ).params
    )
    seconds = medians({"watched": lambda: run(CHEAP), "bare": lambda: run(None)}, 3 if quick else 15)
    return seconds["watched"] / seconds["bare"]


def module(quick: bool) -> float:
    """An `eqx.nn.MLP` on digits against the same network as a dict, full batch."""
    problem, steps = digits("float32"), 50 if quick else 500
    network = eqx.nn.MLP(64, 10, 32, 1, jnp.tanh, key=jax.random.key(0))
    plain = [{"w": layer.weight, "b": layer.bias} for layer in network.layers]

    def apply(params, x):
        hidden = jnp.tanh(params[0]["w"] @ x + params[0]["b"])
        return params[1]["w"] @ hidden + params[1]["b"]

    def objective(apply):
        entropy = optax.softmax_cross_entropy_with_integer_labels
        losses = lambda params, batch: entropy(jax.vmap(lambda x: apply(params, x))(batch["x"]), batch["y"])
        return jf.Objective(losses, problem.objective.data)

    runs = {"module": (objective(lambda net, x: net(x)), network), "dict": (objective(apply), plain)}
    train = lambda name: jf.iterate(jf.optim.gd(0.1), *runs[name], steps=steps, every=None).values
    seconds = medians({name: lambda name=name: train(name) for name in runs}, 3 if quick else 15)
    return seconds["module"] / seconds["dict"]
