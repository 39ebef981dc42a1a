"""The docstring of an experiment is its page: a title, paragraphs, and four or five paragraphs with names."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

from experiments.catalogue import FOLDERS

NAMED = ("Claim", "Figure", "Measured", "Sources")
MOVING = "Moving"  # what the picture that moves shows, where there is one
ROOT = Path(__file__).parents[2]


class Page(NamedTuple):
    """What a docstring says, in Markdown: `body` is all but its title and the paragraphs with names."""

    title: str
    body: str
    claim: str
    figure: str
    measured: str
    sources: str
    moving: str


def path_of(name: str) -> Path:
    """The script of a result, from the root of the repository."""
    return Path("experiments") / FOLDERS[name] / f"{name}.py"


def page_of(name: str) -> Page:
    """The page of a result, read off its script without running it."""
    doc = ast.get_docstring(ast.parse((ROOT / path_of(name)).read_text()))
    return read_page(doc or "", name)


def read_page(doc: str, name: str) -> Page:
    """Take a docstring apart. Raises `ValueError` where a paragraph is missing or stands twice."""
    title, _, rest = doc.partition("\n\n")
    body, named = [], {}
    for paragraph in re.split(r"\n\n+", rest.strip()):
        word = paragraph.partition(":")[0]
        if word not in (*NAMED, MOVING):
            body.append(paragraph)
        elif word in named:
            raise ValueError(f"the docstring of {name} must have one paragraph `{word}:`, and has two.")
        else:
            named[word] = paragraph.partition(":")[2].strip()
    for word in NAMED:
        if not named.get(word):
            raise ValueError(f"the docstring of {name} must have a paragraph that begins with `{word}:`.")
    return Page(
        " ".join(title.split()), "\n\n".join(body), *(named[word] for word in NAMED), named.get(MOVING, "")
    )
