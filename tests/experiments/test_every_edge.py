"""`edge_of_every_optimizer` in its quick form: files, and distances of gradient descent that theory orders."""

import pytest
from experiment_files import check_files

pytestmark = pytest.mark.promotes
NAME = "edge_of_every_optimizer"


def test_figure_and_numbers_are_written_whole(run):
    check_files(NAME, *run(NAME))


def test_below_the_edge_pairs_lack_what_the_stable_flow_lacks(run):
    """Until the oscillation is large the stable flow errs at the first order in the rate, pairs of order 2 at it."""
    gaps = run(NAME)[0]["runs"]["gradient descent"]["gaps"]
    early = slice(10, 40)
    assert (gaps["pairs, order 2"][early] < 0.3 * gaps["stable flow"][early]).all()
    assert (gaps["a run 1e-9 beside"][early] < 1e-6).all()
