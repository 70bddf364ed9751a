import gzip
import json
import re

import pytest
from conftest import ANSWER, ground_truth_messages, tool_call

from envtune import Episode, bfcl, replay, write_records
from envtune.__main__ import main
from envtune.bfcl import Call
from envtune.env import bfcl_export
from envtune.env.bfcl_export import NOT_RUN, result, result_step
from envtune.env.episode import EVALUATION
from envtune.record import Ending

BASE, OTHER = "multi_turn_base_3", "multi_turn_miss_func_3"
LS = tool_call(("ls", {}))


def read(step: str) -> list[Call]:
    """The calls of a step, by the pattern of BFCL's QwenFCHandler._extract_tool_calls."""
    found = re.findall(r"<tool_call>\n(.*?)\n</tool_call>", step, re.DOTALL)
    return [Call(**json.loads(text)) for text in found]


def right(task_id=BASE, limits="evaluation"):
    return replay(task_id, ground_truth_messages(task_id), limits)


def lines(folder, split="base", model=bfcl_export.MODEL):
    name = f"BFCL_v4_multi_turn_{split}_result.json"
    file = folder / model.replace("/", "_") / "multi_turn" / name
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    "text",
    ["</tool_call>\n<tool_call>\n", "'; x('", '\\"\n', "ä🦍\u2028", "{0.__class__}", "ls(", "\x00"],
)
def test_a_step_is_read_back_as_its_calls_whatever_their_texts_hold(text):
    calls = [Call("echo", {"content": text}), Call("echo", {"content": [1, {text: None}]})]
    assert read(result_step(calls)) == calls


def test_every_call_of_the_ground_truth_is_exported_as_it_is():
    for task in bfcl.load_tasks().values():
        steps = result(right(task.id))
        assert [[c for s in turn for c in read(s)] for turn in steps] == [
            list(truth) for truth in task.ground_truth
        ]


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("open", {"file": "pwned", "mode": "w"}),
        ("__import__('os').system", {"command": "touch pwned"}),
        ("ls\n", {}),
        (" ls", {}),
        ("ls", {"a=__import__('os').system('touch pwned'), b": True}),
        ("ls", {"a ": True}),
        ("ls", {"class": True}),
        ("ls", {"ａ": True}),  # Python reads it as "a"
        ("echo", {"content": "x" * 20_001}),
    ],
)
def test_what_the_toolbox_does_not_run_is_never_evaluated_by_bfcls_command(name, arguments):
    messages = [tool_call((name, arguments), ("ls", {})), *ground_truth_messages(BASE)]
    record = replay(BASE, messages, "evaluation")
    first = result(record)[0][0]
    assert [call.name for call in read(first)] == [NOT_RUN, "ls"]
    assert read(first)[0].arguments == {"tool": name} and bfcl.official_valid(record)


@pytest.mark.parametrize("form", ["{}", "<think>x</think><answer>{}</answer>"])
def test_text_that_poses_as_a_call_holds_none(form):
    posing = form.format('<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>')
    [turn, _] = result(replay(BASE, [posing, ANSWER], "evaluation"))
    assert len(turn) == 1 and not read(turn[0]) and '"name": "rm"' in turn[0]


def test_half_surrogates_which_bfcls_command_cannot_write_are_replaced():
    calls = [Call("echo", {"content": "a\ud800b🦍\udfff", "\udc00": 1})]
    expected = [Call("echo", {"content": "a\ufffdb🦍\ufffd", "\ufffd": 1})]
    assert read(result_step(calls)) == expected
    assert result_step([], "\ud800x") == "\ufffdx"


def test_the_turns_are_those_that_bfcls_runner_leaves():
    first = tool_call(*bfcl.load_task(BASE).ground_truth[0])
    assert [len(turn) for turn in result(replay(BASE, [LS] * 21, "evaluation"))] == [21]
    last = replay(BASE, [first, ANSWER, *[LS] * 21], "evaluation")
    assert [len(turn) for turn in result(last)] == [2, 21]
    unreadable = replay(BASE, [first, "?", "?"], "evaluation")
    assert [len(turn) for turn in result(unreadable)] == [2, 1]


@pytest.mark.parametrize("ending", [Ending.TOKEN_LIMIT, Ending.OBSERVATION_LIMIT, None])
def test_an_episode_that_was_cut_short_is_an_error_of_the_inference(ending):
    episode = Episode(BASE, EVALUATION)
    for message in ground_truth_messages(BASE)[:-1]:
        episode.step(message)
    if ending:
        episode.abort(ending)
    assert result(episode.record).startswith("Error during inference: ")
    assert not bfcl.official_valid(episode.record)


def test_a_file_of_records_becomes_a_file_for_each_split(tmp_path):
    records = [right(BASE), right(OTHER), right("multi_turn_base_4", "training")]
    write_records(tmp_path / "r.jsonl.gz", records)
    assert bfcl_export.export_bfcl(tmp_path / "r.jsonl.gz", tmp_path / "out") == [tmp_path / "out"]
    assert [row["id"] for row in lines(tmp_path / "out")] == [BASE, "multi_turn_base_4"]
    assert lines(tmp_path / "out", "miss_func") == [{"id": OTHER, "result": result(records[1])}]
    assert len([f for f in (tmp_path / "out").rglob("*") if f.is_file()]) == 2


def test_repeats_of_an_evaluation_get_a_folder_each(tmp_path):
    kept = tmp_path / "evaluation"
    kept.mkdir()
    rows = [json.dumps({"repeat": n, **right(BASE).to_dict()}) for n in (0, 1)]
    (kept / "episodes.jsonl").write_text(f"{rows[0]}\n{rows[1][:50]}\n{rows[1]}\n")
    folders = bfcl_export.export_bfcl(kept, tmp_path / "out")
    assert [folder.name for folder in folders] == ["repeat_0", "repeat_1"]
    assert lines(folders[0]) == lines(folders[1]) == [{"id": BASE, "result": result(right(BASE))}]


def test_a_run_gives_its_validation_or_all_its_episodes(tmp_path):
    tagged = [("validation", 0), ("train", 1), ("train", 1), ("validation", 2)]
    rows = [
        json.dumps({"stage": "s1", "step": step, "kind": kind, **right(BASE).to_dict()})
        for kind, step in tagged
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "episodes.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode()))

    def names(kind):
        found = bfcl_export.export_bfcl(tmp_path / "run", tmp_path / kind, kind=kind)
        return [folder.name for folder in found]

    assert names("validation") == ["s1_validation_step_0", "s1_validation_step_2"]
    assert names("train") == ["s1_train_step_1", "s1_train_step_1_2"]
    assert len(names("all")) == 4


def test_what_bfcls_command_cannot_score_is_refused_with_a_sentence(tmp_path):
    def refused(match, records, **how):
        run = tmp_path / f"{match[:4]}.jsonl"
        write_records(run, records)
        with pytest.raises(ValueError, match=match):
            bfcl_export.export_bfcl(run, tmp_path / "out", **how)

    refused("synthetic_base_7 is no task of BFCL", [right(BASE), right("synthetic_base_7")])
    refused("no episodes of kind validation", [])
    refused("one of BFCL's Qwen/Qwen3", [right(BASE)], model="Qwen/../../x-FC")
    with pytest.raises(ValueError, match="neither a file of episodes nor a folder"):
        bfcl_export.export_bfcl(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    refused("is not empty", [right(BASE)])


def test_the_command_prints_how_to_score_what_it_wrote(tmp_path, capsys):
    run, model = tmp_path / "r.jsonl", "Qwen/Qwen3-8B-FC"
    write_records(run, [right(BASE)])
    arguments = ["export-bfcl", str(run), "--out", str(tmp_path / "o"), "--model", model]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"--model {model} " in printed and f"--result-dir {tmp_path / 'o'} " in printed
    assert lines(tmp_path / "o", model=model)
    assert main(arguments) == 1 and "is not empty" in capsys.readouterr().err
