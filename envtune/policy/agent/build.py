"""`python -m envtune agent`: the embedded agent from scratch, in two steps, measured.

    competence   the script that stumbles and recovers, short windows first; then measured on 400
                 held-out base tasks, greedy
    tiny-agent   a short second training on the script with habits; then measured as training
                 starts. tiny-agent-deaf is the same with its own habits

Everything goes to runs/agent; `--write` puts weights and card into data
(study/agent_card.py). The same command resumes it.
"""

from dataclasses import replace
from pathlib import Path

from envtune.bfcl import synthetic
from envtune.common.files import write_json
from envtune.policy import sampler
from envtune.policy.agent import measure, train
from envtune.policy.agent.script import DEAF, HABITS
from envtune.policy.agent.train import Recipe

HELD_OUT = range(400, 800)
"""Numbers of the 400 held-out base tasks that competence is measured on; not the test set."""


DIALS = {"tiny-agent": HABITS, "tiny-agent-deaf": DEAF}
"""The habits of each agent of agent.FOLDERS."""


def recipe_of(name: str) -> Recipe:
    """How an agent of agent.FOLDERS is made."""
    phases = tuple(replace(phase, habits=DIALS[name]) for phase in Recipe.habit_phases)
    return replace(Recipe(), habit_phases=phases)


def build(folder: Path, name: str = "tiny-agent", recipe: Recipe | None = None) -> Path:
    """Train and measure; return the agent's folder. The measurements are in `folder`.

    All agents begin with the same competence, so the second one takes minutes.
    """
    recipe, out = recipe or recipe_of(name), folder / name
    competent = train.pretrain(recipe, folder / "competence")
    if not (folder / "competence.json").exists():
        model, tokenizer = sampler.load_policy(competent, bf16=False)
        records = measure.play(
            model, tokenizer, [f"synthetic_base_{n}" for n in HELD_OUT], temperature=0.0
        )
        write_json(
            folder / "competence.json", measure.accuracy_by_group(records).to_dict("records")
        )
    second = replace(recipe, seed=recipe.seed + 1)
    final = train.pretrain(second, out, recipe.habit_phases, start=competent)
    if not (out / "start.json").exists():
        model, tokenizer = sampler.load_policy(final, bf16=False)
        found = measure.start(model, tokenizer, synthetic.task_ids(range(400, 500)))
        effect = measure.hint_effect(model, tokenizer)
        write_json(out / "start.json", {**found, "hint_effect": effect})
    return final
