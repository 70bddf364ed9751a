"""Real runs in processes of their own, killed with SIGKILL or out of disk, then continued with the
same command."""

import errno
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import lines, weights

from envtune import read_records
from envtune.common import files
from envtune.train import runlog

SCRIPT = Path(__file__).with_name("killed_run.py")


def start(folder, policy, point="none"):
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(policy), point],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def episodes(folder):
    return [
        (r.task_id, [s.message for s in r.steps])
        for r in read_records(folder / "episodes.jsonl.gz")
    ]


@pytest.fixture(scope="module")
def whole(small_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = start(folder, small_policy)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def same(folder, whole):
    assert lines(folder) == lines(whole)
    assert episodes(folder) == episodes(whole)
    for stage in ("stage1_syntax", "stage2_hints"):
        one, two = weights(folder / stage / "policy"), weights(whole / stage / "policy")
        assert all((one[k] == two[k]).all() for k in one)


@pytest.mark.slow
def test_the_second_stage_ended_by_its_rule_and_every_decision_is_in_the_log(whole):
    decisions = [
        (r["stage"], r["step"], r["move_on"], r["why"].split(":")[0])
        for r in lines(whole)
        if r["kind"] == "decision"
    ]
    assert decisions == [
        ("stage1_syntax", 2, False, "min_steps"),
        ("stage1_syntax", 4, False, "min_steps"),
        ("stage1_syntax", 5, True, "max_steps"),
        ("stage2_hints", 2, False, "min_steps"),
        ("stage2_hints", 4, True, "plateau_and_stable"),
    ]
    assert all(
        {"gain", "norm_mean", "norm_spread", "norm_max"} <= set(r)
        for r in lines(whole)
        if (r["kind"], r["stage"]) == ("decision", "stage2_hints")
    )


@pytest.mark.slow
def test_a_run_killed_at_four_points_ends_as_one_that_was_not(whole, small_policy, tmp_path):
    folder = tmp_path / "run"
    # between checkpoints, while one is written, at the hand-over, and at that of a stage that its
    # rule ended before its last step
    for point in ("train:3", "checkpoint:4", "policy:stage1_syntax", "policy:stage2_hints"):
        killed = start(folder, small_policy, point)
        assert killed.returncode == -9, killed.stderr[-3000:]
    with (
        open(folder / "metrics.jsonl", "a") as metrics,
        gzip.open(folder / "episodes.jsonl.gz", "at") as episodes_file,
    ):
        metrics.write('{"stage": "stage1_sy')  # as a kill in the middle of a write leaves them
        episodes_file.write('{"stage": "sta')
    assert start(folder, small_policy).returncode == 0
    same(folder, whole)
    steps = [(r["stage"], r["kind"], r["step"]) for r in lines(folder)]
    assert len(steps) == len(set(steps))


@pytest.mark.slow
def test_a_full_disk_gives_a_sentence_and_the_run_goes_on_from_what_was_whole(
    whole, small_policy, tmp_path
):
    folder = tmp_path / "run"
    full = start(
        folder, small_policy, "file-size:120"
    )  # the optimiser's file of a checkpoint is larger
    assert (
        full.returncode == 1
        and "CannotWrite" in full.stderr
        and "run the same command" in full.stderr
    ), full.stderr[-3000:]
    assert start(folder, small_policy).returncode == 0
    same(folder, whole)


def sealed(folder, step, attempt=0):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.bin").write_bytes(b"x" * 10)
    runlog.mark_complete(checkpoint, attempt)
    return checkpoint


def test_a_torn_or_unfinished_checkpoint_is_left_out_with_a_warning_for_the_one_before(tmp_path):
    good, torn, unfinished = sealed(tmp_path, 2), sealed(tmp_path, 4), tmp_path / "checkpoint-10"
    (torn / "model.bin").write_bytes(b"x" * 9)
    unfinished.mkdir()
    with pytest.warns(UserWarning) as told:
        assert runlog.last_good_checkpoint(tmp_path) == good
    assert {"written to its end", "9 bytes, 10 were written"} <= {
        w
        for w in ("written to its end", "9 bytes, 10 were written")
        if any(w in str(t.message) for t in told)
    }
    assert not torn.exists() and not unfinished.exists()
    flipped = sealed(tmp_path, 5) / "model.bin"
    flipped.write_bytes(b"x" * 9 + b"y")
    with pytest.warns(UserWarning, match="changed since it was written.*checkpoint before it"):
        assert runlog.last_good_checkpoint(tmp_path) == good
    (sealed(tmp_path, 6) / runlog.COMPLETE_MARKER).write_text('{"attempt": ')
    with pytest.warns(UserWarning, match="envtune_seal.json is damaged"):
        assert runlog.last_good_checkpoint(tmp_path) == good


def test_a_checkpoint_of_an_older_version_without_digests_is_good(tmp_path):
    marker = sealed(tmp_path, 2) / runlog.COMPLETE_MARKER
    listed = json.loads(marker.read_text())
    assert set(listed.pop("sha256")) == {"model.bin"}
    marker.write_text(json.dumps(listed))
    assert runlog.last_good_checkpoint(tmp_path) == marker.parent


def test_checkpoints_of_a_branch_that_was_rolled_back_are_left_out_and_later_ones_count(tmp_path):
    sealed(tmp_path, 2), sealed(tmp_path, 6)
    back = [{"to_step": 2}]
    with pytest.warns(UserWarning, match="rolled back"):
        assert runlog.last_good_checkpoint(tmp_path, back).name == "checkpoint-2"
    sealed(tmp_path, 6, attempt=1)
    assert runlog.last_good_checkpoint(tmp_path, back).name == "checkpoint-6"


def test_a_damage_that_no_kill_makes_is_named(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        list(files.read_lines(file))
    file.write_text('{"a": 1}\n{"a": ')
    assert list(files.read_lines(file)) == [{"a": 1}]
    packed = tmp_path / "episodes.jsonl.gz"
    packed.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="damaged"):
        list(files.read_lines(packed))
    packed.write_bytes(
        gzip.compress(json.dumps({"a": 1}).encode() + b"\n" + os.urandom(5000).hex().encode())[
            :-1000
        ]
    )
    assert list(files.read_lines(packed)) == [{"a": 1}]


def test_a_json_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "config.json"
    files.write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}


def test_two_writers_of_one_file_do_not_write_into_each_other(tmp_path):
    file = tmp_path / "table"
    with files.atomic(file) as one:
        one.write_text("first, be")
        with files.atomic(file) as other:
            other.write_text("second")
        assert file.read_text() == "second"
        one.write_text("first")
    assert file.read_text() == "first" and list(tmp_path.iterdir()) == [file]


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []

    def fsync(number):
        synced.append((os.fstat(number).st_ino, os.fstat(number).st_size))
        assert not (tmp_path / "file").exists() and not (tmp_path / "folder").exists()

    monkeypatch.setattr(os, "fsync", fsync)
    with files.atomic(tmp_path / "file") as unfinished:
        unfinished.write_text("abc")
    assert synced == [((tmp_path / "file").stat().st_ino, 3)]
    (tmp_path / "file").unlink()
    with files.atomic(tmp_path / "folder") as unfinished:
        (unfinished / "part").mkdir(parents=True)
        (unfinished / "part" / "weights").write_text("abcd")
    assert synced[1:] == [((tmp_path / "folder" / "part" / "weights").stat().st_ino, 4)]
    files.write_json(tmp_path / "progress.json", {}, durable=False)
    assert len(synced) == 2


def test_a_full_disk_names_the_step_of_its_own_stage(tmp_path):
    sealed(tmp_path / "stage1", 8)
    sealed(tmp_path / "stage2", 2)
    full = OSError(errno.ENOSPC, "No space left on device")
    for stage, step in (("stage2", 2), ("stage3", 0)):  # the third has no folder yet
        said = pytest.raises(runlog.CannotWrite, match=f"goes on at step {step},")
        with said, runlog.full_disk_explained(tmp_path / stage):
            raise full


def test_an_error_that_is_no_full_disk_passes_as_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"), runlog.full_disk_explained(tmp_path):
        raise RuntimeError("shapes differ")
    with pytest.raises(PermissionError), runlog.full_disk_explained(tmp_path):
        raise PermissionError(13, "no")


def test_what_a_reader_draws_is_no_part_of_a_steps_seconds(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(runlog.time, "monotonic", lambda: clock[0])

    def draw(line):
        clock[0] += 50.0

    log = runlog.MetricsLog(tmp_path, "s", 2, draw)
    for _ in range(2):
        clock[0] += 3.0
        log.on_log(None, type("State", (), {"global_step": 1}), None, {"loss": 0.1})
    assert [row["seconds"] for row in files.read_lines(tmp_path / "metrics.jsonl")] == [3.0, 3.0]
