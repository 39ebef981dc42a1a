"""A report on results that a test has made, looked at as text."""

import re
import shutil

from jaxflow.__main__ import main


def report_of(folder, copy):
    """The page of a copy of a folder, of which this checks that it is whole and needs nothing else."""
    for path in folder.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    before = {path.name for path in copy.iterdir()}
    assert main(["report", str(copy)]) == 0
    assert {path.name for path in copy.iterdir()} - before == {"report.html"}
    text = (copy / "report.html").read_text()
    assert text.endswith("</html>\n")
    for part in ("Numbers", "Settings", "Versions"):
        assert f"<h2>{part}</h2>" in text
    pictures = re.findall(r'<img src="([^"]{30})[^"]*" alt="([^"]+)">', text)
    assert pictures
    assert all(source.startswith("data:image/") for source, _ in pictures)
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<script" not in text
    return text
