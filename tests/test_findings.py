"""docs/findings.md says what the committed runs say."""

import re

import pandas as pd
import pytest

from envtune.common import paths, stats
from envtune.study import ablations, claims, findings, mechanism
from envtune.study.source_runs import SourceRuns
from envtune.train import collapse

PAGE = (paths.ROOT / "docs" / "findings.md").read_text()
ROWS = dict(re.findall(r"\*\*(\d)\. (.*)\|$", PAGE, re.M))
HINTS = SourceRuns().augmentation


def committed(name):
    return ablations.load_sweep(name, run_first=False)


def difference(row, sweep, case, reference):
    """A difference is said in a row of the page as the committed runs give it."""
    found = ablations.difference(committed(sweep)[0], "case", case, reference)
    mean, interval = re.match(r"(\S+) points (\[.*?\])", ablations.points(found)).groups()
    mean = re.escape(mean.removeprefix("+"))  # "4.2 points above" needs no sign
    assert re.search(rf"{mean}(?: points)? {re.escape(interval)}", ROWS[row])


def by_seed(shares):
    """Mean over seeds with and without hints, and how the page writes their difference."""
    table = shares.unstack("case")
    mean, low, high = stats.of_few((table["with hints"] - table["without hints"]).tolist())
    text = f"{100 * mean:+.1f}(?: points)? \\[{100 * low:+.1f}, {100 * high:+.1f}"
    return table["with hints"].mean(), table["without hints"].mean(), text.replace("+", "\\+")


def test_every_finding_has_its_picture(tmp_path):
    drawn = findings.draw(tmp_path)
    shown = re.findall(r"figures/findings/(\w+)\.png", PAGE)
    assert shown == list(findings.FINDINGS) == list(drawn)
    assert all((paths.ROOT / "figures" / "findings" / f"{name}.png").exists() for name in shown)


@pytest.mark.parametrize("case", ["without hints", "linear", "cosine", "step"])
def test_hints_at_the_end(case):
    difference("2", HINTS, case, "with hints")
    table = ablations.pooled(committed(HINTS)[0], "case").set_index("value")["accuracy"]
    assert f"({table['without hints']:.0%} and {table['with hints']:.0%}" in ROWS["2"]


def test_hints_for_the_agent_that_makes_no_use_of_them():
    difference("2", f"{HINTS}_deaf", "without hints", "with hints")
    summary = committed(f"{HINTS}_deaf")[0]
    for case in ("linear", "cosine", "step"):
        found = ablations.difference(summary, "case", case, "with hints")
        assert -0.06 < found.low < found.high < 0.06


def test_what_errors_cost():
    counts = mechanism.of_sweep(HINTS, own_runs_first=False)
    last = counts.loc[counts["at"] > 24]
    rates = mechanism.rates(last, ["case", "seed"]).set_index(["seed", "case", "habit"])["share"]
    hinted, without, text = by_seed(rates.xs("skips", level="habit"))
    assert f"in {hinted:.0%} of turns against {without:.0%}" in ROWS["3"]
    assert re.search(text, ROWS["3"])
    deaf = mechanism.of_sweep(f"{HINTS}_deaf", own_runs_first=False)
    deaf = mechanism.rates(deaf.loc[deaf["at"] > 24], ["case", "seed"])
    deaf = deaf.set_index(["seed", "case", "habit"])["share"]
    hinted, without, _ = by_seed(deaf.xs("skips", level="habit"))
    assert f"changes nothing, {hinted:.0%} against {without:.0%})" in ROWS["3"]
    pooled = mechanism.rates(last, ["case"]).set_index(["case", "habit"])["share"]
    assert f"in {pooled['with hints', 'recovers_hinted']:.0%} of cases" in ROWS["3"]
    assert f"without hints in {pooled['without hints', 'recovers']:.0%}." in ROWS["3"]
    played = mechanism.evaluations(HINTS, own_runs_first=False)
    failing = (played["errors"] > 0).groupby([played["seed"], played["case"]]).mean()
    hinted, without, text = by_seed(failing)
    assert f"{hinted:.0%} of the tasks see a failed call, against {without:.0%}" in ROWS["3"]
    assert re.search(text, ROWS["3"])


def test_what_the_curves_say():
    _, curves = committed(HINTS)
    first = curves.query("kind == 'train' and step == 1").groupby("case")["progress"].mean()
    halfway = curves.query("kind == 'validation' and step == 16").groupby("case")["accuracy"].mean()
    for table, digits in ((first, ".2f"), (halfway, ".1%")):
        said = f"{table['with hints']:{digits}} against {table['without hints']:{digits}}"
        assert said in ROWS["3"]


def test_a_strong_kl_term():
    for case in ("beta 0.001", "beta 0.01", "beta 0.1"):
        difference("4", "kl_sweep", case, "beta 0")
    for scale in (1, 4):
        scaled = f"reward x{scale}"
        difference("4", "kl_sweep_scale", f"beta 0.1, {scaled}", f"beta 0, {scaled}")
    summary, curves = committed("kl_sweep")
    for case in ("beta 0.001", "beta 0.01"):
        found = ablations.difference(summary, "case", case, "beta 0")
        assert -0.06 < found.low < found.high < 0.06
    scaled = committed("kl_sweep_scale")[0]
    assert len(summary) + len(scaled) == 40 and not {*summary["alarms"], *scaled["alarms"]} - {0}
    assert "any of the 40 runs" in ROWS["4"]
    last = summary.pivot(index="seed", columns="case", values="last_entropy")
    larger = (last["beta 0.1"] > last["beta 0"]).sum()
    start = curves.query("kind == 'train' and step == 1")["entropy"].mean()
    mean = last.mean()
    said = f"from {start:.2f} to {mean['beta 0']:.3f} nats per token without one and to "
    assert f"{said}{mean['beta 0.1']:.3f} with" in ROWS["4"]
    assert f"(with it higher in {larger} of {len(last)} seeds: undecided)" in ROWS["4"]
    kl = scaled.pivot(index="seed", columns="case", values="last_kl")
    larger = (kl["beta 0.1, reward x4"] > kl["beta 0.1, reward x1"]).sum()
    assert f"came in {larger} of {len(kl)}: undecided" in ROWS["4"]


def test_what_the_size_of_the_reward_changes_for_a_strong_kl_term():
    summary = committed("kl_sweep_scale")[0]
    valid = {
        case: ablations.by_task(runs).groupby(["scenario", "seed"])["valid"].mean()
        for case, runs in summary.groupby("case")
    }
    one, four = (valid[f"beta 0.1, reward x{n}"] - valid[f"beta 0, reward x{n}"] for n in (1, 4))
    change = (four - one).reset_index()
    found = stats.crossed(*(list(change[name]) for name in ("valid", "scenario", "seed")))
    mean, low, high = (f"{100 * value:+.1f}" for value in found[:3])
    assert f"differ by {mean} [{low}, {high}], not corrected" in ROWS["4"]


@pytest.mark.parametrize(
    "requests, words", [(3, "; {} of three)"), (4, "leaves {} of the groups without any signal")]
)
def test_signal_and_reward(requests, words):
    sweep = f"ablation_reward_{requests}"
    difference("5", sweep, "progress", "binary")
    _, curves = committed(sweep)
    early = curves.query("kind == 'train' and step <= 8").groupby("case")
    share = early["share_of_groups_without_signal"].mean()
    assert words.format(f"{share['binary']:.0%}") in ROWS["5"]
    assert f"{share['progress']:.0%}" == "1%" and "progress reward 1%" in ROWS["5"]


CURRICULUM = SourceRuns().curriculum


def test_the_four_stages_against_other_orders():
    summary = committed(CURRICULUM)[0]
    table = ablations.pooled(summary, "case").set_index("value")["accuracy"]
    assert f"they end at {table['four stages']:.0%} and direct GRPO" in ROWS["1"]
    assert f"at {table['direct GRPO']:.0%}: " in ROWS["1"]
    for case in ("direct GRPO", "direct GRPO, 3 times"):
        difference("1", CURRICULUM, "four stages", case)
    long = ablations.difference(summary, "case", "four stages", "direct GRPO, 3 times")
    assert f"p = {long.p_value:.3f};" in ROWS["1"]
    cases = set(summary["case"]) - {"four stages"}
    found = {c: ablations.difference(summary, "case", "four stages", c) for c in cases}
    left_out = [100 * found[f"without stage {i}"].mean for i in range(1, 5)]
    assert f"(+{min(left_out):.1f} to +{max(left_out):.1f})" in ROWS["1"]
    swapped, toolrl = (100 * found[case].mean for case in ("1 and 2 swapped", "ToolRL"))
    assert f"first two ({swapped:+.1f}) and ToolRL's reward ({toolrl:+.1f})" in ROWS["1"]
    unseen = [100 * found[c].detectable for c in cases if not c.startswith("direct")]
    assert f"below {min(unseen):.0f} to {max(unseen):.0f} points" in ROWS["1"]
    curves = committed(CURRICULUM)[1]
    runs = curves.loc[curves["case"] == "direct GRPO, 3 times"].groupby("run")
    rows = [[row.dropna().to_dict() for _, row in run.iterrows()] for _, run in runs]
    told = [collapse.seen(run, collapse.Guard()) for run in rows]
    assert len(told) == sum("entropy_collapse" in kinds for kinds in told) == 5
    ends = summary.loc[summary["case"] == "direct GRPO, 3 times", "last_entropy"]
    assert f"in all 5 ({ends.min():.3f} to {ends.max():.3f} nats" in ROWS["1"]
    row = next(c for c in claims.claims() if c.text.startswith("One stage alone collapses"))
    assert "1 of 5 runs" in row.evidence and "accuracy came in 1 of 5 runs" in ROWS["1"]


def test_asking():
    summary = committed(CURRICULUM)[0]
    pair = ("four stages", "direct GRPO, 3 times")
    for part in ("asking", "doing"):
        found = ablations.difference(summary, "case", *pair, part)
        mean, low, high = (f"{100 * value:+.1f}" for value in found[:3])
        assert f"{mean} [{low}, {high}]" in ROWS["1"]
    counts = mechanism.of_sweep(CURRICULUM, own_runs_first=False).query("24 < at <= 32")
    asked = mechanism.rates(counts, ["case"]).set_index(["case", "habit"])["share"]
    said = f"ask in {asked['four stages', 'asks']:.0%} of the occasions and direct GRPO in "
    assert f"{said}{asked['direct GRPO', 'asks']:.0%}" in ROWS["1"]


@pytest.mark.parametrize("way", ["greedy", "sampled"])
def test_the_four_stages(way):
    table = pd.read_csv(paths.DATA / "reference_runs" / "learning_check.csv").query("way == @way")
    mean = table.groupby("after", sort=False)["accuracy"].mean()
    assert f"from {mean['start']:.1%} to {mean['stage4_alignment']:.1%}" in ROWS["1"]
    if way == "greedy":
        ends = table.query("after == 'stage4_alignment'")["accuracy"]
        assert f"({ends.min():.0%} to {ends.max():.0%})".replace("% to", " to") in ROWS["1"]


def test_a_finding_whose_runs_are_not_all_there_is_not_drawn(monkeypatch):
    load = ablations.load_sweep

    def without_beta_0(name, run_first=True):
        return tuple(table.loc[table["case"] != "beta 0"] for table in load(name, run_first))

    monkeypatch.setattr(ablations, "load_sweep", without_beta_0)
    assert findings.strong_kl(SourceRuns()) is None


def test_without_committed_runs_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DATA", tmp_path)
    assert findings.draw(tmp_path / "drawn") == {}
