"""An evaluation with a folder of its own: any policy, any engine, every episode kept.

    $ python -m envtune evaluate runs/quickstart/stage4_alignment/policy --tasks test --name last
    >>> found = run("last", "runs/quickstart/stage4_alignment/policy", tasks("test"), presets.PAPER)

runs/NAME/ gets settings.json and episodes.jsonl (from `play`), results.parquet (one
evaluation.result_row per task and repeat), breakdown.csv and summary.json. With hints on as well,
those episodes lie in runs/NAME/with_hints/. A killed one goes on with the same call.
"""

import importlib.util
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import AutoTokenizer

from envtune import bfcl
from envtune.bfcl import splits
from envtune.common import paths
from envtune.common.files import atomic, fingerprint, read_json, write_json
from envtune.env import failures
from envtune.policy import agent, sampler, smollm2
from envtune.record import EpisodeRecord
from envtune.train import evaluation, lora, playing, presets, runconfig
from envtune.train.presets import Preset
from envtune.train.runlog import versions

TASKS = ("test", "test300", "validation", "train", "synthetic")


def tasks(name: str, limit: int | None = None) -> tuple[str, ...]:
    """The ids of one of TASKS, or of a file with one id a line; `limit`: so many of them.

    ValueError for another name, an id that is no task, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"the limit is at least 1 task, got {limit}")
    found = splits.load_splits()
    sets = {
        "test": found.test,
        "test300": found.test_unseen,
        "validation": found.validation,
        "train": found.train,
        "synthetic": splits.synthetic_splits().test,
    }
    if name in sets:
        ids = sets[name]
    elif Path(name).is_file():
        ids = tuple(dict.fromkeys(Path(name).read_text().split()))
        try:
            list(map(bfcl.load_task, ids))
        except KeyError as error:
            raise ValueError(f"{name}: {error.args[0]}") from None
    else:
        raise ValueError(f"tasks are one of {', '.join(TASKS)}, or a file of ids, got {name!r}")
    return _some(ids, limit) if limit and limit < len(ids) else ids


def _some(ids: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` of the tasks, of as many scenarios as possible and of all variants in turn: tasks of
    one scenario resemble each other and would say less."""
    scenarios: dict[str, list[str]] = {}
    for task in ids:
        scenarios.setdefault(splits.scenario_of(task), []).append(task)
    rounds = [
        [own[(number + turn) % len(own)] for number, own in enumerate(scenarios.values())]
        for turn in range(max(map(len, scenarios.values())))
    ]
    whole, rest = divmod(count, len(scenarios))
    chosen = {task for tasks in rounds[:whole] for task in tasks}
    if rest:
        chosen |= {rounds[whole][i * len(scenarios) // rest] for i in range(rest)}
    # scenarios of which fewer variants are there leave room for others
    chosen |= set([task for task in ids if task not in chosen][: count - len(chosen)])
    return tuple(task for task in ids if task in chosen)


def preset_of(policy: str, name: str = "") -> Preset:
    """The preset to play a policy with: the named one, that of the run that trained it, or its own.

    Any other model is played as in the paper, on one device.
    """
    place = Path(policy).expanduser().resolve()
    named = policy in agent.FOLDERS or policy == "smollm2"
    of_a_run = not name and not named and place.is_dir() and len(place.parents) > 1
    if of_a_run and (found := runconfig.preset_of(place.parents[1])):  # RUN/stage/policy
        return found
    tiny = policy in agent.FOLDERS or place in agent.FOLDERS.values()
    own = "cpu-tiny" if tiny else policy if policy == "smollm2" else "paper-8x80gb"
    return presets.get(name or own)


def resolve(policy: str, folder: Path, preset: Preset, engine: str) -> Path | str:
    """What `play` takes for a policy: a folder, a hub id, a server's model name.

    An adapter's folder is merged with its base into `folder`/policy, once. ValueError for a folder
    that is missing or holds no model.
    """
    if engine.startswith(("http://", "https://")):
        return policy
    if policy in agent.FOLDERS:
        return agent.FOLDERS[policy]
    if policy == "smollm2":
        return smollm2.unpacked()
    place = Path(policy).expanduser()
    if not place.is_dir():
        if place.exists() or policy.startswith((".", "/", "~", "runs/")) or policy.count("/") > 1:
            raise ValueError(
                f"there is no folder {policy}; a policy is a folder with config.json or "
                "adapter_config.json, or a hub id such as Qwen/Qwen2.5-7B-Instruct"
            )
        return policy
    place = place.resolve()
    if (place / "adapter_config.json").is_file():
        return _merged(place, folder / "policy", preset)
    if not (place / "config.json").is_file():
        raise ValueError(f"{policy} holds no model: neither config.json nor adapter_config.json")
    return place


def _merged(adapter: Path, out: Path, preset: Preset) -> Path:
    """The adapter merged into its base, saved with a tokenizer; made once."""
    config = read_json(adapter / "adapter_config.json")
    origin = {"adapter": str(adapter), "base": config.get("base_model_name_or_path")}
    if not origin["base"]:
        raise ValueError(f"{adapter}/adapter_config.json does not name its base model")
    for part, place in list(origin.items()):
        if Path(place).is_dir():
            origin[f"{part} holds"] = fingerprint(Path(place))
    if out.exists():
        if {**origin, **(was := read_json(out / "merged_from.json", {}))} != origin:
            raise ValueError(f"{out} was merged from {was}; choose another name, or delete it")
        return out
    from peft import PeftModel

    model, tokenizer = sampler.load_policy(origin["base"], preset.bf16)
    if (adapter / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(adapter)
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f"{out.name}.*.unfinished"):  # by a kill, gigabytes each
        if time.time() - left.stat().st_mtime > 86_400:  # else it may be written just now
            shutil.rmtree(left, ignore_errors=True)
    with atomic(out) as unfinished:
        lora.merged(PeftModel.from_pretrained(model, adapter)).save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        write_json(unfinished / "merged_from.json", origin)
    return out


def run(
    name: str,
    policy: str,
    task_ids: Sequence[str],
    preset: Preset,
    engine: str = "",
    temperature: float = 0.0,
    repeats: int = 1,
    seed: int = 0,
    hints: bool = False,
    batch_size: int | None = None,
    other: str = "",
) -> dict:
    """Evaluate and return what summary.json holds; the settings are those of `playing.play`.

    hints: play every task once more with hints, to tell how much the policy leans on them.
    other: a finished evaluation of these tasks, or of more, to be compared with: `against`.
    ValueError before anything is played for repeats without a temperature, without vLLM where it
    is to play, or if `other` lacks tasks.
    """
    if other:
        known = set(plain(load(other))["task_id"])
        if not set(task_ids) <= known:
            evaluation.refuse_other_tasks(known, set(task_ids))
    if repeats > 1 and temperature == 0:
        raise ValueError(
            f"{repeats} repeats at temperature 0 are {repeats} times the same; give a temperature"
        )
    folder = paths.run_dir(name)
    if (folder / "config.json").exists() or (folder / "metrics.jsonl").exists():
        raise ValueError(f"{folder} holds a training run; choose another name for the evaluation")
    plays = resolve(policy, folder, preset, engine)
    on_vllm = engine == "vllm" or (not engine and preset.use_vllm)
    if on_vllm and not importlib.util.find_spec("vllm"):
        what = "vLLM" if engine else f"preset {preset.name!r} plays on vLLM, which"
        raise ValueError(
            f"{what} is not installed here: choose the engine transformers or a server's URL, or "
            "install the GPU set (`make conda`)"
        )
    how = {"temperature": temperature, "repeats": repeats, "seed": seed, "engine": engine}
    how["batch_size"] = batch_size
    tables = []
    for rate, keep in ((0.0, folder), (1.0, folder / "with_hints"))[: 1 + hints]:
        playing.play(plays, task_ids, preset, hint_rate=rate, keep=keep, **how)
        tables.append(read(keep, task_ids, repeats).assign(hints=bool(rate)))
    with atomic(folder / "results.parquet") as unfinished:
        pd.concat(tables, ignore_index=True).to_parquet(unfinished, index=False)
    evaluation.breakdown(tables[0]).to_csv(folder / "breakdown.csv", index=False)
    found = summary(*tables)
    settings = {"policy": policy, "preset": preset.name, "temperature": temperature, "seed": seed}
    played = read_json(folder / "settings.json")
    settings |= {name: played.get(name, "") for name in ("engine", "weights")}
    data = {"bfcl_eval": bfcl.PACKAGE_VERSION, "bfcl_data_sha256": bfcl.DATA_SHA256}
    if other:
        found["against"] = against(name, other)
    found = {"name": name, **settings, **found, **data, "versions": versions()}
    write_json(folder / "summary.json", found)
    return found


def read(folder: Path, task_ids: Sequence[str] = (), repeats: int | None = None) -> pd.DataFrame:
    """The kept episodes of a folder as rows, with a column `repeat`: of these tasks, or of all."""
    wanted = set(task_ids)
    rows = [
        {**evaluation.result_row(record), "repeat": key[1]}
        for key, record in playing.read_kept(folder)
        if (not wanted or key[0] in wanted) and (repeats is None or key[1] < repeats)
    ]
    order = {task: i for i, task in enumerate(task_ids)}
    rows.sort(key=lambda row: (row["repeat"], order.get(row["task_id"], 0)))
    return pd.DataFrame(rows)


def load(name: str) -> pd.DataFrame:
    """results.parquet of a finished evaluation. ValueError for a run without one."""
    file = paths.runs() / name / "results.parquet"
    if not file.exists():
        raise ValueError(f"runs/{name} holds no finished evaluation: {file} is missing")
    return pd.read_parquet(file)


def records(name: str) -> dict[playing.Key, EpisodeRecord]:
    """The episodes of an evaluation without hints, by task and repeat."""
    return dict(playing.read_kept(paths.runs() / name))


def plain(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of an evaluation that were played without hints."""
    return results.loc[~results["hints"]]


def against(name: str, other: str) -> dict:
    """How much more accurate evaluation `name` is than `other` on its tasks, without hints."""
    own, theirs = plain(load(name)), plain(load(other))
    theirs = theirs.loc[theirs["task_id"].isin(list(own["task_id"]))]
    found = evaluation.compare(theirs, own)
    return {"name": other, "tasks": len(set(own["task_id"])), **found._asdict()}


def summary(results: pd.DataFrame, with_hints: pd.DataFrame | None = None) -> dict:
    """The numbers of an evaluation, JSON-ready; shares in [0, 1] with low, high (95%) and error."""
    recovery = evaluation.recovered(results)
    failed: Any = results.loc[~results["valid"], "failure"].value_counts()
    found = {
        "tasks": len(set(results["task_id"])),
        "scenarios": len(set(map(splits.scenario_of, results["task_id"]))),
        "repeats": len(set(results["repeat"])),
        "accuracy": {
            name: {"n": len(part), **evaluation.accuracy(part)._asdict()}
            for name, part in evaluation.subsets(results).items()
        },
        "progress": float(np.mean(results["progress"])),
        "format_reward": float(np.mean(results["format_reward"])),
        "failures": {kind: int(failed[kind]) for kind in failures.FAILURES if kind in failed},
        "errors": sum(map(int, results["errors"])),
        "recovery": recovery._asdict() if recovery else None,
        "passes": evaluation.passes(results).to_dict("records"),
    }
    if with_hints is not None:
        hinted = evaluation.recovered(with_hints)
        found["with_hints"] = {
            "accuracy": evaluation.accuracy(with_hints)._asdict(),
            "gain": evaluation.compare(results, with_hints)._asdict(),
            "errors": sum(map(int, with_hints["errors"])),
            "recovery": hinted._asdict() if hinted else None,
        }
    return found
