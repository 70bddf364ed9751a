"""Does GRPO teach the embedded agent tasks that it never saw? Four stages of cpu-tiny, five seeds.

    $ python benchmarks/learning_check.py [--seeds 0 1 2 3 4] [--out runs/learning_check]
        [-p FIELD VALUE] [--json] [--write]

Measured before training and after every stage on the 400 synthetic test tasks, without hints,
under BFCL's limits and checker, greedy and sampled, with 95% intervals clustered by scenario.
Targets, every seed: both rise by at least 20 points from start to end, no stage loses more than 5.
Printed beside them, and judged by nobody but the reader: the seconds of training steps and
validations (aim: 12 minutes on two cores). A seed that was stopped goes on; a finished one is not
run again. `--write` replaces the committed reference runs.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import yaml

from envtune.bfcl import synthetic
from envtune.common import files, paths, progress
from envtune.train import evaluation, grpo, presets

RISE, LOSS = 0.20, 0.05


def measure(policy: Path, preset: presets.Preset, seed: int, out: Path) -> pd.DataFrame:
    """`evaluation.both_ways` of a policy on the test tasks, kept in `out`."""
    if not out.exists():
        tasks = synthetic.task_ids(synthetic.TEST)
        evaluation.both_ways(policy, tasks, preset, seed).to_csv(out, index=False)
    return pd.read_csv(out)


def check(seed: int, preset: presets.Preset, folder: Path) -> pd.DataFrame:
    """Train the four stages; `evaluation.after_stages` with the seed and the training seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    start = grpo.starting_model(preset)
    with progress.bar(sum(preset.stage_steps), f"seed {seed}", "step") as bar:
        run = grpo.train_curriculum(
            preset,
            folder,
            seed,
            start=start,
            on_row=lambda line: bar.update(line["kind"] == "train"),
        )
    measured = {
        "start": measure(start, preset, 0, folder.parent / "test_start.csv")
    }  # one policy, the same for every seed
    measured |= {
        name: measure(policy, preset, seed, folder / f"test_{name}.csv")
        for name, policy in run.checkpoints.items()
    }
    table = evaluation.after_stages(measured)
    lines = pd.read_json(folder / "metrics.jsonl", lines=True)
    return table.assign(seed=seed, train_seconds=lines["seconds"].sum())


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per seed and way: start, end, rise, worst stage, and whether both targets are met."""
    found = []
    for (seed, way), part in rows.groupby(["seed", "way"], sort=False):
        values = part["accuracy"].tolist()
        rise = values[-1] - values[0]
        worst = min(b - a for a, b in zip(values, values[1:], strict=False))
        met = bool(rise >= RISE and worst >= -LOSS)
        seconds = part["train_seconds"].iloc[0]
        found.append((seed, way, values[0], values[-1], rise, worst, met, seconds))
    columns = "seed way start end rise worst_stage met train_seconds".split()
    return pd.DataFrame(found, columns=columns)


def write(rows: pd.DataFrame, runs: Path, folder: Path = paths.DATA / "reference_runs") -> None:
    """Replace the reference runs: the table, and each seed's metrics."""
    for old in folder.glob("cpu_tiny_seed*.parquet"):
        old.unlink()
    rows.round(4).to_csv(folder / "learning_check.csv", index=False)
    for seed in rows["seed"].unique():
        files.load_metrics(runs / f"seed{seed}").to_parquet(folder / f"cpu_tiny_seed{seed}.parquet")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=paths.runs() / "learning_check")
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("FIELD", "VALUE"),
        help="a field of the preset to change; the value is read as YAML",
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument(
        "--write", action="store_true", help="replace data/reference_runs by these runs"
    )
    options = parser.parse_args()
    changes = {name: yaml.safe_load(value) for name, value in options.parameter}
    preset = replace(
        presets.CPU_TINY, **{k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    )
    rows = pd.concat(
        [check(seed, preset, options.out / f"seed{seed}") for seed in options.seeds],
        ignore_index=True,
    )
    result = verdicts(rows)
    if options.write:
        write(rows, options.out)
    if options.json:
        print(json.dumps({"rows": rows.to_dict("records"), "verdicts": result.to_dict("records")}))
    else:
        print(rows.drop(columns="train_seconds").round(3).to_string(index=False), "\n")
        print(result.round(3).to_string(index=False))
    return 0 if result["met"].all() else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
