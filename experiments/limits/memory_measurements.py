"""Optimizers with memory on digits, the flows they settle to, and their penalties read off iterates: `memory`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import jaxflow as jf

EXAMPLES, HIDDEN, EPS = 100, 8, 0.02
FORGOTTEN = 20  # times 1/(1−β) steps, after which e⁻²⁰ of the start is left
SUBSTEPS = 64  # of a flow
PULLED, EVERY, POINTS = 4e-6, 100, 10  # Adam's rate, steps between points, and points, where N is followed
remembers = lambda beta: (1 + beta) / (1 - beta)


def network():
    """The loss of a small network on digits as a function of one vector, and its start."""
    problem = jf.problems.mlp("digits", hidden=(HIDDEN,))
    data = jax.tree.map(lambda x: x[:EXAMPLES], problem.objective.data)
    start, unravel = ravel_pytree(problem.params)
    objective = jf.Objective(problem.objective.losses, data)
    return jax.tree_util.Partial(lambda theta: objective(unravel(theta))), start


@jf.dynamics.traceable
def recalled(loss, eps, penalty, reward):
    """θ˙ = −u − (penalty − reward u²) Hu/P with u = g/P, where P = √(g² + ε²), or 1 where ε is infinite."""

    def drift(t, theta):
        slope = jax.grad(loss)(theta)
        size = jnp.where(jnp.isinf(eps), 1.0, jnp.sqrt(slope**2 + eps**2))
        unit = slope / size
        bent = jax.jvp(jax.grad(loss), (theta,), (unit,))[1]
        return -unit - (penalty - reward * unit**2) * bent / size

    return jf.dynamics.Field(drift=drift)


@jax.jit
def norm_of(loss, theta):
    """The N of the page."""
    return jnp.sum(jnp.sqrt(jax.grad(loss)(theta) ** 2 + EPS**2) - EPS)


def settle(optimizer, loss, start, beta):
    """The run of an optimizer up to where its memory has forgotten the start."""
    steps = int(np.ceil(FORGOTTEN / (1 - beta)))
    return jf.iterate(optimizer, loss, start, steps=jnp.asarray(steps), every=None)


def go_on(optimizer, loss, run, steps):
    return jf.iterate(optimizer, loss, run.params, steps=jnp.asarray(steps), every=None, state=run.state)


def flow(dynamics, start, time):
    """Where a flow from `start` is after a time."""
    return jf.integrate(dynamics, start, jnp.array([0.0, time]), substeps=SUBSTEPS).params


def adam(rate, b1, b2):
    """Adam with ε² inside the root, which keeps its field smooth where a gradient changes its sign."""
    return jf.optim.traceable(optax.adam)(rate, b1=b1, b2=b2, eps=0.0, eps_root=EPS**2)


class Method(NamedTuple):
    """An optimizer as a function of its rate, with what its flow of first order is made of."""

    make: Callable
    beta: float  # the slowest one
    speed: float = 1.0  # the effective rate over the rate
    eps: float = np.inf


def ball(beta, nesterov=False):
    make = jf.optim.nesterov if nesterov else jf.optim.momentum
    return Method(lambda rate: make(rate, beta), beta, 1 / (1 - beta))


def adaptive(b1, b2):
    return Method(lambda rate: adam(rate, b1, b2), max(b1, b2), eps=EPS)


def methods():
    """Each method of the first panel, and the largest of its rates."""
    rmsprop = lambda rate: jf.optim.rmsprop(rate, 0.9, EPS**2, eps_in_sqrt=True)
    return {
        "heavy ball, β = .9": (ball(0.9), 1e-5),
        "Nesterov, β = .9": (ball(0.9, nesterov=True), 5e-6),
        "RMSProp, β₂ = .9": (Method(rmsprop, 0.9, eps=EPS), 2e-6),
        "Adam, β₁ = .8, β₂ = .9": (adaptive(0.8, 0.9), 1e-6),
    }


def gaps(method, rates, time, loss, start):
    """Distances of iterates from the flows of order 1 and 2, over the distance travelled."""
    found = {1: [], 2: []}
    for rate in rates:
        optimizer = method.make(rate)
        begin = settle(optimizer, loss, start, method.beta)
        end = go_on(optimizer, loss, begin, round(time / rate)).params
        first = flow(recalled(loss, method.eps, 0.0, 0.0), begin.params, method.speed * time)
        second = flow(jf.dynamics.slow_manifold(optimizer, loss), begin.params, time)
        travelled = np.linalg.norm(end - begin.params)
        for order, place in ((1, first), (2, second)):
            found[order].append(float(np.linalg.norm(place - end) / travelled))
    return found


def terms(method, rate, steps, loss, start):
    """The penalty and reward, over η/2, that move the flow of first order to where the iterates are."""
    optimizer = method.make(rate)
    begin = settle(optimizer, loss, start, method.beta)
    end = go_on(optimizer, loss, begin, steps).params
    time = method.speed * rate * steps
    at = lambda *weights: flow(recalled(loss, method.eps, *weights), begin.params, time)
    small, plain = rate / 4, at(0.0, 0.0)
    moved = [(at(small, 0.0) - at(-small, 0.0)) / (2 * small)]
    if np.isfinite(method.eps):
        moved.append((at(0.0, small) - at(0.0, -small)) / (2 * small))
    return np.linalg.lstsq(np.stack(moved, 1), np.asarray(end - plain))[0] / (rate / 2)


def extrapolate(method, rate, time, loss, start):
    """`terms` at a rate and at half of it, extrapolated to the rate 0."""
    steps = round(time / rate)
    return 2 * terms(method, rate / 2, 2 * steps, loss, start) - terms(method, rate, steps, loss, start)


def excess(pair, loss, start):
    """N along Adam's iterates and along its second-order flow, less that of the first, over N, at equal times."""
    method, rate = adaptive(*pair), PULLED
    optimizer = method.make(rate)
    run = settle(optimizer, loss, start, method.beta)
    places = [run.params] * 3
    rows, weights = [(0.0, 0.0)], rate / 2 * np.array([remembers(b) for b in pair])
    for _ in range(POINTS):
        run = go_on(optimizer, loss, run, EVERY)
        plain, second = recalled(loss, EPS, 0.0, 0.0), recalled(loss, EPS, *weights)
        ends = (flow(plain, places[1], EVERY * rate), flow(second, places[2], EVERY * rate))
        places = [run.params, *ends]
        iterates, first, closed = (float(norm_of(loss, place)) for place in places)
        rows.append((iterates / first - 1, closed / first - 1))
    return np.array(rows)
