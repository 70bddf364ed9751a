"""A small curriculum in a process of its own, that kills itself at a given point; run by
test_nothing_lost.py.

# POINT: none, train:<step>, checkpoint:<step>, policy:<stage>, file-size:<KiB>
$ python tests/killed_run.py RUN_FOLDER POLICY POINT
"""

import os
import resource
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from conftest import SMALL  # noqa: E402

from envtune.train import grpo, runlog  # noqa: E402
from envtune.train.stages import STAGES  # noqa: E402
from envtune.train.transition import Transition  # noqa: E402

PRESET = replace(
    SMALL,
    stage_steps=(5, 6, 0, 0),
    save_every=2,
    validate_every=2,
    max_scenarios=2,
    prompts_per_step=2,
    device_batch=8,
    fixed_length=False,
)
# the second stage ends by its rule, at step 4 of 6: any run is a plateau when a gain of 2 is asked
# for
RULES = Transition(
    plateau_window=1, min_gain=2.0, norm_window=2, norm_spread=100.0, norm_ceiling=1e9, min_steps=4
)
CURRICULUM = [STAGES[0], replace(STAGES[1], transition=RULES)]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, policy: Path, point: str) -> None:
    kind, _, number = point.partition(":")
    if kind == "checkpoint":
        mark_complete = runlog.mark_complete
        runlog.mark_complete = lambda checkpoint, attempt: (
            die() if checkpoint.name.endswith(f"-{number}") else mark_complete(checkpoint, attempt)
        )
    if kind == "policy":
        from transformers import PreTrainedTokenizerBase

        save = PreTrainedTokenizerBase.save_pretrained
        PreTrainedTokenizerBase.save_pretrained = lambda self, where, *a, **k: (
            die() if f"{number}/policy.unfinished" in str(where) else save(self, where, *a, **k)
        )
    if kind == "file-size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(number) * 1024, int(number) * 1024))

    def on_row(line: dict) -> None:
        if kind == "train" and line["kind"] == "train" and line["step"] == int(number):
            die()

    warnings.simplefilter("ignore")
    try:
        grpo.train_curriculum(
            PRESET, folder, seed=0, stages=CURRICULUM, start=policy, on_row=on_row
        )
    except OSError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
