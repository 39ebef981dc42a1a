"""Optimizers step by step: the quick version of each result against theory computed here, independently."""

import numpy as np
import pytest
from experiment_files import check_files

pytestmark = pytest.mark.promotes

NAMES = ("directional_derivatives",)


@pytest.mark.parametrize("name", NAMES)
def test_figure_and_numbers_are_written_whole_and_claims_reached(run, name):
    """Random claims have intervals of four standard errors: a false alarm in 16,000 seeds, and seeds are fixed."""
    content = check_files(name, *run(name))
    missed = [what for what, line in content["headlines"].items() if line["reached"] is False]
    assert not missed


def test_the_highest_step_turns_away_from_the_gradient_by_curvature(run):
    """At (½, 1) the function (x² + y − 11)² + (x + y² − 7)² has g = (−30.5, −41.5) and H = ((−35, 6), (6, −12))."""
    found = run("directional_derivatives")[0]
    g, hessian = np.array([-30.5, -41.5]), np.array([[-35.0, 6.0], [6.0, -12.0]])
    u = g / np.linalg.norm(g)
    turn = abs(np.array([-u[1], u[0]]) @ hessian @ u) / np.linalg.norm(g)
    h = np.asarray(found["lengths"])
    assert found["highest"] / (turn * h) == pytest.approx(np.ones(h.size), abs=0.1)
    bend = np.abs(np.linalg.eigvalsh(hessian)).max() / 2
    assert found["plane"] / (bend * h**2) == pytest.approx(np.ones(h.size), abs=0.1)
    assert found["symmetric"][-1] < 1e-3 * found["highest"][-1]
