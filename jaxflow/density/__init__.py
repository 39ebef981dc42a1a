"""Laws instead of paths: how the density of a noisy run moves, where it rests, and the geometry it moves in."""

from jaxflow.density.area_rate import AreaRate as AreaRate
from jaxflow.density.area_rate import area_rate as area_rate
from jaxflow.density.ou_law import OULaw as OULaw
from jaxflow.density.ou_law import ou_law as ou_law
from jaxflow.density.ou_limit import ou_limit as ou_limit
from jaxflow.density.transport.distances import bures as bures
from jaxflow.density.transport.distances import wasserstein as wasserstein
from jaxflow.density.transport.gaussian_steps import GaussianPath as GaussianPath
from jaxflow.density.transport.gaussian_steps import gaussian_jko as gaussian_jko
from jaxflow.density.transport.minimising_movements import QuantilePath as QuantilePath
from jaxflow.density.transport.minimising_movements import jko as jko
from jaxflow.density.transport.particles import particle_flow as particle_flow
