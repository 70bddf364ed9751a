import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envtune import bfcl
from envtune.bfcl import results
from envtune.env import protocol

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    max_leaves=6,
)
words = st.text(
    alphabet=st.characters(blacklist_characters="<>", blacklist_categories=("Cs",)), max_size=30
)


@given(st.text(max_size=400))
def test_any_text_is_read_without_an_exception(text):
    parsed = protocol.parse(text)
    assert sum(x not in (None, ()) for x in parsed) == 1  # calls, an answer, or an error


@given(
    st.lists(
        st.sampled_from(
            [
                "<think>",
                "</think>",
                "<tool_call>",
                "</tool_call>",
                "<answer>",
                "</answer>",
                "[",
                "]",
                "{",
                "}",
                '"name"',
                '"arguments"',
                ":",
                ",",
                " ",
                "x",
                "NaN",
                "1e999",
            ]
        ),
        max_size=30,
    )
)
def test_scrambled_protocol_pieces_are_read_without_an_exception(pieces):
    assert sum(x not in (None, ()) for x in protocol.parse("".join(pieces))) == 1


@given(
    words,
    st.lists(
        st.tuples(words.filter(bool), st.dictionaries(words, json_values, max_size=3)),
        min_size=1,
        max_size=3,
    ),
)
def test_well_formed_calls_come_back_as_they_were_written(thought, calls):
    body = json.dumps([{"name": n, "arguments": a} for n, a in calls])
    if any(tag in body for tag in ("<", ">")):
        return
    parsed = protocol.parse(f" <think>{thought}</think>\n<tool_call>{body}</tool_call> ")
    assert parsed.calls == tuple(calls)


@pytest.mark.parametrize(
    "message, part",
    [
        ("", "found 0"),
        ("<think>a</think>", "exactly one of"),
        ("<answer>x</answer>", "found 0"),
        ("<think>a</think><think>b</think><answer>x</answer>", "<think> is opened 2"),
        ("<think>a</think><answer>x</answer><answer>y</answer>", "<answer> is opened 2"),
        ("<think>a</think><tool_call>[]</tool_call><answer>x</answer>", "exactly one of"),
        ("<answer>x</answer><think>a</think>", "think block first"),
        ("<think>a</think>ok<answer>x</answer>", "nothing else"),
        ("<think>a</think><answer>x</answer>.", "nothing else"),
        ("<think>a<answer>x</answer>", "closed 0 times"),
        ("<think>a</think><tool_call>[]</tool_call>", "holds no call"),
        ("<think>a</think><tool_call>[1]</tool_call>", "each call is an object"),
        (
            '<think>a</think><tool_call>{"name": 1, "arguments": {}}</tool_call>',
            "each call is an object",
        ),
        ('<think>a</think><tool_call>{"name": "ls"}</tool_call>', 'needs "arguments"'),
        (
            '<think>a</think><tool_call>{"name": "ls", "arguments": []}</tool_call>',
            'needs "arguments"',
        ),
        (
            '<think>a</think><tool_call>{"name": "ls", "name": "cd", "arguments": {}}</tool_call>',
            "occurs twice",
        ),
        (
            '<think>a</think><tool_call>{"name": "ls", "arguments": {"a": NaN}}</tool_call>',
            "not a JSON number",
        ),
        (
            "<think>a</think><tool_call>" + "[" * 10_000 + "]" * 10_000 + "</tool_call>",
            "levels deep",
        ),
        (
            '<think>a</think><tool_call>{"name": "f", "arguments": {"a": '
            + "9" * 5000
            + "}}</tool_call>",
            "not valid JSON",
        ),
        ("<think>" + "a" * 300_000 + "</think><answer>x</answer>", "characters"),
    ],
)
def test_a_broken_message_is_named_by_the_rule_it_broke(message, part):
    parsed = protocol.parse(message)
    assert part in parsed.error


def test_a_message_may_hold_a_hundred_calls_and_no_more():
    def body(n):
        return json.dumps([{"name": "ls", "arguments": {}}] * n)

    assert len(protocol.parse(f"<think>a</think><tool_call>{body(100)}</tool_call>").calls) == 100
    assert (
        "101 calls, at most 100"
        in protocol.parse(f"<think>a</think><tool_call>{body(101)}</tool_call>").error
    )


def test_half_a_surrogate_pair_never_reaches_what_is_read():
    [call] = protocol.parse(
        '<think>a</think><tool_call>{"name": "echo", "arguments": {"content": '
        '"\\ud800"}}</tool_call>'
    ).calls
    protocol.tool_feedback([call], [call.arguments["content"]]).encode("utf-8")


tags = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>"]


@given(
    st.lists(
        st.sampled_from([*tags, "<", "x", " ", "\n", '{"name": "ls", "arguments": {}}']),
        max_size=12,
    )
)
def test_the_shape_of_a_message_is_that_of_one_pattern(pieces):
    """The quick path of `parse` against the rule as a pattern: each pair of tags once, think first,
    nothing outside."""
    message = "".join(pieces)
    shape = re.fullmatch(
        r"\s*<think>.*?</think>\s*<(tool_call|answer)>.*</\1>\s*", message, re.DOTALL
    )
    whole = shape is not None and all(
        message.count(f"<{t}>") == message.count(f"</{t}>") == (t in ("think", shape.group(1)))
        for t in protocol.TAGS
    )
    parsed = protocol.parse(message)
    inside = (
        parsed.error is None
        or "JSON" in parsed.error
        or "tool_call block" in parsed.error
        or "each call" in parsed.error
    )
    assert inside == whole


pairs = st.recursive(
    st.integers() | st.text(alphabet="ab:", max_size=3),
    lambda x: (
        st.lists(x, max_size=3)
        | st.lists(st.tuples(st.sampled_from(["a", "b", "name", "arguments"]), x), max_size=3).map(
            tuple
        )
    ),
)


def dumped(value) -> str:
    """JSON in which a tuple of pairs is an object, also with a key twice."""
    if isinstance(value, tuple):
        return "{" + ", ".join(f"{json.dumps(k)}: {dumped(v)}" for k, v in value) + "}"
    return (
        "[" + ", ".join(map(dumped, value)) + "]" if isinstance(value, list) else json.dumps(value)
    )


def doubled(value) -> bool:
    """Whether a key occurs twice in one object."""
    if isinstance(value, tuple):
        return len({k for k, _ in value}) < len(value) or any(doubled(v) for _, v in value)
    return isinstance(value, list) and any(map(doubled, value))


@given(st.lists(pairs, min_size=1, max_size=3))
def test_a_key_that_occurs_twice_is_found_wherever_it_is(values):
    calls = [(("name", "f"), ("arguments", (("x", value),))) for value in values]
    error = protocol.parse(f"<think>a</think><tool_call>{dumped(calls)}</tool_call>").error
    assert (error is not None and "occurs twice" in error) == doubled(values)


def test_brackets_inside_strings_do_not_count_as_nesting():
    body = json.dumps({"name": "echo", "arguments": {"content": '[[{"' * 50 + "\\"}})
    assert (
        protocol.parse(f"<think>a</think><tool_call>{body}</tool_call>")
        .calls[0]
        .arguments["content"]
        .startswith('[[{"')
    )


def test_prompts_differ_by_rules_and_doc_style():
    docs = bfcl.tool_docs(bfcl.load_task("multi_turn_base_3"), 0)
    plain, ruled, compact = (
        protocol.system_prompt(docs),
        protocol.system_prompt(docs, rules=True),
        protocol.system_prompt(docs, compact=True),
    )
    assert "Never invent" in ruled and "Never invent" not in plain
    assert all(f'"name": "{d["name"]}"' in plain and f"{d['name']}(" in compact for d in docs)
    assert len(compact) < len(plain) / 5


def test_long_results_are_cut_with_a_count():
    assert results.shorten("a" * 50, 50) == "a" * 50
    assert results.shorten("a" * 51, 50) == "a" * 50 + " … [1 more characters]"


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ('{"name": "a", "name": "a", "arguments": {}} x', "Extra data"),
        ('{"name": "a", "name": "a", "arguments": {}', "Expecting ','"),
        ('{"name": "a", "name": "a", "arguments": {}}', "a key occurs twice"),
        ("[" * 33, "Expecting value"),
    ],
)
def test_a_syntax_error_is_named_before_a_key_that_occurs_twice(body, rule):
    """What an agent reads is part of a run: another text would change the tokens it trains on."""
    error = protocol.parse(f"<think>x</think><tool_call>{body}</tool_call>").error
    assert error and rule in error
