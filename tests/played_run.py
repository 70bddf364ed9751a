"""A run folder with hand-made episodes of BFCL tasks, for the tests of the episode browser."""

import gzip
import json
from pathlib import Path

from conftest import ANSWER, ground_truth_messages, tool_call

from envtune import replay

EVIL = "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
TASK, OTHER = "multi_turn_base_3", "multi_turn_miss_param_3"
WRONG = tool_call(("cat", {"file_name": "a/b"}))
TOKENS = {
    "texts": ["<b>", "sampled", "given"],
    "ids": [5, 6, 7],
    "mask": [1, 1, 0],
    "logprobs": [-0.1, -2.5, None],
}
GENERATIONS = 4


def make(folder: Path, episodes: int = 14) -> Path:
    """Validations of two tasks before and after two steps of training; more steps for a larger one.

    A group's first member is right, its third holds EVIL, and the second step plays with hints. The
    first episode of all has tokens.
    """
    right = ground_truth_messages(TASK)
    group = [right, [WRONG, ANSWER], [EVIL, f"<think>{EVIL}</think><answer>{EVIL}</answer>"], []]
    rows = []

    def add(kind, step, task, messages, hints=0.0, **tags):
        limits = "training" if kind == "train" else "evaluation"
        record = replay(task, messages, limits=limits, hint_rate=hints)
        rows.append({"stage": "stage2_hints", "step": step, "kind": kind} | tags | record.to_dict())

    add("validation", 0, TASK, [ANSWER], reward=0.0, tokens=TOKENS)
    add("validation", 0, OTHER, [ANSWER, ANSWER], reward=0.0)
    for step in range(1, 1 + max(2, (episodes - 4) // GENERATIONS)):
        for messages in group:
            add("train", step, TASK, messages, hints=float(step % 2 == 0))
    add("validation", step, TASK, right, reward=1.0)
    add("validation", step, OTHER, [EVIL], reward=0.0)
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "episodes.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    stage = {"reward": "progress", "reward_scale": 1.0}
    preset = {"generations": GENERATIONS, "scale_rewards": "group"}
    config = {"preset": preset, "stages": {"stage2_hints": stage}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
