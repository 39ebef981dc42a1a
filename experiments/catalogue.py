"""All results, in the order in which a reader would meet them, by chapter."""

from importlib import import_module
from types import ModuleType
from typing import NamedTuple


class Chapter(NamedTuple):
    """A folder of `experiments/`: its title, and the names of the scripts in it that show a result."""

    title: str
    results: tuple[str, ...]


CHAPTERS = {
    "teaching": Chapter(
        "Optimizers, step by step",
        (
            "learning_rates",
            "moving_averages",
            "ravine",
            "directional_derivatives",
            "feature_scaling",
            "convex_rates",
            "adagrad_rule",
            "bias_correction",
            "back_propagation",
        ),
    ),
    "training": Chapter(
        "Training networks",
        (
            "optimizers",
            "batch_scaling",
            "digits_sweep",
            "hypergradients",
            "weight_decay",
            "schedules",
            "batches_at_equal_cost",
            "adaptive_families",
            "regularizers",
        ),
    ),
    "limits": Chapter(
        "Continuous limits",
        (
            "continuous_limit",
            "momentum_is_an_ode",
            "modified_equations",
            "implicit_regularization",
            "memory",
            "balancedness",
            "margin",
            "sigmoidal_learning",
        ),
    ),
    "noise": Chapter(
        "Noise and temperature",
        (
            "gibbs",
            "friction",
            "temperature",
            "temperature_is_everything",
            "limit_cycles",
            "stationary_covariance",
        ),
    ),
    "batches": Chapter(
        "What mini-batches do",
        ("sde_validity", "weak_orders", "without_replacement", "flat_minima", "label_noise"),
    ),
    "densities": Chapter("Densities", ("fokker_planck", "free_energy", "wasserstein_flow", "smoothed_loss")),
    "edge": Chapter(
        "The edge of stability",
        (
            "edge_of_stability",
            "central_flows",
            "edge_of_every_optimizer",
            "edge_of_stochastic_stability",
            "discovery",
            "catapult",
            "warm_up",
            "self_stabilisation",
        ),
    ),
    "landscapes": Chapter("Landscapes", ("loss_landscape", "no_barriers", "saddles", "spectra")),
    "kernels": Chapter("Kernels", ("kernel_machine", "lazy_and_rich")),
    "games": Chapter(
        "Games and self-supervision", ("dirac_gan", "gan_third_stage", "why_simsiam_does_not_collapse")
    ),
}
FOLDERS = {name: folder for folder, chapter in CHAPTERS.items() for name in chapter.results}


def script(name: str) -> ModuleType:
    """The module of a result."""
    return import_module(f"experiments.{FOLDERS[name]}.{name}")
