"""The fuzz run: hostile messages against every kind of task, watched for host effects, uncaught
exceptions and stalls.

    python tests/fuzz.py                              # 200,000 messages, about two minutes
    python tests/fuzz.py --messages 1000000 --seed 7

It runs in an empty folder of its own. Host effects are seen twice: an audit hook of the interpreter
reports every file opened, process started, socket made, module imported or code compiled while an
episode plays, and the folder must be empty at the end. A stall is a message that takes more than a
second a call, the worker for number tools included. Prints the seed, the counts and the slowest
messages; exit code 1 when anything was found.
"""

import argparse
import collections
import os
import resource
import sys
import tempfile
import time
import traceback

from adversary import ANSWER, Adversary

from envtune import Episode, bfcl, replay
from envtune.bfcl import checker, worker
from envtune.env import rewards
from envtune.env.episode import EVALUATION, TRAINING
from envtune.record import Ending

WATCHED = (
    "open",
    "exec",
    "compile",
    "import",
    "os.",
    "subprocess.",
    "socket.",
    "shutil.",
    "ctypes.",
    "tempfile.",
    "glob.",
)
SLOW_SECONDS = 1.0
CALL = '<think>w</think><tool_call>{"name": "cat", "arguments": {"file_name": "x"}}</tool_call>'


class Watch:
    """What the interpreter's audit hook saw while `on`."""

    def __init__(self):
        self.on, self.seen = False, collections.Counter()
        sys.addaudithook(self)  # it stays for the life of the process

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.on and event.startswith(WATCHED):
            self.seen[f"{event} {arguments!r:.80}"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.messages} messages")
    tasks = list(bfcl.load_tasks().values())
    for task in (
        tasks
    ):  # what is read from disk or imported once a process is there before the watch begins
        checker.ground_truth(task)
    replay("multi_turn_base_3", [CALL, ANSWER], hint_rate=1.0)
    worker.run("MathAPI", bfcl.Call("power", {"base": 2, "exponent": 2}))
    empty = tempfile.TemporaryDirectory()
    os.chdir(empty.name)
    watch = Watch()
    outcomes, endings, failures, slow = collections.Counter(), collections.Counter(), [], []
    played = number = longest = 0
    start, memory = time.perf_counter(), 0
    while played < options.messages:
        task = tasks[(number * 7919 + options.seed) % len(tasks)]
        adversary = Adversary(task, options.seed * 1_000_003 + number)
        episode = Episode(
            task, (TRAINING, EVALUATION)[number % 2], hint_rate=float(number % 3 == 0), seed=number
        )
        for _ in range(60):
            if episode.done:
                break
            message = adversary.message()
            played += 1
            before, watch.on = time.perf_counter(), True
            try:
                episode.step(message)
            except BaseException:  # whatever it is: none may leave a step
                failures.append(
                    f"{task.id}, episode {number}: {message[:200]!r}\n{traceback.format_exc()}"
                )
                break
            finally:
                watch.on = False
            spent = (time.perf_counter() - before) / max(1, message.count('"arguments"'))
            longest = max(longest, spent)
            if spent > SLOW_SECONDS:
                slow.append(f"{spent:.2f} s a call: {task.id}, episode {number}: {message[:200]!r}")
        record = episode.record
        outcomes.update(str(step.outcome) for step in record.steps)
        endings[
            str(
                record.ending
                if record.ending is not Ending.RUNNING
                else "stopped after 60 messages"
            )
        ] += 1
        if not (
            0 <= rewards.progress_reward(record) <= 1 and 0 <= rewards.stage1_reward(record) <= 2
        ):
            failures.append(f"{task.id}, episode {number}: rewards out of range")
        number += 1
        if number == 1500:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if number % 1000 == 0:
            print(
                f"{played} messages, {number} episodes, {time.perf_counter() - start:.0f} s",
                file=sys.stderr,
            )
    left = os.listdir(".")
    grown = (
        (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
        if memory
        else float("nan")
    )
    print(
        f"{played} messages in {number} episodes, {time.perf_counter() - start:.0f} s; peak memory "
        f"grew by {grown:.0f} MiB after 1,500 episodes"
    )
    print("outcomes:", dict(outcomes.most_common()))
    print("endings:", dict(endings.most_common()))
    print(f"slowest message: {longest:.3f} s a call")
    print(
        f"host effects: {sum(watch.seen.values()) + len(left)} "
        f"{dict(watch.seen.most_common(5)) or ''}{left or ''}"
    )
    print(f"uncaught exceptions: {len(failures)}")
    print(f"stalls over {SLOW_SECONDS} s: {len(slow)}")
    print(*failures[:5], *slow[:5], sep="\n")
    return int(bool(watch.seen or left or failures or slow))


if __name__ == "__main__":
    sys.exit(main())
