"""An experiment as a notebook: its page, its code in cells, and a quick run."""

import ast
import itertools
import json
from pathlib import Path
from typing import Any

from experiments.site.docstrings import ROOT, path_of

WHERE = """\
try:
    import experiments
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "This notebook must lie in the root folder of a clone of jaxflow, or that folder be in PYTHONPATH."
    ) from None"""


def notebook(name: str) -> dict[str, Any]:
    """A notebook in format 4.5. Its last cell runs the quick version and shows the figure."""
    text = (ROOT / path_of(name)).read_text()
    tree = ast.parse(text)
    lines = text.splitlines()[tree.body[0].end_lineno :]
    first = len(text.splitlines()) - len(lines)
    starts = [
        _start(node, lines, first) for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    pieces = ["\n".join(lines[a:b]).strip() for a, b in itertools.pairwise([0, *starts, len(lines)])]
    title, _, body = (ast.get_docstring(tree) or name).partition("\n\n")
    run = (
        "from IPython.display import Image\n\n"
        f'found = main(["--quick", "--output", "results/{name}"])  # without "--quick" all of it\n'
        f'Image("results/{name}/{name}.png")'
    )
    cells = [_cell("markdown", f"# {title}\n\n{body}"), _cell("code", WHERE)]
    cells += [_cell("code", piece) for piece in pieces if piece]
    cells.append(_cell("code", run))
    for number, cell in enumerate(cells):
        cell["id"] = f"{name[:40]}-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}


def write_notebook(path: Path, name: str) -> None:
    path.write_text(json.dumps(notebook(name), indent=1, ensure_ascii=False) + "\n")


def _start(node: ast.FunctionDef | ast.ClassDef, lines: list[str], first: int) -> int:
    """Where a definition begins among the lines, its decorators and the comments above it included."""
    start = min([node.lineno, *(one.lineno for one in node.decorator_list)]) - 1 - first
    while start > 0 and lines[start - 1].startswith("#"):
        start -= 1
    return start


def _cell(kind: str, source: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True)}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})
