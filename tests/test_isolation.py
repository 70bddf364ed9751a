"""A verdict depends on task and messages alone: not on other episodes, threads, processes, the
clock or the hash seed."""

import copy
import gc
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from adversary import Adversary
from conftest import ground_truth_messages, tool_call

from envtune import Episode, bfcl, replay
from envtune.bfcl import Call, checker, toolbox
from envtune.bfcl.toolbox import Toolbox
from envtune.env.episode import EVALUATION, TRAINING

TASKS = [
    f"multi_turn_{split}_{scenario}"
    for split in bfcl.SPLITS
    for scenario in (3, 20, 55, 77, 101, 130, 160, 190)
]


def script(task_id: str, number: int) -> list[str]:
    """Messages of one episode: ground truth, or an adversary's, or both mixed."""
    right, hostile = ground_truth_messages(task_id), Adversary(bfcl.load_task(task_id), number)
    return [
        right,
        [hostile.message() for _ in range(12)],
        [m for good in right for m in (hostile.message(), good)],
    ][number % 3]


def played(task_id: str, messages: list[str]) -> dict:
    """The record of an episode that takes as many of the messages as it can, as a dict."""
    episode = Episode(task_id, EVALUATION, hint_rate=1.0)
    for message in messages:
        if episode.done:
            break
        episode.step(message)
    return episode.record.to_dict()


@pytest.mark.parametrize("task_id", TASKS[::2])
def test_sixteen_episodes_of_one_task_interleaved_step_by_step_read_as_if_alone(task_id):
    scripts = [script(task_id, number) for number in range(16)]
    alone = [played(task_id, messages) for messages in scripts]
    episodes = [Episode(task_id, EVALUATION, hint_rate=1.0) for _ in scripts]
    for step in range(max(map(len, scripts))):
        for episode, messages in zip(episodes, scripts, strict=True):
            if step < len(messages) and not episode.done:
                episode.step(messages[step])
    assert [episode.record.to_dict() for episode in episodes] == alone


def test_order_threads_and_forked_workers_change_nothing():
    jobs = [(task_id, script(task_id, number)) for task_id in TASKS for number in range(3)]
    expected = [played(*job) for job in jobs]
    assert [played(*job) for job in reversed(jobs)][::-1] == expected
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda job: played(*job), jobs)) == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(played, jobs) == expected


def test_default_lists_of_a_tool_are_not_carried_into_the_next_episode():
    task = next(t for t in bfcl.load_tasks().values() if "TwitterAPI" in t.classes)
    for _ in range(2):  # `mention` extends the list that `post_tweet` took as its default
        box = Toolbox(task)
        box.instances["TwitterAPI"].authenticated = True
        tweet = json.loads(box.execute(Call("post_tweet", {"content": "hi"})))
        assert tweet["mentions"] == []
        box.execute(Call("mention", {"tweet_id": tweet["id"], "mentioned_usernames": ["@x"]}))
    assert bfcl.tool_class("TwitterAPI").post_tweet.__defaults__ == ([], [])


def test_credit_cards_of_long_context_are_not_shared_between_episodes():
    task = next(
        t
        for t in bfcl.load_tasks().values()
        if "TravelAPI" in t.classes and t.split == "long_context"
    )
    box, other = Toolbox(task), Toolbox(task)
    cards = box.instances["TravelAPI"].credit_card_list
    before = copy.deepcopy(cards)
    for card in cards.values():
        card["balance"] = -1.0
    assert (
        other.instances["TravelAPI"].credit_card_list
        == Toolbox(task).instances["TravelAPI"].credit_card_list
        == before
    )


def test_the_weather_of_long_context_is_not_written_into_shared_data():
    from bfcl_eval.eval_checker.multi_turn_eval.func_source_code.vehicle_control import (
        LONG_WEATHER_EXTENSION,
    )

    task = next(
        t
        for t in bfcl.load_tasks().values()
        if "VehicleControlAPI" in t.classes and t.split == "long_context"
    )
    assert "outsideTemperature" in Toolbox(task).execute(
        Call("get_outside_temperature_from_google", {})
    )
    assert "outsideTemperature" not in LONG_WEATHER_EXTENSION


def test_a_travellers_age_does_not_depend_on_the_day():
    task = next(t for t in bfcl.load_tasks().values() if "TravelAPI" in t.classes)
    box = Toolbox(task)
    travel = box.instances["TravelAPI"]
    travel.user_first_name, travel.user_last_name = "A", "B"

    def verify(born):
        return box.execute(
            Call(
                "verify_traveler_information",
                {
                    "first_name": "A",
                    "last_name": "B",
                    "date_of_birth": born,
                    "passport_number": "US1",
                },
            )
        )

    assert toolbox.TODAY.isoformat().startswith("2026-03-23")
    assert "at least 18" in verify(
        "2008-03-24"
    )  # eighteen the day after the tools' clock, and long since by the host's
    assert verify("2008-03-23") == '{"verification_status": true}' and "Invalid date" in verify(
        "tomorrow"
    )


def shared_data() -> str:
    """Everything at module level in BFCL's tool modules that a call could change, as text."""
    found = {}
    for class_name in bfcl.CLASSES:
        module = sys.modules[bfcl.tool_class(class_name).__module__]
        found |= {
            f"{class_name} {k}": repr(v)
            for k, v in vars(module).items()
            if isinstance(v, (list, dict, set, str, int, float)) and k[:2] != "__"
        }
        found |= {
            f"{class_name}.{k}": repr(v.__defaults__)
            for k, v in vars(bfcl.tool_class(class_name)).items()
            if callable(v) and hasattr(v, "__defaults__")
        }
    return json.dumps(found, sort_keys=True)


def test_nothing_that_bfcl_shares_is_changed_by_any_episode():
    before = shared_data()
    configs = hashlib.sha256(
        repr([(t.initial_config, t.ground_truth) for t in bfcl.load_tasks().values()]).encode()
    ).hexdigest()
    for task_id in TASKS:
        for number in range(6):
            played(task_id, script(task_id, number))
    assert shared_data() == before
    assert (
        hashlib.sha256(
            repr([(t.initial_config, t.ground_truth) for t in bfcl.load_tasks().values()]).encode()
        ).hexdigest()
        == configs
    )


HASHED = """
import hashlib, json, sys
sys.path.insert(0, "tests")
from test_isolation import TASKS, played, script
from envtune.bfcl import Call, load_tasks
from envtune.bfcl.toolbox import Toolbox
texts = [json.dumps(played(t, script(t, n))) for t in TASKS for n in range(2)]
travel = Toolbox(next(t for t in load_tasks().values() if "TravelAPI" in t.classes))
api = travel.instances["TravelAPI"]
flight = {"travel_date": "2024-10-10", "travel_from": "SFO", "travel_to": "LAX"}
card = {"access_token": api.access_token, "card_id": next(iter(api.credit_card_list))}
texts.append(travel.execute(Call("book_flight", card | flight | {"travel_class": "royal"})))
ticket = Toolbox(next(
    t for t in load_tasks().values()
    if "TicketAPI" in t.classes and t.initial_config.get("TicketAPI", {}).get("ticket_queue")
))
ticket_id = ticket.instances["TicketAPI"].ticket_queue[0]["id"]
updates = {"due": 1, "owner": 2, "colour": 3, "status": "Open"}
texts.append(ticket.execute(Call("edit_ticket", {"ticket_id": ticket_id, "updates": updates})))
print(hashlib.sha256("".join(texts).encode()).hexdigest(), *texts[-2:])
"""


def test_hash_seed_and_time_zone_change_no_observation():
    root = Path(__file__).parent.parent
    seen = {
        subprocess.run(
            [sys.executable, "-c", HASHED],
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": zone},
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "America/New_York"), ("3", "Asia/Tokyo"))
    }
    assert len(seen) == 1
    assert (
        "{'business', 'economy', 'first'}" in (text := seen.pop())
        and "update: colour, due, owner" in text
    )


@pytest.mark.parametrize("split", bfcl.SPLITS)
def test_reusing_the_ground_truth_changes_no_verdict_and_no_episode_changes_it(split):
    jobs = [
        (t, script(t, n), limits)
        for t in TASKS
        if split in t
        for n in range(6)
        for limits in (TRAINING, EVALUATION)
    ]

    def records():
        for task_id, messages, limits in jobs:
            episode = Episode(task_id, limits)
            for message in messages:
                if not episode.done:
                    episode.step(message)
            yield episode.record

    reused = list(records())
    for task in map(bfcl.load_task, TASKS):
        for kept, fresh in zip(
            checker.ground_truth(task), checker.ground_truth.__wrapped__(task), strict=True
        ):
            assert (
                kept.results == fresh.results
                and kept.same_state(fresh.instances)
                and fresh.same_state(kept.instances)
            )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "envtune.env.episode.ground_truth", checker.ground_truth.__wrapped__
        )  # executed anew for every turn
        assert list(records()) == reused


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="reads the resident size from /proc"
)
def test_memory_is_flat_over_twenty_thousand_episodes():
    messages = [
        (t, ground_truth_messages(t.id))
        for t in bfcl.load_tasks().values()
        if t.split in ("base", "long_context")
    ]

    def run(count):
        for number in range(count):
            task, script = messages[number % len(messages)]
            episode = Episode(task, (TRAINING, EVALUATION)[number // 400 % 2])
            for message in script[
                number % 3 == 0 :
            ]:  # every third without its first message: other ground truth
                if not episode.done:
                    episode.step(message)
        gc.collect()
        return resident_mib()

    settled = run(
        4_800
    )  # every script under both limits, twice: the caches are as large as they get
    assert run(20_000) - settled < 8.0


def test_a_finished_episode_is_let_go():
    import weakref

    episode = Episode("multi_turn_base_3")
    episode.step(tool_call(("ls", {})))
    files = weakref.ref(episode._toolbox.instances["GorillaFileSystem"])
    record = episode.record
    del episode
    gc.collect()
    assert files() is None and record.steps


def test_replay_is_the_same_as_stepping():
    messages = ground_truth_messages("multi_turn_base_3")
    assert replay("multi_turn_base_3", messages).to_dict() | {
        "hints_on": True,
        "limits": "evaluation",
    } == played("multi_turn_base_3", messages)
