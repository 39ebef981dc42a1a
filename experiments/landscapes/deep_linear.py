"""Deep linear networks: their loss, the saddles it has, the indices of these, and the flow that passes them."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow as jf

MODES = np.array([4.0, 3.0, 2.0, 1.0])  # of Σ


def deep_loss(weights, sigma):
    product = weights[0]
    for weight in weights[1:]:
        product = weight @ product
    return 0.5 * jnp.sum((product - sigma) ** 2)


class DeepLinear:
    """½|W_N … W_1 − Σ|², Σ (6, 5) with the four `MODES`; one object compiles once."""

    def __init__(self, key):
        left, right = (
            jnp.linalg.qr(jax.random.normal(k, (n, n)))[0][:, :4] for k, n in zip(key, (6, 5), strict=True)
        )
        self.left, self.right = left, right
        self.sigma = left @ jnp.diag(MODES) @ right.T

    def __call__(self, weights):
        return deep_loss(weights, self.sigma)

    def saddle(self, kept, hidden, layers):
        """Balanced weights that keep the modes `kept`, the j-th of them in the j-th hidden unit."""
        r, kept = len(kept), list(kept)
        root = MODES[kept] ** (1 / layers)
        # By NumPy, as each r would be a program of its own.
        first, inner, last = np.zeros((hidden, 5)), np.zeros((hidden, hidden)), np.zeros((6, hidden))
        first[:r] = root[:, None] * np.asarray(self.right)[:, kept].T
        inner[range(r), range(r)] = root
        last[:, :r] = np.asarray(self.left)[:, kept] * root
        return [first, *[inner] * (layers - 2), last]


def index_in_theory(kept, hidden, layers):
    left = [j for j in range(4) if j not in kept]
    pairs = sum(MODES[j] > MODES[i] for i in kept for j in left)
    return pairs + (hidden - len(kept)) * len(left) * (layers == 2)


def deep_linear_indices(network, cases):
    """(layers, hidden, kept, index in theory, index at weights found from off the saddle, loss found less theory)."""
    rows, subsets = [], [kept for r in range(5) for kept in combinations(range(4), r)]
    for layers, hidden in cases:
        saddles = [network.saddle(kept, hidden, layers) for kept in subsets]
        stacked = [jnp.asarray(np.stack(each)) for each in zip(*saddles, strict=True)]
        keys = list(jax.random.split(jax.random.key(1), layers))
        # Deeper saddles have no curvature along some directions: from off them a search would leave.
        off = 0.02 if layers == 2 else 0.0
        starts = [x + off * jax.random.normal(key, x.shape) for x, key in zip(stacked, keys, strict=True)]
        found = jf.landscape.index_against_loss(network, starts)
        for i, kept in enumerate(subsets):
            loss = 0.5 * sum(MODES[j] ** 2 for j in range(4) if j not in kept)
            ended = int(found.index[i]), float(found.points.loss[i]) - loss
            rows.append((layers, hidden, kept, index_in_theory(kept, hidden, layers), *ended))
    return rows


def plateaus(network, hidden, scale, times):
    """Gradient flow from small weights: its losses, and the times at which each mode has half its strength.

    With them come those by the escape time: the component of a mode is what the stronger ones leave it of the hidden
    units, by Gram–Schmidt.
    """
    keys, shapes = jax.random.split(jax.random.key(2), 2), ((hidden, 5), (6, hidden))
    start = [scale * jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    flow = jf.integrate(jf.dynamics.gradient_flow(network), start, times, rtol=1e-8, atol=1e-12)
    first, last = flow.values
    strength = np.einsum("im,tih,thj,jm->tm", network.left, last, first, network.right)
    half = [np.interp(0.5 * mode, strength[:, m], times) for m, mode in enumerate(MODES)]
    unstable = (start[1].T @ network.left + start[0] @ network.right) / 2**0.5
    component = np.abs(np.diag(np.linalg.qr(np.asarray(unstable))[1]))
    law = jf.landscape.escape_time(-MODES, np.sqrt(2 * MODES), displacement=component)
    return np.asarray(jax.vmap(network)(flow.values)), np.array(half), np.asarray(law)
