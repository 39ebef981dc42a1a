"""Ctrl-C: a command stops, keeps what it has finished, and says in a line what that is."""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CODE = 130  # of a process stopped by Ctrl-C, as shells tell it
AGAIN = 0.05  # seconds
NOTHING = "Nothing was finished, and nothing is written."


class Stopped(Exception):
    """The command was stopped by Ctrl-C; the message says what is kept."""


class _Pressed:
    """Whether Ctrl-C was pressed: inside a callback of a compiled program it appears as an error of that program."""

    def __init__(self):
        self.count = 0

    def __call__(self, *_: Any) -> None:
        self.count += 1
        if self.count > 1:  # a second time, while the first is being served
            os._exit(CODE)
        raise KeyboardInterrupt

    def swallow(self, lost: Any) -> None:
        """Press once more where Python could not let the exception through, as in a callback of the collector."""
        if issubclass(lost.exc_type, KeyboardInterrupt):
            self.count = 0
            threading.Timer(AGAIN, _thread.interrupt_main).start()
        else:
            sys.__unraisablehook__(lost)


_pressed = _Pressed()


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[None]:
    """Inside, Ctrl-C raises `Stopped`, whatever error it appears as; pressed again, it ends the process at once."""
    _pressed.count = 0
    with contextlib.ExitStack() as after, keep_on_interrupt(lambda: NOTHING):
        # Not in a thread, where it cannot, nor where whoever began the process has other plans for it.
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            after.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, _pressed))
            after.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
            sys.unraisablehook = _pressed.swallow
        yield


@contextlib.contextmanager
def keep_on_interrupt(keep: Callable[[], str]) -> Iterator[None]:
    """When Ctrl-C ends the body, `keep()` keeps what is finished and says so in a sentence."""
    try:
        yield
    except Stopped:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if not (isinstance(error, KeyboardInterrupt) or _pressed.count):
            raise
        raise Stopped(keep()) from None


class Written:
    """Called when a command was stopped: the sentence that names those of its files which it had written."""

    def __init__(self, settings: Any, names: tuple[str, ...]):
        self.paths = [settings.output / name for name in names]
        self.before = [_mark(path) for path in self.paths]

    def __call__(self) -> str:
        """The sentence."""
        marks = [_mark(path) for path in self.paths]
        new = [
            p for p, old, now in zip(self.paths, self.before, marks, strict=True) if now not in (None, old)
        ]
        return f"Kept in {new[0].parent}: {', '.join(path.name for path in new)}." if new else NOTHING


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What differs once a file is written anew; `None` without a file. Its time alone runs behind the clock's."""
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
