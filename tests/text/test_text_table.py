"""Tables as text, against ones typed by hand."""

import pytest

from jaxflow._text.text_table import text_table

LINES = [("name", "x", ""), ("a", "10", "low"), ("bcdef", "—", "")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["name    x", "─────────", "a      10  low", "bcdef   —"]),
        ({"left": (0, 2), "head": 0}, ["name    x", "a      10  low", "bcdef   —"]),
        ({"left": (), "least": 4, "head": 0}, [" name     x", "    a    10   low", "bcdef     —"]),
        ({"head": 2, "left": (0, 2)}, ["name    x", "a      10  low", "──────────────", "bcdef   —"]),
    ],
    ids=["a head", "left", "wide", "two heads"],
)
def test_columns(options, expected):
    assert text_table(LINES, **options).splitlines() == expected


def test_lines_have_one_length():
    with pytest.raises(ValueError, match="shorter"):
        text_table([("a", "b"), ("c",)])
