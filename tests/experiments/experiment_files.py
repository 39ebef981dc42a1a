"""What an experiment leaves on disk."""

import json
import struct

import jax
from PIL import Image


def check_files(name, returned, output):
    """One figure and one JSON, both whole, the latter with what `main` returned; and what moves, where it does."""
    there = {path.name for path in output.iterdir()}
    assert there - {f"{name}.webp"} == {f"{name}.json", f"{name}.png"}
    if f"{name}.webp" in there:
        with Image.open(output / f"{name}.webp") as picture:
            assert picture.n_frames > 5
    content = json.loads((output / f"{name}.json").read_text())
    assert content["quick"] is True
    assert content["x64"] is True
    assert content["versions"]["jax"] == jax.__version__
    assert content["headlines"].keys() == returned["headlines"].keys()
    png = (output / f"{name}.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", png[16:24])
    assert width > 1000
    assert height > 400
    return content


def check_claims(content):
    """Some claim is reached, and none is missed."""
    lines = content["headlines"]
    assert any(line["reached"] for line in lines.values())
    assert not [name for name, line in lines.items() if line["reached"] is False]


def told(content, name):
    """What a headline number of a result was, and what was expected."""
    line = content["headlines"][name]
    return line["measured"], line["expected"]
