"""Real vLLM on a CPU (`make test-vllm`): stages, hand-over, kill, interrupt, seeds, evaluation.

Not covered without a GPU: sleep mode (its calls are counted in test_vllm_path.py), CUDA graphs.
"""

import importlib.util
import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from envtune import read_records
from envtune.bfcl import splits
from envtune.common import files
from envtune.policy import agent
from envtune.train import errors, grpo, launch, playing, presets, runlog, stages

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="needs vLLM: make test-vllm"
    ),
]

TINY = replace(
    presets.CPU_SMOKE,
    use_vllm=True,
    context_tokens=2048,
    stage_steps=(2, 2, 0, 0),
    prompts_per_step=2,
    generations=4,
    device_batch=8,
    completion_tokens=400,
    validation_tasks=2,
    save_every=1,
    validate_every=5,
)


def rows(run: Path, kind: str = "train") -> list[dict]:
    return [row for row in files.read_lines(run / "metrics.jsonl") if row["kind"] == kind]


def messages(run: Path, step: int) -> list[str]:
    taken = read_records(run / "episodes.jsonl.gz", kind="train", step=range(step, step + 1))
    return [step.message for record in taken for step in record.steps]


def children() -> set[int]:
    """Processes that this one has started and that are alive."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = status.read_text().rpartition(")")
        except OSError:  # it has just ended
            continue
        if int(rest.split()[1]) == os.getpid() and rest.split()[0] != "Z":
            found.add(int(name.split()[0]))
    return found


@pytest.fixture(scope="module")
def curriculum(tmp_path_factory):
    """Two stages, full fine-tuning in float32, seed 0."""
    folder, before = tmp_path_factory.mktemp("vllm") / "run", children()
    told = []
    run = grpo.train_curriculum(TINY, folder, stages=stages.STAGES[:2], on_row=told.append)
    assert children() == before  # nothing lives on after a stage
    return run, told


def test_two_stages_train_and_hand_over(curriculum):
    run, told = curriculum
    assert [(row["stage"], row["step"]) for row in rows(run.folder)] == [
        ("stage1_syntax", 1),
        ("stage1_syntax", 2),
        ("stage2_hints", 1),
        ("stage2_hints", 2),
    ]
    written = list(files.read_lines(run.folder / "metrics.jsonl"))
    assert [row for row in told if row["kind"] != "finished"] == written
    first = [row for row in rows(run.folder) if row["step"] == 1]
    assert all(
        row["kl"] == pytest.approx(0, abs=1e-6) for row in first
    )  # the start is the reference
    assert all((folder / "model.safetensors").exists() for folder in run.checkpoints.values())


def test_vllm_and_the_trainer_agree_on_the_log_probabilities(curriculum, capsys):
    found = rows(curriculum[0].folder)
    worst = max(row["logprob_difference_max"] for row in found)
    mean = max(row["logprob_difference_mean"] for row in found)
    with capsys.disabled():
        print(f"\nlog-probabilities, float32: at most {worst:.1e} apart, {mean:.1e} in the mean")
    assert worst < 1e-3


def test_lora_in_bf16_trains_and_leaves_its_base_as_it_was(tmp_path, capsys):
    import torch
    from peft import PeftModel

    from envtune.policy import sampler
    from envtune.train import lora

    preset = replace(TINY, bf16=True, lora_rank=8)
    policy = grpo.train_stage(stages.STAGES[0], preset, 2, agent.FOLDER, tmp_path / "run", 0)
    found = rows(tmp_path / "run")
    worst = max(row["logprob_difference_max"] for row in found)
    mean = max(row["logprob_difference_mean"] for row in found)
    with capsys.disabled():
        print(f"\nlog-probabilities, bf16 LoRA: at most {worst:.1e} apart, {mean:.1e} in the mean")
    assert worst < 0.5 and mean < 0.05
    base, _ = sampler.load_policy(agent.FOLDER, True)
    merged = lora.merged(PeftModel.from_pretrained(base, policy.parent / "adapters"))
    saved = sampler.load_policy(policy, True)[0].state_dict()
    assert all(torch.equal(saved[name], value) for name, value in merged.state_dict().items())


def test_another_seed_samples_other_messages_and_the_same_seed_the_same(curriculum, tmp_path):
    start = agent.FOLDER
    # the same tasks in the same order for both seeds, so that only the sampling can differ
    told = {}
    for name, seed in (("same", 0), ("other", 1)):
        grpo.train_stage(stages.STAGES[0], TINY, 1, start, tmp_path / name, seed)
        told[name] = messages(tmp_path / name, 1)
    assert told["same"] == messages(curriculum[0].folder, 1)[: len(told["same"])]
    assert told["other"] != told["same"]


def test_two_processes_each_with_vllm_train_one_run(tmp_path):
    preset = replace(TINY, processes=2, parallel="cpu", device_batch=4)
    grpo.train_stage(stages.STAGES[0], preset, 2, agent.FOLDER, tmp_path / "run", 0)
    found = rows(tmp_path / "run")
    assert [(row["step"], row["episodes"]) for row in found] == [(1, 8), (2, 8)]
    assert found[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert all(row["logprob_difference_max"] < 1e-3 for row in found)


def test_a_killed_stage_resumes(tmp_path):
    run = tmp_path / "run"
    job = run / "job.json"
    launch.write_job(job, launch.Job(stages.STAGES[0], TINY, 3, agent.FOLDER, run, 0))
    process = subprocess.Popen(
        launch.command(TINY, job), start_new_session=True, stdout=subprocess.DEVNULL
    )
    marker = run / "stage1_syntax" / "checkpoint-1" / "envtune_seal.json"
    while not marker.exists():
        assert process.poll() is None, "the job ended before its first checkpoint"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    grpo.train_stage(stages.STAGES[0], TINY, 3, agent.FOLDER, run, 0)
    assert [row["step"] for row in rows(run)] == [1, 2, 3]


def test_an_interrupt_saves_the_step_and_the_same_call_goes_on(tmp_path):
    run, before = tmp_path / "run", children()
    preset = replace(TINY, save_every=50)

    def interrupt(row) -> None:
        if row["kind"] == "train" and row["step"] == 1:
            threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    with pytest.raises(errors.Interrupted, match="is saved there"):
        grpo.train_stage(stages.STAGES[0], preset, 4, agent.FOLDER, run, 0, on_row=interrupt)
    assert children() == before
    done = runlog.last_complete_step(run / "stage1_syntax")
    assert 1 <= done < 4
    grpo.train_stage(stages.STAGES[0], preset, 4, agent.FOLDER, run, 0)
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4]


def test_an_evaluation_gives_the_messages_of_our_own_sampler(tmp_path):
    tasks = splits.of_tasks("synthetic").test[:8]
    preset = replace(presets.CPU_TINY, context_tokens=2048)
    ours = playing.play(agent.FOLDER, tasks, preset)
    kept = tmp_path / "kept"
    half = playing.play(agent.FOLDER, tasks[:4], preset, engine="vllm", keep=kept)
    theirs = playing.play(agent.FOLDER, tasks, preset, engine="vllm", keep=kept)
    assert theirs == ours and half == ours[:4]
    lines = (kept / "episodes.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["task_id"] for line in lines) == sorted(tasks)  # none twice


def test_an_evaluation_that_fails_says_why(tmp_path):
    with pytest.raises(errors.JobFailed, match="no-such-folder"):
        playing.play(tmp_path / "no-such-folder", ["multi_turn_base_3"], TINY)
