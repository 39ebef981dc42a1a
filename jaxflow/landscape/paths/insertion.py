"""New images for a band, where the loss between two neighbours is highest above the line between them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow.landscape.paths.band_forces import Band
from jaxflow.landscape.paths.path import TOGETHER

BETWEEN = 9  # points between two images at which the loss is looked at, as Draxler et al. do
EXCESS = 0.02  # of the height of the path: what a new image must be worth


def insert_images(value: Any, band: Band, losses: jax.Array, most: int) -> Band:
    """Put at most `most` images into the gaps where the loss exceeds the line between its ends by most."""
    images, places, count = band.images, band.places, band.count
    share = (jnp.arange(1, BETWEEN + 1) / (BETWEEN + 1)).astype(images.dtype)
    points = images[:-1, None] + share[None, :, None] * (images[1:] - images[:-1])[:, None]
    found = lax.map(value, points.reshape(-1, images.shape[1]), batch_size=TOGETHER)
    lines = losses[:-1, None] + share[None] * (losses[1:] - losses[:-1])[:, None]
    excess = found.reshape(lines.shape) - lines
    gaps = jnp.arange(images.shape[0] - 1)
    best = jnp.where(gaps < count - 1, jnp.max(excess, 1), -jnp.inf)
    height = jnp.maximum(jnp.max(losses), jnp.max(found)) - jnp.minimum(losses[0], losses[-1])
    worth, chosen = lax.top_k(best, most)
    taken = worth > EXCESS * height
    where = jnp.argmax(excess, 1)[chosen]
    new = jax.vmap(lambda gap, i: points[gap, i])(chosen, where)
    middle = places[chosen] + share[where] * (places[chosen + 1] - places[chosen])
    # Sorted by their places the new images come where they belong. What is not taken goes behind the last end.
    ranks = jnp.concatenate(
        [jnp.where(jnp.arange(places.size) < count, places, 2), jnp.where(taken, middle, 3)]
    )
    order = jnp.argsort(ranks, stable=True)[: places.size]
    count = count + jnp.sum(taken).astype(count.dtype)
    used = jnp.arange(places.size) < count
    images = jnp.where(used[:, None], jnp.concatenate([images, new])[order], images[-1])
    return Band(images, jnp.where(used, ranks[order], 1), count, band.ends)
