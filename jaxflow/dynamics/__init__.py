"""Continuous time: what a state's velocity is, as pytrees of the objective and the hyperparameters."""

from jaxflow._traceable import traceable as traceable
from jaxflow.dynamics.base import Dynamics as Dynamics
from jaxflow.dynamics.base import Field as Field
from jaxflow.dynamics.flows import gradient_flow as gradient_flow
