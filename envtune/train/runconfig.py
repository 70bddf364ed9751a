"""config.json of a run folder, the settings of its results, and best.json, the policy to keep.

    {"preset": {"name": "cpu-tiny", ...}, "seed": 0,
     "stages": {"stage1_syntax": {"steps": 10, "start": "data/tiny_agent", ...}}}

Settings bind a stage once it has trained a step; until then a call with other settings replaces
them. Folders are written so that a moved or copied checkout finds them: "./stage1_syntax/policy"
is in the run folder, "runs/..." in the folder of all runs, any other in the project.
"""

import json
import os
import shutil
import warnings
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from envtune import bfcl, hints
from envtune.common import paths
from envtune.common.files import differences, read_json, read_lines, write_json
from envtune.env import rewards
from envtune.train import presets
from envtune.train.presets import Preset
from envtune.train.runlog import last_complete_step, versions
from envtune.train.stages import STAGES, Stage, training_tasks

OR_ELSE = "Choose another run_name, or delete the folder"


def portable(place: Path | str, run_dir: Path) -> str:
    """A policy's folder as config.json keeps it; a hub id or a folder elsewhere stays as it is."""
    if not Path(place).is_absolute() and not Path(place).exists():
        return str(place)
    folder = Path(os.path.abspath(place))
    for name, base in (("./", run_dir), ("runs/", paths.runs()), ("", paths.ROOT)):
        if folder.is_relative_to(os.path.abspath(base)):
            return name + folder.relative_to(os.path.abspath(base)).as_posix()
    return str(folder)


def located(kept: str, run_dir: Path) -> Path | str:
    """The folder that `portable` wrote as `kept`, or the hub id that it is."""
    top, _, rest = kept.partition("/")
    folder = {".": run_dir, "runs": paths.runs()}.get(top, paths.ROOT / top) / rest
    return folder if folder.exists() else kept


def read(run_dir: Path) -> dict:
    """config.json, or an empty one. ValueError when it is damaged."""
    try:
        return read_json(run_dir / "config.json", {"stages": {}})
    except ValueError as error:
        raise ValueError(
            f"{error}: the same call then goes on from the last checkpoint, without comparing its "
            "settings with those the run began with"
        ) from None


def preset_of(run_dir: Path) -> Preset | None:
    """The preset that a run was trained with, every field of it; None where no config.json has one.

    config.json has no stage_steps: they are those of the preset of the same name, and under any
    other name the steps of the run's stages. ValueError as in presets.from_dict.
    """
    config = read_json(run_dir / "config.json", {})
    kept: Any = config.get("preset") if isinstance(config, dict) else None
    if not isinstance(kept, dict):
        return None
    if kept.get("name") not in presets.PRESETS:
        trained = config.get("stages", {})
        steps = [trained.get(stage.name, {}).get("steps", 0) for stage in STAGES]
        kept = {"stage_steps": steps} | kept
    if "model" in kept:
        kept = kept | {"model": str(located(kept["model"], run_dir))}
    return presets.from_dict(kept)


def start_of(run_dir: Path, stage: Stage, start: Path | str) -> Path | str:
    """The policy that a stage starts from.

    A rerun may give the policy that the stage itself left, because the notebook cell assigned it
    to the same variable; then it is the one that the stage had started from.
    """
    entry = read(run_dir)["stages"].get(stage.name)
    rerun = entry and portable(start, run_dir) == f"./{stage.name}/policy"
    return located(entry["start"], run_dir) if rerun else start


def _rows(run_dir: Path, kind: str) -> list[dict]:
    file = run_dir / "metrics.jsonl"
    return [row for row in read_lines(file) if row["kind"] == kind] if file.exists() else []


def steps_made(run_dir: Path) -> dict[str, int]:
    """The last training step of every stage that has trained and whose folder is still there."""
    made = {row["stage"]: row["step"] for row in _rows(run_dir, "train")}
    return {stage: step for stage, step in made.items() if (run_dir / stage).exists()}


def _version(start: Path | str) -> str | None:
    """A digest of how the stage that left a policy was trained; None for a policy of no run."""
    stage = Path(start).parent
    entry = read(stage.parent)["stages"].get(stage.name) if Path(start).name == "policy" else None
    return sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:12] if entry else None


def _digest(task: bfcl.Task) -> str:
    """What a task of one's own says, as 12 letters."""
    return sha256(repr(task).encode()).hexdigest()[:12]


def register(
    run_dir: Path, stage: Stage, preset: Preset, steps: int, start: Path | str, seed: int
) -> None:
    """Write the stage into config.json.

    ValueError, with every setting that differs, if the folder has results of other settings. More
    steps are allowed: the stage goes on and its policy is replaced.
    """
    settings = {k: v for k, v in asdict(preset).items() if k not in presets.UNBOUND}
    settings["model"] = portable(preset.model, run_dir)
    entry = {
        **asdict(stage),
        "reward": rewards.reward_settings(stage.reward),
        "steps": steps,
        "start": portable(start, run_dir),
        "start_version": _version(start),
        "practice": training_tasks(stage, preset),
    }
    practice = entry["practice"]
    if own := {task: _digest(bfcl.OWN_TASKS[task]) for task in practice if task in bfcl.OWN_TASKS}:
        entry["own_tasks"] = own
    if stage.shows_hints:
        entry["hint_library"] = hints.library_digest()
        if own := hints.added_folders():
            entry["own_hints"] = list(own.values())
    new = json.loads(json.dumps({"preset": settings, "seed": seed, "stages": {stage.name: entry}}))
    old, made = read(run_dir), steps_made(run_dir)
    bound = {name: kept for name, kept in old["stages"].items() if name in made}
    if bound and (found := differences({**old, "stages": 0}, {**new, "stages": 0})):
        raise ValueError(f"{run_dir} holds a run of other settings: {'; '.join(found)}. {OR_ELSE}")
    if stage.name in bound:
        now = new["stages"][stage.name]
        if "hint_library" not in bound[stage.name]:  # begun before it was noted
            now.pop("hint_library", None)
        now["steps"] = _agreed(run_dir, stage, bound[stage.name], now, made[stage.name])
        if now["steps"] > bound[stage.name]["steps"]:
            _set_aside(run_dir, stage, bound)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(run_dir / "config.json", {**new, "stages": bound | new["stages"]})
    write_json(run_dir / "versions.json", versions())


def _agreed(run_dir: Path, stage: Stage, was: dict, now: dict, made: int) -> int:
    """The steps of a stage that has `made` some, from its settings then and now.

    ValueError when it cannot go on.
    """
    out = run_dir / stage.name
    if found := differences({**was, "steps": 0}, {**now, "steps": 0}):
        if found[0].startswith("start_version"):
            raise ValueError(
                f"{stage.name} is stale: the stage that left {now['start']} was trained further or "
                f"anew since. Delete {out} to train it from there, or choose another run_name"
            )
        if found[0].startswith("reward.source_digest"):
            raise ValueError(
                f"{run_dir} trained {stage.name} with another version of the reward "
                f"{now['reward']['name']}: its code, or a value that it reads, has changed, or the "
                f"Python version, which compiles it differently. {OR_ELSE}"
            )
        raise ValueError(
            f"{run_dir} holds {stage.name} with other settings: {'; '.join(found)}. {OR_ELSE}"
        )
    before, after, ended = was["steps"], now["steps"], (out / "policy").exists()
    if after == before or (after > before > made and ended):
        return before  # in the second case its rule had ended it, and would again
    if after < before:
        why = "steps made are not taken back"
    elif stage.hint_schedule != "constant":
        why = f"its {stage.hint_schedule} hint schedule runs over its length"
    elif ended and last_complete_step(out) < made:
        why = f"its last checkpoint, {out.name}/checkpoint-{made}, is gone"
    else:
        return after
    raise ValueError(
        f"{run_dir} holds {stage.name} with other settings: steps was {before}, now {after}, and "
        f"{why}. {OR_ELSE}"
    )


def _set_aside(run_dir: Path, stage: Stage, entries: dict) -> None:
    """Move the policy of a stage that goes on out of the way, and warn of stages now stale."""
    stale = [stage.name]
    for name, entry in entries.items():
        if any(entry["start"] == f"./{earlier}/policy" for earlier in stale):
            stale.append(name)
    policy, aside = run_dir / stage.name / "policy", run_dir / stage.name / "policy.unfinished"
    if policy.exists():
        shutil.rmtree(aside, ignore_errors=True)
        policy.rename(aside)  # the hand-over removes it
        if stale[1:]:
            warnings.warn(
                f"{', '.join(stale[1:])} started from what {stage.name} left before it went on, "
                "and will be stale",
                stacklevel=2,
            )


def note_best(run_dir: Path) -> None:
    """Write best.json: the policy of the run with the best validation accuracy.

    Candidates are the policy before the first stage and those that its stages left; the later one
    of equals is taken. Its folder is relative to the run folder. Each accuracy is one sampled pass
    over a few tasks, so a small lead is chance; stages 3 and 4 validate with the two rules in the
    prompt.
    """
    stages = read(run_dir)["stages"]
    rows = [row for row in _rows(run_dir, "validation") if row["stage"] in stages]
    if not rows:
        return
    last = {row["stage"]: row for row in rows if (run_dir / row["stage"] / "policy").exists()}
    start = located(stages[rows[0]["stage"]]["start"], run_dir)
    first = os.path.relpath(start, run_dir) if isinstance(start, Path) else start
    ends = [("start", first, rows[0])]
    ends += [(stage, f"{stage}/policy", row) for stage, row in last.items()]
    stage, policy, row = max(reversed(ends), key=lambda end: end[2]["accuracy"])
    best = {"policy": policy, "stage": stage, "step": row["step"]}
    best |= {"accuracy": row["accuracy"], "tasks": row["episodes"]}
    write_json(run_dir / "best.json", best)
