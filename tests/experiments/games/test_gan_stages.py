"""`gan_third_stage` in its quick form: radii of games of one point against linear theory; networks come nearer."""

import numpy as np
import pytest
from experiment_files import check_files

pytestmark = pytest.mark.promotes
NAME = "gan_third_stage"


def test_figure_and_numbers_are_written_whole(run):
    check_files(NAME, *run(NAME))


def test_what_rests_does_so_up_to_its_largest_stable_step(measured):
    """Of R1 at γ = .3 λ = −.15 ± i√(.25 − .0225): at .98·1.2 steps multiply radii by |1 + hλ|, up to its phase."""
    numbers = {name: value for name, value in measured(NAME).items() if "radius after" in name}
    assert len(numbers) == 2
    for below, above in numbers.values():
        assert below < 0.05 / 100
        assert not above < 0.05  # also where it is not finite
    (below, _), *_ = numbers.values()
    factor = abs(1 + 0.98 * 1.2 * complex(-0.15, np.sqrt(0.25 - 0.0225)))
    assert below == pytest.approx(0.05 * factor**2000, rel=0.2)


def test_samples_of_digits_come_nearer_with_a_penalty(run):
    without, penalised = run(NAME)[0]["digits"].values()
    assert np.isfinite(without).all()
    assert penalised[0, -1] < 0.7 * penalised[0, 0]
    assert penalised[0, -1] < without[0, -1]
