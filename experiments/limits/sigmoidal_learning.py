r"""Deep linear networks learn in steps: each mode of the data by a sigmoid of its own, in closed form.

Of a network $x \mapsto W_N \cdots W_1 x$ the output is linear, and its learning is not. On whitened inputs, with
the correlation of targets and inputs $\Sigma_{yx} = \sum_\mu s_\mu u_\mu v_\mu^\top$, let the weights begin
balanced and along these modes, each with the strength $a_0$ in the product. By gradient flow of the squared error
every mode then moves by itself,

$\dot a = N a^{2 - 2/N} (s - a)$,

which for two layers is the sigmoid $a(t) = s\,/\,(1 + (s/a_0 - 1)\,e^{-2st})$. For three layers t(a) is an
integral, done here by SciPy. Strong modes are learned first, in a time ∝ 1/s with a logarithm of $1/a_0$, and for
more layers with a power of it.

- Gradient flow from such a start, two and three layers, against the closed forms.
- Gradient descent against them: the error is of first order in the rate, that of the flow of its modified loss of
  second.
- Two layers from small random weights, which begin along no mode. The start then sets *when* a mode is learned,
  but should not set how: from .1 s to .9 s it takes the time $\ln 81 / (2s)$ in any case.

Digits: 20 principal components, whitened, against the ten labels less their means: nine modes with s from .30 to
.1.

Claim: Gradient flow of deep linear networks learns each mode of the digits by its own closed-form curve, from
small random weights in the same time ln 81/(2s) from a tenth to nine tenths; gradient descent leaves the curves
at first order.

Figure: Left, the strength of five modes over time in two layers: flow (lines), closed form (dots). In the middle,
the same for three layers, from a larger start, as their plateau would be as 1/a₀^⅓ long. Right, the time from .1
s to .9 s by the strength of the mode, from aligned and from random weights, and ln 81/(2s).

Measured: two layers are within 5e-10 s of the closed form, the times of three within 2e-7. Descent leaves the
closed form with a slope of 1.04 in the rate, its modified flow leaves descent with 2.08. From random weights of
size .001 the nine times from .1 s to .9 s are 1.008 to 1.027 of ln 81/(2s).

Sources: Saxe, McClelland & Ganguli (2014, 1312.6120).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.interpolate
import scipy.optimize
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

COMPONENTS, UNITS = 20, 64
START = {2: 1e-4, 3: 1e-2}  # a₀ by the number of layers
SMALL = 1e-3  # the standard deviation of random weights
RATES, AT = (0.4, 0.2, 0.1), 20.0  # of descent, and the time at which it is compared
END = {2: 60.0, 3: 80.0, "random": 90.0}


class Chain(NamedTuple):
    """½|y − W_N ⋯ W_1 x|² of weights (W_1, …, W_N)."""

    def __call__(self, weights, batch):
        outputs = batch["x"]
        for weight in weights:
            outputs = outputs @ weight.T
        return 0.5 * jnp.sum((outputs - batch["y"]) ** 2, axis=1)


class Modes(NamedTuple):
    """The nine modes of whitened digits: their objective, strengths s, and vectors of targets and inputs."""

    objective: jf.Objective
    strengths: np.ndarray
    left: np.ndarray
    right: np.ndarray

    def of(self, weights):
        """The strengths of the modes in products of weights with leading axes (T, …)."""
        product = np.asarray(weights[0])
        for weight in weights[1:]:
            product = np.asarray(weight) @ product
        return np.einsum("im,tij,jm->tm", self.left, product, self.right)


def modes():
    data = jf.problems.load("digits")
    x = data.x - data.x.mean(0)
    left = np.linalg.svd(x, full_matrices=False)[0][:, :COMPONENTS]
    x = left * len(x) ** 0.5
    y = np.eye(10)[data.y]
    y = y - y.mean(0)
    u, s, v = np.linalg.svd(y.T @ x / len(x), full_matrices=False)
    return Modes(jf.Objective(Chain(), {"x": x, "y": y}), s[:9], u[:, :9], v[:9].T)


def align(found, layers, strength):
    """Balanced weights along the modes, each with the same strength in the product."""
    root, count = strength ** (1 / layers), len(found.strengths)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(UNITS, count)))[0]
    middle = [root * basis @ basis.T] * (layers - 2)
    return [jnp.asarray(w) for w in (root * basis @ found.right.T, *middle, root * found.left @ basis.T)]


def small(found):
    """Small random weights of two layers."""
    keys, shapes = jax.random.split(jax.random.key(1)), ((UNITS, COMPONENTS), (10, UNITS))
    return [SMALL * jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def closed_form(strengths, start, times):
    """The sigmoids of two layers (T, m)."""
    return strengths / (1 + (strengths / start - 1) * np.exp(-2 * strengths * times[:, None]))


def time_to(level, strength, start, layers):
    """The time at which a mode has a strength, as the integral of 1/ȧ, in ln a as it begins small."""
    speed = lambda z: 1 / (layers * np.exp(z * (1 - 2 / layers)) * (strength - np.exp(z)))
    return scipy.integrate.quad(speed, np.log(start), np.log(level), epsabs=0, epsrel=1e-10, limit=200)[0]


def flow(found, weights, times, loss=None):
    dynamics = loss or jf.dynamics.gradient_flow(found.objective)
    run = jf.integrate(dynamics, weights, times, rtol=1e-9, atol=1e-12, max_steps=20_000)
    return found.of(run.values)


def rise(times, values, strengths):
    """The time of each mode from .1 s to .9 s, by splines."""
    fine = np.linspace(times[0], times[-1], 20_001)
    curves = scipy.interpolate.CubicSpline(times, values)(fine) / strengths
    return np.array(
        [fine[np.argmax(c > 0.9)] - fine[np.argmax(c > 0.1)] if c[-1] > 0.9 else np.nan for c in curves.T]
    )


def descent_errors(found):
    """By rate the largest error at one time, over s, of the closed form and of the modified flow against descent."""
    weights, exact = align(found, 2, START[2]), closed_form(found.strengths, START[2], np.array([AT]))[0]
    errors = []
    for rate in RATES:
        run = jf.iterate(
            jf.optim.gd(rate), found.objective, weights, steps=jnp.asarray(round(AT / rate)), every=None
        )
        ended = found.of(run.values)[-1]
        modified = jf.dynamics.implicit_gradient_regularization(found.objective, rate)
        followed = flow(found, weights, jnp.array([0.0, AT]), modified)[-1]
        errors.append([abs((other - ended) / found.strengths).max() for other in (exact, followed)])
    return np.array(errors).T


def curves(found):
    """Times and strengths along the flow, of two and three layers from aligned and of two from random weights."""
    starts = {layers: align(found, layers, START[layers]) for layers in START} | {"random": small(found)}
    times = {name: np.linspace(0, END[name], 241) for name in starts}
    return {name: (times[name], flow(found, w, jnp.asarray(times[name]))) for name, w in starts.items()}


def three_layer_error(found, seen):
    """The largest error of the times at which three layers have strengths of .1 s … .9 s, over these times."""
    times, values = seen
    errors = []
    for s, curve in zip(found.strengths, values.T, strict=True):
        crossing = scipy.interpolate.CubicSpline(times, curve / s)
        for level in (0.1, 0.3, 0.5, 0.7, 0.9):
            reached = scipy.optimize.brentq(lambda t, c=crossing, q=level: c(t) - q, 0, times[-1])
            errors.append(abs(reached / time_to(level * s, s, START[3], 3) - 1))
    return float(max(errors))


def slope(values):
    return float(np.polyfit(np.log(RATES), np.log(values), 1)[0])


def draw(figure, found, seen, rises):
    shown = (0, 3, 5, 6, 8)
    two, three, law = figure.subplots(1, 3)
    for ax, layers in ((two, 2), (three, 3)):
        times, values = seen[layers]
        for i, m in enumerate(shown):
            s = found.strengths[m]
            ax.plot(times, values[:, m], label=f"s = {s:.2f}", **stroke(i))
            if layers == 2:
                ax.plot(
                    times[::12], closed_form(s, START[2], times[::12]), "o", color=COLOURS[i], markersize=4
                )
            else:
                levels = s * np.array([0.1, 0.3, 0.5, 0.7, 0.9])
                at = [time_to(level, s, START[3], 3) for level in levels]
                ax.plot(at, levels, "o", color=COLOURS[i], markersize=4)
        ax.plot([], [], "o", color="0.4", markersize=4, label="closed form")
        ax.set(
            xlabel="time t",
            ylabel="strength of the mode",
            title=f"{layers} layers, from a₀ = {START[layers]:g}",
        )
        ax.set_xlim(0, (60, 35)[layers - 2])
    fine = np.linspace(0.95 * min(found.strengths), 1.05 * max(found.strengths), 50)
    law.plot(fine, np.log(81) / (2 * fine), label="ln 81 / (2s)", **stroke(0))
    for i, (name, told) in enumerate(((2, "aligned weights"), ("random", "small random weights"))):
        hollow = {"color": COLOURS[i + 1], "markerfacecolor": "none", "linestyle": "", "label": told}
        law.plot(found.strengths, rises[name], "os"[i], markersize=(9, 6)[i], **hollow)
    law.set(
        xlabel="strength s of the mode",
        ylabel="time from .1 s to .9 s",
        title="two layers: how long a step takes",
    )
    for ax in (two, three, law):
        tidy(ax)


def main(arguments=None):
    run = common.start("sigmoidal_learning", __doc__, arguments)
    found = modes()
    seen, errors = curves(found), descent_errors(found)
    times, values = seen[2]
    exact = closed_form(found.strengths, START[2], times)
    rises = {name: rise(*seen[name], found.strengths) for name in (2, "random")}
    law = np.log(81) / (2 * found.strengths)
    headlines = {
        "two layers: largest error of the closed form / s": common.within(
            float(abs((values - exact) / found.strengths).max()), high=1e-6, expected=0
        ),
        "three layers: largest error of the times in theory, relative": common.within(
            three_layer_error(found, seen[3]), high=1e-4, expected=0
        ),
        "descent: slope of its error in the rate": common.near(slope(errors[0]), 1, by=0.05),
        "descent: slope of the modified flow's error": common.near(slope(errors[1]), 2, by=0.1),
        "random weights: time from .1 s to .9 s × 2s / ln 81, nine modes": common.near(
            (rises["random"] / law).tolist(), 1, by=0.05
        ),
        "strengths of the modes": (found.strengths.tolist(), None),
    }
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    draw(figure, found, seen, rises)
    return run.save(
        figure, headlines, rates=RATES, errors=errors, strengths=found.strengths, rises=rises["random"]
    )
