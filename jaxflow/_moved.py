"""What has another name now: the old one still works, and says what the new one is.

Pickles name the module of every class in them, so those of earlier versions open too.
"""

import functools
import importlib
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

MOVED = {
    "_models": "_losses.models",
    "_losses.completion": "_completion",
    "_losses.gradients": "_gradients",
    "optim.rules.accumulation": "optim.multi_steps",
    "optim._moments": "optim.methods.moments",
    "comparison.families": "optim.rules.families",
    "comparison.scaling": "optim.rules.batch_size",
    "curvature.differentiable": "curvature.differentiability",
    "curvature.density": "curvature.spectrum.density",
    "curvature.eigenpairs": "curvature.spectrum.eigenpairs",
    "curvature.estimate": "curvature.spectrum.estimate",
    "curvature.lanczos": "curvature.spectrum.lanczos_iteration",
    "curvature.power": "curvature.spectrum.powers",
    "curvature.subspace": "curvature.spectrum.krylov",
    "curvature.traces": "curvature.spectrum.traces",
    "curvature.preconditioners": "curvature.stability.preconditioners",
    "curvature.thresholds": "curvature.stability.thresholds",
    "curvature.linear_steps": "curvature.stability.linear_steps",
    "curvature.recording": "curvature.stability.sharpness_record",
    "density.jumps.selling": "density.jumps.selling_decomposition",
    "density.near_minimum.areas": "density.near_minimum.swept_areas",
    "dynamics.oscillators": "dynamics.flows.damped_oscillators",
    "dynamics.dense": "dynamics.flows.hessian_flows",
    "dynamics.inertial": "dynamics.diffusions.inertial",
    "dynamics.underdamped": "dynamics.diffusions.underdamped",
    "dynamics.signed": "dynamics.diffusions.sign_of_gradient",
    "dynamics.adaptive": "dynamics.diffusions.averaged_squares",
    "dynamics.accumulation": "dynamics.flows.summed_squares",
    "dynamics.averages": "dynamics.diffusions.moving_averages",
    "dynamics.covariance": "dynamics.noise.covariance",
    "dynamics.coordinates": "dynamics.noise.coordinatewise",
    "dynamics.temperature": "dynamics.noise.batch_temperature",
    "dynamics.modified": "dynamics.modified_equations.stochastic_equation",
    "dynamics.series": "dynamics.modified_equations.step_logarithm",
    "dynamics.coefficients": "dynamics.modified_equations.expansion",
    "dynamics.convergence": "dynamics.modified_equations.series_convergence",
    "dynamics.effective": "dynamics.modified_equations.effective_loss",
    "dynamics.slow": "dynamics.modified_equations.slow_flow",
    "dynamics.smoothness": "dynamics.modified_equations.smoothness",
    "dynamics.central": "dynamics.edge.central",
    "dynamics.stable": "dynamics.edge.stable",
    "dynamics.preconditioned": "dynamics.edge.methods",
    "dynamics.oscillation": "dynamics.edge.oscillation_covariance",
    "dynamics.complementarity": "dynamics.edge.semidefinite_complementarity",
    "dynamics.handover": "dynamics.edge.state_conversion",
    "dynamics.limits": "dynamics.equations_of_optimizer",
    "dynamics.named": "dynamics.equations_of_optimizer",
    "solve.integrate": "solve.integration",
    "solve.iterate": "solve.iteration",
    "solve.ensemble": "solve.ensembles",
    "solve.stepping": "solve.discrete.optimizer_steps",
    "solve.stream": "solve.discrete.host_batches",
    "solve.prefix": "solve.discrete_start",
    "solve.mapped": "solve.one_step_map",
    "solve.automatic": "solve.ode.stiffness",
    "solve.control": "solve.ode.diffrax_solves.solving",
    "solve.rkc": "solve.ode.diffrax_solves.rkc",
    "solve.stochastic": "solve.sde.fixed_steps",
    "solve.brownian": "solve.sde.brownian",
    "solve.optimizer_steps": "solve.discrete.optimizer_steps",
    "solve.host_batches": "solve.discrete.host_batches",
    "solve.estimators": "solve.discrete.estimators",
    "solve.trajectory": "solve.trajectories.trajectory",
    "solve.pieces": "solve.trajectories.pieces",
    "sweeps.fingerprint": "_disk.fingerprint",
    "comparison.compare": "comparison.distance",
    "comparison.columns": "comparison.laws.standardised",
    "comparison.divergence": "comparison.laws.lost_runs",
    "comparison.energy": "comparison.laws.energy",
    "comparison.ensembles": "comparison.laws.ensembles",
    "comparison.marginals": "comparison.laws.one_dimensional",
    "comparison.moments": "comparison.laws.moments",
    "comparison.panel": "comparison.laws.function_panel",
    "comparison.samples": "comparison.laws.samples",
    "comparison.verdict": "comparison.laws.verdict",
    "comparison.order": "comparison.orders.slope",
    "comparison.study": "comparison.orders.modified_equations",
    "comparison.weak": "comparison.orders.weak",
    "comparison.edge_paths": "comparison.edge.results",
    "comparison.approach": "comparison.edge.stable_approach",
    "comparison.midpoints": "comparison.edge.period_two",
    "sweeps.program": "sweeps.execution.compiled_batch",
    "sweeps.running": "sweeps.execution.batch_loop",
    "sweeps.layout": "sweeps.outputs.trial_result",
    "sweeps.best": "sweeps.outputs.best_cell",
    "sweeps.sweep": "sweeps.sweeping",
    "problems.columns": "problems.data.table_columns",
    "plot.edge": "plot.curvature.edge_of_stability",
    "plot.sharpness": "plot.curvature.sharpness_lines",
    "plot.spectrum": "plot.curvature.eigenvalue_density",
    "commands.chunks": "commands.shared.progress",
    "commands.choose": "commands.shared.optimizer_names",
    "commands.stopping": "commands.shared.interruption",
    "commands.streams": "commands.shared.output",
    "commands.training": "commands.shared.training",
    "commands.sweep_file": "commands.shared.settings_file",
    "commands.report": "commands.compare.report",
    "commands.sweep_laws": "commands.sweep.laws",
    "commands.sweep_maps": "commands.sweep.maps",
    "commands.sweep_report": "commands.sweep.report",
    "plot.cells": "plot.sweeps.cells",
    "plot.edge_of_stability": "plot.curvature.edge_of_stability",
    "plot.eigenvalue_density": "plot.curvature.eigenvalue_density",
    "plot.endings": "plot.runs.endings",
    "plot.facets": "plot.sweeps.facets",
    "plot.lines": "plot.runs.lines",
    "plot.moving_densities": "plot.densities.moving_densities",
    "plot.orders": "plot.runs.orders",
    "plot.scales": "plot.sweeps.scales",
    "plot.sharpness_lines": "plot.curvature.sharpness_lines",
    "optim.alternating": "optim.methods.alternating",
    "optim.descent": "optim.methods.descent",
    "optim.evolution": "optim.methods.evolution",
    "optim.gradients": "optim.methods.gradients",
    "optim.moments": "optim.methods.moments",
    "optim.squared_gradients": "optim.methods.squared_gradients",
    "optim.switching": "optim.methods.switching",
    "sweeps.axes": "sweeps.design.axes",
    "sweeps.batch_loop": "sweeps.execution.batch_loop",
    "sweeps.best_cell": "sweeps.outputs.best_cell",
    "sweeps.blocks": "sweeps.execution.blocks",
    "sweeps.compiled_batch": "sweeps.execution.compiled_batch",
    "sweeps.dataset": "sweeps.outputs.dataset",
    "sweeps.disk": "sweeps.storage.disk",
    "sweeps.interruption": "sweeps.execution.interruption",
    "sweeps.processes": "sweeps.execution.processes",
    "sweeps.samples": "sweeps.design.samples",
    "sweeps.store": "sweeps.storage.store",
    "sweeps.trial_result": "sweeps.outputs.trial_result",
    "problems.datasets": "problems.data.datasets",
    "problems.files": "problems.data.files",
    "problems.networks": "problems.models.networks",
    "problems.quadratics": "problems.functions.quadratics",
    "problems.regression": "problems.models.regression",
    "problems.scalar": "problems.functions.scalar",
    "problems.surfaces": "problems.functions.surfaces",
    "problems.table_columns": "problems.data.table_columns",
    "problems.wrapping": "problems.models.wrapping",
}
# A module that was divided: each of its names is in one of several.
DIVIDED = {"optim.adaptive": ("optim.methods.adaptive", "optim.methods.squared_gradients")}


def forward_names(old: str, *new: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module: what it lacks is taken from the first of `new` that has it, with a warning."""

    def lookup(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        home = next((module for module in new if hasattr(importlib.import_module(module), name)), new[0])
        value = getattr(importlib.import_module(home), name)
        warnings.warn(f"{old}.{name} has moved to {home}.{name}.", DeprecationWarning, stacklevel=2)
        return value

    return lookup


def alias_of(old: str, new: str, function: Callable) -> Callable:
    """`function` under its old name, for the new one; every call warns."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        warnings.warn(f"{old} is {new} now.", DeprecationWarning, stacklevel=2)
        return function(*args, **kwargs)

    return call


def install() -> None:
    """Put a stand-in where every old module was.

    It is an attribute of its package too, as the module was, unless a function or a folder has that name by now.
    """
    for old, new in [*((old, (new,)) for old, new in MOVED.items()), *DIVIDED.items()]:
        name, homes = f"jaxflow.{old}", [f"jaxflow.{home}" for home in new]
        stand_in = ModuleType(name, f"Moved to {' and '.join(homes)}.")
        stand_in.__getattr__ = forward_names(name, *homes)  # type: ignore[method-assign]
        sys.modules[name] = stand_in
        package, _, last = name.rpartition(".")
        if package in sys.modules and not hasattr(sys.modules[package], last):
            setattr(sys.modules[package], last, stand_in)
