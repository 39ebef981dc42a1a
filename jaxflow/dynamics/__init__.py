"""Continuous time: what a state's velocity is, as pytrees of the objective and the hyperparameters."""

from jaxflow._traceable import traceable as traceable
from jaxflow.dynamics import noise as noise
from jaxflow.dynamics.adaptive import AdamState as AdamState
from jaxflow.dynamics.adaptive import RMSPropState as RMSPropState
from jaxflow.dynamics.adaptive import adam as adam
from jaxflow.dynamics.adaptive import rmsprop as rmsprop
from jaxflow.dynamics.base import Dynamics as Dynamics
from jaxflow.dynamics.base import Field as Field
from jaxflow.dynamics.base import Prefix as Prefix
from jaxflow.dynamics.clock import in_time as in_time
from jaxflow.dynamics.covariance import NoiseScale as NoiseScale
from jaxflow.dynamics.covariance import gradient_covariance as gradient_covariance
from jaxflow.dynamics.covariance import noise_scale as noise_scale
from jaxflow.dynamics.diffusions import langevin as langevin
from jaxflow.dynamics.diffusions import sgd as sgd
from jaxflow.dynamics.flows import gradient_flow as gradient_flow
from jaxflow.dynamics.inertial import InertialState as InertialState
from jaxflow.dynamics.inertial import momentum as momentum
from jaxflow.dynamics.inertial import nesterov_sgd as nesterov_sgd
from jaxflow.dynamics.named import sde_of as sde_of
from jaxflow.dynamics.noise import minibatch_noise as minibatch_noise
from jaxflow.dynamics.signed import sign_sgd as sign_sgd
from jaxflow.dynamics.temperature import batch_factor as batch_factor
from jaxflow.dynamics.temperature import temperature as temperature
from jaxflow.dynamics.underdamped import LangevinState as LangevinState
from jaxflow.dynamics.underdamped import underdamped_langevin as underdamped_langevin
