"""Markdown of the gallery, and of the page of each result."""

import ast
import re
from typing import Any

from experiments.catalogue import CHAPTERS
from experiments.site.docstrings import ROOT, Page, page_of, path_of
from experiments.site.found_results import Found
from jaxflow import __version__

CARD_ROWS = 3  # numbers on a card; the page of the result has all


def gallery(found: dict[str, Found], missing: list[str]) -> str:
    """A card for each result: figure, claim, measured next to expected, source, seconds, script."""
    parts = [
        "---\nhide: [toc]\n---",
        "# Gallery",
        "Each card is one result: a figure, what it claims, and what was measured next to what theory expects. "
        "The page behind it explains every line of the figure and shows the code.",
    ]
    if missing:
        runs = "\n".join(f"- `{name}`: `python -m experiments {name}`" for name in missing)
        parts.append(f"These results were not there when this site was built. To make them:\n\n{runs}")
    for chapter in CHAPTERS.values():
        cards = [_card(found[name]) for name in chapter.results if name in found]
        if cards:
            parts += [f"## {chapter.title}", '<div class="cards" markdown>', *cards, "</div>"]
    return "\n\n".join(parts) + "\n"


def _card(one: Found) -> str:
    page, target = page_of(one.name), f"results/{one.name}.md"
    reached, claims = one.claims
    told = [line for line in one.content["headlines"].items() if line[1]["expected"] is not None]
    rows = (told or list(one.content["headlines"].items()))[:CARD_ROWS]
    table = ["| what | measured | expected |", "|---|---|---|"]
    table += [
        f"| {cell(name)} | {cell(line['measured'])} | {cell(line['expected'])} |" for name, line in rows
    ]
    return "\n\n".join(
        (
            f'<div class="card" id="{one.name}" markdown>',
            f"[{_picture(one, page, f'results/{one.name}.png')}]({target})",
            f"### [{page.title.rstrip('.')}]({target})",
            page.claim,
            "\n".join(table),
            " ".join([*([f"{reached} of {claims} claims reached."] if claims else []), *_told_apart(one)]),
            f"Sources: {page.sources}\n{{ .sources }}",
            f"{one.content['seconds']:g} s · [`{path_of(one.name)}`]({target}#code)\n{{ .facts }}",
            "</div>",
        )
    )


def result_page(one: Found) -> str:
    """The figure with its caption, the numbers, what was done, how to run it, and the code."""
    page, name = page_of(one.name), one.name
    script = path_of(name)
    parts = [
        f"# {page.title.rstrip('.')}",
        f"**{page.claim}**" if "*" not in page.claim else page.claim,
        *([f'!!! note ""\n    {" ".join(_told_apart(one))}'] if _told_apart(one) else []),
        f"[{_picture(one, page, f'{name}.png')}]({name}.png)",
        f"{page.figure}\n{{ .caption }}",
        *([_moving(page, name)] if one.moving else []),
        f"## Numbers\n\n{_numbers(one)}",
        f"## Measured in a full run\n\n{page.measured}",
        f"## What was done\n\n{page.body}",
        _how_to_run(one),
        f"## Sources\n\n{page.sources}",
        f"## Code\n\n{_code(script)}",
        *(f'??? note "`{helper}`"\n\n{_indent(_code(helper))}' for helper in _helpers(script)),
    ]
    return "\n\n".join(parts) + "\n"


def _moving(page: Page, name: str) -> str:
    """The picture that moves, which a reader can fold away; a still where motion is not wanted, and in print."""
    still = f'<source srcset="{name}-still.png" media="print, (prefers-reduced-motion: reduce)">'
    image = f'<img src="{name}.webp" alt="Moving picture: {_plain(page.title)}" loading="lazy">'
    return "\n\n".join(
        (
            '<details class="moving" open markdown><summary>As it moves</summary>',
            f"<picture>{still}{image}</picture>",
            f"{page.moving}\n{{ .caption }}" if page.moving else "",
            "</details>",
        )
    )


def _numbers(one: Found) -> str:
    rows = ["| what | measured | expected | interval | claim |", "|---|---|---|---|---|"]
    for name, line in one.content["headlines"].items():
        verdict = {True: "reached", False: "**missed**"}.get(line.get("reached"), "")
        told = [cell(line["measured"]), cell(line["expected"]), _interval(line.get("interval")), verdict]
        rows.append(f"| {cell(name)} | {' | '.join(told)} |")
    return "\n".join(rows)


def _how_to_run(one: Found) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in one.content.get("versions", {}).items())
    return "\n\n".join(
        (
            "## How to run it",
            f"```bash\npython -m experiments {one.name}          # all of it\n"
            f"python -m experiments {one.name} --quick  # a smaller version, in seconds\n```",
            f"[Copy as notebook]({one.name}.ipynb){{ .md-button download }}",
            f"These numbers took {one.content['seconds']:g} s, on {one.content.get('device', 'an unknown device')}"
            f", with {versions or 'unknown versions'}.",
        )
    )


def _told_apart(one: Found) -> list[str]:
    """What a reader must know of a result that is not a full run of this version."""
    told = []
    if one.content.get("quick"):
        told.append("This is the quick version of the result.")
    if one.version != __version__:
        told.append(f"It was made with jaxflow {one.version}; this site describes {__version__}.")
    return told


def _picture(one: Found, page: Page, source: str) -> str:
    width, height = one.size
    return f'![Figure: {_plain(page.title)}]({source}){{ width="{width}" height="{height}" loading="lazy" }}'


def _plain(text: str) -> str:
    """A text without marks, for who hears it."""
    return re.sub(r'[\[\]*`$\\"<>]', "", text)


def _helpers(script: Any) -> list[Any]:
    """The other files of its chapter that a script imports from."""
    tree = ast.parse((ROOT / script).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("experiments."):
            names.add(node.module.rsplit(".", 1)[1])
            names |= {alias.name for alias in node.names}
    return [path for name in sorted(names) if (ROOT / (path := script.parent / f"{name}.py")).exists()]


def _code(path: Any) -> str:
    """A script without its docstring, which the page shows."""
    text = (ROOT / path).read_text()
    end = ast.parse(text).body[0].end_lineno
    return f'```python title="{path}"\n{"".join(text.splitlines(keepends=True)[end:]).strip()}\n```'


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())


def cell(value: Any) -> str:
    """A value in a cell of a Markdown table, which holds no bars and no markup."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:.5g}" if isinstance(value, float) else str(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(cell, value))
    if isinstance(value, dict):
        return ", ".join(f"{cell(name)}: {cell(one)}" for name, one in value.items())
    return re.sub(r"([\\`*_{}\[\]<>|$])", r"\\\1", str(value))


def _interval(bounds: Any) -> str:
    """An interval whose ends are null where it has none."""
    if bounds is None:
        return ""
    low, high = bounds
    if low is None or high is None:
        return f"≤ {cell(high)}" if low is None else f"≥ {cell(low)}"
    return f"{cell(low)} … {cell(high)}"
