"""Measure every figure the library claims, print them next to what is asked, and write them as JSON.

Run it on a machine that is doing nothing else: ratios of medians are of turns taken in one process, but a busy
machine still disturbs them. `--quick` makes sure that everything runs; its timings mean little. The name of one
module first, such as `density`, measures the figures of that one.
"""

import sys
from typing import Any

from tqdm import tqdm

from experiments.benchmarks import compilation
from experiments.benchmarks.analysis import density_peers, landscape_peers
from experiments.benchmarks.figures import FIGURES, choose_figures
from experiments.common import start
from jaxflow._disk import results


def main(arguments: list[str] | None = None) -> Any:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["compilation"]:
        return compilation.main(arguments[1:])
    one_module = choose_figures(arguments[0]) if arguments else []
    arguments, figures = (arguments[1:], one_module) if one_module else (arguments, FIGURES)
    run = start("benchmarks", __doc__, [*arguments, "--no-cache"])  # some figures are compilation
    for name, peers in (("density", density_peers), ("landscape", landscape_peers)):
        if peers.MISSING and choose_figures(name)[0] in figures:
            print(f"Left out, as they are not installed: {'; '.join(peers.MISSING)}.")
    rows = []
    for figure in tqdm(figures, file=sys.stderr, disable=None, leave=False):
        rows.append(figure.row(run.quick))
        row = rows[-1]
        more = "".join(
            f"; {k} {v:.4g}" for k, v in row.items() if k not in ("what", "measured", "asked", "reached")
        )
        mark = "reached" if row["reached"] else "MISSED"
        tqdm.write(f"{row['what']:<74} {row['measured']:>9.3g}  {row['asked']:<12} {mark}{more}")
    content = {"quick": run.quick, "figures": rows, **results.provenance()}
    results.write_json(run.output / "benchmarks.json", content)
    return rows


if __name__ == "__main__":
    main()
