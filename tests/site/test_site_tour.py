"""The tour of the README is run in a process of its own, once, and shows what it printed and drew."""

import base64

import pytest

from experiments.site import tour

TEXT = """## Five minutes

A.

```python
import matplotlib.pyplot as plt

x = 20
print(x + 1)
```

```python
figure, (left, right) = plt.subplots(1, 2)
left.set(xlabel="time", ylabel="loss")
right.set_title("[plane]")
print("café", x)
```
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(tour, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache" / "tour"


def test_blocks_share_their_names_and_show_what_they_did(tmp_path, cache):
    shown = tour.run_tour(TEXT)
    assert [one["printed"] for one in shown] == ["21\n", "café 20\n"]
    (picture,) = shown[1]["pictures"]
    assert picture["alternative"] == "Picture drawn by the code: loss against time; plane"
    page = tour.tour_page(TEXT, shown, tmp_path)
    assert 'title="printed"\n21\n```' in page
    assert "![Picture drawn by the code: loss against time; plane](tour_1_0.png)" in page
    assert (tmp_path / "tour_1_0.png").read_bytes() == base64.b64decode(picture["png"])
    (kept,) = cache.iterdir()
    kept.write_text('["kept"]')
    assert tour.run_tour(TEXT) == ["kept"]  # not run again
    with pytest.raises(
        ValueError, match=r"the tour of README.md must run, and fails:[\s\S]*NameError.*nothing"
    ):
        tour.run_tour(TEXT.replace("print(x + 1)", "nothing"))  # another text is


def test_a_readme_without_a_tour_is_refused():
    assert tour.tour_of(f"# Top\n\n{TEXT}\n## I want to …\n").startswith("## Five minutes")
    with pytest.raises(ValueError, match="between `## Five minutes` and"):
        tour.tour_of("# Top")
