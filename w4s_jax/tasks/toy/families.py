"""The toy families: templates, number ranges and how hard each kind of error is.

**FAMILIES** → instance (jittered difficulty) → generate → Items

A family's profile is the base probability of each kind of error for a bare question.
Instance k > 0 of a family (`toy_units@3`) multiplies every entry by a seeded log-normal
factor, and every item does so again, so that the best workflow differs somewhat
from instance to instance. Held-out families mix the difficulties of seen ones.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Mapping

from w4s_jax.tasks.toy.draft import Draft
from w4s_jax.tasks.toy.measures import LONG_MEASURES, MEASURES
from w4s_jax.tasks.toy.readings import READINGS
from w4s_jax.tasks.toy.stories import STORIES
from w4s_jax.tasks.toy.tables import AMBIGUOUS_TABLES, TABLES, lookup
from w4s_jax.tasks.toy.wording import LARGE, MIDDLE, SMALL, Scale
from w4s_jax.types import InputError

Template = Callable[[random.Random, Scale], Draft]

INSTANCE_SIGMA = 0.25
"""Log-normal spread of an instance's profile around its family's."""
ITEM_SIGMA = 0.2
"""Log-normal spread of an item's profile around its instance's."""
HARDEST = 0.75
"""Largest base probability after jitter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Templates with a difficulty profile."""

    name: str
    description: str
    """What the meta-agent reads; its words name the difficulties."""
    profile: Mapping[str, float]
    """Base probability by kind of error."""
    templates: tuple[Template, ...] = ()
    """Empty for the family of functions."""
    scale: Scale = SMALL
    held_out: bool = False


_ANSWER = "The answer is one plain number."

_ALL = (
    Family(
        name="toy_small",
        description=f"Word problems with small numbers and irrelevant details. {_ANSWER}",
        profile={"planning": 0.46, "reading": 0.18, "slip": 0.22, "calculation": 0.05, "form": 0.26},
        templates=STORIES,
        scale=SMALL,
    ),
    Family(
        name="toy_large",
        description=f"Word problems with huge numbers. {_ANSWER}",
        profile={"calculation": 0.54, "reading": 0.22, "planning": 0.10, "slip": 0.12, "form": 0.10},
        templates=STORIES,
        scale=LARGE,
    ),
    Family(
        name="toy_table",
        description=f"Questions about a table, with something to compute. {_ANSWER}",
        profile={"reading": 0.46, "planning": 0.18, "calculation": 0.12, "slip": 0.12, "form": 0.18},
        templates=TABLES,
        scale=MIDDLE,
    ),
    Family(
        name="toy_code",
        description="Write a Python function that passes tests, public and hidden ones. The answer is its code.",
        profile={"planning": 0.40, "edge": 0.50, "slip": 0.14, "form": 0.04},
    ),
    Family(
        name="toy_ambiguous",
        description=f"Word problems with ambiguous wording. {_ANSWER}",
        profile={"ambiguity": 0.46, "planning": 0.22, "slip": 0.10, "calculation": 0.05, "form": 0.18},
        templates=READINGS,
        scale=MIDDLE,
    ),
    Family(
        name="toy_units",
        description=f"Problems that mix units and need conversions. {_ANSWER}",
        profile={"units": 0.50, "planning": 0.14, "slip": 0.16, "calculation": 0.08, "form": 0.20},
        templates=MEASURES,
        scale=MIDDLE,
    ),
    Family(
        name="toy_lookup",
        description=f"Look-up of one number in a table, with nothing to compute. {_ANSWER}",
        profile={"reading": 0.54, "form": 0.30, "slip": 0.03},
        templates=(lookup,),
        scale=MIDDLE,
    ),
    Family(
        name="toy_table_large",
        description=f"Questions about a table with huge numbers, with something to compute. {_ANSWER}",
        profile={"calculation": 0.42, "reading": 0.40, "planning": 0.08, "slip": 0.10, "form": 0.10},
        templates=TABLES,
        scale=LARGE,
        held_out=True,
    ),
    Family(
        name="toy_small_units",
        description=f"Word problems with small numbers that mix units and need conversions. {_ANSWER}",
        profile={"planning": 0.34, "units": 0.38, "slip": 0.16, "reading": 0.06, "form": 0.20},
        templates=LONG_MEASURES,
        scale=SMALL,
        held_out=True,
    ),
    Family(
        name="toy_table_ambiguous",
        description=f"Questions about a table with ambiguous wording, with something to compute. {_ANSWER}",
        profile={"reading": 0.36, "ambiguity": 0.40, "planning": 0.10, "slip": 0.08, "form": 0.18},
        templates=AMBIGUOUS_TABLES,
        scale=MIDDLE,
        held_out=True,
    ),
)
FAMILIES: Mapping[str, Family] = {family.name: family for family in _ALL}
SEEN: tuple[str, ...] = tuple(family.name for family in _ALL if not family.held_out)
HELD_OUT: tuple[str, ...] = tuple(family.name for family in _ALL if family.held_out)

_NAME = re.compile(r"(toy_[a-z_]+?)(?:@(\d{1,6}))?")
_GROUP = re.compile(r"(toy|toy_held_out)(?::(\d{1,4}))?")


def split_name(name: str) -> tuple[Family, int]:
    """Reads `toy_units@3` as family and instance.

    Raises:
        InputError: No such family.

    Example:
        >>> split_name("toy_units@3")[1]
        3
    """
    match = _NAME.fullmatch(name)
    if not match or match[1] not in FAMILIES:
        raise InputError(f"task={name} is no toy task; use one of {', '.join(FAMILIES)}, as NAME or NAME@INSTANCE")
    return FAMILIES[match[1]], int(match[2] or 0)


def expand(name: str) -> list[str]:
    """Expands a group of toy tasks; any other toy name stands for itself.

    Args:
        name: `toy`, `toy_held_out`, either with `:N` for N instances a family, or one task.

    Raises:
        InputError: No such group or family, or no instances.

    Example:
        >>> expand("toy_held_out:2")[:2]
        ['toy_table_large', 'toy_table_large@1']
    """
    match = _GROUP.fullmatch(name)
    if not match:
        split_name(name)
        return [name]
    count = int(match[2] or 1)
    if not count:
        raise InputError(f"task={name} asks for 0 instances; give at least 1")
    families = SEEN if match[1] == "toy" else HELD_OUT
    return [f if i == 0 else f"{f}@{i}" for f in families for i in range(count)]


def instance_profile(family: Family, instance: int) -> dict[str, float]:
    """Base probabilities of an instance; instance 0 is the family itself."""
    if instance == 0:
        return dict(family.profile)
    return jitter(family.profile, INSTANCE_SIGMA, random.Random(f"{family.name}/{instance}"))


def jitter(profile: Mapping[str, float], sigma: float, rng: random.Random) -> dict[str, float]:
    """Multiplies every probability by a log-normal factor of median 1."""
    return {k: round(min(HARDEST, p * rng.lognormvariate(0.0, sigma)), 4) for k, p in sorted(profile.items())}
