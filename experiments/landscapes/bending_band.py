"""A straight line between two minima of the Müller–Brown surface that bends into its valleys, as it moves."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments.common import Moving
from jaxflow.plot.style import COLOURS, tidy

IMAGES, STEPS = 21, 1000
RATE, SPRING = 2e-4, 100.0
LOW, HIGH = (-1.6, -0.4), (1.2, 1.9)


def moving() -> Moving:
    """The band and the losses along it, as its images descend."""
    surface = jf.problems.muller_brown().objective
    a, b = (jnp.asarray(end) for end in ((-0.55822363, 1.44172584), (0.62349941, 0.02803776)))
    straight = jf.landscape.interpolate(surface, a, b, points=IMAGES).params
    band = jf.landscape.band_field(surface, a, b, spring=SPRING)
    run = jf.iterate(jf.optim.gd(RATE), band, straight[1:-1], steps=STEPS, every=5)
    paths = np.asarray(run.values)
    ends = [np.broadcast_to(np.asarray(end), (len(paths), 1, 2)) for end in (a, b)]
    paths = np.concatenate([ends[0], paths, ends[1]], 1)
    losses = np.asarray(jax.jit(jax.vmap(jax.vmap(surface)))(jnp.asarray(paths)))
    lengths = np.cumsum(np.linalg.norm(np.diff(paths, axis=1), axis=2), 1)
    shares = np.concatenate([np.zeros((len(paths), 1)), lengths / lengths[:, -1:]], 1)

    figure = Figure(figsize=(9, 4.2), dpi=80, layout="constrained")
    plane, along = figure.subplots(1, 2)
    x, y = (np.linspace(low, high, 141) for low, high in zip(LOW, HIGH, strict=True))
    grid = jnp.stack(jnp.meshgrid(jnp.asarray(x), jnp.asarray(y), indexing="ij"), -1)
    heights = np.asarray(jax.vmap(jax.vmap(surface))(grid)).T
    levels = np.linspace(-150, 60, 22)
    plane.contourf(x, y, np.minimum(heights, 60), levels=levels, cmap="Greys_r", alpha=0.55, extend="both")
    plane.plot(*paths[0].T, color=COLOURS[1], linestyle="--", linewidth=1.2, label="straight line")
    (bent,) = plane.plot([], [], "o-", color=COLOURS[5], markersize=4, linewidth=1.6, label="band")
    plane.set(xlabel="x", ylabel="y", xlim=(LOW[0], HIGH[0]), ylim=(LOW[1], HIGH[1]))
    tidy(plane)
    along.plot(shares[0], losses[0], color=COLOURS[1], linestyle="--", linewidth=1.2, label="straight line")
    (level,) = along.plot([], [], "o-", color=COLOURS[5], markersize=4, linewidth=1.6, label="band")
    along.set(
        xlabel="share of the length", ylabel="loss", xlim=(0, 1), ylim=(losses.min() - 8, losses[0].max() + 8)
    )
    tidy(along)

    def show(k: int) -> None:
        bent.set_data(*paths[k].T)
        level.set_data(shares[k], losses[k])
        figure.suptitle(f"step {5 * k}: highest image {losses[k].max():.1f}", fontsize="medium")

    frames = np.unique(np.geomspace(1, len(paths), 70).astype(int)) - 1
    return Moving(figure, show, frames)
