"""The docstring of every experiment is its page, with all the parts that a page has."""

import re

import pytest

from experiments.catalogue import FOLDERS
from experiments.site.docstrings import NAMED, ROOT, page_of, read_page


@pytest.mark.parametrize("name", FOLDERS)
def test_a_page_has_its_parts(name):
    page = page_of(name)
    assert page.title.endswith((".", "?"))
    assert page.body
    assert page.claim.endswith(".")
    assert not re.search(r"[.?!] [A-Z]", page.claim), "a claim is one sentence"
    assert page.figure.count(".") >= 2
    assert re.search(r"\d", page.measured)
    assert page.sources


def test_parts_that_are_missing_or_there_twice_are_told():
    parts = [f"{word}: something." for word in NAMED]
    assert read_page("\n\n".join(["Title.", "Body.", "More.", *parts]), "some").body == "Body.\n\nMore."
    with pytest.raises(
        ValueError, match=r"docstring of some must have a paragraph that begins with `Figure:`"
    ):
        read_page("\n\n".join(["Title.", parts[0], *parts[2:]]), "some")
    with pytest.raises(ValueError, match=r"one paragraph `Claim:`, and has two"):
        read_page("\n\n".join(["Title.", parts[0], *parts]), "some")


def test_titles_stand_in_the_list_of_results():
    """`experiments/README.md` has one line for each result, with the title of its page."""
    listed = (ROOT / "experiments" / "README.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\((\S+)\) \| \[(.*)\]\(figures/(\w+)\.png\) \|", listed, re.MULTILINE)
    assert [row[0] for row in rows] == list(FOLDERS)
    for name, script, title, figure in rows:
        assert script == f"{FOLDERS[name]}/{name}.py"
        assert figure == name
        assert title.replace("\\|", "|") == page_of(name).title
