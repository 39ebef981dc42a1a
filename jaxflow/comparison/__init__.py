"""Distances between trajectories and the orders at which they close."""

from jaxflow.comparison.compare import Comparison as Comparison
from jaxflow.comparison.compare import compare as compare
from jaxflow.comparison.order import Order as Order
from jaxflow.comparison.order import order_of_accuracy as order_of_accuracy
