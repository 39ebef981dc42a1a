"""The Müller–Brown surface's elastic band by another library, ASE, where it is installed (`pip install ase`).

It is no dependency. Its band is set up as suits it here: improved tangents with a climbing image, of evenly spaced
images on the straight line, as ours.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# The constants of Müller & Brown (1979), and stationary points to all digits.
HEIGHT = np.array([-200.0, -100.0, -170.0, 15.0])
XX, XY, YY = np.array([-1, -1, -6.5, 0.7]), np.array([0, 0, 11, 0.6]), np.array([-10, -10, -6.5, 0.7])
X, Y = np.array([1, 0, -0.5, -1]), np.array([0, 0.5, 1.5, 1])
MINIMA = {
    "left": np.array([-0.558223634633, 1.441725841805]),
    "middle": np.array([-0.050010822998, 0.466694104872]),
    "right": np.array([0.623499404931, 0.028037758529]),
}
IMAGES = 9


class Saddle(NamedTuple):
    """A saddle of the surface: the minima that it is between, and its height and place to all digits."""

    between: tuple[str, str]
    height: float
    place: np.ndarray


SADDLES = (
    Saddle(("left", "middle"), -40.664843508657, np.array([-0.822001558733, 0.624312802815])),
    Saddle(("middle", "right"), -72.248940112325, np.array([0.212486582001, 0.292988325107])),
)


class Found(NamedTuple):
    """What a band found, and the evaluations of the surface that it took."""

    height: float
    evaluations: int


def surface(place: np.ndarray) -> tuple[float, np.ndarray]:
    """The energy and its gradient at one place."""
    dx, dy = place[0] - X, place[1] - Y
    parts = HEIGHT * np.exp(XX * dx * dx + XY * dx * dy + YY * dy * dy)
    slope = [parts @ (2 * XX * dx + XY * dy), parts @ (XY * dx + 2 * YY * dy)]
    return float(parts.sum()), np.array(slope)


def by_ase(saddle: Saddle, optimizer: str, spring: float, tolerance: float, **settings: Any) -> Found:
    """A band of ASE's between two minima, relaxed until no force is above the tolerance."""
    import ase.optimize
    from ase import Atoms
    from ase.calculators.calculator import Calculator, all_changes
    from ase.mep import NEB

    counted = []

    class Surface(Calculator):
        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, list(properties), system_changes)
            counted.append(1)
            energy, slope = surface(self.atoms.positions[0, :2])
            self.results = {"energy": energy, "forces": np.array([[-slope[0], -slope[1], 0.0]])}

    first, last = (MINIMA[name] for name in saddle.between)
    line = first + np.linspace(0, 1, IMAGES)[:, None] * (last - first)
    images = [Atoms("H", positions=[(*place, 0.0)]) for place in line]
    for image in images:
        image.calc = Surface()
    band = NEB(images, k=spring, climb=True, method="improvedtangent")
    getattr(ase.optimize, optimizer)(band, logfile=None, **settings).run(fmax=tolerance, steps=4000)
    return Found(max(image.get_potential_energy() for image in images), len(counted))


BANDS: dict[str, Callable[..., Found]] = {}
MISSING = () if importlib.util.find_spec("ase") else ("ASE",)
if not MISSING:
    # Of springs .1 … 1000: FIRE with its default steps needs fewest evaluations at 100. Of all its optimizers the
    # best here is MDMin, at this step and spring; the L-BFGS that is faster between two minima never ends between
    # the others.
    BANDS["ASE, FIRE"] = lambda saddle, tolerance: by_ase(saddle, "FIRE", 100.0, tolerance)
    BANDS["ASE, MDMin"] = lambda saddle, tolerance: by_ase(saddle, "MDMin", 1000.0, tolerance, dt=0.01)
