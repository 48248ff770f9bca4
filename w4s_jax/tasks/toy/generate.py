"""Draws the items of one toy task.

family, instance, split seed, sizes → **generate** → {split: items}
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from w4s_jax.tasks.toy.draft import metadata
from w4s_jax.tasks.toy.families import ITEM_SIGMA, Family, instance_profile, jitter
from w4s_jax.tasks.toy.functions import function_item
from w4s_jax.types import InputError, Item, Split

_ATTEMPTS = 200
"""Draws an item may take before a template is said to be exhausted."""


def generate(family: Family, instance: int, split_seed: int, sizes: Mapping[Split, int]) -> dict[Split, list[Item]]:
    """Draws splits that share no question; a split does not depend on how large later ones are.

    Args:
        family: Templates and profile.
        instance: Which jittered variant of the family.
        split_seed: Decides the items.
        sizes: Items by split.

    Raises:
        InputError: The templates cannot give so many different questions.
    """
    profile = instance_profile(family, instance)
    seen: set[str] = set()
    splits: dict[Split, list[Item]] = {}
    for split in (Split.VALIDATION, Split.TEST, Split.TRAIN):
        rng = random.Random(f"{family.name}/{instance}/{split_seed}/{split}")
        prefix = f"{family.name}@{instance}/{split_seed}/{split}"
        stream = _unseen(family, profile, rng, prefix, seen)
        splits[split] = [next(stream) for _ in range(sizes.get(split, 0))]
    return splits


def _unseen(
    family: Family, profile: Mapping[str, float], rng: random.Random, prefix: str, seen: set[str]
) -> Iterator[Item]:
    """Yields items with questions that were not drawn before."""
    draw = _numeric if family.templates else _function
    number = 0
    while True:
        for _ in range(_ATTEMPTS):
            item = draw(family, jitter(profile, ITEM_SIGMA, rng), rng, f"{prefix}/{number}")
            if item and item.question not in seen:
                break
        else:
            raise InputError(f"{family.name} has no more than {len(seen)} different questions; ask for smaller splits")
        seen.add(item.question)
        number += 1
        yield item


def _numeric(family: Family, profile: dict[str, float], rng: random.Random, item_id: str) -> Item | None:
    draft = rng.choice(family.templates)(rng, family.scale)
    facts = metadata(draft, profile, rng)
    if facts is None or (int(facts["answer"]) <= 0 and "negative" not in draft.question):
        return None
    facts["family"] = family.name
    return Item(id=item_id, question=draft.question, target=int(facts["answer"]), metadata=facts)


def _function(family: Family, profile: dict[str, float], rng: random.Random, item_id: str) -> Item | None:
    drawn = function_item(rng, profile)
    if drawn is None:
        return None
    return Item(
        id=item_id,
        question=drawn.question,
        target={"plain": list(drawn.plain_tests), "edge": list(drawn.edge_tests)},
        entry_point=drawn.entry_point,
        public_tests=drawn.public_tests,
        metadata={**drawn.metadata, "family": family.name},
    )
