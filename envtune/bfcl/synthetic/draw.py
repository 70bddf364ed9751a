"""Random draws that are the same in every process and Python version, and names for tasks.

    >>> draw = Draw("synthetic 7")
    >>> draw.choice(["a", "b", "c"]), draw.between(1, 6)
    ('c', 3)

Only `Random.random()` is used: it is the only method that Python promises to repeat for a seed.
"""

import random
import zlib
from collections.abc import Sequence

NOUNS = (
    "report budget summary invoice letter memo ledger agenda roster survey index sketch outline "
    "recipe poem diary contract schedule catalog inventory manual receipt proposal itinerary "
    "transcript glossary brochure checklist syllabus forecast"
).split()
FOLDERS = (
    "projects archive drafts music photos data backup temp school research finance travel office "
    "clients garden kitchen studio library sports history"
).split()
PEOPLE = (
    "Anna Boris Carla Dmitri Elena Felix Greta Hugo Irene Jonas Karin Leon Marta Nils Olga Pavel "
    "Rita Simon Tanja Viktor Wanda Xaver Yara Zeno Bruno Clara Edgar Frida Gustav Hanna"
).split()
ADJECTIVES = (
    "broken late missing noisy slow cold empty heavy wrong new old loud dirty loose open".split()
)
THINGS = (
    "printer screen chair window door lamp phone laptop heater badge router desk cable meeting "
    "garden train package camera kettle parcel"
).split()
UNSEEN_NOUNS = "manifest dossier pamphlet treatise almanac chronicle voucher bulletin".split()
UNSEEN_FOLDERS = "museum harbor stadium orchard bakery theater".split()
UNSEEN_PEOPLE = "Quentin Isolde Mortimer Beatrix Lorenzo Ophelia Casimir Philippa".split()
UNSEEN_ADJECTIVES = "rusty sticky crooked foggy".split()
UNSEEN_THINGS = "scanner blender curtain mailbox projector stapler".split()
# words of sentences that nobody searches for
COMMON = frozenset("the is are and to at no be new here about call please ready done today".split())
ENDINGS = ("txt", "md", "csv", "log", "pdf")
_ONSETS = (
    "b c d f g h j k l m n p r s t v w z bl br ch cl cr dr fl fr gl gr pl pr qu sc sh sl sp st th "
    "tr"
).split() + [""] * 4
_VOWELS = "a a e e i i o o u u ai ea ee ie io oa oo ou y".split()
_CODAS = "b d ck g l ll m n nd ng nt p r rd rt s sh ss st t x z".split() + [""] * 14


class Draw:
    """A stream of draws from a text seed."""

    def __init__(self, seed: str):
        self.random = random.Random(seed).random

    def below(self, n: int) -> int:
        return int(self.random() * n)

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.random() * (high - low + 1))

    def choice(self, items: Sequence):
        return items[int(self.random() * len(items))]

    def sample(self, items: Sequence, count: int) -> list:
        """`count` different items in drawn order."""
        places: list[int] = []
        while len(places) < count:  # few of many: a double is rare
            if (place := self.below(len(items))) not in places:
                places.append(place)
        return [items[place] for place in places]

    def weighted(self, items: Sequence, weights: Sequence[float]):
        """One item, drawn in proportion to its weight."""
        mark = self.random() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            mark -= weight
            if mark < 0:
                return item
        return items[-1]

    def chance(self, probability: float) -> bool:
        return self.random() < probability


def share(text: str, parts: int) -> int:
    """Which of `parts` equal shares a text falls into: a fixed hash, 0..parts-1."""
    return zlib.crc32(text.encode()) % parts


class Names:
    """Words for files, people and texts. `unseen`: words that no other task uses."""

    def __init__(self, draw: Draw, unseen: bool = False):
        self.draw, self.unseen = draw, unseen

    def _of(self, seen: Sequence[str], unseen: Sequence[str]) -> str:
        return self.draw.choice(unseen if self.unseen else seen)

    def made_up(self) -> str:
        """A word in no dictionary, such as `thoard`; one in five is reserved for unseen names."""
        while True:
            word = "".join(
                self.draw.choice(part)
                for _ in range(self.draw.between(1, 3))
                for part in (_ONSETS, _VOWELS, _CODAS)
            )
            if 4 <= len(word) <= 9 and (share(word, 5) == 0) == self.unseen:
                return word

    def noun(self) -> str:
        return self.made_up() if self.draw.chance(0.5) else self._of(NOUNS, UNSEEN_NOUNS)

    def file(self) -> str:
        """`budget.txt`, `travi_12.md`"""
        number = f"_{self.draw.between(1, 99)}" if self.draw.chance(0.25) else ""
        return f"{self.noun()}{number}.{self.draw.choice(ENDINGS)}"

    def folder(self) -> str:
        return self.made_up() if self.draw.chance(0.5) else self._of(FOLDERS, UNSEEN_FOLDERS)

    def person(self) -> str:
        return (
            self.made_up().capitalize()
            if self.draw.chance(0.5)
            else self._of(PEOPLE, UNSEEN_PEOPLE)
        )

    def user(self) -> str:
        """A login name: `carla42`."""
        return f"{self.person().lower()}{self.draw.between(1, 99)}"

    def password(self) -> str:
        return f"{self.made_up()}{self.draw.between(100, 999)}"

    def thing(self) -> str:
        """`broken printer`"""
        return f"{self._adjective()} {self._thing()}"

    def _adjective(self) -> str:
        return self.made_up() if self.draw.chance(0.3) else self._of(ADJECTIVES, UNSEEN_ADJECTIVES)

    def _thing(self) -> str:
        return self.made_up() if self.draw.chance(0.3) else self._of(THINGS, UNSEEN_THINGS)

    def sentence(self) -> str:
        """A short text to write, send or post, without quotes."""
        return self.draw.choice(
            (
                "the {0} is {1}",
                "{0} and {2} are done",
                "please bring the {0} to {3}",
                "meet {3} at {4}",
                "the {1} {0} is here",
                "call {3} about the {0}",
                "{2} {4} is ready",
                "no {0} today",
            )
        ).format(
            self._thing(), self._adjective(), self.noun(), self.person(), self.draw.between(2, 99)
        )

    def word_of(self, text: str) -> str:
        """A word of a text that is worth searching for."""
        return self.draw.choice(
            [word for word in text.split() if word.isalpha() and word not in COMMON]
        )

    def place(self) -> str:
        """An address to drive to: `48 Travi Street`."""
        number, noun = self.draw.between(1, 99), self.noun().capitalize()
        return f"{number} {noun} {self.draw.choice(('Street', 'Road', 'Square', 'Lane'))}"
