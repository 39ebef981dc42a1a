"""Long runs in pieces of one compiled program, so that a person sees progress."""

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import jaxflow as jf
from jaxflow.solve.trajectories.pieces import Start, cut, join_pieces, run_pieces

CHUNKS = 25


class Progress:
    """One bar over several runs, given by name with their shares of it; quiet when the output is not a terminal.

    It times the present run as well: `seconds` have passed since it began.
    """

    def __init__(self, shares: dict[str, float]):
        self.shares = iter(shares.items())
        self.share, self.done, self.began = 0.0, 0.0, 0.0
        form = "{desc:<14} {bar} {percentage:3.0f} % [{elapsed}<{remaining}]"
        total = sum(shares.values())
        self.bar = tqdm(total=total, bar_format=form, file=sys.stderr, disable=None, leave=False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def start(self) -> None:
        """The next run begins."""
        name, self.share = next(self.shares)
        self.bar.set_description_str(name)
        self.done, self.began = 0.0, time.perf_counter()

    def reach(self, done: float) -> None:
        """This much of the present run is done; less than before changes nothing."""
        self.bar.update(max(done - self.done, 0.0) * self.share)
        self.done = max(done, self.done)

    @property
    def seconds(self) -> float:
        """The time since the present run began."""
        return time.perf_counter() - self.began


def iterate_in_chunks(run: Callable, params: Any, state: Any, steps: int, every: int, progress: Progress):
    """`run(params, state, steps)` in about `CHUNKS` pieces, each resumed from the last: trajectory and seconds."""
    length = every * _chunk_length(steps // every if steps % every == 0 else -(-steps // every))
    sizes = [min(length, steps - done) for done in range(0, steps, length)]
    pieces = run_pieces(lambda last, size: run(last.params, last.state, size), Start(params, state), sizes)
    return _finish(pieces, sizes, progress)


def solve_in_chunks(run: Callable, state: Any, times: Any, progress: Progress, chunks: int = CHUNKS):
    """`run(state, times, piece)` over about `chunks` pieces of `times`, each from the last one's state."""
    parts = cut(times, _chunk_length(np.size(times) - 1, chunks))
    pieces = run_pieces(
        lambda last, part: run(last.state, part[1], part[0]), Start(None, state), enumerate(parts)
    )
    return _finish(pieces, [part.size - 1 for part in parts], progress)


def _finish(pieces: Iterable[jf.Trajectory], sizes: list[int], progress: Progress):
    """The pieces, of these sizes, as one trajectory, and the seconds that they take."""
    progress.start()
    done = []
    for end, piece in zip(np.cumsum(sizes), pieces, strict=True):
        done.append(piece)
        progress.reach(end / sum(sizes))
    return join_pieces(done), progress.seconds


def time_run(run: Callable[[], Any], progress: Progress):
    """The next run in one piece, and its seconds."""
    progress.start()
    result = jax.block_until_ready(run())
    progress.reach(1.0)
    return result, progress.seconds


def _chunk_length(intervals: int, chunks: int = CHUNKS) -> int:
    """The number of intervals in a chunk: a divisor where there is one, as another length compiles once more."""
    few = range(chunks, chunks // 4, -1)
    return next((intervals // n for n in few if intervals % n == 0), -(-intervals // chunks))
