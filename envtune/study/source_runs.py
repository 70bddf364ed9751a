"""Which sweeps and runs our tables, figures and claims are made from, and how a text names them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from envtune.common import paths
from envtune.study import ablations, kit

SPLITS = tuple(kit.SPLIT_LABELS)
OURS = "tiny-agent (no evidence about large models)"


DIRECT_AND_FOUR = ("direct GRPO", "four stages")


@dataclass(frozen=True)
class SourceRuns:
    """Names of the sweeps and runs, in runs/ or data/reference_runs, that our panels show."""

    curriculum: str = "ablation_curriculum"
    augmentation: str = "ablation_augmentation"
    reward: str = "ablation_reward_3"  # tasks of three requests
    reward_long: str = "ablation_reward_4"  # of four
    kl: str = "kl_sweep"  # the sweep against the reward's scale has this name with _scale
    robustness: str = "hint_robustness"
    training_tasks: str = "training_tasks"
    collapse: str = "collapse_search"
    baselines: str = "baselines"
    dynamics: str = "cpu_tiny"  # a run with all four stages, or committed ones of several seeds
    model: str = OURS
    own_runs_first: bool = False  # prefer a sweep in runs/ to the committed one of that name

    @property
    def ablations(self) -> tuple[str, ...]:
        """The sweeps in the order of ablations.PANELS, without the search for a collapse."""
        first = (self.curriculum, self.augmentation, f"{self.augmentation}_deaf", self.reward)
        return (
            *first,
            self.reward_long,
            self.kl,
            f"{self.kl}_scale",
            self.robustness,
            self.training_tasks,
        )


def finished_sweep(
    name: str, runs: SourceRuns, cases: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """(summary, curves) of a sweep's finished runs, None where there is none.

    `cases` selects some of its cases. ValueError for a sweep whose points have no `case`.
    """
    try:
        summary, curves = ablations.load_sweep(name, runs.own_runs_first)
    except FileNotFoundError:
        return None
    if "case" not in summary:
        raise ValueError(
            f"the sweep {name!r} cannot be drawn here: its points have no `case`, the name of "
            f"what each of them does (it has {', '.join(summary)})"
        )
    summary = summary.loc[summary["state"] == "done"]
    if cases:
        summary, curves = (table.loc[table["case"].isin(cases)] for table in (summary, curves))
    return (summary, curves) if len(summary) else None


def published_table(name: str, **only: str) -> pd.DataFrame:
    """The rows of a file in data/paper that have these values."""
    table = pd.read_csv(paths.DATA / "paper" / f"{name}.csv")
    for column, value in only.items():
        table = table.loc[table[column] == value]
    return table


def runs_text(summary: pd.DataFrame, runs: SourceRuns) -> str:
    return (
        f"Own runs: {runs.model}; {summary['run'].nunique()} runs, "
        f"{ablations.seeds_of(summary)}, n = {int(summary['n'].iloc[0])} test tasks per seed, "
        "BFCL's checker."
    )


def no_runs(notebook: str) -> str:
    return f"Own runs: no runs yet ({notebook})."


def reading(found: tuple[pd.DataFrame, pd.DataFrame] | None, one: str, *others: str) -> str:
    """How far one case ends above others, where there are runs of them, as sentences."""
    if not found:
        return ""
    made = {other: ablations.difference(found[0], "case", one, other) for other in others}
    said = [f"over {other} {ablations.points(gain)}" for other, gain in made.items() if gain]
    return f" Greedy at the end, {one} {'; '.join(said)}." if said else ""
