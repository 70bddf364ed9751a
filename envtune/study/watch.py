"""Training watched from a notebook: each `on_row` is told every line of metrics.jsonl, and draws.

>>> grpo.train_stage(stage, preset, steps, policy, run_dir, seed, on_row=live(run_dir, "tiny-agent, seed 0", steps))
"""

import os
from collections.abc import Callable
from pathlib import Path

from envtune.common import files, progress
from envtune.study import figures, kit


def step_bar(total: int) -> Callable[[dict], bool]:
    """An `on_row` for training: a progress bar over the `total` optimiser steps of all its stages, with the latest numbers. It stands where
    a resumed or finished stage stands, and returns whether all stages are finished."""
    bar, steps, planned = None, {}, total

    def on_row(line: dict) -> bool:
        nonlocal bar, planned
        kind, stage = line["kind"], line.get("stage")
        if kind == "resumed":
            print(f"{stage}: resumed at step {line['step']} of {line['steps']}")
        if kind in ("train", "resumed", "finished"):
            steps[stage] = line["step"]
            if kind == "finished":
                planned -= line["steps"] - line["step"]  # its rule ended it
            done = sum(steps.values())
            if bar is None:
                bar = progress.bar(total, "training", "step", initial=done - (kind == "train"))
            if kind == "train":
                bar.set_postfix_str(
                    f"{stage} reward {line['reward']:.2f} progress {line['progress']:.2f}",
                    refresh=False,
                )
            bar.total = planned
            bar.update(done - bar.n)
        over = kind == "finished" and sum(steps.values()) >= planned
        if bar is not None and (over or kind == "stopped"):
            bar.close()
        return over

    return on_row


def live(run_dir: Path, source: str, total: int, every: int = 5) -> Callable[[dict], None]:
    """An `on_row` for training: the progress bar, and the run's dynamics, redrawn at the first step, every few more, at validations and at
    a stage's end, in the cell's output and in run_dir/live.png. Without a reader (`envtune run`) the cell keeps one picture, the last."""
    from IPython.display import Image, display

    bar, picture, headless = step_bar(total), run_dir / "live.png", "ENVTUNE_PROGRESS" in os.environ
    handle, begun = None, False

    def on_row(line: dict) -> None:
        nonlocal handle, begun
        over, kind = bar(line), line["kind"]
        first, begun = not begun, begun or kind in ("train", "resumed", "finished")
        if not begun or not (
            first
            or kind in ("validation", "alarm", "finished")
            or kind == "train"
            and line["step"] % every == 0
        ):
            return
        fig = figures.stage_dynamics(files.load_metrics(run_dir), source)
        fig.savefig(picture, dpi=90)
        kit.plt.close(fig)
        if headless and over:
            display(Image(picture))
        elif not headless and handle is None:
            handle = display(Image(picture), display_id=True)
        elif not headless:
            handle.update(Image(picture))

    return on_row
