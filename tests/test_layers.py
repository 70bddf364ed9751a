"""The rooms of the package: imports point downward, nothing goes in a circle, and no import is
hidden in a function."""

import ast
import re
import tomllib

from importlinter.cli import lint_imports

from envtune.common import paths

PACKAGE = paths.ROOT / "envtune"


def test_the_contracts_of_the_rooms_hold(capsys):
    kept = (
        lint_imports(
            config_filename=str(paths.ROOT / "pyproject.toml"), no_cache=True, no_logo=True
        )
        == 0
    )
    assert kept, capsys.readouterr().out


def test_only_a_command_imports_our_own_modules_when_it_is_called():
    """__main__ stands above all rooms and waits with what needs an extra or torch; a room has no
    such excuse."""
    late = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for file in PACKAGE.rglob("*.py")
        if file.name != "__main__.py"
        for function in ast.walk(ast.parse(file.read_text()))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
        if name.split(".")[0] == "envtune"
    ]
    assert late == []


def test_every_room_says_what_lives_in_it():
    rooms = [folder for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()]
    assert rooms and all(
        ast.get_docstring(ast.parse((room / "__init__.py").read_text())) for room in rooms
    )


def test_the_readme_draws_the_rooms_in_the_order_of_the_contract():
    [picture] = re.findall(
        r"```mermaid\n(.*?)```", (paths.ROOT / "README.md").read_text(), re.DOTALL
    )
    contracts = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    assert (
        re.sub(r"\[.*?\]", "", picture.splitlines()[1]).strip().split(" --> ")
        == contracts[0]["layers"]
    )
