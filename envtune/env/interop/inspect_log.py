"""Export of a run's episodes as an inspect_ai log, for `inspect view`.

>>> export_inspect(Path("runs/quickstart"), Path("logs/quickstart.eval"), kind="validation")

A sample is an episode: its conversation with tool calls and results apart, BFCL's verdict
("valid"), the progress and format rewards, and where it was played. An `epoch` counts the episodes
of a task. Needs the extra `inspect`. Text that a model wrote stays text: the file holds JSON.
Records keep no token counts; the tokens sampled are a total, for kind="train" alone.
"""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

from envtune import bfcl
from envtune.bfcl.results import EXECUTION_ERROR
from envtune.common.files import read_json, read_lines
from envtune.env import protocol, rewards
from envtune.env.interop.played import Played, clean, read_played
from envtune.record import Outcome, Step


def _agent(step: Step, ids: list[str]) -> dict:
    """The agent's message: thought and answer apart, calls as calls; a malformed one as it is."""
    said = {"role": "assistant", "metadata": {"turn": step.turn + 1, "outcome": step.outcome}}
    parsed = protocol.parse(step.message)
    if parsed.error:
        return {**said, "content": step.message}
    thought = step.message.split("</think>")[0].partition("<think>")[2]
    calls = [
        {"id": call_id, "function": call.name, "arguments": call.arguments}
        for call_id, call in zip(ids, step.calls, strict=True)
    ]
    content = [
        {"type": "reasoning", "reasoning": thought},
        {"type": "text", "text": parsed.answer or ""},
    ]
    return {**said, "content": content, **({"tool_calls": calls} if calls else {})}


def _messages(played: Played) -> list[dict]:
    """The conversation, what came after the agent's last message included."""
    messages: list[dict] = [*played.opening()]
    steps = played.record.steps
    for number, step in enumerate(steps):
        if number and step.turn != steps[number - 1].turn:
            messages.append({"role": "user", "content": played.user_turn(step.turn)})
        ids = [f"step{number}_call{i}" for i in range(len(step.calls))]
        messages.append(_agent(step, ids))
        read = step.shown or step.results  # version 2 of the records has no `shown`
        for call_id, call, text, hint in zip(ids, step.calls, read, step.hints, strict=False):
            failed = (
                {"type": "unknown", "message": text} if text.startswith(EXECUTION_ERROR) else None
            )
            answer = {"role": "tool", "tool_call_id": call_id, "function": call.name}
            messages.append(
                {**answer, "content": text, "error": failed, "metadata": {"hint": hint}}
            )
        if step.feedback and (not read or step.outcome is Outcome.FORCED_END):
            notice = step.feedback.splitlines()[-1] if read else step.feedback
            messages.append({"role": "user", "content": notice, "metadata": {"environment": True}})
    return messages


def _sample(played: Played, epoch: int, model: str) -> dict:
    record, task = played.record, played.task
    lost = [f"turn {v.turn + 1}: {v.why}" for v in record.verdicts if not v.success]
    truth = [f"turn {i + 1}: {'; '.join(c)}" for i, c in enumerate(task.ground_truth_source)]
    valid, why = "C" if bfcl.official_valid(record) else "I", "\n".join(lost) or None
    return {
        "id": task.id,
        "epoch": epoch,
        "input": task.user_turns[0],
        "target": "\n".join(truth),
        "messages": _messages(played),
        "output": {"model": model, "completion": record.steps[-1].message if record.steps else ""},
        "scores": {
            "valid": {"value": valid, "explanation": why},
            "progress": {"value": rewards.progress_reward(record), "explanation": why},
            "format": {"value": rewards.format_reward(record)},
        },
        "metadata": {
            "task": task.id,
            "split": task.split,
            "scenario": task.scenario,
            "ending": record.ending,
            "hints_on": record.hints_on,
            "hints_shown": sum(hint is not None for step in record.steps for hint in step.hints),
            "limits": record.limits,
            "stage": played.stage,
            "step": played.step,
            "kind": played.kind,
        },
    }


def _results(samples: list[dict]) -> dict:
    scores = []
    for name, metric in (("valid", "accuracy"), ("progress", "mean"), ("format", "mean")):
        values = [sample["scores"][name]["value"] for sample in samples]
        mean = fmean(value == "C" if name == "valid" else value for value in values)
        metrics = {metric: {"name": metric, "value": mean}}
        scores.append({"name": name, "scorer": name, "metrics": metrics})
    count = len(samples)
    return {"total_samples": count, "completed_samples": count, "scores": scores}


def _tokens(run: Path, stage: str | None) -> int:
    """Tokens sampled in training, from metrics.jsonl."""
    file = run / "metrics.jsonl"
    rows = read_lines(file) if file.exists() else ()
    return sum(row.get("sampled_tokens", 0) for row in rows if stage in (None, row["stage"]))


def export_inspect(run: Path, out: Path, stage: str | None = None, kind: str | None = None) -> Path:
    """Write the episodes of a run or an evaluation as one log, .eval or .json, and return its path.

    stage, kind: only these ("train", "validation"); None: all. ValueError when there are none.
    """
    try:
        from inspect_ai.log import (  # pyright: ignore[reportMissingImports]
            EvalLog,
            write_eval_log,
        )
    except ImportError as error:
        raise ImportError(f"{error}; run: pip install -e '.[inspect]'") from None

    if out.suffix not in (".eval", ".json"):
        raise ValueError(f"an inspect log is named *.eval or *.json, got {out}")
    settings, config = read_json(run / "settings.json", {}), read_json(run / "config.json", {})
    model = settings.get("policy") or config.get("preset", {}).get("model", "unknown")
    samples, seen = [], Counter()
    for played in read_played(run, stage, kind):
        seen[played.record.task_id] += 1
        samples.append(clean(_sample(played, seen[played.record.task_id], model)))
    if not samples:
        raise ValueError(f"{run} has no episodes of stage {stage or 'any'}, kind {kind or 'any'}")
    name, ids = run.resolve().name, list(seen)
    seconds = max(file.stat().st_mtime for file in run.glob("episodes.jsonl*"))
    written = datetime.fromtimestamp(seconds, UTC).isoformat()
    tokens = _tokens(run, stage) if kind == "train" else 0
    usage = {model: {"output_tokens": tokens, "total_tokens": tokens}} if tokens else {}
    log = {
        "status": "success",
        "eval": {
            "eval_id": name,
            "run_id": name,
            "task_id": name,
            "created": written,
            "task": f"envtune {name}",
            "dataset": {"name": "multi-turn tool use", "samples": len(ids), "sample_ids": ids},
            "model": model,
            "config": {"epochs": max(seen.values())},
        },
        "results": _results(samples),
        "stats": {"started_at": written, "completed_at": written, "model_usage": usage},
        "samples": samples,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_eval_log(EvalLog.model_validate(log), str(out))
    return out
