"""What a network's derivatives say of its predictions: tangent kernels, the lazy limit, and path kernels."""

from jaxflow.kernels.tangent_kernel import tangent_kernel as tangent_kernel
from jaxflow.kernels.tangent_kernel import tangent_kernel_product as tangent_kernel_product
