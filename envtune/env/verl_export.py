"""The tasks as parquet files for the verl stack of the paper's authors; data/verl_schema.md documents the columns.

>>> export_verl(Path("out"), of_tasks("synthetic"), "synthetic")
"""

import json
from pathlib import Path

import pandas as pd

from envtune import bfcl
from envtune.bfcl.splits import Splits, is_base, load_splits
from envtune.env import protocol


def verl_row(task_id: str, split: str, index: int) -> dict:
    """One task in the format of the authors' stack (PAPER: the data format), nested values as their loader reads them."""
    task = bfcl.load_task(task_id)
    later = []
    for turn, text in enumerate(task.user_turns[1:], start=1):
        docs = [d for d in bfcl.tool_docs(task, turn) if d["name"] in task.withheld]
        later.append(protocol.user_message(text, docs if turn == task.withheld_until else []))
    ground_truth = json.dumps(task.ground_truth_source)
    question = [
        [] if turn == task.withheld_until else [{"role": "user", "content": text}]
        for turn, text in enumerate(task.user_turns)
    ]
    return {
        "data_source": "envtune_synthetic"
        if task.id.startswith("synthetic_")
        else "bfcl_v3_multi_turn",
        "prompt": [
            {"role": "system", "content": protocol.system_prompt(bfcl.tool_docs(task, 0))},
            {"role": "user", "content": task.user_turns[0]},
        ],
        "ability": "multi_turn_function_calling",
        "reward_model": {"style": "interaction", "ground_truth": ground_truth},
        "extra_info": {
            "split": split,
            "index": index,
            "original_id": task.id,
            "dataset_type": task.split,
            "interaction_kwargs": {
                "name": "multi_turn_tool_call",
                "id": task.id,
                "initial_config": json.dumps(task.initial_config),
                "involved_classes": list(task.classes),
                "ground_truth": ground_truth,
                "processed_question": later,
                "question": json.dumps(question),
            },
        },
    }


def export_verl(out: Path, splits: Splits | None = None, name: str = "bfcl") -> list[Path]:
    """Write <name>_train_base, <name>_train and <name>_val as parquet for verl; data/verl_schema.md documents the columns."""
    splits = splits or load_splits()
    out.mkdir(parents=True, exist_ok=True)
    parts = {
        f"{name}_train_base": [t for t in splits.train if is_base(t)],
        f"{name}_train": splits.train,
        f"{name}_val": splits.validation,
    }
    files = []
    for name, ids in parts.items():
        split = "validation" if name.endswith("_val") else "train"
        files.append(out / f"{name}.parquet")
        pd.DataFrame([verl_row(t, split, i) for i, t in enumerate(ids)]).to_parquet(
            files[-1], index=False
        )
    return files
