"""Problems to optimise: functions with known answers, regressions, games, and small networks on real data."""

from jaxflow.problems.datasets import DATASETS as DATASETS
from jaxflow.problems.datasets import Dataset as Dataset
from jaxflow.problems.datasets import load as load
from jaxflow.problems.datasets import split as split
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
from jaxflow.problems.networks import ACTIVATIONS as ACTIVATIONS
from jaxflow.problems.networks import mlp as mlp
from jaxflow.problems.problem import Problem as Problem
from jaxflow.problems.quadratics import quadratic as quadratic
from jaxflow.problems.quadratics import ravine as ravine
from jaxflow.problems.regression import linear_regression as linear_regression
from jaxflow.problems.regression import logistic_regression as logistic_regression
from jaxflow.problems.scalar import double_well as double_well
from jaxflow.problems.scalar import sines_minus_parabola as sines_minus_parabola
from jaxflow.problems.scalar import x_plus_sin_x as x_plus_sin_x
from jaxflow.problems.scalar import x_sin_x as x_sin_x
from jaxflow.problems.surfaces import beale as beale
from jaxflow.problems.surfaces import himmelblau as himmelblau
from jaxflow.problems.surfaces import muller_brown as muller_brown
from jaxflow.problems.surfaces import rosenbrock as rosenbrock
from jaxflow.problems.wrapping import wrap as wrap

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
