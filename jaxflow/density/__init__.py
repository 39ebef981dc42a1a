"""Laws instead of paths: how the density of a noisy run moves, where it rests, and the geometry it moves in."""

from jaxflow.density.areas import AreaRate as AreaRate
from jaxflow.density.areas import area_rate as area_rate
from jaxflow.density.convexity import OnePointConvexity as OnePointConvexity
from jaxflow.density.convexity import one_point_convexity as one_point_convexity
from jaxflow.density.law_of_sgd import ou_limit as ou_limit
from jaxflow.density.ornstein_uhlenbeck import OULaw as OULaw
from jaxflow.density.ornstein_uhlenbeck import ou_law as ou_law
from jaxflow.density.smoothing import smoothed as smoothed
from jaxflow.density.transport.distances import bures as bures
from jaxflow.density.transport.distances import wasserstein as wasserstein
from jaxflow.density.transport.gaussian_steps import GaussianPath as GaussianPath
from jaxflow.density.transport.gaussian_steps import gaussian_jko as gaussian_jko
from jaxflow.density.transport.minimising_movements import QuantilePath as QuantilePath
from jaxflow.density.transport.minimising_movements import jko as jko
from jaxflow.density.transport.particles import particle_flow as particle_flow
