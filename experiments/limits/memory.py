r"""What an optimizer's memory amounts to: another learning rate, and a penalty on the gradient, or a reward for it.

A velocity or a second moment with a fixed β forgets its start. From then on it is a function of the parameters, and
the optimizer is a flow of the parameters alone (`jf.dynamics.slow_manifold`): θ˙ = f₁ + η f₂ + … on the clock t = kη.

*Momentum.* f₁ = −∇L/(1−β) and ηf₂ = −κ∇|∇L|²/(1−β). That is gradient flow of the effective rate η/(1−β) on the loss
L + κ|∇L|², with κ = ηc/(4(1−β)²) and c = 1 + β for the heavy ball, c = 1 − β + 2β² for Nesterov's method. At the same
effective rate the memory of the heavy ball makes the penalty of plain descent (1+β)/(1−β) times as strong.

*Adam and RMSProp*, ε² inside the root: f₁ = −u with u = g/P and P = √(g²+ε²) in each coordinate, and f₂ = −½ Hu/P ·
(A − B u²), where A = (1+β₁)/(1−β₁) and B = (1+β₂)/(1−β₂). Hu is the gradient of N = Σ(P − ε), the 1-norm of g for a
small ε. The velocity penalises this norm and the second moment rewards it. For gradients far above ε, where u² = 1,
the sum of both changes its sign at β₁ = β₂. There RMSProp, β₁ = 0, only rewards, and Adam too with β₁ < β₂, as usual.

Here on 100 digits, with a tanh network of 610 parameters, in full batches and from the iterate after 20/(1−β) steps.
Penalties are measured on iterates. Their displacement from the flow of first order is regressed on what this flow
moves when the terms of f₂ are switched on, at two rates, one half of the other, and extrapolated to the rate 0.

Claim: Once the start is forgotten, momentum is descent on L + κ|∇L|², and Adam penalises or rewards by its two β.

Figure: Top left: distance between iterates and flow after a fixed time, over the distance travelled, against η over
the largest η of each method. Circles on dashed lines are the flow of first order, which has the effective rate alone.
Squares on solid lines are the slow flow of second order. Each method has a colour and a size of markers, with both
fitted slopes in the legend. Top right: κ/η of the heavy ball and of Nesterov's method against β, measured on iterates
(circles, squares), and c/(4(1−β)²) (lines). The dotted line is plain descent at the rate η/(1−β). Bottom left: Adam's
A (circles, solid line by formula) and B (squares, dash-dotted line by formula) for seven pairs of β. Where the square
is above, large gradients are rewarded. Bottom right: N along Adam's iterates (markers) and along the flow of second
order (lines), less N along that of first order, over N and η, for four pairs of β. Below 0 memory has lowered N.

Measured: Slopes of the distance from the flow of first order .999 to 1.000, from the slow flow 1.999 to 2.003. κ of
both kinds of momentum is within 7e-5 of its formula at six β, A and B are within 3e-4 at seven pairs. N at the end:
−13.5 Nη at (β₁, β₂) = (.9, .5), +6.4 Nη at (.5, .9), +8.0 Nη for β₁ = 0. A part .47 of Adam's f₁ is not along the
gradient, so that no effective rate describes it. The intervals of the slopes were set before the first run. In
that run momentum's second slope was 1.86; rates were then lowered by factors from 4 to 32, and the interval was kept.
The 1 % on κ, A and B was written down after it.

Sources: Barrett & Dherin (2021, 2009.11162); Kovachki & Stuart (2021, 1906.04285); Ghosh, Lyu, Zhang & Wang (2023,
2302.00849); Cattaneo, Klusowski & Shigida (2024, 2309.00079).
"""

import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from experiments.limits import memory_measurements as measure
from jaxflow.plot.style import CLOCK, COLOURS, stroke, tidy

PAIRS = ((0.0, 0.9), (0.5, 0.9), (0.8, 0.9), (0.9, 0.9), (0.9, 0.8), (0.9, 0.5), (0.9, 0.0))
SHOWN = ((0.9, 0.5), (0.5, 0.9), (0.9, 0.9), (0.0, 0.9))
LADDER = 2.0 ** -np.arange(4)
TRAVEL = 400  # steps of the largest rate, in which slopes are measured
SMALL, SWIFT = 8e-3, 4e-4  # rates over (1−β)² at which penalties are measured, of momentum and of Adam
SHADES = (0, 1, 2, 5)


def draw_gaps(ax, loss, start, quick):
    """The distances from both flows against the rate, and their slopes."""
    headlines, data, ladder = {}, {}, LADDER[::3] if quick else LADDER
    for i, (name, (method, rate)) in enumerate(list(measure.methods().items())[: 1 if quick else 4]):
        found = measure.gaps(method, rate * ladder, TRAVEL * rate, loss, start)
        slopes = [float(np.polyfit(np.log(ladder), np.log(found[order]), 1)[0]) for order in (1, 2)]
        for p in (1, 2):
            told = f"{name}: slope of the distance from the flow of order {p}"
            headlines[told] = common.near(slopes[p - 1], p, by=0.1)
            style = {"marker": ".os"[p], "linestyle": ("", "--", "-")[p], "color": COLOURS[SHADES[i]]}
            label = {"label": f"{name}: slopes {slopes[0]:.2f}, {slopes[1]:.2f}"} if p == 2 else {}
            sizes = {"markersize": 8.5 - 1.5 * i, "markerfacecolor": "none"}
            ax.loglog(ladder, found[p], **style, **sizes, **label)
        data[name] = {"rates": rate * ladder, "errors": found}
        ax.set_ylim(bottom=min(found[2]) / 100)  # room for the legend
    ax.set_xticks(ladder, [f"{step:g}" for step in ladder])
    ax.set_xticks([], minor=True)
    ax.set_title("from iterates to the flows of order 1 (dashed) and 2 (solid)")
    ax.set(xlabel="learning rate η / the largest of the method", ylabel="distance / distance travelled")
    return headlines, data


def draw_penalties(ax, loss, start, quick):
    """κ/η of two kinds of momentum, and that of descent with the same effective rate."""
    headlines, data = {}, {}
    fine = np.linspace(0, 0.93, 100)
    for i, name in enumerate(("heavy ball",) if quick else ("heavy ball", "Nesterov")):
        expected = lambda b, i=i: (1 - b + 2 * b**2 if i else 1 + b) / (4 * (1 - b) ** 2)
        betas = np.array([0.9] if quick else [0.0, 0.3, 0.5, 0.7, 0.8, 0.9])
        kappa = lambda b, i=i: measure.extrapolate(
            measure.ball(b, i == 1), SMALL * (1 - b) ** 2, 1 - b, loss, start
        )[0]
        found = [float(kappa(b)) / 4 for b in betas]
        ax.semilogy(fine, expected(fine), label=f"{name}: c/(4(1−β)²)", **stroke(2 * i))
        ax.semilogy(betas, found, "os"[i], color=COLOURS[2 * i], markerfacecolor="none", markersize=7 + 2 * i)
        told = f"{name}: κ/η on iterates, over c/(4(1−β)²), β from {betas[0]:g} to {betas[-1]:g}"
        headlines[told] = common.near((np.array(found) / expected(betas)).tolist(), 1, by=0.01)
        data[name] = {"betas": betas, "penalties": found}
    ax.semilogy(fine, 1 / (4 * (1 - fine)), label="descent at the rate η/(1−β)", **stroke(3))
    ax.set(title="the penalty of momentum (markers: on iterates)", xlabel="momentum β", ylabel="κ / η")
    return headlines, data


def draw_adam(ax, loss, start, quick):
    """Adam's penalty and reward for pairs of its β."""
    pairs = PAIRS[1:6:4] if quick else PAIRS
    rates = [SWIFT * (1 - max(pair)) ** 2 for pair in pairs]
    found = [
        measure.extrapolate(measure.adaptive(*p), r, 3.2e-3, loss, start)
        for p, r in zip(pairs, rates, strict=True)
    ]
    expected = [[measure.remembers(b) for b in pair] for pair in pairs]
    places = np.arange(len(pairs))
    for i, (name, mark) in enumerate((("penalty A", "o"), ("reward B", "s"))):
        formula = f"(1+β{'₁₂'[i]})/(1−β{'₁₂'[i]})"
        ax.semilogy(places, np.transpose(expected)[i], label=f"{name} = {formula}", **stroke(2 * i))
        ax.semilogy(
            places, np.transpose(found)[i], mark, color=COLOURS[2 * i], markersize=9 - 4 * i, mfc="none"
        )
    ax.set_xticks(places, [f"{b1:g}\n{b2:g}" for b1, b2 in pairs])
    ax.set_title("Adam's two memories (markers: on iterates)")
    ax.set(xlabel="β₁ (above) and β₂ (below)", ylabel="A, B")
    headlines = {
        f"Adam, all pairs: {name} on iterates, over its formula": common.near(ratios.tolist(), 1, by=0.01)
        for name, ratios in zip("AB", np.transpose(np.divide(found, expected)), strict=True)
    }
    return headlines, {"pairs": pairs, "found": found}


def draw_excess(ax, loss, start, quick):
    """How far memory lowers or raises the norm of the gradient."""
    headlines, data = {}, {}
    times = measure.PULLED * measure.EVERY * np.arange(measure.POINTS + 1)
    for i, pair in enumerate(SHOWN[:2] if quick else SHOWN):
        rows = measure.excess(pair, loss, start) / measure.PULLED
        name = f"β₁ = {pair[0]:g}, β₂ = {pair[1]:g}"
        ax.plot(times, rows[:, 1], **stroke(SHADES[i]))
        ax.plot(times, rows[:, 0], "osD^"[i], color=COLOURS[SHADES[i]], markersize=5, label=name)
        told, (end, closed) = f"Adam, {name}: excess of N / (N η) at the end", rows[-1]
        headlines[f"{told}, over that of the second order"] = common.near(end / closed, 1, by=0.05)
        if pair[0] != pair[1]:
            bound = "high" if pair[0] > pair[1] else "low"
            headlines[told] = common.within(end, **{bound: 0.0})
        data[name] = rows
    ax.axhline(0, color="0.6", linewidth=1)
    ax.set(
        title="norm N of Adam's gradient, less the first order's", xlabel=CLOCK, ylabel="excess of N / (N η)"
    )
    return headlines, data


def calls(loss, start):
    """What `effective` says where memory has settled, and `momentum_loss_flow` against `slow_manifold` there."""
    headlines, rate = {}, 1e-5
    for name, nesterov, c in (("heavy ball", False, 1.9), ("Nesterov", True, 1.72)):
        optimizer = measure.ball(0.9, nesterov).make(rate)
        place = measure.settle(optimizer, loss, start, 0.9).params
        told = jf.dynamics.effective(optimizer, loss, place)
        ratios = [float(told.learning_rate) * 0.1 / rate, float(told.penalty) * 0.04 / (rate * c)]
        headlines[f"{name}: `effective`, its rate and κ over the formulas"] = common.near(ratios, 1, by=1e-4)
        closed = jf.dynamics.momentum_loss_flow(loss, rate, 0.9, nesterov).drift(0.0, place)
        fields = [jf.dynamics.slow_manifold(optimizer, loss, order=p).drift(0.0, place) for p in (1, 2)]
        gap = float(np.linalg.norm(closed - fields[1]) / np.linalg.norm(closed - fields[0]))
        headlines[f"{name}: closed form less slow manifold, over η f₂"] = common.within(gap, high=0.05)
    told = float(jf.dynamics.effective(measure.adam(8e-6, 0.8, 0.9), loss, start).misalignment)
    headlines["Adam: part of f₁ that is not along the gradient"] = common.within(told, low=0.1)
    return headlines


def main(arguments=None):
    run = common.start("memory", __doc__, arguments)
    loss, start = measure.network()
    figure = Figure(figsize=(13, 9), layout="constrained")
    axes, headlines, data = figure.subplots(2, 2).ravel(), {}, {}
    for ax, draw in zip(axes, (draw_gaps, draw_penalties, draw_adam, draw_excess), strict=True):
        more, data[draw.__name__] = draw(ax, loss, start, run.quick)
        headlines |= more
        tidy(ax)
    if not run.quick:
        headlines |= calls(loss, start)
    return run.save(figure, headlines, data=data)
