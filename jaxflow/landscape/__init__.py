"""The shape of a loss: slices, paths between minima, saddles, and networks that differ by the order of units."""

from jaxflow.landscape.alignment.permuted import Alignment as Alignment
from jaxflow.landscape.alignment.permuted import align as align
from jaxflow.landscape.paths.band_fields import band_field as band_field
from jaxflow.landscape.paths.bands import neb as neb
from jaxflow.landscape.paths.curves import curve as curve
from jaxflow.landscape.paths.fire import FireState as FireState
from jaxflow.landscape.paths.fire import fire as fire
from jaxflow.landscape.paths.path import Path as Path
from jaxflow.landscape.paths.spanning_tree import SpanningTree as SpanningTree
from jaxflow.landscape.paths.spanning_tree import connect as connect
from jaxflow.landscape.paths.straight import interpolate as interpolate
from jaxflow.landscape.paths.straight import path_through as path_through
from jaxflow.landscape.paths.straight import refine as refine
from jaxflow.landscape.slices.directions import Directions as Directions
from jaxflow.landscape.slices.directions import between as between
from jaxflow.landscape.slices.directions import eigen_directions as eigen_directions
from jaxflow.landscape.slices.filters import default_filters as default_filters
from jaxflow.landscape.slices.filters import random_directions as random_directions
from jaxflow.landscape.slices.planes import Slice as Slice
from jaxflow.landscape.slices.planes import slice as slice
from jaxflow.landscape.slices.principal import principal_directions as principal_directions
from jaxflow.landscape.slices.projection import Projection as Projection
from jaxflow.landscape.slices.projection import project as project
