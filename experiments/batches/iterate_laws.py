"""Laws of optimizers on mini-batches without sampling, on a small regression; `weak_orders` compares SDEs to them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.special import erf

import jaxflow as jf


def setting(columns):
    """Least squares on every fifth iris, sepal length by other measurements: its objective."""
    x = jf.problems.load("iris").x[::5]
    x = (x - x.mean(0)) / x.std(0)
    data = {"x": x[:, list(columns)], "y": x[:, 0]}
    return jf.Objective(lambda w, batch: 0.5 * (batch["x"] @ w - batch["y"]) ** 2, data)


def freeze_noise(objective, at):
    """The same loss, up to a constant, with the noise that the gradient has at one point."""
    x, y = objective.data["x"], objective.data["y"]
    hessian, slopes = x.T @ x / len(x), x * (x @ at - y)[:, None]
    return jf.Objective(lambda w, g: 0.5 * (w - at) @ hessian @ (w - at) + g @ (w - at), slopes)


class Law(NamedTuple):
    """Mean (d,) and covariance (d, d) of the parameters."""

    mean: Any
    covariance: Any


class Adaptive(NamedTuple):
    """Hyperparameters of RMSProp and Adam at one rate, and where their averages start."""

    rate: float
    betas: tuple[float, float]
    eps: float
    batch: float
    first: jax.Array
    second: jax.Array

    def rmsprop(self, start):
        optimizer = jf.optim.rmsprop(self.rate, self.betas[1], self.eps)
        own, *others = optimizer.init(start)
        return optimizer, (own._replace(nu=self.second), *others)

    def adam(self, start, steps):
        """Begun after `steps` steps, with averages that are `first` and `second` once they are corrected."""
        optimizer = jf.optim.adam(self.rate, *self.betas, self.eps)
        own, *others = optimizer.init(start)
        shares = [1 - b**steps for b in self.betas]
        own = own._replace(
            count=jnp.asarray(steps, jnp.int32), mu=shares[0] * self.first, nu=shares[1] * self.second
        )
        return optimizer, (own, *others)


def of_linear(optimizer, objective, start, steps, batch):
    """The exact law of an optimizer whose update is affine in gradient and state, on least squares."""
    template, unravel = ravel_pytree(optimizer.init(start))
    size, width = start.size, start.size + template.size

    def move(z, x, y):
        theta, state = z[:size], unravel(z[size:])
        change, state = optimizer.update(x * (x @ theta - y), state, theta)
        return jnp.concatenate([theta + change, ravel_pytree(state)[0]])

    def one(x, y):
        zero = jnp.zeros(width)
        matrix = jnp.block([[jax.jacfwd(move)(zero, x, y), move(zero, x, y)[:, None]], [zero[None], 1.0]])
        return matrix, jnp.kron(matrix, matrix)

    maps, squares = jax.vmap(one)(objective.data["x"], objective.data["y"])
    mean, square = np.asarray(maps.mean(0)), np.asarray(squares.mean(0))
    # The map of a batch is the mean of those of its examples, which are drawn independently.
    step = square / batch + (1 - 1 / batch) * np.kron(mean, mean)
    z = np.concatenate([start, template, [1.0]])
    second = (np.linalg.matrix_power(step, steps) @ np.kron(z, z)).reshape(width + 1, width + 1)
    first = second[:size, -1]
    return Law(first, second[:size, :size] - np.outer(first, first))


def nodes(size):
    """A rule for size + 1 standard normal numbers: 3 nodes for each of the state's, 7 for the gradient's; weights."""
    rules = [np.polynomial.hermite_e.hermegauss(count) for count in (3,) * size + (7,)]
    grid = np.stack(np.meshgrid(*(x for x, _ in rules), indexing="ij"), -1).reshape(-1, size + 1)
    weights = np.prod(np.meshgrid(*(w for _, w in rules), indexing="ij"), 0).reshape(-1)
    return jnp.asarray(grid), jnp.asarray(weights / weights.sum())


@jax.jit
def of_gaussian(optimizer, objective, theta, state, steps, batch):
    """The law of an optimizer of one parameter on Gaussian gradients, closed by a normal law at every step."""
    leaves, tree = jax.tree.flatten((theta, state))
    moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    numbers = lambda leaves: jnp.stack([leaves[i].reshape(()) for i in moving])
    grid, weights = nodes(len(moving))

    def step(_, carry):
        mean, covariance, leaves = carry
        values, vectors = jnp.linalg.eigh(covariance)
        root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None]

        def move(node):
            now, z = list(leaves), mean + root @ node[:-1]
            for number, i in zip(z, moving, strict=True):
                now[i] = number.reshape(leaves[i].shape)
            theta, state = jax.tree.unflatten(tree, now)
            noise = jnp.sqrt(jf.gradient_covariance(objective, theta)[0] / batch)
            change, state = optimizer.update(jax.grad(objective)(theta) + noise * node[-1], state, theta)
            after = jax.tree.leaves((theta + change, state))
            return numbers(after), after

        ends, after = jax.vmap(move)(grid)
        mean = weights @ ends
        away = ends - mean[None]
        return mean, (away * weights[:, None]).T @ away, [leaf[0] for leaf in after]

    none = jnp.zeros((len(moving), len(moving)))
    mean, covariance, _ = jax.lax.fori_loop(0, steps, step, (numbers(leaves), none, leaves))
    return Law(mean[:1], covariance[:1, :1])


def of_signs(objective, start, rate, steps, batch):
    """The exact law of sign descent on Gaussian gradients: a walk on a lattice of spacing η."""
    x, y = (np.asarray(objective.data[name]) for name in "xy")
    theta = float(start[0]) + rate * np.arange(-steps, steps + 1)
    slopes = x * (x * theta[None] - y[:, None])
    down = 0.5 * (1 + erf(slopes.mean(0) / np.sqrt(2 * slopes.var(0) / batch)))
    mass = np.where(np.arange(theta.size) == steps, 1.0, 0.0)
    for _ in range(steps):
        left, right = mass * down, mass * (1 - down)
        mass = np.append(left[1:], 0.0) + np.append(0.0, right[:-1])
    mean = mass @ theta
    return Law(np.array([mean]), np.array([[mass @ (theta - mean) ** 2]]))
