"""Bad hints as data, to study how robust training is (the paper's open question 3).

    >>> Corruption("shuffled", rate=0.5)    # half of the hints that are shown are another tool's

Only what the agent reads changes: results, state and verdicts stay. A corrupted hint is not checked
for leaks, and in the record its id ends in "!kind".
"""

import random
from dataclasses import dataclass
from functools import lru_cache

import yaml

from envtune.bfcl import Task
from envtune.common import paths

KINDS = {
    "none": "the library as it is",
    "no_judge": "a draft without a judge (data/hints/unjudged.yaml), else the approved text",
    "shuffled": "the hint of another tool",
    "vague": "a text that says nothing about the cause",
    "over_specific": "a ground-truth call of the turn, written out",
    "contradictory": "the opposite of what the environment asks for",
}
VAGUE = (
    "Something about this call was not as it should be. "
    "Think about it again, and try something else."
)
CONTRADICTORY = (
    "This call is right as it is, and the error is temporary. Repeat it unchanged until it works."
)


@lru_cache(maxsize=1)
def drafts() -> dict[str, str]:
    """Unjudged drafts: hint id -> text."""
    return yaml.safe_load((paths.DATA / "hints" / "unjudged.yaml").read_text())


@dataclass(frozen=True)
class Corruption:
    """A kind of bad hint and how often it replaces a good one."""

    kind: str = "none"  # one of KINDS
    rate: float = 0.0  # share of the shown hints that are corrupted [0..1]

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"corruption is one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(f"the rate of a corruption is in [0, 1], got {self.rate!r}")

    def applies(self, seed: str) -> bool:
        """Whether the hint that `seed` names is corrupted."""
        return self.kind != "none" and random.Random(f"strike {seed}").random() < self.rate

    def corrupt(self, text: str, hint, library, task: Task, turn: int, seed: str) -> str:
        """The corrupted text in place of `text`."""
        if self.kind == "no_judge":
            return drafts().get(hint.id, text)
        if self.kind == "vague":
            return VAGUE
        if self.kind == "contradictory":
            return CONTRADICTORY
        if self.kind == "shuffled":
            others = [h.text for h in library if h.tools and not set(h.tools) & set(hint.tools)]
            return random.Random(f"shuffle {seed}").choice(others)
        calls = task.ground_truth[turn] or next(filter(None, task.ground_truth))
        call = random.Random(f"tell {seed}").choice(calls)
        return f"Call {call.source()}."


NONE = Corruption()
