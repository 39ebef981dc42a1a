"""Time stepping: `iterate` for optimizers, `integrate` for dynamics, `ensemble` for many of either."""

from typing import TYPE_CHECKING, Any

from jaxflow.solve import metrics as metrics
from jaxflow.solve.discrete.estimators import Draws as Draws
from jaxflow.solve.discrete.estimators import Estimator as Estimator
from jaxflow.solve.discrete.estimators import epochs as epochs
from jaxflow.solve.discrete.estimators import full_batch as full_batch
from jaxflow.solve.discrete.estimators import masked_draws as masked_draws
from jaxflow.solve.discrete.estimators import svag as svag
from jaxflow.solve.discrete.estimators import with_replacement as with_replacement
from jaxflow.solve.discrete.estimators import without_replacement as without_replacement
from jaxflow.solve.discrete.optimizer_steps import IterationState as IterationState
from jaxflow.solve.discrete.optimizer_steps import begin as begin
from jaxflow.solve.ensembles import ensemble as ensemble
from jaxflow.solve.integration import integrate as integrate
from jaxflow.solve.iteration import iterate as iterate
from jaxflow.solve.ode.diffrax_solves.events import gradient_norm_below as gradient_norm_below
from jaxflow.solve.training import train as train
from jaxflow.solve.trajectories.pieces import join as join
from jaxflow.solve.trajectories.trajectory import Trajectory as Trajectory

if TYPE_CHECKING:
    from jaxflow.solve.ode.diffrax_solves.rkc import RKC2 as RKC2


def __getattr__(name: str) -> Any:
    """`RKC2` is a class of diffrax's, which takes as long to import as all else, and is imported when it is used."""
    if name == "RKC2":
        from jaxflow.solve.ode.diffrax_solves.rkc import RKC2

        return RKC2
    raise AttributeError(f"module 'jaxflow.solve' has no attribute {name!r}")
