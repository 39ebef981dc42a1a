"""Every optimizer on four problems, each tuned by the same search over its learning rate.

For each optimizer and problem one compiled call runs a stack of optimizers, `jax.vmap(constructor)(rates)`, from
the same start for the same number of steps: Rosenbrock's, Beale's and Himmelblau's functions, and a network on
digits (64–32–10, tanh, cross-entropy, batches of 64 drawn alike for all). Everything but the rate is at its
default. The best rate is the one with the lowest final loss (below 1e-16 all are equal), then the one that reaches
the target in the fewest steps. Runs that diverge are counted.

- `genetic` is gradient-free and has no learning rate: its `spread` is searched instead. A step of it is 64
  evaluations of the loss.
- `newton` forms the Hessian, so it runs on the functions only: that of the network has 2,410² entries. It goes to
  any critical point: on Beale's function to a saddle at every rate, on Himmelblau's to a maximum unless its rate
  overshoots.
- `lookahead` has Adam inside; AdaBound's final rate keeps its default ratio of 100 to its rate; SWATS, at the
  paper's tolerance, switches at none but the smallest rates, so that its best run is Adam's. Weight decay (`adamw`,
  `sgdw`) moves the minimum.

Claim: Tuned alike, the methods differ by problem more than by rank.

Figure: Left: for each optimizer (rows) and problem (columns) the lowest final loss above the minimum with the rate
that reached it, the steps to the target (1e-6, and .01 for digits) and the share of rates lost to divergence; colours
as in the middle. Middle: the final training loss on digits at every rate searched, one square each, from low (yellow)
to high (blue). Right: training loss on digits of seven of them, each at its best rate, by step; the grey line is the
target .01.

Measured: Suboptimality below 1e-6 in 1,000 steps: Rosenbrock 9 of 18 (Newton in 5 steps, genetic 152, momentum 394,
AMSGrad 490), Beale 13 (lookahead in 68), Himmelblau 16 (AdaGrad in 14). Newton ends on a saddle of Beale's. Of 37
rates 27 diverge for momentum on Rosenbrock, none for Adam. Digits, 300 batches of 64: training loss .01 for 15 of 17,
after 120 steps for Nesterov, 130 for momentum, 150 or 160 for Adam and four of its relatives, 180 for gradient
descent, never for sign descent and the genetic algorithm.

Sources: the comparison that texts on optimizers draw without tuning; that tuning decides it is the point of Choi et
al. (2019, 1910.05446) and Schmidt, Schneider & Hennig (2021, 2007.01547).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import stroke, tidy

FLOOR, TARGET = 1e-16, {"digits": 1e-2}  # the functions' target is 1e-6
SHOWN = ("gd", "momentum", "adagrad", "adam", "sign", "lookahead", "genetic")
HEAD = ("optimizer", "problem", "best rate", "final loss", "steps to target", "test accuracy", "diverged")
SPECIAL = {
    "genetic": lambda spread: jf.optim.genetic(spread, key=jax.random.key(0)),
    "lookahead": lambda rate: jf.optim.lookahead(jf.optim.adam(rate)),
    "adabound": lambda rate: jf.optim.adabound(rate, final_learning_rate=100 * rate),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OneOf:
    """One of several functions of two variables, by its number: a leaf, so that one program serves all."""

    which: Any
    functions: tuple[Callable, ...]

    def __call__(self, x):
        return jax.lax.switch(self.which, self.functions, x)


def functions_of(names):
    """The problems of these names, each with its minimum and start."""
    problems = [jf.problems.FUNCTIONS[name]() for name in names]
    losses = tuple(problem.objective for problem in problems)
    return {
        name: replace(problem, objective=OneOf(jnp.asarray(i), losses))
        for i, (name, problem) in enumerate(zip(names, problems, strict=True))
    }


def search(name, problem, rates, steps, every, batch_size=None):
    """All rates at once: losses (rates, records), steps recorded at, whether each run diverged, test scores."""
    stack = jax.vmap(SPECIAL.get(name, jf.optim.OPTIMIZERS[name]))(rates)

    def run(optimizer):
        key = None if batch_size is None else jax.random.key(1)
        return jf.iterate(
            optimizer,
            problem.objective,
            problem.params,
            steps=steps,
            time_step=1.0,  # the clock here is the step
            batch_size=batch_size,
            key=key,
            every=every,
            record=problem.objective,
        )

    runs = jax.vmap(run)(stack)
    losses = np.asarray(runs.values) - (0.0 if problem.minimum is None else float(problem.minimum))
    # A loss that overflows while the parameters are still finite has diverged as well.
    diverged = np.asarray(runs.diverged) | ~np.isfinite(losses[:, -1])
    scores = None if problem.predict is None else np.asarray(jax.vmap(problem.score)(runs.params))
    return losses, np.asarray(runs.times[0], int), diverged, scores


def best(losses, steps, diverged, target):
    """The index of the best rate, and the steps it takes to the target (`None` if it never gets there)."""
    final = np.where(diverged, np.inf, np.maximum(losses[:, -1], FLOOR))
    reached = losses <= target
    first = np.where(reached.any(1), steps[reached.argmax(1)], steps[-1] + 1)
    i = int(np.lexsort((first, final))[0])
    return i, int(first[i]) if reached[i].any() else None


def draw_table(ax, names, columns, cells):
    """Final losses, as shade and number, with the best rate, the steps to the target and what diverged."""
    shades = np.full((len(names), len(columns)), np.nan)
    for (name, problem), cell in cells.items():
        low, high = (-3, 1) if problem == "digits" else (-16, 2)
        row, column = names.index(name), columns.index(problem)
        shades[row, column] = shade = (np.log10(max(cell["final"], FLOOR)) - low) / (high - low)
        steps = "not reached" if cell["steps"] is None else f"{cell['steps']} steps"
        lost = f", {cell['diverged'] / cell['rates']:.0%} lost" if cell["diverged"] else ""
        final = "≤ 1e-16" if cell["final"] <= FLOOR else f"{cell['final']:.0e}"
        text = f"{final} at {cell['rate']:.2g}\n{steps}{lost}"
        ink = {"color": "white" if shade > 0.5 else "black", "fontsize": 7.5, "linespacing": 1.0}
        ax.text(column, row, text, ha="center", va="center", **ink)
    ax.imshow(shades, cmap="cividis_r", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(np.isnan(shades)):
        ax.text(column, row, "not run", ha="center", va="center", fontsize=7.5)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(names)), ["genetic (spread)" if n == "genetic" else n for n in names])
    ax.set_title(
        "final loss above the minimum, at the best rate (light is low);\n"
        "steps to 1e-6 (digits: training loss, to .01); share of rates lost to divergence",
        fontsize=10,
    )
    ax.tick_params(length=0)


def draw_rates(ax, names, finals):
    """The final loss on digits for every rate of every optimizer; a cross where it diverged."""
    for name, (rates, final, diverged) in finals.items():
        row = names.index(name)
        x, height = np.log10(rates), np.where(diverged, np.nan, np.log10(np.maximum(final, 1e-3)))
        image = ax.scatter(
            x, np.full(x.size, row), c=height, cmap="cividis_r", marker="s", s=75, vmin=-3, vmax=1
        )
        ax.plot(x[diverged], np.full(diverged.sum(), row), "x", color="black", markersize=5)
    ax.set(ylim=(len(names) - 0.5, -0.5), xlim=(-4.3, 2.3), yticks=[])
    lost = sum(int(diverged.sum()) for _, _, diverged in finals.values())
    ax.set_title(
        f"digits: final training loss at every rate;\n{f'{lost} diverged (crosses)' if lost else 'none diverged'}",
        fontsize=10,
    )
    ax.set_xlabel("log₁₀ learning rate (genetic: spread)")
    ax.figure.colorbar(image, ax=ax, label="log₁₀ loss", shrink=0.6)
    ax.spines[["top", "right", "left"]].set_visible(False)


def draw_curves(ax, curves):
    for i, name in enumerate(n for n in SHOWN if n in curves):
        steps, losses, rate = curves[name]
        kind = "spread" if name == "genetic" else "rate"
        ax.semilogy(steps, losses, label=f"{name}, {kind} {rate:.2g}", **stroke(i))
    ax.axhline(TARGET["digits"], color="0.5", linewidth=0.8)
    ax.set(xlabel="step", ylabel="training loss", title="digits: some of them, each at its best rate")
    tidy(ax)


def main(arguments=None):
    run = common.start("optimizers", __doc__, arguments)
    functions = ("rosenbrock",) if run.quick else ("rosenbrock", "beale", "himmelblau")
    problems = functions_of(functions)
    problems["digits"] = jf.problems.mlp("digits", hidden=(8,) if run.quick else (32,))
    budget = {"digits": (60 if run.quick else 300, 10, 64)}
    fine = jnp.geomspace(1e-4, 1e2, 25 if run.quick else 37)
    coarse = jnp.geomspace(1e-4, 1e2, 7 if run.quick else 19)
    names = list(jf.optim.OPTIMIZERS)
    trained = ("gd", "momentum", "adam") if run.quick else [n for n in names if n != "newton"]
    pairs = [(n, p) for p in problems for n in (trained if p == "digits" else names)]
    cells, finals, curves = {}, {}, {}
    for name, where in common.progress(pairs, "optimizers"):
        steps, every, batch = budget.get(where, (1000, 1, None))
        rates = coarse if where == "digits" else fine
        if name == "genetic":
            rates = rates[:13:3] if where == "digits" else rates[::4]
        losses, at, diverged, scores = search(name, problems[where], rates, steps, every, batch)
        i, needed = best(losses, at, diverged, TARGET.get(where, 1e-6))
        cells[name, where] = {
            "rate": float(rates[i]),
            "final": float(losses[i, -1]),
            "steps": needed,
            "diverged": int(diverged.sum()),
            "rates": len(rates),
            "test accuracy": None if scores is None else float(scores[i]),
        }
        if where == "digits":
            finals[name] = np.asarray(rates), losses[:, -1], diverged
            curves[name] = at, losses[i], float(rates[i])
    figure = Figure(figsize=(16, 8), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.5, 1.1, 1.1))
    draw_table(left, names, list(problems), cells)
    draw_rates(middle, names, finals)
    draw_curves(right, curves)
    rows = [
        (n, p, *(c[k] for k in ("rate", "final", "steps", "test accuracy")), f"{c['diverged']}/{c['rates']}")
        for (n, p), c in cells.items()
    ]
    print(common.table(HEAD, rows))
    valley = {name: cells[name, "rosenbrock"] for name in ("newton", "momentum", "gd", "adam", "sign")}
    gap = valley["momentum"]["final"] / valley["gd"]["final"]
    headlines = {
        "rosenbrock: steps of Newton's method to the target": common.near(valley["newton"]["steps"], 5),
        "rosenbrock: final loss of momentum / of gradient descent": common.within(gap, high=0.1),
        "rosenbrock: runs of gradient descent that diverge": common.within(valley["gd"]["diverged"], low=1),
        "rosenbrock: of Adam and sign descent, whose steps are bounded": common.near(
            [valley[name]["diverged"] for name in ("adam", "sign")], 0
        ),
        "digits: test accuracy at the best rate, gradient descent, momentum, Adam": common.within(
            [cells[name, "digits"]["test accuracy"] for name in ("gd", "momentum", "adam")], low=0.85
        ),
    }
    for problem in problems:
        least = sorted((c["final"], n) for (n, p), c in cells.items() if p == problem)
        if least[0][0] > FLOOR:
            headlines[f"{problem}: least final loss, and whose"] = (list(least[0]), None)
        else:
            headlines[f"{problem}: how many end below 1e-16"] = (sum(f <= FLOOR for f, _ in least), None)
        reached = sorted((c["steps"], n) for (n, p), c in cells.items() if p == problem and c["steps"])
        headlines[f"{problem}: how many reach the target"] = (len(reached), None)
        fastest = [reached[0][0], *(n for steps, n in reached if steps == reached[0][0])] if reached else None
        headlines[f"{problem}: fewest steps to the target, and whose"] = (fastest, None)
    return run.save(
        figure, headlines, table={p: {n: cells[n, p] for n in names if (n, p) in cells} for p in problems}
    )
