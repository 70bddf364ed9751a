"""Does GRPO learn here? Stages 1 and 2 with the cpu-tiny preset, three seeds; prints a table and says which targets are met.

    $ python benchmarks/learning_check.py [--seeds 0 1 2] [--json]

Targets, every seed: the mean stage-1 reward (0..2) of the last five steps exceeds that of the first five by at least 0.5, and the
mean stage-2 progress (BFCL's state and result checks) by at least 0.1. About four minutes a seed on two cores. The policy is the
embedded instrument: this shows that the machinery learns, and nothing about the paper.
"""
import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from envtune import presets, training
from envtune.stages import STAGES

TARGETS = {"stage1_syntax": ("reward", 0.5), "stage2_hints": ("progress", 0.1)}


def check(seed: int, folder: Path) -> list[dict]:
    """Train stages 1 and 2 and return a row a stage: first and last five steps, rise, target, seconds."""
    preset = replace(presets.CPU_TINY, stage_steps=(*presets.CPU_TINY.stage_steps[:2], 0, 0))
    began = time.monotonic()
    training.train_curriculum(
        preset, folder, seed, stages=STAGES[:2],
        echo=lambda line: print(f"seed {seed} {line['stage']} {line['kind']} {line['step']}", file=sys.stderr))
    seconds = time.monotonic() - began
    data = pd.read_json(folder / "metrics.jsonl", lines=True)
    rows = []
    for stage, (column, target) in TARGETS.items():
        values = data[(data["stage"] == stage) & (data["kind"] == "train")][column]
        first, last = values.head(5).mean(), values.tail(5).mean()
        rows.append({"seed": seed, "stage": stage, "measure": column, "steps": len(values), "first 5": round(first, 3),
                     "last 5": round(last, 3), "rise": round(last - first, 3), "target": target,
                     "met": bool(last - first >= target), "seconds a seed": round(seconds)})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        with TemporaryDirectory() as folder:
            rows += check(seed, Path(folder))
    print(json.dumps(rows) if options.json else pd.DataFrame(rows).to_string(index=False))
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
