"""What a world is: a drawn state of one tool class, and the requests that a user may make in it.

    class Notes(World):
        class_name = "NotesAPI"
        families = {"add": Family(("Note {text}.", "Write down {text}."), ("Remember {text}.",),
                                  vague=("Note something.",), missing="text")}

        def __init__(self, draw, names, depth):
            super().__init__(draw, names, depth)
            self.config = {"notes": []}

        def add(self) -> Plan:
            text = self.names.sentence()
            return self.plan("add", {"text": text}, [Call("add_note", {"text": text})])

A world tracks what its requests have changed, so that the calls it plans are right when they are
made. Every argument is in the user's words, in an earlier result, or a constant of the tool's docs.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import ClassVar

from envtune.bfcl.synthetic.draw import Draw, Names, share
from envtune.bfcl.tasks import Call

HELD_OUT_SHARES = 4  # one in four combinations of a request and its values is held out


class Again(Exception):
    """This draw cannot be used here; another one is made."""


@dataclass(frozen=True)
class Family:
    """The ways to say one kind of request. Slots in braces are filled with the request's values."""

    phrasings: tuple[str, ...]
    unseen: tuple[str, ...]  # phrasings that only a fifth of the test tasks use
    vague: tuple[str, ...]  # for miss_param: without the value of the slot `missing`
    missing: str
    weight: float = 1.0  # how often it is drawn, relative to the other families of its world

    def __post_init__(self):
        slots = [_slots(text) for text in (*self.phrasings, *self.unseen)]
        if any(s != slots[0] for s in slots) or self.missing not in slots[0]:
            raise ValueError(
                f"every phrasing fills the same slots, `missing` among them; got {slots} and "
                f"{self.missing!r}"
            )
        if (
            any(_slots(text) - slots[0] or self.missing in _slots(text) for text in self.vague)
            or not self.vague
        ):
            raise ValueError(
                f"vague phrasings use the slots {slots[0]} without {self.missing!r}; "
                f"got {self.vague}"
            )


def _slots(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@dataclass(frozen=True)
class Plan:
    """One request: what is said and the calls that fulfil it, prerequisites first."""

    family: str
    values: dict[str, str]  # slot -> the value as the user says it
    calls: tuple[Call, ...]
    prerequisites: int  # how many of the calls only prepare: log in, change folder, look up an id
    also: str  # what the user adds for the prerequisites: credentials, a token; '' when nothing
    named: bool  # whether a value is a name (of a file, a person, ...)
    askable: bool  # whether only the user knows the missing value, and the state does not show it


class World:
    """One tool class in a drawn state. A method per family plans a request, or raises Again."""

    class_name: ClassVar[str]
    families: ClassVar[dict[str, Family]]
    named: ClassVar[frozenset[str]] = frozenset()  # slots that hold names
    config: dict
    user: str  # user, password and logged_in: of worlds that call log_in
    password: str
    logged_in: bool

    def __init__(self, draw: Draw, names: Names, depth: int | None):
        """depth: the most prerequisites per request; None: as drawn. 0: all are met."""
        self.draw, self.names, self.depth = draw, names, depth
        self.held_out = False
        self.known: set[str] = set()  # what an earlier call of this task has told the agent

    def ready(self, probability: float) -> bool:
        """Draw whether a prerequisite is met at the start; depth 0 makes it so."""
        return self.depth == 0 or self.draw.chance(
            probability if self.depth is None else probability / 2
        )

    def log_in(self, tool: str) -> tuple[list[Call], str]:
        """The call that logs in by name and password, and how the user says them; once."""
        if self.logged_in:
            return [], ""
        self.logged_in = True
        said = f"My user name is {self.user} and the password is {self.password}."
        return [Call(tool, {"username": self.user, "password": self.password})], said

    def once(self, fact: str) -> bool:
        """Whether the agent was not told this yet; from now on it is."""
        new = fact not in self.known
        self.known.add(fact)
        return new

    def one_of(self, items: Collection):
        """One of some items; Again when there is none."""
        if not items:
            raise Again
        return self.draw.choice(list(items))

    def keep(self, family: str, values: dict) -> dict:
        """The values; Again unless they and the task are both held out, or both not."""
        key = f"{family} " + " ".join(f"{k}={v}" for k, v in sorted(values.items()))
        if (share(key, HELD_OUT_SHARES) == 0) != self.held_out:
            raise Again
        return values

    def simple(self, family: str, values: dict, tool: str, /, **arguments) -> Plan:
        """A request of one call: nothing to prepare, nothing to remember."""
        return self.plan(family, self.keep(family, values), [Call(tool, arguments)])

    def plan(
        self,
        family: str,
        values: dict,
        own: Sequence[Call],
        prepare: Sequence[Call] = (),
        also: str = "",
        askable: bool = True,
    ) -> Plan:
        """The request with its calls: a family's method ends with this."""
        return Plan(
            family,
            {k: str(v) for k, v in values.items()},
            (*prepare, *own),
            len(prepare),
            also,
            bool(self.named & values.keys()),
            askable,
        )

    def request(self) -> Plan:
        """One drawn request."""
        names = list(self.families)
        return getattr(self, self.draw.weighted(names, [self.families[n].weight for n in names]))()
