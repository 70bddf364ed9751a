"""Observations and verdicts against BFCL's own execute and check functions, on calls that are safe
to give to them.

BFCL builds Python source from a call and evaluates it, so only documented tools with harmless
literals go there: no parentheses in texts (it rewrites them), no large numbers, and nothing that
rests on what it shares between episodes (see toolbox._OUTSIDE).
"""

import itertools
import json

import pytest
from conftest import ANSWER, tool_call
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from envtune import Episode, bfcl
from envtune.bfcl import Call, checker
from envtune.bfcl.results import as_text
from envtune.bfcl.toolbox import Toolbox
from envtune.env import rewards
from envtune.env.episode import EVALUATION

TASKS = [
    t
    for t in bfcl.load_tasks().values()
    if t.scenario % 9 == 0 and not (t.split == "long_context" and "TravelAPI" in t.classes)
]
LEFT_OUT = {"get_outside_temperature_from_google", "logarithm", "square_root", "power"}
ARGUMENTS = {
    "post_tweet": {"content": "x", "tags": ["#x"], "mentions": ["@x"]},
    "edit_ticket": {"ticket_id": 1, "updates": {"title": "x"}},
}
counter = itertools.count()

harmless = (
    st.text(alphabet="abcxyz .-_/äß🦍", max_size=12)
    | st.integers(-1000, 1000)
    | st.booleans()
    | st.none()
    | st.floats(-1000, 1000).map(lambda x: round(x, 3))
    | st.lists(st.text(alphabet="ab", max_size=3), max_size=3)
)


class BFCL:
    """BFCL's executor with instances of its own, which it keeps in its module's namespace: taken
    out again at the end."""

    def __init__(self, task):
        self.task, self.name = task, f"exact{next(counter)}"

    def __enter__(self):
        return self

    def execute(self, calls, truth=False):
        from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import (
            execute_multi_turn_func_call,
        )

        return execute_multi_turn_func_call(
            [c.source() for c in calls],
            self.task.initial_config,
            list(self.task.classes),
            self.name + "_truth" * truth,
            self.task.id,
            long_context=self.task.split == "long_context",
        )

    def valid(self, steps_by_turn):
        from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

        entry = {
            "initial_config": self.task.initial_config,
            "involved_classes": list(self.task.classes),
            "id": self.task.id,
        }
        steps = [[[c.source() for c in step] for step in turn] for turn in steps_by_turn]
        return multi_turn_checker(
            steps,
            [list(t) for t in self.task.ground_truth_source],
            entry,
            "multi_turn",
            self.name + "_check",
        )["valid"]

    def __exit__(self, *_):
        from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_utils

        for name in [n for n in vars(multi_turn_utils) if n.startswith(self.name)]:
            delattr(multi_turn_utils, name)


@st.composite
def plays(draw):
    """A task and calls as [turn][call], near enough to the ground truth that turns are both won and
    lost."""
    task = draw(st.sampled_from(TASKS))
    docs = [doc for doc in bfcl.docs_of(task.classes) if doc["name"] not in LEFT_OUT]
    values = sorted(
        {json.dumps(v) for turn in task.ground_truth for c in turn for v in c.arguments.values()}
    )
    known = st.sampled_from([json.loads(v) for v in values]) if values else harmless

    def any_call():
        doc = draw(st.sampled_from(docs))
        arguments = {
            name: draw(known | harmless)
            for name in doc["parameters"]["properties"]
            if draw(st.integers(0, 9))
        }
        if draw(st.integers(0, 14)) == 0:
            arguments["no_such_argument"] = 1
        return Call(doc["name"], ARGUMENTS.get(doc["name"], {}) | arguments)

    turns = []
    for truth in task.ground_truth:
        calls = [Call(c.name, dict(c.arguments)) for c in truth if c.name not in LEFT_OUT]
        if draw(st.integers(0, 3)) == 0 and calls:
            what, at = (
                draw(st.sampled_from(["drop", "double", "bend", "swap", "last"])),
                draw(st.integers(0, len(calls) - 1)),
            )
            if what == "drop":
                calls.pop(at)
            elif what == "double":
                calls.insert(at, calls[at])
            elif what == "swap":
                calls.reverse()
            elif what == "last":
                calls.append(calls[at])
            elif calls[at].arguments:
                key = draw(st.sampled_from(sorted(calls[at].arguments)))
                calls[at] = Call(
                    calls[at].name, calls[at].arguments | {key: draw(known | harmless)}
                )
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
            calls.insert(draw(st.integers(0, len(calls))), any_call())
        turns.append(calls or [any_call()])
    assume("(" not in json.dumps(turns))
    for call in itertools.chain(*turns):
        if call.name == "post_tweet":  # its default lists are shared between BFCL's instances
            assume({"tags", "mentions"} <= set(call.arguments))
        if call.name == "edit_ticket":  # several unknown fields are printed in the order of a set
            assume(
                not isinstance(call.arguments.get("updates"), dict)
                or len(call.arguments["updates"]) < 2
            )
    return task, turns


@settings(max_examples=250)
@given(plays())
def test_observations_read_as_bfcls_executor_prints_them(play):
    task, turns = play
    box = Toolbox(task)
    with BFCL(task) as reference:
        for calls in turns:
            ours = [box.execute(call) for call in calls]
            assume(
                not any("the directory tree" in text or "Must be one of {" in text for text in ours)
            )
            assert ours == reference.execute(calls)[0]


@settings(max_examples=250)
@given(plays())
def test_verdicts_agree_with_bfcls_checkers(play):
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import (
        response_checker,
        state_checker,
    )

    task, turns = play
    episode = Episode(task, EVALUATION)
    for calls in turns:
        episode.step(tool_call(*calls))
        episode.step(ANSWER)
    record = episode.record
    expected, results = [], []
    with BFCL(task) as reference:
        for calls, truth in zip(turns, task.ground_truth, strict=True):
            texts, instances = reference.execute(calls)
            results += texts
            assume(not any("Must be one of {" in text for text in texts))
            truth_texts, truth_instances = reference.execute(truth, truth=True)
            expected.append(
                state_checker(instances, truth_instances)["valid"]
                and response_checker(results, truth_texts, 0)["valid"]
            )
        judged = [turn for turn, truth in enumerate(task.ground_truth) if truth]
        assert [record.verdicts[t].success for t in judged] == [expected[t] for t in judged]
        assert all(bool(v.why) != v.success for v in record.verdicts)
        assert bfcl.official_valid(record) == reference.valid([[calls] for calls in turns])
        assert (
            rewards.progress_reward(record) == sum(v.success for v in record.verdicts) / task.turns
        )


@pytest.mark.parametrize("split", bfcl.SPLITS)
def test_the_ground_truth_leaves_what_bfcls_executor_leaves(split):
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import state_checker

    for task in (t for t in TASKS if t.split == split):
        with BFCL(task) as reference:
            for turn, truth in zip(task.ground_truth, checker.ground_truth(task), strict=True):
                texts, instances = reference.execute(turn)
                assert (
                    state_checker(truth.instances, instances)["valid"]
                    and state_checker(instances, truth.instances)["valid"]
                )
                assert [
                    text
                    for text, call in zip(truth.results, turn, strict=True)
                    if call.name not in LEFT_OUT
                ] == [
                    text
                    for text, call in zip(texts, turn, strict=True)
                    if call.name not in LEFT_OUT
                ]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(), x, max_size=4),
)


@given(
    st.dictionaries(st.text() | st.integers() | st.none() | st.booleans(), values, max_size=4)
    | values
)
def test_results_are_printed_as_json_dumps_prints_them(result):
    expected = json.dumps(result) if isinstance(result, dict) else str(result)
    assert as_text(result) == expected


def test_long_constants_are_printed_as_json_dumps_prints_them():
    Toolbox(TASKS[0])
    for constant in bfcl.long_context_constants():
        for result in (
            {"a": 1.5, "ä": constant, "b": None},
            {"a": constant},
            {"a": [1], "x": constant, "y": constant},
        ):
            assert as_text(result) == json.dumps(result)
