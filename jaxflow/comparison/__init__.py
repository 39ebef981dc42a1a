"""Distances between trajectories and the orders at which they close."""

from jaxflow.comparison.distance import Comparison as Comparison
from jaxflow.comparison.distance import compare as compare
from jaxflow.comparison.edge.experiment import edge_study as edge_study
from jaxflow.comparison.edge.period_two import midpoints as midpoints
from jaxflow.comparison.edge.results import EdgePath as EdgePath
from jaxflow.comparison.edge.results import EdgeStudy as EdgeStudy
from jaxflow.comparison.laws.energy import energy_distance as energy_distance
from jaxflow.comparison.laws.ensembles import compare_ensembles as compare_ensembles
from jaxflow.comparison.laws.moments import Moments as Moments
from jaxflow.comparison.laws.moments import moment_descent as moment_descent
from jaxflow.comparison.laws.moments import moment_flow as moment_flow
from jaxflow.comparison.laws.one_dimensional import wasserstein as wasserstein
from jaxflow.comparison.laws.verdict import EnsembleComparison as EnsembleComparison
from jaxflow.comparison.orders.modified_equations import OrderStudy as OrderStudy
from jaxflow.comparison.orders.modified_equations import order_study as order_study
from jaxflow.comparison.orders.slope import Order as Order
from jaxflow.comparison.orders.slope import order_of_accuracy as order_of_accuracy
from jaxflow.comparison.orders.weak import weak_order as weak_order
from jaxflow.optim.rules.batch_size import rescale as rescale
from jaxflow.optim.rules.families import family_of as family_of
