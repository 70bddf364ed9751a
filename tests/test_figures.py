import json

import matplotlib
import pandas as pd
import pytest
from matplotlib.container import BarContainer

matplotlib.use("Agg")
from envtune.common import files, paths  # noqa: E402
from envtune.study import figures, kit, paper


def drawn(ax):
    """The curves of an axes by legend name, which seaborn gives to an empty line of each colour."""
    lines = ax.get_lines()
    named = {line.get_color(): line.get_label() for line in lines if not len(line.get_xdata())}
    curves = {name: [] for name in named.values()}
    for line in lines:
        if len(line.get_xdata()) and line.get_color() in named:
            curves[named[line.get_color()]].append(list(line.get_ydata()))
    return curves


def heights(ax):
    """The heights of an axes' bars, a list per colour."""
    return [
        [bar.get_height() for bar in bars]
        for bars in ax.containers
        if isinstance(bars, BarContainer)
    ]


@pytest.fixture
def metrics(tmp_path):
    rows = []
    for stage in kit.STAGE_LABELS:
        rows.append(
            {
                "stage": stage,
                "step": 0,
                "kind": "validation",
                "accuracy": 0.25,
                "progress": 0.3,
                "episodes": 16,
            }
        )
        for step in (1, 2, 3):
            rows.append(
                {
                    "stage": stage,
                    "step": step,
                    "kind": "train",
                    "reward": 0.5,
                    "format_reward": 0.6,
                    "tool_call_reward": 0.7,
                    "progress": 0.1 * step,
                    "grad_norm": 0.2,
                    "steps_per_episode": 4.0,
                    "share_with_call": 0.9,
                    "episodes": 32,
                }
            )
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return files.load_metrics(tmp_path)


def test_steps_are_counted_over_all_stages(metrics):
    assert metrics[metrics["kind"] == "train"]["at"].tolist() == list(range(1, 13))
    assert metrics[metrics["kind"] == "validation"]["at"].tolist() == [0, 3, 6, 9]


def test_the_dynamics_figure_draws_the_saved_numbers_and_names_its_source(metrics, tmp_path):
    fig = figures.stage_dynamics(metrics, "tiny-agent, seed 0")
    rewards, validation = drawn(fig.axes[0]), drawn(fig.axes[1])
    assert rewards["progress"] == [pytest.approx([0.1, 0.2, 0.3] * 4)]
    assert rewards["episodes with a call"] == [[0.9] * 12]
    assert validation["validation accuracy"] == [[0.25]] * 4  # a piece for each stage
    assert fig.axes[2].get_ylabel() == "gradient norm"
    assert "tiny-agent, seed 0" in fig.texts[-1].get_text()
    png, pdf = files.save_figure(fig, tmp_path / "deep" / "dynamics")
    assert png.stat().st_size > 20_000 and pdf.read_bytes().startswith(b"%PDF")


def test_a_run_of_two_steps_has_whole_steps_on_its_axis(metrics):
    fig = figures.stage_dynamics(
        metrics[(metrics["stage"] == "stage1_syntax") & (metrics["step"] <= 2)], "made up"
    )
    assert all(tick == round(tick) for ax in fig.axes[2:4] for tick in ax.get_xticks())


def held_out(seeds=(0,)):
    """An `after_stages` table: accuracy rises by a tenth a policy, sampled is 5 points below
    greedy, seeds 1 point apart."""
    rows = [
        {
            "after": after,
            "way": way,
            "n": 100,
            "accuracy": 0.1 * (i + 1) - 0.05 * (way == "sampled") + 0.01 * seed,
            "seed": seed,
        }
        for seed in seeds
        for i, after in enumerate(("start", "stage1_syntax", "stage2_hints"))
        for way in ("greedy", "sampled")
    ]
    return pd.DataFrame(rows).assign(
        low=lambda t: t["accuracy"] - 0.02, high=lambda t: t["accuracy"] + 0.03
    )


def test_held_out_accuracy_is_drawn_with_its_intervals_or_its_seeds():
    one = figures.held_out_curves(held_out().drop(columns="seed"), "made up").axes[0]
    assert drawn(one) == {
        "greedy": [pytest.approx([0.1, 0.2, 0.3])],
        "sampled": [pytest.approx([0.05, 0.15, 0.25])],
    }
    whiskers = [bars.get_segments()[0][:, 1].tolist() for bars in one.collections]
    assert whiskers == [pytest.approx([0.08, 0.13]), pytest.approx([0.03, 0.08])]
    labels = [t.get_text().split("\n")[-1] for t in one.get_xticklabels()]
    assert labels == ["training", "1 syntax", "2 hints"]
    fig = figures.held_out_curves(held_out((0, 1, 2)), "made up, three seeds")
    [several] = fig.axes
    assert not several.collections
    *seeds, mean = drawn(several)["greedy"]  # a thin line a seed, and the mean
    assert len(seeds) == 3 and mean == pytest.approx([0.11, 0.21, 0.31])
    caption = fig.texts[-1].get_text()
    assert "100 synthetic tasks" in caption and "three seeds" in caption


def evaluated():
    """16 tasks, half of them valid in each split."""
    splits = [split for split in kit.SPLIT_LABELS for _ in range(4)]
    return pd.DataFrame({"split": splits, "valid": [True, False] * 8})


def test_our_bars_and_the_papers_have_panels_and_labels_of_their_own():
    fig = paper.method_bars({"before training": evaluated()}, "tiny-agent, seed 0")
    theirs, ours = fig.axes
    assert "own run (greedy)" in ours.get_title() and "paper" in theirs.get_title()
    assert "tiny-agent, seed 0" in fig.texts[-1].get_text()
    assert heights(ours) == [[0.5] * 4]
    table = pd.read_csv(paths.DATA / "paper" / "table1_bfcl_v3.csv")
    qwen = table[table["model"] == "Qwen2.5-7B-Instruct"]
    published = qwen[list(kit.SPLIT_LABELS)].to_numpy() / 100
    assert heights(theirs) == [pytest.approx(row) for row in published.tolist()]


def test_a_run_without_metrics_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="train the run first"):
        files.load_metrics(tmp_path)


def test_the_pictures_of_hints_show_their_numbers(tmp_path):
    from envtune.env import recovery
    from envtune.hints import coverage

    bars = figures.coverage_bars(coverage.coverage())
    widths = [bar.get_width() for bars_ in bars.axes[0].containers for bar in bars_]
    assert sum(widths) == len(coverage.error_sites())
    shown = {text.get_text() for text in bars.axes[0].get_legend().get_texts()}
    assert shown == {"vague, with a hint", "clear as it is"}  # the library leaves no error open
    rows = [
        ("multi_turn_base_3", "base", 0, 0, "cat", "e", category, hinted, "", True, recovered, True)
        for category, hinted, recovered in [("clear", False, True)] * 3
        + [("dependency_missing", True, True)] * 2
        + [("dependency_missing", True, False)]
    ]
    fig = figures.recovery_bars(
        pd.DataFrame(rows, columns=list(recovery.COLUMNS)), "made up, for a test"
    )
    assert heights(fig.axes[0]) == [[1.0], [pytest.approx(2 / 3)]]
    assert {t.get_text() for t in fig.axes[0].texts} == {"n=3"}
    for picture in (bars, fig):
        assert files.save_figure(picture, tmp_path / "p.v2")[0].stat().st_size > 10_000
    assert {file.name for file in tmp_path.iterdir()} == {"p.v2.png", "p.v2.pdf"}


def test_decisions_alarms_and_rollbacks_are_drawn_and_explained(metrics):
    events = pd.DataFrame(
        [
            {
                "stage": "stage2_hints",
                "step": 2,
                "kind": "decision",
                "move_on": False,
                "why": "not_plateaued: gain 0.1",
            },
            {
                "stage": "stage2_hints",
                "step": 3,
                "kind": "decision",
                "move_on": True,
                "why": "plateau_and_stable: gain 0.0",
            },
            {
                "stage": "stage3_hard_tasks",
                "step": 2,
                "kind": "alarm",
                "alarm": "kl_blowup",
                "why": "x",
            },
            {
                "stage": "stage3_hard_tasks",
                "step": 1,
                "kind": "rollback",
                "alarm": "kl_blowup",
                "why": "x",
            },
        ]
    ).assign(at=[5, 6, 8, 7])
    fig = figures.stage_dynamics(pd.concat([metrics, events]), "made up, for a test")
    accuracy, norm = fig.axes[1], fig.axes[2]
    assert [
        line.get_xdata()[0] for line in accuracy.get_lines() if line.get_marker() in ("|", "^")
    ] == [5, 6]
    assert [
        list(line.get_xdata())
        for ax in (accuracy, norm)
        for line in ax.get_lines()
        if line.get_marker() == "None" and len(set(line.get_xdata())) == 1
    ] == [[6, 6], [6, 6]]  # the stage that ended by its rule, in both panels
    assert [
        (line.get_marker(), line.get_xdata()[0])
        for line in norm.get_lines()
        if line.get_marker() in ("x", "<")
    ] == [("x", 8), ("<", 7)]
    assert all(
        part in fig.texts[-1].get_text()
        for part in ("stage ends", "alarm of the collapse guard", "rolled back")
    )
    assert "goes on" not in figures.stage_dynamics(metrics, "made up").texts[-1].get_text()


def test_a_method_has_one_colour_in_both_panels():
    methods = ("before training", "SFT", "direct GRPO", "ToolRL", "curriculum")
    fig = paper.method_bars(dict.fromkeys(methods, evaluated()), "made up")
    theirs, ours = (
        {
            text.get_text(): patch.get_facecolor()
            for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
        }
        for legend in (ax.get_legend() for ax in fig.axes)
    )
    assert ours["ToolRL"] == theirs["ToolRL"] and len(set(ours.values())) == 5
    assert ours["curriculum"] == theirs["Environment Tuning"]


def test_cases_without_a_fixed_colour_get_distinct_ones():
    colours = kit.colours(["four stages", "one", "direct GRPO", "other"])
    assert len(set(colours.values())) == 4 and colours["four stages"] == kit.BLUE
    assert len(set(kit.colours(range(10)).values())) == 10


@pytest.mark.parametrize(
    "steps, columns, words",
    [
        (
            1,
            ["the only step"],
            "One step was made, with a mean progress of 0.10: too few to tell a change.",
        ),
        (
            2,
            ["first step", "last step"],
            "Over 2 steps the mean progress changed by **+0.10** (from the first step to the last "
            "step).",
        ),
        (
            5,
            ["first 2 steps", "last 2 steps"],
            "Over 5 steps the mean progress changed by **+0.30** (from the first 2 steps to the "
            "last 2 steps).",
        ),
        (
            20,
            ["first 5 steps", "last 5 steps"],
            "Over 20 steps the mean progress changed by **+1.50** (from the first 5 steps to the "
            "last 5 steps).",
        ),
    ],
)
def test_first_and_last_steps_do_not_overlap(steps, columns, words):
    from envtune.study import experiments

    train = pd.DataFrame({"progress": [0.1 * (i + 1) for i in range(steps)]})
    assert list(experiments.ends(train, ["progress"])) == columns
    assert experiments.change(train, "progress") == words
