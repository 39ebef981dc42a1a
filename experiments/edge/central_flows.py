r"""Past the edge of stability optimizers follow, on average, not the flow they discretise but their central flow.

Where the effective sharpness, the largest eigenvalue of P^{-1/2} H P^{-1/2} with P the preconditioner over the
learning rate, reaches 2, a method oscillates; the oscillation keeps it from going where the loss is sharper. The
stable flow has no oscillation and goes on. The central flow carries the oscillation's covariance Σ = UXUᵀ, the one
for which no effective eigenvalue passes 2, and

    dw/dk = -P^{-1}(∇L + ½∇³L[Σ]),   predicted loss L + tr X.

A tanh network (16, 16, 16) with squared error on 400 digits: the stable flow is followed to an effective sharpness of
1.8, and from there 500 steps of gradient descent, RMSProp and its scalar form, compared with both flows.

First, and alone in the quick version, the three-parameter loss ½yx² + ½a(y−z)² + ½b(z−Z)², whose central flow is
known: y = 2/η, z relaxes to (2a/η + bZ)/(a+b), and X = 2a(z−y).

Between two bursts of the oscillation the iterates overshoot the edge, as the central flow cannot, and the first
burst has to grow from almost nothing: with gradient descent the squared gradient is a 28th of what is predicted in
the 50 steps before it, and 2.9 times as much in the 50 around it. The sharpness is the same where each burst begins,
so the oscillation that keeps it there is in sum the predicted one: over a whole burst the squared gradient is
predicted to a few per cent, and over all steps from below the edge to 1.3 %. The last half begins and ends anywhere
in a burst. Within bursts `pair_flow` of order 3 has the squared gradient of every 50 steps to 3 %.

Claim: Past the edge of stability iterates keep, on average, to their central flow, and leave the flow they
discretise.

Figure: One column each for gradient descent, RMSProp and scalar RMSProp; the dotted vertical line is where the
iterates have left the stable flow. Top: loss of the iterates (thin), averaged over time (thick grey), of the stable
flow (dashed), as the central flow predicts its average (solid orange), and the mean of both ends of the rod flow
(dotted) and of the flow of pairs (green). Middle: the largest effective eigenvalues, of the iterates at their
midpoints (grey) and of the same flows; the edge is 2. Bottom: distance of the flows from the iterates' midpoints, and
the size of the iterates' own oscillation (grey).

Moving: gradient descent in a valley that gets steeper farther up. Above the dotted edge it jumps across the valley
ever farther, until that pushes it down again. Gradient flow, dashed, goes on up. The midpoint of the flow of pairs
comes down with the iterates. On the right, the losses of both.

Measured: Toy with a closed form: predicted loss within .09 %, the iterates' mean loss .9994 of it. Digits (1,754
parameters), 500 steps from effective sharpness 1.8; loss of the last half, predicted / the iterates': gradient
descent 1.008, RMSProp 1.000, scalar RMSProp 1.015; stable flow .972, .829, .572. Distance from the iterates / the
stable flow's: .121, .042, .015. Effective sharpness at the midpoints 2.00, 2.13, 2.01 (edge 2), of the stable flow at
the end 2.8, 14.1, 15.4. Squared gradient, which comes in bursts, predicted / the iterates': last half 1.35, .99,
1.05; all steps 1.011, 1.013, 1.004; whole bursts of gradient descent .97–.99, of scalar RMSProp .99–1.04.
The intervals were set on this network, of seed 2. A network of another start, seed 3002, reached all but one: the
central flow of gradient descent ended .163 times as far from the iterates as the stable flow, which there leaves the
edge more slowly (2.35 at the end), where .15 was asked. Its losses were predicted to .984, .999 and 1.017 of the
iterates', so gradient descent's was near its bound of 2 %. At the starts 4002 and 10002 the sharpness along gradient
descent never rises through 1.8; start 1002 was stopped after five minutes without a result. How much the distance
varies from start to start was not measured.

Sources: Cohen, Damian, Talwalkar, Kolter & Lee 2024, 2410.24206.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from experiments.edge import moving_valley

A, B, FAR, RATE, BEGIN = 0.05, 0.05, 27.2, 0.1, 26.0  # of the toy: a, b, Z, η, z at the start
OPTIMIZERS = {
    "gd": jf.optim.gd(0.35),
    "rmsprop": jf.optim.rmsprop(1e-3, decay=0.99, eps=1e-7),
    "scalar_rmsprop": jf.optim.scalar_rmsprop(0.02, decay=0.99),
}
ONE_MODE = ("gd", "scalar_rmsprop")  # with bursts to tell apart: RMSProp's three modes burst each in its time
ALLOWED = {"toy": (0.01, 0.05), "gd": (0.02, 0.15), "rmsprop": (0.05, 0.3), "scalar_rmsprop": (0.05, 0.3)}


def toy(p):
    x, y, z = p
    return 0.5 * y * x**2 + 0.5 * A * (y - z) ** 2 + 0.5 * B * (z - FAR) ** 2


def toy_flow(times):
    """y, z and X of the toy's central flow, from where it is at the edge."""
    y, far = 2 / RATE, (A * 2 / RATE + B * FAR) / (A + B)
    z = far + (BEGIN - far) * np.exp(-(A + B) * times)
    return y, z, 2 * A * (z - y)


def check_toy():
    """The toy's study, and claims on it by its closed form: worst gaps of the flow, and ratios of the averages."""
    start = jnp.array([np.sqrt(2 * A * (BEGIN - 2 / RATE)), 2 / RATE, BEGIN])
    study = jf.edge_study(jf.optim.gd(RATE), toy, start, steps=200, modes=1, level=None)
    y, z, x = toy_flow(np.asarray(study.times))
    loss = 0.5 * A * (y - z) ** 2 + 0.5 * B * (z - FAR) ** 2 + x / RATE
    return study, {
        "toy: predicted loss over the closed form, worst": common.near(
            worst(np.asarray(study.central.loss) / loss), 1, by=5e-3
        ),
        "toy: effective sharpness of the central flow, last": common.near(
            float(study.central.eigenvalues[-1, 0]), 2, by=1e-6
        ),
        "toy: mean loss of the iterates over the closed form": common.near(
            float(study.iterates.loss.mean() / loss.mean()), 1, by=3e-3
        ),
    }


def worst(ratio):
    after = ratio[4:]  # the flow begins at x of an iterate, which decays as e^{−2k}
    return float(after[np.argmax(np.abs(after - 1))])


def digits():
    """The loss and the first parameters."""
    problem = jf.problems.mlp("digits", hidden=(16, 16, 16), loss="mse", key=jax.random.key(2))
    data = jax.tree.map(lambda x: x[:400], problem.objective.data)
    return jf.Objective(problem.objective.losses, data), problem.params


def numbers(name, study):
    """Claims on one optimizer, and what else was measured."""
    loss, distance = ALLOWED[name]
    return {
        f"{name}: predicted loss of the last half / the iterates'": common.near(
            float(study.loss_ratio), 1, by=loss
        ),
        f"{name}: stable flow's loss / the iterates'": (float(study.stable_loss_ratio), None),
        f"{name}: last distance from the iterates / the stable flow's": common.within(
            float(study.distance_ratio), high=distance
        ),
        f"{name}: effective sharpness, mean of the last half": (float(study.sharpness), 2),
        f"{name}: central flow's, the largest": common.near(
            float(study.central.eigenvalues.max()), 2, by=0.02
        ),
        f"{name}: stable flow's, the last": common.within(float(study.stable.eigenvalues[-1, 0]), low=2.2),
        f"{name}: predicted |∇L|² / the iterates', last half": (float(study.squared_gradient_ratio), 1),
        f"{name}: predicted |∇L|² / the iterates', all steps": common.near(
            float(study.squared_gradient_total_ratio), 1, by=0.05
        ),
    } | {
        f"{name}: predicted |∇L|² / the iterates', whole bursts": common.near(
            float(np.median(ratios)), 1, by=0.05
        )
        for ratios in [study.burst_ratios]
        if name in ONE_MODE and ratios.size
    }


def main(arguments=None):
    run = common.start("central_flows", __doc__, arguments)
    toy_study, headlines = check_toy()
    objective, params = digits()
    optimizers = {"toy": jf.optim.gd(RATE)} if run.quick else OPTIMIZERS
    figure = Figure(figsize=(7.5 * len(optimizers) ** 0.7, 11), layout="constrained")
    panels = figure.subplots(3, len(optimizers), squeeze=False)
    everything = {}
    for column, (name, optimizer) in zip(
        panels.T, common.progress(optimizers.items(), "optimizers"), strict=True
    ):
        study = toy_study if run.quick else jf.edge_study(optimizer, objective, params, steps=500)
        jf.plot.edge(study, list(column))
        column[0].set_title(str(optimizer), fontsize="medium")
        for ax in column if column[0] is not panels[0, 0] else ():
            ax.get_legend().remove()  # they are those of the first column
        headlines |= numbers(name, study)
        everything[name] = record_of(study)
    return run.save(
        figure, headlines, moving=None if run.quick else moving_valley.moving(), studies=everything
    )


def record_of(study):
    """The lines of the figure."""
    paths = {"iterates": study.iterates, "central": study.central, "stable": study.stable}
    lines = {
        name: {key: getattr(path, key) for key in ("loss", "squared_gradient", "eigenvalues", "distance")}
        for name, path in paths.items()
    }
    return {"times": study.times, "averaged_loss": study.averaged_loss, "left": study.left, **lines}
