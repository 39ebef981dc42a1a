"""The experiment on paths between minima of networks in its quick form, once: against losses of NumPy's own."""

import numpy as np
import pytest
from experiment_files import check_files

import jaxflow as jf
from experiments.landscapes import no_barriers

pytestmark = pytest.mark.promotes


def test_figure_and_numbers_are_written_whole(run):
    returned, output = run("no_barriers")
    content = check_files("no_barriers", returned, output)
    assert len(content["edges"]["bands"]) == len(content["losses"]) - 1 == 2


def by_path(measured, what):
    """The numbers of each path, by its name."""
    return {key.rpartition(what)[2]: value for key, value in measured.items() if what in key}


def test_bends_go_round_barriers_and_order_takes_them_away(measured):
    """At 16 units, of one pair: it is sure by factors, not to the digit."""
    numbers = measured("no_barriers")
    assert numbers["largest norm of the gradient at a minimum"] < 1e-5
    (wide,) = np.transpose(list(by_path(numbers, "barrier at h = 16, ").values()))
    straight, ordered, signed, chain, bezier, band = wide
    assert straight > 0.2
    assert ordered < 0.6 * straight
    assert signed < 0.3 * ordered
    assert max(chain, bezier) < straight / 10
    assert band < straight / 40
    lost = by_path(numbers, "test accuracy lost on the way, ")
    assert lost["straight"] > 0.08
    assert lost["band (AutoNEB)"] < 0.015


def test_images_go_down_while_the_loss_between_them_does_not(measured):
    numbers = measured("no_barriers")
    at_images = by_path(numbers, "9 images, 50, 200, 800 steps: barrier at the ")["images"]
    densely = numbers["the same, with nine points between every two"]
    assert at_images[0] > 5 * at_images[1] > 5 * at_images[2]
    assert min(densely) > 5 * at_images[2]


def test_a_tree_of_bands_is_lower_than_one_of_lines(run):
    content = run("no_barriers")[0]
    losses = np.array(content["losses"])
    bands, lines = (np.array(content["heights"][kind]) - losses.max() for kind in ("bands", "straight lines"))
    assert (bands < 0.01).all()
    assert (lines > 0.2).all()


def test_barriers_of_straight_lines_by_numpy(run):
    """The same pair of minima, and a NumPy forward pass on all training examples at 51 points."""
    examples = no_barriers.EXAMPLES[True]
    problem, objective = no_barriers.digits(examples)
    (a, b), slopes = no_barriers.minima(objective, no_barriers.SHOWN, 2)
    x, y = (np.asarray(problem.objective.data[name], float)[:examples] for name in ("x", "y"))

    def loss(params):
        first, last = params
        f = np.tanh(x @ first["w"] + first["b"]) @ last["w"] + last["b"]
        f = f - f.max(1, keepdims=True)
        chosen = (f * y).sum(1) if y.ndim == 2 else f[np.arange(len(f)), y.astype(int)]
        size = sum(np.sum(np.asarray(part) ** 2) for layer in params for part in layer.values())
        return np.mean(np.log(np.exp(f).sum(1)) - chosen) + 5e-4 * size

    def barrier(a, b):
        line = [
            loss(
                [
                    {key: (1 - t) * np.asarray(p[key]) + t * np.asarray(q[key]) for key in p}
                    for p, q in zip(a, b, strict=True)
                ]
            )
            for t in np.linspace(0, 1, 51)
        ]
        return np.max(line - np.linspace(line[0], line[-1], 51))

    content = run("no_barriers")[0]
    known = {name: content["barriers"][name][-1][0] for name in no_barriers.NAMES[:3]}
    ordered, signed = (jf.landscape.align(a, b, signs=signs).params for signs in (False, True))
    found = [barrier(a, end) for end in (b, ordered, signed)]
    np.testing.assert_allclose(found, list(known.values()), rtol=1e-3)
    assert max(slopes) < 1e-5
