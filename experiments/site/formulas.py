"""A hook of MkDocs that renders formulas as MathML, which browsers draw without a script."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace what `pymdownx.arithmatex` marked."""
    return FORMULA.sub(_render, content)


def _render(match: re.Match[str]) -> str:
    display = "block" if match[1] == "div" else "inline"
    formula = html.unescape(match[2]).replace(r"\arg", r"\operatorname{arg}")
    reached = (
        ' tabindex="0"' if display == "block" else ""
    )  # by the keyboard, as it may be wider than the page
    return f'<span class="formula formula-{display}"{reached}>{convert(formula, display=display)}</span>'
