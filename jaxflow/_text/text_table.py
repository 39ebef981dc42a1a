"""Tables as text: for what commands and experiments print, and for the `repr` of results."""

from collections.abc import Collection, Sequence


def text_table(
    lines: Sequence[Sequence[str]], *, head: int = 1, left: Collection[int] = (0,), least: int = 0
) -> str:
    """Lines of cells as text, in columns two spaces apart.

    The first `head` lines stand above a rule, which is as wide as they are; with 0 there is none. The columns `left`
    are flush left, the others flush right. A column is at least `least` wide.
    """
    widths = [max(least, *map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    if head:
        text.insert(head, "─" * max(map(len, text[:head])))
    return "\n".join(text)
