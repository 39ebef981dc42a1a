"""The double well's density by a spectral reference, and by other libraries where they are installed.

They are no dependencies: `pip install fplanck py-pde fipy` (the first needs Python ≥ 3.12). Each is set up as suits
it best here, is given the values at the middles of the cells, and returns those after a unit of time.
"""

import importlib.util
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.polynomial import legendre

END, TEMPERATURE, PLACE, VARIANCE = 2.2, 0.15, -1.0, 0.05
Solver = Callable[[], np.ndarray]


def well(x):
    return (x * x - 1) ** 2


def slope(x):
    return 4 * x * (x * x - 1)


def middles(cells: int) -> np.ndarray:
    return END * (2 * (np.arange(cells) + 0.5) / cells - 1)


def start(cells: int) -> np.ndarray:
    values = np.exp(-((middles(cells) - PLACE) ** 2) / (2 * VARIANCE))
    return values / (values.sum() * 2 * END / cells)


def reference(cells: int, modes: int = 200, poles: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """The density at t = 1, at the middles of cells and averaged over them, to 1e-12 with neither cells nor steps.

    In Legendre polynomials the weak form keeps the walls reflecting. The exponential of its matrix is an integral
    over Talbot's contour. An eigendecomposition made symmetric by the law at rest would lose the digits of the tails.

    Source: Talbot (1979); Weideman (2006), SIAM J. Numer. Anal. 44, 2342.
    """
    nodes, weights = legendre.leggauss(2 * modes)
    x, weights = END * nodes, END * weights
    scale = np.sqrt((np.arange(modes) + 0.5) / END)  # of norm 1
    values = legendre.legvander(nodes, modes - 1) * scale
    slopes = legendre.legval(nodes, legendre.legder(np.eye(modes))).T * scale / END
    matrix = slopes.T @ (weights[:, None] * (slope(x)[:, None] * values + TEMPERATURE * slopes))
    begun = weights * np.exp(-((x - PLACE) ** 2) / (2 * VARIANCE))
    begun = values.T @ (begun / begun.sum())
    angle = (2 * np.arange(poles // 2) + 1) * np.pi / poles
    place = poles * (0.5017 * angle / np.tan(0.6407 * angle) - 0.6122 + 0.2645j * angle)
    speed = 0.5017 / np.tan(0.6407 * angle) - 0.5017 * 0.6407 * angle / np.sin(0.6407 * angle) ** 2 + 0.2645j
    terms = [
        np.exp(z) * dz * np.linalg.solve(z * np.eye(modes) + matrix, begun)
        for z, dz in zip(place, speed, strict=True)
    ]
    series = scale * 2 * np.sum(terms, 0).imag
    masses = np.diff(legendre.legval(np.linspace(-1, 1, cells + 1), legendre.legint(series)))
    return legendre.legval(middles(cells) / END, series), masses * cells / 2


def by_fplanck(cells: int) -> Solver:
    """Its chain by the potential, of which a force besides would double the diffusion; SciPy's `expm_multiply`."""
    from fplanck.solver import FokkerPlanck
    from scipy.constants import k

    width = 2 * END / cells * (1 + 1e-14)  # it rounds the number of cells up
    chain = FokkerPlanck(
        temperature=TEMPERATURE / k, drag=1.0, extent=2 * END, resolution=width, potential=well
    )
    return lambda: chain.propagate(lambda x: start(cells), 1.0) * cells / (2 * END)


def by_py_pde(cells: int, **settings) -> Solver:
    """Central differences, and SciPy's adaptive steps: Runge & Kutta's of order 4, 5, if nothing else is said."""
    import pde

    grid = pde.CartesianGrid([(-END, END)], cells)
    pull = pde.ScalarField(grid, slope(middles(cells)))
    equation = pde.PDE(
        {"p": "d_dx(pull * p) + T * laplace(p)"},
        consts={"T": TEMPERATURE, "pull": pull},
        bc={"value": 0},  # no mass comes near the walls
    )
    begun = pde.ScalarField(grid, start(cells))
    return lambda: equation.solve(begun, 1.0, solver="scipy", tracker=None, **settings).data


# Implicit steps where they are due, which are told that the matrix has three diagonals.
IN_BANDS = {"method": "LSODA", "lband": 1, "uband": 1}


def by_fipy(cells: int, steps: int = 400) -> Solver:
    """Its exponential scheme, of the mean force along each edge, with implicit steps, of order 1.

    Its factorisation is told to be exact: by default it leaves an error of 1e-3.
    """
    import fipy

    mesh = fipy.Grid1D(nx=cells, Lx=2 * END) - [[END]]
    faces = slope(mesh.faceCenters[0].value)
    faces[1:-1] = np.diff(well(middles(cells))) * cells / (2 * END)
    density = fipy.CellVariable(mesh=mesh, value=start(cells))
    force = fipy.FaceVariable(mesh=mesh, rank=1, value=[faces])
    flow = fipy.DiffusionTerm(coeff=TEMPERATURE) + fipy.ExponentialConvectionTerm(coeff=force)
    equation, exact = fipy.TransientTerm() == flow, fipy.LinearLUSolver(tolerance=1e-12)

    def solve():
        density.setValue(start(cells))
        for _ in range(steps):
            equation.solve(var=density, dt=1 / steps, solver=exact)
        return np.array(density.value)

    return solve


# By name: the module that must be there, who makes a solver from a number of cells, and that number. Central
# differences reach our error with 10,000 cells.
PEERS = {
    "fplanck": ("fplanck", by_fplanck, 400),
    "py-pde": ("pde", by_py_pde, 400),
    "py-pde, LSODA": ("pde", partial(by_py_pde, **IN_BANDS), 400),
    "py-pde, LSODA, 10,000 cells": ("pde", partial(by_py_pde, **IN_BANDS, rtol=1e-5, atol=1e-8), 10_000),
    "FiPy, 400 steps": ("fipy", by_fipy, 400),
}
INSTALLED = {name: peer for name, peer in PEERS.items() if importlib.util.find_spec(peer[0])}
MISSING = [name for name in PEERS if name not in INSTALLED]
