"""The site as files: it builds without a warning, every link and picture is there, and bad input is refused."""

import inspect
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from made_up_results import MOVING, OTHER, write_result
from PIL import Image

import jaxflow as jf
from experiments.catalogue import FOLDERS
from experiments.site import build, tour
from experiments.site.__main__ import main
from experiments.site.reference import PACKAGES, fence_examples, public_names
from experiments.site.result_pages import cell


class Links(HTMLParser):
    """What a page links to, what it fetches, the names inside it, and pictures without a text."""

    def __init__(self, text):
        super().__init__()
        self.links, self.fetched, self.names, self.silent = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.names |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("img", "script", "iframe", "source") and found.get("src"):
            self.fetched.append(found["src"])
        if tag == "source" and found.get("srcset"):
            self.fetched.append(found["srcset"])
        if tag == "link" and found.get("rel") != "canonical":
            self.fetched.append(found["href"])
        if tag == "img" and not found.get("alt", "").strip():
            self.silent.append(found)


@pytest.fixture(scope="module")
def pages(site):
    return {path: Links(path.read_text()) for path in site.rglob("*.html")}


def test_every_link_resolves(site, pages):
    broken, checked = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            checked += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            named = not parts.fragment or unquote(parts.fragment) in getattr(pages.get(target), "names", ())
            if not target.is_file() or not named:
                broken.append((str(path.relative_to(site)), link))
    assert not broken
    assert checked > 5000


def test_every_picture_is_there_and_has_a_text_and_nothing_comes_from_elsewhere(pages):
    for path, page in pages.items():
        assert not page.silent, path
        for source in page.fetched:
            parts = urlsplit(source)
            assert not parts.scheme, (path, source)
            assert not parts.netloc, (path, source)
            assert (path.parent / unquote(parts.path)).is_file(), (path, source)


def test_a_result_that_moves_has_a_still_for_print(site):
    """Its last frame, which is red; other pages have no such part."""
    text = (site / "results" / f"{MOVING}.html").read_text()
    assert '<details class="moving" open' in text
    assert 'alt="Moving picture: ' in text
    assert "prefers-reduced-motion" in text
    assert "the Fokker–Planck equation dashed" in text
    with Image.open(site / "results" / f"{MOVING}-still.png") as still:
        assert still.getpixel((3, 3)) == pytest.approx((255, 0, 0), abs=2)
    assert '<details class="moving"' not in (site / "results" / f"{OTHER}.html").read_text()


def test_the_gallery_has_a_card_for_each_result(site):
    text = (site / "gallery.html").read_text()
    assert re.findall(r'<div class="card" id="(\w+)">', text) == list(FOLDERS)
    cards = re.split(r'<div class="card"', text)[1:]
    for name, card in zip(FOLDERS, cards, strict=True):
        for part in ("<img", "1.25", "12.5 s", f"{name}.py", "Sources:", "1 of 2 claims reached"):
            assert part in card, (name, part)


def test_the_page_of_a_result_has_all_its_parts(site):
    for name in FOLDERS:
        text = (site / "results" / f"{name}.html").read_text()
        parts = ("Numbers", "Measured in a full run", "What was done", "How to run it", "Sources", "Code")
        assert re.findall(r"<h2 id=.*?>(.*?)<a", text) == list(parts), name
        assert "slope | of *one*" in re.sub(r"<.*?>", "", text)
        assert "1 … 3" in text
        assert "<strong>missed</strong>" in text
        assert f'href="{name}.ipynb"' in text
        json.loads((site / "results" / f"{name}.ipynb").read_text())
        assert 'class="caption"' in text


def test_a_result_of_another_version_or_form_says_so(site):
    text = (site / "results" / f"{OTHER}.html").read_text()
    assert "It was made with jaxflow 0.0.9" in text
    assert "the quick version" in text
    assert "It was made with" not in (site / "results" / "spectra.html").read_text()


def test_the_reference_has_every_public_name_with_formulas_and_examples(site):
    for package in PACKAGES:
        text = (site / "reference" / f"{package}.html").read_text()
        for one in public_names(f"jaxflow.{package}"):
            assert f"jaxflow.{package}.{one.name}" in text, one
        assert "arithmatex" not in text
    optim = (site / "reference" / "optim.html").read_text()
    assert "<math" in optim
    assert "highlight" in optim
    assert not re.search(r"<blockquote>\s*<blockquote>", optim)  # examples that were taken for quotations


def test_a_function_that_accepts_batches_has_the_text_of_what_it_wraps(site):
    text = (site / "reference" / "dynamics.html").read_text()
    for name in ("adam", "rmsprop", "modified"):
        said = re.search(rf"jaxflow\.dynamics\.{name}\s*<.*?<p>(.*?)</p>", text, re.DOTALL)[1]
        first = inspect.getdoc(getattr(jf.dynamics, name)).split("$")[0].splitlines()[0]
        assert re.sub(r"<.*?>", "", said).startswith(first[:30])


def test_examples_become_code():
    assert fence_examples("A.\n\n>>> 1 + 1\n2\n\nB.") == "A.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nB."
    assert fence_examples("A >>> B.") == "A >>> B."


def test_the_tour_shows_what_its_code_printed_and_drew(site):
    text = (site / "tour.html").read_text()
    blocks = len(tour.BLOCK.findall(tour.tour_of((build.ROOT / "README.md").read_text())))
    assert blocks > 10
    assert text.count("of the tour") == blocks
    assert text.count('src="tour_') == blocks


def test_missing_results_are_named_and_left_out_when_asked(tmp_path, capsys, monkeypatch):
    write_result(tmp_path / "results", "spectra")
    arguments = ["--results", str(tmp_path / "results"), "--output", str(tmp_path / "site")]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "these are missing: learning_rates, " in said
    assert f"python -m experiments gibbs --output {tmp_path / 'results' / 'gibbs'}" in said
    assert not (tmp_path / "site").exists()

    def stand_in(pages, site, names):
        site.mkdir()
        for path in (*pages.glob("*.md"), *pages.glob("*/*.md"), site / "404.html"):
            (site / path.name).write_text(path.read_text() if path.exists() else "")

    monkeypatch.setattr(build, "run_mkdocs", stand_in)
    monkeypatch.setattr(
        tour, "run_tour", lambda text: [{"printed": "", "pictures": []}] * text.count("```python")
    )
    assert main([*arguments, "--without-missing"]) == 0
    assert "- `gibbs`: `python -m experiments gibbs`" in (tmp_path / "site" / "gallery.md").read_text()
    assert main([*arguments, "--without-missing"]) == 0  # an earlier site is replaced
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_bad_input_is_refused_in_one_sentence(tmp_path, results, capsys):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.tex").write_text("years of work")
    assert main(["--results", str(results), "--output", str(tmp_path / "kept")]) == 2
    assert "must be a new or empty folder or an earlier site" in capsys.readouterr().err
    assert (tmp_path / "kept" / "thesis.tex").exists()
    write_result(tmp_path, "gibbs")
    (tmp_path / "gibbs" / "gibbs.json").write_text("{}")
    assert main(["--results", str(tmp_path), "--output", str(tmp_path / "new")]) == 2
    assert "gibbs.json is not what an experiment writes" in capsys.readouterr().err


def test_mkdocs_warnings_end_the_build(tmp_path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text("[nowhere](nowhere.md)")
    with pytest.raises(ValueError, match=r"without a warning: .*nowhere\.md"):
        build.run_mkdocs(tmp_path / "pages", tmp_path / "site", [])


def test_cells_hold_values_and_no_markup():
    assert cell(None) == "—"
    assert cell(0.123456789) == "0.12346"
    assert cell([1, 2.5, None]) == "1, 2.5, —"
    assert cell({"low": 1.0}) == "low: 1"
    assert cell("|x| * y_k") == r"\|x\| \* y\_k"
