"""The embedded agent's model card and loss curves, written from what `agent.build` measured.

The numbers are kept in made.json of the agent's folder in data.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from envtune import bfcl
from envtune.common.files import read_json, read_lines
from envtune.policy import sampler
from envtune.policy.agent import FOLDERS
from envtune.policy.agent.train import MADE_WITH
from envtune.study import kit

REBUILT = (
    "On one machine the same recipe gives the same weights bit by bit, also after an interruption "
    "(tests/test_agent.py). Other processors round differently."
)
"""How exactly `make agent` reproduces the weights."""


def curves(made: Mapping) -> Figure:
    """Loss over the tokens of pre-training, a panel for competence and one for habits."""
    fig, axes = kit.canvas(1, 2, (8, 2.8), width_ratios=(3, 1))
    colours = kit.colours(row["phase"] for lines in made["curves"].values() for row in lines)
    for ax, (part, lines) in zip(axes[0], made["curves"].items(), strict=True):
        data = pd.DataFrame(lines)
        data = data.assign(at=data["tokens"] / 1e6)
        kit.lines(ax, data, "loss", "phase", estimator=None, palette=colours)
        ax.set(xlabel="million tokens", ylabel="loss (nats per token)", title=part, yscale="log")
    return kit.finish(
        fig,
        "Pre-training of the embedded agent; habits are random choices, so their loss stays high.",
    )


def _table(rows: Sequence[Mapping], columns: Iterable[str]) -> str:
    columns = list(columns)
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        cells = (row[column] for column in columns)
        lines.append([f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _phase(phase: Mapping) -> dict:
    turns = ("as they come" if turns is None else str(turns) for turns in phase["turns"])
    return {
        "phase": phase["name"],
        "episodes": phase["episodes"],
        "turns of a task": ", ".join(turns),
        "window": f"{phase['width']} tokens" if phase["width"] else "whole episodes",
        "learning rate": f"{phase['learning_rate']:g}",
    }


def card(made: Mapping, size: int) -> str:
    """README.md of the agent's folder, from made.json and the size of the weights [bytes]."""
    recipe, start, hint = made["recipe"], made["start"], made["start"]["hint_effect"]
    every = next(row for row in made["competence"] if row["group"] == "all")
    last = {part: rows[-1] for part, rows in made["curves"].items()}
    tokens = {part: row["tokens"] / 1e6 for part, row in last.items()}
    minutes = {part: row["seconds"] / 60 for part, row in last.items()}
    phases = [_phase(p) for p in (*recipe["phases"], *recipe["habit_phases"])]
    dials = recipe["habit_phases"][0]["habits"].items()
    habits = [{"dial": name, "value": value} for name, value in dials]
    return f"""\
# {made.get("name", "tiny-agent")}

Written by `python -m envtune agent --write` from `made.json`; do not edit by hand.

A Llama of {made["parameters"]:,} parameters ({recipe["hidden"]} wide, {recipe["layers"]} layers, \
{recipe["heads"]} heads; {size / 1e6:.1f} MB in float32)
that uses BFCL's tools on [synthetic tasks](../../docs/synthetic_tasks.md). It is made for one
purpose: to be trained on a laptop by Environment Tuning, and to show what that does.
Licence: Apache-2.0, as the rest of the project.

## What it knows and what it does not

- It knows the sentences of synthetic tasks, the signatures of BFCL's tools, this project's
  protocol, and its hints.
- It cannot read free English: expect 0 on BFCL's own tasks. What training does to it is **no
  evidence about large models**.
- *Competence*: before it learns its habits it solves **{every["accuracy"]:.0%}** of {every["n"]} \
held-out base tasks (numbers 400-799, greedy).
- *With its habits*, where training starts: {start["greedy"]:.0%} greedy and \
{start["sampled"]:.0%} sampled of {start["n"]}
  held-out tasks (numbers 400-499 in all four variants); format reward \
{start["sampled_format_reward"]:.2f}.
  Runs are measured on other tasks, the test set (numbers 200-299), so the accuracy that they
  start from is another number ([claims](../../docs/claims.md)).
- A hint with a vague error raises the probability that its next message is the right step from
  {hint["without"]:.0%} to {hint["with"]:.0%} ({hint["n"]} errors, sampled).

## Data and recipe

The data are scripted episodes on tasks with numbers from 1,000,000, each seen once. They contain no
test, validation or training task, and no request of one with its values (tests/test_agent.py). The
script plays the ground truth, makes mistakes, reads errors and hints, and recovers; in the last
phase it also shows the habits below, so that the agent learns them.

{_table(phases, phases[0])}

{tokens["competence"]:.0f} million tokens in {minutes["competence"]:.0f} minutes, then \
{tokens["habits"]:.1f} million in {minutes["habits"]:.0f}: two processes of one
thread each on two CPU cores. {made["rebuilt"]}

![Loss of pre-training](curves.png)

## Habits: the dials

A habit with a value above 0.5 shows in greedy decoding. State the dials with every result on this
agent. How to make another one: [docs/agent.md](../../docs/agent.md).

{_table(habits, ("dial", "value"))}

## Competence by group

Held-out base tasks (numbers 400-799), greedy, habits off; 95% intervals (bootstrap over tasks).

{_table(made["competence"], ("group", "n", "accuracy", "low", "high"))}
"""


def write(made: Mapping, folder: Path) -> None:
    """Write README.md and curves.png into the agent's folder."""
    fig = curves(made)
    fig.savefig(folder / "curves.png", dpi=110)
    kit.plt.close(fig)
    (folder / "README.md").write_text(card(made, (folder / "model.safetensors").stat().st_size))


def publish(folder: Path, name: str) -> Path:
    """Copy the agent that `build` left in `folder` to data, with its card's numbers.

    ValueError before anything is written when the build is not finished.
    """
    parts = {"competence": folder / "competence", "habits": folder / name}
    needed = ("log.jsonl", "model", MADE_WITH, "measured.json")
    missing = [
        f"{p.name}/{file}" for p in parts.values() for file in needed if not (p / file).exists()
    ]
    if missing:
        raise ValueError(
            f"{folder} holds no finished {name}: {', '.join(missing)} missing. Build it first, "
            "with `make agent` (two hours and a half on two cores; a stopped one goes on)"
        )
    out = FOLDERS[name]
    out.mkdir(parents=True, exist_ok=True)
    for file in (folder / name / "model").iterdir():
        shutil.copy(file, out / file.name)
    curves = {part: list(read_lines(place / "log.jsonl")) for part, place in parts.items()}
    recipe, habits = (read_json(place / MADE_WITH) for place in parts.values())
    del recipe["start"]  # competence begins with nothing
    made = {
        "name": name,
        "recipe": {**recipe, "habit_phases": habits["phases"]},
        "bfcl_eval": bfcl.PACKAGE_VERSION,
        "rebuilt": REBUILT,
        "parameters": sum(p.numel() for p in sampler.load_policy(out, bf16=False)[0].parameters()),
        "competence": read_json(parts["competence"] / "measured.json"),
        "start": read_json(parts["habits"] / "measured.json"),
        "curves": {
            part: [*lines[: -1 : max(1, len(lines) // 40)], lines[-1]]
            for part, lines in curves.items()
        },
    }
    (out / "made.json").write_text(json.dumps(made, indent=1) + "\n")
    write(made, out)
    return out
