"""What a notebook's opening says that it costs is what train/cost.py says."""

import pandas as pd
import pytest

from envtune.study import prices
from envtune.study.case_sweep import MEASURED
from envtune.train import cost, presets


def test_every_preset_has_its_steps_and_says_how_its_time_is_known():
    table = prices.table()
    assert list(table.index) == list(presets.PRESETS)
    for preset in presets.PRESETS.values():
        assert table.loc[preset.name, "optimiser steps"] == sum(preset.stage_steps)
    measured = cost.cost(pd.read_parquet(MEASURED), presets.CPU_TINY).set_index("stage")
    assert table.loc["cpu-tiny", "time"] == f"{60 * measured.loc['all', 'hours']:.0f} min"
    assert table.loc["gpu-80gb", "known from"].startswith("ESTIMATE")
    assert table.loc["smollm2", "time"] == "?"


def test_runs_and_steps_multiply():
    one, four = prices.table(["stage2_hints"]), prices.table(["stage2_hints"], runs=4, steps=3)
    assert one.loc["cpu-tiny", "optimiser steps"] == presets.CPU_TINY.stage_steps[1]
    assert set(four["optimiser steps"]) == {12}


@pytest.mark.parametrize(
    "hours, said", [(None, "?"), (0.01, "36 s"), (0.5, "30 min"), (31.4, "31 h")]
)
def test_time_is_said_in_the_unit_that_reads_best(hours, said):
    assert prices._said(hours) == said
