"""How much the quickstart's result differs between seeds and machines; prints a row a run.

    $ python benchmarks/quickstart_spread.py [--seeds 0 1 2 3 4] [--arithmetic default avx2] [--write]

Runs notebooks/00_quickstart.ipynb once a seed, as `make quickstart` does, and reads summary.json of each run. Another machine adds in
another order and so samples other words: `--arithmetic` runs seed 0 once more with PyTorch's other instruction sets
(ATEN_CPU_CAPABILITY) in place of such machines. A run that is finished is not run again: delete runs/quickstart_seed* when the notebook
has changed. `--write` replaces the committed table that the notebook quotes.
"""

import argparse
import json
import os
import subprocess
import sys

import pandas as pd

from envtune.common import paths

TABLE = paths.DATA / "reference_runs" / "quickstart.csv"


def row(seed: int, arithmetic: str) -> dict:
    """Accuracy before and after, greedy and sampled, the worst step between stages, and the seconds of one run."""
    name = f"quickstart_seed{seed}" + (f"_{arithmetic}" if arithmetic else "")
    file = paths.runs() / name / "summary.json"
    if not file.exists():
        command = [
            sys.executable,
            "-m",
            "envtune",
            "run",
            "notebooks/00_quickstart.ipynb",
            "-p",
            "seed",
            str(seed),
            "-p",
            "run_name",
            name,
        ]
        subprocess.run(
            command,
            cwd=paths.ROOT,
            check=True,
            env=os.environ | ({"ATEN_CPU_CAPABILITY": arithmetic} if arithmetic else {}),
        )
    summary = json.loads(file.read_text())
    found = {
        "seed": seed,
        "arithmetic": arithmetic or "this machine's",
        "n": summary["held_out"]["n"],
    }
    for way, before in summary["held_out"]["before"].items():
        after = [before, *(stage[way] for stage in summary["stages"])]
        worst = min(b - a for a, b in zip(after, after[1:], strict=False))
        found |= {
            f"{way}_before": before,
            f"{way}_after": after[-1],
            f"{way}_worst_stage": round(worst, 4),
        }
    return found | {"seconds": summary["seconds"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--arithmetic",
        nargs="*",
        default=[],
        help="values of ATEN_CPU_CAPABILITY, each with seed 0",
    )
    parser.add_argument(
        "--write", action="store_true", help=f"replace {TABLE.relative_to(paths.ROOT)}"
    )
    options = parser.parse_args()
    wanted = [(seed, "") for seed in options.seeds] + [
        (0, arithmetic) for arithmetic in options.arithmetic
    ]
    table = pd.DataFrame([row(seed, arithmetic) for seed, arithmetic in wanted])
    print(table.round(3).to_string(index=False))
    if options.write:
        table.round(4).to_csv(TABLE, index=False)
    rose = [(table[f"{way}_after"] > table[f"{way}_before"]).all() for way in ("greedy", "sampled")]
    return 0 if all(rose) else 1


if __name__ == "__main__":
    sys.exit(main())
