"""How much the quickstart's result differs between seeds and machines; prints one row per run.

    $ python benchmarks/quickstart_spread.py [--seeds 0 1 2 3 4] [--arithmetic default avx2]
        [--write]

A sweep of notebooks/00_quickstart.ipynb over seeds; reads summary.json of each run. Another machine
adds numbers in another order and so samples other tokens: `--arithmetic` stands for it by running
seed 0 with PyTorch's other instruction sets (ATEN_CPU_CAPABILITY). A finished run is not run again:
delete runs/quickstart_spread* when the notebook has changed. `--write` replaces the committed table
that the notebook quotes.
"""

import argparse
import json
import os
import sys

import pandas as pd

from envtune.common import paths
from envtune.study import sweeps

BOOK = paths.NOTEBOOKS / "00_quickstart.ipynb"
TABLE = paths.DATA / "reference_runs" / "quickstart.csv"


def row(seed: int, arithmetic: str, summary: dict) -> dict:
    """Accuracy before and after, the worst step between stages (both ways), and the seconds."""
    found = {"seed": seed, "arithmetic": arithmetic, "n": summary["held_out"]["n"]}
    for way, before in summary["held_out"]["before"].items():
        after = [before, *(stage[way] for stage in summary["stages"])]
        worst = min(b - a for a, b in zip(after, after[1:], strict=False))
        found[f"{way}_before"], found[f"{way}_after"] = before, after[-1]
        found[f"{way}_worst_stage"] = round(worst, 4)
    return found | {"seconds": summary["seconds"]}


def runs(seeds: list[int], arithmetic: str = "") -> list[dict]:
    """One row per seed, played where they are not yet."""
    if arithmetic:
        os.environ["ATEN_CPU_CAPABILITY"] = arithmetic  # the runs inherit it
    name = f"quickstart_spread_{arithmetic}" if arithmetic else "quickstart_spread"
    choices = sweeps.grid({"seed": seeds})
    failed = sweeps.sweep(BOOK, name, choices).query("state != 'done'")
    if len(failed):
        sys.exit(failed[["run", "error"]].to_string(index=False))
    files = [point.folder / "summary.json" for point in sweeps.plan(BOOK, name, choices)]
    told = arithmetic or "this machine's"
    return [
        row(seed, told, json.loads(file.read_text()))
        for seed, file in zip(seeds, files, strict=True)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    text = "values of ATEN_CPU_CAPABILITY, each with seed 0"
    parser.add_argument("--arithmetic", nargs="*", default=[], help=text)
    text = f"replace {TABLE.relative_to(paths.ROOT)}"
    parser.add_argument("--write", action="store_true", help=text)
    options = parser.parse_args()
    rows = runs(options.seeds) if options.seeds else []
    for arithmetic in options.arithmetic:
        rows += runs([0], arithmetic)
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    if options.write:
        table.round(4).to_csv(TABLE, index=False)
    rose = [(table[f"{way}_after"] > table[f"{way}_before"]).all() for way in ("greedy", "sampled")]
    return 0 if all(rose) else 1


if __name__ == "__main__":
    sys.exit(main())
