"""What it costs to watch a run, and to train a module in the place of a dict: ratios to the bare run."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax

import jaxflow as jf
from experiments.benchmarks.runs.speed import digits
from experiments.benchmarks.timing import medians
from jaxflow.curvature.products import open_real, operator
from jaxflow.curvature.spectrum.eigenpairs import COLD, EACH
from jaxflow.curvature.stability.sharpness_record import FRESH, follow_pairs

metrics = jf.solve.metrics
CHEAP = {
    "loss": metrics.loss,
    "gradient": metrics.gradient_norm,
    "update": metrics.update_norm,
    "cosine": metrics.update_cosine,
}


def by_hand(objective, steps: int):
    """What a user would write with optax: a scan of steps of Adam that returns the same four numbers of each."""
    optimizer = optax.adam(1e-3)
    dot = lambda a, b: sum(map(jnp.vdot, jax.tree.leaves(a), jax.tree.leaves(b)))

    @jax.jit
    def run(params, data):
        loss = lambda params: objective.losses(params, data).mean()

        def step(carry, _):
            params, state, last = carry
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state, params)
            length = jnp.sqrt(dot(updates, updates))
            cosine = dot(updates, last) / length / jnp.sqrt(dot(last, last))
            seen = value, jnp.sqrt(dot(gradient, gradient)), length, cosine
            return (optax.apply_updates(params, updates), state, updates), seen

        begin = params, optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
        return lax.scan(step, begin, length=steps)[1]

    return run


def cheap_metrics_by_hand(quick: bool) -> float:
    """`iterate` on the digits network, all data, with four cheap metrics, against the same loop written by hand."""
    problem, steps = digits("float32"), 50 if quick else 500
    hand = by_hand(problem.objective, steps)
    ours = lambda: jf.iterate(
        jf.optim.adam(1e-3), problem.objective, problem.params, steps=steps, record=nothing, metrics=CHEAP
    )
    contestants = {
        "ours": lambda: ours().metrics,
        "hand": lambda: hand(problem.params, problem.objective.data),
    }
    seconds = medians(contestants, 3 if quick else 15)
    return seconds["ours"] / seconds["hand"]


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


def sharpness(quick: bool) -> float:
    """`iterate` with the sharpness every 50 steps, against the run without it and the products that it takes."""
    problem, steps, every = digits("float32"), 100 if quick else 1000, 50
    objective, start = problem.objective, problem.params
    run = lambda **watched: jf.iterate(
        jf.optim.gd(0.2), objective, start, steps=steps, every=every, **watched
    )
    record = jf.curvature.record_sharpness(objective)
    path = run().values
    spent = jax.jit(products_along)(objective, path)
    alone = jax.jit(take_products)
    contestants = {
        "watched": lambda: run(record=nothing, metrics={"sharpness": record}).metrics,
        "bare": lambda: run(record=nothing).params,
        "products": lambda: alone(objective, path, spent),
    }
    seconds = medians(contestants, 3 if quick else 15)
    return seconds["watched"] / (seconds["bare"] + seconds["products"])


def products_along(objective, path):
    """The products with the Hessian that `record_sharpness` takes at each of the recorded parameters."""
    size = sum(leaf[0].size for leaf in jax.tree.leaves(path))

    def look(memory, params):
        vectors, count = memory
        loss, params = open_real(objective, params)
        found = follow_pairs(operator(loss, params), vectors, count % FRESH == 0)
        cold = jnp.where(count % FRESH == 0, COLD + EACH, 0)
        return (found.vectors, count + 1), found.products + cold

    return lax.scan(look, (jnp.zeros((1, size), jnp.float32), 0), path)[1]


def take_products(objective, path, numbers):
    """Some products with the Hessian at each point of a path, as derivatives of a gradient along a vector."""

    def at(vector, look):
        params, number = look
        product = lambda v: jax.jvp(jax.grad(objective), (params,), (v,))[1]
        unit = lambda v: jax.tree.map(lambda x: x / optax.tree.norm(v), v)
        return lax.fori_loop(0, number, lambda _, v: unit(product(v)), vector), None

    return lax.scan(at, jax.tree.map(lambda x: x[0], path), (path, numbers))[0]


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
