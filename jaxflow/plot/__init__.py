"""matplotlib pictures; every function takes and returns Axes."""

from jaxflow.plot.animation import animate as animate
from jaxflow.plot.densities import density as density
from jaxflow.plot.densities import free_energy as free_energy
from jaxflow.plot.edge_of_stability import edge as edge
from jaxflow.plot.eigenvalue_density import spectrum as spectrum
from jaxflow.plot.kernels import contributions as contributions
from jaxflow.plot.kernels import kernel as kernel
from jaxflow.plot.landscapes import landscape as landscape
from jaxflow.plot.lines import comparison as comparison
from jaxflow.plot.lines import trajectories as trajectories
from jaxflow.plot.moving_densities import animate_density as animate_density
from jaxflow.plot.orders import order as order
from jaxflow.plot.planes import plane as plane
from jaxflow.plot.sharpness_lines import sharpness as sharpness
from jaxflow.plot.sweeps import sweep as sweep
