"""Training watched as it runs: callbacks for `on_row`.

>>> draw = live(run_dir, "tiny-agent, seed 0", steps)
>>> grpo.train_stage(stage, preset, steps, policy, run_dir, seed, on_row=draw)

In a notebook the cell shows the time left and the last numbers, the curves, and one sampled
episode, each replaced in place. Anywhere else, under `envtune run` too, plain lines are printed.
"""

import html
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from envtune.common import files, progress
from envtune.record import EpisodeRecord, episode_html
from envtune.study import episode_table, figures, kit
from envtune.train import metrics, runconfig

SAMPLE_SECONDS = 60
"""How long a sampled episode stays at least, because a person reads it [s]."""


class Count(NamedTuple):
    """How far training is, over all stages."""

    done: int  # steps made, those of earlier calls too
    planned: int
    seconds_left: float | None  # None before a step was made in this call
    over: bool


def counter(total: int) -> Callable[[Mapping], Count]:
    """What counts the `total` steps of all stages from the rows that `on_row` gets."""
    steps, planned, made, began = {}, total, 0, 0.0

    def count(row: Mapping) -> Count:
        nonlocal planned, made, began
        kind, now = row["kind"], time.monotonic()
        if kind in ("train", "resumed", "finished"):
            steps[row["stage"]] = row["step"]
        if kind == "train":
            made, began = made + 1, began or now - row["seconds"]
        if kind == "finished":
            planned -= row["steps"] - row["step"]  # its stopping rule ended it early
        done = sum(steps.values())
        left = (now - began) / made * (planned - done) if made else None
        return Count(done, planned, left, kind == "finished" and done >= planned)

    return count


def _status(count: Count, kind: str, said: Mapping[str, str]) -> str:
    """HTML of a bar, the time left, and the last line of each kind."""
    if count.over:
        state = "finished"
    elif kind == "stopped":
        state = "stopped; run the cell again to go on"
    elif count.seconds_left is None:
        state = "the next step is being made"
    else:
        state = f"about {tqdm.format_interval(count.seconds_left)} left"
    bar = f'<progress value="{count.done}" max="{count.planned}"></progress>'
    shown = [said[k] for k in ("resumed", "train", "validation", "alarm") if k in said]
    lines = [f"{bar} step {count.done} of {count.planned}, {state}", *map(html.escape, shown)]
    return f"<div style='font-size:13px;line-height:1.5'>{'<br>'.join(lines)}</div>"


def _in_place() -> Callable:
    """A function that shows something in the cell in place of what it showed before."""
    from IPython.display import display

    handle = None

    def show(what) -> None:
        nonlocal handle
        if handle is None:
            handle = display(what, display_id=True)
        else:
            handle.update(what)

    return show


def step_bar(total: int) -> Callable[[Mapping], bool]:
    """An `on_row` that says how far training is, of the `total` steps of all stages.

    In a notebook one text that is replaced in place, else plain lines. It counts the steps of
    resumed and finished stages too, and returns whether all are finished.
    """
    from IPython.display import HTML

    count, said, show = counter(total), {}, _in_place()
    in_notebook = progress.in_notebook()

    def on_row(row: Mapping) -> bool:
        kind, now = row["kind"], count(row)
        if in_notebook:
            said[kind] = metrics.in_words(row)
            show(HTML(_status(now, kind, said)))
        else:
            metrics.print_some(row)
        return now.over

    return on_row


def _first_line(file: Path, start: int) -> dict | None:
    """The first training episode in what was appended to a run's episodes after byte `start`."""
    try:
        lines = files.read_lines(file, start=start)
        return next((line for line in lines if line["kind"] == "train"), None)
    except ValueError:  # a job in another process is writing just now
        return None


def sample_html(line: dict, stage: dict) -> str:
    """A line of a run's episodes, collapsed under its task and its reward.

    stage: its entry in config.json.
    """
    record = EpisodeRecord.from_dict(line)
    reward = episode_table.reward(record, line, stage)
    parts = [f"{line['stage']}, step {line['step']}, one episode: {record.task_id}"]
    if reward is not None:
        parts.append(f"reward {reward:.2f}")
    parts.append(f"{sum(v.success for v in record.verdicts)} of {record.turns} turns won")
    return (
        f"<details style='font-size:13px'><summary>{html.escape(', '.join(parts))}</summary>"
        f"{episode_html(record, limit=300)}</details>"
    )


def live(
    run_dir: Path, source: str, total: int, pause_seconds: float = 15.0
) -> Callable[[Mapping], None]:
    """An `on_row` for training: step_bar, the curves (live.png of the run), a sampled episode.

    The curves are redrawn at validations, alarms and a stage's end, and at training steps after
    pause_seconds. Under `envtune run` the cell keeps only the last ones, and no episode.
    """
    from IPython.display import HTML, Image, display

    bar, show_curves, show_sample = step_bar(total), _in_place(), _in_place()
    in_notebook, picture = progress.in_notebook(), run_dir / "live.png"
    begun, stale, drawn, sampled, end_of_file = False, True, -math.inf, -math.inf, 0

    def curves() -> None:
        fig = figures.training_curves(files.load_metrics(run_dir), source)
        fig.savefig(picture, dpi=90)
        kit.plt.close(fig)
        if in_notebook:
            show_curves(Image(picture))

    def on_row(row: Mapping) -> None:
        nonlocal begun, stale, drawn, sampled, end_of_file
        over, kind, now = bar(row), row["kind"], time.monotonic()
        begun = begun or kind in ("train", "resumed", "finished")
        stale = stale or kind in ("train", "validation", "alarm")
        if begun and stale and (kind not in ("train", "decision") or now - drawn > pause_seconds):
            curves()
            stale, drawn = False, time.monotonic()
        if over and progress.in_kernel() and not in_notebook:
            display(Image(picture))
        episodes = run_dir / "episodes.jsonl.gz"
        start, end_of_file = end_of_file, episodes.stat().st_size if episodes.exists() else 0
        due = in_notebook and kind == "train" and now - sampled > SAMPLE_SECONDS
        if due and (line := _first_line(episodes, start)):
            stage = runconfig.read(run_dir)["stages"][row["stage"]]
            show_sample(HTML(sample_html(line, stage)))
            sampled = now

    return on_row
