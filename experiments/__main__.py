"""`python -m experiments NAME …` runs one result, `python -m experiments all` every one."""

import difflib
import sys

from experiments import every
from experiments.catalogue import CHAPTERS, FOLDERS, script


def main(arguments: list[str] | None = None) -> int:
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print("python -m experiments NAME [--quick] [--output DIR], or `all` in place of NAME. The names:\n")
        for chapter in CHAPTERS.values():
            print(f"{chapter.title}: {', '.join(chapter.results)}")
        return 0
    if name == "all":
        return every.main(rest)
    if name not in FOLDERS:
        close = difflib.get_close_matches(name, FOLDERS, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else " (python -m experiments --help lists them)."
        print(f"NAME must be `all` or the name of a result, got {name!r}{meant}", file=sys.stderr)
        return 2
    script(name).main(rest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
