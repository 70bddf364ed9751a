import json
from dataclasses import replace

import pytest
import yaml
from conftest import HINT, tool_call
from hypothesis import given
from hypothesis import strategies as st

from envtune import Episode, bfcl, hints, replay
from envtune.bfcl import Call
from envtune.hints import library

TRAVEL = next(t.id for t in bfcl.load_tasks().values() if "TravelAPI" in t.classes)
CASES = [
    ("multi_turn_base_3", "rm", {"file_name": "a/b.txt"}, "gfs-path-as-name"),
    ("multi_turn_base_3", "grep", {"file_name": "a/b.txt", "pattern": "x"}, "gfs-path-as-name"),
    ("multi_turn_base_3", "mv", {"source": "a/b.txt", "destination": "c"}, "gfs-source-path"),
    (
        "multi_turn_base_3",
        "cp",
        {"source": "projects", "destination": "a/b"},
        "gfs-destination-path",
    ),
    ("multi_turn_base_3", "cat", {"file_name": "nowhere.txt"}, "gfs-not-here"),
    ("multi_turn_base_3", "cd", {"folder": "projects/photography"}, "gfs-cd-one-level"),
    (
        TRAVEL,
        "get_flight_cost",
        {
            "travel_from": "Rivermist",
            "travel_to": "LAX",
            "travel_date": "2024-01-01",
            "travel_class": "economy",
        },
        "travel-route-by-code",
    ),
    (
        "multi_turn_base_50",
        "estimate_distance",
        {"cityA": "Rivermist", "cityB": "Stonebrook"},
        "vehicle-distance-by-zipcode",
    ),
    ("multi_turn_base_50", "startEngine", {"ignitionMode": "START"}, "vehicle-brake"),
]


@pytest.mark.parametrize("task_id, tool, arguments, hint_id", CASES)
def test_the_papers_case_studies_carry_their_hint_and_keep_the_error(
    task_id, tool, arguments, hint_id
):
    plain, hinted = (
        replay(task_id, [tool_call((tool, arguments))], hint_rate=rate).steps[0]
        for rate in (0.0, 1.0)
    )
    assert hinted.hints == (hint_id,) and plain.hints == (None,)
    assert plain.results == hinted.results and plain.code == hinted.code
    shown = json.loads(hinted.shown[0])
    assert hinted.shown[0] in hinted.feedback
    assert shown["hint"] and shown["error"] == hints.is_error(plain.results[0])


def test_a_success_is_never_changed():
    for text in (
        '{"matches": []}',
        "None",
        '{"file_content": "an \\"error\\" in a file"}',
        "error",
        '["error"]',
    ):
        assert hints.augment(
            bfcl.load_task("multi_turn_base_3"), Call("cat", {"file_name": "a/b"}), text
        ) == (text, None)


def test_other_fields_of_an_error_stay():
    task = bfcl.load_task(TRAVEL)
    shown, hint_id = hints.augment(
        task, Call("book_flight", {}), '{"booking_status": false, "error": "Card not registered"}'
    )
    assert hint_id == "travel-card" and json.loads(shown)["booking_status"] is False


def test_every_record_is_short_and_leaks_no_ground_truth_of_any_task():
    records = hints.load_hints()
    assert {h.class_name for h in records} == {*bfcl.CLASSES, "*"}
    for hint in records:
        call = Call((*hint.tools, "nowhere")[0], {})
        for task in (t for t in bfcl.load_tasks().values() if hint.class_name in (*t.classes, "*")):
            assert not hints.leak(hint.render(call), task, call, ""), (hint.id, task.id)


def test_a_hint_that_names_a_value_of_the_ground_truth_is_dropped(monkeypatch):
    task = bfcl.load_task("multi_turn_base_3")
    leaking = library._hint(HINT | {"hint": "Try photography."}, "test")
    monkeypatch.setattr(library, "load_hints", lambda: (leaking,))
    error = '{"error": "no"}'
    assert hints.augment(task, Call("cd", {"folder": "x"}), error) == (error, None)
    assert (
        hints.augment(task, Call("cd", {"folder": "photography"}), error)[1] == "x"
    )  # the agent wrote it itself


def test_slots_take_only_the_calls_own_values():
    record = library._hint(HINT | {"hint": "{folder} and {other} and {folder.__class__}"}, "test")
    assert (
        record.render(Call("cd", {"folder": "f" * 99}))
        == "f" * 60 + " and other and {folder.__class__}"
    )


@pytest.mark.parametrize(
    "change, part",
    [
        ({"category": "wrong"}, "category is one of"),
        ({"type": "wrong"}, "category is one of"),
        ({"class": "Nobody"}, "class is one of"),
        ({"tools": ["teleport"]}, "no tool teleport"),
        ({"when": {}}, "needs `error`"),
        ({"when": {"error": "("}}, "regular expression"),
        ({"hint": "word " * 61}, "61 words"),
        ({"extra": 1}, "exactly the fields"),
        ({"when": None}, "when is of type dict, got None"),
        ({"when": {"error": 404}}, "patterns as texts"),
        ({"when": {"error": "x", "arguments": ["a"]}}, "patterns as texts"),
        ({"hint": 5}, "hint is of type str, got 5"),
    ],
)
def test_a_faulty_record_is_refused_with_file_and_reason(tmp_path, change, part):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump([HINT | change]))
    with pytest.raises(ValueError, match="bad.yaml") as caught:
        hints.load_hints(tmp_path)
    assert part in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "just a text", "1"])
def test_a_file_that_is_no_list_of_records_is_named(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match="bad.yaml"):
        hints.load_hints(tmp_path)


def test_a_double_id_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump([HINT, HINT]))
    with pytest.raises(ValueError, match="more than once"):
        hints.load_hints(tmp_path)


@given(
    st.sampled_from([(*h.tools, "nowhere")[0] for h in hints.load_hints()]),
    st.dictionaries(st.text(max_size=8), st.text(max_size=20) | st.integers()),
    st.text(max_size=60),
)
def test_any_result_is_augmented_without_an_exception(tool, arguments, text):
    shown, hint_id = hints.augment(bfcl.load_task("multi_turn_base_3"), Call(tool, arguments), text)
    assert hint_id is not None or shown == text


@pytest.mark.parametrize(
    "text, part",
    [
        ("Call cd(folder='docs') now.", "writes a call"),
        ("Step 1: look. Step 2: go.", "numbers steps"),
        ("1. look 2. go", "numbers steps"),
        ("Use get_user_id and then send_message.", "names 2 tools"),
        ("word " * 61, "61 words"),
        ("  ", "empty"),
        ("Look at the list of users.", ""),
    ],
)
def test_the_constitution_in_code_names_the_rule_that_a_text_breaks(text, part):
    found = hints.violation(text, bfcl.tool_names("MessageAPI") + ("cd",))
    assert (part in found) if part else found == ""


def test_a_leak_is_found_in_nested_values_and_names_of_arguments_are_none():
    edits = [
        (t, str(v))
        for t in bfcl.load_tasks().values()
        for turn in t.ground_truth
        for c in turn
        if c.name == "edit_ticket"
        for v in c.arguments["updates"].values()
    ]
    task, value = next((t, v) for t, v in edits if len(v) > 2)
    assert hints.leak(f"Set it to {value}.", task, Call("get_ticket", {}), "no") == value
    assert not hints.leak("Look at the ticket_id again.", task, Call("get_ticket", {}), "no")


ERROR = tool_call(("cat", {"file_name": "a/b"}))


@pytest.mark.parametrize(
    "kind, part",
    [
        ("vague", "try something else"),
        ("contradictory", "Repeat it unchanged"),
        ("no_judge", "Run cd for each folder"),
        ("over_specific", "Call find("),
        ("shuffled", ""),
    ],
)
def test_a_corruption_changes_what_is_read_and_nothing_else(kind, part):
    def play(corruption):
        episode = Episode("multi_turn_base_3", hint_rate=1.0, seed=5, corruption=corruption)
        for message in (ERROR, tool_call(("ls", {})), "<think>x</think><answer>y</answer>"):
            episode.step(message)
        return episode.record

    clean, bad = play(hints.NONE), play(hints.Corruption(kind, 1.0))
    assert bad.steps[0].hints == (f"gfs-path-as-name!{kind}",) and part in bad.steps[0].feedback
    assert (
        bad.steps[0].feedback != clean.steps[0].feedback
        and bad.steps[0].results == clean.steps[0].results
    )
    assert (
        bad.codes == clean.codes
        and bad.verdicts == clean.verdicts
        and bad.steps[1] == clean.steps[1]
    )
    assert play(hints.Corruption(kind, 1.0)) == bad and play(hints.Corruption(kind, 0.0)) == clean


def test_a_corruption_applies_at_its_rate():
    corruption = hints.Corruption("vague", 0.25)
    assert 400 < sum(corruption.applies(f"{i}") for i in range(2000)) < 600
    assert not any(hints.Corruption("none", 1.0).applies(f"{i}") for i in range(50))


@pytest.mark.parametrize("changes", [{"kind": "unkind"}, {"kind": "vague", "rate": 1.5}])
def test_an_unknown_corruption_is_refused(changes):
    with pytest.raises(ValueError, match="corruption"):
        hints.Corruption(**changes)


def test_every_unjudged_draft_belongs_to_a_record():
    from envtune.hints.corruption import drafts

    assert set(drafts()) <= {h.id for h in hints.load_hints()} and len(drafts()) >= 10


OWN = {
    "id": "my-brake",
    "class": "VehicleControlAPI",
    "tools": ["startEngine"],
    "when": {"error": "(?i)brake"},
    "hint": "Think of the pedal first.",
    "category": "state_prerequisite",
    "type": "suggest_prerequisite",
    "provenance": {"made_by": "hand", "approved_by": "hand"},
}


def test_a_hint_of_ones_own_speaks_before_those_of_the_library_for_a_while(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump([OWN]))
    start = tool_call(("startEngine", {"ignitionMode": "START"}))

    def shown():
        return replay("multi_turn_base_50", [start], hint_rate=1.0).steps[0].hints

    assert shown() == ("vehicle-brake",) and not hints.added_folders()
    with pytest.raises(KeyError), hints.added(str(tmp_path)):  # a path as text will do
        assert shown() == ("my-brake",) and list(hints.added_folders()) == [tmp_path]
        raise KeyError
    assert shown() == ("vehicle-brake",) and not hints.added_folders()


def test_the_folder_added_last_speaks_first_as_it_was_when_it_was_added(tmp_path):
    start = tool_call(("startEngine", {"ignitionMode": "START"}))
    folders = [tmp_path / "a" / "hints", tmp_path / "b" / "hints"]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        record = OWN | {"id": f"mine-{number}", "class": "*", "tools": ["*"], "provenance": {}}
        (folder / "mine.yaml").write_text(yaml.safe_dump([record]))

    def shown():
        return replay("multi_turn_base_50", [start], hint_rate=1.0).steps[0].hints[0]

    with hints.added(folders[0]):
        assert shown() == "mine-0"
        with hints.added(folders[1]):
            assert shown() == "mine-1" and list(hints.added_folders()) == folders[::-1]
            before = hints.added_folders()
            (folders[1] / "mine.yaml").write_text("[]")
            assert shown() == "mine-1" and hints.added_folders() == before
            hints.add_folder(folders[0])
            assert shown() == "mine-0"
        assert shown() == "mine-0" and list(hints.added_folders()) == folders[:1]


def test_a_taken_id_is_refused_and_leaves_all_as_it_was(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump([OWN | {"id": "vehicle-brake"}]))
    known = hints.load_hints()
    with pytest.raises(ValueError, match="more than once"):
        hints.add_folder(tmp_path)
    assert hints.load_hints() == known and not hints.added_folders()


def test_a_folder_without_a_hint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no hint"):
        hints.add_folder(tmp_path / "mistyped")
    assert not hints.added_folders()


def test_a_value_is_read_within_one_argument_and_not_across_two():
    truth = Call("mkdir", {"dir_name": "budget analysis"})
    task = replace(bfcl.load_task("multi_turn_base_3"), ground_truth=((truth,),))
    for arguments in ({"a": "budget", "b": "analysis"}, {"a": "analysis", "b": "budget"}):
        assert hints.leak("Try budget analysis.", task, Call("mv", arguments), "no")
    assert not hints.leak("Try budget analysis.", task, Call("mv", {"a": "budget analysis"}), "no")
