"""Export of the tasks as parquet files for the paper authors' verl stack (data/verl_schema.md).

>>> export_verl(Path("out"), of_tasks("synthetic"), "synthetic")
"""

import json
from pathlib import Path

import pandas as pd

from envtune import bfcl
from envtune.bfcl.splits import Splits, is_base, load_splits
from envtune.env import episode, protocol


def verl_row(task_id: str, split: str) -> dict:
    """A task as the authors' environment reads it: nested lists, only `initial_config` is JSON."""
    task = bfcl.load_task(task_id)
    later = [protocol.user_turn(task, turn) for turn in range(1, task.turns)]
    ground_truth = [list(calls) for calls in task.ground_truth_source]
    question = [
        [] if turn == task.withheld_until else [{"role": "user", "content": text}]
        for turn, text in enumerate(task.user_turns)
    ]
    return {
        "data_source": task.split,
        "prompt": episode.opening(task),
        "ability": "multi_turn_function_calling",
        "reward_model": {"style": "interaction", "ground_truth": ground_truth},
        "extra_info": {
            "split": split,
            "index": task.id,
            "original_id": task.id,
            "dataset_type": task.split,
            "interaction_kwargs": {
                "name": "multi_turn_tool_call",
                "id": task.id,
                "initial_config": json.dumps(task.initial_config),
                "involved_classes": list(task.classes),
                "ground_truth": ground_truth,
                "processed_question": later,
                "question": question,
            },
        },
    }


def export_verl(out: Path, splits: Splits | None = None, name: str = "bfcl") -> list[Path]:
    """Write one file per stage set and one for validation, and return their paths.

    With BFCL's tasks the files have the names that the authors' stage scripts expect.
    """
    splits = splits or load_splits()
    out.mkdir(parents=True, exist_ok=True)
    stage1 = f"train_format_{len(splits.stage1)}"
    parts = {
        stage1 if name == "bfcl" else f"{name}_{stage1}": splits.stage1,
        f"{name}_train_base": [t for t in splits.train if is_base(t)],
        f"{name}_train": splits.train,
        f"{name}_val": splits.validation,
    }
    files = []
    for stem, ids in parts.items():
        split = "validation" if stem.endswith("_val") else "train"
        files.append(out / f"{stem}.parquet")
        rows = pd.DataFrame([verl_row(task_id, split) for task_id in ids])
        rows.to_parquet(files[-1], index=False)
    return files
