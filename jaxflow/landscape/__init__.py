"""The shape of a loss: paths between its minima, the saddles on them, minima that differ by an order of units."""

from jaxflow.landscape.alignment.permuted import Alignment as Alignment
from jaxflow.landscape.alignment.permuted import align as align
from jaxflow.landscape.paths.bands import neb as neb
from jaxflow.landscape.paths.curves import curve as curve
from jaxflow.landscape.paths.fire import FireState as FireState
from jaxflow.landscape.paths.fire import fire as fire
from jaxflow.landscape.paths.path import Path as Path
from jaxflow.landscape.paths.spanning_tree import SpanningTree as SpanningTree
from jaxflow.landscape.paths.spanning_tree import connect as connect
from jaxflow.landscape.paths.straight import interpolate as interpolate
from jaxflow.landscape.paths.straight import refine as refine
