"""tau2-bench: retail, airline and telecom, from a clone of its repository (PyPI's `tau2` is
another thing).

What is read of `data/simulations/<domain>/results.json`:

    {"info": {...}, "simulations": [{"task_id": "5", "trial": 0, "termination_reason": "user_stop",
                                     "reward_info": {"reward": 1.0}}]}

As in its own metrics, a simulation that ended with `infrastructure_error` is no result; the next
call plays it again. Its own judge is fixed to gpt-4.1-2025-04-14 and called for tasks with
assertions about the conversation: 40 of retail's 114 tasks, 11 of the 40 in the split `test`.
It reads OPENAI_API_KEY and OPENAI_BASE_URL; the latter may name a server that answers under
gpt-4.1's name, and the results then say so.

The split `test` is the default: the paper's numbers for retail and telecom are multiples of 1/40
and for airline of 1/20, which are its sizes.
"""

import json
import os
from pathlib import Path
from urllib.parse import unquote, urlparse

from envtune.study.ood.setting import Harness, Job, Score, key

TASKS = {"retail": 40, "airline": 20, "telecom": 40}
NO_RESULT = "infrastructure_error"
JUDGE = "gpt-4.1-2025-04-14"


def _source(job: Job) -> Path | None:
    """The clone that is installed in the environment."""
    pattern = "lib/python*/site-packages/tau2-*.dist-info/direct_url.json"
    for file in job.harness.environment.glob(pattern):
        return Path(unquote(urlparse(json.loads(file.read_text())["url"]).path))
    return None


def refusal(job: Job, task: str) -> str:
    if job.options.user is None:
        return "needs a user simulator: give user_url and user_model"
    if (source := _source(job)) is None:
        return "its environment does not have tau2-bench from a clone: make ood-tau2"
    data = source / "data" / "tau2" / "domains" / task
    if not any(data.glob("db.*")) or not (data / "tasks.json").exists():
        return f"the clone {source} lacks data/tau2/domains/{task} or a part of it"
    return ""


def play(job: Job, task: str) -> None:
    assert job.endpoint and job.options.user
    source, data = _source(job), job.folder / "data"
    assert source
    data.mkdir(exist_ok=True)
    if not (data / "tau2").exists():  # its results go beside its data
        (data / "tau2").symlink_to((source / "data" / "tau2").resolve())
    command = [job.program("tau2"), "run", "--domain", task, "--save-to", task, "--auto-resume"]
    command += ["--task-split-name", job.options.tau2_split]
    command += ["--num-trials", str(job.options.tau2_trials)]
    command += ["--max-concurrency", str(job.options.threads)]
    for role, endpoint in (("agent", job.endpoint), ("user", job.options.user)):
        arguments = {"api_base": endpoint.url, "temperature": 0.0}
        command += [f"--{role}-llm", f"hosted_vllm/{endpoint.model}"]
        command += [f"--{role}-llm-args", json.dumps(arguments)]
    if job.options.limit:
        command += ["--num-tasks", str(job.options.limit)]
    where = {"TAU2_DATA_DIR": str(data.resolve()), "HOSTED_VLLM_API_KEY": key()}
    job.execute(command, task, **where)


def read(job: Job, task: str) -> Score | None:
    """The mean reward over all simulations, trials included."""
    file = job.folder / "data" / "simulations" / task / "results.json"
    if not file.exists():
        return None
    everything = json.loads(file.read_text())["simulations"]
    ended = [s for s in everything if s["termination_reason"] != NO_RESULT and s["reward_info"]]
    if not ended:
        return None
    notes = []
    if missing := len(everything) - len(ended):
        notes.append(f"{missing} of {len(everything)} simulations failed and are not counted")
    if any(s["reward_info"].get("nl_assertions") for s in ended):
        where = os.environ.get("OPENAI_BASE_URL")
        notes.append(f"judge: {JUDGE}" + f", played by {where}" * bool(where))
    percent = 100 * sum(s["reward_info"]["reward"] for s in ended) / len(ended)
    return Score(percent, len(ended), "; ".join(notes))


HARNESS = Harness(
    "tau2-bench",
    TASKS,
    "ood-tau2",
    "tau2",
    refusal=refusal,
    play=play,
    read=read,
    simulates_user=tuple(TASKS),
)
