"""Three sentences on what came of a quickstart, from its run folder; `make quickstart` ends so.

$ python -m envtune summary runs/quickstart
"""

from pathlib import Path

import pandas as pd

from envtune.common import paths
from envtune.common.files import read_json
from envtune.study import kit
from envtune.train import evaluation

AGAIN = "-p seed 1 -p run_name second"


def sentences(run_dir: Path) -> list[str]:
    """What changed on unseen tasks, with which stage, and what to do next.

    ValueError for a folder without a finished quickstart.
    """
    summary = read_json(run_dir / "summary.json")
    if "held_out" not in (summary or {}):
        raise ValueError(f"{run_dir} holds no finished quickstart: no summary.json of one is there")
    held_out, stages = summary["held_out"], summary["stages"]
    n, before, after = (held_out[name] for name in ("n", "before", "after"))
    start, end = (
        pd.read_csv(run_dir / f"evaluation_{name}.csv").query("way == 'greedy'")
        for name in ("start", stages[-1]["stage"])
    )
    chance = evaluation.compare(start, end).p_value >= 0.05
    gained = after["greedy"] - before["greedy"]
    what = f"{'better' if gained > 0 else 'worse'}, by {'no ' if chance else ''}more than chance"
    solved = (
        f"Of {n} unseen tasks the agent solved {round(n * before['greedy'])} greedily before "
        f"training and {round(n * after['greedy'])} after it (sampled: "
        f"{round(n * before['sampled'])} and {round(n * after['sampled'])}): "
        f"{f'{what} explains' if gained else 'neither better nor worse'}."
    )
    return [solved, _stage_that_changed_most(before, stages), _next(run_dir, gained > 0, chance)]


def _stage_that_changed_most(before: dict, stages: list[dict]) -> str:
    steps = zip([before, *stages], stages, strict=False)
    changes = [(now["greedy"] - was["greedy"], was["greedy"], now) for was, now in steps]
    change, was, now = max(changes, key=lambda found: abs(found[0]))
    if not change:
        return "No stage changed how many tasks it solves greedily."
    number, _, what = kit.STAGE_LABELS[now["stage"]].partition(" ")
    return (
        f"Most changed in stage {number} ({what}): greedily from {was:.0%} to {now['greedy']:.0%} "
        f"solved, which {'helped' if change > 0 else 'did harm'}."
    )


def _next(run_dir: Path, better: bool, chance: bool) -> str:
    run = ".venv/bin/python -m envtune run notebooks"
    if better and not chance:
        return (
            "Next, change one thing, a reward, a task or a hint of your own, and compare: "
            f"{run}/20_change_one_thing.ipynb"
        )
    reference = pd.read_csv(paths.DATA / "reference_runs" / "quickstart.csv")
    rises = reference["greedy_after"] - reference["greedy_before"]
    return (
        f"{(rises > 0).sum()} of {len(rises)} reference runs became better, so look at "
        f"{run_dir.name}/stage_dynamics.png and try another seed next: "
        f"{run}/00_quickstart.ipynb {AGAIN}"
    )
