"""matplotlib pictures; every function takes and returns Axes."""

from jaxflow.plot.animation import animate as animate
from jaxflow.plot.curvature.edge_of_stability import edge as edge
from jaxflow.plot.curvature.eigenvalue_density import spectrum as spectrum
from jaxflow.plot.curvature.sharpness_lines import sharpness as sharpness
from jaxflow.plot.densities.moving_densities import animate_density as animate_density
from jaxflow.plot.densities.still_densities import density as density
from jaxflow.plot.densities.still_densities import free_energy as free_energy
from jaxflow.plot.kernels import contributions as contributions
from jaxflow.plot.kernels import kernel as kernel
from jaxflow.plot.landscapes import landscape as landscape
from jaxflow.plot.planes import plane as plane
from jaxflow.plot.runs.lines import comparison as comparison
from jaxflow.plot.runs.lines import trajectories as trajectories
from jaxflow.plot.runs.orders import order as order
from jaxflow.plot.sweeps.sweep_result import sweep as sweep
