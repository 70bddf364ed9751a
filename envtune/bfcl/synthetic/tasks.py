"""Synthetic tasks: from an id alone to a bfcl.Task over BFCL's real tools, checked by running it.

    >>> task = make("synthetic_miss_param_1207")
    >>> task.user_turns, task.ground_truth

An id reads synthetic_<variant>_<number>, and may end in `_t<turns>`, `_d<depth>` (at most `depth`
prerequisites per request, and at least one request with so many) and tool classes, `_TicketAPI` or
`_TicketAPI+MathAPI`; worlds of your own (add_world) are used only when named in this way. One
number is one scenario in four variants, as in BFCL.

    numbers 0-99        the 400 training tasks (100 a variant)
            100-124     the 100 validation tasks
            200-299     the 400 test tasks; up to 999 for more of them
            from 1000   for any use: training, pre-training, trials

Three quarters of all combinations of a request and its values belong to training, one quarter to
validation and test, by a fixed hash: no combination of a test task occurs in training. Of the test
numbers, those divisible by 5 use phrasings that occur nowhere else, and the next ones such names.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from envtune.bfcl.results import is_error
from envtune.bfcl.synthetic.draw import Draw, Names
from envtune.bfcl.synthetic.files import Files
from envtune.bfcl.synthetic.messages import Messages
from envtune.bfcl.synthetic.numbers import Numbers
from envtune.bfcl.synthetic.posting import Posting
from envtune.bfcl.synthetic.tickets import Tickets
from envtune.bfcl.synthetic.trading import Trading
from envtune.bfcl.synthetic.travel import Travel
from envtune.bfcl.synthetic.vehicle import Vehicle
from envtune.bfcl.synthetic.world import Again, Family, Plan, World
from envtune.bfcl.tasks import NEW_TOOLS_MESSAGE, OWN_CLASSES, SPLITS, Call, Task
from envtune.bfcl.toolbox import Toolbox

# tool class -> its world. An id without classes draws from exactly these: another entry here would
# change the tasks of all such ids.
WORLDS: dict[str, type[World]] = {
    world.class_name: world
    for world in (Files, Numbers, Messages, Posting, Tickets, Trading, Travel, Vehicle)
}
OWN_WORLDS: dict[str, type[World]] = {}  # of tool classes that are not BFCL's
TRAIN, VALIDATION, TEST = range(100), range(100, 125), range(200, 300)
MORE_TRAIN = range(10_000, 1_000_000)
"""Training tasks for whoever wants more than TRAIN; the agent's own begin after them."""
_HELD_OUT = range(100, 1000)
_UNSEEN = range(200, 1000)
_ID = re.compile(
    rf"synthetic_({'|'.join(SPLITS)})_(\d+)(?:_t([1-4]))?(?:_d([0-5]))?(?:_([A-Z]\w*(?:\+[A-Z]\w*)*))?"
)
_FOLLOW_UPS = (
    "It is {}.",
    "I mean {}.",
    "Take {}.",
    "Sorry, {}.",
    "That is {}.",
    "Use {}.",
    "Please take {}.",
    "The answer is {}.",
    "It should be {}.",
    "Let it be {}.",
)
_UNSEEN_FOLLOW_UPS = ("That should be {}.", "I mean it is {}.")
_ATTEMPTS = 2_000
_MOST_TURNS = 4


def task_ids(
    numbers: Sequence[int], variants: Sequence[str] = SPLITS, requests: int | None = None
) -> tuple[str, ...]:
    """Ids of some numbers in some variants, variant by variant.

    requests: how many the user of every task has; None: 1 to 4, as drawn.

    >>> task_ids(TEST)[0], len(task_ids(TEST))
    ('synthetic_base_200', 400)
    >>> task_ids([7], ["base"], requests=3)
    ('synthetic_base_7_t3',)
    """
    end = "" if requests is None else f"_t{requests}"
    return tuple(f"synthetic_{variant}_{number}{end}" for variant in variants for number in numbers)


def novelty(task_id: str) -> str:
    """What is new in a held-out task: "phrasings", "names" or "values"; "" for training tasks."""
    number = int(_parts(task_id)[1])
    if number not in _HELD_OUT:
        return ""
    return {0: "phrasings", 1: "names"}.get(number % 5, "values") if number in _UNSEEN else "values"


def add_world(world: type[World]) -> None:
    """Add a world of your own: `synthetic_base_7_RestaurantAPI` is then a task.

    ValueError when its tool class is BFCL's, or was not added before, by domains.add.
    """
    if world.class_name in WORLDS:
        raise ValueError(
            f"{world.class_name} has its world already; fixed task ids are drawn from it"
        )
    if world.class_name not in OWN_CLASSES:
        raise ValueError(
            f"there is no tool class {world.class_name!r}; add it first: domains.add(cls, [])"
        )
    OWN_WORLDS[world.class_name] = world
    _made.cache_clear()  # in a notebook the same world is defined again and again


def _parts(task_id: str) -> tuple[str, int, int | None, int | None, tuple[str, ...]]:
    """variant, number, turns, depth, classes. KeyError for what is no synthetic id."""
    found = _ID.fullmatch(task_id)
    if found is None:
        raise KeyError(
            f"no task {task_id!r}; synthetic ids read synthetic_<variant>_<number>, variant one of "
            f"{', '.join(SPLITS)}, with _t<1..4> for the number of turns, _d<0..5> for the depth "
            "of prerequisites and _<class>+<class> for the tool classes where they are chosen"
        )
    variant, number, turns, depth, classes = found.groups()
    chosen = tuple(classes.split("+")) if classes else ()
    if unknown := [name for name in chosen if name not in WORLDS | OWN_WORLDS]:
        raise KeyError(
            f"no task {task_id!r}: {', '.join(unknown)} has no world; "
            f"worlds: {', '.join(WORLDS | OWN_WORLDS)}"
        )
    if len(set(chosen)) < len(chosen):
        raise KeyError(f"no task {task_id!r}: a class stands twice in it")
    wanted = int(turns) if turns else None, int(depth) if depth else None
    return variant, int(number), *wanted, chosen


def make(task_id: str) -> Task:
    """The task of an id. KeyError for an unknown id, RuntimeError when no draw met its depth."""
    return _made(task_id)[0]


def requests(task_id: str) -> tuple[Plan, ...]:
    """The requests that a task is made of, in order: kind, values, calls."""
    return _made(task_id)[1]


@lru_cache(maxsize=4096)
def _made(task_id: str) -> tuple[Task, tuple[Plan, ...]]:
    variant, number, turns, depth, classes = _parts(task_id)
    seed = f"synthetic {number} {turns} {depth}" + (f" {'+'.join(classes)}" if classes else "")
    for attempt in range(_ATTEMPTS):
        draw = Draw(f"{seed} {attempt}")
        try:
            worlds, asked = _scenario(number, turns, depth, classes, draw)
            # all variants of a number share a scenario, so they are refused together
            for long_context in (False, True):
                _run(worlds, [plan.calls for _, plan in asked], long_context)
            if variant.startswith("miss"):
                asked = asked[: _MOST_TURNS - 1]  # the variant adds a turn
            return _variant(task_id, variant, number, draw, worlds, asked), tuple(
                plan for _, plan in asked
            )
        except Again:
            continue
    raise RuntimeError(
        f"no draw of {task_id!r} met its difficulty in {_ATTEMPTS} attempts; choose another "
        "number, fewer turns or depth"
    )


def _scenario(
    number: int, turns: int | None, depth: int | None, classes: tuple[str, ...], draw: Draw
) -> tuple[list[World], list[tuple[World, Plan]]]:
    """Worlds and the requests in them, in order."""
    new = novelty(f"synthetic_base_{number}")
    names = Names(draw, unseen=new == "names")
    chosen = classes or draw.sample(list(WORLDS), draw.choice((1, 2, 2)))
    worlds = [(WORLDS | OWN_WORLDS)[name](draw, names, depth) for name in chosen]
    count = turns or draw.weighted((1, 2, 3, 4), (0.25, 0.35, 0.25, 0.15))
    requests = []
    for turn in range(count):
        world = worlds[turn] if turn < len(worlds) <= count else draw.choice(worlds)
        world.held_out = number in _HELD_OUT
        requests.append((world, _request(world)))
    kept = [plan for _, plan in requests[: _MOST_TURNS - 1]]  # in every variant
    if depth is not None and not (
        max(plan.prerequisites for plan in kept) == depth >= requests[-1][1].prerequisites
    ):
        raise Again
    if new == "names" and not any(plan.named for plan in kept):
        raise Again
    if not any(plan.askable for plan in kept):
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


def _variant(
    task_id: str,
    variant: str,
    number: int,
    draw: Draw,
    worlds: list[World],
    requests: list[tuple[World, Plan]],
) -> Task:
    """The scenario as a task of one variant."""
    unseen = novelty(task_id) == "phrasings"
    families = [world.families[plan.family] for world, plan in requests]
    said = [
        _say(family, family.unseen if unseen else family.phrasings, plan, draw)
        for family, (_, plan) in zip(families, requests, strict=True)
    ]
    also = [f" {plan.also}" if plan.also else "" for _, plan in requests]
    texts = [text + more for text, more in zip(said, also, strict=True)]
    calls = [plan.calls for _, plan in requests]
    withheld, until = (), None
    if variant == "miss_param":
        at = draw.choice([turn for turn, (_, plan) in enumerate(requests) if plan.askable])
        family, plan = families[at], requests[at][1]
        vague = _say(family, family.vague, plan, draw) + also[at]
        follow_up = (
            said[at]
            if draw.chance(0.4)
            else draw.choice(_UNSEEN_FOLLOW_UPS if unseen else _FOLLOW_UPS).format(
                plan.values[family.missing]
            )
        )
        texts[at : at + 1], calls[at : at + 1] = [vague, follow_up], [(), calls[at]]
    elif variant == "miss_func":
        free = [
            turn
            for turn in range(len(calls))
            if not any(c.name == calls[turn][-1].name for t in calls[:turn] for c in t)
        ]
        at = draw.choice(free)  # the first turn always is
        withheld, until = (calls[at][-1].name,), at + 1
        texts.insert(at + 1, NEW_TOOLS_MESSAGE)
        calls[at : at + 1] = [(), calls[at]]
    classes = tuple(world.class_name for world in worlds)
    config = {world.class_name: world.config for world in worlds}
    return Task(
        id=task_id,
        split=variant,
        scenario=number,
        user_turns=tuple(texts),
        initial_config=config,
        classes=classes,
        withheld=withheld,
        withheld_until=until,
        ground_truth=tuple(calls),
        ground_truth_source=tuple(tuple(call.source() for call in turn) for turn in calls),
    )


def _run(worlds: list[World], calls: Sequence[Sequence[Call]], long_context: bool) -> None:
    """Raise Again when a call of the ground truth fails, or when the task is won without one."""
    classes = tuple(world.class_name for world in worlds)
    start = (classes, {world.class_name: world.config for world in worlds}, long_context)
    box = Toolbox.of_scenario(*start)
    seen: Counter[str] = Counter()
    doubtful = []
    for turn, turn_calls in enumerate(calls):
        results = [box.execute(call) for call in turn_calls]
        if any(is_error(result) for result in results):
            raise Again
        # a call's result proves that it was made, unless an earlier turn has printed the same text
        doubtful += [(turn, i) for i, result in enumerate(results) if result in seen]
        seen.update(results)
    if any(_wins_without(start, calls, *place) for place in doubtful):
        raise Again


def _wins_without(start: tuple, calls: Sequence[Sequence[Call]], turn: int, index: int) -> bool:
    """Whether a turn is won, by state and results, when one of its calls is left out."""
    needs, makes = Toolbox.of_scenario(*start), Toolbox.of_scenario(*start)
    needed, made = Counter(), Counter()
    for t, turn_calls in enumerate(calls[: turn + 1]):
        needed = Counter(needs.execute(call) for call in turn_calls)
        made.update(
            makes.execute(call) for i, call in enumerate(turn_calls) if (t, i) != (turn, index)
        )
    return not needed - made and all(
        _public(needs.instances[name]) == _public(makes.instances[name]) for name in needs.instances
    )


def _public(instance) -> dict:
    return {name: value for name, value in vars(instance).items() if not name.startswith("_")}
