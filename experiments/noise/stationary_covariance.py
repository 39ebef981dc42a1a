r"""How far SGD spreads about a minimum: three equations for its covariance at rest, and a sample of a posterior.

SGD with rate η and batches of B on a squared error settles to a law about the minimum $\theta^*$. With the
Hessian H and the covariance $C = \Sigma/B$ of a batch's gradient at the minimum its covariance S is, ever more
exactly:

- *Continuous*, that of the stochastic differential equation: $HS + SH = \eta C$ (Mandt, Hoffman & Blei).
- *Discrete*, as steps overshoot: $HS + SH - \eta HSH = \eta C$.
- *Exact* for least squares with batches drawn with replacement. The noise grows with the distance from the
  minimum: $HS + SH - \eta HSH = \eta\,(C + M[S])$, $M[S] = \frac1B (\frac1N \sum_i x_i x_i^\top S\, x_i x_i^\top
  - HSH)$.

The first two leave the third at a relative order η, the latter because M[S] is of order η times C.

Linear regression on the diabetes data (442 examples, five leading principal components, target in units of the
residual), batches of 16, chains that begin at the minimum. The covariance of the iterates about it is measured
over all chains and over well separated times; its standard errors are those of the mean over 64 groups of chains.

With Gaussian residuals of variance 1 and a flat prior the posterior is $N(\theta^*, (NH)^{-1})$. Of all constant
rates SGD's law is nearest to it (least KL divergence), by the continuous equation, at $\eta^* = 2 d / (N\,
\mathrm{tr}\, C)$. The rates here are ¼ to 4 times this.

Claim: The covariance of SGD at rest is that of the exact equation; the discrete and the continuous one err at
first order in η; the rate that samples the posterior best is somewhat below 2d/(N tr C).

Figure: Left, the trace of the covariance over that of the continuous equation, by the rate: measured (with two
standard errors) and by the other two equations. In the middle, all entries of the covariance at the largest rate,
in the eigenvectors of H, by each equation against what was measured. Right, the KL divergence from the posterior.

Measured: at η = 4η* = .193 the trace is 1.298 ± .006 of the continuous equation's and 1.077 ± .005 of the
discrete one's, where the exact equation says 1.299 and 1.078. Of 75 entries none is further than 3.6 standard
errors from the exact equation (4.5 has a chance of .002). The rate of the least KL is .84 of 2d/(N tr C), as the
exact equation has it.

Sources: Mandt, Hoffman & Blei (2017, 1704.04289); the discrete equation: Liu, Ziyin & Ueda (2021, 2012.03636);
the noise that grows: Ziyin, Liu, Mori & Ueda (2022, 2102.05375).
"""

from typing import NamedTuple

import jax
import numpy as np
import scipy.stats
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import stroke, tidy

BATCH, COMPONENTS, GROUPS = 16, 5, 64
MULTIPLES = {True: (0.5, 1.0, 2.0), False: (0.25, 0.5, 1.0, 2.0, 4.0)}  # of η*
CHAINS = {True: 256, False: 2048}
BURN, APART, SAMPLES = 10.0, 2.5, 12  # in times of the slowest mode, 1/λ_min
EQUATIONS = ("continuous", "discrete", "exact")


class Setting(NamedTuple):
    """Least squares at its minimum: data (N, d), Hessian and the covariance of a batch's gradient (d, d)."""

    objective: jf.Objective
    minimum: jax.Array
    x: np.ndarray
    hessian: np.ndarray
    noise: np.ndarray


def setting():
    data = jf.problems.load("diabetes")
    x = (data.x - data.x.mean(0)) / data.x.std(0)
    x = x @ np.linalg.svd(x, full_matrices=False)[2][:COMPONENTS].T
    y = data.y.reshape(-1) - data.y.mean()
    residual = y - x @ np.linalg.lstsq(x, y)[0]
    problem = jf.problems.linear_regression(x, y / residual.std())
    noise = jf.gradient_covariance(problem.objective, problem.minima[0]) / BATCH
    return Setting(problem.objective, problem.minima[0], x, x.T @ x / len(x), np.asarray(noise))


def covariance(s, rate, equation):
    """The solution S of one of the three equations, as a linear system for its d² entries."""
    h, one = s.hessian, np.eye(len(s.hessian))
    system = np.kron(h, one) + np.kron(one, h)
    if equation != "continuous":
        system = system - rate * np.kron(h, h)
    if equation == "exact":
        fourth = np.einsum("ni,nj,nk,nl->ikjl", *[s.x] * 4, optimize=True).reshape(system.shape) / len(s.x)
        system = system - rate * (fourth - np.kron(h, h)) / BATCH
    return np.linalg.solve(system, rate * s.noise.reshape(-1)).reshape(h.shape)


def measure_moments(s, rate, chains, key):
    """The second moments about the minimum of each group of chains (GROUPS, d, d)."""
    slowest = 1 / np.linalg.eigvalsh(s.hessian)[0]
    every = round(APART * slowest / rate)
    first = round(BURN / APART)

    def run(key):
        options = {"steps": every * (first + SAMPLES - 1), "every": every, "batch_size": BATCH, "key": key}
        path = jf.iterate(jf.optim.gd(rate), s.objective, s.minimum, **options).values[first:]
        away = path - s.minimum[None]
        return away.T @ away / SAMPLES

    moments = jf.ensemble(run, jax.random.split(key, chains))
    return np.asarray(moments.reshape(GROUPS, -1, *moments.shape[1:]).mean(1))


def divergence(s, cov):
    """KL(N(θ*, S) ‖ N(θ*, (NH)⁻¹))."""
    ratio = len(s.x) * s.hessian @ cov
    return 0.5 * (np.trace(ratio) - len(cov) - np.linalg.slogdet(ratio)[1])


def least(s, rates, covs):
    """The rate of the least KL, with tr(HS)/η and log det(S/η) as parabolas through the three middle rates."""
    i = len(rates) // 2
    near, covs = rates[i - 1 : i + 2], covs[i - 1 : i + 2]
    trace = np.polyfit(
        near, [np.trace(s.hessian @ cov) / rate for rate, cov in zip(near, covs, strict=True)], 2
    )
    volume = np.polyfit(near, [np.linalg.slogdet(c / r)[1] for r, c in zip(near, covs, strict=True)], 2)
    fine = np.linspace(near[0], near[-1], 2001)
    values = len(s.x) * fine * np.polyval(trace, fine) - np.polyval(volume, fine) - COMPONENTS * np.log(fine)
    return float(fine[values.argmin()])


def draw(figure, s, rates, found, theory, optimum):
    traces, entries, samples = figure.subplots(1, 3)
    mean, error = (f(found.trace(axis1=2, axis2=3), axis=1) for f in (np.mean, standard_error))
    base = theory["continuous"].trace(axis1=1, axis2=2)
    style = {"color": stroke(1)["color"], "capsize": 3}
    traces.errorbar(rates, mean / base, 2 * error / base, fmt="o", label="measured", **style)
    for i, name in enumerate(EQUATIONS):
        label = {"exact": "exact: noise grows with distance"}.get(name, name)
        traces.plot(rates, theory[name].trace(axis1=1, axis2=2) / base, label=label, **stroke((3, 2, 0)[i]))
    traces.set(
        xscale="log", xlabel="rate η", ylabel="tr S / that of HS + SH = ηC", title="spread about the minimum"
    )
    vectors = np.linalg.eigh(s.hessian)[1]
    among = np.triu_indices(len(vectors))
    seen = (vectors.T @ found[-1].mean(0) @ vectors)[among]
    for i, name in enumerate(EQUATIONS):
        values = (vectors.T @ theory[name][-1] @ vectors)[among]
        hollow = {"color": stroke((3, 2, 0)[i])["color"], "markerfacecolor": "none", "linestyle": ""}
        entries.plot(seen, values, "sDo"[i], markersize=6, label=name, **hollow)
    ends = [min(seen), max(seen)]
    entries.plot(ends, ends, color="0.5", linewidth=0.8)
    entries.set(
        xlabel="measured entry of S", ylabel="by the equation", title=f"all entries at η = {rates[-1]:.3g}"
    )
    samples.plot(
        rates, [divergence(s, each.mean(0)) for each in found], "o", label="measured", color=style["color"]
    )
    fine = np.geomspace(rates[0], rates[-1], 50)
    for name, i in (("continuous", 3), ("exact", 0)):
        values = [divergence(s, covariance(s, rate, name)) for rate in fine]
        samples.plot(fine, values, label=name, **stroke(i))
    samples.axvline(optimum, color="0.5", linewidth=0.9)
    samples.text(optimum, samples.get_ylim()[1], " 2d/(N tr C)", va="top", fontsize="small")
    samples.set(
        xscale="log", xlabel="rate η", ylabel="KL divergence, nats", title="as a sample of the posterior"
    )
    for ax in (traces, entries, samples):
        tidy(ax)
    for ax in (traces, samples):
        ax.set_xticks(rates, [f"{rate:.3g}" for rate in rates])
        ax.set_xticks([], minor=True)


def standard_error(values, axis):
    """That of the mean over groups."""
    return np.std(values, axis=axis, ddof=1) / np.sqrt(values.shape[axis])


def tell(s, rates, found, theory, optimum):
    headlines, mean, error = {}, found.mean(1), standard_error(found, 1)
    z = (mean - theory["exact"]) / error
    among = np.triu_indices(z.shape[1])
    count = len(rates) * len(among[0])
    # A chance of .002 that the largest of this number of independent ones is beyond it.
    limit = float(scipy.stats.t.ppf(1 - 0.001 / count, GROUPS - 1))
    largest = float(abs(z[:, among[0], among[1]]).max())
    name = f"exact: largest of {count} entries' distance from what was measured, in standard errors"
    headlines[name] = common.within(largest, high=limit)
    traces = {name: each.trace(axis1=1, axis2=2) for name, each in theory.items()}
    seen, doubt = mean.trace(axis1=1, axis2=2), standard_error(found.trace(axis1=2, axis2=3), 1)
    for name in EQUATIONS:
        ratio, se = seen[-1] / traces[name][-1], doubt[-1] / traces[name][-1]
        told = f"η = {rates[-1]:.3g}: measured trace / {name}"
        headlines[told] = common.near(
            float(ratio), float(traces["exact"][-1] / traces[name][-1]), by=float(3.5 * se)
        )
    small = np.array([0.02, 0.01]) * optimum
    for name in EQUATIONS[:2]:
        gaps = [1 - np.trace(covariance(s, r, name)) / np.trace(covariance(s, r, "exact")) for r in small]
        headlines[f"{name} against exact, η → 0: order of the error in η"] = common.near(
            float(np.log2(gaps[0] / gaps[1])), 1, by=0.02
        )
    by = {name: least(s, rates, covs) for name, covs in theory.items()}
    best = least(s, rates, mean)
    headlines["rate of the least KL, measured / 2d/(N tr C)"] = common.near(
        best / optimum, by["exact"] / optimum, by=0.03
    )
    headlines["the same by the continuous equation"] = common.near(by["continuous"] / optimum, 1, by=0.002)
    return headlines


def main(arguments=None):
    run = common.start("stationary_covariance", __doc__, arguments)
    s = setting()
    optimum = float(2 * COMPONENTS / (len(s.x) * np.trace(s.noise)))
    rates = optimum * np.array(MULTIPLES[run.quick])
    keys = jax.random.split(jax.random.key(0), len(rates))
    measure = lambda rate, key: measure_moments(s, float(rate), CHAINS[run.quick], key)
    found = np.stack(
        [measure(*pair) for pair in common.progress(list(zip(rates, keys, strict=True)), "rates")]
    )
    theory = {name: np.stack([covariance(s, rate, name) for rate in rates]) for name in EQUATIONS}
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    draw(figure, s, rates, found, theory, optimum)
    headlines = tell(s, rates, found, theory, optimum)
    return run.save(figure, headlines, rates=rates, covariance=found.mean(1), theory=theory)
