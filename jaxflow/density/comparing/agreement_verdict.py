"""The verdict on an ensemble and its predicted density: numbers at each time, and a sentence that sums them up."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, repr=False, eq=False)
class DensityComparison:
    """What `compare_density` found: NumPy arrays with one entry for each of the T times that both have.

    - `times` (T,): those times, in units of the clock.
    - `statistic` (T,): the likelihood ratio G with Williams' factor. `boxes` (T,): the number of boxes of cells that
      entered; where it is 1 the density is too narrow for its grid, and G tells nothing.
    - `statistic_p_value` (T,): its p-value.
    - `surprise` (T,): the mean of −log p over the members less the entropy of the density, in nats: above 0 where the
      members are spread more widely. `surprise_p_value` (T,): its p-value.
    - `p_value` (T,): the p-value of both, and of the strays, at each time, not adjusted for their number
      (`adjusted` is).
    - `kolmogorov`, `kolmogorov_p_value` (T,): the Kolmogorov–Smirnov distance in one coordinate, of the members on
      the grid, and its p-value. They do not enter the verdict. NaN in two coordinates.
    - `l1` (T,): the L1 distance between the shares of members and the masses of the boxes, from 0 to 2;
      `l1_by_chance` (T,): its mean where the members do have the density.
    - `outside` (T,): the number of members outside the grid, diverged or ended; `expected_outside` (T,): how many the
      density expects there.
    - `strays` (T,): the number of members where the density is practically 0, on the grid or outside.
    - `members`: the number n of members. `level`: 1 − level is the rate of false alarms of the verdict.
    - `left_out`: the number of times that only one of the two has.

    >>> import numpy as np, jaxflow as jf
    >>> import dataclasses
    >>> arrays = {field.name: np.zeros(2) for field in dataclasses.fields(jf.density.DensityComparison)}
    >>> said = {"p_value": np.array([0.4, 0.03]), "members": 99, "level": 0.95, "left_out": 0}
    >>> jf.density.DensityComparison(**arrays | said)
    DensityComparison(No difference found between 99 members and the density at 2 times (p = 0.06 over all times).)
    """

    times: np.ndarray
    statistic: np.ndarray
    boxes: np.ndarray
    statistic_p_value: np.ndarray
    surprise: np.ndarray
    surprise_p_value: np.ndarray
    p_value: np.ndarray
    kolmogorov: np.ndarray
    kolmogorov_p_value: np.ndarray
    l1: np.ndarray
    l1_by_chance: np.ndarray
    outside: np.ndarray
    expected_outside: np.ndarray
    strays: np.ndarray
    members: int
    level: float
    left_out: int

    @property
    def adjusted(self) -> np.ndarray:
        """The p-values adjusted for the number of times, by Holm's procedure, (T,)."""
        order = np.argsort(self.p_value, kind="stable")
        scaled = self.p_value[order] * np.arange(len(order), 0, -1)
        adjusted = np.empty(len(order))
        adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
        return adjusted

    @property
    def differ(self) -> bool:
        """Whether the members' law differs from the density at any time, at the level asked for."""
        return bool((self.adjusted <= 1 - self.level).any())

    @property
    def message(self) -> str:
        """The comparison in one sentence."""
        adjusted = self.adjusted
        worst, wrong = int(np.argmin(self.p_value)), int((adjusted <= 1 - self.level).sum())
        count = len(self.times)
        chance = f"= {adjusted[worst]:.2g}" if adjusted[worst] >= 1e-15 else "< 1e-15"
        p = f"(p {chance}{' over all times' if count > 1 else ''})"
        if wrong:
            where = f"at {wrong} of {_times(count)}" if count > 1 else f"at t = {self.times[0]:.4g}"
            text = f"The {self.members} members do not have the density {where} {p}"
            if count > 1:
                text += f", most clearly at t = {self.times[worst]:.4g}"
            chance = f"{self.l1_by_chance[worst]:.2g} by chance"
            text += self._surprise_sentence(worst)
            text += f"; the L1 distance there is {self.l1[worst]:.2g} against {chance}"
        else:
            text = (
                f"No difference found between {self.members} members and the density at {_times(count)} {p}"
            )
        return f"{text}{self._outside_sentence()}."

    def _surprise_sentence(self, i: int) -> str:
        if self.surprise_p_value[i] > min(self.statistic_p_value[i], 1 - self.level):
            return ""
        return f", where they are {'more' if self.surprise[i] > 0 else 'less'} spread out"

    def _outside_sentence(self) -> str:
        text = ""
        if np.any(self.outside):
            most = int(np.argmax(self.outside))
            text += (
                f"; {int(self.outside[most])} of the members are outside the grid, diverged or ended at t = "
                f"{self.times[most]:.4g}, where the density expects {self.expected_outside[most]:.2g}"
            )
        if self.left_out:
            verb = "are" if self.left_out > 1 else "is"
            text += f"; {_times(self.left_out)} that only one of the two has {verb} left out"
        return text

    def __repr__(self):
        return f"DensityComparison({self.message})"


def _times(count: int) -> str:
    return f"{count} time{'s' * (count != 1)}"
