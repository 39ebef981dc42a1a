"""What a network's derivatives say of its predictions: tangent kernels, the lazy limit, and path kernels."""

from jaxflow.kernels.kernel_machine import KernelMachine as KernelMachine
from jaxflow.kernels.kernel_machine import Support as Support
from jaxflow.kernels.lazy import Predictions as Predictions
from jaxflow.kernels.lazy import lazy_flow as lazy_flow
from jaxflow.kernels.lazy import lazy_predictions as lazy_predictions
from jaxflow.kernels.linearization import linearized as linearized
from jaxflow.kernels.path_flow import PathState as PathState
from jaxflow.kernels.path_flow import path_flow as path_flow
from jaxflow.kernels.path_kernel import path_kernel as path_kernel
from jaxflow.kernels.tangent_kernel import tangent_kernel as tangent_kernel
from jaxflow.kernels.tangent_kernel import tangent_kernel_product as tangent_kernel_product
