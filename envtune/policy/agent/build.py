"""`python -m envtune agent`: pre-trains the embedded agent in two parts, and measures each.

    competence   learns the right messages of a script that stumbles and recovers; measured
                 greedily on 400 held-out base tasks
    tiny-agent   goes on from there, with all messages of a script that has habits; measured as the
                 policy that training starts from. tiny-agent-deaf: the same with its own habits

A part has a folder in runs/agent. The same command resumes; with another recipe or other habits it
refuses a part that was made before. `--write` puts weights and card into data
(study/agent_card.py).
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
    """Train and measure both parts; return the folder of the agent. ValueError as in `pretrain`.

    All agents begin with the same competence, so the second one takes minutes.
    """
    recipe, out = recipe or recipe_of(name), folder / name
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
        out,
        recipe.habit_phases,
        start=competent,
    )
    measured = out / "measured.json"
    if not measured.exists():
        model, tokenizer = sampler.load_policy(final, bf16=False)
        found = measure.start(model, tokenizer, synthetic.task_ids(range(400, 500)))
        effect = measure.hint_effect(model, tokenizer)
        write_json(measured, {**found, "hint_effect": effect})
    return final
