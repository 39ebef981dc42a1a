"""Ctrl-C in a sweep: it ends in two lines, which say what is kept and how to go on.

What is raised is a plain `KeyboardInterrupt`. So code that catches it still does, and a script that does not catch it
ends as Python lets it end, by the signal. Only what is printed is ours: a traceback would name the line of
JAX that happened to be at work.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxflow.sweeps.storage.disk import BATCHES

# Under this name IPython and Jupyter look for the lines to print; an error that has it is ours.
LINES = "_render_traceback_"


@contextlib.contextmanager
def explain_interrupt(directory: str | os.PathLike | None) -> Iterator[None]:
    """Inside, Ctrl-C raises a `KeyboardInterrupt` that says what is kept in the folder of the sweep."""
    try:
        yield
    except KeyboardInterrupt as pressed:
        if type(pressed) is not KeyboardInterrupt or pressed.args:  # raised by a program, in its own words
            raise
        lines = _say_what_is_kept(directory)
        error = KeyboardInterrupt("\n".join(lines))
        setattr(error, LINES, functools.partial(list, lines))
        _print_few_lines()
        raise error from None


def _say_what_is_kept(directory: str | os.PathLike | None) -> tuple[str, str]:
    if directory is None:
        return (
            "The sweep was stopped by Ctrl-C. Nothing is kept, because it has no directory.",
            "With directory= it keeps every finished batch, and the same call goes on.",
        )
    count = sum(1 for _ in (Path(directory) / BATCHES).glob("*.npz"))
    batches = "batch is" if count == 1 else "batches are"
    kept = f"{count} finished {batches} kept in {directory}." if count else "No batch was finished."
    return f"The sweep was stopped by Ctrl-C. {kept}", "The same call goes on from there."


def _print_few_lines() -> None:
    """From now on Python prints only the lines of such an error, and every other error as before."""
    before = sys.excepthook
    if isinstance(before, functools.partial) and before.func is _print_error:
        return
    sys.excepthook = functools.partial(_print_error, before)


def _print_error(before: Any, kind: type[BaseException], error: BaseException, trace: Any) -> None:
    lines = getattr(error, LINES, None) if kind is KeyboardInterrupt else None
    if lines is None:
        before(kind, error, trace)
    else:
        print(*lines(), sep="\n", file=sys.stderr)
