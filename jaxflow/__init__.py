"""jaxflow: optimizers and the differential equations they follow, run on one clock and compared.

An argument that a docstring marks as static is part of the compiled program: another value of it compiles anew. Other
numbers and arrays are handed to the program, and another value compiles nothing.
"""

from typing import TYPE_CHECKING, Any

from jaxflow import _moved
from jaxflow import comparison as comparison
from jaxflow import curvature as curvature
from jaxflow import density as density
from jaxflow import dynamics as dynamics
from jaxflow import kernels as kernels
from jaxflow import landscape as landscape
from jaxflow import optim as optim
from jaxflow import plot as plot
from jaxflow import problems as problems
from jaxflow import solve as solve
from jaxflow import sweeps as sweeps
from jaxflow._version import __version__ as __version__
from jaxflow.comparison import Comparison as Comparison
from jaxflow.comparison import EdgeStudy as EdgeStudy
from jaxflow.comparison import EnsembleComparison as EnsembleComparison
from jaxflow.comparison import OrderStudy as OrderStudy
from jaxflow.comparison import compare as compare
from jaxflow.comparison import compare_ensembles as compare_ensembles
from jaxflow.comparison import edge_study as edge_study
from jaxflow.comparison import family_of as family_of
from jaxflow.comparison import midpoints as midpoints
from jaxflow.comparison import order_of_accuracy as order_of_accuracy
from jaxflow.comparison import order_study as order_study
from jaxflow.comparison import rescale as rescale
from jaxflow.comparison import weak_order as weak_order
from jaxflow.dynamics import NoiseScale as NoiseScale
from jaxflow.dynamics import gradient_covariance as gradient_covariance
from jaxflow.dynamics import noise_scale as noise_scale
from jaxflow.dynamics import temperature as temperature
from jaxflow.games import VectorField as VectorField
from jaxflow.games import game as game
from jaxflow.objective import Objective as Objective
from jaxflow.recording import Recorder as Recorder
from jaxflow.recording import Recording as Recording
from jaxflow.solve import Trajectory as Trajectory
from jaxflow.solve import ensemble as ensemble
from jaxflow.solve import gradient_norm_below as gradient_norm_below
from jaxflow.solve import integrate as integrate
from jaxflow.solve import iterate as iterate
from jaxflow.solve import train as train
from jaxflow.sweeps import sweep as sweep

_moved.install()

if TYPE_CHECKING:
    from jaxflow.solve import RKC2 as RKC2


def __getattr__(name: str) -> Any:
    """`RKC2` imports diffrax, and so is imported when it is used."""
    if name == "RKC2":
        return solve.RKC2
    raise AttributeError(f"module 'jaxflow' has no attribute {name!r}")
