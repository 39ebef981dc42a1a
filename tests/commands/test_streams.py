"""What a command prints on: streams that hold few characters, have no reader or no room, or are closed."""

import errno
import io
import sys

import pytest

from jaxflow.__main__ import main, program
from jaxflow.commands.shared.output import Stream

pytestmark = pytest.mark.promotes
COMMANDS = ("compare", "sweep", "order", "edge", "temperature")
SMALL = ["--data", "iris", "--hidden", "4", "--examples", "20", "--orders", "1", "--learning-rate", "0.05"]


class Broken(io.StringIO):
    """A stream whose reader has left, or whose disk is full."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def holding(monkeypatch):
    """Standard output that holds the characters of an encoding only; returns what was printed."""

    def put(encoding):
        stream = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        return lambda: (stream.flush(), stream.buffer.getvalue().decode(encoding))[1]

    return put


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_help_and_list_is_printed_in_the_characters_there_are(encoding, holding):
    for command in (*COMMANDS, "optimizers"):
        printed = holding(encoding)
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert not ended.value.code
        assert len(printed()) > 100
        assert sys.stdout.encoding == encoding  # put back
    printed = holding(encoding)
    assert main(["optimizers"]) == 0
    assert "learning_rate" in printed()


@pytest.mark.parametrize(
    ("encoding", "text", "expected"),
    [
        ("ascii", "T ≤ 2·η − 1e−3 × |∇L|² …", "T <= 2*eta - 1e-3 x |grad L|^2 ..."),
        ("ascii", "Székely ─ 語", "Szekely - ?"),
        ("cp1252", "× ² … é Σ", "× ² … é Sigma"),
        ("utf-8", "× Σ 語", "× Σ 語"),
    ],
)
def test_characters_that_a_stream_cannot_hold_are_said_by_others(encoding, text, expected):
    bytes_ = io.BytesIO()
    stream = Stream(io.TextIOWrapper(bytes_, encoding))
    stream.write(text)
    stream.flush()
    assert bytes_.getvalue().decode(encoding) == expected


@pytest.mark.parametrize(("error", "code"), [(BrokenPipeError(errno.EPIPE, "Broken pipe"), 0), (FULL, 2)])
def test_a_job_that_cannot_print_a_word_writes_its_results(error, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(error))
    assert main(["order", "gd", *SMALL, "--output", str(tmp_path)]) == code
    assert {path.name for path in tmp_path.iterdir()} == {"order.png", "order.json"}
    told = capsys.readouterr().err
    if code:
        assert told.splitlines() == [
            "jaxflow order: standard output could not be written: No space left on device. The results are written."
        ]
    else:
        assert not told


def test_a_list_for_a_full_disk_is_one_sentence_and_for_a_reader_that_left_none(monkeypatch, capsys):
    for arguments in (["optimizers"], ["compare", "--help"]):
        monkeypatch.setattr(sys, "stdout", Broken(FULL))
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code
        assert code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "No space left on device" in line
        assert "results" not in line
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    assert main(["optimizers"]) == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_costs_nothing(closed, monkeypatch):
    monkeypatch.setattr(sys, closed, None)
    assert main(["optimizers"]) == 0
    assert main(["compare", "--optimizer", "addam"]) == 2


def test_a_command_of_its_own_process_ends_with_its_code(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxflow", "compare", "--optimizer", "addam"])
    with pytest.raises(SystemExit) as ended:
        program()
    assert ended.value.code == 2
    assert "Did you mean 'adam'" in capsys.readouterr().err
