"""An episode as HTML that a person can read: the conversation, calls and results, hints, and each turn's verdict with why.

    >>> from IPython.display import HTML
    >>> HTML(viewer.episode_html(record))

All text is escaped: what a model wrote is shown, never interpreted.
"""
import html

from envtune import bfcl
from envtune.episode import EpisodeRecord, Outcome

_COLOURS = {Outcome.CALLS: "#1b7837", Outcome.ANSWER: "#2166ac", Outcome.FORMAT_ERROR: "#b2182b",
            Outcome.CALLS_WITH_ERROR: "#d6604d", Outcome.FORCED_END: "#b2182b", Outcome.CALL_IN_EMPTY_TURN: "#b2182b"}
_BOX = "margin:2px 0 2px 16px;padding:4px 8px;border-left:4px solid {};font-family:monospace;white-space:pre-wrap"


def _box(colour: str, text: str, limit: int) -> str:
    text = text if len(text) <= limit else f"{text[:limit]} …"
    return f'<div style="{_BOX.format(colour)}">{html.escape(text)}</div>'


def episode_html(record: EpisodeRecord, limit: int = 600) -> str:
    """The record as one HTML fragment; texts longer than `limit` characters are cut."""
    task = bfcl.load_task(record.task_id)
    parts = [f"<b>{html.escape(record.task_id)}</b> · {record.limits} limits · hints {'on' if record.hints_on else 'off'} · "
             f"{record.ending}"]
    for turn in range(record.turns):
        verdict = next((v for v in record.verdicts if v.turn == turn), None)
        mark = "not reached" if verdict is None else "✓ success" if verdict.success else f"✗ {verdict.why}"
        parts.append(f"<div style='margin-top:8px'><b>Turn {turn + 1}, user:</b> {html.escape(task.user_turns[turn])}</div>")
        for step in (s for s in record.steps if s.turn == turn):
            parts.append(_box(_COLOURS[step.outcome], f"{step.outcome} ({step.code:+.0f})  {step.message}", limit))
            if step.feedback:
                parts.append(_box("#bbbbbb", step.feedback, limit))
        parts.append(f"<div style='margin-left:16px'><i>{html.escape(mark)}</i></div>")
    return f"<div style='font-size:13px;line-height:1.35'>{''.join(parts)}</div>"
