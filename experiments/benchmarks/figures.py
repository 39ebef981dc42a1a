"""Every figure the library claims: how it is measured, and what is asked of it."""

from functools import partial

from experiments.benchmarks import accuracy
from experiments.benchmarks.analysis import (
    curvature,
    density,
    density_peers,
    kernels,
    landscape,
    landscape_peers,
)
from experiments.benchmarks.figure import Figure
from experiments.benchmarks.runs import modified, speed, stochastic, sweeps, watching

# The accuracy figures are quick as they are.
FIGURES = (
    Figure(
        "optimizers against NumPy recursions, 100 steps, float64: relative error",
        accuracy.recursions,
        most=1e-12,
    ),
    Figure(
        "compilations for 20 sets of numbers, worst optimizer or schedule",
        accuracy.compile_counts,
        1,
        1,
    ),
    Figure(
        "vmapped constructors against a loop, float32: relative gap",
        accuracy.vmapped_hyperparameters,
        most=1e-6,
    ),
    Figure("gradients through 20 steps that are not finite", accuracy.derivatives, most=0),
    Figure("updates that change a dtype or a state's structure", accuracy.dtypes, most=0),
    Figure("iterate / hand-written scan, digits network", speed.iterate_network, most=1.03, unit=" ×"),
    Figure(
        "iterate / hand-written scan, 2-D function, every = 10", speed.iterate_plane, most=1.10, unit=" ×"
    ),
    Figure(
        "iterate with four cheap metrics / none, digits network, all data, every step",
        partial(watching.cheap_metrics, None, 1),
        most=1.03,
        unit=" ×",
    ),
    Figure("the same, batch 32, every = 10", partial(watching.cheap_metrics, 32, 10), most=1.03, unit=" ×"),
    Figure(
        "the same, all data, every step / a scan by hand that returns them",
        watching.cheap_metrics_by_hand,
        most=1.03,
        unit=" ×",
    ),
    Figure(
        "iterate with the sharpness every 50 steps / without it + its products, digits network",
        watching.sharpness,
        most=1.05,
        unit=" ×",
    ),
    Figure("iterate of an Equinox module / of a dict, digits", watching.module, most=1.02, unit=" ×"),
    Figure("overhead of one plain call of iterate", speed.plain_call, most=150, unit=" µs"),
    Figure(
        "integrate / evaluations × one gradient, digits network",
        speed.integrate_network,
        most=1.05,
        unit=" ×",
    ),
    Figure(
        "Tsit5 / RKC2, digits network at sharpness ≥ 90, rtol 1e-4", speed.stiff_network, least=8, unit=" ×"
    ),
    Figure(
        "gradient flow of a quadratic over four decades: error / norm",
        accuracy.quadratic_flow,
        most=1e-9,
    ),
    Figure("slope of gradient descent − flow", accuracy.descent_slope, 0.95, 1.05),
    Figure("import jaxflow / import jax, optax, diffrax", speed.import_time, most=1.0, unit=" ×"),
    Figure("16 vmapped lanes, one of them NaN / 16 good ones", speed.nan_lane, most=1.2, unit=" ×"),
    Figure("mini-batch noise against all batches: relative error", stochastic.noise_covariance, most=1e-12),
    Figure("weak order, order 1: slope of the centred covariance", stochastic.covariance_slope, 1.9, 2.1),
    Figure("weak order, order 2: slope of E|θ|²", stochastic.second_moment_slope, 1.9, 2.1),
    Figure("the same with a wrong finite-population factor", stochastic.wrong_population_slope, 0.85, 1.15),
    Figure("false alarms of the panel test at α = .05, 200 repetitions", stochastic.false_alarms, 0.02, 0.08),
    Figure("its power at variance × 1.3, n = 256, d = 4", stochastic.power, least=0.85),
    Figure(
        "SDE step with full noise / gradient, digits network", stochastic.fused_step, most=1.25, unit=" ×"
    ),
    Figure(
        "10,000 paths × 1,000 steps as one state / hand-written scan",
        stochastic.as_one_state,
        most=0.8,
        unit=" ×",
    ),
    Figure("the same vmapped over keys / hand-written scan", stochastic.over_keys, most=1.1, unit=" ×"),
    Figure(
        "diffrax with its Brownian tree / ours, a key for each path",
        stochastic.against_diffrax,
        least=50,
        unit=" ×",
    ),
    Figure(
        "modified equation: field of order p / p gradients, worst of 1–4",
        modified.field_cost,
        most=1.10,
        unit=" ×",
    ),
    Figure(
        "flow of pairs: field of order p / 2p gradients, worst of 1–4",
        modified.pairs_cost,
        most=1.1,
        unit=" ×",
    ),
    Figure("its compile time, order 4 / order 1", modified.compile_time, most=1.5, unit=" ×"),
    Figure("its field, float32 against float64, rates down to 1e-4", modified.rounding, most=2e-6),
    Figure(
        "error of order 1 / order 4, 100 steps of Adam, momentum, digits",
        modified.gain_of_order_four,
        least=500,
        unit=" ×",
    ),
    Figure(
        "cells of a sweep against their trials alone, digits network, 500 steps, float32: relative gap",
        partial(sweeps.cells, "float32"),
        most=1e-5,
    ),
    Figure("the same in float64", partial(sweeps.cells, "float64"), most=1e-12),
    Figure(
        "64 trials: sweep − 1.05 × a bare vmap, the worst of three",
        sweeps.measure_excess,
        most=20,
        unit=" ms",
    ),
    Figure(
        "64 trials one after another / sweep, SGD on a function of two parameters, 2,000 steps",
        partial(sweeps.measure_speedup, "quadratic, SGD", "one after another"),
        least=5,
        unit=" ×",
    ),
    Figure(
        "the same, SGD on the digits network, batch 32, 500 steps",
        partial(sweeps.measure_speedup, "network", "one after another"),
        least=1.6,
        unit=" ×",
    ),
    Figure(
        "64 trials by a Python loop over compiled optax steps / sweep, Adam on Rosenbrock's function, 2,000 steps",
        partial(sweeps.measure_speedup, "Rosenbrock, Adam", "Python loop"),
        least=1000,
        unit=" ×",
    ),
    Figure(
        "the same, SGD on the digits network",
        partial(sweeps.measure_speedup, "network", "Python loop"),
        least=5,
        unit=" ×",
    ),
    Figure("compilations of a sweep over four axes, last batch ragged", sweeps.compilations, most=1),
    Figure("peak memory of 100,000 streamed trials / of 10,000", sweeps.memory, most=1.2, unit=" ×"),
    Figure(
        "five largest eigenvalues, digits network of 3,466 parameters, 60 products: relative error",
        curvature.top_eigenvalues,
        most=1e-6,
    ),
    Figure(
        "third derivatives against differences of Hessian products", curvature.third_derivatives, most=1e-6
    ),
    Figure(
        "complementarity problems, k = 1 … 8: feasibilities and product",
        curvature.complementarity_problems,
        most=1e-6,
    ),
    Figure("central flow against its closed form: relative error", curvature.toy_closed_form, most=1e-6),
    Figure("central flow against averages of the iterates", curvature.toy_brute_force, most=3e-3),
    Figure("stability thresholds against their closed forms", curvature.thresholds, most=1e-6),
    Figure(
        "digits past the edge, gradient descent: loss predicted / averaged − 1",
        partial(curvature.past_the_edge, "gd"),
        most=0.02,
    ),
    Figure("the same, scalar RMSProp", partial(curvature.past_the_edge, "scalar_rmsprop"), most=0.05),
    Figure("the same, RMSProp", partial(curvature.past_the_edge, "rmsprop"), most=0.05),
    Figure(
        "1,000 steps of iterates, stable and central flow, 5 modes, compilation included",
        curvature.speed,
        most=12,
        unit=" s",
    ),
    Figure("central flow: eight learning rates vmapped / one", curvature.eight_rates, most=8, unit=" ×"),
    Figure("density of a double well, 400 cells, t = 1: L1 error", density.double_well, most=1e-6),
    Figure("its order in the size of a cell", density.double_well_order, 1.8, 2.2),
    *(
        Figure(
            f"{peer} / ours, the same double well",
            partial(density.measure_speedup, peer),
            least=100,
            unit=" ×",
        )
        for peer in density_peers.INSTALLED
    ),
    *(
        Figure(
            f"{peer} / ours on {density.COARSE} cells",
            partial(density.measure_speedup, peer, cells=density.COARSE),
            least=1,
            unit=" ×",
        )
        for peer in density_peers.INSTALLED
        if peer == "py-pde, LSODA"
    ),
    Figure("16 temperatures vmapped / one", density.temperatures, most=16, unit=" ×"),
    Figure("Gibbs' law: what the chain moves of it / rate", density.gibbs, most=1e-13),
    Figure("Ornstein–Uhlenbeck law on 128²: error of the covariance at rest", density.covariance, most=5e-4),
    Figure("its order in the size of a cell, 32² … 128²", density.covariance_order, 1.8, 2.2),
    Figure("its entropy production against 8/7: relative error", density.production, most=0.02),
    Figure(
        "seconds a cell and product, 64², 128², 256² cells: largest / smallest",
        density.seconds_a_cell,
        most=1.2,
        unit=" ×",
    ),
    Figure("memory a cell, the same: largest / smallest", density.memory_a_cell, most=1.2, unit=" ×"),
    Figure("both saddles of Müller–Brown by a climbing image: error", landscape.saddles, most=1e-9),
    Figure("gradients an image to 1e-6, 9 images", landscape.evaluations_an_image, most=250),
    *(
        Figure(
            f"gradients of our band / of {peer}", partial(landscape.evaluations, peer), most=1.1, unit=" ×"
        )
        for peer in landscape_peers.BANDS
    ),
    *(
        Figure(f"{peer} / our band, time", partial(landscape.measure_speedup, peer), least=500, unit=" ×")
        for peer in landscape_peers.BANDS
    ),
    Figure(
        "filter-normalised slice of rescaled layers: relative change",
        landscape.filter_normalisation,
        most=1e-12,
    ),
    Figure("principal shares of a random walk against 6/(πk)²", landscape.random_walk, most=0.02),
    Figure(
        "losses one by one, parameters made outside / slice of 101²",
        partial(landscape.slice_speed, "outside"),
        least=5,
        unit=" ×",
    ),
    Figure(
        "the same, all of it in one compiled call",
        partial(landscape.slice_speed, "inside"),
        least=5,
        unit=" ×",
    ),
    Figure("memory of a slice of 101² points / of 11²", landscape.slice_memory, most=1.2, unit=" ×"),
    Figure(
        "Bézier curve between two networks on digits: barrier",
        partial(landscape.digits, "bezier"),
        most=0.006,
    ),
    Figure("band of 33 images, densely: barrier", partial(landscape.digits, "band"), most=0.0025),
    Figure(
        "barrier after alignment / before, width 128, ReLU",
        partial(landscape.measure_alignment, "relu"),
        most=0.5,
    ),
    Figure("the same, tanh, with signs", partial(landscape.measure_alignment, "tanh"), most=0.5),
    Figure(
        "tangent kernel of 500 digits, 10 outputs, against the dense Jacobian: relative error",
        kernels.error,
        most=1e-12,
    ),
    Figure(
        "its block / the contraction of Jacobians",
        partial(kernels.share, "block"),
        most=0.25,
        unit=" ×",
    ),
    Figure(
        "its output trace / the contraction of Jacobians",
        partial(kernels.share, "trace"),
        most=0.06,
        unit=" ×",
    ),
    Figure(
        "its product with a vector / the contraction of Jacobians",
        partial(kernels.share, "product"),
        most=0.001,
        unit=" ×",
    ),
)


def choose_figures(module: str) -> list[Figure]:
    """The figures that a module of the benchmarks measures."""
    functions = {figure: getattr(figure.measure, "func", figure.measure) for figure in FIGURES}
    return [figure for figure, measure in functions.items() if measure.__module__.endswith(f".{module}")]
