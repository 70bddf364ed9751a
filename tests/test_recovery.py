import pandas as pd
import pytest
from conftest import ANSWER, ground_truth_messages, tool_call

from envtune import replay
from envtune.env import recovery
from envtune.env.recovery import errors, rates

CAT = ("cat", {"file_name": "nowhere"})
LS, CD = ("ls", {}), ("cd", {"folder": "projects"})
BASE, CARS = "multi_turn_base_3", "multi_turn_base_89"
GUESS = tool_call(("estimate_distance", {"cityA": "Rivermist", "cityB": "Stonebrook"}))
RIGHT = tool_call(
    ("get_zipcode_based_on_city", {"city": "Rivermist"}),
    ("get_zipcode_based_on_city", {"city": "Stonebrook"}),
    ("estimate_distance", {"cityA": "83214", "cityB": "74532"}),
)


def only(record):
    [row] = errors([record]).to_dict("records")
    return row


def test_an_error_is_recovered_by_the_next_call_of_its_tool_in_the_turn():
    row = only(replay(CARS, [GUESS, RIGHT, ANSWER]))
    assert row["recovered"] and row["retried"] and row["turn_won"] and not row["hinted"]
    assert (row["tool"], row["category"], row["split"]) == (
        "estimate_distance",
        "dependency_missing",
        "base",
    )


def test_an_error_that_is_repeated_or_left_alone_is_not_recovered():
    first, second = errors([replay(CARS, [GUESS, GUESS, ANSWER])]).to_dict("records")
    assert (
        first["retried"]
        and not first["recovered"]
        and not second["retried"]
        and not second["recovered"]
        and not first["turn_won"]
    )
    assert not only(replay(BASE, [tool_call(CAT), tool_call(LS), ANSWER]))["retried"]


def test_only_what_comes_after_the_error_was_read_counts():
    row = only(replay(BASE, [tool_call(("cd", {"folder": "nowhere"}), CD)]))
    assert not row["retried"]  # the second call stood in the same message
    row = only(replay(BASE, [tool_call(("cd", {"folder": "nowhere"})), ANSWER, tool_call(CD)]))
    assert not row["retried"]  # and this one in the next turn


def test_hints_are_told_apart_and_exceptions_count_too():
    row = only(replay(BASE, [tool_call(("teleport", {}))], hint_rate=1.0))
    assert (
        row["hinted"]
        and row["hint"] == "any-unknown-tool"
        and row["category"] == "resource_unavailable"
    )


def test_shares_come_with_counts_and_intervals():
    events = errors(
        [
            replay(CARS, [GUESS, RIGHT, ANSWER]),
            replay(CARS, [GUESS, ANSWER], hint_rate=1.0),
            replay(CARS, [GUESS, RIGHT, ANSWER], hint_rate=1.0),
        ]
    )
    whole = rates(events).iloc[0]
    assert (
        whole["n"] == 3
        and whole["recovered"] == pytest.approx(2 / 3)
        and whole["low"] < 2 / 3 < whole["high"]
    )
    assert (whole["low"], whole["high"]) == (0.0, 1.0)  # one scenario says nothing of others
    split = rates(events, by=["hinted", "category"]).set_index("hinted")
    assert (
        split.loc[True, "n"] == 2
        and split.loc[True, "recovered"] == 0.5
        and split.loc[False, "recovered"] == 1.0
    )


def test_no_error_gives_an_empty_table_with_its_columns():
    events = errors([replay(BASE, ground_truth_messages(BASE))])
    assert list(events.columns) == list(recovery.COLUMNS) and events.empty
    assert (
        rates(events).empty
        and rates(events, by=["hinted"]).empty
        and isinstance(rates(events), pd.DataFrame)
    )


def test_half_a_surrogate_pair_in_a_call_stops_no_table():
    message = (
        '<think>x</think><tool_call>[{"name": "cd", "arguments": {"folder": "\\ud800"}}]'
        "</tool_call>"
    )
    record = replay("multi_turn_base_3", [message])
    events = errors([record])
    assert len(events) == 1 and events["error"].iloc[0].isprintable()
