from conftest import ANSWER, tool_call

from envtune import EpisodeRecord, replay
from envtune.record import episode_html


def test_what_a_model_wrote_is_shown_and_never_interpreted():
    record = replay(
        "multi_turn_base_3",
        ["<script>alert(1)</script>", tool_call(("rm", {"file_name": "<img src=x>"})), ANSWER],
        hint_rate=1.0,
    )
    page = episode_html(record)
    assert "<script>" not in page and "<img" not in page and "&lt;script&gt;" in page


def test_every_turn_shows_its_verdict_and_why():
    page = episode_html(replay("multi_turn_base_3", [ANSWER]))
    assert "no call was made in a turn that needs one" in page and "not reached" in page


def test_a_record_of_the_version_before_is_read_and_shown():
    call = tool_call(("cat", {"file_name": "a/b"}))
    record = replay("multi_turn_base_3", [call], hint_rate=1.0)
    old = record.to_dict() | {"version": 2}
    old["steps"] = [{k: v for k, v in step.items() if k != "shown"} for step in old["steps"]]
    read = EpisodeRecord.from_dict(old)
    assert read.steps == (record.steps[0]._replace(shown=()),)
    hint = record.steps[0].hints[0]
    assert f"with hint {hint}: cat → " in episode_html(read)
    assert "hint&quot;: " in episode_html(record) and "hint&quot;: " not in episode_html(read)
