"""Distances between trajectories and the orders at which they close."""

from jaxflow.comparison.compare import Comparison as Comparison
from jaxflow.comparison.compare import compare as compare
from jaxflow.comparison.edge import edge_study as edge_study
from jaxflow.comparison.edge_paths import EdgePath as EdgePath
from jaxflow.comparison.edge_paths import EdgeStudy as EdgeStudy
from jaxflow.comparison.energy import energy_distance as energy_distance
from jaxflow.comparison.ensembles import compare_ensembles as compare_ensembles
from jaxflow.comparison.families import family_of as family_of
from jaxflow.comparison.marginals import wasserstein as wasserstein
from jaxflow.comparison.midpoints import midpoints as midpoints
from jaxflow.comparison.moments import Moments as Moments
from jaxflow.comparison.moments import moment_descent as moment_descent
from jaxflow.comparison.moments import moment_flow as moment_flow
from jaxflow.comparison.order import Order as Order
from jaxflow.comparison.order import order_of_accuracy as order_of_accuracy
from jaxflow.comparison.scaling import rescale as rescale
from jaxflow.comparison.study import OrderStudy as OrderStudy
from jaxflow.comparison.study import order_study as order_study
from jaxflow.comparison.verdict import EnsembleComparison as EnsembleComparison
from jaxflow.comparison.weak import weak_order as weak_order
