"""`python -m envtune agent`: the embedded agent from nothing, in two steps, measured, with its card.

    competence   the script that stumbles and recovers, short windows first; then 400 held-out base tasks, greedy
    habits       a short second training on the script with habits; then how training will find it

Everything lands in runs/agent; `--write` puts weights and card into data/tiny_agent. Stopped, it goes on.
"""
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from envtune import bfcl, policies
from envtune.agent import FOLDER, card, measure, train
from envtune.agent.train import Recipe
from envtune.bfcl import synthetic

HELD_OUT = range(400, 800)
"""Numbers of the 400 held-out base tasks that competence is measured on: not the test set, which only trained policies see."""

REBUILT = ("On one machine the same recipe gives the same weights bit by bit, also when it was stopped and went on (tests/test_agent.py). "
           "Another processor rounds otherwise.")
"""How far `make agent` gives an agent's weights again."""


def build(folder: Path, recipe: Recipe | None = None) -> Path:
    """Train and measure; return the folder of the agent; what was measured is in `folder`."""
    recipe = recipe or Recipe()
    competent = train.pretrain(recipe, folder / "competence")
    if not (folder / "competence.json").exists():
        model, tokenizer = policies.load(competent, bf16=False)
        records = measure.play(model, tokenizer, [f"synthetic_base_{n}" for n in HELD_OUT], temperature=0.0)
        _write(folder / "competence.json", measure.table(records).to_dict("records"))
    final = train.pretrain(replace(recipe, seed=recipe.seed + 1), folder / "habits", recipe.habit_phases, start=competent)
    if not (folder / "start.json").exists():
        model, tokenizer = policies.load(final, bf16=False)
        found = measure.start(model, tokenizer, synthetic.task_ids(range(400, 500)))
        found["hint_effect"] = measure.hint_effect(model, tokenizer)
        _write(folder / "start.json", found)
    return final


def publish(folder: Path) -> Path:
    """Copy the agent that `build` left in `folder` to data/tiny_agent, with its card's numbers."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file in (folder / "habits" / "model").iterdir():
        shutil.copy(file, FOLDER / file.name)
    curves = {part: [json.loads(line) for line in (folder / part / "log.jsonl").read_text().splitlines()]
              for part in ("competence", "habits")}
    made = {
        "recipe": asdict(Recipe()), "bfcl_eval": bfcl.PACKAGE_VERSION, "rebuilt": REBUILT,
        "parameters": sum(p.numel() for p in policies.load(FOLDER, bf16=False)[0].parameters()),
        "competence": json.loads((folder / "competence.json").read_text()), "start": json.loads((folder / "start.json").read_text()),
        "curves": {part: [*lines[:-1:max(1, len(lines) // 40)], lines[-1]] for part, lines in curves.items()}}
    _write(FOLDER / "made.json", made)
    card.write(made, FOLDER)
    return FOLDER


def _write(file: Path, content) -> None:
    unfinished = file.with_name(file.name + ".new")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.replace(file)
