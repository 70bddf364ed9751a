"""The files that install the project say the same thing."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from envtune import bfcl
from envtune.common import paths

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONSTRAINTS = dict(
    line.split("==")
    for line in (paths.ROOT / "constraints.txt").read_text().splitlines()
    if line and line[0] != "#"
)


def pins(requirements):
    return dict(r.split("==") for r in requirements if "==" in r)


def test_every_pin_is_in_the_constraints_and_the_same():
    for requirements in [PROJECT["dependencies"], *EXTRAS.values()]:
        for name, version in pins(requirements).items():
            assert CONSTRAINTS[name] == version


def test_the_lock_agrees_with_the_constraints_and_names_no_place():
    text = (paths.ROOT / "requirements-lock.txt").read_text()
    locked = dict(line.split("==") for line in text.splitlines() if line[0] != "#")
    assert all(CONSTRAINTS.get(name, version) == version for name, version in locked.items())
    assert set(pins(PROJECT["dependencies"] + EXTRAS["train"] + EXTRAS["notebooks"])) <= set(locked)
    assert "bfcl-eval" not in locked and "://" not in text and "+" not in text


def test_the_gpu_extra_is_what_needs_cuda():
    assert {"vllm", "bitsandbytes"} == set(pins(EXTRAS["gpu"]))


def test_the_conda_environment_installs_all_extras_but_openenv_under_the_constraints():
    environment = yaml.safe_load((paths.ROOT / "environment.yml").read_text())
    [pip] = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert "python=3.12" in environment["dependencies"] and "-c constraints.txt" in pip
    [own] = [line for line in pip if line.startswith("-e .[")]
    # openenv's fastmcp and vLLM ask for different versions of mcp
    assert set(re.search(r"\[(.*)\]", own).group(1).split(",")) == set(EXTRAS) - {"openenv"}
    low, high = re.findall(r"3\.(\d+)", PROJECT["requires-python"])
    assert int(low) <= 12 < int(high)


def test_bfcl_is_named_in_the_same_version_everywhere():
    want = f"bfcl-eval=={bfcl.PACKAGE_VERSION}"
    assert CONSTRAINTS["bfcl-eval"] == bfcl.PACKAGE_VERSION
    for file in ("Makefile", "environment.yml", "README.md"):
        assert want in (paths.ROOT / file).read_text(), file


@pytest.mark.parametrize(
    "version, free, part",
    [
        ((3, 10), 10**12, "Python 3.11 or 3.12 is needed, this is 3.10"),
        ((3, 13), 10**12, "Python 3.11 or 3.12 is needed, this is 3.13"),
        ((3, 12), 10**9, "5 GB of free disk are needed here, 1.0 GB are free"),
    ],
)
def test_make_stops_with_one_sentence_on_another_python_or_a_full_disk(
    tmp_path, version, free, part
):
    (tmp_path / "sitecustomize.py").write_text(
        f"import shutil, sys, types\nsys.version_info = {version}\n"
        f"shutil.disk_usage = lambda path: types.SimpleNamespace(free={free})\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and not (tmp_path / "venv").exists()
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert line.startswith("envtune: ") and part in line


def test_make_stops_with_one_sentence_without_a_python():
    done = subprocess.run(
        ["make", "setup", "PYTHON=no-such-python", "VENV=/nonexistent/venv"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "'no-such-python' was not found" in done.stderr


def test_make_stops_with_one_sentence_when_the_package_index_cannot_be_reached(tmp_path):
    nowhere = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    nowhere |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_NO_CACHE_DIR": "1",
    }
    done = subprocess.run(
        ["make", "setup", f"PYTHON={sys.executable}", f"VENV={tmp_path / 'venv'}"],
        cwd=paths.ROOT,
        env=nowhere,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and not (tmp_path / "venv" / ".ready").exists()
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert "the package index cannot be reached" in line and "run again" in line


@pytest.mark.parametrize(
    "preset, rate", [("cpu-study", None), ("gpu-80gb", 1e-4), ("paper-8x80gb", 1e-5)]
)
def test_make_ablations_gives_sft_the_learning_rate_of_its_preset(preset, rate):
    made = subprocess.run(
        ["make", "-n", "ablations", f"PRESET={preset}"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"-p sft_learning_rate (\S+)", made.stdout)
    assert (yaml.safe_load(found[1]) if found else None) == rate  # as `-p` reads it


def test_make_help_lists_the_targets():
    text = subprocess.run(["make", "help"], cwd=paths.ROOT, capture_output=True, text=True).stdout
    assert {line.split()[0] for line in text.splitlines()} >= {
        "setup",
        "quickstart",
        "test",
        "lab",
        "help",
    }


def test_the_package_runs_no_code_from_data():
    pattern = re.compile(r"(?<![\w.])(eval|exec|globals)\(")
    for file in (paths.ROOT / "envtune").rglob("*.py"):
        assert not pattern.search(file.read_text()), file


def test_the_module_answers_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "envtune", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "export-verl" in done.stdout
