"""docs/claims.md: each claim of the paper, and what its readers asked, with the evidence here.

    $ python -m envtune claims --write

A verdict is computed from committed runs. *Supported*: the 95% intervals of two pooled accuracies
and all their seeds lie apart in the claimed direction; *contradicted*: they do the other way; *not
supported*: neither; *not tested*: there is no run. The runs are those of the embedded agent of a
million parameters on synthetic tasks: a verdict is about that scale, not about large models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from envtune.common import paths
from envtune.common.stats import sign_test
from envtune.study import ablations
from envtune.study.paper import Chosen, sweep

FILE = paths.ROOT / "docs" / "claims.md"
REFERENCE = paths.DATA / "reference_runs"
NOT_TESTED = "not tested"
Judged = tuple[str, str]  # (evidence, verdict)


@dataclass(frozen=True)
class Claim:
    """A row of the table."""

    text: str
    source: str
    evidence: str
    verdict: str


def _no_runs(name: str) -> Judged:
    return f"no runs (sweep `{name}`)", NOT_TESTED


def _spoken(row) -> str:
    return (
        f"{row['accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}] (n = {row['n']:.0f}; "
        f"{row['seeds']:.0f} seeds from {row['least']:.2f} to {row['most']:.2f})"
    )


def _pooled(
    name: str, cases: Sequence[str], chosen: Chosen
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """(summary, pooled accuracies by case) of a sweep that has all these cases, else None."""
    found = sweep(name, chosen)
    table = ablations.pooled(found[0], "case").set_index("value") if found else pd.DataFrame()
    return (found[0], table) if set(cases) <= set(table.index) else None


def compare(name: str, better: str, worse: str, figure: str, chosen: Chosen) -> Judged:
    """Whether one case of a sweep ends above another in accuracy."""
    found = _pooled(name, [better, worse], chosen)
    if not found:
        return _no_runs(name)
    summary, table = found
    one, other = table.loc[better], table.loc[worse]
    if ablations.apart(one, other):
        verdict = "supported"
    elif ablations.apart(other, one):
        verdict = "contradicted"
    elif one["accuracy"] < other["accuracy"]:
        verdict = "not supported, the means lie the other way"
    else:
        verdict = "not supported"
    by_seed = (f"{gain:+.2f}" for gain in ablations.paired(summary, "case", better, worse))
    return (
        f"{better} {_spoken(one)}, {worse} {_spoken(other)}; "
        f"differences by seed {', '.join(by_seed)}; {figure}"
    ), verdict


def above_all(name: str, better: str, rest: list[str], figure: str, chosen: Chosen) -> Judged:
    """Whether one case ends above each of several others; supported when above every one."""
    found = _pooled(name, [better, *rest], chosen) if rest else None
    if not found:
        return _no_runs(name)
    one, others = found[1].loc[better], [found[1].loc[value] for value in rest]
    below = sum(ablations.apart(one, other) for other in others)
    above = sum(ablations.apart(other, one) for other in others)
    if below == len(rest):
        verdict = "supported"
    elif above:
        verdict = f"contradicted by {above} of {len(rest)}"
    else:
        verdict = f"supported against {below} of {len(rest)}" if below else "not supported"
    spoken = (f"{value} {_spoken(row)}" for value, row in zip(rest, others, strict=True))
    return f"{better} {_spoken(one)}; {', '.join(spoken)}; {figure}", verdict


def _collapse(chosen: Chosen) -> Judged:
    found = sweep(chosen.curriculum, chosen, ["direct GRPO"])
    if not found:
        return f"no direct GRPO (sweep `{chosen.curriculum}`)", NOT_TESTED
    direct = found[0]
    exploded = int((direct["explosions"] > 0).sum())
    return (
        f"{exploded} of {len(direct)} runs of {int(direct['steps'].max())} steps gave the guard's "
        "alarm of an exploding gradient with falling accuracy; largest norm "
        f"{direct['largest_grad_norm'].max():.2f}; figure 6"
    ), "supported" if exploded > len(direct) / 2 else "not supported"


def _entropy(chosen: Chosen) -> Judged:
    found = sweep(chosen.kl, chosen)
    if not found:
        return _no_runs(chosen.kl)
    ends = found[0].groupby("beta")["last_entropy"].agg(["min", "mean", "max"])
    none, strong = ends.loc[ends.index.min()], ends.loc[ends.index.max()]
    spoken = "; ".join(
        f"beta {beta:g}: {row['mean']:.3f} ({row['min']:.3f} to {row['max']:.3f})"
        for beta, row in ends.iterrows()
    )
    evidence = "entropy of the last five steps, nats per token, mean and range of seeds"
    verdict = "supported" if none["max"] < strong["min"] else "not supported"
    return f"{evidence}: {spoken}; figure 7", verdict


def _beta_and_scale(chosen: Chosen) -> Judged:
    found = sweep(f"{chosen.kl}_scale", chosen)
    if not found:
        return _no_runs(f"{chosen.kl}_scale")
    summary = found[0]
    strong, none = summary["beta"].max(), summary["beta"].min()
    settings = [group for _, group in summary.groupby("reward_scale")]
    if plain := sweep(chosen.kl, chosen):
        settings.append(plain[0])
    pairs = [gain for runs in settings for gain in ablations.paired(runs, "beta", strong, none)]
    above, below, p = sign_test(pairs)
    table = ablations.pooled(summary, "case")
    spoken = "; ".join(f"{row['value']} {_spoken(row)}" for _, row in table.iterrows())
    return f"{spoken}; figures/ablations/kl_sweep_scale.png", (
        f"beta {strong:g} ends above {none:g} in {above} of {len(pairs)} pairs of one seed and "
        f"setting, below in {below} (sign test, p = {p:.3f})"
    )


def _learns(chosen: Chosen) -> Judged:
    """Whether the four stages raise accuracy on tasks that no training saw, in every seed and both
    ways of playing."""
    if not (REFERENCE / "learning_check.csv").exists():
        return "no runs (`make bench`)", NOT_TESTED
    table = pd.read_csv(REFERENCE / "learning_check.csv")
    spoken, rises = [], []
    for way, part in table.groupby("way", sort=False):
        runs = part.groupby("seed")["accuracy"]
        start, end = runs.first(), runs.last()
        rise = end - start
        rises += rise.tolist()
        by_seed = ", ".join(f"{r:+.2f}" for r in rise)
        spoken.append(f"{way} {start.mean():.2f} to {end.mean():.2f} (rise by seed {by_seed})")
    evidence = (
        f"accuracy on {table['n'].iloc[0]} held-out tasks, before and after the four stages: "
        f"{'; '.join(spoken)}; figures/learning"
    )
    if table["seed"].nunique() < 3:
        return evidence, "too few seeds to say"
    if max(rises) < 0:
        return evidence, "contradicted"
    return evidence, "supported" if min(rises) > 0 else "not supported"


def _stage1(chosen: Chosen) -> Judged:
    columns, ends = ["format_reward", "tool_call_reward"], []
    for file in sorted(REFERENCE.glob("cpu_tiny_seed*.parquet")):
        data = pd.read_parquet(file)
        train = data[(data["stage"] == "stage1_syntax") & (data["kind"] == "train")]
        ends.append([part[columns].mean() for part in (train.head(3), train.tail(3))])
    if not ends:
        return "no runs (`make bench`)", NOT_TESTED
    first, last = (pd.DataFrame(part) for part in zip(*ends, strict=True))
    spoken = ", ".join(
        f"{column.replace('_', ' ')} {first[column].mean():.2f} to {last[column].mean():.2f}"
        for column in columns
    )
    evidence = (
        f"{spoken} (means of the first and last three steps over {len(ends)} seed(s)); figure 5a"
    )
    if len(ends) < 3:
        return evidence, "too few seeds to say"
    rose = (last.to_numpy() > first.to_numpy()).all()
    return evidence, "supported in every seed" if rose else "not supported in every seed"


def _spread(chosen: Chosen) -> Judged:
    spoken = []
    for name in (*chosen.ablations, chosen.baselines):
        if found := sweep(name, chosen):
            accuracy = found[0].groupby("case")["accuracy"]
            spoken.append(f"{name} {(accuracy.max() - accuracy.min()).max():.2f}")
    if not spoken:
        return "no runs", NOT_TESTED
    evidence = "largest range of accuracy between seeds of one setting: "
    return evidence + ", ".join(spoken), "measured"


def _robustness(chosen: Chosen) -> Judged:
    name, figure = chosen.robustness, "figures/ablations/hint_robustness.png"
    found = sweep(name, chosen)
    spoilt = [case for case in found[0]["case"].unique() if case != "as they are"] if found else []
    evidence, verdict = above_all(name, "as they are", spoilt, figure, chosen)
    said = {
        "supported": "not robust: every corruption costs accuracy",
        "not supported": "no loss shown",
    }
    return evidence, said.get(verdict, verdict.replace("supported against", "not robust against"))


def _scale(chosen: Chosen) -> Judged:
    """Normalised, the scale must cancel: whether x4 ends apart from x1 either way."""
    figure = "figures/ablations/ablation_reward.png"
    evidence, verdict = compare(chosen.reward, "progress x4", "progress", figure, chosen)
    if verdict in ("supported", "contradicted"):
        verdict = "contradicted"
    elif verdict != NOT_TESTED:
        verdict = "no difference shown"
    return evidence, verdict


PAGE = """\
# Claims and evidence

Generated by `python -m envtune claims --write` from the committed runs (data/reference_runs); do
not edit by hand.

Our runs are of the embedded `tiny-agent` (docs/agent.md): a million parameters that use BFCL's
tools on synthetic tasks. **A verdict here is about that scale, not about large models.**
*Not tested*: the sweep has not been run on this agent yet (the ones of an older model, which knew
sixteen tasks by heart, are withdrawn). *Supported*: in the claimed direction the 95% intervals of
the pooled accuracies lie apart, and so do all seeds; *contradicted*: the same the other way.
*Not supported*: neither; samples this small cannot refute the claim. Intervals pool seeds over the
same tasks and are too narrow by themselves. Differences by seed are between runs that start from
one policy and read the tasks in one order; a sign test over settings takes pairs that share seeds
as independent, and is a little too sure.

| claim or question | from | evidence here | verdict at this scale |
|---|---|---|---|
"""


def claims(chosen: Chosen | None = None) -> list[Claim]:
    """The table's rows, computed from the committed runs."""
    chosen = chosen or Chosen()
    gpu = ("needs a large model on a GPU", NOT_TESTED)
    order, four = chosen.curriculum, "four stages"
    orders = "figures/ablations/ablation_curriculum.png"
    hints, hinted = chosen.augmentation, "with hints"
    hint_rates = "figures/ablations/ablation_augmentation.png"
    left_out = [f"without stage {number}" for number in range(1, 5)]
    direct = compare(order, four, "direct GRPO", "table 3", chosen)
    needed = above_all(order, four, left_out, orders, chosen)
    swapped = compare(order, four, "1 and 2 swapped", orders, chosen)
    augmented = compare(hints, hinted, "without hints", "figure 4a", chosen)
    kept = above_all(hints, hinted, ["linear", "cosine", "step"], hint_rates, chosen)
    progress = compare(chosen.reward, "progress", "binary", "figure 4b", chosen)
    rule = (
        "envtune/train/transition.py, tests/test_transition.py; a resumed run decides as an "
        "uninterrupted one (tests/test_nothing_lost.py)"
    )
    writer = "needs a model that can write them; the machinery is in docs/hints.md"
    manual = "lines and minutes of one worked example: docs/new_domain.md"
    near = "400 problems without demonstrations bring a 7B model near far larger ones"
    scale = "The reward's scale cancels out when rewards are normalised"
    rows = [
        ("The four stages end above direct GRPO", "Table 3", direct),
        ("Each of the four stages is needed", "Table 3", needed),
        ("One stage alone collapses, with an exploding gradient", "Fig. 6", _collapse(chosen)),
        ("Training with hints ends above training without", "Fig. 4a", augmented),
        ("The progress reward ends above the binary one", "Fig. 4b", progress),
        ("Without a strong KL entropy collapses", "Fig. 7", _entropy(chosen)),
        (
            "The four stages raise accuracy on tasks that training never saw",
            "Table 1",
            _learns(chosen),
        ),
        ("Stage 1 teaches the format and calls that run", "Fig. 5a", _stage1(chosen)),
        (near, "Table 1", gpu),
        ("What is learned carries over to other benchmarks", "Table 2", gpu),
        ("An exact, reproducible transition rule", "readers", (rule, "given")),
        ("Stage 1 before stage 2 ends above the order swapped", "readers", swapped),
        (scale, "readers", _scale(chosen)),
        ("Sensitivity to beta and to the reward's scale", "readers", _beta_and_scale(chosen)),
        ("Keeping hints beats withdrawing them over the run", "readers", kept),
        ("Variance over seeds", "readers", _spread(chosen)),
        ("Robustness to bad hints", "readers", _robustness(chosen)),
        ("Zero-shot generation of hints for a new domain", "readers", (writer, NOT_TESTED)),
        ("Manual work for a new domain", "readers", (manual, "measured once")),
        ("Comparison with vanilla RL out of distribution", "readers", gpu),
    ]
    return [Claim(text, source, *judged) for text, source, judged in rows]


def page(chosen: Chosen | None = None) -> str:
    """docs/claims.md as text."""
    rows = [f"| {c.text} | {c.source} | {c.evidence} | **{c.verdict}** |" for c in claims(chosen)]
    return PAGE + "\n".join(rows) + "\n"
