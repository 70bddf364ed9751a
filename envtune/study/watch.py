"""Training watched from a notebook: callbacks for `on_row` that draw.

>>> draw = live(run_dir, "tiny-agent, seed 0", steps)
>>> grpo.train_stage(stage, preset, steps, policy, run_dir, seed, on_row=draw)
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from envtune.common import files, progress
from envtune.study import figures, kit


def step_bar(total: int) -> Callable[[Mapping], bool]:
    """An `on_row` for training: a bar over the `total` steps of all stages.

    It counts the steps of resumed and finished stages too, and returns whether all are finished.
    """
    bar, steps, planned = None, {}, total

    def on_row(line: Mapping) -> bool:
        nonlocal bar, planned
        kind, stage = line["kind"], line.get("stage")
        if kind == "resumed":
            print(f"{stage}: resumed at step {line['step']} of {line['steps']}")
        if kind in ("train", "resumed", "finished"):
            steps[stage] = line["step"]
            if kind == "finished":
                planned -= line["steps"] - line["step"]  # its stopping rule ended it early
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


def live(run_dir: Path, source: str, total: int, every: int = 5) -> Callable[[Mapping], None]:
    """An `on_row` for training: a progress bar, and a plot in the cell and live.png.

    The plot is redrawn at the first step, every few more, at validations and at a stage's end.
    Under `envtune run` the cell keeps only the last one.
    """
    from IPython.display import Image, display

    bar, picture, headless = step_bar(total), run_dir / "live.png", "ENVTUNE_PROGRESS" in os.environ
    handle, begun = None, False

    def on_row(line: Mapping) -> None:
        nonlocal handle, begun
        over, kind = bar(line), line["kind"]
        first, begun = not begun, begun or kind in ("train", "resumed", "finished")
        due = kind in ("validation", "alarm", "finished") or (
            kind == "train" and line["step"] % every == 0
        )
        if not begun or not (first or due):
            return
        fig = figures.stage_dynamics(files.load_metrics(run_dir), source)
        fig.savefig(picture, dpi=90)
        kit.plt.close(fig)
        if headless:
            if over:
                display(Image(picture))
        elif handle is None:
            handle = display(Image(picture), display_id=True)
        else:
            handle.update(Image(picture))

    return on_row
