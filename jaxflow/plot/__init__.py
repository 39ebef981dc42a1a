"""matplotlib pictures; every function takes and returns Axes."""

from jaxflow.plot.edge import edge as edge
from jaxflow.plot.lines import comparison as comparison
from jaxflow.plot.lines import trajectories as trajectories
from jaxflow.plot.orders import order as order
from jaxflow.plot.planes import plane as plane
from jaxflow.plot.sharpness import sharpness as sharpness
from jaxflow.plot.spectrum import spectrum as spectrum
from jaxflow.plot.sweeps import sweep as sweep
