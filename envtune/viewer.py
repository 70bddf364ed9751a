"""An episode as HTML that a person can read: the conversation, calls and results, hints, and each turn's verdict with why.

    >>> from IPython.display import HTML
    >>> HTML(episode_html(record))         # an Episode or EpisodeRecord at the end of a notebook cell shows itself this way

All text is escaped: what a model wrote is shown, never interpreted.
"""
import html
import json
from collections.abc import Mapping

from envtune import bfcl
from envtune.episode import Ending, EpisodeRecord, Outcome, Step

_COLOURS = {Outcome.CALLS: "#1b7837", Outcome.ANSWER: "#2166ac", Outcome.FORMAT_ERROR: "#b2182b",
            Outcome.CALLS_WITH_ERROR: "#d6604d", Outcome.FORCED_END: "#b2182b", Outcome.CALL_IN_EMPTY_TURN: "#b2182b"}
_BOX = ("margin:2px 0 2px {}px;padding:3px 8px;border-left:4px solid {};font-family:monospace;white-space:pre-wrap;"
        "overflow-wrap:anywhere")
_HINT = "#e08214"


def _box(text: str, limit: int, colour: str, indent: int = 16) -> str:
    text = text if len(text) <= limit else f"{text[:limit]} … [{len(text) - limit} more characters]"
    return f'<div style="{_BOX.format(indent, colour)}">{html.escape(text)}</div>'


def _hint_text(line: str) -> str:
    """The hint in one line that the agent read, or ''."""
    try:
        content = json.loads(line.partition(": ")[2])
    except ValueError:
        return ""
    return str(content.get("hint", "")) if isinstance(content, dict) else ""


def _step(step: Step, limit: int) -> list[str]:
    """One agent message, what its calls gave, and the hints that stood beside the results."""
    parts = [_box(f"agent, {step.outcome} ({step.code:+.0f}): {step.message}", limit, _COLOURS[step.outcome])]
    lines = step.feedback.splitlines()
    if not step.results:
        return parts + ([_box(step.feedback, limit, "#888888", 32)] if step.feedback else [])
    read = iter([text for text in map(_hint_text, lines) if text])
    for call, result, hint in zip(step.calls, step.results, step.hints, strict=True):
        parts.append(_box(f"{call.name} → {result}", limit, "#888888", 32))
        if hint:
            parts.append(_box(f"hint {hint}: {next(read, '(cut from what the agent read)')}", limit, _HINT, 32))
    if step.truncated:
        parts.append(_box(f"{step.truncated} characters of the results were not shown to the agent", limit, _HINT, 32))
    if step.outcome is Outcome.FORCED_END:
        parts.append(_box(lines[-1], limit, "#b2182b", 32))
    return parts


def episode_html(record: EpisodeRecord, limit: int = 600) -> str:
    """The record as one HTML fragment; texts longer than `limit` characters are cut."""
    task = bfcl.load_task(record.task_id)
    won = sum(verdict.success for verdict in record.verdicts)
    parts = [f"<b>{html.escape(record.task_id)}</b> · {html.escape(record.limits)} limits · "
             f"hints {'on' if record.hints_on else 'off'} · {len(record.steps)} steps · {won} of {record.turns} turns won · "
             f"{record.ending}"]
    for turn in range(record.turns):
        verdict = next((v for v in record.verdicts if v.turn == turn), None)
        steps = [step for step in record.steps if step.turn == turn]
        if verdict is None:
            mark = "still open" if record.ending is Ending.RUNNING else "not finished"
        else:
            mark = "✓ success" if verdict.success else f"✗ lost: {verdict.why}"
        if not steps and verdict is None:
            parts.append(f"<div style='margin-top:6px;opacity:.6'>Turn {turn + 1}: not reached</div>")
            continue
        parts.append(f"<div style='margin-top:8px'><b>Turn {turn + 1}, user:</b> {html.escape(task.user_turns[turn])}</div>")
        for step in steps:
            parts += _step(step, limit)
        parts.append(f"<div style='margin-left:16px'><b>{html.escape(mark)}</b></div>")
    return f"<div style='font-size:13px;line-height:1.35'>{''.join(parts)}</div>"


def side_by_side(records: Mapping[str, EpisodeRecord], limit: int = 600) -> str:
    """Episodes in columns, each under its name: the same task before and after training, or with and without hints."""
    columns = "".join(f'<div style="flex:1 1 320px;min-width:0"><h4>{html.escape(name)}</h4>{episode_html(record, limit)}</div>'
                      for name, record in records.items())
    return f'<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start">{columns}</div>'
