"""The sweeps of notebooks 12 to 16 and 19: each case with each seed, steps shared out, the cost."""

import re

import pytest

from envtune.study import case_sweep
from envtune.train import presets

TWO = ["stage2_hints", "stage3_hard_tasks"]


def test_every_case_is_run_with_every_seed():
    points = case_sweep.choices({"a": {"beta": 0.0}, "b": {"beta": 0.1}}, [0, 1])
    assert [(p["case"], p["beta"], p["seed"]) for p in points] == [
        ("a", 0.0, 0),
        ("b", 0.1, 0),
        ("a", 0.0, 1),
        ("b", 0.1, 1),
    ]


@pytest.mark.parametrize("total, parts", [(32, 3), (24, 2), (1, 1), (4, 4)])
def test_steps_are_shared_out_whole(total, parts):
    shares = case_sweep.split_steps(total, [1] * parts)
    assert sum(shares) == total and max(shares) - min(shares) <= 1


def test_a_stage_that_is_left_out_leaves_its_steps_to_the_others():
    assert case_sweep.split_steps(44, [8, 12, 14, 10]) == [8, 12, 14, 10]
    rest = case_sweep.split_steps(44, [12, 14, 10])
    assert sum(rest) == 44 and rest[0] / rest[2] == pytest.approx(1.2, abs=0.2)


def hours(steps, seeds, stages=TWO, tests=None):
    points = case_sweep.choices({"a": {}}, seeds)
    fixed = {"stages": stages, "stage_steps": case_sweep.split_steps(steps, [1] * len(stages))}
    said = case_sweep.price(
        presets.CPU_TINY, points, {**fixed, "validate_every": 6, "test_tasks": tests}
    )
    assert said.startswith(f"{len(seeds)} runs, {steps * len(seeds)} optimiser steps")
    return float(re.search(r"about ([\d.]+) device-hours", said)[1])


def test_the_cost_counts_runs_steps_and_the_final_evaluation():
    few = hours(24, range(10))
    assert hours(24, range(20)) == pytest.approx(2 * few, abs=0.2)
    assert hours(240, range(10)) > 5 * few
    assert hours(24, range(10), tests=8) < few
    assert hours(24, range(10), ["direct_grpo"]) > 0


def test_without_a_measured_run_the_cost_says_how_to_get_the_hours():
    point = {"stages": TWO, "stage_steps": [1, 1]}
    assert "envtune cost" in case_sweep.price(presets.PAPER, [point], {})
