"""The spectrum of a Hessian: the density of its eigenvalues, and the few that are known exactly."""

from typing import Any

import numpy as np

from jaxflow.curvature.spectrum.density import SpectralDensity
from jaxflow.plot.style import axes, drawable_values, stroke, tidy

SEEN = 30  # how far below the height of a single eigenvalue the axis goes


def spectrum(
    density: SpectralDensity,
    ax: Any = None,
    *,
    eigenvalues: Any = None,
    width: Any = None,
    label: str | None = None,
) -> Any:
    """The density of the eigenvalues on a logarithmic axis, with its standard error over probes as a band.

    **Arguments**

    - `density`: what `spectral_density` returned. The axis ends a factor 30 below the height of a single
      eigenvalue; a second call draws another density into the same Axes.
    - `ax`: the Axes to draw on; default the current ones.
    - `eigenvalues` (k,): eigenvalues that are known exactly, by `top_eigenpairs` say, drawn as triangles at the
      bottom.
    - `width`: the standard deviation of the smoothing, in units of the eigenvalues; default 1 % of their range.
    - `label`: the name in the legend.

    **Returns** the Axes.

    **Raises** `ValueError` for a stack of densities, one that is not finite, or a width that is not
    above 0 or too small to be drawn.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> from matplotlib.figure import Figure
    >>> density = jf.curvature.spectral_density(lambda x: jnp.sum(x**4), jnp.arange(5.0), jax.random.key(0))
    >>> jf.plot.spectrum(density, Figure().add_subplot()).get_xlabel()
    'eigenvalue λ'
    """
    if np.ndim(density.nodes) != 2:
        raise ValueError(
            f"spectrum draws one density, with nodes (probes, depth), got nodes of shape {np.shape(density.nodes)}."
        )
    if not np.isfinite(np.asarray(density.nodes)).all():
        raise ValueError("spectrum draws a density of finite numbers above 0, got nodes that are not finite.")
    width = density.width if width is None else width
    grid, smooth = np.asarray(density.grid(width)), density.density(None, width)
    height, error = np.asarray(smooth.value), np.asarray(smooth.error)
    if not (np.isfinite(grid).all() and np.isfinite(height).all() and height.max() > 0):
        raise ValueError(
            f"spectrum draws a density of finite numbers above 0, smoothed by a width that is not tiny for "
            f"its range; got heights up to {height.max()} at width {float(width):g}."
        )
    ax = axes(ax)
    style = stroke(len(ax.lines))
    lowest, highest = 1 / (SEEN * density.size * float(width) * (2 * np.pi) ** 0.5), 2 * height.max()
    if ax.lines and ax.get_yscale() == "log":
        lowest, highest = min(lowest, ax.get_ylim()[0]), max(highest, ax.get_ylim()[1])

    if np.isfinite(error).all():
        band = np.maximum(height - error, lowest / 10), np.maximum(height + error, lowest / 10)
        ax.fill_between(grid, *band, color=style["color"], alpha=0.2, linewidth=0)
    ax.plot(grid, np.maximum(height, lowest / 10), label=label, **style)
    if eigenvalues is not None:
        exact = np.ravel(drawable_values(eigenvalues))
        at = np.full(exact.shape, lowest * 1.6)
        name = f"eigenvalues, {label}" if label else "eigenvalues"
        ax.scatter(
            exact, at, marker="^", s=36, facecolors="none", edgecolors=style["color"], label=name, zorder=3
        )
    ax.set(xlabel="eigenvalue λ", ylabel="density of eigenvalues (share per unit of λ)", yscale="log")
    ax.set_ylim(lowest, highest)
    return tidy(ax)
