"""The logic of benchmarks/gpu.py and benchmarks/generation.py, without a GPU or vLLM."""

import json
import sys
from types import SimpleNamespace

import pytest

from benchmarks import generation, gpu, gpu_check, gpu_parts
from envtune.common import files, paths
from envtune.train import trl_rollout

DONE = {"state": "done", "why": "", "results": {}}


class Machine:
    """Starts parts that end as told, and has a clock that only they move."""

    def __init__(self, seconds: float = 100.0, **outcomes):
        self.outcomes, self.seconds, self.now, self.started = outcomes, seconds, 0.0, []

    def start(self, name: str, seconds: float) -> dict:
        self.started.append((name, seconds))
        self.now += self.seconds
        return self.outcomes.get(name, DONE)

    def run(self, folder, wanted=("check", "stage_lora", "qlora"), minutes=None):
        return gpu.run(wanted, folder, minutes, self.start, clock=lambda: self.now)


def test_every_part_has_a_function():
    assert set(gpu.PARTS) == set(gpu_parts.FUNCTIONS)


def test_a_part_that_is_done_is_not_run_again_and_the_others_are(tmp_path):
    missing = {"state": "not run", "why": "vllm is not installed", "results": {}}
    Machine(stage_lora=missing).run(tmp_path)
    again = Machine()
    parts = again.run(tmp_path)
    assert [name for name, _ in again.started] == ["stage_lora"]
    assert {one["state"] for one in parts.values()} == {"done"}
    assert files.read_json(tmp_path / "state.json") == parts


def test_no_part_starts_when_the_time_is_used_and_the_last_one_gets_what_is_left(tmp_path):
    machine = Machine(seconds=300.0)
    machine.run(tmp_path, minutes=7)
    assert machine.started == [("check", 420.0), ("stage_lora", 120.0)]
    rest = Machine()
    rest.run(tmp_path, minutes=60)
    assert rest.started == [("qlora", gpu.PART_MINUTES * 60)]


def test_a_failed_part_leaves_the_others_running_and_an_interrupt_does_not(tmp_path):
    failed = {"state": "failed", "why": "RuntimeError: no", "results": {}}
    machine = Machine(check=failed)
    assert machine.run(tmp_path)["qlora"]["state"] == "done"
    stopped = {"state": "unfinished", "why": "interrupted", "results": {}}
    machine = Machine(check=stopped)
    machine.run(tmp_path)
    assert [name for name, _ in machine.started] == ["check"]


def test_what_cannot_run_says_why_in_the_table():
    rows = {"check": {"state": "not run", "why": "no CUDA | GPU", "results": {}, "seconds": 1.0}}
    text = gpu.report(rows)
    assert "| check | packages, device, and what every preset needs here | not run |" in text
    assert "no CUDA / GPU" in text and "not started yet" in text
    assert "Seconds a step" not in text  # nothing was measured, so there is no table of it


ROW = {
    "seconds": 4.0,
    "generation_seconds": 2.0,
    "environment_seconds": 0.5,
    "sampled_tokens": 100,
    "kl": 0.0,
    "logprob_difference_mean": 0.001,
    "logprob_difference_max": 0.02,
}


def test_a_step_is_split_into_parts_and_the_first_one_is_left_out():
    found = gpu_parts.summary(
        [
            {**ROW, "seconds": 60.0, "logprob_difference_mean": 0.004},
            ROW,
            {**ROW, "seconds": 6.0},
        ]
    )
    assert (found["seconds"], found["rest"], found["first_step"]) == (5.0, 2.5, 60.0)
    assert found["tokens_per_second"] == 50.0 and found["logprob_difference_max"] == 0.02
    assert found["logprob_difference_mean"] == pytest.approx(0.002)
    text = gpu.report({"stage_lora": {**DONE, "results": {**found, "engine": "vLLM"}}})
    assert "## Seconds a step" in text and "## Log-probabilities" in text
    assert "## Memory" not in text  # no GPU, so no peak


def test_what_is_brought_home_is_small_and_readable(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run" / "stage_lora"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text(
        json.dumps({"stage": "stage1_syntax", "step": 1, "kind": "train", **ROW}) + "\n"
    )
    out = tmp_path / "out"
    failed = {"state": "failed", "why": f"no file {run}/x in {paths.ROOT}", "results": {}}
    gpu.bring_home({"stage_lora": DONE, "qlora": failed}, run.parent, out)
    for name in ("table.md", "results.json"):
        text = (out / name).read_text()
        assert "no file stage_lora/x in ." in text and str(paths.ROOT) not in text
    names = sorted(file.name for file in out.iterdir())
    assert names == ["metrics.parquet", "results.json", "table.md"]
    monkeypatch.setattr(gpu, "FILE_BYTES", 10)
    gpu.bring_home({"stage_lora": DONE}, run.parent, out)
    assert not list(out.iterdir()) and "left behind" in capsys.readouterr().out


def test_files_that_were_in_the_folder_before_are_left_alone(tmp_path, monkeypatch, capsys):
    own = tmp_path / "thesis.parquet"
    own.write_bytes(b"large")
    monkeypatch.setattr(gpu, "FILE_BYTES", 1)
    gpu.bring_home({"stage_lora": DONE}, tmp_path / "run", tmp_path)
    assert own.read_bytes() == b"large" and list(tmp_path.iterdir()) == [own]


def ended(name: str, folder) -> dict:
    return files.read_json(folder / f"{name}.json")


def part(name: str, folder, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_parts", name, str(folder), "--tiny"])
    return gpu_parts.main()


def test_a_part_without_its_package_is_not_run_and_one_that_breaks_has_failed(
    tmp_path, monkeypatch, capsys
):
    def broken(here):
        here.note(rows=[1])
        raise RuntimeError("out of memory")

    def without(here):
        here.need("no_such_package")

    monkeypatch.setitem(gpu_parts.FUNCTIONS, "qlora", without)
    monkeypatch.setitem(gpu_parts.FUNCTIONS, "generation", broken)
    assert part("qlora", tmp_path, monkeypatch) == 0
    assert ended("qlora", tmp_path) == {
        "state": "not run",
        "why": "no_such_package is not installed",
        "results": {},
    }
    assert part("generation", tmp_path, monkeypatch) == 1
    found = ended("generation", tmp_path)
    assert (found["state"], found["results"]) == ("failed", {"rows": [1]})
    assert "out of memory" in found["why"] and "Traceback" in capsys.readouterr().err


def test_a_part_that_takes_too_long_is_stopped_and_keeps_what_it_noted(tmp_path, monkeypatch):
    text = f"""
import json, pathlib, time
file = pathlib.Path({str(tmp_path)!r}) / "check.json"
try:
    file.write_text(json.dumps({{"state": "unfinished", "why": "", "results": {{"a": 1}}}}))
    time.sleep(600)
except KeyboardInterrupt:
    pass
"""
    script = tmp_path / "slow"
    script.write_text(f"#!{sys.executable}\n{text}")
    script.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(script))
    monkeypatch.setattr(gpu, "SAVING_SECONDS", 5)
    outcome = gpu.run_part("check", tmp_path, 7, [])
    assert outcome["state"] == "unfinished" and outcome["results"] == {"a": 1}


def test_the_check_names_what_is_missing(monkeypatch):
    packages = {row["package"]: row for row in gpu_check.requirements()}
    assert packages["trl"]["same"] and packages["bfcl-eval"]["found"] == "2026.3.23"
    assert gpu_check.imported("no_such_module").startswith("ModuleNotFoundError")


@pytest.mark.parametrize("spread", [1, 2, 4, 8])
def test_both_ways_sample_the_planned_tokens_and_continuous_takes_fewer_steps(spread):
    row = generation.on_stub(spread, seed=0, sizes=(16, 24, 6))
    assert row["tokens"] == sum(map(sum, generation.lengths(spread, 16, 24, 6, 0)))
    assert (row["steps ratio"] == 1) if spread == 1 else (row["steps ratio"] > 1.2)
    planned = generation.lengths(spread, 16, 24, 6, 0)
    for way in generation.WAYS:
        engine = generation.StubEngine(planned)
        assert generation.play(way, engine, planned, 0, 100) == row["tokens"]


def test_the_mean_length_stays_and_the_longest_is_spread_times_it():
    for spread in (1, 2, 4, 8):
        drawn = sum(generation.lengths(spread, 64, 500, 10, 0), [])
        assert sum(drawn) / len(drawn) == pytest.approx(64, rel=0.05)
        assert max(drawn) <= spread * 64
    with pytest.raises(ValueError, match="1 or more"):
        generation.lengths(0.5, 64, 1, 1, 0)


def test_continuous_generation_has_half_again_the_throughput_at_spread_4():
    ratios = [generation.on_stub(4, seed, (64, 64, 8))["steps ratio"] for seed in range(5)]
    assert min(ratios) >= generation.TARGET


def test_gradient_checkpointing_is_off_while_sampling_whatever_transformers_calls_it():
    calls = []
    model = SimpleNamespace(
        gradient_checkpointing_disable=lambda: calls.append("off"),
        gradient_checkpointing_enable=lambda settings: calls.append("on"),
    )
    trainer = SimpleNamespace(
        model=model,
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        args=SimpleNamespace(gradient_checkpointing=True, gradient_checkpointing_kwargs=None),
    )
    with trl_rollout.generating(trainer):
        assert calls == ["off"]
    assert calls == ["off", "on"]
