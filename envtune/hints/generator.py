"""Generator and Judge: one language model writes hints for vague errors, another judges them.

    >>> failures = mine(read_records(episodes, kind="train"))
    >>> results = generate(failures, Endpoint.from_environment(), Path("runs/hints"), library)

(Paper section 3.3.) Each failure gets at most three attempts; the Judge's suggestions, or what
was wrong with the JSON, go into the next one. The Judge sees the ground truth, the Generator does
not.
Besides the Judge, code checks every approved text (constitution.py) against every task of the
failure. Each attempt is kept in attempts.jsonl with model, prompt hash and verdict, and a run that
was stopped continues from there. Approved hints are appended to generated_<class>.yaml, as records
that a person reviews as a diff; nothing is overwritten.
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import openai
import pydantic
import yaml

from envtune import bfcl
from envtune.common import progress
from envtune.common.files import atomic, read_lines
from envtune.hints import constitution
from envtune.hints.library import CATEGORIES, TYPES, Category, Type, load_hints
from envtune.hints.mining import Failure

ATTEMPTS = 3
# rejected: no attempt passed; failed: the server did not answer, and the next run tries again
STATUSES = ("approved", "not_needed", "rejected", "failed")
VERSION = "v1"
PROMPTS = Path(__file__).parent / "prompts"


class Draft(pydantic.BaseModel):
    """What the Generator answers."""

    reasoning: str
    need_augmentation: bool
    error_category: Category
    augmentation_type: Type
    augmented_feedback: str


class Judgement(pydantic.BaseModel):
    """What the Judge answers."""

    reasoning: str
    solution_leakage: bool
    exploration_constraint: bool
    actionability: bool
    hint_quality: Literal["high", "medium", "low"]
    overall_approved: bool
    suggestions: str = ""

    @property
    def approved(self) -> bool:
        """Approved by every criterion, not by the model's overall verdict alone."""
        return (
            self.overall_approved
            and not self.solution_leakage
            and not self.exploration_constraint
            and self.actionability
            and self.hint_quality == "high"
        )


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server and how to ask it."""

    base_url: str
    model: str
    key: str = "none"
    judge_model: str | None = None  # another model for the Judge; None: the same
    max_tokens: int = 600
    temperature: float = 0.7
    timeout_seconds: float = 120.0
    retries: int = 4  # by the client, after a timeout, a 429 or a server error

    @classmethod
    def from_environment(cls, **changes) -> "Endpoint":
        """From ENVTUNE_LLM_BASE_URL, _MODEL and _KEY. ValueError that names what is missing."""
        names = {"base_url": "ENVTUNE_LLM_BASE_URL", "model": "ENVTUNE_LLM_MODEL"}
        missing = [
            name
            for field, name in names.items()
            if not os.environ.get(name) and field not in changes
        ]
        if missing:
            raise ValueError(
                f"set {' and '.join(missing)}: an OpenAI-compatible server (…/v1) and the name of "
                "its model"
            )
        found = {field: os.environ[name] for field, name in names.items() if name in os.environ}
        return cls(**{**found, "key": os.environ.get("ENVTUNE_LLM_KEY", "none"), **changes})


@dataclass(frozen=True)
class GenerationResult:
    """What became of one failure."""

    failure: Failure
    status: str  # one of STATUSES
    record: dict | None
    attempts: int
    prompt_tokens: int
    completion_tokens: int


def _fill(name: str, values: dict[str, str]) -> str:
    """A prompt file with its {names} filled in; a value with {names} in it stays as it is."""
    prompt = (PROMPTS / f"{name}_{VERSION}.txt").read_text()
    return re.sub(r"\{(\w+)\}", lambda slot: values.get(slot.group(1), slot.group()), prompt)


def _json_object(text: str) -> dict:
    """The first JSON object in an answer, which may stand in a code fence. ValueError if none."""
    start = (text or "").find("{")
    if start < 0:
        raise ValueError("the answer holds no JSON object")
    value, _ = json.JSONDecoder().raw_decode(text[start:])
    return value


def _examples(class_name: str, few_shot: int) -> str:
    """A few records of the class as examples for the Generator; '' for zero-shot."""
    lines = [
        json.dumps(
            {
                "error": h.error.pattern,
                "error_category": h.category,
                "augmentation_type": h.type,
                "augmented_feedback": h.text,
            }
        )
        for h in load_hints()
        if h.class_name == class_name and h.provenance.get("made_by") == "hand"
    ][:few_shot]
    return "\n".join(["", "Hints of this domain that were approved:", *lines, ""]) if lines else ""


def record_of(failure: Failure, draft: Draft, provenance: dict) -> dict:
    """A library record for an approved draft."""
    name = hashlib.sha256(failure.key.encode()).hexdigest()[:8]
    return {
        "id": f"gen-{failure.tool.replace('_', '-').lower()}-{name}",
        "class": failure.class_name,
        "tools": [failure.tool],
        "when": {"error": failure.pattern},
        "hint": draft.augmented_feedback.strip(),
        "category": draft.error_category,
        "type": draft.augmentation_type,
        "provenance": provenance,
    }


class _Run:
    """What all failures of one generation share: the client and the log of attempts."""

    def __init__(self, endpoint: Endpoint, folder: Path, few_shot: int):
        self.endpoint, self.few_shot = endpoint, few_shot
        self.client = openai.OpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.key,
            timeout=endpoint.timeout_seconds,
            max_retries=endpoint.retries,
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self.lock = folder / "attempts.jsonl", threading.Lock()
        # the next line must not be appended to one cut short by a kill
        if self.log.exists() and not self.log.read_bytes().endswith(b"\n"):
            with open(self.log, "a", encoding="utf-8") as out:
                out.write("\n")

    def write(self, **row) -> None:
        with self.lock, open(self.log, "a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")

    def ask(self, role: str, values: dict[str, str], shape: type[pydantic.BaseModel]) -> tuple:
        """(parsed answer or None, what was wrong with it, the attempt's row).

        openai.OpenAIError when the server gives up.
        """
        prompt, model = _fill(role, values), self.endpoint.model
        if role == "judge":
            model = self.endpoint.judge_model or model
        answer = self.client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=self.endpoint.max_tokens,
            temperature=self.endpoint.temperature,
        )
        text = (answer.choices[0].message.content if answer.choices else "") or ""
        usage = answer.usage
        row = {
            "role": role,
            "model": model,
            "prompt": f"{role}_{VERSION}",
            "prompt_hash": hashlib.sha256(prompt.encode()).hexdigest()[:16],
            "answer": text,
            "prompt_tokens": usage.prompt_tokens if usage else 0,
            "completion_tokens": usage.completion_tokens if usage else 0,
        }
        try:
            return shape.model_validate(_json_object(text)), "", row
        # pydantic's ValidationError and JSONDecodeError are ValueErrors
        except (ValueError, RecursionError) as error:
            fault = f"the answer is not the JSON object that was asked for: {str(error)[:300]}"
            return None, fault, row

    def work(self, failure: Failure) -> GenerationResult:
        """Up to ATTEMPTS drafts for one failure."""
        tools = bfcl.tool_names(failure.class_name)
        values = {
            "domain": failure.class_name,
            "tools": ", ".join(tools),
            "question": failure.question,
            "error": failure.error,
            "trajectory": failure.trajectory,
            "call": json.dumps(failure.call._asdict()),
            "categories": " | ".join(CATEGORIES),
            "types": " | ".join(TYPES),
            "examples": _examples(failure.class_name, self.few_shot),
        }
        tasks = [bfcl.load_task(t) for t in failure.task_ids or (failure.task_id,)]
        truth = (
            "\n".join(map(str, bfcl.load_task(failure.task_id).ground_truth_source[failure.turn]))
            or "(asking the user)"
        )
        suggestions, tokens, status, number = "", [0, 0], "rejected", 0
        while number < ATTEMPTS:
            number += 1
            verdict = {"failure": failure.key, "attempt": number}
            try:
                feedback = f"An earlier attempt was refused: {suggestions}\n" if suggestions else ""
                draft, suggestions, row = self.ask(
                    "generator", values | {"suggestions": feedback}, Draft
                )
                self._count(tokens, row)
                if draft is None:
                    self.write(**verdict, **row, verdict="bad_json", why=suggestions)
                    continue
                kind = "draft" if draft.need_augmentation else "not_needed"
                self.write(**verdict, **row, verdict=kind, why="")
                if kind == "not_needed":
                    status = kind
                    break
                hint = draft.augmented_feedback
                judged, suggestions, row = self.ask(
                    "judge", values | {"hint": hint, "ground_truth": truth}, Judgement
                )
                self._count(tokens, row)
            except openai.OpenAIError as error:
                why = f"{type(error).__name__}: {error}"[:500]
                self.write(**verdict, role="server", verdict="failed", why=why)
                return GenerationResult(failure, "failed", None, number, *tokens)
            leaks = (constitution.leak(hint, task, failure.call, failure.error) for task in tasks)
            fault = constitution.violation(hint, tools) or next(
                (f"it gives away {leak!r}" for leak in leaks if leak), ""
            )
            if judged is None:
                refused = "bad_json"
            elif not judged.approved:
                refused, suggestions = "rejected", judged.suggestions or judged.reasoning
            elif fault:
                refused, suggestions = "caught_by_code", fault
            else:
                made = {
                    "made_by": self.endpoint.model,
                    "judged_by": row["model"],
                    "prompts": VERSION,
                    "prompt_hash": row["prompt_hash"],
                    "attempts": number,
                    "few_shot": self.few_shot,
                    "seen": failure.count,
                    "reviewed": False,
                }
                record = record_of(failure, draft, made)
                self.write(**verdict, **row, verdict="approved", why="", record=record)
                return GenerationResult(failure, "approved", record, number, *tokens)
            self.write(**verdict, **row, verdict=refused, why=suggestions)
        self.write(failure=failure.key, attempt=number, role="end", verdict=status, why=suggestions)
        return GenerationResult(failure, status, None, number, *tokens)

    @staticmethod
    def _count(tokens: list[int], row: dict) -> None:
        tokens[0] += row["prompt_tokens"]
        tokens[1] += row["completion_tokens"]


def attempts(log: Path) -> list[dict]:
    """The rows of an attempts.jsonl; a line torn by a kill is left out."""
    return list(read_lines(log, reopened=True)) if log.exists() else []


def _finished(log: Path) -> tuple[set[str], list[dict]]:
    """Failures that an earlier run finished, and the records it approved."""
    done, records = set(), []
    for row in attempts(log):
        if row["verdict"] == "approved":
            records.append(row["record"])
        if row["verdict"] == "approved" or row["role"] == "end":
            done.add(row["failure"])
    return done, records


def _keep(record: dict, folder: Path) -> None:
    """Append a record to generated_<class>.yaml, unless a record with its id is there already."""
    path = folder / f"generated_{record['class']}.yaml"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if record["id"] not in {known["id"] for known in yaml.safe_load(before) or ()}:
        added = yaml.safe_dump([record], sort_keys=False, allow_unicode=True, width=120)
        with atomic(path) as unfinished:  # half a record would make the library unreadable
            unfinished.write_text(before + added, encoding="utf-8")


def generate(
    failures: Sequence[Failure],
    endpoint: Endpoint,
    folder: Path,
    library: Path,
    few_shot: int = 4,
    workers: int = 4,
) -> list[GenerationResult]:
    """Work on every failure that no earlier run in `folder` finished; one result for each.

    Approved records go to `library`. few_shot: approved hints of the class that the Generator is
    shown; 0 is zero-shot.
    """
    run = _Run(endpoint, folder, few_shot)
    done, approved = _finished(run.log)
    for record in approved:  # a run may have been killed between its log and the library
        _keep(record, library)
    todo = [failure for failure in failures if failure.key not in done]
    results = []
    with (
        progress.bar(len(todo), "generating hints", "failure") as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        for result in pool.map(run.work, todo):
            if result.record:
                _keep(result.record, library)
            results.append(result)
            bar.update(1)
    return results


def tally(
    results: Sequence[GenerationResult], dollars_per_million: tuple[float, float] = (0.0, 0.0)
) -> dict[str, float]:
    """Counts by status, attempts, tokens, and the cost [$].

    dollars_per_million: the price of a million prompt and completion tokens.
    """
    prompt, completion = (
        sum(getattr(r, f"{kind}_tokens") for r in results) for kind in ("prompt", "completion")
    )
    return {
        **{status: sum(r.status == status for r in results) for status in STATUSES},
        "attempts": sum(r.attempts for r in results),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "dollars": (prompt * dollars_per_million[0] + completion * dollars_per_million[1]) / 1e6,
    }
