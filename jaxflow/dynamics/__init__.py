"""Continuous time: what a state's velocity is, as pytrees of the objective and the hyperparameters."""

from jaxflow._traceable import traceable as traceable
from jaxflow.dynamics import noise as noise
from jaxflow.dynamics.base import Dynamics as Dynamics
from jaxflow.dynamics.base import Field as Field
from jaxflow.dynamics.diffusions import langevin as langevin
from jaxflow.dynamics.diffusions import sgd as sgd
from jaxflow.dynamics.flows import gradient_flow as gradient_flow
from jaxflow.dynamics.noise import minibatch_noise as minibatch_noise
from jaxflow.dynamics.temperature import batch_factor as batch_factor
from jaxflow.dynamics.temperature import temperature as temperature
