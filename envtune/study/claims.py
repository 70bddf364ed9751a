"""docs/claims.md: the paper's claims and its readers' questions, with the evidence from our runs.

    $ python -m envtune claims --write

Verdicts are computed from committed runs. *Supported*: the 95% intervals of two pooled accuracies
do not overlap and neither do their seeds, in the claimed direction; *contradicted*: the same in the
opposite direction; *not supported*: neither; *not tested*: there is no run. The runs are of the
embedded agent, a million parameters on synthetic tasks, and say nothing about large models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from envtune.bfcl.synthetic import TEST
from envtune.common import paths
from envtune.common.stats import sign_test
from envtune.study import ablations
from envtune.study.paper import SourceRuns, finished_sweep

FILE = paths.ROOT / "docs" / "claims.md"
REFERENCE = paths.DATA / "reference_runs"
NOT_TESTED = "not tested"
Finding = tuple[str, str]  # (evidence, verdict)


@dataclass(frozen=True)
class Claim:
    """A row of the table."""

    text: str
    source: str
    evidence: str
    verdict: str


def _no_runs(name: str) -> Finding:
    return f"no runs (sweep `{name}`)", NOT_TESTED


def _accuracy_text(row) -> str:
    """A row of `ablations.pooled` as text."""
    return (
        f"{row['accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}] (n = {row['n']:.0f}; "
        f"{row['seeds']:.0f} seeds from {row['least']:.2f} to {row['most']:.2f})"
    )


def _pooled(
    name: str, cases: Sequence[str], runs: SourceRuns
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """(summary, pooled accuracies by case) of a sweep that has all these cases, else None."""
    found = finished_sweep(name, runs)
    if not found:
        return None
    summary, _ = found
    table = ablations.pooled(summary, "case").set_index("value")
    return (summary, table) if set(cases) <= set(table.index) else None


def compare(name: str, better: str, worse: str, figure: str, runs: SourceRuns) -> Finding:
    """Whether one case of a sweep ends above another in accuracy."""
    found = _pooled(name, [better, worse], runs)
    if not found:
        return _no_runs(name)
    summary, table = found
    one, other = table.loc[better], table.loc[worse]
    if ablations.clearly_above(one, other):
        verdict = "supported"
    elif ablations.clearly_above(other, one):
        verdict = "contradicted"
    elif one["accuracy"] < other["accuracy"]:
        verdict = "not supported, the means lie the other way"
    else:
        verdict = "not supported"
    by_seed = (f"{gain:+.2f}" for gain in ablations.paired(summary, "case", better, worse))
    over_tasks = ""
    if found := ablations.difference(summary, "case", better, worse):
        seen = "" if found.detectable is None else f", {found.detectable:.2f} would be seen"
        over_tasks = (
            f"paired {found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}], p = "
            f"{found.p_value:.3f}{seen}; "
        )
    return (
        f"{better} {_accuracy_text(one)}, {worse} {_accuracy_text(other)}; "
        f"differences by seed {', '.join(by_seed)}; {over_tasks}{figure}"
    ), verdict


def above_all(name: str, better: str, rest: list[str], figure: str, runs: SourceRuns) -> Finding:
    """Whether one case ends above each of the others; supported when it is above all of them."""
    found = _pooled(name, [better, *rest], runs) if rest else None
    if not found:
        return _no_runs(name)
    one, others = found[1].loc[better], [found[1].loc[value] for value in rest]
    below = sum(ablations.clearly_above(one, other) for other in others)
    above = sum(ablations.clearly_above(other, one) for other in others)
    if below == len(rest):
        verdict = "supported"
    elif above:
        verdict = f"contradicted by {above} of {len(rest)}"
    else:
        verdict = f"supported against {below} of {len(rest)}" if below else "not supported"
    texts = (f"{value} {_accuracy_text(row)}" for value, row in zip(rest, others, strict=True))
    return f"{better} {_accuracy_text(one)}; {', '.join(texts)}; {figure}", verdict


def _collapse(runs: SourceRuns) -> Finding:
    found = finished_sweep(runs.curriculum, runs, ["direct GRPO"])
    if not found:
        return f"no direct GRPO (sweep `{runs.curriculum}`)", NOT_TESTED
    direct = found[0]
    exploded = len(direct.loc[direct["explosions"] > 0])
    return (
        f"{exploded} of {len(direct)} runs of {direct['steps'].max():.0f} steps gave the guard's "
        "alarm of an exploding gradient with falling accuracy; largest norm "
        f"{direct['largest_grad_norm'].max():.2f}; figure 6"
    ), "supported" if exploded > len(direct) / 2 else "not supported"


def _entropy(runs: SourceRuns) -> Finding:
    found = finished_sweep(runs.kl, runs)
    if not found:
        return _no_runs(runs.kl)
    ends = found[0].groupby("beta")["last_entropy"].agg(["min", "mean", "max"])
    none, strong = ends.loc[ends.index.min()], ends.loc[ends.index.max()]
    by_beta = "; ".join(
        f"beta {beta:g}: {row['mean']:.3f} ({row['min']:.3f} to {row['max']:.3f})"
        for beta, row in ends.iterrows()
    )
    evidence = "entropy of the last five steps, nats per token, mean and range of seeds"
    verdict = "supported" if none["max"] < strong["min"] else "not supported"
    return f"{evidence}: {by_beta}; figure 7", verdict


def _beta_and_scale(runs: SourceRuns) -> Finding:
    found = finished_sweep(f"{runs.kl}_scale", runs)
    if not found:
        return _no_runs(f"{runs.kl}_scale")
    summary = found[0]
    strong, none = summary["beta"].max(), summary["beta"].min()
    settings = [group for _, group in summary.groupby("reward_scale")]
    if plain := finished_sweep(runs.kl, runs):
        settings.append(plain[0])
    pairs = [gain for part in settings for gain in ablations.paired(part, "beta", strong, none)]
    above, below, p = sign_test(pairs)
    table = ablations.pooled(summary, "case")
    rows = table.to_dict("records")
    by_case = "; ".join(f"{row['value']} {_accuracy_text(row)}" for row in rows)
    return f"{by_case}; figures/ablations/kl_sweep_scale.png", (
        f"beta {strong:g} ends above {none:g} in {above} of {len(pairs)} pairs of one seed and "
        f"setting, below in {below} (sign test, p = {p:.3f})"
    )


def _learns() -> Finding:
    """Whether the four stages raise held-out accuracy in every seed, greedy and sampled."""
    if not (REFERENCE / "learning_check.csv").exists():
        return "no runs (`make bench`)", NOT_TESTED
    table = pd.read_csv(REFERENCE / "learning_check.csv")
    texts, rises = [], []
    for way, part in table.groupby("way", sort=False):
        accuracy = part.groupby("seed")["accuracy"].agg(["first", "last"])
        start, end = accuracy["first"], accuracy["last"]
        rise = (end - start).tolist()
        rises += rise
        by_seed = ", ".join(f"{r:+.2f}" for r in rise)
        texts.append(f"{way} {start.mean():.1%} to {end.mean():.1%} (rise by seed {by_seed})")
    evidence = (
        f"accuracy on the {table['n'].iloc[0]} synthetic test tasks (numbers {TEST[0]}-{TEST[-1]}; "
        "the agent's card has it on others), before and after the four stages: "
        f"{'; '.join(texts)}; figures/learning"
    )
    if len(set(table["seed"])) < 3:
        return evidence, "too few seeds to say"
    if max(rises) < 0:
        return evidence, "contradicted"
    return evidence, "supported" if min(rises) > 0 else "not supported"


def _stage1() -> Finding:
    columns, ends = ["format_reward", "tool_call_reward"], []
    for file in sorted(REFERENCE.glob("cpu_tiny_seed*.parquet")):
        data = pd.read_parquet(file)
        train = data.loc[(data["stage"] == "stage1_syntax") & (data["kind"] == "train")]
        ends.append([part[columns].mean() for part in (train.head(3), train.tail(3))])
    if not ends:
        return "no runs (`make bench`)", NOT_TESTED
    first, last = (pd.DataFrame(part) for part in zip(*ends, strict=True))
    changes = ", ".join(
        f"{column.replace('_', ' ')} {first[column].mean():.2f} to {last[column].mean():.2f}"
        for column in columns
    )
    evidence = (
        f"{changes} (means of the first and last three steps over {len(ends)} seeds); figure 5a"
    )
    if len(ends) < 3:
        return evidence, "too few seeds to say"
    rose = (last.to_numpy() > first.to_numpy()).all()
    return evidence, "supported in every seed" if rose else "not supported in every seed"


def _spread(runs: SourceRuns) -> Finding:
    ranges = []
    if (REFERENCE / "learning_check.csv").exists():
        ends = pd.read_csv(REFERENCE / "learning_check.csv").groupby(["way", "seed"])["accuracy"]
        for way, last in ends.last().groupby(level="way"):
            ranges.append(f"the four stages, {way}, {last.max() - last.min():.2f}")
    for name in (*runs.ablations, runs.baselines):
        if found := finished_sweep(name, runs):
            accuracy = found[0].groupby("case")["accuracy"].agg(["min", "max"])
            ranges.append(f"{name} {(accuracy['max'] - accuracy['min']).max():.2f}")
    if not ranges:
        return "no runs", NOT_TESTED
    evidence = "largest range of accuracy between seeds of one setting: "
    return evidence + ", ".join(ranges), "measured"


def _robustness(runs: SourceRuns) -> Finding:
    name, figure = runs.robustness, "figures/ablations/hint_robustness.png"
    found = finished_sweep(name, runs)
    cases = list(dict.fromkeys(found[0]["case"])) if found else []
    corrupted = [case for case in cases if case != "as they are"]
    evidence, verdict = above_all(name, "as they are", corrupted, figure, runs)
    texts = {
        "supported": "not robust: every corruption costs accuracy",
        "not supported": "no loss shown",
    }
    return evidence, texts.get(verdict, verdict.replace("supported against", "not robust against"))


def _scale(runs: SourceRuns) -> Finding:
    """Whether x4 ends above or below x1, although the scale cancels in normalised rewards."""
    figure = "figures/ablations/ablation_reward.png"
    evidence, verdict = compare(runs.reward, "progress x4", "progress", figure, runs)
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
*Not tested*: no run of this kind was made. *Supported*: the 95% intervals of the pooled accuracies
do not overlap and neither do the seeds, in the claimed direction; *contradicted*: the same in the
opposite direction. *Not supported*: neither; samples this small cannot refute the claim. Intervals
are a bootstrap over scenarios crossed with seeds ([evaluation.md](evaluation.md)); for runs without
results by scenario they hold both the exact interval of all their tasks and the range of the seeds.
Three seeds say little of the spread between seeds, so intervals are too narrow by themselves.
Differences by seed are between runs that start from the same policy and see the tasks in the same
order; a sign test over settings treats pairs that share seeds as independent, so its p is somewhat
too small.

| claim or question | from | evidence here | verdict at this scale |
|---|---|---|---|
"""


def claims(runs: SourceRuns | None = None) -> list[Claim]:
    """The table's rows, computed from the committed runs."""
    runs = runs or SourceRuns()
    gpu = ("needs a large model on a GPU", NOT_TESTED)
    order, four = runs.curriculum, "four stages"
    orders = "figures/ablations/ablation_curriculum.png"
    hints, hinted = runs.augmentation, "with hints"
    hint_rates = "figures/ablations/ablation_augmentation.png"
    left_out = [f"without stage {number}" for number in range(1, 5)]
    direct = compare(order, four, "direct GRPO", "table 3", runs)
    needed = above_all(order, four, left_out, orders, runs)
    swapped = compare(order, four, "1 and 2 swapped", orders, runs)
    augmented = compare(hints, hinted, "without hints", "figure 4a", runs)
    kept = above_all(hints, hinted, ["linear", "cosine", "step"], hint_rates, runs)
    progress = compare(runs.reward, "progress", "binary", "figure 4b", runs)
    rule = (
        "envtune/train/transition.py, tests/test_transition.py; a resumed run decides as an "
        "uninterrupted one (tests/test_nothing_lost.py)"
    )
    writer = "needs a model that can write them; the machinery is in docs/hints.md"
    manual = "lines and minutes of one worked example: docs/new_domain.md"
    near = "400 problems without demonstrations bring a 7B model close to far larger ones"
    scale = "The reward's scale cancels out when rewards are normalised"
    rows = [
        ("The four stages end above direct GRPO", "Table 3", direct),
        ("Each of the four stages is needed", "Table 3", needed),
        ("One stage alone collapses, with an exploding gradient", "Fig. 6", _collapse(runs)),
        ("Training with hints ends above training without", "Fig. 4a", augmented),
        ("The progress reward ends above the binary one", "Fig. 4b", progress),
        ("Without a strong KL term, entropy collapses", "Fig. 7", _entropy(runs)),
        (
            "The four stages raise accuracy on tasks that training never saw",
            "Table 1",
            _learns(),
        ),
        ("Stage 1 teaches the format and calls that run", "Fig. 5a", _stage1()),
        (near, "Table 1", gpu),
        ("What is learned carries over to other benchmarks", "Table 2", gpu),
        ("An exact, reproducible transition rule", "readers", (rule, "given")),
        ("Stage 1 before stage 2 ends above the order swapped", "readers", swapped),
        (scale, "readers", _scale(runs)),
        ("Sensitivity to beta and to the reward's scale", "readers", _beta_and_scale(runs)),
        ("Keeping hints beats withdrawing them over the run", "readers", kept),
        ("Variance over seeds", "readers", _spread(runs)),
        ("Robustness to bad hints", "readers", _robustness(runs)),
        ("Zero-shot generation of hints for a new domain", "readers", (writer, NOT_TESTED)),
        ("Manual work for a new domain", "readers", (manual, "measured once")),
        ("Comparison with vanilla RL out of distribution", "readers", gpu),
    ]
    return [Claim(text, source, *judged) for text, source, judged in rows]


def page(runs: SourceRuns | None = None) -> str:
    """docs/claims.md as text."""
    rows = [f"| {c.text} | {c.source} | {c.evidence} | **{c.verdict}** |" for c in claims(runs)]
    return PAGE + "\n".join(rows) + "\n"
