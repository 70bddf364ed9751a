"""ACEBench Agent (English) by EvalScope's port of it.

What is read of a report, `reports/<checkpoint>/acebench.json`:

    {"metrics": [{"identity": {"name": "accuracy"}, "categories": [{"subsets":
        [{"name": "agent_multi_step", "score": 0.05, "num": 20}]}]}]}

A conversation that failed (no user simulator, a server that went away) is scored 0 by EvalScope,
with `error_type` "missing_end_state" in `reviews/`. Such a conversation is no result here: it is
left out of score and n, and played again by the next call.

The data comes from ModelScope, or from a clone of ACEBench/ACEBench, whose questions and answers
are joined into one file in the hub's layout.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from envtune.common.files import read_lines
from envtune.study.ood.setting import Harness, Job, Score, key

TASKS = {"agent_multi_turn": 30, "agent_multi_step": 20}
SAMPLING = {"temperature": 0.001, "top_p": 1, "max_tokens": 1000}
"""As the original asks a model (model_inference/apimodel_inference.py)."""

CARD = """---
configs:
- config_name: en
  data_files:
  - split: agent
    path: en_agent.jsonl
---
"""
"""How the package `datasets` finds configuration and split in a folder."""


def refusal(job: Job, task: str) -> str:
    if task == "agent_multi_turn" and job.options.user is None:
        return "needs a user simulator: give user_url and user_model"
    return ""


def join_data(clone: Path, folder: Path) -> Path:
    """Write the agent tasks of a clone as EvalScope reads them; returns their folder.

    FileNotFoundError when the folder is no clone of ACEBench.
    """
    lines = []
    for task in TASKS:
        file = Path(f"data_{task}.json")
        english = clone / "data_all" / "data_en"
        if not (english / file).exists():
            raise FileNotFoundError(f"{english / file} is missing: give a clone of ACEBench")
        answers = {line["id"]: line for line in read_lines(english / "possible_answer" / file)}
        for line in read_lines(english / file):
            answer = answers[line["id"]]
            rubric = {name: answer[name] for name in ("ground_truth", "mile_stone")}
            # EvalScope asks for an object in every line: as text, because the fields' types vary
            kept = {name: json.dumps(v) if name != "id" else v for name, v in line.items()}
            kept["question"] = line["question"]
            lines.append(json.dumps({**kept, "rubric": json.dumps(rubric)}) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "en_agent.jsonl").write_text("".join(lines))
    (folder / "README.md").write_text(CARD)
    return folder


def _failed(job: Job, task: str) -> Iterator[tuple[Path, dict]]:
    """The reviews of conversations that did not take place, with their files."""
    for file in (job.folder / task / "reviews").rglob(f"*{task}*.jsonl"):
        for line in read_lines(file, True):
            if line["sample_score"]["score"]["metadata"]["error_type"] == "missing_end_state":
                yield file, line


def _forget_failed(job: Job, task: str) -> None:
    """Remove conversations that failed from EvalScope's cache, so that they are played again."""
    failed = {line["index"] for _, line in _failed(job, task)}
    for kind in ("reviews", "predictions") if failed else ():
        for file in (job.folder / task / kind).rglob(f"*{task}*.jsonl"):
            kept = [line for line in read_lines(file, True) if line["index"] not in failed]
            file.write_text("".join(json.dumps(line) + "\n" for line in kept))


def play(job: Job, task: str) -> None:
    assert job.endpoint
    extra = {}
    if job.options.user:
        extra = {"user_model": job.options.user.model, "user_model_api_url": job.options.user.url}
    dataset = {"subset_list": [task], "extra_params": extra}
    if job.options.acebench_data:
        clone = Path(job.options.acebench_data)
        dataset["dataset_id"] = str(join_data(clone, job.folder / "data").resolve())
    _forget_failed(job, task)
    work = str((job.folder / task).resolve())
    command = [job.program("evalscope"), "eval", "--model", job.endpoint.model]
    command += ["--model-id", job.checkpoint.name.replace(" ", "-"), "--eval-type", "openai_api"]
    command += ["--api-url", job.endpoint.url, "--api-key", key()]
    command += ["--datasets", "acebench"]
    command += ["--dataset-args", json.dumps({"acebench": dataset})]
    command += ["--generation-config", json.dumps(SAMPLING)]
    command += ["--eval-batch-size", str(job.options.threads)]
    command += ["--work-dir", work, "--no-timestamp"]
    if any((job.folder / task / "predictions").rglob("*.jsonl")):
        # reviews are made anew, or EvalScope refuses because the server's port is another one
        command += ["--use-cache", work, "--rerun-review"]
    if job.options.limit:
        command += ["--limit", str(job.options.limit)]
    job.execute(command, task, MODELSCOPE_SDK_TOKEN=key())


def read(job: Job, task: str) -> Score | None:
    for file in (job.folder / task / "reports").rglob("acebench.json"):
        report = json.loads(file.read_text())
        [accuracy] = [m for m in report["metrics"] if m["identity"]["name"] == "accuracy"]
        subsets = [s for category in accuracy["categories"] for s in category["subsets"]]
        [found] = [subset for subset in subsets if subset["name"] == task]
        failed = sum(1 for _ in _failed(job, task))
        n, note = found["num"] - failed, ""
        if failed:
            note = f"{failed} of {found['num']} conversations failed and are not counted"
        return Score(100 * found["score"] * found["num"] / n, n, note) if n else None
    return None


HARNESS = Harness(
    "ACEBench Agent",
    TASKS,
    "ood-acebench",
    "evalscope",
    refusal=refusal,
    play=play,
    read=read,
    simulates_user=("agent_multi_turn",),
)
