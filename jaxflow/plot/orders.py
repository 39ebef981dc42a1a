"""Orders of accuracy: errors against step sizes, log–log, with the fitted slopes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxflow.comparison import Order
from jaxflow.plot.style import COLOURS, axes, stroke, tidy


def order(orders: Mapping[str, Order] | Order, ax: Any = None) -> Any:
    """Errors against step size, log–log, each with its fitted line; the legend gives slope ± standard error.

    >>> import jaxflow as jf
    >>> from matplotlib.figure import Figure
    >>> fit = jf.order_of_accuracy(lambda h: 3 * h**2, [0.1, 0.05, 0.025])
    >>> ax = jf.plot.order({"gap": fit}, Figure().add_subplot())
    >>> ax.get_legend_handles_labels()[1]
    ['gap: slope 2.00 ± 0.00']
    """
    ax = axes(ax)
    if isinstance(orders, Order):
        orders = {"": orders}
    for i, (name, fit) in enumerate(orders.items()):
        h = np.asarray(fit.step_sizes)
        label = f"{name + ': ' if name else ''}slope {float(fit.slope):.2f} ± {float(fit.uncertainty):.2f}"
        ax.plot(h, np.asarray(fit.errors), "o", color=COLOURS[i % len(COLOURS)], markersize=5)
        ax.plot(h, np.exp(float(fit.intercept)) * h ** float(fit.slope), label=label, **stroke(i))
    ax.set(xscale="log", yscale="log", xlabel="step size (time a step)", ylabel="error")
    return tidy(ax)
