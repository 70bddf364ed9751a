"""Harness results as they were written by real runs, and what did not run.

tests/data/ood/README.md says where the files come from.
"""

import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from envtune.__main__ import main
from envtune.common import paths
from envtune.study import ood
from envtune.study.ood import acebench, bfcl_v4, running, serving, setting, tau2
from envtune.train.errors import JobFailed

DATA = paths.ROOT / "tests" / "data" / "ood"
FOLDER = str(paths.DATA / "tiny_agent")
USER = ood.Endpoint("http://127.0.0.1:1/v1", "some-user")


@pytest.fixture
def no_environments(tmp_path, monkeypatch):
    monkeypatch.setenv("ENVTUNE_OOD", str(tmp_path / "nothing"))


def job(harness, folder, **options) -> setting.Job:
    """A job on a copy of real result files."""
    shutil.copytree(DATA / harness.target, folder / harness.target)
    checkpoint = setting.Checkpoint.of("SmolLM2", FOLDER)
    options = ood.Options(user=USER, **options)
    return setting.Job(harness, checkpoint, options, folder / harness.target)


def test_bfcls_own_score_of_a_real_run_is_read(tmp_path):
    real = job(bfcl_v4.HARNESS, tmp_path, limit=3)
    assert bfcl_v4.read(real, "memory_kv") == (0.0, 3, "")
    assert bfcl_v4.read(real, "memory_rec_sum") is None


def test_what_failed_for_other_reasons_than_the_model_is_no_result(tmp_path):
    real = job(bfcl_v4.HARNESS, tmp_path, limit=3)
    file = bfcl_v4._file(real, "memory_kv", "result")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["result"] = f"{bfcl_v4.FAILED}: Connection error."
    lines[1]["result"] = f"{bfcl_v4.FAILED}: This model's maximum context length is 4096 tokens"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "1 of 3 questions failed" in bfcl_v4.drop_failed(real, "memory_kv")
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert kept == lines[1:] and bfcl_v4.drop_failed(real, "memory_kv") == ""


def test_a_failed_conversation_before_the_questions_takes_the_answers_with_it(tmp_path):
    real = job(bfcl_v4.HARNESS, tmp_path, limit=3)
    file = bfcl_v4._file(real, "memory_kv", "result", prerequisites=True)
    line = json.loads(file.read_text())
    file.write_text(json.dumps(line | {"result": f"{bfcl_v4.FAILED}: Connection error."}))
    assert "Connection error" in bfcl_v4.drop_failed(real, "memory_kv")
    assert not file.exists() and bfcl_v4.read(real, "memory_kv") is None


def test_another_folder_is_linked_anew_and_a_whole_path_is_left_alone(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    for folder in (one, two):
        bfcl_v4._link(tmp_path / "job", "org/model", folder)
        assert (tmp_path / "job" / "org" / "model").resolve() == folder
    (tmp_path / "current").symlink_to(one)
    for name in (one, tmp_path / "current"):  # as `transformers serve` names its model
        bfcl_v4._link(tmp_path / "job", str(name), two)
        assert name.resolve() == one


def test_evalscopes_report_of_a_real_run_is_read(tmp_path):
    real = job(acebench.HARNESS, tmp_path, limit=2)
    assert acebench.read(real, "agent_multi_turn") == (0.0, 2, "")
    assert acebench.read(real, "agent_multi_step") == (0.0, 2, "")
    row = setting.row(real, "agent_multi_turn", acebench.read(real, "agent_multi_turn"))
    assert row["user_simulator"] == "some-user at http://127.0.0.1:1/v1"
    assert setting.row(real, "agent_multi_step", None)["user_simulator"] == ""


def test_an_acebench_conversation_that_failed_is_left_out_and_forgotten(tmp_path):
    real = job(acebench.HARNESS, tmp_path, limit=2)
    [file] = (real.folder / "agent_multi_turn" / "reviews").rglob("*.jsonl")
    file.write_text(file.read_text().replace("class attributes wrong", "missing_end_state", 1))
    score = acebench.read(real, "agent_multi_turn")
    assert score.n == 1 and "1 of 2 conversations failed" in score.note
    acebench._forget_failed(real, "agent_multi_turn")
    assert len(file.read_text().splitlines()) == 1


def test_tau2s_results_of_a_real_run_are_read(tmp_path):
    real = job(tau2.HARNESS, tmp_path, limit=1)
    assert tau2.read(real, "retail") == (0.0, 1, "")
    assert tau2.read(real, "airline") is None
    assert running.wanted(real, "retail") == 1 and running._finished(real, "retail")


def test_tau2s_failed_simulations_are_left_out_and_its_judge_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://judge/v1")
    real = job(tau2.HARNESS, tmp_path)
    file = real.folder / "data" / "simulations" / "retail" / "results.json"
    everything = json.loads(file.read_text())
    [played] = everything["simulations"]
    judged = {"reward": 1.0, "nl_assertions": [{"nl_assertion": "a", "met": True}]}
    failed = played | {"termination_reason": tau2.NO_RESULT, "reward_info": None}
    everything["simulations"] = [played, played | {"reward_info": judged}, failed]
    file.write_text(json.dumps(everything))
    percent, n, note = tau2.read(real, "retail")
    assert (percent, n) == (50.0, 2) and "1 of 3 simulations failed" in note
    assert "gpt-4.1-2025-04-14, played by http://judge/v1" in note
    monkeypatch.setattr(setting.Harness, "version", "tau2 1.0.1")
    assert "2 of 40 so far" in running._row(real, "retail")["why"]
    file.write_text(json.dumps(everything | {"simulations": [failed]}))
    assert tau2.read(real, "retail") is None


def test_acebenchs_data_is_joined_for_evalscope(tmp_path):
    english = tmp_path / "clone" / "data_all" / "data_en"
    for task in acebench.TASKS:
        question = {"id": f"{task}_0", "question": "?", "function": [{"name": "f"}]}
        answer = {"id": f"{task}_0", "ground_truth": [{"A": 1}], "mile_stone": ["[f()]"]}
        for folder, line in ((english, question), (english / "possible_answer", answer)):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"data_{task}.json").write_text(json.dumps(line) + "\n")
    folder = acebench.join_data(tmp_path / "clone", tmp_path / "out")
    lines = [json.loads(line) for line in (folder / "en_agent.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["agent_multi_turn_0", "agent_multi_step_0"]
    assert json.loads(lines[0]["rubric"]) == {"ground_truth": [{"A": 1}], "mile_stone": ["[f()]"]}
    assert json.loads(lines[0]["function"]) == [{"name": "f"}] and lines[0]["question"] == "?"
    with pytest.raises(FileNotFoundError, match="give a clone of ACEBench"):
        acebench.join_data(tmp_path / "nothing", tmp_path / "out")


def test_a_few_questions_bring_the_conversations_that_they_build_on():
    import importlib.util

    [package] = importlib.util.find_spec("bfcl_eval").submodule_search_locations
    ids = bfcl_v4.choose(Path(package) / "data", "memory_kv", 2)
    assert ids[-2:] == ["memory_kv_130-notetaker-0", "memory_kv_131-notetaker-1"]
    assert len(ids) == 7 and all(name.startswith("memory_kv_prereq_") for name in ids[:5])
    assert bfcl_v4.choose(Path(package) / "data", "web_search_base", 1) == ["web_search_base_0"]


def test_without_environments_every_task_says_which_make_target(no_environments, tmp_path):
    rows = ood.run({"a": FOLDER, "b": FOLDER}, list(ood.HARNESSES), ood.Options(), tmp_path)
    assert len(rows) == 20 and set(rows["state"]) == {ood.NOT_RUN}
    assert set(rows["why"]) == {"make ood-bfcl", "make ood-tau2", "make ood-acebench"}
    assert rows["score"].isna().all() and (tmp_path / "rows.csv").exists()
    table = ood.table(rows)
    assert set(table["a"]) == set(table["b"]) == {ood.NOT_RUN}


def test_the_papers_columns_are_its_numbers():
    table = ood.table(ood.unplayed(list(ood.HARNESSES)))
    tuned = table["paper: Llama-3.1-8B-Instruct, Environment Tuning"]
    assert list(tuned) == (
        "16.53 15.00 24.00 6.00 18.06 17.42 26.45 10.32 21.67 5.00 30.00 30.00 4.17 5.00 3.33"
    ).split(" ")
    assert table.at["memory_kv", "paper: Llama-3.1-8B-Instruct, ToolRL"] == "not published"
    with pytest.raises(ValueError, match="Table 2 has"):
        ood.published("GPT-9")


def rows_of(scores: dict[str, float]) -> pd.DataFrame:
    rows = ood.unplayed(list(ood.HARNESSES)).assign(checkpoint="mine")
    rows["score"] = rows["task"].map(scores)
    rows.loc[rows["score"].notna(), ["state", "n"]] = ["ran", 10]
    return rows


def test_averages_are_the_papers_and_need_all_their_parts():
    paper = ood.published()["paper: Llama-3.1-8B-Instruct, Environment Tuning"]
    rows = rows_of({task: paper[task] for h in ood.HARNESSES.values() for task in h.tasks})
    both = ood.scores(rows)["mine"]
    assert (both - paper).abs().max() < 0.02
    assert ood.table(rows)["mine"]["ACEBench Agent"] == "4.17"
    some = ood.table(rows_of({"memory_kv": 0.0}))["mine"]
    assert some["memory_kv"] == "0.00 (n = 10)" and some["memory_rec_sum"] == ood.NOT_RUN
    assert some["memory"] == some["BFCL V4"] == "incomplete" and some["tau2-bench"] == ood.NOT_RUN


def test_each_refusal_is_a_sentence_that_says_what_to_give(monkeypatch, tmp_path):
    monkeypatch.delenv("SERPAPI_API_KEY", raising=False)
    bare = setting.Checkpoint.of("x", {"url": "http://127.0.0.1:1/v1", "model": "m"})
    alone = setting.Job(bfcl_v4.HARNESS, bare, ood.Options(), tmp_path)
    assert "SERPAPI_API_KEY" in bfcl_v4.refusal(alone, "web_search_base")
    assert "tokenizer" in bfcl_v4.refusal(alone, "memory_kv")
    assert "user_url" in acebench.refusal(alone, "agent_multi_turn")
    assert acebench.refusal(alone, "agent_multi_step") == ""
    assert "user_url" in tau2.refusal(alone, "retail")
    with pytest.raises(ValueError, match="no folder of a model"):
        setting.Checkpoint.of("x", str(tmp_path))
    with pytest.raises(ValueError, match="url, model"):
        setting.Checkpoint.of("x", {"url": "http://127.0.0.1:1/v1"})
    with pytest.raises(ValueError, match="options are any of tasks, threads"):
        ood.Options.of(None, None, {"thread": 1})
    with pytest.raises(ValueError, match="harnesses are any of"):
        ood.run({}, ["bfcl"], ood.Options(), tmp_path)


def test_a_run_folder_keeps_to_its_settings(no_environments, tmp_path):
    first = ood.Options(limit=2)
    ood.run({"a": FOLDER}, ["BFCL V4"], first, tmp_path)
    ood.run({"a": FOLDER}, ["BFCL V4"], replace(first, threads=2), tmp_path)
    with pytest.raises(ValueError, match="choose another run_name"):
        ood.run({"a": FOLDER}, ["BFCL V4"], ood.Options(limit=3), tmp_path)


def fake_environment(folder: Path, program: str, package: str, target: str) -> None:
    """An environment whose only program fails as a real one may."""
    site = folder / f".venv-{target}" / "lib" / "python3.11" / "site-packages"
    (site / f"{package}-1.0.dist-info").mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
    (site / f"{package}-1.0.dist-info" / "METADATA").write_text(text)
    script = folder / f".venv-{target}" / "bin" / program
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nraise RuntimeError('no such dataset')\n")
    script.chmod(0o755)


def test_a_harness_that_fails_says_its_error_and_has_no_score(tmp_path, monkeypatch):
    monkeypatch.setenv("ENVTUNE_OOD", str(tmp_path))
    fake_environment(tmp_path, "evalscope", "evalscope", "ood-acebench")
    monkeypatch.setattr(serving, "_answers", lambda url: True)
    where = {"url": "http://127.0.0.1:1/v1", "model": "m"}
    rows = ood.run({"a": where}, ["ACEBench Agent"], ood.Options(), tmp_path / "run")
    why = dict(zip(rows["task"], rows["why"], strict=True))
    assert why["agent_multi_step"] == "RuntimeError: no such dataset"
    assert "user simulator" in why["agent_multi_turn"]
    assert rows["score"].isna().all() and set(rows["versions"]) == {"evalscope 1.0"}


def test_a_server_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    started = tmp_path / "child"
    code = (
        "import http.server, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(started)!r}, 'w').write(str(child.pid))\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])),"
        " http.server.SimpleHTTPRequestHandler).serve_forever()\n"
    )
    (tmp_path / "models").mkdir()
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "models").write_text("{}")
    monkeypatch.chdir(tmp_path)

    def command(folder, name, port, options):
        return [sys.executable, "-c", code, str(port)], name

    monkeypatch.setattr(serving, "command", command)
    checkpoint = setting.Checkpoint.of("stage 4", FOLDER)
    with serving.served(checkpoint, ood.Options(), tmp_path / "log") as endpoint:
        assert endpoint.model == "stage-4"
        os.kill(int(started.read_text()), 0)
    for _ in range(100):
        try:
            os.kill(int(started.read_text()), 0)
        except ProcessLookupError:
            break
        state = Path(f"/proc/{started.read_text()}/stat")
        if state.exists() and state.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the server's child lives on")
    monkeypatch.setattr(serving, "command", lambda *_: (["false"], "x"))
    with (
        pytest.raises(JobFailed, match="did not start"),
        serving.served(checkpoint, ood.Options(), tmp_path / "log"),
    ):
        pass


def test_the_command_that_serves_a_folder(tmp_path):
    options = ood.Options(server="/env/bin/python", serve_arguments=("--enforce-eager",))
    line, model = serving.command("folder", "stage-4", 8000, options)
    assert line[:3] == ["/env/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert model == "stage-4" and line[-1] == "--enforce-eager"


def test_the_log_of_a_failure_is_read_to_its_error(tmp_path):
    assert running.last_error(tmp_path / "none") == "it was not started"
    log = tmp_path / "log"
    log.write_text("10%\r20%\nValueError: no config\n   \n*****\nclosing\n")
    assert running.last_error(log) == "ValueError: no config"


def test_bfcl_is_never_given_a_shell(tmp_path):
    """The harness' command is a list, and its input is closed."""
    real = job(bfcl_v4.HARNESS, tmp_path)
    real.execute([sys.executable, "-c", "import sys; print('read', repr(sys.stdin.read()))"], "x")
    assert "read ''" in (real.folder / "x.log").read_text()


def test_the_command_prints_the_table_and_fails_when_nothing_ran(no_environments, capsys):
    assert main(["ood", "-c", "mine", FOLDER, "--harness", "BFCL V4", "--name", "test_ood"]) == 1
    said = capsys.readouterr().out
    assert "mine" in said and "make ood-bfcl" in said and "16.53" in said
    assert main(["ood"]) == 1
