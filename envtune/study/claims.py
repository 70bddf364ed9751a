"""docs/claims.md: each claim of the paper, and what its readers asked, with the evidence here and a verdict at this scale.

    $ python -m envtune claims --write

A verdict is computed from committed runs: *supported* when the 95% intervals of two pooled accuracies and all their seeds lie apart in the
claimed direction, *contradicted* when they do the other way, *not supported* when neither, *not tested* when there is no run. The runs are
those of the embedded agent of a million parameters on synthetic tasks: "supported" says so at that scale, nothing about large models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from envtune.common import paths
from envtune.common.stats import sign_test
from envtune.study import ablations
from envtune.study.paper import Chosen, sweep

FILE = paths.ROOT / "docs" / "claims.md"
NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Claim:
    """A row of the table."""

    text: str
    source: str
    evidence: str
    verdict: str


def _spoken(row) -> str:
    return (
        f"{row['accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}] (n = {row['n']:.0f}; {row['seeds']:.0f} seeds from "
        f"{row['least']:.2f} to {row['most']:.2f})"
    )


def _pooled(
    name: str, cases: Sequence[str], chosen: Chosen
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """(summary, pooled accuracies by case) of a sweep that has all these cases, else None."""
    found = sweep(name, chosen)
    table = ablations.pooled(found[0], "case").set_index("value") if found else pd.DataFrame()
    return (found[0], table) if set(cases) <= set(table.index) else None


def compare(name: str, better: str, worse: str, figure: str, chosen: Chosen) -> tuple[str, str]:
    """(evidence, verdict) on whether one case of a sweep ends above another in accuracy."""
    found = _pooled(name, [better, worse], chosen)
    if not found:
        return f"no runs (sweep `{name}`)", NOT_TESTED
    summary, table = found
    one, other = table.loc[better], table.loc[worse]
    other_way = (
        "not supported, the means lie the other way"
        if one["accuracy"] < other["accuracy"]
        else "not supported"
    )
    verdict = (
        "supported"
        if ablations.apart(one, other)
        else "contradicted"
        if ablations.apart(other, one)
        else other_way
    )
    by_seed = ", ".join(
        f"{difference:+.2f}" for difference in ablations.paired(summary, "case", better, worse)
    )
    return (
        f"{better} {_spoken(one)}, {worse} {_spoken(other)}; differences by seed {by_seed}; {figure}",
        verdict,
    )


def above_all(
    name: str, better: str, rest: list[str], figure: str, chosen: Chosen
) -> tuple[str, str]:
    """(evidence, verdict) on whether one case ends above each of several others; supported when above every one of them."""
    found = _pooled(name, [better, *rest], chosen) if rest else None
    if not found:
        return f"no runs (sweep `{name}`)", NOT_TESTED
    one, others = found[1].loc[better], [found[1].loc[value] for value in rest]
    below, above = (
        sum(ablations.apart(one, other) for other in others),
        sum(ablations.apart(other, one) for other in others),
    )
    verdict = (
        "supported"
        if below == len(rest)
        else f"supported against {below} of {len(rest)}"
        if below and not above
        else f"contradicted by {above} of {len(rest)}"
        if above
        else "not supported"
    )
    return f"{better} {_spoken(one)}; " + ", ".join(
        f"{value} {_spoken(other)}" for value, other in zip(rest, others, strict=True)
    ) + (f"; {figure}"), verdict


def _collapse(chosen: Chosen) -> tuple[str, str]:
    found = sweep(chosen.curriculum, chosen, ["direct GRPO"])
    if not found:
        return f"no direct GRPO (sweep `{chosen.curriculum}`)", NOT_TESTED
    direct = found[0]
    exploded = int((direct["explosions"] > 0).sum())
    return (
        f"{exploded} of {len(direct)} runs of {int(direct['steps'].max())} steps gave the guard's alarm of an exploding gradient with "
        f"falling accuracy; largest norm {direct['largest_grad_norm'].max():.2f}; figure 6",
        "supported" if exploded > len(direct) / 2 else "not supported",
    )


def _entropy(chosen: Chosen) -> tuple[str, str]:
    found = sweep(chosen.kl, chosen)
    if not found:
        return f"no runs (sweep `{chosen.kl}`)", NOT_TESTED
    ends = found[0].groupby("beta")["last_entropy"].agg(["min", "mean", "max"])
    none, strong = ends.loc[ends.index.min()], ends.loc[ends.index.max()]
    apart = none["max"] < strong["min"]
    spoken = "; ".join(
        f"beta {beta:g}: {row['mean']:.3f} ({row['min']:.3f} to {row['max']:.3f})"
        for beta, row in ends.iterrows()
    )
    return (
        f"entropy of the last five steps, nats a token, mean and range of seeds: {spoken}; figure 7",
        ("supported" if apart else "not supported"),
    )


def _beta_and_scale(chosen: Chosen) -> tuple[str, str]:
    found = sweep(f"{chosen.kl}_scale", chosen)
    if not found:
        return f"no runs (sweep `{chosen.kl}_scale`)", NOT_TESTED
    summary = found[0]
    strong, none = summary["beta"].max(), summary["beta"].min()
    pairs = [
        difference
        for _, group in summary.groupby("reward_scale")
        for difference in ablations.paired(group, "beta", strong, none)
    ]
    if plain := sweep(chosen.kl, chosen):
        pairs += list(ablations.paired(plain[0], "beta", strong, none))
    above, below, p = sign_test(pairs)
    return (
        "; ".join(
            f"{row['value']} {_spoken(row)}"
            for _, row in ablations.pooled(summary, "case").iterrows()
        )
        + "; figures/ablations/kl_sweep_scale.png",
        f"beta {strong:g} ends above {none:g} in {above} of {len(pairs)} pairs of one seed and setting, below in {below} "
        f"(sign test, p = {p:.3f})",
    )


REFERENCE = paths.DATA / "reference_runs"


def _learns(chosen: Chosen) -> tuple[str, str]:
    """Whether the four stages raise accuracy on tasks that no training saw, in every seed and both ways of playing."""
    if not (REFERENCE / "learning_check.csv").exists():
        return "no runs (`make bench`)", NOT_TESTED
    table = pd.read_csv(REFERENCE / "learning_check.csv")
    spoken, rises = [], []
    for way, part in table.groupby("way", sort=False):
        ends = pd.DataFrame(
            {seed: run["accuracy"].iloc[[0, -1]].tolist() for seed, run in part.groupby("seed")},
            index=["start", "end"],
        ).T
        rise = ends["end"] - ends["start"]
        rises += rise.tolist()
        spoken.append(
            f"{way} {ends['start'].mean():.2f} to {ends['end'].mean():.2f} (rise by seed {', '.join(f'{r:+.2f}' for r in rise)})"
        )
    return (
        f"accuracy on {table['n'].iloc[0]} held-out tasks, before and after the four stages: {'; '.join(spoken)}; figures/learning",
        "too few seeds to say"
        if table["seed"].nunique() < 3
        else "supported"
        if min(rises) > 0
        else "contradicted"
        if max(rises) < 0
        else "not supported",
    )


def _stage1(chosen: Chosen) -> tuple[str, str]:
    columns, ends = ["format_reward", "tool_call_reward"], []
    for file in sorted(REFERENCE.glob("cpu_tiny_seed*.parquet")):
        data = pd.read_parquet(file)
        train = data[(data["stage"] == "stage1_syntax") & (data["kind"] == "train")]
        ends.append([part[columns].mean() for part in (train.head(3), train.tail(3))])
    if not ends:
        return "no runs (`make bench`)", NOT_TESTED
    first, last = (pd.DataFrame(part) for part in zip(*ends, strict=True))
    rose = bool((last.to_numpy() > first.to_numpy()).all())
    spoken = (
        f"{column.replace('_', ' ')} {first[column].mean():.2f} to {last[column].mean():.2f}"
        for column in columns
    )
    return (
        f"{', '.join(spoken)} (means of the first and last three steps over {len(ends)} seed(s)); figure 5a",
        "too few seeds to say"
        if len(ends) < 3
        else "supported in every seed"
        if rose
        else "not supported in every seed",
    )


def _spread(chosen: Chosen) -> tuple[str, str]:
    spoken = []
    for name in (*chosen.ablations, chosen.baselines):
        if found := sweep(name, chosen):
            spread = found[0].groupby("case")["accuracy"].agg(lambda a: a.max() - a.min())
            spoken.append(f"{name} {spread.max():.2f}")
    if not spoken:
        return "no runs", NOT_TESTED
    return "largest range of accuracy between seeds of one setting: " + ", ".join(
        spoken
    ), "measured"


def _robustness(chosen: Chosen) -> tuple[str, str]:
    found = sweep(chosen.robustness, chosen)
    spoilt = (
        [case for case in dict.fromkeys(found[0]["case"]) if case != "as they are"] if found else []
    )
    evidence, verdict = above_all(
        chosen.robustness, "as they are", spoilt, "figures/ablations/hint_robustness.png", chosen
    )
    return evidence, {
        "supported": "not robust: every corruption costs accuracy",
        "not supported": "no loss shown",
    }.get(verdict, verdict.replace("supported against", "not robust against"))


def _scale(chosen: Chosen) -> tuple[str, str]:
    """Normalised, the scale must cancel: whether x4 ends apart from x1 either way."""
    evidence, verdict = compare(
        chosen.reward, "progress x4", "progress", "figures/ablations/ablation_reward.png", chosen
    )
    apart = verdict in ("supported", "contradicted")
    return (
        evidence,
        NOT_TESTED if verdict == NOT_TESTED else "contradicted" if apart else "no difference shown",
    )


def claims(chosen: Chosen | None = None) -> list[Claim]:
    """The table's rows, computed from the committed runs."""
    chosen = chosen or Chosen()
    gpu = ("needs a large model on a GPU", NOT_TESTED)
    left_out = [f"without stage {number}" for number in range(1, 5)]
    rows = [
        (
            "The four stages end above direct GRPO",
            "Table 3",
            compare(chosen.curriculum, "four stages", "direct GRPO", "table 3", chosen),
        ),
        (
            "Each of the four stages is needed",
            "Table 3",
            above_all(
                chosen.curriculum,
                "four stages",
                left_out,
                "figures/ablations/ablation_curriculum.png",
                chosen,
            ),
        ),
        ("One stage alone collapses, with an exploding gradient", "Fig. 6", _collapse(chosen)),
        (
            "Training with hints ends above training without",
            "Fig. 4a",
            compare(chosen.augmentation, "with hints", "without hints", "figure 4a", chosen),
        ),
        (
            "The progress reward ends above the binary one",
            "Fig. 4b",
            compare(chosen.reward, "progress", "binary", "figure 4b", chosen),
        ),
        ("Without a strong KL entropy collapses", "Fig. 7", _entropy(chosen)),
        (
            "The four stages raise accuracy on tasks that training never saw",
            "Table 1",
            _learns(chosen),
        ),
        ("Stage 1 teaches the format and calls that run", "Fig. 5a", _stage1(chosen)),
        (
            "400 problems without demonstrations bring a 7B model near far larger ones",
            "Table 1",
            gpu,
        ),
        ("What is learned carries over to other benchmarks", "Table 2", gpu),
        (
            "An exact, reproducible transition rule",
            "readers",
            (
                "envtune/train/transition.py, tests/test_transition.py; a resumed run decides as an uninterrupted one "
                "(tests/test_nothing_lost.py)",
                "given",
            ),
        ),
        (
            "Stage 1 before stage 2 ends above the order swapped",
            "readers",
            compare(
                chosen.curriculum,
                "four stages",
                "1 and 2 swapped",
                "figures/ablations/ablation_curriculum.png",
                chosen,
            ),
        ),
        ("The reward's scale cancels out when rewards are normalised", "readers", _scale(chosen)),
        ("Sensitivity to beta and to the reward's scale", "readers", _beta_and_scale(chosen)),
        (
            "Keeping hints beats withdrawing them over the run",
            "readers",
            above_all(
                chosen.augmentation,
                "with hints",
                ["linear", "cosine", "step"],
                "figures/ablations/ablation_augmentation.png",
                chosen,
            ),
        ),
        ("Variance over seeds", "readers", _spread(chosen)),
        ("Robustness to bad hints", "readers", _robustness(chosen)),
        (
            "Zero-shot generation of hints for a new domain",
            "readers",
            ("needs a model that can write them; the machinery is in docs/hints.md", NOT_TESTED),
        ),
        (
            "Manual work for a new domain",
            "readers",
            ("lines and minutes of one worked example: docs/new_domain.md", "measured once"),
        ),
        ("Comparison with vanilla RL out of distribution", "readers", gpu),
    ]
    return [Claim(text, source, *judged) for text, source, judged in rows]


def page(chosen: Chosen | None = None) -> str:
    """docs/claims.md as text."""
    lines = [
        "# Claims and evidence",
        "",
        "Generated by `python -m envtune claims --write` from the committed runs (data/reference_runs); do not edit by hand.",
        "",
        "Our runs are of the embedded `tiny-agent` (docs/agent.md): a million parameters that use BFCL's tools on synthetic tasks.",
        "**A verdict here is about that scale, not about large models.** *Not tested*: the sweep has not been run on this agent yet",
        "(the ones of an older model, which knew sixteen tasks by heart, are withdrawn). *Supported*: in the claimed",
        "direction the 95% intervals of the pooled accuracies lie apart, and so do all seeds; *contradicted*: the same the other way.",
        "*Not supported*: neither, which at this size is no evidence against the claim either. Intervals pool seeds over the same",
        "tasks and are too narrow by themselves. Differences by seed are between runs that start from one policy and read the",
        "tasks in one order; a sign test over settings takes pairs that share seeds as independent, and is a little too sure.",
        "",
        "| claim or question | from | evidence here | verdict at this scale |",
        "|---|---|---|---|",
    ]
    lines += [f"| {c.text} | {c.source} | {c.evidence} | **{c.verdict}** |" for c in claims(chosen)]
    return "\n".join(lines) + "\n"
