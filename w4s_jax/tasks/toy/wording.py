"""Names, nouns and number ranges that the templates draw from.

seeded generator → **words, numbers** → templates → Draft
"""

from __future__ import annotations

import dataclasses
import random

NAMES = (
    "Ada Ben Cleo Dana Emil Fay Gus Hana Ivo Jun Kira Leo Mona Nils Olga Pia Quinn Rosa Sven Tara Uma Viktor Wanda "
    "Xenia Yara Zeno"
).split()
THINGS = (
    "apples pears lemons bricks candles marbles stamps buttons shells beads tickets bottles cards coins screws tiles "
    "pencils ribbons tins jars"
).split()
PLACES = "Oslo Lima Cairo Quito Porto Delhi Turin Perth Kyoto Malmo Basel Accra Hanoi Tunis".split()
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """Ranges of the numbers of a problem."""

    few: tuple[int, int]
    """Multipliers: boxes, days, prices."""
    many: tuple[int, int]
    """What is multiplied or counted."""


SMALL = Scale(few=(3, 19), many=(6, 60))
MIDDLE = Scale(few=(3, 12), many=(12, 240))
LARGE = Scale(few=(10_007, 999_983), many=(1_000_003, 899_999_999))


def few(rng: random.Random, scale: Scale) -> int:
    """Draws a multiplier."""
    return rng.randint(*scale.few)


def many(rng: random.Random, scale: Scale) -> int:
    """Draws a count, spread evenly over its orders of magnitude."""
    low, high = scale.many
    return int(low * (high / low) ** rng.random())


def distinct(rng: random.Random, words: list[str], count: int) -> list[str]:
    """Draws different words."""
    return rng.sample(words, count)
