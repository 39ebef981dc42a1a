r"""Past the edge of stability for recent optimizers: thresholds, slow rates, orders, cycles.

None of these seem to have been published for the optimizers below, which are those of optax and optax.contrib. On a
direction of curvature h let a = ηh/P, where P is what the optimizer divides by, and does not change meanwhile.

**Derived**, on paper:

- A *sum of averages* of weights w ≥ 0 and decays b (AdEMAMix; Prodigy and D-Adaptation once their length d of a step
  rests) first passes the unit circle at −1, and never at a complex pair, which needs Σ w(1 − b)/|z − b|² = 0. So it
  is stable for a below $a^* = 2/\sum w \frac{1-b}{1+b}$, and its slow rate is η Σw/P.
- *Lion with tanh(κu)* for its sign, P = 1/κ: $a^* = \frac{2(1+\beta_2)}{1+\beta_2-2\beta_1}$, at −1; for β₁ > β₂ a
  pair of eigenvalues may be first, at $\frac{1-\beta_2}{\beta_1-\beta_2}$. The slow rate is η/P.
- *Muon* below its ε is this Lion with (β², β) and P = ε/c⁵, where c = 3.4445 is the slope of its polynomial at 0. So
  with ε = 1e-8 it is past the edge at any rate in use. With `adaptive` a step is in proportion to the gradient: along
  an orthogonal r×r matrix P = 1/(r p²), where p is what its polynomial makes of r^(−1/2). Other matrices have others.
- *Schedule-free* methods, late, are their base on z while the average x rests: a* = 2/(1−β), slow rate (1−β)η/P. As a
  whole that of SGD has $x(t) = M(\frac1{1-\beta}, 2, -(1-\beta)ht)$ at t = kη, Kummer's function.
- *Sophia*, P = γh, has a threshold of the rate alone, $\eta < 2\gamma(1+\beta_1)/(1-\beta_1)$, at every curvature.
- *Past the edge* odd gradients g end in the pair ±A whose chord is just stable, ηg(A)/(PA) = a*.
- *A sign* makes cycles, n steps up and n down, whose half-width is nη/2; the filter says which n there can be. So no
  order of a modified equation is nearer than that: all are exact until a sign turns, and have no solution after.

**Measured.** A threshold is the least of the learning rates from 1e-4 to 1e4 (over P) at which the optimizer itself
grows on a quadratic, by bisection. Adaptive methods do not diverge on one, because their second moment grows along.
So they are measured at one that hardly moves (β₂ = 1 − 1e-8); how wide they get as they are is said as well. Slopes
are those of the distance between iterates and modified equations of order 1, 2, 3 in the step size. Past the edge, on
log cosh, every second iterate is compared with order 1 and with the flow of pairs, `modified` of stride 2. There are
no pairs of Lion with β₁ > β₂, which turns, of Muon, whose norm has a kink at 0, and of Sophia. Sophia has no order
either: it renews its curvature at whole step counts, through which a flow passes in no time.

**Conjectured.** Shampoo and SOAP are not in optax, and nothing of them is measured. While their factors rest, Shampoo
is gradient descent in their metric, a* = 2, and SOAP is Adam in their eigenbasis, a* = 2(1+β₁)/(1−β₁).

Claim: Past the edge of stability Lion, Muon, schedule-free methods, AdEMAMix, Sophia, Prodigy and D-Adaptation have
thresholds, slow rates and cycles in closed form, and modified equations of known order, none of which seems to have
been published.

Figure: Top, a row for each optimizer: the largest stable learning rate times curvature over P, and the effective
learning rate in flat directions, derived (circles), measured by bisection or off the iterates (crosses) and found by
the library (dots); at the right the slope of the error of modified equations of order 1 (circles), 2 (squares) and 3
(diamonds). Bottom left: half-width of the cycle in which Lion with tanh (circles), Lion (squares) and Muon (diamonds)
end, over η, against η; the lines are derived. Bottom middle: the sharp coordinate of AdEMAMix past its edge, every
second iterate (blue) and those between (grey), the flow of pairs (solid), the modified equation of order 1 (dashed)
and the derived ±A (dotted). Bottom right: schedule-free SGD on a quadratic at β = .5 (circles) and .9 (squares), with
the closed form (lines) and gradient flow (dotted).

Measured: Largest stable ηh/P, derived and by bisection of the optimizer itself (11 within 4e-5): Lion with tanh
20.95, with β₁ > β₂ 1.25; Muon 26.90 below its ε, so past it at any rate in use; schedule-free 20; AdEMAMix 25.72,
simplified .792; Sophia 112.3 (of η/γ, at any curvature); Prodigy, D-Adapt AdamW 38. Slow rates in η/P 1, but .1 for
schedule-free, 6 and 12 for AdEMAMix: within .1 %. Slopes of orders 1, 2, 3 within .21 of them for nine; 0 for Sophia,
whose curvature is renewed at single steps; Lion's sign is followed exactly until it turns, then not at all. Cycles of
Lion .5 and 1, of Muon .554, 1.108, 1.662 × η, as derived. Past the edge the half-width of pairs within .2 % of
ηg(A)/(PA) = a*; order 1 is .94–1.7 half-widths off, the flow of pairs 7e-6 to .02. Adaptive methods as they are never
diverge on a quadratic (widest .5–31 η). Shampoo, SOAP: not in optax, conjectured only.

Sources: Chen et al. (2023, 2302.06675); Jordan (2024); Bernstein & Newhouse (2024, 2409.20325); Defazio et al. (2024,
2405.15682); Pagliardini et al. (2024, 2409.03137); Morwani et al. (2025, 2502.02431); Liu et al. (2023, 2305.14342);
Mishchenko & Defazio (2023, 2306.06101); Defazio & Mishchenko (2023, 2301.07733).
"""

import warnings

import numpy as np

from experiments import common
from experiments.edge.new_optimizers.measurements import (
    LANES,
    averages,
    by_library,
    errors_of_sign,
    half_widths,
    least_unstable,
    lengths,
    measure_widest,
    past_the_edge,
    slopes,
    slow_rate,
    tanh_cycle,
)
from experiments.edge.new_optimizers.methods import B1, ROWS, lion, lion_threshold, polynomial
from experiments.edge.new_optimizers.pictures import SHOWN, draw

STEPS = 2000
QUICK = ("schedule-free SGD", "AdEMAMix")


def measure(name, run):
    """Everything of one optimizer."""
    row, found = ROWS[name], {}
    found["threshold"] = least_unstable(row, STEPS)
    found["library"], found["no threshold"] = by_library(row)
    found["slow"] = slow_rate(row, STEPS)
    if row.adaptive and not run.quick:
        found["widest"] = measure_widest(row, STEPS)
    if row.family is not None and (not run.quick or name == QUICK[0]):
        found["slopes"], found["not smooth"] = slopes(row)
    if row.over is not None and (not run.quick or name == SHOWN):
        found["path"], found["width"], found["distances"] = past_the_edge(row)
    return found


def headlines_of(name, found):
    """Measured and expected, by what it is."""
    row, said = ROWS[name], {}
    said[f"{name}: threshold of ηh/P"] = common.near(found["threshold"], row.threshold, relative=2e-4)
    said[f"{name}: the same by the library"] = (
        common.near(found["library"], row.threshold, relative=1e-6)
        if np.isfinite(found["library"])
        else (found["library"], row.threshold)
    )
    said[f"{name}: slow rate, in η/P"] = common.near(found["slow"], row.slow, relative=2e-3)
    if "slopes" in found:
        expected = [1, 2, 3] if name != "Sophia" else [0, 0, 0]
        said[f"{name}: slopes of orders 1, 2, 3"] = (found["slopes"], expected)
        worst = float(np.abs(np.subtract(found["slopes"], expected)).max())
        said[f"{name}: largest distance of a slope from that"] = common.within(worst, high=0.25, expected=0)
    if "widest" in found:
        said[f"{name}, as it is: largest late |x| / η, rates .001 to 1000"] = (found["widest"], None)
    if "width" in found:
        said[f"{name}, past the edge: half-width of the pair"] = common.near(*found["width"], relative=5e-3)
        said[f"{name}: distance of order 1, of the flow of pairs"] = (found["distances"], None)
    return said


def cycles():
    """Half-widths against rates, of methods that end in cycles; and what is expected of them."""
    edge = lion_threshold(B1, 0.99) / 10
    wide, low = np.geomspace(0.7 * edge, 8 * edge, LANES), np.geomspace(0.01, 1.0, LANES)
    size = polynomial(0.5**0.5)
    return {
        "Lion, tanh(10u)": (wide, half_widths(ROWS["Lion, tanh"].make, wide), np.vectorize(tanh_cycle)(wide)),
        "Lion": (low, half_widths(bare_lion, low), np.array(lengths(B1, 0.99))[:, None] * low / 2),
        "Muon": (
            low,
            half_widths(ROWS["Muon, below ε"].make, low, matrix=2),
            size * np.array(lengths(0.95**2, 0.95))[:, None] * low / 2,
        ),
    }


def bare_lion(rate, b2, adapts):
    del b2, adapts
    return lion(rate)


def main(arguments=None):
    run = common.start("discovery", __doc__, arguments)
    names = QUICK if run.quick else tuple(ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library says of rough updates is kept
        found = {name: measure(name, run) for name in common.progress(names, "optimizers")}
    headlines = {}
    for name, one in found.items():
        headlines |= headlines_of(name, one)
    worst = max(abs(one["threshold"] / ROWS[name].threshold - 1) for name, one in found.items())
    headlines["thresholds: largest relative distance of bisection from derivation"] = common.within(
        worst, high=2e-4, expected=0
    )
    ends, (t, y, exact) = cycles(), averages()
    for name, (rates, half, expected) in ends.items():
        if name.endswith(")"):
            headlines[f"{name}: largest gap of its half-width"] = common.within(
                float(np.abs(half - expected).max()), high=0.01, expected=0
            )
        else:
            allowed = [float(expected[0, 0] / rates[0]), float(expected[-1, 0] / rates[0])]
            seen = half / rates
            headlines[f"{name}: least and largest half-width / η"] = common.within(
                [float(seen.min()), float(seen.max())], allowed[0] * 0.99, allowed[1] * 1.01, allowed
            )
    gaps = np.abs(y - exact).max(1).tolist()
    headlines["schedule-free SGD, β = .5, .9, η = .02: largest gap from its closed form"] = common.within(
        gaps, high=0.012, expected=[0, 0]
    )
    if not run.quick:
        errors = [errors_of_sign(second) for second in (-1.5, -0.1)]
        headlines["Lion: largest error of orders 1 to 3, before a sign turns and after"] = (errors, [0, None])
    figure = draw(found, ends, (t, y, exact))
    return run.save(figure, headlines, found=found)
