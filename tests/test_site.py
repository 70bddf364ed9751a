"""The site: every page is in its navigation, and the messages that it explains still exist."""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from envtune.common import paths

DOCS = paths.ROOT / "docs"
TROUBLES = (DOCS / "troubleshooting.md").read_text()
SOURCES = {  # whose messages a part of the page explains; vLLM is not installed here
    "Install": ("envtune", "Makefile"),
    "Notebooks and papermill": ("envtune", "papermill", "nbclient", "jupyter_client"),
    "Runs and resuming": ("envtune",),
    "TRL and GRPO": ("envtune", "trl"),
    "BFCL and evaluation": ("envtune", "bfcl_eval"),
}
NOT_THEIRS = {  # Python's own words, and a C library's
    "ModuleNotFoundError: No module named 'envtune'",
    "ModuleNotFoundError: No module named 'soundfile'",
    "zmq.error.ZMQError: Address already in use",
}


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, which names a Python function."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def named(nav) -> list[str]:
    """The pages of a navigation: a name, or lists and dicts of them."""
    if isinstance(nav, str):
        return [nav]
    return [
        page for part in (nav.values() if isinstance(nav, dict) else nav) for page in named(part)
    ]


def as_shown(node: ast.AST) -> str:
    """A text of the source as a reader sees it, with `…` for what an f-string fills in."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    known = [part.value if isinstance(part, ast.Constant) else "…" for part in parts]
    return "".join(map(str, known))


@cache
def texts(name: str) -> str:
    """Every text in a package's Python files."""
    if name == "Makefile":
        return (paths.ROOT / name).read_text()
    folder = paths.ROOT / name
    if not folder.exists():
        spec = importlib.util.find_spec(name)
        assert spec and spec.origin, f"{name} is not installed"
        folder = Path(spec.origin).parent
    nodes = [
        node for file in folder.rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))
    ]
    return "\n".join(as_shown(n) for n in nodes if isinstance(n, (ast.Constant, ast.JoinedStr)))


def test_every_page_and_notebook_is_in_the_navigation_once():
    nav = named(yaml.load((paths.ROOT / "mkdocs.yml").read_text(), Loader)["nav"])
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    pages += [f"notebooks/{book.stem}.md" for book in paths.NOTEBOOKS.glob("*.ipynb")]
    assert len(nav) == len(set(nav)) and set(pages) <= set(nav)
    assert all((paths.ROOT / page).exists() for page in set(nav) - set(pages))


@pytest.mark.parametrize("part", SOURCES)
def test_the_messages_that_are_explained_are_those_of_the_sources(part):
    section = TROUBLES.split(f"\n## {part}\n")[1].split("\n## ")[0]
    messages = [
        m for line in re.findall("^### (`.*)", section, re.M) for m in re.findall("`(.+?)`", line)
    ]
    known = "\n".join(texts(name) for name in SOURCES[part])
    assert messages
    for fragment in {f.strip() for m in messages if m not in NOT_THEIRS for f in m.split("…")}:
        assert fragment in known, fragment


def test_a_notebook_with_outputs_is_a_run_of_a_notebook_that_exists():
    executed = sorted(book.name for book in (DOCS / "executed").glob("*.ipynb"))
    assert executed and set(executed) <= {book.name for book in paths.NOTEBOOKS.glob("*.ipynb")}
    for name in executed:
        assert not re.search(r"/(home|root|work|Users)/", (DOCS / "executed" / name).read_text())
