"""The streams on which a command prints: one that cannot hold a character, or has closed, costs no result."""

import codecs
import contextlib
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

# For characters that a stream cannot hold and that have no decomposition into some that it can.
PLAIN = {
    "−": "-", "–": "-", "—": "-", "─": "-", "━": "-", "│": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+",
    "×": "x", "·": "*", "±": "+-", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "→": "->", "←": "<-",
    "∇": "grad ", "√": "sqrt ", "∞": "inf", "‖": "||", "█": "#", "•": "*",
    "α": "alpha", "β": "beta", "γ": "gamma", "ε": "eps", "η": "eta", "θ": "theta", "κ": "kappa", "λ": "lambda",
    "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "χ": "chi",
    "ψ": "psi", "ω": "omega", "Δ": "Delta", "Λ": "Lambda", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi",
    "“": '"', "”": '"', "‘": "'", "’": "'", "ø": "o", "½": "1/2",
}  # fmt: skip


def _replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """An error handler of encoders: each character as ones that every stream holds, or as a ?."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain_character, error.object[error.start : error.end])), error.end


def _plain_character(character: str) -> str:
    if character in PLAIN:
        return PLAIN[character]
    parts = unicodedata.normalize("NFKD", character)  # … is three points, é an e and an accent
    power = "^" if "<super>" in unicodedata.decomposition(character) else ""
    kept = "".join(part for part in parts if part.isascii()) or "".join(PLAIN.get(part, "") for part in parts)
    return power + kept if kept else "?"


codecs.register_error("jaxflow.plain", _replace_unencodable)


class Stream:
    """A text stream that is written to while that is possible; `failed` is the reason why it no longer is.

    Its reader may have left (`| head -1`), its disk be full: what is printed is the lesser part of a command's work.
    """

    def __init__(self, stream: Any):
        self.stream, self.failed = stream, None

    def write(self, text: str) -> int:
        """Write the text, in characters that the stream holds."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        self._try(lambda: self.stream.write(text.encode(encoding, "jaxflow.plain").decode(encoding)))
        return len(text)

    def flush(self) -> None:
        """Send what was written."""
        self._try(self.stream.flush)

    def _try(self, act: Any) -> None:
        if self.failed is None:
            try:
                act()
            except OSError as error:
                self.failed = error

    def settle(self) -> None:
        """Leave nothing that Python would try to send, and complain about, when it ends."""
        self.flush()
        if self.failed is not None:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def guard_streams() -> Iterator[tuple[Stream, Stream]]:
    """Standard output and standard error as such streams; either may be closed, and then leads nowhere."""
    before = sys.stdout, sys.stderr
    output, errors = (Stream(io.StringIO() if stream is None else stream) for stream in before)
    sys.stdout, sys.stderr = output, errors  # type: ignore[assignment]
    try:
        yield output, errors
    finally:
        sys.stdout, sys.stderr = before
