"""Moving pictures: what each frame shows, how long it stays, and what is left when drawing fails."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import jaxflow as jf


@pytest.fixture
def dot():
    """A figure of 200 by 100 pixels, all of it one pair of axes, and what moves a red dot on it."""
    figure = Figure(figsize=(2, 1), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, 10), ylim=(0, 1))
    ax.set_axis_off()
    (line,) = ax.plot([], [], "o", color="red", markersize=10)
    return figure, lambda x: line.set_data([x], [0.5])


@pytest.mark.parametrize("ending", ["webp", "gif", "png"])
def test_each_frame_shows_what_was_drawn_for_it(dot, ending, tmp_path):
    figure, show = dot
    path = jf.plot.animate(figure, show, (1.0, 4.0, 9.0), tmp_path / f"dot.{ending}", seconds=1.5)
    with Image.open(path) as picture:
        assert picture.n_frames == 3  # type: ignore[attr-defined]
        assert picture.size == (200, 100)
        for frame, x in enumerate((1.0, 4.0, 9.0)):
            picture.seek(frame)
            red, green, _ = np.moveaxis(np.asarray(picture.convert("RGB"), float), -1, 0)
            rows, columns = np.nonzero((red > 180) & (green < 100))
            assert columns.mean() == pytest.approx(20 * x, abs=1.5)
            assert rows.mean() == pytest.approx(50, abs=1.5)
            assert picture.info["duration"] == pytest.approx(500, abs=10)
        assert picture.info.get("loop", 0) == 0
    assert figure.axes[0].lines[0].get_xdata() == [9.0]


def test_a_failure_leaves_the_file_that_was_there(dot, tmp_path):
    figure, show = dot
    path = tmp_path / "dot.webp"
    path.write_bytes(b"before")

    def fail(x):
        if x == 2:
            raise KeyboardInterrupt
        show(x)

    with pytest.raises(KeyboardInterrupt):
        jf.plot.animate(figure, fail, range(4), path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"figure": 3}, TypeError, "figure must be a matplotlib Figure, got int"),
        ({"show": 3}, TypeError, "show must be a function of a frame, got 3"),
        ({"frames": [1]}, ValueError, "frames must be at least 2, got 1"),
        ({"path": "dot.mp4"}, ValueError, r"path must end in \.webp, \.gif, \.png, got 'dot\.mp4'"),
        ({"seconds": 0.0}, ValueError, "seconds must be a finite number above 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused_before_anything_is_drawn(dot, changes, error, message, tmp_path):
    figure, _ = dot
    given = {
        "figure": figure,
        "show": lambda x: pytest.fail("it drew"),
        "frames": [1, 2],
        "path": tmp_path / "a.gif",
    }
    with pytest.raises(error, match=message):
        jf.plot.animate(**given | changes)
