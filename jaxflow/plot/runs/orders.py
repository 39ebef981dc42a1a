"""Orders of accuracy: errors against step sizes, log–log, with the fitted slopes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxflow.comparison import Order, OrderStudy
from jaxflow.plot.style import COLOURS, axes, drawable_values, stroke, tidy

MARKERS = "osD^vPX"


def order(orders: OrderStudy | Mapping[str, Order] | Order, ax: Any = None) -> Any:
    """Errors against step size, log–log, each with its fitted line; the legend gives slope ± standard error.

    For an `OrderStudy` a grey line next to each fit also shows the slope expected, and points not fitted are hollow.

    **Arguments**

    - `orders`: an `OrderStudy`; or an `Order`, or several of them by the name to show.
    - `ax`: the Axes to draw on; default the current ones.

    **Returns** the Axes.

    **Raises** `ValueError` for step sizes that are not finite numbers above 0.

    >>> import jaxflow as jf
    >>> from matplotlib.figure import Figure
    >>> fit = jf.order_of_accuracy(lambda h: 3 * h**2, [0.1, 0.05, 0.025])
    >>> ax = jf.plot.order({"gap": fit}, Figure().add_subplot())
    >>> ax.get_legend_handles_labels()[1]
    ['gap: slope 2.00 ± 0.00']
    """
    named, used, expected = _parts(orders)
    for name, fit in named.items():
        if not (drawable_values(fit.step_sizes) > 0).all():
            raise ValueError(
                f"order draws errors at finite step sizes above 0, got {fit.step_sizes} {name}".rstrip() + "."
            )
    ax = axes(ax)
    for i, (name, fit) in enumerate(named.items()):
        h, errors = np.asarray(fit.step_sizes, float), drawable_values(fit.errors)
        slope = f"slope {float(fit.slope):.2f} ± {float(fit.uncertainty):.2f}"
        label = f"{name + ': ' if name else ''}{slope if np.isfinite(fit.slope) else 'no slope'}"
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        fitted = np.asarray(used.get(name, np.ones(h.shape, bool)))
        points = {"marker": marker, "color": colour, "linestyle": "none", "markersize": 5, "zorder": 3}
        ax.plot(h[fitted], errors[fitted], **points)
        if not fitted.all():
            ax.plot(h[~fitted], errors[~fitted], markerfacecolor="none", **points)
        with np.errstate(all="ignore"):  # of a fit that failed
            line = drawable_values(np.exp(float(fit.intercept)) * h ** float(fit.slope))
        ax.plot(h, line, label=label, **stroke(i))
        if name in expected and np.isfinite(line).all():
            _guide(ax, h, line, expected[name])
    seen = any(np.any(line.get_ydata() > 0) for line in ax.lines)
    ax.set(
        xscale="log", yscale="log" if seen else "linear", xlabel="step size h (time a step)", ylabel="error"
    )
    return tidy(ax)


def _parts(orders: Any) -> tuple[Mapping[str, Order], dict[str, Any], dict[str, int]]:
    """The fits by name, and for a study which points are fitted and the slopes expected."""
    if not isinstance(orders, OrderStudy):
        return {"": orders} if isinstance(orders, Order) else orders, {}, {}
    name = "order {}".format
    used = {name(p): mask for p, mask in orders.used.items()}
    return {name(p): fit for p, fit in orders.fits.items()}, used, {name(p): p for p in orders.fits}


def _guide(ax: Any, h: np.ndarray, line: np.ndarray, power: int) -> None:
    """A grey line of the slope expected, below the larger half of the steps, and its power of h."""
    some = np.sort(h)[h.size // 2 :]
    below = 0.4 * line[np.argmax(h)] * (some / h.max()) ** power
    if np.isfinite(below).all():
        ax.plot(some, below, color="0.6", linewidth=1, zorder=1)
        text = "h" if power == 1 else f"$h^{power}$"
        ax.annotate(
            text, (some[-1], below[-1]), xytext=(4, 0), textcoords="offset points", color="0.4", va="center"
        )
