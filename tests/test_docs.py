"""The code on the pages runs as it stands, and what the pages point at exists."""

import re
import sys

import pytest
from chat_server import ChatServer
from conftest import ground_truth_messages

from envtune.bfcl import call_limits
from envtune.common import paths

FOLDERS = ("", "docs", "data", "data/*", "benchmarks", "notebooks")
PAGES = sorted(page for folder in FOLDERS for page in paths.ROOT.glob(f"{folder}/*.md".lstrip("/")))
ENVIRONMENT = (paths.ROOT / "docs" / "environment.md").read_text()


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def test_the_episode_of_the_readme_runs():
    names = {}
    for code in blocks((paths.ROOT / "README.md").read_text()):
        exec(compile(code, "README.md", "exec"), names)
    assert names["episode"].record.codes == [-1.0] and names["episode"]._repr_html_()


def test_the_examples_of_the_environment_page_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks(ENVIRONMENT):
        if "urllib" not in code:
            exec(compile(code, "docs/environment.md", "exec"), names)
    assert names["record"] == names["episode"].record and "info" in names


def test_the_example_of_the_hint_page_runs():
    names = {}
    for code in blocks((paths.ROOT / "docs" / "hints.md").read_text()):
        exec(compile(code, "docs/hints.md", "exec"), names)
    assert len(names["events"]) == 1 and names["events"]["hinted"].all()


def test_the_example_of_a_new_domain_runs_and_its_lines_are_counted_right(
    monkeypatch, capsys, forgotten
):
    monkeypatch.chdir(paths.ROOT)
    monkeypatch.setitem(sys.modules, "restaurant", None)
    page, names = (paths.ROOT / "docs" / "new_domain.md").read_text(), {}
    for code in blocks(page):
        exec(compile(code, "docs/new_domain.md", "exec"), names)
    assert (
        names["episode"].record.steps[0].hints == ("restaurant-guest",)
        and "Table too small." in capsys.readouterr().out
    )
    lines = [
        line
        for line in (paths.ROOT / "docs/examples/restaurant.py").read_text().splitlines()
        if line.strip()
    ]
    start, tasks = lines.index("class RestaurantAPI:"), lines.index("TASKS = [")
    written = [
        line
        for line in (paths.ROOT / "docs/examples/restaurant_hints/restaurant.yaml")
        .read_text()
        .splitlines()
        if line[0] != "#"
    ]
    assert (
        f"{tasks - start} lines of class, {len(lines) - tasks} of tasks, {len(written)} of hints"
        in page
    )


def test_the_endpoint_example_plays_an_episode_against_a_chat_server(capsys):
    """The server here only reads out a script; the page was tried by hand with `transformers
    serve`."""
    [code] = [code for code in blocks(ENVIRONMENT) if "urllib" in code]
    with ChatServer(ground_truth_messages("multi_turn_base_3")) as server:
        exec(
            compile(
                code.replace("http://127.0.0.1:8000", server.url.removesuffix("/v1")),
                "docs/environment.md",
                "exec",
            ),
            {},
        )
    assert capsys.readouterr().out == "completed 1.0 True\n"
    assert [m["role"] for m in server.asked[-1]["messages"]] == ["system", "user"] + [
        "assistant",
        "user",
    ] * 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(paths.ROOT)))
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_numbers_of_the_security_section_are_those_of_the_code():
    for number in (
        call_limits.EPISODE_ARGUMENT_CHARS,
        call_limits.EPISODE_RESULT_CHARS,
        call_limits.RESULT_CHARS,
        call_limits.TREE_ENTRIES,
        call_limits.TREE_PATH_CHARS,
    ):
        assert f"{number:,}" in ENVIRONMENT
