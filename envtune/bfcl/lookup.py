"""A task by its id: BFCL's, a synthetic one, or one of your own domain.

>>> load_task("synthetic_base_7").split
'base'
"""

from envtune.bfcl import synthetic
from envtune.bfcl.tasks import SPLITS, Task, load_tasks

OWN_TASKS: dict[str, Task] = {}  # tasks of one's own: domains.add, domains.add_tasks


def load_task(task_id: str) -> Task:
    """One task. KeyError with an example id when there is none of that name."""
    if task_id in OWN_TASKS:
        return OWN_TASKS[task_id]
    if task_id.startswith("synthetic_"):
        return synthetic.make(task_id)
    tasks = load_tasks()
    if task_id not in tasks:
        raise KeyError(
            f"no task {task_id!r}; ids read multi_turn_<split>_<0..199> or "
            f"synthetic_<split>_<number>, split one of {', '.join(SPLITS)}"
        )
    return tasks[task_id]
