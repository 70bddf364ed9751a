"""Unlimited tasks over BFCL's real tools, each made from its id alone (docs/synthetic_tasks.md)."""

from envtune.bfcl.synthetic.draw import Draw, Names
from envtune.bfcl.synthetic.tasks import (
    MORE_TRAIN,
    TEST,
    TRAIN,
    VALIDATION,
    WORLDS,
    add_world,
    make,
    novelty,
    requests,
    task_ids,
)
from envtune.bfcl.synthetic.world import Again, Family, Plan, World
