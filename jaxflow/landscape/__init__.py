"""The shape of a loss: its saddles, how many directions lead down from them, and the paths between its minima."""

from jaxflow.curvature import saddle_index as saddle_index
from jaxflow.landscape.paths.bands import neb as neb
from jaxflow.landscape.paths.curves import curve as curve
from jaxflow.landscape.paths.fire import FireState as FireState
from jaxflow.landscape.paths.fire import fire as fire
from jaxflow.landscape.paths.path import Path as Path
from jaxflow.landscape.paths.spanning_tree import SpanningTree as SpanningTree
from jaxflow.landscape.paths.spanning_tree import connect as connect
from jaxflow.landscape.paths.straight import interpolate as interpolate
from jaxflow.landscape.paths.straight import refine as refine
from jaxflow.landscape.saddles.along_losses import IndexAgainstLoss as IndexAgainstLoss
from jaxflow.landscape.saddles.along_losses import index_against_loss as index_against_loss
from jaxflow.landscape.saddles.critical_point import CriticalPoint as CriticalPoint
from jaxflow.landscape.saddles.critical_point import find_critical_point as find_critical_point
from jaxflow.landscape.saddles.escape import escape_directions as escape_directions
from jaxflow.landscape.saddles.escape import escape_time as escape_time
from jaxflow.landscape.saddles.escape import mean_exit_time as mean_exit_time
