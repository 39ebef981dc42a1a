r"""The equation any optimizer follows, to the order asked: the slopes of its errors, optimizer by optimizer.

The modified equation of order p is made of p of the optimizer's own updates, whatever the optimizer is. As the time h
of a step falls, its solution must close in on the iterates as h^p. That is a sharp test of the whole: of the field,
of the state that is carried along (velocities, second moments, step counts), of bias corrections and schedules.

Families with one limit as h → 0: `jaxflow.family_of`, with averages that forget as much per unit of time
(β = exp(−h/τ)) and rates of order h, h² where velocities add up, √h for AdaGrad. Errors are those of
`jaxflow.order_study`: relative to the distance travelled, after a warm-up by the optimizer itself, in float64. They
are measured on a nonlinear function of two variables and on a network (tanh, 16 hidden units, 1,210 parameters) that
learns 200 handwritten digits. Expected are slopes of 1, 2, 3 and 4.

Claim: The modified equation of any optimizer closes in on its iterates at the order asked.

Figure: One panel for each optimizer: distance between iterates and modified equation, over the distance travelled,
against the step size h, for orders 1 (circles), 2 (squares), 3 (diamonds) and 4 (triangles). Solid lines with filled
markers are a network on digits, dotted ones with hollow markers a function of two variables. The two numbers at each
pair of lines are the fitted slopes, that of digits first.

Measured: Ten optimizers: gradient descent, heavy ball, Nesterov, RMSProp, Adam, AdamW, NAdam, Adam with a cosine
schedule, AdaGrad, Lamb; on a function of two variables and on digits (1,210 parameters). Slopes of orders 1, 2, 3, 4
within .07, .06, .12, .07 of 1, 2, 3, 4. At the largest step order 4 is at least 8,900 times nearer than order 1.

Sources: Hairer, Lubich & Wanner (2006), Geometric Numerical Integration, chapter IX; the series is log(1 + Δ).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, tidy

EXAMPLES, ORDERS, SPAN = (
    200,
    (1, 2, 3, 4),
    40,
)  # examples; orders; the time of a run, in the optimizer's own steps
LADDER = np.array([120, 160, 240, 320, 480, 640])  # steps in that time
QUICK = {("gradient descent", "digits"), ("Adam", "2-D")}
lamb = jf.optim.traceable(optax.lamb)


def methods():
    """An optimizer of each family by name, and the time of its step."""
    cosine = jf.optim.traceable(optax.cosine_decay_schedule)(0.01, 120)
    b1, b2 = 0.9, 0.98
    return {
        "gradient descent": (jf.optim.gd(0.1), 0.1),
        "heavy ball": (jf.optim.momentum(0.0025, 0.9), 0.05),
        "Nesterov": (jf.optim.nesterov(0.0025, 0.9), 0.05),
        "RMSProp": (jf.optim.rmsprop(0.02, 0.98, 1e-3), 0.02),
        "Adam": (jf.optim.adam(0.01, b1, b2), 0.01),
        "AdamW": (jf.optim.adamw(0.01, b1, b2, weight_decay=0.1), 0.01),
        "NAdam": (jf.optim.nadam(0.01, b1, b2), 0.01),
        "Adam, cosine schedule": (jf.optim.adam(cosine, b1, b2), 0.01),
        "AdaGrad": (jf.optim.adagrad(0.1), 0.1),
        "Lamb": (lamb(0.02, b1=b1, b2=b2), 0.02),
    }


def surface(x):
    """Two variables, every derivative in play, and gradients that keep their signs."""
    return jnp.cosh(x[0]) + 1.5 * x[1] ** 2 + 0.3 * x[0] * x[1] + 0.1 * x[1] ** 4


def problems():
    network = jf.problems.mlp("digits", hidden=(16,))
    data = jax.tree.map(lambda x: x[:EXAMPLES], network.objective.data)
    return {
        "digits": (jf.Objective(network.objective.losses, data), network.params),
        "2-D": (surface, jnp.array([2.0, -1.5])),
    }


def study(optimizer, step, objective, params):
    """The order study of an optimizer's family. It is warmed up for as long as it is then compared."""
    family, time = jf.family_of(optimizer, step), SPAN * step
    return jf.order_study(
        family, objective, params, orders=ORDERS, time=time, warmup=time, step_sizes=time / LADDER
    )


def draw(ax, name, studies):
    """Errors against step size: filled markers on the digits, hollow ones on the function of two variables."""
    for i, order in enumerate(ORDERS):
        colour, slopes = COLOURS[(0, 1, 2, 5)[i]], []
        for problem, found in studies.items():
            fit, hollow = found.fits[order], problem == "2-D"
            style = {"linestyle": ":", "markerfacecolor": "white"} if hollow else {"linestyle": "-"}
            ax.loglog(
                fit.step_sizes,
                fit.errors,
                color=colour,
                marker="osD^"[i],
                markersize=4,
                linewidth=1.2,
                **style,
            )
            slopes.append(f"{float(fit.slope):.2f}")
        middle = next(iter(studies.values())).fits[order]
        at = 1, float(middle.errors[len(LADDER) // 2])
        ax.annotate(
            ", ".join(slopes),
            at,
            xycoords=("axes fraction", "data"),
            color=colour,
            va="center",
            fontsize="small",
        )
    ax.set(title=name, xlabel="step size h")
    ax.set_xticks(ticks := [fit.step_sizes[i] for i in (-1, 2, 0)], [f"{float(h):.2g}" for h in ticks])
    ax.set_xticks([], minor=True)
    tidy(ax)


def main(arguments=None):
    run = common.start("modified_equations", __doc__, arguments)
    chosen, losses, found = methods(), problems(), {}
    pairs = [(name, problem) for name in chosen for problem in losses]
    for name, problem in common.progress([p for p in pairs if not run.quick or p in QUICK], "studies"):
        found.setdefault(name, {})[problem] = study(*chosen[name], *losses[problem])
    headlines, errors = {}, {}
    for name, studies in found.items():
        for problem, result in studies.items():
            slopes = [float(result.slopes[order]) for order in ORDERS]
            headlines[f"{name}, {problem}: slopes of orders 1, 2, 3, 4"] = (slopes, list(ORDERS))
            errors[f"{name}, {problem}"] = {order: fit.errors for order, fit in result.fits.items()}
    measured = np.array([slopes for slopes, _ in headlines.values()])
    worst = np.abs(measured - ORDERS).max(0)
    headlines["largest distance of a slope from 1, 2, 3, 4"] = common.within(
        worst.tolist(), high=0.15, expected=[0, 0, 0, 0]
    )
    gain = [
        float(np.min([s.fits[1].errors[0] / s.fits[4].errors[0] for s in found[name].values()]))
        for name in found
    ]
    headlines["error of order 1 / of order 4 at the largest step, the least of all"] = common.within(
        min(gain), low=500
    )

    columns = min(5, len(found))
    figure = Figure(figsize=(15, 7.6 if len(found) > columns else 4.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(-(-len(found) // columns), columns, sharey=True)).ravel()
    for ax, (name, studies) in zip(axes, found.items(), strict=True):
        draw(ax, name, studies)
    for ax in axes[::columns]:
        ax.set_ylabel("distance from the iterates / distance travelled")
    keys = [
        Line2D([], [], color=COLOURS[(0, 1, 2, 5)[i]], marker="osD^"[i], label=f"order {order}")
        for i, order in enumerate(ORDERS)
    ]
    keys += [
        Line2D([], [], color="0.3", label="digits, 1,210 parameters (slope given first)"),
        Line2D(
            [], [], color="0.3", linestyle=":", marker="o", markerfacecolor="white", label="two variables"
        ),
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=6, frameon=False)
    return run.save(figure, headlines, steps=LADDER, errors=errors)
