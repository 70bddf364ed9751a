"""`python -m envtune agent`: pre-trains the embedded agent in two parts, and measures each.

    competence   learns the right messages of a script that stumbles and recovers; measured
                 greedily on 400 held-out base tasks
    habits       goes on from there, with all messages of a script that has habits; measured as the
                 policy that training starts from

A part has a folder in runs/agent. The same command resumes; with another recipe or other habits it
refuses a part that was made before. `--write` puts weights and card into data/tiny_agent
(study/agent_card.py).
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
    """Train and measure both parts; return the folder of the agent. ValueError as in `pretrain`."""
    recipe = recipe or Recipe()
    competent = train.pretrain(recipe, folder / "competence")
    measured = folder / "competence" / "measured.json"
    if not measured.exists():
        model, tokenizer = sampler.load_policy(competent, bf16=False)
        records = measure.play(
            model, tokenizer, [f"synthetic_base_{n}" for n in HELD_OUT], temperature=0.0
        )
        write_json(measured, measure.accuracy_by_group(records).to_dict("records"))
    final = train.pretrain(
        replace(recipe, seed=recipe.seed + 1),
        folder / "habits",
        recipe.habit_phases,
        start=competent,
    )
    measured = folder / "habits" / "measured.json"
    if not measured.exists():
        model, tokenizer = sampler.load_policy(final, bf16=False)
        found = measure.start(model, tokenizer, synthetic.task_ids(range(400, 500)))
        effect = measure.hint_effect(model, tokenizer)
        write_json(measured, {**found, "hint_effect": effect})
    return final
