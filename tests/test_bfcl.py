import inspect
import subprocess
import sys

import pytest

from envtune import bfcl
from envtune.bfcl import tasks


def test_there_are_200_tasks_a_split_and_variants_share_a_scenario():
    tasks = bfcl.load_tasks()
    assert len(tasks) == 800
    assert [sum(t.split == s for t in tasks.values()) for s in bfcl.SPLITS] == [200] * 4
    assert {t.scenario for t in tasks.values()} == set(range(200))


def test_documented_tools_are_exactly_the_public_methods():
    for name in bfcl.CLASSES:
        public = {
            n
            for n, _ in inspect.getmembers(bfcl.tool_class(name), inspect.isfunction)
            if not n.startswith("_")
        }
        assert public == set(bfcl.tool_names(name))


def test_withheld_tools_are_hidden_until_their_turn():
    task = bfcl.load_task("multi_turn_miss_func_0")
    names = [{d["name"] for d in bfcl.tool_docs(task, turn)} for turn in range(task.turns)]
    assert task.withheld == ("sort",) and task.withheld_until == 3
    assert ["sort" in n for n in names] == [False, False, False, True, True]
    assert task.user_turns[3] == bfcl.NEW_TOOLS_MESSAGE


def test_only_miss_func_withholds_and_empty_turns_are_where_the_paper_says():
    for task in bfcl.load_tasks().values():
        assert bool(task.withheld) == (task.split == "miss_func")
        assert len(task.ground_truth) == task.turns
    with_empty = {
        s: sum(
            any(not turn for turn in t.ground_truth)
            for t in bfcl.load_tasks().values()
            if t.split == s
        )
        for s in bfcl.SPLITS
    }
    assert with_empty["miss_func"] == with_empty["miss_param"] == 200


def test_positional_arguments_of_ground_truth_are_named():
    assert bfcl.parse_call("sort('a.txt')", ("GorillaFileSystem",)) == (
        "sort",
        {"file_name": "a.txt"},
    )


@pytest.mark.parametrize(
    "source", ["f", "__import__('os').system('x')", "cd(folder=open('x'))", "nothing(x=1)"]
)
def test_a_ground_truth_that_is_no_plain_call_is_refused(source):
    with pytest.raises(ValueError):
        bfcl.parse_call(source, ("GorillaFileSystem",))


def test_an_unknown_task_is_named():
    with pytest.raises(KeyError, match="multi_turn_base_999"):
        bfcl.load_task("multi_turn_base_999")


def test_a_missing_install_says_which_command_to_run(monkeypatch):
    def missing(name):
        raise tasks.PackageNotFoundError(name)

    monkeypatch.setattr(tasks, "version", missing)
    tasks._package.cache_clear()
    with pytest.raises(bfcl.BFCLUnavailable, match="pip install --no-deps bfcl-eval=="):
        tasks._package()
    monkeypatch.setattr(tasks, "version", lambda name: "1.0")
    with pytest.raises(bfcl.BFCLUnavailable, match=r"1\.0 is installed"):
        tasks._package()


def test_changed_data_is_refused(monkeypatch):
    monkeypatch.setattr(tasks, "DATA_SHA256", "0" * 64)
    tasks._raw.cache_clear()
    with pytest.raises(bfcl.BFCLUnavailable, match="hash"):
        tasks._raw()
    tasks._raw.cache_clear()


def test_importing_the_package_needs_no_torch():
    heavy = ("torch", "transformers", "matplotlib", "pandas")
    code = f"import sys, envtune; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_episode_that_did_not_end_is_not_valid():
    from envtune import replay

    assert not bfcl.official_valid(replay("multi_turn_base_0", []))


def test_a_module_that_is_not_imported_yet_is_named_with_its_room():
    import envtune

    with pytest.raises(AttributeError, match="from envtune.train import presets"):
        _ = envtune.presets
    with pytest.raises(AttributeError, match="no attribute 'nothing'$"):
        _ = envtune.nothing
