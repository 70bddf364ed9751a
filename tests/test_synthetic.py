"""Synthetic tasks: 20,000 of them are played right, wrong and compared; each check prints how much
it saw (pytest -s)."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
from conftest import ground_truth_messages, own_module

from envtune import bfcl, hints, replay
from envtune.bfcl import splits, synthetic
from envtune.bfcl.synthetic import draw
from envtune.bfcl.synthetic.tasks import _FOLLOW_UPS, _HELD_OUT, _UNSEEN_FOLLOW_UPS
from envtune.bfcl.toolbox import Toolbox
from envtune.common import paths
from envtune.env import domains, rewards

FIXED, OPEN = range(400), range(1000, 5900)  # 20,000 training-side tasks and 1,200 held-out ones
NUMBERS, COMPARED = (
    [*FIXED, *OPEN],
    range(400, 1000),
)  # the latter are not played, only compared with the others
SHELL = {("cd", "..")}
"""Constants that no documentation tells, and everybody knows: the folder above."""
ENABLING = frozenset(
    "cd message_login authenticate_twitter ticket_login trading_login lockDoors pressBrakePedal "
    "add_contact touch "
    "startEngine".split()
)
"""Calls that change what the next call finds. All others of a turn with several calls only tell the
agent something (an id, a price),
or are acts side by side: a checker, which is given the calls, takes those in either order."""
SIDE_BY_SIDE = [["startEngine", "set_navigation"]]
SHOWN = bfcl.Call(
    "displayCarStatus", {"option": "parkingBrake"}
)  # what the call before it has changed
DIGEST = "88039695b40c20ee"
PINNED = [
    *synthetic.task_ids([0, 1, 50, 99, 100, 124, 200, 201, 202, 299, 300, 999]),
    *synthetic.task_ids(range(1000, 1034)),
    *synthetic.task_ids([7, 205, 1_000_000_000]),
    *(
        f"synthetic_{v}_3{more}"
        for v in bfcl.SPLITS
        for more in ("_t1", "_d2", "_t4_d0", "_TicketAPI")
    ),
]


def scalars(value) -> list:
    """Every value in an argument, without the keys of objects (they are parameters)."""
    if isinstance(value, dict):
        return [s for v in value.values() for s in scalars(v)]
    if isinstance(value, (list, tuple)):
        return [s for v in value for s in scalars(v)]
    return [value]


def stands_in(value, text: str) -> bool:
    forms = {str(value)} | (
        {str(int(value))} if isinstance(value, float) and value.is_integer() else set()
    )
    return any(re.search(rf"(?<![\w.]){re.escape(form)}(?!\w)", text) for form in forms)


def words_of(value) -> list[str]:
    """Every word in a text, or in a JSON value with its keys."""
    if isinstance(value, dict):
        return words_of([*value, *value.values()])
    if isinstance(value, (list, tuple)):
        return [word for v in value for word in words_of(v)]
    return re.findall("[a-z]+", value.lower()) if isinstance(value, str) else []


def documentation(task, tool: str) -> str:
    return next(json.dumps(doc) for doc in bfcl.docs_of(task.classes) if doc["name"] == tool)


def valid(task, turns) -> bool:
    """BFCL's checker on calls given a turn, all of a turn in one message."""
    return bfcl.official_check(task, [[list(calls)] if calls else [] for calls in turns])


@dataclass
class Census:
    """What playing every task showed. `faults` holds what must not be, by check."""

    counts: Counter = field(default_factory=Counter)
    faults: dict = field(default_factory=lambda: defaultdict(list))
    words_and_calls: Counter = field(default_factory=Counter)
    whole: Counter = field(default_factory=Counter)
    keys: dict = field(default_factory=lambda: defaultdict(set))
    said: dict = field(default_factory=lambda: defaultdict(list))
    """Side of the held-out line -> (text without credentials, task id, its request's phrasings)."""
    words: dict = field(default_factory=lambda: defaultdict(set))
    """Novelty -> every word in texts, states and calls."""
    states: dict = field(default_factory=dict)

    def note(self, check: str, fault: bool, what) -> None:
        self.counts[check] += 1
        if fault:
            self.faults[check].append(what)


def play(census: Census, task) -> None:
    """The ground truth is right; wrong without any one call, with none, and in another order."""
    truth = task.ground_truth
    census.note("ground truth is valid", not valid(task, truth), task.id)
    census.note("doing nothing loses", valid(task, [()] * task.turns), task.id)
    for turn, calls in enumerate(truth):
        for left_out in range(len(calls)):
            rest = list(truth)
            rest[turn] = calls[:left_out] + calls[left_out + 1 :]
            census.note("a call left out loses", valid(task, rest), (task.id, calls[left_out]))
        if len(calls) > 1:
            wins = valid(task, [*truth[:turn], calls[::-1], *truth[turn + 1 :]])
            ordered = calls[-1] == SHOWN or any(call.name in ENABLING for call in calls[:-1])
            if ordered and [call.name for call in calls] not in SIDE_BY_SIDE:
                census.note("a turn in reverse loses", wins, (task.id, turn))
            else:
                census.note("a turn whose calls commute wins in reverse", not wins, (task.id, turn))
    full = [turn for turn, calls in enumerate(truth) if calls]
    if len(full) > 1:
        moved = list(truth)
        for place, turn in enumerate(full):
            moved[turn] = truth[full[place - 1]]
        census.note("turns moved round by one lose", valid(task, moved), task.id)


def read(census: Census, task) -> None:
    """Every argument is known when it is needed: from the user, from a result, or from the tool's
    documentation."""
    box, known = Toolbox(task), ""
    for text, calls in zip(task.user_turns, task.ground_truth, strict=True):
        known += f"\n{text}"
        for call in calls:
            for value in scalars(call.arguments):
                if stands_in(value, known):
                    where = "read in words or results"
                else:
                    where = "read in the documentation"
                    unknown = (
                        not stands_in(value, documentation(task, call.name))
                        and (call.name, value) not in SHELL
                    )
                    census.note("argument is known", unknown, (task.id, call, value))
                census.counts[where] += 1
            result = box.execute(call)
            census.note("call runs", bool(hints.is_error(result)), (task.id, call, result))
            known += f"\n{result}"


def file_away(census: Census, task) -> None:
    """What is compared between tasks."""
    words_and_calls = json.dumps(
        [task.split, task.user_turns, task.ground_truth_source, task.withheld]
    )
    census.words_and_calls[words_and_calls] += 1
    census.whole[words_and_calls + json.dumps(task.initial_config)] += 1
    side = "held out" if task.scenario in _HELD_OUT else "training"
    census.counts[f"tasks, {side}"] += 1
    plans = synthetic.requests(task.id)
    census.keys[side] |= {(p.family, *sorted(p.values.items())) for p in plans}
    for text in task.user_turns:
        for plan in plans:
            text = text.removesuffix(f" {plan.also}") if plan.also else text
        census.said[side].append((text, task.id))
    census.words[synthetic.novelty(task.id)] |= set(
        words_of([task.user_turns, task.initial_config, task.ground_truth])
    )
    first = census.states.setdefault(splits.scenario_of(task.id), task.initial_config)
    census.note("variants share a scenario", first != task.initial_config, task.id)


@pytest.fixture(scope="module")
def census() -> Census:
    found = Census()
    for task_id in synthetic.task_ids(NUMBERS):
        task = synthetic.make(task_id)
        found.counts[f"tasks, {task.split}"] += 1
        play(found, task)
        read(found, task)
        file_away(found, task)
    for task_id in synthetic.task_ids(COMPARED):
        file_away(found, synthetic.make(task_id))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "check, at_least",
    [
        ("ground truth is valid", 20_000),
        ("call runs", 60_000),
        ("doing nothing loses", 20_000),
        ("a call left out loses", 60_000),
        ("turns moved round by one lose", 10_000),
        ("a turn in reverse loses", 8_000),
        ("a turn whose calls commute wins in reverse", 8_000),
        ("variants share a scenario", 20_000),
    ],
)
def test_every_task_is_sound(census, check, at_least):
    print(f"{check}: {census.counts[check]} seen, {len(census.faults[check])} faults")
    assert not census.faults[check], census.faults[check][:5]
    assert census.counts[check] >= at_least
    assert all(census.counts[f"tasks, {variant}"] == len(NUMBERS) for variant in bfcl.SPLITS)


@pytest.mark.slow
def test_every_argument_can_be_known(census):
    print(
        {
            name: census.counts[name]
            for name in ("read in words or results", "read in the documentation")
        }
    )
    assert not census.faults["argument is known"], census.faults["argument is known"][:5]
    assert (
        census.counts["read in words or results"] > 100_000
        and census.counts["read in the documentation"] > 2_000
    )


@pytest.mark.slow
def test_no_two_tasks_are_alike(census):
    again = sum(count - 1 for count in census.words_and_calls.values())
    print(
        f"{census.whole.total()} tasks, {census.whole.total() - len(census.whole)} alike; {again} "
        f"with the same words and calls "
        "in another state"
    )
    assert len(census.whole) == census.whole.total() == 4 * (len(NUMBERS) + len(COMPARED))
    assert again < 0.005 * census.whole.total()
    fixed = [
        synthetic.make(t)
        for t in synthetic.task_ids([*synthetic.TRAIN, *synthetic.VALIDATION, *synthetic.TEST])
    ]
    assert len({(t.split, t.user_turns, t.ground_truth_source) for t in fixed}) == len(fixed) == 900


@pytest.mark.slow
def test_no_request_with_its_values_is_on_both_sides(census):
    print({side: len(keys) for side, keys in census.keys.items()})
    assert min(map(len, census.keys.values())) > 1_500
    assert not census.keys["training"] & census.keys["held out"]


def template(phrasing: str) -> re.Pattern:
    return re.compile(
        "".join(
            ".+" if part[:1] == "{" else re.escape(part)
            for part in re.split(r"(\{\w*\})", phrasing)
        ),
        re.IGNORECASE,
    )


@pytest.mark.slow
def test_no_sentence_with_values_is_on_both_sides(census):
    """Left out: the vague requests of miss_param, which hold no values to learn, a follow-up such
    as "It is 12.", whose value belongs to
    the request before it, and the message that tools are there now."""
    vague = [
        template(text)
        for world in synthetic.WORLDS.values()
        for family in world.families.values()
        for text in family.vague
    ]
    left_out = [
        *vague,
        *map(template, (*_FOLLOW_UPS, *_UNSEEN_FOLLOW_UPS)),
        template(bfcl.NEW_TOOLS_MESSAGE),
    ]
    training = {text for text, _ in census.said["training"]}
    both = {text for text, _ in census.said["held out"]} & training
    print(
        f"{len(census.said['held out'])} held-out sentences against {len(training)}; {len(both)} "
        f"on both sides, all without values"
    )
    assert len(training) > 12_000 and census.counts["tasks, training"] >= 20_000
    carrying = [text for text in both if not any(pattern.fullmatch(text) for pattern in left_out)]
    assert not carrying, carrying[:10]


@pytest.mark.slow
def test_unseen_phrasings_are_said_nowhere_else(census):
    families = [family for world in synthetic.WORLDS.values() for family in world.families.values()]
    unseen = [template(text) for family in families for text in family.unseen] + [
        template(text) for text in _UNSEEN_FOLLOW_UPS
    ]
    exempt = [template(text) for family in families for text in family.vague] + [
        template(bfcl.NEW_TOOLS_MESSAGE)
    ]
    counts = Counter()
    for text, task_id in census.said["training"] + census.said["held out"]:
        new = synthetic.novelty(task_id) == "phrasings"
        counts[new] += 1
        found = any(pattern.fullmatch(text) for pattern in unseen)
        assert found == new or (new and any(pattern.fullmatch(text) for pattern in exempt)), (
            task_id,
            text,
        )
    print(
        f"{counts[True]} sentences in unseen phrasings, none like them among {counts[False]} others"
    )
    assert counts[True] > 1_000


@pytest.mark.slow
def test_unseen_names_stand_nowhere_else(census):
    """A word is an unseen name when it is in a list of those, or could be made up as one; not the
    words that all tasks are written with."""
    source = "\n".join(file.read_text() for file in Path(synthetic.__file__).parent.glob("*.py"))
    fixed = [line for line in source.splitlines() if not line.startswith("UNSEEN_")]
    ordinary = set(words_of(fixed)) | set(words_of(json.dumps(bfcl.docs_of(bfcl.CLASSES))))
    listed = {
        word.lower()
        for words in (
            draw.UNSEEN_NOUNS,
            draw.UNSEEN_FOLDERS,
            draw.UNSEEN_PEOPLE,
            draw.UNSEEN_ADJECTIVES,
            draw.UNSEEN_THINGS,
        )
        for word in words
    }
    assert not listed & ordinary
    syllable = "".join(
        f"(?:{'|'.join(part)})" for part in (draw._ONSETS, draw._VOWELS, draw._CODAS)
    )
    made_up = re.compile(f"(?:{syllable}){{1,3}}")

    def unseen(words) -> set[str]:
        return {
            w
            for w in set(words) - ordinary
            if w in listed or (made_up.fullmatch(w) and draw.share(w, 5) == 0)
        }

    others = set().union(*(census.words[new] for new in ("", "values", "phrasings")))
    assert not unseen(others)
    said = {
        task_id: unseen(words_of(synthetic.make(task_id).user_turns))
        for task_id in synthetic.task_ids(range(201, 1000, 5))
    }
    print(
        f"{len(said)} tasks with {len(set().union(*said.values()))} unseen names, none of them in "
        f"the others' {len(others)} words"
    )
    assert len(said) == 640 and all(said.values())


@pytest.mark.slow
def test_none_is_near_any_of_bfcls_tasks(census):
    """Jaccard of the word 4-grams that users say; the longest run of words in common; calls and
    states that are equal."""

    def grams(task, n: int) -> set[tuple[str, ...]]:
        texts = [
            re.findall(r"\w+", text.lower())
            for text in task.user_turns
            if text != bfcl.NEW_TOOLS_MESSAGE
        ]
        return {tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)}

    theirs = bfcl.load_tasks().values()
    index, sizes = defaultdict(list), {task.id: len(grams(task, 4)) for task in theirs}
    for task in theirs:
        for gram in grams(task, 4):
            index[gram].append(task.id)
    runs = {n: set().union(*(grams(task, n) for task in theirs)) for n in range(1, 12)}
    calls = {sum(task.ground_truth_source, ()) for task in theirs}
    states = {
        json.dumps(state, sort_keys=True)
        for task in theirs
        for state in task.initial_config.values()
        if state
    }
    nearest, longest, alike = (0.0, "", ""), (), 0
    for task_id in synthetic.task_ids(NUMBERS, ("base", "miss_param")):
        task = synthetic.make(task_id)
        mine = grams(task, 4)
        for other, count in Counter(t for gram in mine for t in index.get(gram, ())).items():
            nearest = max(nearest, (count / (len(mine) + sizes[other] - count), task_id, other))
        while longer := grams(task, len(longest) + 1) & runs[len(longest) + 1]:
            longest = min(longer)
        alike += sum(task.ground_truth_source, ()) in calls
        alike += any(
            json.dumps(state, sort_keys=True) in states for state in task.initial_config.values()
        )
    print(
        f"nearest: Jaccard {nearest[0]:.3f}, {nearest[1]} and {nearest[2]}; longest run in common: "
        f"{' '.join(longest)!r}; "
        f"{alike} with the calls or the state of a BFCL task"
    )
    assert 0 < nearest[0] < 0.2 and len(longest) <= 8 and not alike


def digest(task_ids) -> str:
    made = [synthetic.make(t) for t in task_ids]
    return hashlib.sha256(
        json.dumps(
            [
                [
                    t.id,
                    t.user_turns,
                    t.initial_config,
                    t.classes,
                    t.withheld,
                    t.ground_truth_source,
                    t.ground_truth,
                ]
                for t in made
            ]
        ).encode()
    ).hexdigest()[:16]


def test_the_same_id_gives_the_same_task_in_every_process_and_version():
    """The committed digest pins the tasks for whatever Python runs this; other processes are asked
    here."""
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); "
        "import test_synthetic as t; print(t.digest(t.PINNED))"
    )
    others = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    print(f"{len(PINNED)} tasks pinned by {DIGEST}, compared over 3 processes")
    assert {*others, digest(PINNED)} == {DIGEST} and len(PINNED) >= 200


def test_ground_truth_messages_win_in_an_episode():
    task_ids = synthetic.task_ids([*range(0, 100, 4), *range(200, 300, 4)])
    for task_id in task_ids:
        record = replay(task_id, ground_truth_messages(task_id), limits="training")
        assert rewards.progress_reward(record) == 1.0 and bfcl.official_valid(record), task_id
    print(f"{len(task_ids)} episodes won")


def test_no_hint_gives_a_value_of_the_ground_truth_away():
    """A hint may hold a word that is also a value, such as the `first` of a class of flights; it is
    withheld in that task."""
    counts, words = Counter(), set()
    for task_id in synthetic.task_ids(
        [*synthetic.TRAIN, *synthetic.VALIDATION, *synthetic.TEST], ("base", "miss_param")
    ):
        task = synthetic.make(task_id)
        for hint in hints.load_hints():
            if hint.class_name in (*task.classes, "*"):
                call = bfcl.Call((*hint.tools, "nowhere")[0], {})
                found = hints.leak(hint.render(call), task, call, "")
                counts[bool(found)] += 1
                words |= {found} - {""}
    print(
        f"{counts.total()} pairs of a hint and a task; {counts[True]} share a word, all among "
        f"{sorted(words)}"
    )
    assert counts.total() > 8_000 and counts[True] < 0.005 * counts.total()
    assert words <= {"first", "off", "engine", "history", "wrong", "old", "empty"}


@pytest.mark.parametrize("turns", [1, 2, 3, 4])
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_difficulty_is_what_the_id_says(turns, depth):
    for number in (3, 120, 205, 1_001):
        for variant in bfcl.SPLITS:
            task_id = f"synthetic_{variant}_{number}_t{turns}_d{depth}"
            asked, extra = synthetic.requests(task_id), variant.startswith("miss")
            assert (
                len(asked) == min(turns, 3 if extra else 4)
                and bfcl.load_task(task_id).turns == len(asked) + extra
            )
            assert max(plan.prerequisites for plan in asked) == depth
            assert (
                len(bfcl.load_task(f"synthetic_{variant}_{number}_t{turns}").user_turns)
                == len(asked) + extra
            )


def test_classes_can_be_chosen():
    assert bfcl.load_task("synthetic_base_7_TicketAPI").classes == ("TicketAPI",)
    assert bfcl.load_task("synthetic_base_7_t2_MathAPI+TravelAPI").classes == (
        "MathAPI",
        "TravelAPI",
    )


@pytest.fixture
def restaurant(monkeypatch, forgotten):
    """The example's world and its tool class, known for one test."""
    domain, world = (own_module(monkeypatch, name) for name in ("restaurant", "restaurant_world"))
    domains.add(domain.RestaurantAPI, [])
    synthetic.add_world(world.Restaurant)
    return world.Restaurant


def test_a_world_of_ones_own_makes_sound_tasks_and_leaves_fixed_ids_as_they_are(restaurant):
    found = Census()
    for number in [*range(0, 300, 3), *range(1000, 1100)]:
        for variant in bfcl.SPLITS:
            for classes in ("RestaurantAPI", "RestaurantAPI+TicketAPI"):
                task = bfcl.load_task(f"synthetic_{variant}_{number}_{classes}")
                assert "RestaurantAPI" in task.classes
                play(found, task)
                read(found, task)
                file_away(found, task)
    print(
        f"{found.counts['ground truth is valid']} tasks of a restaurant, "
        f"{found.counts['a call left out loses']} calls left out"
    )
    assert not {
        check: what for check, what in found.faults.items() if what and "commute" not in check
    }
    assert not found.keys["training"] & found.keys["held out"]
    assert digest(PINNED) == DIGEST
    record = replay(
        "synthetic_base_7_RestaurantAPI", ground_truth_messages("synthetic_base_7_RestaurantAPI")
    )
    assert rewards.progress_reward(record) == 1.0 and bfcl.official_valid(record)


def test_a_world_that_cannot_be_is_refused(restaurant):
    with pytest.raises(ValueError, match="has its world already"):
        synthetic.add_world(synthetic.WORLDS["MathAPI"])
    with pytest.raises(ValueError, match=r"add it first: domains.add"):
        synthetic.add_world(type("Nowhere", (restaurant,), {"class_name": "NowhereAPI"}))
    with pytest.raises(ValueError, match="every phrasing fills the same slots"):
        synthetic.Family(("Do {a}.", "Do it."), (), ("Do something.",), "a")
    with pytest.raises(ValueError, match="without 'a'"):
        synthetic.Family(("Do {a}.",), (), ("Do {a}.",), "a")


@pytest.mark.parametrize(
    "task_id, says",
    [
        ("synthetic_foo_3", "variant one of base, miss_func, miss_param, long_context"),
        ("synthetic_base", "synthetic_<variant>_<number>"),
        ("synthetic_base_3_t9", "_t<1..4> for the number of turns"),
        ("synthetic_base_3_NoAPI", "NoAPI has no world; worlds: GorillaFileSystem"),
        ("synthetic_base_3_MathAPI+MathAPI", "stands twice"),
    ],
)
def test_an_id_that_is_none_says_what_ids_read_like(task_id, says):
    with pytest.raises(KeyError) as refused:
        bfcl.load_task(task_id)
    assert says in str(refused.value) and task_id in str(refused.value)


def test_a_depth_that_no_request_has_is_refused_in_words():
    with pytest.raises(RuntimeError, match="choose another number, fewer turns or depth"):
        bfcl.load_task("synthetic_base_3_t1_d5_TicketAPI")


def test_the_fixed_sets_have_their_sizes_and_their_new_fifths():
    new = Counter(synthetic.novelty(t) for t in synthetic.task_ids(synthetic.TEST))
    assert new == {"phrasings": 80, "names": 80, "values": 240}
    assert {synthetic.novelty(t) for t in synthetic.task_ids([*synthetic.TRAIN, *OPEN])} == {""}
    assert {synthetic.novelty(t) for t in synthetic.task_ids(synthetic.VALIDATION)} == {"values"}
    assert [
        len(synthetic.task_ids(numbers))
        for numbers in (synthetic.TRAIN, synthetic.VALIDATION, synthetic.TEST)
    ] == [400, 100, 400]


def test_unseen_phrasings_and_names_have_rows_of_their_own_in_an_evaluation():
    from envtune.train import evaluation  # it needs torch

    rows = [
        evaluation.result_row(replay(t, ground_truth_messages(t)))
        for t in synthetic.task_ids(range(200, 210))
    ]
    table = evaluation.accuracy_by_split(pd.DataFrame(rows)).set_index("split")
    assert list(table.index) == [*bfcl.SPLITS, "unseen_names", "unseen_phrasings", "all"]
    assert list(table["n"]) == [10, 10, 10, 10, 8, 8, 40] and (table["accuracy"] == 1).all()
    bfcl_rows = [
        evaluation.result_row(
            replay("multi_turn_base_3", ground_truth_messages("multi_turn_base_3"))
        )
    ]
    assert list(evaluation.accuracy_by_split(pd.DataFrame(bfcl_rows))["split"]) == ["base", "all"]


def test_the_examples_of_the_page_run_and_are_what_it_says(monkeypatch, forgotten):
    monkeypatch.chdir(paths.ROOT)
    for name in ("restaurant", "restaurant_world"):
        monkeypatch.setitem(sys.modules, name, None)
    page, names = (paths.ROOT / "docs" / "synthetic_tasks.md").read_text(), {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "docs/synthetic_tasks.md", "exec"), names)
    assert (
        names["task"].split == "miss_param"
        and len(names["practised"]) == 100
        and len(names["held_out"]) == 400
    )
    assert [bfcl.load_task(t).turns for t in names["hard"][:3]] == [4, 4, 4]
    assert names["episode"].task.classes == ("RestaurantAPI",)
    for task_id in re.findall(r"^`(synthetic_\w+)`, over", page, re.MULTILINE):
        assert all(f"| {text} |" in page for text in bfcl.load_task(task_id).user_turns)
    written = (paths.ROOT / "docs" / "examples" / "restaurant_world.py").read_text().splitlines()
    world = written[written.index("class Restaurant(World):") :]
    assert f"{sum(bool(line.strip()) for line in world)} lines" in page
