import html
from dataclasses import replace

from conftest import ANSWER, tool_call

from envtune import EpisodeRecord, bfcl, replay
from envtune.record import Ending, episode_html


def test_what_a_model_wrote_is_shown_and_never_interpreted():
    record = replay(
        "multi_turn_base_3",
        ["<script>alert(1)</script>", tool_call(("rm", {"file_name": "<img src=x>"})), ANSWER],
        hint_rate=1.0,
    )
    page = episode_html(record)
    assert "<script>" not in page and "<img" not in page and "&lt;script&gt;" in page


def test_every_turn_shows_its_verdict_and_why():
    running = replay("multi_turn_base_3", [ANSWER])
    page = episode_html(running)
    assert "✗ lost: no call was made in a turn that needs one" in page
    request = bfcl.load_task("multi_turn_base_3").user_turns[1]
    assert html.escape(request) in page and "still open" in page  # the request that waits
    ended = episode_html(replace(running, ending=Ending.TOKEN_LIMIT))
    assert html.escape(request) not in ended and "Turn 2: not reached" in ended


def test_messages_read_without_tags_json_and_codes():
    page = episode_html(replay("multi_turn_base_3", [tool_call(("ls", {"a": True})), "oops"]))
    assert "agent, calls:\nwork\nls(a=true)" in page
    assert "agent, format error:\noops" in page and "tool_call&gt;" not in page.split("oops")[0]


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
