"""Pictures that move: a figure drawn at several moments, written as one animated file."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxflow import _check
from jaxflow._disk.results import write

FORMATS = {".webp": {"quality": 80, "method": 4}, ".gif": {}, ".png": {}}


def animate(
    figure: Any, show: Callable[[Any], Any], frames: Iterable[Any], path: Any, *, seconds: float = 6.0
) -> Path:
    """Write an animation of a figure: it is drawn once for each frame, after `show(frame)` has changed it.

    **Arguments**

    - `figure`: a matplotlib `Figure` with all that stays; its axes' limits do not follow what moves unless `show`
      sets them.
    - `show`: a function of a frame that changes what is on the figure, such as `line.set_data(x[:frame],
      y[:frame])`. What it returns is not used.
    - `frames`: what `show` is called with, in their order, at least two: step counts, times, or anything else.
    - `path`: the file, whose name ends in .webp, .gif or .png (an animated PNG). WebP is the smallest. It is replaced
      where it exists, whole or not at all.
    - `seconds`: how long the animation takes before it begins again, a number above 0, in seconds of real time.

    **Returns** the path. The figure is left as the last frame shows it, as a still for print.

    **Raises** `TypeError` when `figure` is not a figure or `show` not a function; `ValueError` for fewer than two
    frames, another ending of the name, or numbers that are out of range.

    >>> import pathlib, tempfile, jax.numpy as jnp, jaxflow as jf
    >>> from matplotlib.figure import Figure
    >>> run = jf.iterate(jf.optim.gd(0.3), lambda x: x @ x, jnp.ones(2), steps=8, record=lambda x: x @ x)
    >>> figure = Figure(figsize=(3, 2))
    >>> ax = figure.add_subplot(xlim=(0, 8), ylim=(0, 2), xlabel="step", ylabel="loss")
    >>> (line,) = ax.plot([], [])
    >>> show = lambda k: line.set_data(range(k + 1), run.values[: k + 1])
    >>> path = jf.plot.animate(figure, show, range(9), pathlib.Path(tempfile.mkdtemp()) / "loss.webp")
    >>> path.name, path.stat().st_size > 0
    ('loss.webp', True)
    """
    if not hasattr(figure, "savefig"):
        raise TypeError(f"figure must be a matplotlib Figure, got {type(figure).__name__}.")
    if not callable(show):
        raise TypeError(f"show must be a function of a frame, got {show!r}.")
    _check.require_positive(seconds=seconds)
    path, frames = Path(path), list(frames)
    if path.suffix not in FORMATS:
        raise ValueError(f"path must end in {', '.join(FORMATS)}, got {str(path)!r}.")
    if len(frames) < 2:
        raise ValueError(f"frames must be at least 2, got {len(frames)}.")
    pictures = []
    for frame in frames:
        show(frame)
        pictures.append(_picture(figure))
    whole = io.BytesIO()
    pictures[0].save(
        whole,
        format=path.suffix[1:].upper(),
        save_all=True,
        append_images=pictures[1:],
        duration=max(1, round(1000 * seconds / len(pictures))),
        loop=0,
        **FORMATS[path.suffix],
    )
    write(path, whole.getvalue())
    return path


def _picture(figure: Any) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
