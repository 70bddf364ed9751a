"""Several processes: the job travels whole, two real processes train as one run, and what fails is
told."""

import json
from dataclasses import replace

import pytest
import yaml
from conftest import HINT, SMALL

from envtune import bfcl, hints, read_records
from envtune.__main__ import main
from envtune.common import files
from envtune.hints import library
from envtune.policy import rollout
from envtune.train import errors, grpo, launch, presets, runconfig, stages

TWO = replace(
    SMALL,
    max_scenarios=2,
    prompts_per_step=2,
    device_batch=4,
    validation_tasks=3,
    processes=2,
    parallel="cpu",
)


def test_a_job_comes_back_as_it_was_written(tmp_path):
    stage = replace(
        stages.STAGES[1],
        name="mine",
        hint_rate=0.5,
        transition=replace(stages.STAGES[1].transition, min_gain=0.3),
    )
    preset = presets.choose(TWO, "plateau", "stop", "tensorboard")
    job = launch.Job(stage, preset, 7, "some/model", tmp_path, 3)
    launch.write_job(tmp_path / "deep" / "job.json", job)
    assert launch.read_job(tmp_path / "deep" / "job.json") == job
    (tmp_path / "no.json").write_text('{"stage": 1}')
    with pytest.raises(ValueError, match="no training job"):
        launch.read_job(tmp_path / "no.json")


OWN_HINT = HINT | {"id": "mine", "class": "*", "tools": ["*"], "hint": "Look."}


def test_a_job_and_its_run_know_the_hints_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "_ADDED", {})
    folder = tmp_path / "hints"
    folder.mkdir()
    (folder / "mine.yaml").write_text(yaml.safe_dump([OWN_HINT]))
    silent = replace(stages.STAGES[1], name="silent", hint_rate=0.0)
    for stage, known in ((stages.STAGES[1], [folder]), (silent, [])):
        run = tmp_path / stage.name
        job = launch.Job(stage, SMALL, 2, "some/model", run, 0)
        with hints.added(folder):
            launch.write_job(tmp_path / "job.json", job)
        assert not hints.added_folders()
        assert launch.read_job(tmp_path / "job.json") == job  # in another process
        assert list(hints.added_folders()) == known
        runconfig.register(run, stage, SMALL, 2, "some/model", 0)
        settings = runconfig.read(run)["stages"][stage.name]
        assert settings.get("own_hints", []) == list(hints.added_folders().values())
        library._restore({})


def test_hints_for_a_class_of_ones_own_cannot_go_to_another_process(tmp_path, monkeypatch):
    monkeypatch.setitem(bfcl.OWN_CLASSES, "Mine", (object, []))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump([OWN_HINT | {"class": "Mine"}]))
    job = launch.Job(stages.STAGES[1], SMALL, 2, "some/model", tmp_path, 0)
    with pytest.raises(ValueError, match=r"cannot see \(Mine\)"), hints.added(tmp_path):
        launch.write_job(tmp_path / "job.json", job)


def test_a_run_goes_on_with_the_same_hints_of_ones_own_alone(tmp_path):
    folder, run = tmp_path / "hints", tmp_path / "run"
    folder.mkdir()
    (folder / "mine.yaml").write_text(yaml.safe_dump([OWN_HINT]))
    again = (run, stages.STAGES[1], SMALL, 2, "some/model", 0)
    with hints.added(folder):
        runconfig.register(*again)
    (run / "stage2_hints").mkdir()  # a step was made
    row = {"stage": "stage2_hints", "step": 1, "kind": "train"}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    with hints.added(folder):
        runconfig.register(*again)
    with pytest.raises(ValueError, match="own_hints"):
        runconfig.register(*again)
    (folder / "mine.yaml").write_text(yaml.safe_dump([OWN_HINT | {"hint": "Look again."}]))
    with pytest.raises(ValueError, match="own_hints"), hints.added(folder):
        runconfig.register(*again)


@pytest.mark.parametrize("parallel", ["ddp", "zero3", "fsdp"])
def test_every_way_to_share_a_model_has_its_accelerate_file_and_command(parallel, tmp_path):
    command = launch.command(replace(presets.PAPER, parallel=parallel), tmp_path / "job.json")
    config = yaml.safe_load((launch.CONFIGS / f"{parallel}.yaml").read_text())
    assert (
        config["distributed_type"]
        == {"ddp": "MULTI_GPU", "zero3": "DEEPSPEED", "fsdp": "FSDP"}[parallel]
    )
    assert command[1:4] == ["-m", "accelerate.commands.launch", "--config_file"] and command[
        -4:
    ] == ["-m", "envtune", "train", str(tmp_path / "job.json")]
    assert command[command.index("--num_processes") + 1] == "8"


@pytest.mark.slow
def test_two_processes_train_one_run(small_policy, tmp_path, capsys):
    told = []
    policy = grpo.train_stage(
        stages.STAGES[1], TWO, 2, small_policy, tmp_path / "run", 0, on_row=told.append
    )
    assert (
        policy == tmp_path / "run" / "stage2_hints" / "policy"
        and (policy / "model.safetensors").exists()
    )
    written = list(files.read_lines(tmp_path / "run" / "metrics.jsonl"))
    assert (
        told[:-1] == written
        and told[-1]["kind"] == "finished"
        and [row["step"] for row in written if row["kind"] == "train"] == [1, 2]
    )
    assert all(row["episodes"] == 8 for row in written if row["kind"] == "train")
    assert all(
        row["episodes"] == 3 for row in written if row["kind"] == "validation"
    )  # a task that both played counts once
    groups = [
        r.task_id
        for r in read_records(
            tmp_path / "run" / "episodes.jsonl.gz", kind="train", step=range(1, 2)
        )
    ]
    assert len(groups) == 8 and len(set(groups[:4])) == 1 == len(set(groups[4:]))


@pytest.mark.slow
def test_a_job_that_fails_says_so_with_its_last_lines(tmp_path, capsys):
    with pytest.raises(errors.JobFailed, match="exit code 1"):
        grpo.train_stage(stages.STAGES[1], TWO, 2, tmp_path / "no policy here", tmp_path / "run", 0)
    assert launch.inside() is False


def test_a_job_for_two_started_as_one_is_refused_with_the_command(tmp_path, capsys, monkeypatch):
    job = launch.Job(stages.STAGES[1], TWO, 2, "x", tmp_path / "run", 0)
    launch.write_job(tmp_path / "job.json", job)
    monkeypatch.setenv(launch.INSIDE, "")  # put back as it was after the test
    assert main(["train", str(tmp_path / "job.json")]) == 1
    error = capsys.readouterr().err
    assert "for 2 processes and 1 were started" in error and "--nproc_per_node 2" in error


def test_a_process_without_episodes_generates_as_often_as_the_others():
    """Two scripts of different length, as in two processes: the shorter one keeps taking part until
    both are done."""

    class Short:
        def __init__(self, steps):
            self.done, self.messages, self.left = False, [], steps

        def step(self, text):
            self.left -= 1
            self.done = self.left == 0
            return None if self.done else "go on"

    class Chat:
        eos_id = 0

        def opening(self, messages):
            return [1]

        def decode(self, ids):
            return "x"

        def reply(self, text, closed):
            return [2]

    calls = {2: 0, 5: 0}
    for steps in calls:
        waves = iter(
            [True] * 5 + [False]
        )  # what all processes together say: the longest has five waves

        def generate(contexts, steps=steps):
            calls[steps] += 1
            return [[3, 0] for _ in contexts], None

        [played] = rollout.play(
            [Short(steps)],
            Chat(),
            generate,
            100,
            2,
            any_running=lambda here, waves=waves: next(waves),
        )
        assert sum(played.mask) == 2 * steps  # a message made to keep others company is dropped
    assert calls == {2: 5, 5: 5}
