from conftest import ANSWER, tool_call

from envtune import replay
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
