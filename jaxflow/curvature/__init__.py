"""Second derivatives: Hessian products, extreme eigenvalues, whole spectra, and what is stable on them."""

from jaxflow.curvature.density import SpectralDensity as SpectralDensity
from jaxflow.curvature.density import spectral_density as spectral_density
from jaxflow.curvature.eigenpairs import Eigenpairs as Eigenpairs
from jaxflow.curvature.eigenpairs import sharpness as sharpness
from jaxflow.curvature.eigenpairs import top_eigenpairs as top_eigenpairs
from jaxflow.curvature.estimate import Estimate as Estimate
from jaxflow.curvature.preconditioners import preconditioner_of as preconditioner_of
from jaxflow.curvature.products import ggn_vp as ggn_vp
from jaxflow.curvature.products import hvp as hvp
from jaxflow.curvature.products import third_derivative as third_derivative
from jaxflow.curvature.recording import SharpnessRecord as SharpnessRecord
from jaxflow.curvature.recording import along as along
from jaxflow.curvature.recording import record_sharpness as record_sharpness
from jaxflow.curvature.thresholds import stability_threshold as stability_threshold
from jaxflow.curvature.traces import saddle_index as saddle_index
from jaxflow.curvature.traces import trace as trace
