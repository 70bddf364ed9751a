"""BFCL V4's agentic tasks by bfcl-eval: memory (three backends) and web search (two variants).

A line of a result file:

    {"id": "memory_kv_130-notetaker-0", "result": [["It was ..."]], "input_token_count": ...}

and the first line of a score file: {"accuracy": 0.33, "correct_count": 1, "total_count": 3}.

bfcl-eval writes what went wrong during inference into the result file as if the model had said it,
scores it as wrong and never tries again. Such lines are removed here before scoring, and played
again by the next call, unless the conversation outgrew the model's context: that is a failure of
the model. A failed prerequisite conversation leaves the memory incomplete: the task then has no
result.
"""

import json
import os
import shutil
from pathlib import Path

from envtune.common.files import read_lines, write_json
from envtune.study.ood.setting import Harness, Job, Score, key

TASKS = {
    "web_search_base": 100,
    "web_search_no_snippet": 100,
    "memory_kv": 155,
    "memory_vector": 155,
    "memory_rec_sum": 155,
}
FAILED = "Error during inference"
MODELS_OWN = ("context length", "max_model_len", "maximum context")
"""What servers answer to a prompt that is too long."""
ENCODER = "all-MiniLM-L6-v2"

HAS_ENCODER = f"""
import os, urllib.request, huggingface_hub as hub
known = hub.try_to_load_from_cache("sentence-transformers/{ENCODER}", "config.json")
if not os.path.isdir("{ENCODER}") and not isinstance(known, str):
    urllib.request.urlopen(hub.constants.ENDPOINT, timeout=20)
"""
"""Fails at once where the encoder of memory_vector can be had neither here nor from its hub."""


def refusal(job: Job, task: str) -> str:
    if task.startswith("web_search") and "SERPAPI_API_KEY" not in os.environ:
        return "web search needs a key of serpapi.com: set SERPAPI_API_KEY"
    if not job.checkpoint.folder:
        return "BFCL writes the prompt itself and needs the tokenizer: give the checkpoint a folder"
    return ""


def _file(job: Job, task: str, kind: str, prerequisites: bool = False) -> Path:
    """kind: result or score."""
    folder = job.folder / kind / job.options.bfcl_model.replace("/", "_") / "agentic"
    if task.startswith("memory"):
        folder = folder / "memory" / task.removeprefix("memory_")
    return folder / f"BFCL_v4_{task}{'_prereq' if prerequisites else ''}_{kind}.json"


def choose(data: Path, task: str, limit: int) -> list[str]:
    """Ids of the first `limit` questions, and of the conversations that they build on.

    data: the folder `data` of the installed bfcl_eval. The notetaker's memory is the shortest: it
    comes first.
    """
    if task.startswith("web_search"):
        found = [line["id"] for line in read_lines(data / "BFCL_v4_web_search.json")][:limit]
        return [name.replace("web_search", task) for name in found]
    lines = sorted(
        read_lines(data / "BFCL_v4_memory.json"), key=lambda line: line["scenario"] != "notetaker"
    )[:limit]
    ids = []
    for scenario in dict.fromkeys(line["scenario"] for line in lines):
        file = data / "memory_prereq_conversation" / f"memory_{scenario}.json"
        ids += [line["id"] for line in read_lines(file)]
    return [name.replace("memory", task) for name in (*ids, *(line["id"] for line in lines))]


def _infrastructure(line: dict) -> bool:
    said = line["result"]
    return (
        isinstance(said, str)
        and said.startswith(FAILED)
        and not any(words in said for words in MODELS_OWN)
    )


def drop_failed(job: Job, task: str) -> str:
    """Remove from the result files what failed for other reasons than the model; says what."""
    before, file = _file(job, task, "result", prerequisites=True), _file(job, task, "result")
    if before.exists():
        for line in read_lines(before, reopened=True):
            if _infrastructure(line):
                shutil.rmtree(before.parent)  # the memory, and the answers that build on it
                return f"a conversation that fills the memory failed: {line['result']}"
    lines = list(read_lines(file, reopened=True)) if file.exists() else []
    failed = [line for line in lines if _infrastructure(line)]
    if not failed:
        return ""
    kept = [line for line in lines if not _infrastructure(line)]
    file.write_text("".join(json.dumps(line) + "\n" for line in kept))
    if not kept:
        file.unlink()
    return f"{len(failed)} of {len(lines)} questions failed: {failed[0]['result']}"


def _link(within: Path, name: str, folder: Path) -> None:
    """Make `name` in a folder lead to another one. A server may name its model by a whole path,
    which leads there by itself."""
    link = within / name
    if link.is_symlink() and not Path(name).is_absolute():
        link.unlink()  # an earlier call may have named another folder
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder.resolve())


def play(job: Job, task: str) -> None:
    assert job.endpoint
    model = job.endpoint.model  # the handler asks for the model by its tokenizer's path
    for name, folder in ((model, job.checkpoint.folder), (ENCODER, job.options.embedding_model)):
        if folder:
            _link(job.folder, name, Path(folder))
    environment = {
        "BFCL_PROJECT_ROOT": str(job.folder.resolve()),
        "REMOTE_OPENAI_BASE_URL": job.endpoint.url,
        "REMOTE_OPENAI_API_KEY": key(),
    }
    # without its encoder every question would ask the hub again for minutes, and then fail
    probe = [job.program("python"), "-c", HAS_ENCODER]
    if task == "memory_vector" and job.execute(probe, task):
        return
    common = ["--model", job.options.bfcl_model, "--test-category", task]
    generate = [job.program("bfcl"), "generate", *common, "--skip-server-setup"]
    generate += ["--backend", "vllm", "--num-threads", str(job.options.threads)]
    generate += ["--local-model-path", job.endpoint.model]
    if job.options.limit:
        [data] = job.harness.environment.glob("lib/python*/site-packages/bfcl_eval/data")
        ids = {task: choose(data, task, job.options.limit)}
        write_json(job.folder / "test_case_ids_to_generate.json", ids)
        generate.append("--run-ids")
    job.execute(generate, task, **environment)
    _file(job, task, "score").unlink(missing_ok=True)
    if failed := drop_failed(job, task):
        with open(job.folder / f"{task}.log", "a") as log:
            log.write(f"\n{failed}\n")
    if _file(job, task, "result").exists():
        evaluate = [job.program("bfcl"), "evaluate", *common, "--partial-eval"]
        job.execute(evaluate, task, **environment)


def read(job: Job, task: str) -> Score | None:
    """From the score file and, because its questions may be fewer, the result file."""
    score, result = _file(job, task, "score"), _file(job, task, "result")
    if not (score.exists() and result.exists()):
        return None
    head = next(iter(read_lines(score)))
    long = sum(
        isinstance(line["result"], str) and line["result"].startswith(FAILED)
        for line in read_lines(result, True)
    )
    note = f"{long} of {head['total_count']} outgrew the model's context" if long else ""
    return Score(100 * head["correct_count"] / head["total_count"], head["total_count"], note)


HARNESS = Harness("BFCL V4", TASKS, "ood-bfcl", "bfcl-eval", refusal=refusal, play=play, read=read)
