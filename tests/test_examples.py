"""The literal example that opens each module of the environment is what the module does."""

import doctest
import importlib

import pytest

from envtune import bfcl, replay


@pytest.mark.parametrize(
    "name",
    [
        "bfcl.tasks",
        "bfcl.checker",
        "bfcl.results",
        "bfcl.splits",
        "bfcl.toolbox",
        "env.protocol",
        "env.episode",
        "env.rewards",
    ],
)
def test_the_opening_example_of_a_module_is_true(name):
    module = importlib.import_module(f"envtune.{name}")
    failed, tried = doctest.testmod(
        module, extraglobs={"load_task": bfcl.load_task, "replay": replay, "Call": bfcl.Call}
    )
    assert tried >= 2 and failed == 0
