"""Continuous time: dynamics that give a state its velocity, as pytrees of objective and hyperparameters.

A name with `sgd`, `sde` or `langevin` in it is a stochastic differential equation: `sgd`, `momentum_sgd`,
`nesterov_sgd`, `sign_sgd`, `rmsprop_sde`, `adam_sde`, `modified_sde`, `langevin`, `underdamped_langevin`. Every other
name is an ordinary one. `limit_of` finds the ordinary equation of an optimizer, and `sde_of` its stochastic one.
"""

from typing import Any

from jaxflow._traceable import traceable as traceable
from jaxflow.dynamics import clock
from jaxflow.dynamics import noise as noise
from jaxflow.dynamics.base import Dynamics as Dynamics
from jaxflow.dynamics.base import Field as Field
from jaxflow.dynamics.base import Prefix as Prefix
from jaxflow.dynamics.clock import schedule_in_time as schedule_in_time
from jaxflow.dynamics.diffusions import inertial
from jaxflow.dynamics.diffusions.averaged_squares import adam as adam
from jaxflow.dynamics.diffusions.averaged_squares import adam_sde as adam_sde
from jaxflow.dynamics.diffusions.averaged_squares import rmsprop as rmsprop
from jaxflow.dynamics.diffusions.averaged_squares import rmsprop_sde as rmsprop_sde
from jaxflow.dynamics.diffusions.first_order import langevin as langevin
from jaxflow.dynamics.diffusions.first_order import sgd as sgd
from jaxflow.dynamics.diffusions.inertial import InertialState as InertialState
from jaxflow.dynamics.diffusions.inertial import momentum_sgd as momentum_sgd
from jaxflow.dynamics.diffusions.inertial import nesterov_sgd as nesterov_sgd
from jaxflow.dynamics.diffusions.sign_of_gradient import sign_sgd as sign_sgd
from jaxflow.dynamics.diffusions.underdamped import LangevinState as LangevinState
from jaxflow.dynamics.diffusions.underdamped import underdamped_langevin as underdamped_langevin
from jaxflow.dynamics.edge.central import central_flow as central_flow
from jaxflow.dynamics.edge.central_state import CentralRecord as CentralRecord
from jaxflow.dynamics.edge.central_state import CentralState as CentralState
from jaxflow.dynamics.edge.pairs import PairRecord as PairRecord
from jaxflow.dynamics.edge.pairs import PairState as PairState
from jaxflow.dynamics.edge.pairs import pair_flow as pair_flow
from jaxflow.dynamics.edge.pairs import pair_state as pair_state
from jaxflow.dynamics.edge.pairs import record_pairs as record_pairs
from jaxflow.dynamics.edge.pairs import rod_flow as rod_flow
from jaxflow.dynamics.edge.stable import StableState as StableState
from jaxflow.dynamics.edge.stable import stable_flow as stable_flow
from jaxflow.dynamics.edge.state_conversion import flow_state as flow_state
from jaxflow.dynamics.edge.state_conversion import optimizer_state as optimizer_state
from jaxflow.dynamics.equations_of_optimizer import limit_of as limit_of
from jaxflow.dynamics.equations_of_optimizer import sde_of as sde_of
from jaxflow.dynamics.flows.averaged_squares import AdamState as AdamState
from jaxflow.dynamics.flows.averaged_squares import RMSPropState as RMSPropState
from jaxflow.dynamics.flows.damped_oscillators import heavy_ball as heavy_ball
from jaxflow.dynamics.flows.damped_oscillators import nesterov as nesterov
from jaxflow.dynamics.flows.first_order import gradient_flow as gradient_flow
from jaxflow.dynamics.flows.first_order import (
    implicit_gradient_regularization as implicit_gradient_regularization,
)
from jaxflow.dynamics.flows.first_order import momentum_loss_flow as momentum_loss_flow
from jaxflow.dynamics.flows.first_order import sign_descent as sign_descent
from jaxflow.dynamics.flows.hessian_flows import PrincipalState as PrincipalState
from jaxflow.dynamics.flows.hessian_flows import newton_flow as newton_flow
from jaxflow.dynamics.flows.hessian_flows import principal_flow as principal_flow
from jaxflow.dynamics.flows.summed_squares import AdagradState as AdagradState
from jaxflow.dynamics.flows.summed_squares import adagrad as adagrad
from jaxflow.dynamics.modified_equations.effective_loss import Effective as Effective
from jaxflow.dynamics.modified_equations.effective_loss import effective as effective
from jaxflow.dynamics.modified_equations.expansion import coefficients as coefficients
from jaxflow.dynamics.modified_equations.series_convergence import Convergence as Convergence
from jaxflow.dynamics.modified_equations.series_convergence import convergence as convergence
from jaxflow.dynamics.modified_equations.slow_flow import slow_manifold as slow_manifold
from jaxflow.dynamics.modified_equations.step_logarithm import ModifiedState as ModifiedState
from jaxflow.dynamics.modified_equations.step_logarithm import modified_state as modified_state
from jaxflow.dynamics.modified_equations.stochastic_equation import modified as modified
from jaxflow.dynamics.modified_equations.stochastic_equation import modified_sde as modified_sde
from jaxflow.dynamics.noise.batch_temperature import batch_factor as batch_factor
from jaxflow.dynamics.noise.batch_temperature import temperature as temperature
from jaxflow.dynamics.noise.covariance import NoiseScale as NoiseScale
from jaxflow.dynamics.noise.covariance import gradient_covariance as gradient_covariance
from jaxflow.dynamics.noise.covariance import noise_scale as noise_scale
from jaxflow.dynamics.noise.minibatch import minibatch_noise as minibatch_noise


def __getattr__(name: str) -> Any:
    """A name that breaks the rule, of earlier versions; calling it warns."""
    if name == "momentum":
        return inertial.momentum
    if name == "in_time":
        return clock.in_time
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
