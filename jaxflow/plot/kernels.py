"""Which training examples made a prediction, and tangent kernels with their classes and eigenvalues."""

from typing import Any

import numpy as np

from jaxflow import _check
from jaxflow.kernels import KernelMachine
from jaxflow.plot.planes import MARKERS
from jaxflow.plot.style import COLOURS, axes, drawable_values, tidy

RAISED, LOWERED = COLOURS[5], COLOURS[1]
ONE_SIGN, TWO_SIGNS = "viridis", "PuOr_r"
PICTURE = 0.09  # the width of an example's picture, as a share of the axes


def contributions(
    machine: KernelMachine,
    point: int,
    ax: Any = None,
    *,
    output: int | tuple[int, int] | None = None,
    count: int = 6,
    labels: Any = None,
    images: Any = None,
) -> Any:
    """The training examples that raised and lowered one prediction most, as bars, with pictures if there are any.

    A dotted line separates the examples that raised it most from those that lowered it most. The title says what
    all examples added together.

    **Arguments**

    - `machine`: what `jaxflow.kernels.path_kernel` returned, of N training examples.
    - `point`: the number of the point whose prediction it is.
    - `ax`: the Axes to draw on; default the current ones.
    - `output`: the output, or the pair of outputs whose margin it is, as in `KernelMachine.effects`. Default: the
      margin of the predicted class over the runner-up.
    - `count`: how many examples of each kind there are, an integer at least 1. All are drawn where N is less than
      twice as many.
    - `labels`: the labels of the training examples, (N,), to be written with their numbers.
    - `images`: their pictures, (N, h, w) in grey or (N, h, w, 3) in colours.

    **Returns** the Axes.

    **Raises** `TypeError` when `machine` is not a kernel machine; `ValueError` for a point, an output or a count
    that does not exist, and for labels or images of another shape.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> from matplotlib.figure import Figure
    >>> added = jnp.array([[[1.0, 0.0]], [[0.0, 0.5]], [[0.3, 0.0]]])
    >>> machine = jf.kernels.KernelMachine(added, jnp.zeros((1, 2)), added.sum(0), None)
    >>> ax = jf.plot.contributions(machine, 0, Figure().add_subplot(), labels=["cat", "dog", "cat"])
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['no. 0: cat', 'no. 2: cat', 'no. 1: dog']
    """
    if not isinstance(machine, KernelMachine):
        raise TypeError(f"machine must be a KernelMachine, got {type(machine).__name__}.")
    _check.require_integer("count", count, 1)
    effects = drawable_values(machine.effects(point, output))
    size = effects.size
    labels = None if labels is None else np.asarray(labels)
    if labels is not None and labels.shape != (size,):
        raise ValueError(f"labels must have shape ({size},), one for each example, got {labels.shape}.")
    images = None if images is None else np.asarray(images)
    if images is not None and not (
        images.shape[:1] == (size,) and images.ndim in (3, 4) and images.shape[3:] in ((), (3,), (4,))
    ):
        raise ValueError(f"images must have shape ({size}, h, w) or ({size}, h, w, 3), got {images.shape}.")

    ax = axes(ax)
    order = np.argsort(-effects, kind="stable")
    shown = order if size <= 2 * count else np.concatenate([order[:count], order[-count:]])
    places = np.arange(shown.size)
    colours = [RAISED if effect > 0 else LOWERED for effect in effects[shown]]
    ax.barh(places, effects[shown], color=colours, height=0.75)
    ax.axvline(0, color=COLOURS[0], linewidth=0.8)
    if size > shown.size:
        ax.axhline(count - 0.5, color="0.4", linestyle=":", linewidth=1.2)
    ax.set_yticks(places, [f"no. {i}" if labels is None else f"no. {i}: {labels[i]}" for i in shown])
    ax.set(ylim=(shown.size - 0.4, -0.6), ylabel="training example")
    number = _number_of(machine, point, output)
    ax.set_xlabel(f"added to {number}")
    added = f"all {size} examples added {effects.sum():+.3g}"
    ax.set_title(f"{added} (the {shown.size} shown: {effects[shown].sum():+.3g})", fontsize="medium")
    if images is not None:
        _draw_pictures(ax, places, images[shown])
    tidy(ax, legend=False).grid(False, axis="y")
    return ax


def _number_of(machine: KernelMachine, point: int, output: int | tuple[int, int] | None) -> str:
    """What number contributions were added to, in words."""
    if np.ndim(machine.end) == 1 or np.shape(machine.end)[1] == 1:
        return "the prediction"
    chosen = machine.margin_of(point) if output is None else output
    if isinstance(chosen, tuple) and len(chosen) == 2:
        return f"the margin of output {chosen[0]} over output {chosen[1]}"
    return f"output {chosen[0] if isinstance(chosen, tuple) else chosen}"


def _draw_pictures(ax: Any, places: np.ndarray, images: np.ndarray) -> None:
    """A picture of each example between its name and its bar."""
    for place, image in zip(places, images, strict=True):
        box = (-PICTURE - 0.01, place - 0.45, PICTURE, 0.9)
        inset = ax.inset_axes(box, transform=ax.get_yaxis_transform())
        inset.imshow(image, cmap="Greys")
        inset.set(xticks=[], yticks=[])
    width = ax.get_window_extent().width / ax.get_figure().dpi * 72  # in points
    ax.tick_params("y", pad=(PICTURE + 0.02) * width, length=0)


def kernel(
    kernel: Any,
    ax: Any = None,
    *,
    labels: Any = None,
    eigenvalues: Any = None,
    label: str = "tangent kernel",
) -> Any:
    r"""A kernel as a heat map, its examples in the order of their classes, and its eigenvalues.

    A block of pairs of outputs is drawn as its trace $\sum_c K_{cc}$. A kernel of both signs has colours that are
    white at 0.

    **Arguments**

    - `kernel` K: what `jaxflow.kernels.tangent_kernel` returned for N examples, (N, N) or (N, N, C, C).
    - `ax`: the Axes to draw on; default the current ones.
    - `labels`: the classes of the examples, (N,). Lines separate the classes, whose names are the ticks. Default:
      the examples are in the order in which they were given.
    - `eigenvalues`: other Axes, on which the eigenvalues of what is drawn are shown on a logarithmic axis, the
      largest first; a second call adds those of another kernel. Those that rounding has made 0 or less are left out.
    - `label`: what the kernel is, for its colours and for the legend of eigenvalues.

    **Returns** the Axes.

    **Raises** `ValueError` for a kernel that is not square, not symmetric or not finite, and for labels of another
    shape.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> from matplotlib.figure import Figure
    >>> K = jf.kernels.tangent_kernel(lambda w, x: x @ w, jnp.zeros(2), jnp.eye(2))
    >>> ax = jf.plot.kernel(K, Figure().add_subplot(), labels=["cat", "dog"])
    >>> [tick.get_text() for tick in ax.get_xticklabels()]
    ['cat', 'dog']
    """
    values = np.asarray(kernel, float)
    if values.ndim == 4:
        values = np.trace(values, axis1=2, axis2=3)
    _require_kernel(values)
    size = values.shape[0]
    labels = None if labels is None else np.asarray(labels)
    if labels is not None and labels.shape != (size,):
        raise ValueError(f"labels must have shape ({size},), one for each example, got {labels.shape}.")
    ax = axes(ax)
    order = np.arange(size) if labels is None else np.argsort(labels, kind="stable")
    signed, largest = bool(values.min() < 0), abs(values).max() or 1.0
    colours = {"cmap": TWO_SIGNS if signed else ONE_SIGN, "vmin": -largest if signed else 0, "vmax": largest}
    image = ax.imshow(values[np.ix_(order, order)], interpolation="nearest", **colours)
    ax.get_figure().colorbar(image, ax=ax, label=label, shrink=0.85).outline.set_visible(False)
    if labels is None:
        ax.set(xlabel="example", ylabel="example")
    else:
        _mark_classes(ax, labels, "0.2" if signed else "white")
    if eigenvalues is not None:
        _draw_eigenvalues(eigenvalues, values, label)
    return ax


def _require_kernel(values: np.ndarray) -> None:
    """Refuse anything but a symmetric matrix of numbers."""
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise ValueError(
            f"kernel must have shape (N, N) or (N, N, C, C), got {values.shape} after taking its trace."
        )
    if not np.isfinite(values).all():
        raise ValueError("kernel must be finite, got infinities or NaN among its values.")
    gap = abs(values - values.T).max()
    if gap > 1e-3 * abs(values).max():
        raise ValueError(
            f"kernel must be symmetric, got entries that differ by {gap:.3g} from their mirrors."
        )


def _mark_classes(ax: Any, labels: np.ndarray, colour: str) -> None:
    """Lines between the classes, and their names at the middles."""
    names, counts = np.unique(labels, return_counts=True)
    ends = np.cumsum(counts)
    for end in ends[:-1] - 0.5:
        ax.axhline(end, color=colour, linewidth=0.8)
        ax.axvline(end, color=colour, linewidth=0.8)
    middles = ends - counts / 2 - 0.5
    ax.set_xticks(middles, [str(name) for name in names])
    ax.set_yticks(middles, [str(name) for name in names])
    ax.tick_params(length=0)
    ax.set(xlabel="class of the example", ylabel="class of the example")


def _draw_eigenvalues(ax: Any, values: np.ndarray, label: str) -> None:
    """The eigenvalues that are above rounding against their numbers."""
    found = np.linalg.eigvalsh(values)[::-1]
    found = found[found > found[0] * len(found) * np.finfo(values.dtype).eps]
    i = len(ax.lines)
    style = {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 3,
        "linewidth": 0.8,
    }
    ax.plot(np.arange(1, len(found) + 1), found, label=label, **style)
    ax.set(xlabel="number of the eigenvalue", ylabel="eigenvalue")
    if len(found):
        ax.set(xscale="log", yscale="log")
    tidy(ax)
