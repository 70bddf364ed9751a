"""Synthetic tasks: from an id alone to a bfcl.Task over BFCL's real tools, checked by running it.

    >>> task = make("synthetic_miss_param_1207")
    >>> task.user_turns, task.ground_truth

An id reads synthetic_<variant>_<number>, with `_t<turns>` and `_d<depth>` behind it where difficulty is chosen: at most `depth`
prerequisites a request, and at least one request that has so many. One number is one scenario in four variants, as in BFCL.

    numbers 0-99        the 400 training tasks (100 a variant)
            100-124     the 100 validation tasks
            200-299     the 400 test tasks; up to 999 for more of them
            from 1000   open to everybody: training, pre-training, trials

Three quarters of all combinations of a request and its values belong to training, one quarter to validation and test, by a fixed
hash: no combination of a test task occurs in training. Of the test numbers, those divisible by 5 are said in phrasings, and the
next ones use names, that occur nowhere else.
"""
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from envtune import hints
from envtune.bfcl import NEW_TOOLS_MESSAGE, SPLITS, Call, Task
from envtune.synthetic.draw import Draw, Names
from envtune.synthetic.files import Files
from envtune.synthetic.messages import Messages
from envtune.synthetic.numbers import Numbers
from envtune.synthetic.posting import Posting
from envtune.synthetic.tickets import Tickets
from envtune.synthetic.trading import Trading
from envtune.synthetic.travel import Travel
from envtune.synthetic.vehicle import Vehicle
from envtune.synthetic.world import Again, Family, Plan, World
from envtune.toolbox import Toolbox

WORLDS: dict[str, type[World]] = {world.class_name: world for world in (
    Files, Numbers, Messages, Posting, Tickets, Trading, Travel, Vehicle)}
"""Tool class -> its world; a world of one's own is added here."""
TRAIN, VALIDATION, TEST = range(100), range(100, 125), range(200, 300)
_HELD_OUT = range(100, 1000)
_UNSEEN = range(200, 1000)
_ID = re.compile(rf"synthetic_({'|'.join(SPLITS)})_(\d+)(?:_t([1-4]))?(?:_d([0-5]))?")
_FOLLOW_UPS = ("It is {}.", "I mean {}.", "Take {}.", "Sorry, {}.")
_UNSEEN_FOLLOW_UPS = ("That would be {}.",)
_ATTEMPTS = 2_000


def task_ids(numbers: Sequence[int], variants: Sequence[str] = SPLITS) -> tuple[str, ...]:
    """Ids of some numbers in some variants, variant by variant.

        >>> task_ids(TEST)[0], len(task_ids(TEST))
        ('synthetic_base_200', 400)
    """
    return tuple(f"synthetic_{variant}_{number}" for variant in variants for number in numbers)


def novelty(task_id: str) -> str:
    """What is new in a task: "phrasings", "names", or "values" for the rest of test and validation; "" for training."""
    number = int(_parts(task_id)[1])
    if number not in _HELD_OUT:
        return ""
    return {0: "phrasings", 1: "names"}.get(number % 5, "values") if number in _UNSEEN else "values"


def _parts(task_id: str) -> tuple[str, int, int | None, int | None]:
    """variant, number, turns, depth. KeyError for what is no synthetic id."""
    found = _ID.fullmatch(task_id)
    if found is None:
        raise KeyError(f"no task {task_id!r}; synthetic ids read synthetic_<variant>_<number>, variant one of {', '.join(SPLITS)}, with "
                       "_t<1..4> for the number of turns and _d<0..5> for the depth of prerequisites where they are chosen")
    variant, number, turns, depth = found.groups()
    return variant, int(number), turns and int(turns), depth and int(depth)


@lru_cache(maxsize=4096)
def make(task_id: str) -> Task:
    """The task of an id. KeyError when it is no synthetic id, RuntimeError when no draw met its difficulty."""
    variant, number, turns, depth = _parts(task_id)
    for attempt in range(_ATTEMPTS):
        draw = Draw(f"synthetic {number} {turns} {depth} {attempt}")
        try:
            return _variant(task_id, variant, number, draw, *_scenario(number, turns, depth, draw))
        except Again:
            continue
    raise RuntimeError(f"no draw of {task_id!r} met its difficulty in {_ATTEMPTS} attempts; choose another number, fewer turns or depth")


def _scenario(number: int, turns: int | None, depth: int | None, draw: Draw) -> tuple[list[World], list[tuple[World, Plan]]]:
    """Worlds and the requests in them, in order."""
    new = novelty(f"synthetic_base_{number}")
    names = Names(draw, unseen=new == "names")
    chosen = draw.sample(list(WORLDS), draw.choice((1, 2, 2)))
    worlds = [WORLDS[name](draw, names, depth) for name in chosen]
    count = turns or draw.weighted((1, 2, 3, 4), (0.25, 0.35, 0.25, 0.15))
    requests = []
    for turn in range(count):
        world = worlds[turn] if turn < len(worlds) <= count else draw.choice(worlds)
        world.held_out = number in _HELD_OUT
        requests.append((world, _request(world)))
    plans = [plan for _, plan in requests]
    if depth is not None and max(plan.prerequisites for plan in plans) != depth:
        raise Again
    if new == "names" and not any(plan.named for plan in plans):
        raise Again
    return worlds, requests


def _request(world: World) -> Plan:
    for _ in range(30):
        try:
            return world.request()
        except Again:  # methods raise before they change the world
            continue
    raise Again


def _say(family: Family, phrasings: Sequence[str], plan: Plan, draw: Draw) -> str:
    phrasing = draw.choice(phrasings)
    said = phrasing.format(**plan.values)
    return said[0].upper() + said[1:] if phrasing.startswith("{verb}") else said


def _variant(task_id: str, variant: str, number: int, draw: Draw, worlds: list[World], requests: list[tuple[World, Plan]]) -> Task:
    """The scenario as a task of one variant, its ground truth run and found whole."""
    if variant.startswith("miss") and len(requests) == 4:
        requests = requests[:3]  # the variant adds a turn
    unseen = novelty(task_id) == "phrasings"
    families = [world.families[plan.family] for world, plan in requests]
    said = [_say(family, family.unseen if unseen else family.phrasings, plan, draw)
            for family, (_, plan) in zip(families, requests, strict=True)]
    also = [f" {plan.also}" if plan.also else "" for _, plan in requests]
    texts = [text + more for text, more in zip(said, also, strict=True)]
    calls = [plan.calls for _, plan in requests]
    withheld, until = (), None
    if variant == "miss_param":
        at = draw.below(len(requests))
        family, plan = families[at], requests[at][1]
        vague = _say(family, family.vague, plan, draw) + also[at]
        follow_up = (said[at] if draw.chance(0.4) else
                     draw.choice(_UNSEEN_FOLLOW_UPS if unseen else _FOLLOW_UPS).format(plan.values[family.missing]))
        texts[at:at + 1], calls[at:at + 1] = [vague, follow_up], [(), calls[at]]
    elif variant == "miss_func":
        free = [turn for turn in range(len(calls)) if not any(c.name == calls[turn][-1].name for t in calls[:turn] for c in t)]
        at = draw.choice(free)  # the first turn always is
        withheld, until = (calls[at][-1].name,), at + 1
        texts.insert(at + 1, NEW_TOOLS_MESSAGE)
        calls[at:at + 1] = [(), calls[at]]
    classes = tuple(world.class_name for world in worlds)
    config = {world.class_name: world.config for world in worlds}
    _run(classes, config, calls, variant == "long_context")
    return Task(id=task_id, split=variant, scenario=number, user_turns=tuple(texts), initial_config=config, classes=classes,
                withheld=withheld, withheld_until=until, ground_truth=tuple(calls),
                ground_truth_source=tuple(tuple(_source(call) for call in turn) for turn in calls))


def _source(call: Call) -> str:
    return f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"


def _run(classes: tuple[str, ...], config: dict, calls: Sequence[Sequence[Call]], long_context: bool) -> None:
    """Raise Again when a call of the ground truth fails, or when the task could be won without one of them."""
    box = Toolbox.of_scenario(classes, config, long_context)
    seen: Counter[str] = Counter()
    doubtful = []
    for turn, turn_calls in enumerate(calls):
        results = [box.execute(call) for call in turn_calls]
        if any(hints.is_error(result) for result in results):
            raise Again
        # what a call prints is asked of the agent: only a text that an earlier turn printed too does not prove that it was made
        doubtful += [(turn, i) for i, result in enumerate(results) if result in seen]
        seen.update(results)
    if any(wins_without(classes, config, calls, long_context, *place) for place in doubtful):
        raise Again


def wins_without(classes: tuple[str, ...], config: dict, calls: Sequence[Sequence[Call]], long_context: bool, turn: int, index: int) -> bool:
    """Whether a turn is won, by state and results, when one of its calls is left out."""
    boxes = [Toolbox.of_scenario(classes, config, long_context) for _ in range(2)]
    results: Counter[str] = Counter()
    needed: Counter[str] = Counter()
    for t, turn_calls in enumerate(calls[:turn + 1]):
        needed = Counter(boxes[0].execute(call) for call in turn_calls)
        results.update(boxes[1].execute(call) for i, call in enumerate(turn_calls) if (t, i) != (turn, index))
    return not needed - results and all(_public(one) == _public(two) for one, two in zip(*(b.instances.values() for b in boxes), strict=True))


def _public(instance) -> dict:
    return {name: value for name, value in vars(instance).items() if not name.startswith("_")}
