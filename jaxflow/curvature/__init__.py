"""Second derivatives: Hessian products, extreme eigenvalues, whole spectra, and the stability that they decide."""

from typing import Any

from jaxflow.curvature.products import ggn_vp as ggn_vp
from jaxflow.curvature.products import hvp as hvp
from jaxflow.curvature.products import third_derivative as third_derivative
from jaxflow.curvature.spectrum.density import SpectralDensity as SpectralDensity
from jaxflow.curvature.spectrum.density import spectral_density as spectral_density
from jaxflow.curvature.spectrum.eigenpairs import Eigenpairs as Eigenpairs
from jaxflow.curvature.spectrum.eigenpairs import sharpness as sharpness
from jaxflow.curvature.spectrum.eigenpairs import top_eigenpairs as top_eigenpairs
from jaxflow.curvature.spectrum.estimate import Estimate as Estimate
from jaxflow.curvature.spectrum.traces import saddle_index as saddle_index
from jaxflow.curvature.spectrum.traces import trace as trace
from jaxflow.curvature.stability import sharpness_record
from jaxflow.curvature.stability.batches import BatchSharpness as BatchSharpness
from jaxflow.curvature.stability.batches import batch_sharpness as batch_sharpness
from jaxflow.curvature.stability.batches import record_batch_sharpness as record_batch_sharpness
from jaxflow.curvature.stability.game_stability import GameStability as GameStability
from jaxflow.curvature.stability.game_stability import game_stability as game_stability
from jaxflow.curvature.stability.noisy_edge import SelfStabilization as SelfStabilization
from jaxflow.curvature.stability.noisy_edge import record_self_stabilization as record_self_stabilization
from jaxflow.curvature.stability.noisy_edge import self_stabilization as self_stabilization
from jaxflow.curvature.stability.preconditioners import preconditioner_of as preconditioner_of
from jaxflow.curvature.stability.sharpness_record import SharpnessRecord as SharpnessRecord
from jaxflow.curvature.stability.sharpness_record import record_sharpness as record_sharpness
from jaxflow.curvature.stability.sharpness_record import sharpness_along as sharpness_along
from jaxflow.curvature.stability.thresholds import stability_threshold as stability_threshold


def __getattr__(name: str) -> Any:
    """A name of earlier versions; calling it warns."""
    if name == "along":
        return sharpness_record.along
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
