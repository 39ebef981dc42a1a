"""`python -m experiments.site` builds the gallery as a site that needs no server: open its `index.html`."""

import argparse
import sys
import time
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.site", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="where the results are (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=Path("results/site"), help="default: %(default)s")
    parser.add_argument("--without-missing", action="store_true", help="leave out results that are missing")
    chosen = parser.parse_args(arguments)
    began = time.perf_counter()
    try:
        from experiments.site.build import build

        build(chosen.results, chosen.output, without_missing=chosen.without_missing)
    except ImportError as error:
        print(f"python -m experiments.site needs pip install '.[docs]' ({error}).", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"python -m experiments.site: {error}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in chosen.output.rglob("*") if path.is_file()) / 1e6
    seconds = time.perf_counter() - began
    print(f"Wrote {chosen.output / 'index.html'} and all it needs ({size:.0f} MB, {seconds:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
