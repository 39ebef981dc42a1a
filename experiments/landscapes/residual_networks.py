"""Networks with and without skip connections, whose depth is a number: what `loss_landscape` looks at."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import jaxflow as jf

NAMES = ("plain", "residual", "residual, large branches")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Loss:
    """The mean cross-entropy of a network: skip = 0 is a plain one. All are leaves, so one program serves both."""

    x: jax.Array
    y: jax.Array
    skip: Any
    branch: Any

    def __call__(self, params):
        layer = lambda h, w: (self.skip * h + self.branch * jnp.tanh(h @ w), None)
        h, _ = jax.lax.scan(layer, jnp.tanh(self.x @ params["first"]), params["layers"])
        logits = h @ params["last"]
        return (jax.nn.logsumexp(logits, 1) - jnp.take_along_axis(logits, self.y[:, None], 1)[:, 0]).mean()


def losses_of(depth, examples):
    """The loss of each network, with pixels in one unit."""
    digits = jf.problems.load("digits")
    x = (digits.x - digits.x.mean()) / digits.x.std()
    data = jnp.asarray(x[:examples]), jnp.asarray(digits.y[:examples])
    kinds = (0.0, 1.0), (1.0, depth**-0.5), (1.0, 1.0)
    return {name: Loss(*data, *map(jnp.asarray, kind)) for name, kind in zip(NAMES, kinds, strict=True)}


def draw_weights(depth, width, key):
    """Weights of variance 1/inputs; the kernels of the layers are stacked, (depth, in, out)."""
    shapes = {"first": (64, width), "layers": (depth, width, width), "last": (width, 10)}
    keys = dict(zip(shapes, jax.random.split(key, 3), strict=True))
    return {name: jax.random.normal(keys[name], shape) / shape[-2] ** 0.5 for name, shape in shapes.items()}


def columns(path, leaf):
    """The axis along which a filter extends: the inputs. The default would take all stacked layers for one."""
    return (leaf.ndim - 2,)
