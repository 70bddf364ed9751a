"""docs/claims.md: the paper's claims and its readers' questions, with the evidence from our runs.

    $ python -m envtune claims --write

docs/study.md fixed before the runs which cases are compared and what counts as supported; a verdict
here is computed from committed runs by that rule. The runs are of the embedded agent, a million
parameters on synthetic tasks, and say nothing about large models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from envtune.bfcl.synthetic import TEST
from envtune.common import paths, stats
from envtune.study import ablations
from envtune.study.source_runs import SourceRuns, finished_sweep
from envtune.train import collapse

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
    others: str = ""  # published evidence that is not the paper's


def _no_runs(name: str) -> Finding:
    return f"no runs (sweep `{name}`)", NOT_TESTED


def _sweep(name: str, cases: Sequence[str], runs: SourceRuns) -> pd.DataFrame | None:
    """The finished runs of these cases, None unless each has one. "a:b" is case b of the sweep a,
    compared with a case of the sweep `name`."""
    parts = []
    for case in cases:
        other, _, own = case.rpartition(":")
        if not (found := finished_sweep(other or name, runs, [own])):
            return None
        parts.append(found[0].assign(case=case))
    return pd.concat(parts, ignore_index=True)


def _accuracies(summary: pd.DataFrame) -> str:
    """Every case with its accuracy, interval and number of seeds."""
    rows = ablations.pooled(summary, "case").to_dict("records")
    return "; ".join(
        f"{row['value'].rpartition(':')[2]} {100 * row['accuracy']:.1f}% "
        f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        for row in rows
    )


def _counts(summary: pd.DataFrame) -> str:
    return f"{summary['seed'].nunique()} seeds, {int(summary['n'].iloc[0])} tasks each"


def compare(
    name: str, better: str, worse: Sequence[str], runs: SourceRuns, figure: str = ""
) -> Finding:
    """Whether one case of a sweep ends above another, or above each of several.

    Several comparisons are corrected by Holm's method; supported when all are.
    """
    summary = _sweep(name, [better, *worse], runs)
    if summary is None:
        elsewhere = (sweep for case in worse for sweep, colon, _ in [case.partition(":")] if colon)
        return _no_runs(next(elsewhere, name))
    table = ablations.against(summary, "case", better)
    if len(table) < len(worse):
        return f"{name}: its cases share no seed", NOT_TESTED
    texts, verdicts = [], []
    for case in worse:
        other, p = table[case]
        found = other.turned()
        verdict, shown = ablations.verdict(found), ablations.points(found)
        if len(worse) > 1:
            shown += f", {p:.3f} after Holm"
            verdict = verdict if p < 0.05 else "undecided"
        if verdict == "undecided" and max(-found.low, found.high) < ablations.LEAST:
            shown += ", within 6 points"
        texts.append(f"over {case.rpartition(':')[2]}: {shown}")
        verdicts.append(verdict)
    counts = {v: verdicts.count(v) for v in ("supported", "contradicted", "undecided")}
    verdict = verdicts[0]
    if len(set(verdicts)) > 1:
        parts = [f"{count} {v}" for v, count in counts.items() if count]
        verdict = f"{', '.join(parts)} of {len(worse)}"
    evidence = f"{_accuracies(summary)}; {better} {'; '.join(texts)} ({_counts(summary)})"
    return f"{evidence}{figure and f'; {figure}'}", verdict


def _points(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _measures(runs: SourceRuns) -> list[str]:
    """The other measures of docs/study.md, a table row per two cases that a claim compares."""
    rows = []
    for _, _, name, better, worse, _ in _compared(runs):
        if (summary := _sweep(name, [better, *worse], runs)) is None:
            continue
        areas = summary.reindex(columns=["seed", "case", "validation_area"])
        areas = areas.pivot(index="seed", columns="case", values="validation_area")
        for case in worse:
            found = [
                ablations.difference(summary, "case", better, case, p) for p in ablations.PARTS
            ]
            gains = (areas[better] - areas[case]).dropna()
            cells = [_points(*made[:3]) if made else "no seed in common" for made in found]
            cells.append(_points(*stats.of_few(list(gains))) if len(gains) > 1 else "not measured")
            cases = " over ".join(c.rpartition(":")[2] for c in (better, case))
            rows.append(f"| {name} | {cases} | {' | '.join(cells)} |")
    return rows


def _explodes(curve: pd.DataFrame) -> bool:
    """Whether the guard sees an exploding gradient anywhere in a run of one stage. From its
    metrics: the runs of the study were made when an alarm that a validation brought was not
    written down."""
    rows = [row.dropna().to_dict() for _, row in curve.iterrows()]
    return "gradient_explosion" in collapse.seen(rows, collapse.Guard())


def _collapse(runs: SourceRuns) -> Finding:
    case = "direct GRPO, 3 times"
    found = finished_sweep(runs.curriculum, runs, [case])
    if not found:
        return f"no {case} (sweep `{runs.curriculum}`)", NOT_TESTED
    direct, curves = found
    exploded = sum(_explodes(curves.loc[curves["run"] == run]) for run in direct["run"])
    fell = (direct["best_validation"] - direct["last_validation"]).max()
    return (
        f"{exploded} of {len(direct)} runs of {direct['steps'].max():.0f} steps gave the guard's "
        "alarm of an exploding gradient with falling accuracy; largest norm "
        f"{direct['largest_grad_norm'].max():.2f}, largest fall from the best validation "
        f"{100 * fell:.0f} points; figure 6"
    ), "supported" if exploded > len(direct) / 2 else "contradicted"


def _larger_in_every_seed(
    name: str, column: str, more: str, less: str, words: str, runs: SourceRuns
) -> Finding:
    """Whether the last value of a metric is larger in one case than in another, seed by seed."""
    if not (found := finished_sweep(name, runs)) or not {more, less} <= set(found[0]["case"]):
        return _no_runs(name)
    ends = found[0].pivot_table(index="seed", columns="case", values=column, sort=False)
    pairs = ends[[more, less]].dropna()
    above = (pairs[more] > pairs[less]).tolist().count(True)
    means = "; ".join(
        f"{case} {part.mean():.3f} ({part.min():.3f} to {part.max():.3f})"
        for case, part in ends.items()
    )
    evidence = f"{words}, mean and range of {len(ends)} seeds: {means}"
    if above in (0, len(pairs)):
        return evidence, "supported" if above else "contradicted"
    return f"{evidence}; larger in {above} of {len(pairs)} seeds", "undecided"


def _enough(runs: SourceRuns) -> Finding:
    """Whether 1,600 training tasks are less than 6 points above 400."""
    four = f"{runs.curriculum}:four stages"
    summary = _sweep(runs.training_tasks, ["1,600 tasks", four], runs)
    found = None
    if summary is not None:
        found = ablations.difference(summary, "case", "1,600 tasks", four)
    if summary is None or found is None:
        return _no_runs(runs.training_tasks)
    verdict = "supported" if found.high < ablations.LEAST else "undecided"
    if found.low > ablations.LEAST:
        verdict = "contradicted"
    text = (
        f"1,600 over 400 tasks: {ablations.points(found)} ({_counts(summary)}); a run draws about "
        "160 and 130 distinct ones of them (study.md)"
    )
    return f"{_accuracies(summary)}; {text}", verdict


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
    return evidence, "supported" if min(rises) > 0 else "undecided"


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


PAGE = """\
# Claims and evidence

Generated by `python -m envtune claims --write` from the committed runs (data/reference_runs); do
not edit by hand.

Our runs are of the embedded `tiny-agent` (docs/agent.md): a million parameters that use BFCL's
tools on synthetic tasks. **A verdict here is about that scale, not about large models.** The
comparisons of [study.md](study.md) and the rule were written down before their runs. *Supported*:
the 95% interval of the paired difference lies above 0, for new tasks and new seeds; *contradicted*:
below 0; *undecided*: the interval contains 0; *not tested*: there is no run. Two rows are older and
not of that design: *the four stages raise accuracy* and *stage 1 teaches the format*; there
*supported* means a rise in every seed. "Would be seen": the least true difference that so many
seeds show with 80% power. Accuracy is greedy on held-out tasks without hints. A claim "from
readers" is a question that readers of the paper asked, not a claim of the paper; others' numbers
are explained in [evaluation.md](evaluation.md#what-can-be-compared). `make ablations` makes the
runs, `python -m envtune claims --write` this page.

| claim or question | from | evidence here | verdict at this scale | published by others |
|---|---|---|---|---|
"""
MEASURES = """
## The other measures

Differences in points, paired by seed, with 95% intervals; no verdict rests on them. *Doing*: the
300 base, long-context and missing-function test tasks; those with a missing function also have a
turn in which asking is right. *Asking*: the 100 with a missing parameter. *Area*: validation
accuracy (sampled), mean over the steps of a run.

| sweep | cases | all | doing | asking | area |
|---|---|---|---|---|---|"""
RODS = (
    "RODS (arXiv 2606.19047, Qwen3-4B): GRPO on fixed data 50.0, Environment Tuning 50.5; its "
    "standard error is about 3.5 points"
)
T3RL = "T3RL (Qwen3-4B-Instruct-2507) reports a good signal without hints; not checked here"


def _compared(runs: SourceRuns) -> list[tuple[str, str, str, str, Sequence[str], str]]:
    """Text, source, sweep, the better case, the others, and what others published: the rows whose
    verdict rests on the accuracy of two or more cases."""
    order, hints, tasks = runs.curriculum, runs.augmentation, runs.training_tasks
    deaf, four, kept = f"{hints}_deaf", "four stages", "with hints"
    three, four_requests = runs.reward, runs.reward_long
    schedules = ["linear", "cosine", "step"]
    left_out = [f"without stage {number}" for number in range(1, 5)]
    bad = ["shuffled 1", "over_specific 1", "contradictory 1", "vague 1", "no_judge 1"]
    return [
        ("The four stages end above direct GRPO", "Table 3", order, four, ["direct GRPO"], RODS),
        (
            "... also when it trains on three times as many episodes",
            "Fig. 6",
            order,
            four,
            ["direct GRPO, 3 times"],
            "",
        ),
        ("Each of the four stages is needed", "Table 3", order, four, left_out, ""),
        ("Stage 1 before stage 2 ends above the order swapped", "readers", order, four,
         ["1 and 2 swapped"], ""),
        ("The four stages end above ToolRL's reward in one stage", "Table 1", order, four,
         ["ToolRL"], ""),
        ("The four stages end above SFT on ground truth", "Table 1", order, four,
         [f"{runs.baselines}:SFT"], ""),
        ("Training with hints ends above training without", "Fig. 4a", hints, kept,
         ["without hints"], f"{RODS}; {T3RL}"),
        ("... also for an agent that makes no use of a hint", "readers", deaf, kept,
         ["without hints"], ""),
        ("Keeping hints beats withdrawing them over the run", "readers", hints, kept, schedules,
         ""),
        ("... also for an agent that makes no use of a hint (withdrawing)", "readers", deaf, kept,
         schedules, ""),
        ("The progress reward ends above the binary one, on tasks of three requests", "Fig. 4b",
         three, "progress", ["binary"], ""),
        ("... on tasks of four requests", "Fig. 4b", four_requests, "progress", ["binary"], ""),
        ("A strong KL term raises accuracy", "Fig. 7", runs.kl, "beta 0.1", ["beta 0"], ""),
        ("Bad hints do harm", "readers", runs.robustness, "as they are", bad, ""),
        ("400 training tasks end above 100", "readers", tasks, f"{order}:four stages",
         ["100 tasks"], ""),
    ]  # fmt: skip


def claims(runs: SourceRuns | None = None) -> list[Claim]:
    """The table's rows, computed from the committed runs."""
    runs = runs or SourceRuns()
    gpu = ("needs a large model on a GPU", NOT_TESTED)
    entropy = _larger_in_every_seed(
        runs.kl,
        "last_entropy",
        "beta 0.1",
        "beta 0",
        "entropy of the last five steps, nats per token",
        runs,
    )
    pull = _larger_in_every_seed(
        f"{runs.kl}_scale",
        "last_kl",
        "beta 0.1, reward x4",
        "beta 0.1, reward x1",
        "KL to the stage's start over the last five steps, nats per token",
        runs,
    )
    rule = (
        "envtune/train/transition.py, tests/test_transition.py; a resumed run decides as an "
        "uninterrupted one (tests/test_nothing_lost.py)"
    )
    scale = "advantages of rewards times 4 are the same numbers (tests/test_grpo.py)"
    one_turn = "with one turn both say whether it was won (tests/test_rewards.py)"
    equal = (one_turn, "equal by definition")
    writer = "needs a model that can write them; the machinery is in docs/hints.md"
    manual = "lines and minutes of one worked example: docs/new_domain.md"
    near = "400 problems without demonstrations bring a 7B model close to far larger ones"
    learns = "The four stages raise accuracy on tasks that training never saw"
    rows = [
        (learns, "Table 1", _learns()),
        ("Stage 1 teaches the format and calls that run", "Fig. 5a", _stage1()),
        ("One stage alone collapses, with an exploding gradient", "Fig. 6", _collapse(runs)),
        ("Without a strong KL term, entropy collapses", "Fig. 7", entropy),
        ("A larger reward weakens the same beta", "readers", pull),
        ("1,600 training tasks are less than 6 points better than 400", "readers", _enough(runs)),
        (near, "Table 1", gpu),
        ("What is learned carries over to other benchmarks", "Table 2", gpu),
        ("An exact, reproducible transition rule", "readers", (rule, "given")),
        (
            "The reward's scale cancels out when rewards are normalised",
            "readers",
            (scale, "given"),
        ),
        ("The progress reward beats the binary one on tasks of one request", "Fig. 4b", equal),
        ("Variance over seeds", "readers", _spread(runs)),
        ("Zero-shot generation of hints for a new domain", "readers", (writer, NOT_TESTED)),
        ("Manual work for a new domain", "readers", (manual, "measured once")),
        ("Comparison with vanilla RL out of distribution", "readers", gpu),
    ]
    compared = [
        Claim(
            text, source, *compare(name, better, worse, runs, f"figures/ablations/{name}.png"), by
        )
        for text, source, name, better, worse, by in _compared(runs)
    ]
    return [*compared, *(Claim(text, source, *judged) for text, source, judged in rows)]


def page(runs: SourceRuns | None = None) -> str:
    """docs/claims.md as text."""
    runs = runs or SourceRuns()
    rows = [
        f"| {c.text} | {c.source} | {c.evidence} | **{c.verdict}** | {c.others} |"
        for c in claims(runs)
    ]
    measures = _measures(runs) or ["| | no runs yet | | | | |"]
    return "\n".join([PAGE.strip(), *rows, MEASURES, *measures, ""])
