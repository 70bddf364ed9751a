"""docs/findings.md says what the committed runs say."""

import re

from envtune.common import paths
from envtune.study import findings

PAGE = (paths.ROOT / "docs" / "findings.md").read_text()


def test_every_finding_has_its_picture(tmp_path):
    drawn = findings.draw(tmp_path)
    shown = re.findall(r"figures/findings/(\w+)\.png", PAGE)
    assert shown == list(findings.FINDINGS) == list(drawn)
    assert all((paths.ROOT / "figures" / "findings" / f"{name}.png").exists() for name in shown)


def test_every_interval_of_the_page_is_one_of_the_claims():
    claims = (paths.ROOT / "docs" / "claims.md").read_text()
    intervals = re.findall(r"\(?([+-][\d.]+)(?: points)? (\[[^]]+\])", PAGE)
    assert len(intervals) >= 5
    for mean, interval in intervals:
        assert f"{mean} points {interval}" in claims, (mean, interval)


def test_without_runs_only_what_is_committed_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DATA", tmp_path)
    assert findings.draw(tmp_path / "drawn") == {}
