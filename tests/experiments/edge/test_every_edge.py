"""`edge_of_every_optimizer` in its quick form: files, and distances of gradient descent that theory orders."""

import pytest
from experiment_files import check_files

pytestmark = pytest.mark.promotes
NAME = "edge_of_every_optimizer"
FLOWS = "pairs, order 2", "stable flow", "a run 1e-9 away"


def test_figure_and_numbers_are_written_whole(run):
    check_files(NAME, *run(NAME))


def test_below_the_edge_pairs_lack_what_the_stable_flow_lacks(run):
    """Until the oscillation is large the stable flow errs at the first order in the rate, pairs of order 2 at it."""
    gaps = run(NAME)[0]["runs"]["gradient descent"]["gaps"]
    early = slice(10, 40)
    pairs, stable, neighbours = (gaps[name][0, early] for name in FLOWS)
    assert (pairs < 0.3 * stable).all()
    assert (neighbours < 1e-6).all()
