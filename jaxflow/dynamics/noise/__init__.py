"""Mini-batch noise: random vectors with its covariance, the covariance itself, and its temperature."""

from jaxflow import _moved
from jaxflow.dynamics.noise.minibatch import Noise as Noise
from jaxflow.dynamics.noise.minibatch import Sampling as Sampling
from jaxflow.dynamics.noise.minibatch import full as full
from jaxflow.dynamics.noise.minibatch import minibatch_noise as minibatch_noise
from jaxflow.dynamics.noise.minibatch import subset as subset
from jaxflow.dynamics.noise.minibatch import two_batches as two_batches

__getattr__ = _moved.forward_names("jaxflow.dynamics.noise", "jaxflow.dynamics.noise.minibatch")
