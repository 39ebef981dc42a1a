"""A hook of MkDocs that mends what the theme leaves out for readers without a mouse or a screen."""

import re
from typing import Any

SEARCH = '<div class="md-search" data-md-component="search" role="dialog"'
CODE = re.compile(r"(<pre[^>]*>(?:<span></span>)?<code)(?=[ >])")


def on_post_page(output: str, **_: Any) -> str:
    """Name the dialog of the search, and let the keyboard reach code that is wider than the page."""
    return CODE.sub(r'\1 tabindex="0"', output.replace(SEARCH, f'{SEARCH} aria-label="Search"'))
