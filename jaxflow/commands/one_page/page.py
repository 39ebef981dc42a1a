"""Results as one HTML page: figure, verdict, tables, settings, versions, with nothing outside it."""

import base64
from html import escape
from pathlib import Path
from typing import Any

from jaxflow import __version__
from jaxflow.commands.one_page.reading import Results
from jaxflow.commands.one_page.verdicts import show

APART = ("settings", "versions", "device", "x64", "verdict", "verdicts", "experiment", "headlines", "quick")
STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.5; }
body { margin: 0 auto; max-width: 75rem; padding: 1rem; }
img { background: white; height: auto; max-width: 100%; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 0.5rem 0 1.5rem; }
caption { font-weight: bold; padding: 0.3rem 0; text-align: left; }
th, td { border-bottom: 1px solid #8888; padding: 0.25rem 0.8rem; text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
"""


def page(found: Results) -> str:
    """The whole page."""
    content = found.content
    told = found.kind.verdict(content)
    sections = [
        "".join(_picture(path, text) for path, text in found.pictures.items()),
        f"<h2>Verdict</h2>{''.join(f'<p>{escape(one)}</p>' for one in told)}" if told else "",
        f"<h2>Numbers</h2>{''.join(_numbers(content))}",
        f"<h2>Settings</h2>{_pairs(content['settings'])}" if "settings" in content else "",
        f"<h2>Versions</h2>{_versions(content)}",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(found.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(found.title)}</h1>\n{chr(10).join(filter(None, sections))}\n</main>\n</body>\n</html>\n"
    )


def _picture(path: Path, text: str) -> str:
    kind = "gif" if path.suffix == ".gif" else "png"
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img src="data:image/{kind};base64,{data}" alt="{escape(text)}"></p>\n'


def _versions(content: dict[str, Any]) -> str:
    precision = {True: "float64", False: "float32"}.get(content.get("x64", ""), "an unknown precision")
    rows = content["versions"] | {"device": content.get("device", "unknown"), "precision": precision}
    made = content["versions"].get("jaxflow")
    differs = "" if made == __version__ else f"<p>This page was written by jaxflow {__version__}.</p>"
    return _pairs(rows) + differs


def _numbers(content: dict[str, Any]) -> list[str]:
    """A table for each group of numbers, and one for those that stand alone."""
    alone, tables = {}, []
    for name, value in (content | {"claims": content.get("headlines")}).items():
        if name in APART or value is None:
            continue
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            tables.append(_table(name, value))
        elif isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
            tables.append(_table(name, [{"name": row} | told for row, told in value.items()]))
        elif isinstance(value, dict):
            alone |= {f"{name}: {part}": told for part, told in value.items()}
        else:
            alone[name] = value
    statistics = (content.get("verdict") or {}) if isinstance(content.get("verdict"), dict) else {}
    if rows := statistics.get("statistics"):
        tables.append(_table("verdict", [{"name": row} | told for row, told in rows.items()]))
    return [*tables, _pairs(alone) if alone else ""]


def _table(name: str, rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    head = "".join(f'<th scope="col">{escape(_words(column))}</th>' for column in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(show(row.get(column)))}</td>' for column in columns)}</tr>"
        for row in rows
    )
    return (
        f'<div class="wide" tabindex="0"><table><caption>{escape(_words(name))}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n"
    )


def _pairs(rows: dict[str, Any]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(_words(name))}</th><td>{escape(show(value))}</td></tr>'
        for name, value in rows.items()
    )
    return f'<div class="wide" tabindex="0"><table><tbody>{body}</tbody></table></div>\n'


def _words(name: str) -> str:
    """A name of JSON as words."""
    return name.replace("_", " ")
