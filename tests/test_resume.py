"""What a second call in the same run folder does: go on, go further, refuse in one sentence, and
lose nothing to an interrupt."""

import json
import logging
import os
import shutil
import signal
from dataclasses import replace

import pytest
from conftest import SMALL, lines, same

from envtune import hints
from envtune.common import files, paths
from envtune.train import grpo, interrupt, metrics, runconfig, runlog, trl_rollout
from envtune.train.errors import Interrupted
from envtune.train.stages import STAGES
from envtune.train.transition import Transition

PRESET = replace(
    SMALL, validate_every=3, save_every=100, max_scenarios=2, prompts_per_step=2, device_batch=8
)


@pytest.fixture(scope="module")
def whole(small_policy, tmp_path_factory):
    """Four steps of stage 1, in one go."""
    folder = tmp_path_factory.mktemp("whole")
    grpo.train_stage(STAGES[0], PRESET, 4, small_policy, folder, 0)
    return folder


def press_at(monkeypatch, where, count):
    """Interrupt as Ctrl-C does, at the end of the n-th call of a function."""
    module, name = where
    function, calls = getattr(module, name), []

    def pressed(*args, **kwargs):
        result = function(*args, **kwargs)
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(module, name, pressed)


# after the third step's episodes (the first call plays a validation); while step 2's line is made;
# while step 3's validation is scored
@pytest.mark.slow
@pytest.mark.parametrize(
    "where, count, step",
    [((trl_rollout, "play"), 4, 2), ((metrics, "means"), 3, 2), ((metrics, "accuracy"), 2, 3)],
)
def test_an_interrupt_saves_the_last_step_and_the_run_ends_as_one_that_was_not_interrupted(
    whole, small_policy, tmp_path, monkeypatch, caplog, where, count, step
):
    told = []
    with monkeypatch.context() as patch:
        press_at(patch, where, count)
        with pytest.raises(
            Interrupted,
            match=f"stage1_syntax was interrupted at step {step} of 4 and is saved there",
        ):
            grpo.train_stage(STAGES[0], PRESET, 4, small_policy, tmp_path, 0, on_row=told.append)
    assert (
        told[-1]["kind"] == "stopped"
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    assert runlog.last_good_checkpoint(tmp_path / "stage1_syntax").name == f"checkpoint-{step}"
    told.clear()
    logging.getLogger("transformers").addHandler(caplog.handler)
    policy = grpo.train_stage(STAGES[0], PRESET, 4, small_policy, tmp_path, 0, on_row=told.append)
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert "missing keys" not in caplog.text
    assert [
        (line["kind"], line["step"]) for line in told if line["kind"] in ("resumed", "finished")
    ] == [("resumed", step), ("finished", 4)]
    assert same(policy, whole / "stage1_syntax" / "policy")
    kinds = ("train", "validation", "decision")
    assert lines(tmp_path, *kinds) == lines(whole, *kinds)


def test_an_interrupt_before_the_first_step_ends_says_that_nothing_was_saved(
    small_policy, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        press_at(patch, (trl_rollout, "play"), 2)
        with pytest.raises(Interrupted, match="before a step was done"):
            grpo.train_stage(STAGES[0], PRESET, 2, small_policy, tmp_path, 0)


def test_a_file_named_stop_interrupts_a_run_after_its_step(small_policy, tmp_path):
    def stop(row):
        if row["kind"] == "train":
            (tmp_path / interrupt.STOP).touch()

    with pytest.raises(Interrupted, match="at step 1 of 2 and is saved there"):
        grpo.train_stage(STAGES[0], PRESET, 2, small_policy, tmp_path, 0, on_row=stop)
    assert not (tmp_path / interrupt.STOP).exists()
    assert runlog.last_good_checkpoint(tmp_path / "stage1_syntax").name == "checkpoint-1"


def test_a_notebook_shows_an_interrupt_as_one_sentence():
    from IPython.core.interactiveshell import InteractiveShell

    shown = []
    shell = InteractiveShell.instance()
    try:
        shell._showtraceback = lambda kind, value, lines: shown.extend(lines)
        shell.run_cell(
            "from envtune.train.errors import Interrupted\nraise Interrupted('stage1_syntax was "
            "interrupted at step 3')"
        )
    finally:
        InteractiveShell.clear_instance()
    assert shown == ["Interrupted: stage1_syntax was interrupted at step 3"]


@pytest.mark.slow
def test_more_steps_go_on_from_the_last_one_as_if_they_had_been_asked_for_at_once(
    whole, small_policy, tmp_path
):
    told = []
    for steps in (2, 4):
        policy = grpo.train_stage(
            STAGES[0], PRESET, steps, small_policy, tmp_path, 0, on_row=told.append
        )
    assert [
        (line["kind"], line["step"]) for line in told if line["kind"] in ("resumed", "finished")
    ] == [("finished", 2), ("resumed", 2), ("finished", 4)]
    assert same(policy, whole / "stage1_syntax" / "policy") and lines(tmp_path, "train") == lines(
        whole, "train"
    )
    assert [row["step"] for row in lines(tmp_path, "validation")] == [0, 2, 3, 4]
    with pytest.raises(ValueError, match="steps was 4, now 3, and steps made are not taken back"):
        grpo.train_stage(STAGES[0], PRESET, 3, small_policy, tmp_path, 0)


def test_a_rerun_that_names_the_stages_own_policy_returns_it_or_goes_on(small_policy, tmp_path):
    policy = grpo.train_stage(STAGES[0], PRESET, 1, small_policy, tmp_path, 0)
    assert grpo.train_stage(STAGES[0], PRESET, 1, policy, tmp_path, 0) == policy
    assert grpo.train_stage(STAGES[0], PRESET, 2, policy, tmp_path, 0) == policy
    assert [row["step"] for row in lines(tmp_path, "train")] == [1, 2]


@pytest.mark.slow
def test_a_stage_that_started_from_an_older_policy_is_named_stale_and_can_be_trained_anew(
    small_policy, tmp_path
):
    first = grpo.train_stage(STAGES[0], SMALL, 1, small_policy, tmp_path, 0)
    second = grpo.train_stage(STAGES[1], SMALL, 1, first, tmp_path, 0)
    grpo.train_stage(STAGES[2], SMALL, 1, second, tmp_path, 0)
    with pytest.warns(
        UserWarning,
        match="stage2_hints, stage3_hard_tasks started from what stage1_syntax left before",
    ):
        grpo.train_stage(STAGES[0], SMALL, 2, small_policy, tmp_path, 0)
    with pytest.raises(ValueError, match="stage2_hints is stale.*Delete"):
        grpo.train_stage(STAGES[1], SMALL, 1, first, tmp_path, 0)
    shutil.rmtree(tmp_path / "stage2_hints")
    grpo.train_stage(STAGES[1], SMALL, 1, first, tmp_path, 0)
    with pytest.raises(ValueError, match="stage3_hard_tasks is stale"):
        grpo.train_stage(STAGES[2], SMALL, 1, second, tmp_path, 0)


def test_a_stage_goes_on_only_where_that_is_exact(small_policy, tmp_path):
    fading = replace(STAGES[1], hint_schedule="linear")
    grpo.train_stage(fading, SMALL, 1, small_policy, tmp_path, 0)
    with pytest.raises(ValueError, match="linear hint schedule runs over its length"):
        grpo.train_stage(fading, SMALL, 2, small_policy, tmp_path, 0)
    grpo.train_stage(STAGES[0], SMALL, 1, small_policy, tmp_path, 0)
    shutil.rmtree(tmp_path / "stage1_syntax" / "checkpoint-1")
    with pytest.raises(ValueError, match="stage1_syntax/checkpoint-1, is gone"):
        grpo.train_stage(STAGES[0], SMALL, 2, small_policy, tmp_path, 0)
    assert (tmp_path / "stage1_syntax" / "policy").exists()


def test_a_stage_that_its_rule_ended_stays_ended_when_it_may_take_more_steps(
    small_policy, tmp_path
):
    rule = Transition(
        plateau_window=1,
        min_gain=2.0,
        norm_window=1,
        norm_spread=100.0,
        norm_ceiling=1e9,
        min_steps=1,
    )
    stage, preset = (
        replace(STAGES[0], transition=rule),
        replace(SMALL, fixed_length=False, validate_every=1),
    )
    grpo.train_stage(stage, preset, 3, small_policy, tmp_path, 0)
    assert grpo.train_stage(stage, preset, 5, small_policy, tmp_path, 0).exists()
    assert [row["step"] for row in lines(tmp_path, "train")] == [1]


@pytest.mark.parametrize(
    "changes, steps, start, part",
    [
        ({}, -3, None, "steps of at least 1.*got -3"),
        ({"device_batch": 3}, 2, None, "device_batch"),
        ({"save_every": 0}, 2, None, "save_every is at least 1"),
        ({}, 2, "no/such model", "no/such model"),
    ],
)
def test_a_bad_value_does_not_bind_the_run(small_policy, tmp_path, changes, steps, start, part):
    with pytest.raises((ValueError, OSError), match=part):
        grpo.train_stage(
            STAGES[0], replace(SMALL, **changes), steps, start or small_policy, tmp_path / "run", 0
        )
    if start is None:
        assert not (tmp_path / "run").exists()
    assert grpo.train_stage(STAGES[0], SMALL, 1, small_policy, tmp_path / "run", 0).exists()


@pytest.mark.slow
def test_a_copied_checkout_goes_on_where_the_other_stood(small_policy, tmp_path, monkeypatch):
    def call(root, steps, stage=STAGES[1]):
        monkeypatch.setattr(paths, "ROOT", root)
        monkeypatch.setenv("ENVTUNE_RUNS", str(root / "runs"))
        first = grpo.train_stage(
            STAGES[0], SMALL, 1, root / "runs" / "models" / "m", root / "runs" / "mine", 0
        )
        return grpo.train_stage(stage, SMALL, steps, first, root / "runs" / "mine", 0)

    shutil.copytree(small_policy, tmp_path / "here" / "runs" / "models" / "m")
    call(tmp_path / "here", 1)
    (tmp_path / "here").rename(tmp_path / "there")
    policy = call(tmp_path / "there", 2)
    assert policy == tmp_path / "there" / "runs" / "mine" / "stage2_hints" / "policy"
    stages = json.loads((tmp_path / "there" / "runs" / "mine" / "config.json").read_text())[
        "stages"
    ]
    assert [stages[s.name]["start"] for s in STAGES[:2]] == [
        "runs/models/m",
        "./stage1_syntax/policy",
    ]
    assert str(tmp_path) not in (tmp_path / "there" / "runs" / "mine" / "config.json").read_text()


def test_a_refusal_names_what_differs_with_both_values(whole, small_policy):
    with pytest.raises(ValueError, match=r"preset.beta was 0.\d+, now 0.5; seed was 0, now 1"):
        grpo.train_stage(STAGES[0], replace(PRESET, beta=0.5), 4, small_policy, whole, 1)
    with pytest.raises(
        ValueError, match="stage1_syntax with other settings: reward_scale was 1.0, now 2.0"
    ):
        grpo.train_stage(replace(STAGES[0], reward_scale=2.0), PRESET, 4, small_policy, whole, 0)


def test_another_hint_library_is_refused_where_hints_are_shown(small_policy, tmp_path, monkeypatch):
    def begin(folder, stage):
        runconfig.register(folder, stage, SMALL, 1, small_policy, 0)
        folder.joinpath(stage.name).mkdir(exist_ok=True)
        row = {"stage": stage.name, "step": 1, "kind": "train"}
        folder.joinpath("metrics.jsonl").write_text(json.dumps(row))

    for stage in STAGES[:2]:
        begin(tmp_path / stage.name, stage)
    begun = runconfig.read(tmp_path / STAGES[1].name)
    monkeypatch.setattr(hints, "library_digest", lambda: "another")
    begin(tmp_path / STAGES[0].name, STAGES[0])
    with pytest.raises(ValueError, match="hint_library was"):
        begin(tmp_path / STAGES[1].name, STAGES[1])
    del begun["stages"][STAGES[1].name]["hint_library"]  # a run from before it was noted
    files.write_json(tmp_path / STAGES[1].name / "config.json", begun)
    begin(tmp_path / STAGES[1].name, STAGES[1])
    assert runconfig.read(tmp_path / STAGES[1].name) == begun  # so no later stage is stale


def test_a_place_is_kept_as_another_checkout_finds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ENVTUNE_RUNS", str(tmp_path / "runs"))
    run = tmp_path / "runs" / "mine"
    places = {
        run / "stage1_syntax" / "policy": "./stage1_syntax/policy",
        tmp_path / "runs" / "models" / "m": "runs/models/m",
        paths.ROOT / "data": "data",
        tmp_path / "elsewhere": str(tmp_path / "elsewhere"),
        "Qwen/Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-7B-Instruct",
    }
    for place, kept in places.items():
        assert runconfig.portable(place, run) == kept
        if not isinstance(place, str):
            place.mkdir(parents=True, exist_ok=True)
        assert str(runconfig.located(kept, run)) == str(place)


def test_the_best_policy_of_a_run_is_named_with_its_place_in_the_folder(small_policy, tmp_path):
    grpo.train_curriculum(SMALL, tmp_path, 0, STAGES[:2], small_policy)
    best = json.loads((tmp_path / "best.json").read_text())
    assert (
        set(best) == {"policy", "stage", "step", "accuracy", "tasks"}
        and (tmp_path / best["policy"]).is_dir()
    )
    rows = list(files.read_lines(tmp_path / "metrics.jsonl"))
    for accuracies, policy in (
        ((0.5, 0.4, 0.3), None),
        ((0.1, 0.4, 0.3), "stage1_syntax/policy"),
        ((0.4, 0.4, 0.4), "stage2_hints/policy"),
    ):
        of = {
            ("stage1_syntax", 0): accuracies[0],
            ("stage1_syntax", 1): accuracies[1],
            ("stage2_hints", 1): accuracies[2],
        }
        with open(tmp_path / "metrics.jsonl", "w") as out:
            for row in rows:
                out.write(
                    json.dumps(
                        {**row, "accuracy": of.get((row["stage"], row["step"]), 0.9)}
                        if row["kind"] == "validation"
                        else row
                    )
                    + "\n"
                )
        runconfig.note_best(tmp_path)
        best = json.loads((tmp_path / "best.json").read_text())
        assert best["accuracy"] == max(accuracies)
        assert (
            best["policy"] == policy
            if policy
            else (best["stage"] == "start" and (tmp_path / best["policy"]).samefile(small_policy))
        )


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"preset": ')
    with pytest.raises(ValueError, match="config.json is damaged.*restore it"):
        runconfig.read(tmp_path)
