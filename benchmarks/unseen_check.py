"""Does GRPO learn here, on tasks it never saw? The four stages from the agent that `make agent` leaves, five
seeds; prints a table and what was met.

    $ python benchmarks/unseen_check.py --model FOLDER [--seeds 0 1 2 3 4] [--out runs/unseen_check] [-p FIELD VALUE] [--json]

Measured before and after every stage on the 400 synthetic test tasks, without hints, under BFCL's limits and checker, greedy and
sampled. Targets, every seed: both rise by at least 20 points from start to end, and no stage loses more than 5. A seed that was
stopped goes on; a finished one is not run again.
"""
import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import yaml

from envtune import evaluation, paths, presets, synthetic, training

AGENT = replace(presets.CPU_TINY, tasks="synthetic", max_scenarios=None, stage_steps=(10, 20, 20, 15), prompts_per_step=8, device_batch=64,
                message_tokens=64, completion_tokens=900, max_result_chars=160, learning_rate=5e-4, beta=0.02, warmup_steps=2,
                validate_every=10, validation_tasks=40)
"""cpu-tiny for the embedded agent of `make agent`, as tried so far."""
RISE, LOSS = 0.20, 0.05


def measure(policy: Path, preset: presets.Preset, seed: int, out: Path) -> dict:
    """Greedy and sampled accuracy of a policy on the test tasks, with 95% intervals clustered by scenario; kept in `out`."""
    if not out.exists():
        evaluation.both_ways(policy, synthetic.task_ids(synthetic.TEST), preset, seed).to_csv(out, index=False)
    table = evaluation.by_way(pd.read_csv(out)).set_index("way")
    return {f"{way}{suffix}": table.loc[way, column] for way in evaluation.WAYS
            for suffix, column in (("", "accuracy"), ("_low", "low"), ("_high", "high"), ("_format", "format_reward"))}


def check(seed: int, preset: presets.Preset, folder: Path) -> list[dict]:
    """Train the four stages and return a row for the start and for each stage."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    start = training.starting_model(preset, seed)
    run = training.train_curriculum(preset, folder, seed, start=start, echo=lambda line: print(
        f"seed {seed} {line['stage']} {line['kind']} {line['step']}", file=sys.stderr))
    rows = [{"seed": seed, "after": name, **measure(policy, preset, seed, folder / f"test_{name}.csv")}
            for name, policy in {"start": start, **run.checkpoints}.items()]
    spent = folder / "seconds.json"  # of the sitting that did the work
    if not spent.exists():
        spent.write_text(json.dumps(round(time.monotonic() - began)))
    return [{**row, "seconds a seed": json.loads(spent.read_text())} for row in rows]


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a seed and way: start, end, rise, the worst step between stages, and whether both targets are met."""
    found = []
    for seed, of_seed in rows.groupby("seed"):
        for way in evaluation.WAYS:
            values = of_seed[way].tolist()
            rise, worst = values[-1] - values[0], min(b - a for a, b in zip(values, values[1:], strict=False))
            found.append({"seed": seed, "way": way, "start": values[0], "end": values[-1], "rise": rise, "worst stage": worst,
                          "met": bool(rise >= RISE and worst >= -LOSS), "seconds a seed": of_seed["seconds a seed"].iloc[0]})
    return pd.DataFrame(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=paths.runs() / "unseen_check")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"),
                        help="a field of the preset to change; the value is read as YAML")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--model", required=True, help="the agent that training starts from (runs/agent/habits/model)")
    options = parser.parse_args()
    changes = {name: yaml.safe_load(value) for name, value in options.parameter}
    preset = replace(AGENT, model=options.model, **{k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()})
    rows = pd.DataFrame([row for seed in options.seeds for row in check(seed, preset, options.out / f"seed{seed}")])
    result = verdicts(rows)
    if options.json:
        print(json.dumps({"rows": rows.to_dict("records"), "verdicts": result.to_dict("records")}))
    else:
        print(rows.drop(columns="seconds a seed").round(3).to_string(index=False), "\n")
        print(result.round(3).to_string(index=False))
    return 0 if result["met"].all() else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
