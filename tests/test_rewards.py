import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
from conftest import ANSWER, SMALL, ground_truth_messages, tool_call

from envtune import bfcl, read_records, replay
from envtune.bfcl import Call, synthetic
from envtune.common import files, paths
from envtune.env import rewards
from envtune.env.rewards import Reward
from envtune.train import launch
from envtune.train.stages import STAGES, stages_of

LS, UNKNOWN = tool_call(("ls", {})), tool_call(("teleport", {}))


@pytest.mark.parametrize(
    "messages, form, tool, stage1",
    [
        ([], 0.0, 0.0, 0.0),
        ([ANSWER, ANSWER], 1.0, 0.0, 0.0),
        ([LS, ANSWER, ANSWER], 1.0, 1.0, 2.0),
        ([LS, UNKNOWN, ANSWER, ANSWER], 1.0, 0.5, 1.5),
        (["?", LS, UNKNOWN, ANSWER], 0.75, 0.5, 1.25),
        (["?", ANSWER], 0.5, 0.0, 0.0),
    ],
)
def test_rewards_of_literal_episodes(messages, form, tool, stage1):
    record = replay("multi_turn_base_3", messages)
    assert (
        rewards.format_reward(record),
        rewards.tool_call_reward(record),
        rewards.stage1_reward(record),
    ) == (form, tool, stage1)


def test_a_step_with_one_failing_call_among_many_counts_once():
    record = replay("multi_turn_base_3", [tool_call(("ls", {}), ("teleport", {}), ("ls", {}))])
    assert record.codes == [-2.0] and rewards.tool_call_reward(record) == 0.0


def test_the_direct_reward_is_nine_tenths_progress_and_one_tenth_format():
    record = replay("multi_turn_miss_func_3", [ANSWER, "?", ANSWER])
    assert rewards.progress_reward(record) == pytest.approx(1 / 3)
    assert rewards.direct_reward(record) == pytest.approx(0.9 / 3 + 0.1 * 2 / 3)


@pytest.mark.parametrize("won", [True, False])
def test_with_one_turn_progress_and_binary_are_equal(won):
    task = synthetic.task_ids(synthetic.TEST[:1], requests=1)[0]
    record = replay(task, ground_truth_messages(task) if won else [ANSWER])
    assert record.turns == 1
    assert rewards.progress_reward(record) == rewards.binary_reward(record) == won


def call(name, **arguments):
    return Call(name, arguments)


@pytest.mark.parametrize(
    "made, truth, value",
    [
        (
            [call("cd", folder="a")],
            [call("cd", folder="a")],
            3.0,
        ),  # all 3 points: tool name, argument name, value
        ([call("cd", folder="b")], [call("cd", folder="a")], 6 * 2 / 3 - 3),  # wrong value
        (
            [call("cd", path="a")],
            [call("cd", folder="a")],
            6 * 1 / 3 - 3,
        ),  # wrong argument name
        ([call("ls")], [call("cd", folder="a")], -3.0),  # another tool
        ([], [call("cd", folder="a")], -3.0),
        ([], [], 3.0),
        ([call("ls")], [], -3.0),  # the agent should have asked the user
        (
            [call("ls"), call("cd", folder="a")],
            [call("cd", folder="a")],
            6 * 2.5 / 3 - 3,
        ),  # one tool too many: the names overlap by half
        (
            [call("cd", folder="b"), call("cd", folder="a")],
            [call("cd", folder="a")],
            3.0,
        ),  # the best of similar calls counts
    ],
)
def test_toolrls_correctness_of_a_turn(made, truth, value):
    assert rewards.call_correctness(made, truth) == pytest.approx(value)


def test_toolrl_of_an_episode_is_format_plus_the_mean_over_all_turns():
    task = bfcl.load_task("multi_turn_base_3")
    gold = replay(task.id, ground_truth_messages(task.id))
    assert rewards.toolrl_reward(gold) == pytest.approx(4.0) == rewards.REWARDS["toolrl"].maximum
    assert rewards.toolrl_reward(replay(task.id, ["?"])) == pytest.approx(-3.0)
    assert task.ground_truth[0]
    half = replay(task.id, ground_truth_messages(task.id)[:2])  # the second turn is not reached
    assert rewards.toolrl_reward(half) == pytest.approx(1.0 + (3.0 - 3.0) / 2)


@pytest.mark.parametrize("name", rewards.REWARDS)
def test_the_ground_truth_gets_the_maximum_of_every_reward(name):
    gold = replay("multi_turn_miss_param_3", ground_truth_messages("multi_turn_miss_param_3"))
    assert rewards.REWARDS[name](gold) == pytest.approx(rewards.REWARDS[name].maximum)


COST = 0.25


def brief(record):
    return 1 - COST * len(record.steps)


def briefer(record):
    return 1 - COST * len(record.steps) ** 2


class Judged:
    def __call__(self, record):
        return 1.0


EXAMPLES = paths.ROOT / "docs" / "examples"
MINE = replace(STAGES[1], name="mine", reward=Reward(brief, maximum=1.0))
BRIEF = MINE.reward
NAMED = replace(MINE, reward="test_rewards:BRIEF")


def test_a_stage_takes_a_function_with_its_maximum():
    record = replay("multi_turn_base_3", [ANSWER, ANSWER])
    assert rewards.reward_of(MINE.reward)(record) == 0.5
    assert rewards.reward_of(NAMED.reward) is BRIEF
    assert stages_of(["stage2_hints"], "test_rewards:BRIEF")[0].reward == "test_rewards:BRIEF"


@pytest.mark.parametrize(
    "reward, what",
    [
        ("briefly", "reward is one of stage1, progress, binary, direct, toolrl, or Reward"),
        (brief, "Reward\\(function, maximum=...\\)"),
        ("no_such_module:BRIEF", "cannot be loaded: No module named 'no_such_module'; the module"),
        ("test_rewards:SHORT", "cannot be loaded: module 'test_rewards' has no attribute 'SHORT'"),
        ("test_rewards:brief", "is a function; the module needs a line such as `NAME = Reward"),
    ],
)
def test_a_reward_that_a_stage_cannot_use_is_refused(reward, what):
    with pytest.raises(ValueError, match=what):
        replace(MINE, reward=reward)


@pytest.mark.parametrize(
    "function, maximum, what",
    [
        (Judged(), 1.0, "takes a function of an EpisodeRecord"),
        ("progress", 1.0, "takes a function of an EpisodeRecord"),
        (brief, None, "reward brief: maximum is the largest value"),
        (brief, float("inf"), "a number of at least 0, got inf"),
        (brief, -1.0, "a number of at least 0, got -1.0"),
    ],
)
def test_an_invalid_reward_is_refused(function, maximum, what):
    with pytest.raises(ValueError, match=what):
        Reward(function, maximum)


@pytest.mark.parametrize("value", [None, "0.5", float("nan"), float("inf")])
def test_the_error_for_a_value_that_is_no_number_names_the_task(value):
    with pytest.raises(
        ValueError, match="reward <lambda> returned .* of multi_turn_base_3; it must"
    ):
        Reward(lambda record: value, 1.0)(replay("multi_turn_base_3", []))


def test_a_value_above_the_maximum_gives_a_warning():
    record = replay("multi_turn_base_3", [ANSWER])
    with pytest.warns(UserWarning, match="reward brief returned more than its maximum of 0.5"):
        assert Reward(brief, maximum=0.5)(record) == 0.75
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Reward(brief, maximum=0.75)(record) == 0.75


def test_config_keeps_a_reward_by_name_with_a_digest_of_what_it_computes(monkeypatch):
    assert rewards.reward_settings("progress") == "progress"
    kept = rewards.reward_settings(BRIEF)
    assert kept | {"source_digest": ""} == {"name": "brief", "maximum": 1.0, "source_digest": ""}
    assert rewards.reward_settings("test_rewards:BRIEF") == kept | {"name": "test_rewards:BRIEF"}
    assert Reward(brief, 1.0).source_digest() == kept["source_digest"]
    assert Reward(briefer, 1.0).source_digest() != kept["source_digest"]
    monkeypatch.setattr(sys.modules[__name__], "COST", 0.5)
    assert BRIEF.source_digest() != kept["source_digest"]  # a value that the function reads


def test_a_function_of_a_notebook_cell_has_a_digest_of_what_it_computes():
    from IPython.core.interactiveshell import InteractiveShell

    shell, digests = InteractiveShell(), []
    for value in ("0.5", "0.5  # half", "0.75"):
        shell.run_cell(f"def mine(record):\n    return {value}")
        digests.append(Reward(shell.user_ns["mine"], 1.0).source_digest())
    assert digests[0] == digests[1] != digests[2]


WRAPPED = """import functools
def kept(function):
    @functools.wraps(function)
    def wrapper(record): return function(record)
    return wrapper
@kept
def mine(record): return {}"""
MADE = "def made(k):\n    def mine(record): return k\n    return mine\nmine = made({})"
VERSIONS = [
    *(f"def mine(record): return {value}" for value in ("1", "1.0", "True", "None", "-0.0", "0.0")),
    *(f"def mine(record): return record.{name}" for name in ("turns", "steps", "turns > 1")),
    *(f"def mine(record, k={value}): return k" for value in ("1", "2", "{'a': 1}", "{'a': 2}")),
    *(f"def mine(record, *, k={value}): return k" for value in ("1", "2", "max")),
    *(f"def mine(record): return sum({k} for _ in record.steps)" for k in (1, 2)),
    *(f"def mine(record): return record.task_id in {{'a', 'b', {c!r}}}" for c in "cd"),
    *(f"mine = lambda record: (lambda a, b: a - b)({given})" for given in ("1, 2", "a=1, b=2")),
    "mine = lambda record: (lambda b, a: b - a)(a=1, b=2)",  # as the last, but for local names
    *(MADE.format(k) for k in (1, 2)),
    *(WRAPPED.format(k) for k in (1, 2)),
]
"""Sources of a reward `mine`, no two of which compute the same."""


def digest_of(source, file="<test>"):
    names = {}
    exec(compile(source, file, "exec"), names)
    return Reward(names["mine"], 1.0).source_digest()


def test_a_digest_tells_versions_apart_and_does_not_ask_where_they_stand():
    digests = [digest_of(source) for source in VERSIONS]
    assert len(set(digests)) == len(VERSIONS)
    assert digests == [digest_of(f"# moved\n\n{source}", "elsewhere.py") for source in VERSIONS]
    one, two = (lambda record: 0.5), (lambda record: 0.25)  # on one line
    assert Reward(one, 1.0).source_digest() != Reward(two, 1.0).source_digest()


def test_a_digest_is_the_same_in_every_process():
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_rewards import VERSIONS, digest_of\n"
        "print([digest_of(source) for source in VERSIONS])"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=paths.ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert said == [str([digest_of(source) for source in VERSIONS])] * 2


def test_a_digest_is_of_what_was_imported_and_not_of_the_file_as_it_is_now(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "edited_later.py"
    file.write_text("def mine(record):\n    return 0.5\n")
    import edited_later  # pyright: ignore[reportMissingImports]

    before = Reward(edited_later.mine, 1.0).source_digest()
    file.write_text("def mine(record):\n    return 0.25\n")
    assert Reward(edited_later.mine, 1.0).source_digest() == before
    assert digest_of(file.read_text()) != before == digest_of("def mine(record): return 0.5")


def test_a_job_carries_a_reward_of_a_module_and_refuses_one_of_this_process(tmp_path):
    job = launch.Job(NAMED, SMALL, 1, "x", tmp_path, 0)
    launch.write_job(tmp_path / "job.json", job)
    assert launch.read_job(tmp_path / "job.json").stage == NAMED
    with pytest.raises(ValueError, match=r"`NAME = Reward\(brief, maximum=1.0\)`"):
        launch.write_job(tmp_path / "new" / "job.json", replace(job, stage=MINE))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_run_is_trained_by_the_reward_given_and_resumes_with_no_other(small_policy, tmp_path):
    from envtune.train import grpo
    from envtune.train.control import StageControl

    grpo.train_stage(MINE, SMALL, 1, small_policy, tmp_path, 0)
    [row] = [r for r in files.read_lines(tmp_path / "metrics.jsonl") if r["kind"] == "train"]
    records = list(read_records(tmp_path / "episodes.jsonl.gz", kind="train"))
    assert row["reward"] == pytest.approx(sum(map(brief, records)) / len(records), abs=1e-5)
    kept = json.loads((tmp_path / "config.json").read_text())["stages"]["mine"]["reward"]
    assert kept == rewards.reward_settings(BRIEF)
    doubled = replace(MINE, reward=Reward(brief, 3.0), reward_scale=2.0)
    assert StageControl(None, doubled, SMALL, 1, 0).reward_max == 6.0  # used by the guard

    grpo.train_stage(replace(MINE, reward=Reward(brief, 1.0)), SMALL, 1, small_policy, tmp_path, 0)
    for other, what in (
        (Reward(briefer, 1.0), 'reward.name was "brief", now "briefer"'),
        (Reward(brief, 2.0), "reward.maximum was 1.0, now 2.0"),
        ("progress", 'now "progress"'),
    ):
        with pytest.raises(ValueError, match=what):
            grpo.train_stage(replace(MINE, reward=other), SMALL, 1, small_policy, tmp_path, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "COST", 0.5)
        with pytest.raises(ValueError, match="another version of the reward brief: its code"):
            grpo.train_stage(MINE, SMALL, 1, small_policy, tmp_path, 0)


@pytest.mark.slow
def test_other_processes_find_the_module_that_this_one_found(small_policy, tmp_path, monkeypatch):
    from envtune.train import grpo

    monkeypatch.syspath_prepend(EXAMPLES)
    two = replace(
        SMALL, prompts_per_step=2, device_batch=4, max_scenarios=2, processes=2, parallel="cpu"
    )
    stage, rows = replace(MINE, reward="my_rewards:BRIEF"), []
    grpo.train_stage(stage, two, 1, small_policy, tmp_path, 0, on_row=rows.append)
    [row] = [row for row in rows if row["kind"] == "train"]
    records = list(read_records(tmp_path / "episodes.jsonl.gz", kind="train"))
    expected = sum(map(rewards.reward_of("my_rewards:BRIEF"), records)) / len(records)
    assert row["reward"] == pytest.approx(expected, abs=1e-5)


def test_the_page_on_a_reward_of_your_own_runs(monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(paths.ROOT)
    page, names = (paths.ROOT / "docs" / "rewards.md").read_text(), {}
    for code in page.split("```python\n")[1:]:
        exec(compile(code.split("```")[0], "docs/rewards.md", "exec"), names)
    assert capsys.readouterr().out == "-0.02\n"
    module = rewards.reward_of(names["stage"].reward)
    assert module(names["record"]) == names["reward"](names["record"])


WEIGHT, steps = 2.0, 10


def nested(record):
    return sum(WEIGHT for _ in record.steps)


def test_a_digest_covers_what_nested_code_reads_and_no_attribute_of_that_name(monkeypatch):
    reward = Reward(nested, maximum=100.0)
    digest = reward.source_digest()
    monkeypatch.setitem(globals(), "steps", 20)
    assert reward.source_digest() == digest
    monkeypatch.setitem(globals(), "WEIGHT", 3.0)
    assert reward.source_digest() != digest
