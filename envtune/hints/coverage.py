"""Every error that BFCL's tools can give, found in their source by `ast`, and its hint.

    >>> sites = error_sites()
    >>> sites[0].tool, sites[0].kind, sites[0].template[:27]
    ('cd', 'returned', 'cd: {}: Unsupported path. O')

A site is a returned {"error": …} (also inside a list, and BFCL's one "Error: …" text), a raised
exception, or an argument error of a call: a parameter that does not exist, is missing, or has the
wrong type. Sites of private helpers belong to every tool that reaches them. Each site is either
vague and has a hint, or clear, with a reason, in data/hints/clear.yaml.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pandas as pd
import yaml

from envtune import bfcl
from envtune.bfcl import Call
from envtune.bfcl.results import EXECUTION_ERROR
from envtune.common import paths
from envtune.hints.library import match

ERROR_KEYS = ("error", "verification_failure")
ARGUMENT_ERRORS = {
    "unexpected": "{method}() got an unexpected keyword argument '{{}}'",
    "missing": "{method}() missing {{}} required positional argument{{}}: {{}}",
    "type": "'{{}}' object {{}}",
}


@dataclass(frozen=True)
class Site:
    """One place where a tool returns or raises an error."""

    class_name: str
    tool: str
    kind: str  # returned, raised or argument
    line: int  # in BFCL's source; 0 for argument errors, which Python itself raises
    template: str  # the error's text, with {} for each value

    @property
    def sample(self) -> str:
        """The text with a dummy for every value."""
        return self.template.replace("{}", "x1")


def _template(node: ast.AST) -> str:
    """The text that an expression makes, {} for what is only known when it runs."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_template, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left) + _template(node.right)
    return "{}"


def _own_sites(function: ast.FunctionDef) -> Iterator[tuple[str, int, str]]:
    """(kind, line, template) of what one function returns or raises itself."""
    for node in ast.walk(function):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in ERROR_KEYS:
                    yield "returned", value.lineno, _template(value)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            key = node.targets[0].slice
            if isinstance(key, ast.Constant) and key.value in ERROR_KEYS:
                yield "returned", node.lineno, _template(node.value)
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.List):
            for item in node.value.elts:
                if isinstance(item, ast.Constant) and str(item.value).startswith("Error"):
                    yield "returned", node.lineno, str(item.value)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            text = EXECUTION_ERROR + "".join(map(_template, node.exc.args))
            yield "raised", node.lineno, text


def _reached(
    name: str, functions: dict[str, ast.FunctionDef], seen: frozenset[str] = frozenset()
) -> set[str]:
    """A function and every private one of its module that it calls, by name, over any object."""
    names = {name}
    for node in ast.walk(functions[name]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = node.func.attr
            if called.startswith("_") and called in functions and called not in seen | names:
                names |= _reached(called, functions, seen | names)
    return names


def sites_of(cls: type, tools: tuple[str, ...]) -> list[Site]:
    """The error sites of a tool class, BFCL's or your own, in source order by tool."""
    tree = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
    functions = {
        f.name: f
        for c in tree.body
        if isinstance(c, ast.ClassDef)
        for f in c.body
        if isinstance(f, ast.FunctionDef)
    }
    sites = []
    for tool in tools:
        found = sorted(
            {site for name in _reached(tool, functions) for site in _own_sites(functions[name])},
            key=lambda s: s[1],
        )
        sites += [Site(cls.__name__, tool, *site) for site in found]
        parameters = list(inspect.signature(getattr(cls, tool)).parameters.values())[1:]
        required = any(parameter.default is parameter.empty for parameter in parameters)
        for kind in ["unexpected"] + ["missing"] * required + ["type"] * bool(parameters):
            text = ARGUMENT_ERRORS[kind].format(method=f"{cls.__name__}.{tool}")
            sites.append(Site(cls.__name__, tool, "argument", 0, EXECUTION_ERROR + text))
    return sites


@cache
def error_sites() -> tuple[Site, ...]:
    """Every site of the eight BFCL classes."""
    return tuple(
        site for c in bfcl.CLASSES for site in sites_of(bfcl.tool_class(c), bfcl.tool_names(c))
    )


@cache
def _clear() -> tuple[dict, ...]:
    """The records of clear.yaml. ValueError for one that lacks a field."""
    records = yaml.safe_load((paths.DATA / "hints" / "clear.yaml").read_text())
    for record in records:
        if set(record) != {"class", "tools", "error", "reason"} or not record["reason"]:
            raise ValueError(
                f"clear.yaml: a record has class, tools, error and a reason, got {record}"
            )
    return tuple(records)


def coverage(sites: tuple[Site, ...] | None = None) -> pd.DataFrame:
    """One row per site, with its state: hinted, clear or open.

    A vague error counts as hinted only by a record that matches whatever the call's arguments are.
    """
    rows = []
    for site in error_sites() if sites is None else sites:
        row = {"class": site.class_name, "tool": site.tool, "kind": site.kind}
        row |= {"error": site.template, "state": "open"}
        row |= dict.fromkeys(("hint", "category", "type", "reason"), "")
        if reason := _reason_why_clear(site):
            row |= {"state": "clear", "reason": reason}
        elif hint := match((site.class_name,), Call(site.tool, {}), site.sample):
            found = {"hint": hint.id, "category": hint.category, "type": hint.type}
            row |= {"state": "hinted", **found}
        rows.append(row)
    return pd.DataFrame(rows)


def _reason_why_clear(site: Site) -> str:
    """The reason of the record of clear.yaml that matches, or ''."""
    for record in _clear() if site.kind != "argument" else ():
        if (
            record["class"] == site.class_name
            and (record["tools"] == ["*"] or site.tool in record["tools"])
            and re.search(record["error"], site.template)
        ):
            return record["reason"]
    return ""


def totals(table: pd.DataFrame) -> dict[str, int | float]:
    """Sites of a coverage table by state, and the share of the vague ones with a hint [0..1]."""
    states = list(table["state"])
    count = {state: states.count(state) for state in ("clear", "hinted", "open")}
    vague = count["hinted"] + count["open"]
    covered = count["hinted"] / vague if vague else 1.0
    return {"sites": len(table), "vague": vague, **count, "covered": covered}
