"""The forces on the images of an elastic band: the loss pulls across the path, springs along it.

A band has n flat images (n, P), ends included. Its images rest at the `places` u (n,), 0 to 1, which say how the
springs share out the length of the path. Behind its last image an array may be filled up with copies of the last
end, which stay there.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Band(NamedTuple):
    """A band: `images` (n, P), `places` (n,), `count` of the images in use, and the losses at the `ends` (2,)."""

    images: jax.Array
    places: jax.Array
    count: jax.Array
    ends: jax.Array


class Pull(NamedTuple):
    """What pulls on a band.

    - `losses` (n,): the losses at the images.
    - `slope` (n − 2, P): the negative forces on the inner images, in the place of a gradient.
    - `largest`: the largest norm of a force that is not a spring's.
    - `lost`: whether an image, or the gradient at one, is not finite.
    """

    losses: jax.Array
    slope: jax.Array
    largest: jax.Array
    lost: jax.Array


def pull_on(value_and_slope: Any, band: Band, spring: jax.Array, climbing: jax.Array | None) -> Pull:
    """The forces on a band: gradients across the path, springs along it, and a highest image that may be climbing."""
    images = band.images
    inner = jnp.arange(1, images.shape[0] - 1)
    active = inner < band.count - 1
    values, slopes = jax.vmap(value_and_slope)(images[1:-1])
    finite = jnp.isfinite(values) & jnp.isfinite(slopes).all(1)
    values = jnp.where(active, jnp.where(finite, values, jnp.nan), band.ends[1])
    losses = jnp.concatenate([band.ends[:1], values, band.ends[1:]])

    tangents = unit_tangents(images, losses)
    along = jnp.sum(slopes * tangents, 1, keepdims=True) * tangents
    across = slopes - along
    steps = images[1:] - images[:-1]
    lengths = _lengths(steps)
    shares = jnp.diff(band.places)
    both = shares[1:] + shares[:-1]
    # At even places this is the difference of the two lengths, as usual; at others it rests where they have the
    # ratio of the places.
    stretch = 2 * (lengths[1:] * shares[:-1] - lengths[:-1] * shares[1:]) / jnp.where(both > 0, both, 1)
    # Where the path turns back on itself a tangent tells nothing, and no force across it would undo the fold: the
    # image falls down the whole gradient, and whole springs pull it between its neighbours.
    product = lengths[1:] * lengths[:-1]
    cosine = jnp.sum(steps[1:] * steps[:-1], 1) / jnp.where(product > 0, product, 1)
    ratio = lambda part: (2 * part / jnp.where(both > 0, both, 1))[:, None]
    whole = spring * (ratio(shares[:-1]) * steps[1:] - ratio(shares[1:]) * steps[:-1])
    fold = jnp.maximum(-cosine, 0)[:, None]
    effective = across + fold * (along - whole)
    slope = effective - (1 - fold) * spring * stretch[:, None] * tangents
    if climbing is not None:
        top = jnp.argmax(jnp.where(active, values, -jnp.inf))
        # A path that falls all the way has no saddle to climb.
        is_top = (jnp.arange(inner.size) == top) & (values > band.ends.max()) & (cosine > 0) & climbing
        slope = jnp.where(is_top[:, None], across - along, slope)
        effective = jnp.where(is_top[:, None], across - along, effective)
    slope = jnp.where(active[:, None], slope, 0)
    largest = jnp.max(jnp.where(active, _lengths(effective), 0))
    return Pull(losses, slope, largest, ~(finite | ~active).all())


def unit_tangents(images: jax.Array, losses: jax.Array) -> jax.Array:
    """The improved tangents of Henkelman & Jónsson at the inner images, (n − 2, P), of length 1.

    A tangent points to the higher neighbour. At an extremum both neighbours count, by the differences of the losses,
    so that it turns smoothly as the two change their order. It is 0 where all three images are one.
    """
    forth, back = images[2:] - images[1:-1], images[1:-1] - images[:-2]
    up, down = losses[2:] - losses[1:-1], losses[:-2] - losses[1:-1]
    most, least = jnp.maximum(abs(up), abs(down)), jnp.minimum(abs(up), abs(down))
    higher = up > down
    weigh_forth, weigh_back = jnp.where(higher, most, least), jnp.where(higher, least, most)
    rising, falling = (up > 0) & (down < 0), (up < 0) & (down > 0)
    level = most == 0  # three equal losses tell no direction
    weigh_forth = jnp.where(rising | level, 1, jnp.where(falling, 0, weigh_forth))
    weigh_back = jnp.where(falling | level, 1, jnp.where(rising, 0, weigh_back))
    scale = jnp.maximum(jnp.maximum(weigh_forth, weigh_back), jnp.finfo(losses.dtype).tiny)[:, None]
    tangent = weigh_forth[:, None] / scale * forth + weigh_back[:, None] / scale * back
    length = _lengths(tangent)[:, None]
    return jnp.where(length > 0, tangent / jnp.where(length > 0, length, 1), 0)


def stiffness(images: jax.Array, slopes: jax.Array) -> jax.Array:
    """The mean curvature along a path, by which the gradient changes from image to image, as a unit for springs."""
    lengths, changes = _lengths(images[1:] - images[:-1]), _lengths(slopes[1:] - slopes[:-1])
    return jnp.mean(jnp.where(lengths > 0, changes / jnp.where(lengths > 0, lengths, 1), 0))


def _lengths(rows: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(rows**2, 1))
