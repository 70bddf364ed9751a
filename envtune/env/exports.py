"""The export commands of `python -m envtune`: their options, and what each prints.

    $ python -m envtune export-verl --out out --tasks synthetic
    out/synthetic_train_format_75.parquet
    ...

What they write is made in verl_export.py, bfcl_export.py and interop/.
"""

import shlex
from collections.abc import Callable
from pathlib import Path

from envtune.bfcl import splits
from envtune.env import bfcl_export, verl_export
from envtune.env.interop import inspect_log, trl_completions


def add(command: Callable) -> None:
    """Add the commands; `command` takes name, function and help, and returns what adds options."""
    verl = command("export-verl", _verl, "write the tasks as parquet files for the verl stack")
    verl("--out", type=Path, required=True, help="folder to write into")
    text = "BFCL's tasks, synthetic ones, or both (default bfcl)"
    verl("--tasks", choices=splits.TASKS, default="bfcl", help=text)
    verl("--seed", type=int, default=0, help="seed of the split (default 0)")
    text = "how the split is drawn (default scenario)"
    verl("--mode", choices=splits.MODES, default="scenario", help=text)

    text = "write a run's episodes as the result files that BFCL's own command scores"
    official = command("export-bfcl", _bfcl, text)
    text = "a run, the folder of an evaluation's episodes, or a file of records"
    official("run_folder", metavar="run", type=Path, help=text)
    official("--out", type=Path, required=True, help="an empty folder to write into")
    model = bfcl_export.MODEL
    text = f"the name that they are scored under: a Qwen3 FC model of BFCL (default {model})"
    official("--model", default=model, metavar="NAME", help=text)
    text = "which episodes of a run (default validation)"
    official("--kind", choices=bfcl_export.KINDS, default="validation", help=text)

    text = "write a run's episodes as a log for `inspect view` (extra `inspect`)"
    viewed = command("export-inspect", _inspect, text)
    viewed("run_folder", metavar="run", type=Path, help="a run or an evaluation's folder")
    viewed("--out", type=Path, required=True, help="a file to write, *.eval or *.json")
    viewed("--stage", help="only this stage")
    viewed("--kind", choices=("train", "validation", "evaluation"), help="only these episodes")

    text = "write a run's training episodes as TRL's completions files"
    completions = command("export-trl", _trl, text)
    completions("run_folder", metavar="run", type=Path)
    completions("--out", type=Path, required=True, help="folder to write into")


def _verl(options) -> None:
    split = splits.of_tasks(options.tasks, options.seed, options.mode)
    for file in verl_export.export_verl(options.out, split, options.tasks):
        print(file)


def _bfcl(options) -> None:
    where = (options.run_folder, options.out, options.model, options.kind)
    for folder in bfcl_export.export_bfcl(*where):
        folder = folder.resolve()
        print(
            f"bfcl evaluate --model {options.model} --test-category multi_turn --partial-eval "
            f"--result-dir {shlex.quote(str(folder))} "
            f"--score-dir {shlex.quote(f'{folder}-scores')}"
        )


def _inspect(options) -> None:
    print(inspect_log.export_inspect(options.run_folder, options.out, options.stage, options.kind))


def _trl(options) -> None:
    for file in trl_completions.export_trl(options.run_folder, options.out):
        print(file)
