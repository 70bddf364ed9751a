"""`python -m envtune agent`: the embedded agent from scratch, in two steps, measured.

    competence   the script that stumbles and recovers, short windows first; then measured on 400
                 held-out base tasks, greedy
    habits       a short second training on the script with habits; then measured as training starts

Everything goes to runs/agent; `--write` puts weights and card into data/tiny_agent
(study/agent_card.py). The same command resumes it.
"""

from dataclasses import replace
from pathlib import Path

from envtune.bfcl import synthetic
from envtune.common.files import write_json
from envtune.policy import sampler
from envtune.policy.agent import measure, train
from envtune.policy.agent.train import Recipe

HELD_OUT = range(400, 800)
"""Numbers of the 400 held-out base tasks that competence is measured on; not the test set."""


def build(folder: Path, recipe: Recipe | None = None) -> Path:
    """Train and measure; return the folder of the agent. The measurements are in `folder`."""
    recipe = recipe or Recipe()
    competent = train.pretrain(recipe, folder / "competence")
    if not (folder / "competence.json").exists():
        model, tokenizer = sampler.load_policy(competent, bf16=False)
        records = measure.play(
            model, tokenizer, [f"synthetic_base_{n}" for n in HELD_OUT], temperature=0.0
        )
        write_json(
            folder / "competence.json", measure.accuracy_by_group(records).to_dict("records")
        )
    final = train.pretrain(
        replace(recipe, seed=recipe.seed + 1),
        folder / "habits",
        recipe.habit_phases,
        start=competent,
    )
    if not (folder / "start.json").exists():
        model, tokenizer = sampler.load_policy(final, bf16=False)
        found = measure.start(model, tokenizer, synthetic.task_ids(range(400, 500)))
        effect = measure.hint_effect(model, tokenizer)
        write_json(folder / "start.json", {**found, "hint_effect": effect})
    return final
