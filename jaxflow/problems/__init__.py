"""Problems to optimise: functions with known answers, regressions, games, and small networks on real data."""

from jaxflow.problems.data.datasets import DATASETS as DATASETS
from jaxflow.problems.data.datasets import Dataset as Dataset
from jaxflow.problems.data.datasets import load as load
from jaxflow.problems.data.datasets import split as split
from jaxflow.problems.functions.quadratics import quadratic as quadratic
from jaxflow.problems.functions.quadratics import ravine as ravine
from jaxflow.problems.functions.scalar import double_well as double_well
from jaxflow.problems.functions.scalar import sines_minus_parabola as sines_minus_parabola
from jaxflow.problems.functions.scalar import x_plus_sin_x as x_plus_sin_x
from jaxflow.problems.functions.scalar import x_sin_x as x_sin_x
from jaxflow.problems.functions.surfaces import beale as beale
from jaxflow.problems.functions.surfaces import himmelblau as himmelblau
from jaxflow.problems.functions.surfaces import muller_brown as muller_brown
from jaxflow.problems.functions.surfaces import rosenbrock as rosenbrock
from jaxflow.problems.games.adversarial import GANPlayers as GANPlayers
from jaxflow.problems.games.adversarial import gan as gan
from jaxflow.problems.games.adversarial import ring_of_gaussians as ring_of_gaussians
from jaxflow.problems.games.known_games import bilinear as bilinear
from jaxflow.problems.games.known_games import dirac_gan as dirac_gan
from jaxflow.problems.games.self_supervision import self_supervised as self_supervised
from jaxflow.problems.games.simsiam_theory import SimSiamModes as SimSiamModes
from jaxflow.problems.games.simsiam_theory import optimal_predictor as optimal_predictor
from jaxflow.problems.games.simsiam_theory import simsiam_modes as simsiam_modes
from jaxflow.problems.games.two_branches import BYOLPlayers as BYOLPlayers
from jaxflow.problems.games.two_branches import SimSiamPlayers as SimSiamPlayers
from jaxflow.problems.losses import PredictionLosses as PredictionLosses
from jaxflow.problems.models.networks import ACTIVATIONS as ACTIVATIONS
from jaxflow.problems.models.networks import mlp as mlp
from jaxflow.problems.models.regression import linear_regression as linear_regression
from jaxflow.problems.models.regression import logistic_regression as logistic_regression
from jaxflow.problems.models.wrapping import wrap as wrap
from jaxflow.problems.problem import Problem as Problem

# The functions that need no argument, by name, for whoever lets a user choose one.
FUNCTIONS = {
    function.__name__: function
    for function in (
        beale,
        double_well,
        himmelblau,
        muller_brown,
        ravine,
        rosenbrock,
        sines_minus_parabola,
        x_plus_sin_x,
        x_sin_x,
    )
}
