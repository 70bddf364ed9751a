"""The page with a run's episodes: its table, what is in it, its command. In a browser: browser/."""

import base64
import gzip
import html
import json
import re
import subprocess
import sys
from dataclasses import replace

import played_run
import pytest
from conftest import ANSWER, SMALL
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output
from played_run import EVIL, OTHER, TASK

import envtune
from envtune import __main__, read_records, replay
from envtune.common import paths
from envtune.common.files import read_lines
from envtune.study import browse, episode_table
from envtune.train import grpo, stages, trl_trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return played_run.make(tmp_path_factory.mktemp("played") / "run")


def piece(page: str, name: str):
    """What one of the page's compressed pieces holds."""
    [packed] = re.findall(rf'<script type="text/plain" id="{name}">([^<]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_browse_is_offered_without_importing_torch_or_pandas():
    code = (
        "import sys, envtune; light = not {'torch', 'pandas'} & set(sys.modules);"
        "envtune.browse; sys.exit(not light or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_groups_have_the_rewards_and_advantages_of_their_episodes(run):
    table, lines = episode_table.read([run], ["run"])
    first = table[table["group"] == 1]
    assert first["reward"].tolist() == [1.0, 0.0, 0.0, 0.0] and len(lines) == len(table) == 12
    assert first["advantage"].tolist() == pytest.approx([1.4997, -0.4999, -0.4999, -0.4999], 1e-3)
    assert table.loc[table["kind"] == "validation", ["group", "advantage"]].isna().all(axis=None)
    assert first["error kind"].tolist()[:3] == ["", "wrong arguments", "format"]
    hinted = table[table["step"].eq(2) & table["kind"].eq("train")]["hints"].tolist()
    assert hinted[0] == [] and len(hinted[1]) == 1 and first["hints"].tolist() == [None] * 4


def test_advantages_are_those_that_trl_trains_with(small_policy, tmp_path, monkeypatch):
    seen, original = [], trl_trainer.StageTrainer._generate_and_score_completions

    def watch(self, inputs):
        out = original(self, inputs)
        if self.model.training:
            seen.append(out)
        return out

    monkeypatch.setattr(trl_trainer.StageTrainer, "_generate_and_score_completions", watch)
    preset = replace(SMALL, prompts_per_step=2, device_batch=8, keep_tokens=True)
    grpo.train_stage(stages.STAGES[0], preset, 1, small_policy, tmp_path, seed=0)
    table, lines = episode_table.read([tmp_path], ["try"])
    train = table["kind"] == "train"
    assert table[train]["advantage"].tolist() == pytest.approx(
        seen[0]["advantages"].tolist(), abs=1e-4
    )
    assert table[train]["group"].tolist() == [1] * 4 + [2] * 4
    for line, ids, mask in zip(
        [line for line in lines if line["kind"] == "train"],
        seen[0]["completion_ids"],
        seen[0]["tool_mask"],
        strict=True,
    ):
        kept = line["tokens"]
        assert kept["ids"] == ids[: len(kept["ids"])].tolist()
        assert kept["mask"] == mask[: len(kept["mask"])].tolist()
        sampled = [p for p, m in zip(kept["logprobs"], kept["mask"], strict=True) if m]
        assert (
            all(p <= 0 for p in sampled)
            and any(sampled)
            and len(kept["texts"]) == len(ids[: len(kept["ids"])])
        )
    records = list(read_records(tmp_path / "episodes.jsonl.gz", kind="train"))
    assert len(records) == 8  # tags are no part of a record
    # a run goes on whether or not tokens are kept
    assert "keep_tokens" not in json.loads((tmp_path / "config.json").read_text())["preset"]


def test_a_reward_of_ones_own_is_shown_where_it_was_written_and_never_invented(run, tmp_path):
    lines = list(read_lines(run / "episodes.jsonl.gz"))
    lines[3]["reward"] = 0.7
    with gzip.open(tmp_path / "episodes.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)
    config = json.loads((run / "config.json").read_text())
    config["stages"]["stage2_hints"]["reward"] = {"name": "mine", "maximum": 1.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    train = episode_table.read([tmp_path], ["own"])[0].query("kind == 'train'")
    assert train["reward"].tolist()[1] == 0.7 and train["reward"].isna().sum() == 7
    assert train["advantage"].isna().all()


def test_the_page_needs_nothing_from_elsewhere_and_holds_no_text_of_a_model_as_html(run):
    page = browse.browse(run).html
    assert EVIL not in page and "<img" not in page
    assert "default-src 'none'" in page and not re.search(r'(src|href)="http', page)
    assert EVIL in json.dumps(piece(page, "chunk-0"))
    assert piece(page, "index")["task"][:2] == [TASK, OTHER]
    assert piece(page, "tasks")[TASK]["truth"][0][0][0] == "find"


def test_names_in_the_table_are_escaped_because_datatables_reads_html(run, tmp_path):
    text = gzip.decompress((run / "episodes.jsonl.gz").read_bytes()).decode()
    evil = text.replace('"stage2_hints"', json.dumps(EVIL))
    (tmp_path / "episodes.jsonl.gz").write_bytes(gzip.compress(evil.encode()))
    page = browse.browse(tmp_path).html
    cells = piece(page, "cells")
    assert html.escape(EVIL) in cells[0] and EVIL not in json.dumps(cells)


def test_infinite_arguments_are_shown_as_text():
    given = {"a": [1.0, float("inf"), {"b": float("-inf")}]}
    assert piece(browse._packed("cells", given), "cells") == {"a": [1.0, "inf", {"b": "-inf"}]}


def test_an_evaluation_is_read_with_its_episodes_with_hints(tmp_path):
    for folder, rate in ((tmp_path, 0.0), (tmp_path / "with_hints", 1.0)):
        folder.mkdir(exist_ok=True)
        record = replay(TASK, [played_run.WRONG, ANSWER], limits="evaluation", hint_rate=rate)
        line = json.dumps({"repeat": 0, **record.to_dict()})
        (folder / "episodes.jsonl").write_text(f"{line}\n{line[:50]}")  # killed while writing
    table, _ = episode_table.read([tmp_path], ["last"])
    assert table["run"].tolist() == ["last", "last/with_hints"]
    assert table["kind"].tolist() == ["evaluation"] * 2 and table["reward"].tolist() == [0.0, 0.0]
    assert [found is None for found in table["hints"]] == [True, False]


def test_the_command_writes_the_page_beside_the_episodes(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ENVTUNE_RUNS", str(run.parent))
    assert __main__.main(["browse", "run"]) == 0
    written = run / "browse.html"
    assert (
        capsys.readouterr().out.strip() == str(written) and "Episodes of run" in written.read_text()
    )
    assert __main__.main(["browse", str(run), "run", "--out", str(tmp_path / "two.html")]) == 0
    index = piece((tmp_path / "two.html").read_text(), "index")
    assert len(index["run"]) == 24 and len(set(index["run"])) == 2


@pytest.mark.parametrize("name, part", [("missing", "does not exist"), ("empty", "holds no epi")])
def test_a_run_without_episodes_is_one_clear_sentence(name, part, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ENVTUNE_RUNS", str(tmp_path))
    (tmp_path / "empty").mkdir()
    assert __main__.main(["browse", name]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("envtune: ") and name in line and part in line


def test_a_notebook_shows_it_in_a_frame_that_survives_nbconvert(run, monkeypatch):
    monkeypatch.setenv("ENVTUNE_RUNS", str(run.parent))
    shown = envtune.browse("run", height=500)._repr_html_()
    output = new_output("display_data", data={"text/html": shown})
    book = new_notebook(cells=[new_code_cell("envtune.browse('run')", outputs=[output])])
    exported, _ = HTMLExporter().from_notebook_node(book)
    [frame] = re.findall(r"<iframe[^>]*>", exported)
    [inside] = re.findall(r'srcdoc="([^"]*)"', frame)
    assert 'sandbox="allow-scripts"' in frame and "height:500px" in frame
    assert html.unescape(inside) == browse.browse(run).html


def test_the_files_of_the_page_are_installed_with_the_package():
    text = (paths.ROOT / "pyproject.toml").read_text()
    assert '"envtune.study" = ["browser_page/*"]' in text
    assert {file.name for file in browse.PAGE.iterdir()} == {"page.html", "page.css", "page.js"}


def test_a_large_run_is_packed_in_pieces_of_the_same_size(run, monkeypatch):
    monkeypatch.setattr(browse, "CHUNK", 5)
    page = browse.browse(run).html
    assert [len(piece(page, f"chunk-{n}")) for n in range(3)] == [5, 5, 2]
    assert 'data-chunk="5"' in page
