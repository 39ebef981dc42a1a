"""How long a moving average remembers: the velocity of momentum as an exponentially weighted average.

A noisy cosine goes through v ← βv + (1−β)y for β = .5, .9, .98, with the optimizer's own machinery (momentum with
`ema=True`, its gradient the signal), without and with the bias correction 1 − β^t.

- The weight of an observation falls to 1/e after −1/ln β steps, just under the 1/(1−β) of the rule of thumb.
- The standard deviation of independent noise falls by √((1−β)/(1+β)); the price is a lag of β/(1−β) steps.
- Started at 0 the average is too small by 1 − β^t at step t: at β = .98 by 50 at the first step. The correction
  mends that, and only the start.

Claim: An average with coefficient β remembers 1/(1−β) steps; bias correction mends its start.

Figure: Left: a noisy cosine (grey dots), the cosine without noise (grey line), and its bias-corrected averages with β
= .5 (dashed), .9 (dash-dotted) and .98 (dotted): the larger β is, the smoother and the later they are. Middle: the
first 60 steps, for β = .9 and .98, with the bias correction (solid) and without it, started at 0 (dotted). Right: the
weight of an observation against how many steps ago it was, over the weight of the newest, for the three β. Circles
mark 1/(1−β) steps, which lie on the level 1/e (grey line).

Measured: β = .5, .9, .98: weight at 1/e after 1.44, 9.49, 49.50 steps = −1/ln β, so at step 2, 10, 50 = 1/(1−β).
Noise left .577, .229, .101; lag 1, 9, 49 steps; the uncorrected average starts too small by the factor .5, .1, .02.

Sources: as in Kingma & Ba (2015, 1412.6980, section 3) for the correction; the rest is the transfer function of a
first-order filter.
"""

from functools import partial

import jax
import numpy as np
from jax import lax
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import stroke, tidy

BETAS = np.array([0.5, 0.9, 0.98])
PERIOD, NOISE, STEPS = 250, 0.5, 500


@partial(jax.jit, static_argnames="debias")
def averages(betas, signal, debias=False):
    """The moving averages of a signal (T,) for each β; shape (betas, T)."""

    def average(optimizer):
        def step(state, value):
            update, state = optimizer.update(value, state)
            return state, -update  # a step of momentum at rate 1 is minus its velocity

        return lax.scan(step, optimizer.init(signal[0]), signal)[1]

    make = lambda beta: jf.optim.momentum(1.0, beta, ema=True, debias=debias)
    return jax.vmap(average)(jax.vmap(make)(betas))


def memory(steps):
    """Steps until the weight of an observation is 1/e of what it was: the first such, and interpolated."""
    impulse = np.zeros(steps)
    impulse[0] = 1.0
    weights = np.asarray(averages(BETAS, impulse))
    relative = np.log(weights / weights[:, :1])
    first = [int(np.argmax(row <= -1)) for row in relative]
    return weights, first, [float(np.interp(1.0, -row, np.arange(steps))) for row in relative]


def noise_and_lag(steps, settle=600):
    """The standard deviation left of unit noise, and the steps by which the average of a ramp is late."""
    noise = np.random.default_rng(1).normal(size=steps)
    left = np.asarray(averages(BETAS, noise))[:, settle:].std(1)
    late = np.arange(steps) - np.asarray(averages(BETAS, np.arange(float(steps))))
    return left, late[:, -1]


def draw(figure, signal, clean, plain, corrected, weights):
    wide, start, forget = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    steps = np.arange(1, signal.size + 1)
    for ax in (wide, start):
        ax.plot(steps, signal, ".", color="0.8", markersize=3, label="noisy cosine")
        ax.plot(steps, clean, color="0.55", linewidth=3.5, label="the cosine")
    early = slice(0, 60)
    for i, beta in enumerate(BETAS, 1):
        wide.plot(steps, corrected[i - 1], label=f"β = {beta:g}", **stroke(i))
        k = np.arange(200)
        forget.plot(k, weights[i - 1, :200] / weights[i - 1, 0], label=f"β = {beta:g}", **stroke(i))
        forget.plot(
            1 / (1 - beta), np.exp(-1), "o", markersize=7, markerfacecolor="none", color=stroke(i)["color"]
        )
    for i in (2, 3):
        name, style = f"β = {BETAS[i - 1]:g}", stroke(i)
        start.plot(
            steps[early], corrected[i - 1][early], label=f"{name}, corrected", **style | {"linestyle": "-"}
        )
        start.plot(
            steps[early], plain[i - 1][early], label=f"{name}, started at 0", **style | {"linestyle": ":"}
        )
    forget.axhline(np.exp(-1), color="0.4", linewidth=0.8)
    forget.text(198, np.exp(-1) + 0.015, "1/e", ha="right", color="0.3")
    wide.set(title="bias-corrected averages", xlabel="step", ylabel="value")
    start.set(title="the start", xlabel="step", xlim=(0, 60), ylim=(-0.6, 2.4), ylabel="value")
    forget.set(title="memory (circles: 1/(1−β))", xlabel="steps ago", ylabel="weight / weight of the newest")
    for ax in (wide, start, forget):
        tidy(ax)


def main(arguments=None):
    run = common.start("moving_averages", __doc__, arguments)
    clean = np.cos(2 * np.pi * np.arange(STEPS) / PERIOD)
    signal = clean + NOISE * np.random.default_rng(0).normal(size=STEPS)
    plain, corrected = (np.asarray(averages(BETAS, signal, debias=debias)) for debias in (False, True))
    weights, first, crossing = memory(STEPS)
    draws = 20_000 if run.quick else 1_000_000
    left, late = noise_and_lag(draws)
    headlines = {}
    for i, beta in enumerate(BETAS.tolist()):
        about, window = f"β = {beta:g}", slice(0, round(1 / (1 - beta)))
        rms = lambda average, window=window: float(np.sqrt(np.mean((average[window] - clean[window]) ** 2)))
        # Four standard errors of a deviation from draws whose squares are correlated by β² a step.
        reach = 4 * np.sqrt((1 + beta**2) / (1 - beta**2) / (2 * draws))
        headlines |= {
            f"{about}: memory in steps, against −1/ln β": common.near(
                crossing[i], -1 / np.log(beta), relative=1e-6
            ),
            f"{about}: first step at or below 1/e, against 1/(1−β)": common.near(
                first[i], 1 / (1 - beta), relative=1e-6
            ),
            f"{about}: noise left, against √((1−β)/(1+β))": common.near(
                left[i], np.sqrt((1 - beta) / (1 + beta)), relative=reach
            ),
            f"{about}: lag in steps, against β/(1−β)": common.near(late[i], beta / (1 - beta), relative=1e-6),
            f"{about}: uncorrected / corrected at step 1, against 1 − β": common.near(
                plain[i, 0] / corrected[i, 0], 1 - beta, relative=1e-9
            ),
            f"{about}: rms error over the first 1/(1−β) steps, uncorrected": (rms(plain[i]), None),
            f"{about}: the same, corrected": common.within(rms(corrected[i]), high=0.5 * rms(plain[i])),
        }
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    draw(figure, signal, clean, plain, corrected, weights)
    return run.save(figure, headlines)
