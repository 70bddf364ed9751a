"""The model card of the embedded agent, written from the numbers that agent.build measured, the picture of its losses, and its place."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from envtune import bfcl
from envtune.policy import sampler
from envtune.policy.agent import FOLDER
from envtune.policy.agent.train import Recipe
from envtune.study import figures

REBUILT = (
    "On one machine the same recipe gives the same weights bit by bit, also when it was stopped and went on (tests/test_agent.py). "
    "Another processor rounds otherwise."
)
"""How far `make agent` gives an agent's weights again."""


def curves(made: Mapping) -> Figure:
    """Loss over the tokens of pre-training, a panel for competence and one for habits, phases in colours."""
    figures.style()
    fig, axes = figures.plt.subplots(1, 2, figsize=(8, 2.8), width_ratios=(3, 1))
    for ax, (part, lines) in zip(axes, made["curves"].items(), strict=True):
        for i, (phase, rows) in enumerate(pd.DataFrame(lines).groupby("phase", sort=False)):
            ax.plot(
                rows["tokens"] / 1e6,
                rows["loss"],
                color=figures.COLOURS[i],
                label=phase,
                linewidth=1.5,
            )
        ax.set(xlabel="million tokens", title=part, yscale="log")
        ax.legend(fontsize=8)
    axes[0].set_ylabel("loss (nats a token)")
    fig.tight_layout(rect=(0, 0.06, 1, 1))
    figures.caption(
        fig,
        "Pre-training of the embedded agent; habits are learnt with their chance, so their loss stays high.",
    )
    return fig


def _table(rows: list[Mapping], columns: Mapping[str, str]) -> list[str]:
    head = [f"| {' | '.join(columns.values())} |", f"|{'---|' * len(columns)}"]
    return head + [
        f"| {' | '.join(f'{row[c]:.2f}' if isinstance(row[c], float) else str(row[c]) for c in columns)} |"
        for row in rows
    ]


def _phase(phase: Mapping) -> dict:
    turns = ", ".join("as they come" if turns is None else str(turns) for turns in phase["turns"])
    return {
        "name": phase["name"],
        "episodes": phase["episodes"],
        "turns": turns,
        "rate": f"{phase['learning_rate']:g}",
        "window": f"{phase['width']} tokens" if phase["width"] else "whole episodes",
    }


def card(made: Mapping, size: int) -> str:
    """README.md of the agent's folder. `made` as made.json holds it; `size` is that of its weights [bytes]."""
    recipe, start, hint = made["recipe"], made["start"], made["start"]["hint_effect"]
    every = next(row for row in made["competence"] if row["group"] == "all")
    last = {part: rows[-1] for part, rows in made["curves"].items()}
    return "\n".join(
        [
            "# tiny-agent",
            "",
            "Written by `python -m envtune agent --write` from `made.json`; do not edit by hand.",
            "",
            f"A Llama of {made['parameters']:,} parameters ({recipe['hidden']} wide, {recipe['layers']} layers, {recipe['heads']} heads; "
            f"{size / 1e6:.1f} MB in float32)",
            "that uses BFCL's tools on [synthetic tasks](../../docs/synthetic_tasks.md). It is made for one purpose: to be trained on a laptop",
            "by Environment Tuning, and to show what that does. Licence: Apache-2.0, as the rest of the project.",
            "",
            "## What it knows and what it does not",
            "",
            "- It knows the sentences of synthetic tasks, the signatures of BFCL's tools, this project's protocol, and its hints.",
            "- It reads no free English: on BFCL's own tasks expect 0. What training does to it is **no evidence about large models**.",
            f"- *Competent*: before its habits it does **{every['accuracy']:.0%}** of {every['n']} held-out base tasks (greedy).",
            f"- *With its habits*, as training finds it: {start['greedy']:.0%} greedy and {start['sampled']:.0%} sampled of {start['n']}",
            f"  held-out tasks in all four variants; format reward {start['sampled_format_reward']:.2f}.",
            f"- A hint beside a vague error raises the chance that its next message is the right step from {hint['without']:.0%} to "
            f"{hint['with']:.0%}",
            f"  ({hint['n']} errors, sampled).",
            "",
            "## Data and recipe",
            "",
            "Scripted episodes on tasks from number 1,000,000 on, each seen once; no test, validation or training task, and no request of one",
            "with its values, is among them (tests/test_agent.py). The script plays ground truth, stumbles, reads errors and hints and",
            "recovers; in the last phase it plays the habits below, and they are learnt too.",
            "",
            *_table(
                [_phase(p) for p in (*recipe["phases"], *recipe["habit_phases"])],
                {
                    "name": "phase",
                    "episodes": "episodes",
                    "turns": "turns of a task",
                    "window": "window",
                    "rate": "learning rate",
                },
            ),
            "",
            f"{last['competence']['tokens'] / 1e6:.0f} million tokens in {last['competence']['seconds'] / 60:.0f} minutes, then "
            f"{last['habits']['tokens'] / 1e6:.1f} million in {last['habits']['seconds'] / 60:.0f}: two processes of one",
            f"thread each on two CPU cores. {made['rebuilt']}",
            "",
            "![Loss of pre-training](curves.png)",
            "",
            "## Habits: the dials",
            "",
            "Above one half a habit is what greedy decoding shows. A result on this agent has to name its dials; another agent is a change of",
            "`HABITS` in envtune/policy/agent/script.py and ten minutes of `make agent`, which goes on from the competent one.",
            "",
            *_table(
                [
                    {"dial": name, "value": value}
                    for name, value in recipe["habit_phases"][0]["habits"].items()
                ],
                {"dial": "dial", "value": "value"},
            ),
            "",
            "## Competence by group",
            "",
            "Held-out base tasks, greedy, habits off; 95% intervals (bootstrap over tasks).",
            "",
            *_table(
                made["competence"],
                {"group": "group", "n": "n", "accuracy": "accuracy", "low": "low", "high": "high"},
            ),
            "",
        ]
    )


def write(made: Mapping, folder: Path) -> None:
    """README.md and curves.png into the agent's folder."""
    fig = curves(made)
    fig.savefig(folder / "curves.png", dpi=110)
    figures.plt.close(fig)
    (folder / "README.md").write_text(card(made, (folder / "model.safetensors").stat().st_size))


def publish(folder: Path) -> Path:
    """Copy the agent that `build` left in `folder` to data/tiny_agent, with its card's numbers."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file in (folder / "habits" / "model").iterdir():
        shutil.copy(file, FOLDER / file.name)
    curves = {
        part: [json.loads(line) for line in (folder / part / "log.jsonl").read_text().splitlines()]
        for part in ("competence", "habits")
    }
    made = {
        "recipe": asdict(Recipe()),
        "bfcl_eval": bfcl.PACKAGE_VERSION,
        "rebuilt": REBUILT,
        "parameters": sum(p.numel() for p in sampler.load_policy(FOLDER, bf16=False)[0].parameters()),
        "competence": json.loads((folder / "competence.json").read_text()),
        "start": json.loads((folder / "start.json").read_text()),
        "curves": {
            part: [*lines[: -1 : max(1, len(lines) // 40)], lines[-1]]
            for part, lines in curves.items()
        },
    }
    (FOLDER / "made.json").write_text(json.dumps(made, indent=1) + "\n")
    write(made, FOLDER)
    return FOLDER
