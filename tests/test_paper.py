"""Tables and figures are drawn from the files they name; verdicts follow from the numbers."""

import math

import matplotlib

matplotlib.use("Agg")
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
from matplotlib.image import imread  # noqa: E402

from envtune.__main__ import main  # noqa: E402
from envtune.common import paths  # noqa: E402
from envtune.study import ablations, claims, experiments, kit, paper, paper_tables
from envtune.train import stages

SPLITS = ("base", "miss_func", "miss_param", "long_context")
ACCURACIES = [f"accuracy_{split}" for split in SPLITS]


def of_scenarios(right, each=2):
    """Results of 50 scenarios of so many tasks each, so many of all tasks valid."""
    counts = [sum(i + 50 * task < right for task in range(each)) for i in range(50)]
    return " ".join(f"s{i}={count}/{each}" for i, count in enumerate(counts))


def made_up(accuracy, **more):
    """(summary, curves) of a sweep with three seeds; `accuracy` by case."""
    summary, curves, axis = [], [], "case"
    for value in accuracy:
        for seed in range(3):
            right = accuracy[value] + 0.02 * (seed - 1)
            summary.append(
                {
                    "run": f"s.{value}-{seed}",
                    axis: value,
                    "seed": seed,
                    "state": "done",
                    "n": 100,
                    "accuracy": right,
                    "scenarios": of_scenarios(round(100 * right)),
                    "scenarios_miss_param": of_scenarios(round(50 * right), 1),
                    "validation_area": right / 2,
                    "explosions": 0,
                    "steps": 8,
                    "largest_grad_norm": 0.5,
                    "last_entropy": more.get("entropy", {}).get(value, 0.2) + 0.01 * seed,
                    **{f"accuracy_{s}": right for s in SPLITS},
                }
            )
            for step in range(9):
                curves.append(
                    {
                        "run": f"s.{value}-{seed}",
                        "stage": "s",
                        "step": step,
                        "at": step,
                        "episodes": 40,
                        "kind": "validation" if step % 4 == 0 else "train",
                        axis: value,
                        "seed": seed,
                        "accuracy": right * step / 8,
                        "progress": step / 8,
                        "entropy": 0.3,
                        "grad_norm": 0.2,
                        "share_of_groups_without_signal": 0.1,
                        "recovery_rate": 0.1,
                        **{f"accuracy_{s}": right * step / 8 for s in SPLITS},
                    }
                )
    return pd.DataFrame(summary), pd.DataFrame(curves)


@pytest.fixture(autouse=True)
def closed():
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture
def sweeps_of(tmp_path, monkeypatch):
    """A function that replaces all sweeps by the given ones."""
    monkeypatch.setattr(
        ablations,
        "load_sweep",
        lambda name, run_first=True: (_ for _ in ()).throw(FileNotFoundError(name)),
    )

    def there(**found):
        def load(name, run_first=True):
            if name not in found:
                raise FileNotFoundError(name)
            return found[name]

        monkeypatch.setattr(ablations, "load_sweep", load)

    return there


def words(fig):
    return " ".join(" ".join(t.get_text() for t in fig.findobj(matplotlib.text.Text)).split())


def test_every_table_and_figure_is_drawn_from_committed_files_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("ENVTUNE_RUNS", str(tmp_path / "no runs"))
    drawn = paper.draw_all(tmp_path / "figures")
    assert list(drawn) == [
        "table1",
        "table2",
        "table3",
        "figure4a",
        "figure4b",
        "figure5a",
        "figure5b",
        "figure6",
        "figure7",
    ]
    for path in drawn.values():
        picture = imread(path)[:, :, :3]
        ink = (picture < 0.9).any(axis=2).mean()  # neither blank nor black
        assert picture.shape[1] >= 1200 and 0.01 < ink < 0.6
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", paper_tables.TABLES)
def test_a_table_has_the_papers_values_and_says_that_there_are_no_runs(sweeps_of, name):
    cells, text = paper_tables.TABLES[name](paper.SourceRuns())
    file = {"table1": "table1_bfcl_v3", "table2": "table2_ood", "table3": "table3_curriculum"}
    published = pd.read_csv(paths.DATA / "paper" / f"{file[name]}.csv").iloc[:, 2:]
    assert sorted(cells.astype(float).to_numpy().ravel()) == sorted(published.to_numpy().ravel())
    assert "no runs yet" in text or "none here" in text


@pytest.mark.parametrize("name", paper.FIGURES)
def test_a_missing_run_has_no_panel_and_the_figure_says_so(sweeps_of, monkeypatch, tmp_path, name):
    monkeypatch.setenv("ENVTUNE_RUNS", str(tmp_path))
    fig = paper.FIGURES[name](paper.SourceRuns(dynamics="nowhere"))
    assert "no runs yet" in words(fig) or "none here" in words(fig)
    assert not any("own run" in ax.get_title() for ax in fig.axes)
    drawn = [ax for ax in fig.axes if ax.axison]
    assert all(ax.get_lines() or ax.patches for ax in drawn)  # no panel is empty


def test_our_panels_show_the_numbers_of_the_sweep_with_a_band_over_seeds(sweeps_of):
    sweeps_of(ablation_reward_3=made_up({"progress": 0.5, "binary": 0.3}))
    fig = paper.figure4b(paper.SourceRuns())
    bottom = fig.axes[4]
    ends = [line.get_ydata()[-1] for line in bottom.get_lines() if len(line.get_ydata())]
    assert ends == pytest.approx([0.5, 0.3]) and len(bottom.collections) == 2
    assert bottom.get_ylabel().endswith("(sampled)")
    assert "6 runs, seeds 0, 1, 2, n = 100" in words(
        fig
    ) and "no evidence about large models" in words(fig)


def test_table_three_has_the_papers_values_and_ours_after_each_stage(sweeps_of):
    lines = [
        {
            "case": case,
            "seed": seed,
            "stage": stage,
            "kind": "validation",
            "step": step,
            "episodes": 16,
            **dict.fromkeys(["accuracy", *ACCURACIES], (number + (step > 0)) / 10),
        }
        for case, stages in (
            ("four stages", "1234"),
            ("direct GRPO", "d"),
            ("without stage 1", "234"),
        )
        for seed in (0, 1)
        for number, stage in enumerate(stages)
        for step in (0, 4, 8)
    ]
    summary, _ = made_up({"four stages": 0.5, "direct GRPO": 0.4, "without stage 1": 0.3})
    sweeps_of(ablation_curriculum=(summary, pd.DataFrame(lines)))
    cells, text = paper_tables.table3(paper.SourceRuns())
    assert list(cells.loc["Qwen2.5-7B-Instruct", "base"]) == [
        *("9.33", "20.00", "19.00", "32.00", "44.67", "50.33")
    ]
    ours = cells.loc["own runs (validation, sampled)"]
    assert list(ours.index) == list(paper_tables.STEPS_OF_TABLE3)
    assert list(ours["long context"]) == [f"{x}.0 ({x}-{x})" for x in (0, 10, 10, 20, 30, 40)]
    assert "n = 16 tasks per seed" in text and "seeds 0, 1" in text
    [shown] = kit.table(cells, text).axes[0].tables
    assert shown[len(cells), 0].get_text().get_text() == ""  # the model is named once
    assert shown[len(cells), 1].get_text().get_text() == "+ stage 4"


def test_table_one_has_the_baselines_as_means_over_seeds(sweeps_of):
    sweeps_of(
        baselines=made_up({"before training": 0.1, "ToolRL": 0.3}),
        ablation_curriculum=made_up({"without stage 1": 0.9, "four stages": 0.4}),
    )
    cells, text = paper_tables.table1(paper.SourceRuns())
    ours = cells.loc["own runs (greedy)"]
    assert ours["all"].to_dict() == {
        "before training": "10.0 (8-12)",
        "ToolRL": "30.0 (28-32)",
        "four stages": "40.0 (38-42)",
    }
    assert "four stages over before training +30.0 points [" in text
    assert "over ToolRL +10.0 points [" in text


def test_every_sweep_with_runs_is_drawn(sweeps_of, tmp_path, monkeypatch):
    monkeypatch.setenv("ENVTUNE_RUNS", str(tmp_path / "no runs"))
    assert paper.draw_sweeps(tmp_path) == {}
    sweeps_of(**{name: made_up({"one": 0.5, "other": 0.4}) for name in ablations.PANELS})
    drawn = paper.draw_sweeps(tmp_path)
    assert set(drawn) == set(ablations.PANELS) and all(
        path.stat().st_size > 20_000 for path in drawn.values()
    )


@pytest.mark.parametrize("name", ["figure4a", "figure4b", "figure6"])
def test_a_sweep_of_other_cases_is_not_drawn(sweeps_of, name):
    other = made_up({"something else": 0.5})
    sweeps_of(ablation_curriculum=other, ablation_augmentation=other, ablation_reward_3=other)
    assert "no runs yet" in paper_tables.table1(paper.SourceRuns())[1]
    assert "no runs yet" in paper_tables.table3(paper.SourceRuns())[1]
    fig = paper.FIGURES[name](paper.SourceRuns())
    assert "no runs yet" in words(fig) and "seeds 0" not in words(fig)


def test_a_sweep_without_names_of_its_cases_is_refused(sweeps_of):
    summary, curves = made_up({"a": 0.5})
    sweeps_of(kl_sweep=(summary.rename(columns={"case": "beta"}), curves))
    with pytest.raises(ValueError, match="its points have no `case`"):
        paper.figure7(paper.SourceRuns())


def test_cases_without_a_finished_run_are_left_out_and_many_cases_are_drawn():
    summary, curves = made_up({f"case {i}": 0.5 for i in range(12)})
    summary.loc[summary["case"] == "case 0", ["state", "accuracy", "n"]] = ["failed", None, None]
    fig = ablations.figure(summary, curves, "case", ["accuracy"], "made up")
    ticks = [t.get_text() for t in fig.axes[-1].get_yticklabels()]
    assert ticks == [f"case {i}" for i in range(1, 12)]
    failed = summary.assign(state="failed")
    assert ablations.ranking_text(failed, "case").startswith(
        "No run is done. Missing runs: s.case 0-0, "
    )
    with pytest.raises(ValueError, match="no run of this sweep is done"):
        ablations.figure(failed, curves, "case", ["accuracy"], "made up")


def verdict_of(claim):
    [found] = [c.verdict for c in claims.claims() if c.text.startswith(claim)]
    return found


def test_a_verdict_is_where_the_interval_of_the_paired_difference_lies(sweeps_of):
    def verdict(a, b):
        sweeps_of(ablation_reward_3=made_up({"progress": a, "binary": b}))
        return verdict_of("The progress reward ends above")

    assert verdict(0.6, 0.3) == "supported" and verdict(0.3, 0.6) == "contradicted"
    assert verdict(0.45, 0.44) == verdict(0.5, 0.5) == "undecided"
    sweeps_of()
    assert verdict_of("The progress reward ends above") == "not tested"


def test_one_case_is_judged_against_each_of_several(sweeps_of):
    def verdict(*accuracies):
        rest = {f"without stage {i}": a for i, a in enumerate(accuracies, 1)}
        sweeps_of(ablation_curriculum=made_up({"four stages": 0.5, **rest}))
        return verdict_of("Each of the four")

    assert verdict(0.2, 0.2, 0.2, 0.2) == "supported"
    assert verdict(0.2, 0.5, 0.2, 0.5) == "2 supported, 2 undecided of 4"
    assert verdict(0.2, 0.5, 0.8, 0.5) == "1 supported, 1 contradicted, 2 undecided of 4"
    assert verdict(0.5, 0.5, 0.5, 0.5) == "undecided" and verdict(0.5) == "not tested"


def test_a_case_can_be_compared_with_a_case_of_another_sweep(sweeps_of):
    sweeps_of(
        baselines=made_up({"SFT": 0.2, "before training": 0.1}),
        ablation_curriculum=made_up({"four stages": 0.5}),
        training_tasks=made_up({"100 tasks": 0.2, "1,600 tasks": 0.5}),
    )
    assert verdict_of("The four stages end above SFT") == "supported"
    assert verdict_of("400 training tasks end above 100") == "supported"
    assert verdict_of("1,600 training tasks are less than") == "undecided"  # 50 scenarios are few


def test_several_comparisons_are_corrected(sweeps_of):
    rows = {f"case {i}": 0.5 - 0.02 * i for i in range(5)}
    summary, _ = made_up(rows)
    found = ablations.against(summary, "case", "case 0")
    plain, corrected = zip(*sorted((made.p_value, p) for made, p in found.values()), strict=True)
    assert list(corrected) == sorted(corrected) and max(corrected) <= 1
    assert corrected[0] == pytest.approx(4 * plain[0]) and corrected[-1] >= plain[-1]


def test_a_difference_is_of_the_same_tasks_and_seeds():
    summary, _ = made_up({"a": 0.6, "b": 0.3})
    found = ablations.difference(summary, "case", "a", "b")
    assert found.mean == pytest.approx(0.3) and found.p_value < 0.01 and found.low > 0
    assert ablations.points(found).startswith("+30.0 points [+")
    one = summary.loc[~((summary["case"] == "a") & (summary["seed"] > 0))]
    assert ablations.difference(one, "case", "a", "b").mean == pytest.approx(0.3)
    alike = summary.loc[summary["seed"] == 0].drop(columns="seed")
    assert "+30.0 points" in ablations.ranking_text(alike.iloc[::-1], "case")
    twice = pd.concat([alike.assign(rate=rate, seed=0) for rate in (1, 2)])
    assert ablations.pooled(twice, "case")["seeds"].tolist() == [1, 1]
    apart = summary.assign(seed=range(len(summary)))
    assert ablations.difference(apart, "case", "a", "b") is None


def test_doing_and_asking_are_the_parts_of_all_tasks(sweeps_of):
    summary, _ = made_up({"a": 0.6, "b": 0.3})
    every, doing, asking = (ablations.by_task(summary, part) for part in ablations.PARTS)
    assert len(every) == len(doing) + len(asking) == 600 and len(asking) == 300
    assert every["valid"].sum() == doing["valid"].sum() + asking["valid"].sum()
    assert asking["valid"].mean() == pytest.approx(0.45, abs=0.01)
    sweeps_of(ablation_reward_3=made_up({"progress": 0.6, "binary": 0.3}))
    [row] = [r for r in claims.page().splitlines() if r.startswith("| ablation_reward_3 |")]
    sft, _ = made_up({"SFT": 0.2})
    four = made_up({"four stages": 0.5})
    sweeps_of(baselines=(sft.drop(columns="validation_area"), four[1]), ablation_curriculum=four)
    assert "| four stages over SFT | +30.0 [" in claims.page()
    assert "| not measured |" in claims.page()
    assert row.count("+30.0 [") == 3 and row.endswith("| +15.0 [+15.0, +15.0] |")


def test_a_runs_result_keeps_how_many_tasks_of_each_scenario_were_right():
    evaluated = pd.DataFrame(
        {
            "task_id": ["multi_turn_base_3", "multi_turn_miss_func_3", "multi_turn_base_5"],
            "split": ["base", "miss_func", "base"],
            "valid": [True, False, True],
            "progress": 1.0,
            "errors": 0,
            "recovered": 0,
        }
    )
    kept = experiments.accuracies(evaluated)
    assert kept["scenarios"] == "multi_turn_base_3=1/2 multi_turn_base_5=1/1"
    assert kept["scenarios_miss_param"] == ""


def test_an_alarm_that_was_rolled_back_is_counted_once():
    evaluated = pd.DataFrame(
        [("multi_turn_base_3", "base", True, 1.0, 0, 0)],
        columns=["task_id", "split", "valid", "progress", "errors", "recovered"],
    )
    spent = {"seconds": 1.0, "sampled_tokens": 10, "generation_seconds": 1.0}
    rows = [
        {"kind": "validation", "at": 0, "accuracy": 0.0},
        *({"kind": "train", "at": i, "grad_norm": 0.1 * i, **spent} for i in (1, 2)),
        {"kind": "rollback", "at": 1, "alarm": "gradient_explosion"},
        {"kind": "alarm", "at": 2, "alarm": "entropy_collapse"},
        {"kind": "validation", "at": 2, "accuracy": 0.5},
    ]
    found = experiments.result(pd.DataFrame(rows), evaluated)
    assert (found["alarms"], found["explosions"], found["steps"]) == (2, 1, 2)
    assert math.isnan(found["last_kl"]) and found["last_grad_norm"] == pytest.approx(0.15)


def test_entropy_is_judged_seed_by_seed(sweeps_of):
    def verdict(none):
        summary, curves = made_up(
            {"beta 0": 0.5, "beta 0.1": 0.5}, entropy={"beta 0": none, "beta 0.1": 0.2}
        )
        sweeps_of(kl_sweep=(summary, curves))
        return verdict_of("Without a strong KL")

    assert (verdict(0.05), verdict(0.3)) == ("supported", "contradicted")


def test_the_committed_claims_are_those_of_the_committed_runs(capsys):
    assert claims.FILE.read_text() == claims.page(), "run: python -m envtune claims --write"
    assert main(["claims"]) == 0 and "| claim or question |" in capsys.readouterr().out


def test_the_ablation_figure_and_its_text_agree_with_the_summary():
    summary, curves = made_up({"beta 0": 0.3, "beta 0.1": 0.6})
    fig = ablations.figure(
        summary,
        curves,
        "case",
        ["entropy", "accuracy"],
        "made up, for a test",
    )
    ends, gains = (
        [round(float(ln.get_xdata()[0]), 2) for ln in ax.get_lines() if ln.get_marker() == "o"]
        for ax in fig.axes[-2:]
    )
    assert (ends, gains) == ([0.3, 0.6], [0.3])
    text = ablations.ranking_text(summary, "case")
    assert text.startswith("- **beta 0**: 0.300 [")
    assert "against beta 0 +30.0 points [" in text
    assert (
        "Apart from beta 0 after Holm's correction over all 1 comparisons here: beta 0.1 (+30.0)."
        in text
    )
    summary.loc[0, "state"] = "failed"
    assert "Missing runs: s.beta 0-0" in ablations.ranking_text(summary, "case")


def test_a_sweep_is_taken_from_runs_or_the_committed_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("ENVTUNE_RUNS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="run its notebook"):
        ablations.load_sweep("nothing")
    (tmp_path / "mine").mkdir()
    for name, data in zip(("summary", "curves"), made_up({"beta 0.1": 0.5}), strict=True):
        data.to_parquet(tmp_path / "mine" / f"{name}.parquet")
    assert len(ablations.load_sweep("mine")[0]) == 3
    with pytest.raises(FileNotFoundError):
        ablations.load_sweep("mine", run_first=False)


def test_an_experiments_parameters_make_its_stages():
    from envtune.train import presets

    [syntax, hints] = stages.stages_of(
        ["stage1_syntax", "stage2_hints"], "binary", 2.0, 0.5, "linear"
    )
    assert (
        syntax.reward,
        hints.reward,
        hints.reward_scale,
        hints.hint_rate,
        hints.hint_schedule,
    ) == ("stage1", "binary", 2.0, 0.5, "linear")
    own = presets.CPU_TINY.stage_steps
    assert stages.steps_of([syntax, hints], [], presets.CPU_TINY) == list(
        own[:2]
    ) and stages.steps_of([syntax], [3], presets.CPU_TINY) == [3]
    assert stages.steps_of(stages.stages_of(["direct_grpo"]), [], presets.CPU_TINY) == [sum(own)]
    for names in ([], ["stage9"]):
        with pytest.raises(ValueError, match="at least one"):
            stages.stages_of(names)
    with pytest.raises(ValueError, match="for each of 2"):
        stages.steps_of([syntax, hints], [1], presets.CPU_TINY)


def test_reference_runs_are_described(tmp_path):
    text = (paths.DATA / "reference_runs" / "README.md").read_text()
    for made in (paths.DATA / "reference_runs").iterdir():
        assert made.name == "README.md" or made.name in text, made.name
