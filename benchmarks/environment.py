"""How much the environment adds to the tools themselves, and how fast it loads.

    python benchmarks/environment.py            # a table
    python benchmarks/environment.py --json     # {split: {floor_steps_per_second, ..., ratio}}

Ground truth of every task of a split is replayed, a turn's calls in one message and then an answer,
in two ways on one core:
(a) the floor: BFCL's tool objects are built as BFCL builds them, the same methods are called
    directly with the same arguments, and their results are turned into text as BFCL prints them;
(b) the whole episode: opening, parse, dispatch, call limits, observation, verdicts, record.
A step is one agent message, the same number in both. A round measures one after the other. Speeds
are those of the best round; the ratio is (b)'s time over (a)'s, the median over the rounds, because
a machine that does other work slows both of a round. The table also shows the ratio over a barer
floor, whose results stay objects. Targets: at most 1.6 on base, 1.3 on long_context, loading all
tasks at most 1 s, importing at most 0.3 s.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
from statistics import median

from envtune import Episode, bfcl
from envtune.env.episode import EVALUATION

TARGETS = {"base": 1.6, "long_context": 1.3}
ANSWER = "<think>done</think><answer>Done.</answer>"


def messages_of(task) -> list[str]:
    """The agent messages that do a task right: the calls of a turn, then an answer."""
    messages = []
    for turn in task.ground_truth:
        if turn:
            calls = json.dumps([{"name": call.name, "arguments": call.arguments} for call in turn])
            messages.append(f"<think>work</think><tool_call>{calls}</tool_call>")
        messages.append(ANSWER)
    return messages


def text_of(result) -> str:
    """A result as BFCL's executor prints it."""
    if type(result) is dict:
        try:
            return json.dumps(result)
        except TypeError:
            return str(result)
    return str(result)


def floor(tasks, text_of=text_of) -> None:
    """Build BFCL's tool objects and call their methods."""
    for task, calls in tasks:
        instances = {
            c: bfcl.new_instance(c, task.initial_config, task.split == "long_context")
            for c in task.classes
        }
        for owner, call in calls:
            try:
                text_of(getattr(instances[owner], call.name)(**call.arguments))
            except Exception:  # some ground truth raises, as on purpose
                continue


def bare_floor(tasks) -> None:
    """The floor without text."""
    floor(tasks, text_of=id)


def episodes(tasks) -> int:
    """Play whole episodes; returns the number of steps. RuntimeError when one loses a turn."""
    steps = 0
    for task, messages in tasks:
        episode = Episode(task, EVALUATION)
        assert episode.messages
        for text in messages:
            episode.step(text)
        record = episode.record
        steps += len(record.steps)
        if not all(verdict.success for verdict in record.verdicts):
            raise RuntimeError(
                f"the ground truth of {task.id} lost a turn: this measures a broken environment"
            )
    return steps


def measure(split: str, rounds: int) -> tuple[dict[str, float], float]:
    """Steps a second of both ways and their ratio; and the ratio over the bare floor."""
    tasks = [task for task in bfcl.load_tasks().values() if task.split == split]
    owner = {name: c for c in bfcl.CLASSES for name in bfcl.tool_names(c)}
    direct = [
        (task, [(owner[call.name], call) for turn in task.ground_truth for call in turn])
        for task in tasks
    ]
    spoken = [(task, messages_of(task)) for task in tasks]
    steps = episodes(spoken)  # fills the caches: ground truth, initial states, prompts
    ways = ((floor, direct), (bare_floor, direct), (episodes, spoken))
    seconds = {way: [] for way, _ in ways}
    for _ in range(rounds):
        for way, work in ways:
            gc.collect()
            start = time.perf_counter()
            way(work)
            seconds[way].append(time.perf_counter() - start)

    def ratio(way) -> float:
        return median(a / b for a, b in zip(seconds[episodes], seconds[way], strict=True))

    row = {
        "floor_steps_per_second": steps / min(seconds[floor]),
        "steps_per_second": steps / min(seconds[episodes]),
        "ratio": ratio(floor),
    }
    return row, ratio(bare_floor)


def seconds_of(statement: str, before: str = "") -> float:
    """Wall time of a statement in a fresh interpreter [s], the best of five."""
    clock = "time.perf_counter()"
    code = f"import time; {before}\nstart = {clock}\n{statement}\nprint({clock} - start)"
    command = [sys.executable, "-c", code]
    return min(float(subprocess.check_output(command, text=True)) for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    parser.add_argument("--rounds", type=int, default=15, help="how often each way is measured")
    options = parser.parse_args()
    results = {split: measure(split, options.rounds) for split in TARGETS}
    if options.json:
        print(json.dumps({split: row for split, (row, _) in results.items()}))
        return
    print(
        f"{'split':14}{'floor steps/s':>15}{'episode steps/s':>17}{'ratio':>8}{'target':>8}"
        f"{'over bare floor':>18}"
    )
    for split, (row, bare) in results.items():
        print(
            f"{split:14}{row['floor_steps_per_second']:15,.0f}{row['steps_per_second']:17,.0f}"
            f"{row['ratio']:8.2f}{TARGETS[split]:8.1f}{bare:18.2f}"
        )
    print(f"import envtune: {seconds_of('import envtune'):.2f} s (target 0.3)")
    seconds = seconds_of("bfcl.load_tasks()", "from envtune import bfcl")
    print(f"load all 800 tasks: {seconds:.2f} s (target 1)")


if __name__ == "__main__":
    main()
