"""The three sentences that end a quickstart are true of the run, also where it went badly."""

import json

import pandas as pd
import pytest

from envtune.__main__ import main
from envtune.study import quickstart
from envtune.train.stages import STAGES

TASKS = [f"synthetic_base_{number}" for number in range(200, 240)]


def made_up(folder, solved):
    """A run folder whose policies solve so many of 40 tasks: before, and after each stage."""
    names = ["start", *(stage.name for stage in STAGES)]
    shares = [{way: count / len(TASKS) for way in ("greedy", "sampled")} for count in solved]
    for name, count in zip(names, solved, strict=True):
        rows = [
            {"task_id": task, "way": way, "valid": i < count}
            for way in ("greedy", "sampled")
            for i, task in enumerate(TASKS)
        ]
        pd.DataFrame(rows).to_csv(folder / f"evaluation_{name}.csv", index=False)
    summary = {
        "held_out": {"n": len(TASKS), "before": shares[0], "after": shares[-1]},
        "stages": [{"stage": n} | s for n, s in zip(names[1:], shares[1:], strict=True)],
        "seconds": 1.0,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.mark.parametrize(
    "solved, parts",
    [
        (
            (4, 5, 18, 19, 20),
            ("solved 4 greedily before training and 20 after", "better, by more", "stage 2"),
        ),
        ((20, 19, 18, 5, 4), ("solved 20", "worse, by more than", "did harm")),
        ((4, 4, 4, 4, 5), ("better, by no more than chance", "from 10% to 12%")),
        ((4, 4, 4, 4, 4), ("neither better nor worse.", "No stage changed")),
    ],
)
def test_three_sentences_are_true_of_the_run(tmp_path, solved, parts):
    said = quickstart.sentences(made_up(tmp_path, solved))
    assert len(said) == 3
    for part in parts:
        assert part in " ".join(said)
    clear = solved == (4, 5, 18, 19, 20)
    assert ("20_change_one_thing" in said[2]) is clear and (
        quickstart.AGAIN in said[2]
    ) is not clear


def test_the_command_prints_them_and_refuses_another_folder(tmp_path, capsys):
    made_up(tmp_path, (4, 5, 18, 19, 20))
    assert main(["summary", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["summary", str(tmp_path / "nowhere")]) == 1
    assert "no finished quickstart" in capsys.readouterr().err
