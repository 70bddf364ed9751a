"""Every error that BFCL's tools can give, found in their source by `ast`, and what the library has to say to it.

    >>> sites = error_sites()
    >>> sites[0].tool, sites[0].kind, sites[0].template
    ('cd', 'returned', 'cd: {}: Unsupported path. Only one folder level at a time is supported.')

A site is a returned {"error": …} (also inside a list, and BFCL's one "Error: …" text), a raised exception, or an argument error
of a call: a parameter that does not exist, one that is missing, one of the wrong type. Sites of private helpers belong to every
tool that reaches them. Each is either vague and has a hint, or clear, with a reason, in data/hints/clear.yaml.
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
from envtune.common import paths
from envtune.hints.library import load_hints

ERROR_KEYS = ("error", "verification_failure")
ARGUMENT_ERRORS = {
    "unexpected": "Error during execution: {class_name}.{tool}() got an unexpected keyword argument '{{}}'",
    "missing": "Error during execution: {class_name}.{tool}() missing {{}} required positional argument{{}}: {{}}",
    "type": "Error during execution: '{{}}' object {{}}",
}


@dataclass(frozen=True)
class Site:
    """One place where a tool says no."""

    class_name: str
    tool: str
    kind: str
    """returned, raised or argument."""
    line: int
    """Line in BFCL's source; 0 for argument errors, which Python itself raises."""
    template: str
    """The error's text, {} where a value stands."""

    @property
    def sample(self) -> str:
        """The text with a stand-in for every value."""
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
            yield (
                "raised",
                node.lineno,
                "Error during execution: " + "".join(map(_template, node.exc.args)),
            )


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
    """The error sites of any tool class, in source order by tool; what BFCL's classes get, and a class of one's own."""
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
            text = ARGUMENT_ERRORS[kind].format(class_name=cls.__name__, tool=tool)
            sites.append(Site(cls.__name__, tool, "argument", 0, text))
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
    """One row a site: class, tool, kind, error, state (hinted, clear or open), hint, category, type, reason.

    A vague error counts as hinted only by a record that speaks whatever the call's arguments are.
    """
    rows = []
    for site in error_sites() if sites is None else sites:
        call, row = (
            Call(site.tool, {}),
            {
                "class": site.class_name,
                "tool": site.tool,
                "kind": site.kind,
                "error": site.template,
            },
        )
        clear = next(
            (
                r
                for r in _clear()
                if r["class"] == site.class_name
                and (r["tools"] == ["*"] or site.tool in r["tools"])
                and site.kind != "argument"
                and re.search(r["error"], site.template)
            ),
            None,
        )
        hint = next(
            (
                h
                for h in load_hints()
                if h.class_name in (site.class_name, "*") and h.matches(call, site.sample)
            ),
            None,
        )
        if clear:
            rows.append(
                row
                | {
                    "state": "clear",
                    "hint": "",
                    "category": "",
                    "type": "",
                    "reason": clear["reason"],
                }
            )
        elif hint:
            rows.append(
                row
                | {
                    "state": "hinted",
                    "hint": hint.id,
                    "category": hint.category,
                    "type": hint.type,
                    "reason": "",
                }
            )
        else:
            rows.append(
                row | {"state": "open", "hint": "", "category": "", "type": "", "reason": ""}
            )
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> dict[str, int | float]:
    """Counts of a coverage table: sites, clear, vague, hinted, open, and the covered share of the vague ones [0..1]."""
    count = table["state"].value_counts()
    vague = int(count.get("hinted", 0) + count.get("open", 0))
    return {
        "sites": len(table),
        "clear": int(count.get("clear", 0)),
        "vague": vague,
        "hinted": int(count.get("hinted", 0)),
        "open": int(count.get("open", 0)),
        "covered": int(count.get("hinted", 0)) / vague if vague else 1.0,
    }
