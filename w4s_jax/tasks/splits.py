"""Which item is in which split: named sizes, seeded cuts, content hashes, duplicates.

items → **shuffle → cut → resize** → ItemTask.splits

Sizes go by name: those of W4S, AFlow and ADAS where they published some, ours
elsewhere. Their membership is theirs only where its rule is known, which is
GSM-Hard's of W4S (see `math.load_gsm_hard`); elsewhere it is ours, a shuffle by the
split seed, and the task's `source` says so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from w4s_jax.types import InputError, Item, Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitSizes:
    """Sizes asked for, in items; None keeps the task's own.

    Example:
        >>> SplitSizes(validation=20).test is None
        True
    """

    train: int | None = None
    validation: int | None = None
    test: int | None = None
    named: str = ""
    """Whose published sizes: one of `NAMES`; empty takes the first that there are, else ours."""

    def __post_init__(self) -> None:
        for split in Split:
            size = self.of(split)
            if size is not None and size < 0:
                raise InputError(f"{split}_size={size} is negative; give a number of items, 0 or more")

    def of(self, split: Split) -> int | None:
        """The size asked for of one split."""
        size: int | None = getattr(self, split.value)
        return size


class Published(NamedTuple):
    """Sizes that somebody published, or that are ours."""

    whose: str
    """A key of `PUBLISHED`."""
    validation: int
    test: int


PUBLISHED: Mapping[str, Mapping[str, tuple[int, int]]] = types.MappingProxyType(
    {
        "w4s": {"gsm_hard": (138, 500)},
        "aflow": {
            "gsm8k": (264, 1055),
            "humaneval": (33, 131),
            "mbpp": (86, 341),
            "math": (119, 486),
            "drop": (200, 800),
            "hotpotqa": (200, 800),
        },
        "adas": {"mgsm": (128, 800), "drop": (128, 800), "gpqa": (32, 166)},
        "ours": {
            "svamp": (60, 240),
            "gsm_plus": (128, 500),
            "math_500": (100, 400),
            "mmlu_pro": (200, 800),
            "gaia": (33, 132),
        },
    }
)
"""Validation and test items by task, as W4S (d4b0788), AFlow (364399e), ADAS (2702bee) and we cut them."""

NAMES = tuple(PUBLISHED)
_SPOKEN = {"w4s": "W4S", "aflow": "AFlow", "adas": "ADAS", "ours": "w4s_jax"}


def published_sizes(task: str, named: str = "") -> Published:
    """The sizes of a benchmark.

    Args:
        task: Its name without a variant.
        named: Whose sizes; empty takes the first of `NAMES` that has some.

    Raises:
        InputError: There are none of that name.

    Example:
        >>> published_sizes("drop"), published_sizes("drop", "adas").validation
        (Published(whose='aflow', validation=200, test=800), 128)
    """
    found = [whose for whose in ((named,) if named else NAMES) if task in PUBLISHED.get(whose, {})]
    if not found:
        there = [whose for whose in NAMES if task in PUBLISHED[whose]]
        raise InputError(
            f"split_sizes={named!r} has no sizes for {task}; "
            + (f"there are those of {', '.join(there)}" if there else "leave it empty")
        )
    return Published(found[0], *PUBLISHED[found[0]][task])


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    """Returns the items in the order of `datasets.Dataset.shuffle(seed)` (numpy's PCG64 permutation)."""
    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))]


def cut(items: Sequence[Item], *, validation: int, test: int) -> dict[Split, list[Item]]:
    """Cuts ordered items into validation, then test, then train."""
    end = validation + test
    return {
        Split.TRAIN: list(items[end:]),
        Split.VALIDATION: list(items[:validation]),
        Split.TEST: list(items[validation:end]),
    }


def resize(
    splits: Mapping[Split, Sequence[Item]],
    sizes: SplitSizes,
    *,
    spare: Sequence[Item] = (),
    group: Callable[[Item], Hashable] = lambda item: item.id,
) -> dict[Split, tuple[Item, ...]]:
    """Gives disjoint splits the sizes asked for.

    A smaller split keeps its first items, so the others do not move. A larger validation
    or test split takes what it lacks from `spare`, then from the end of train; validation
    takes from what a smaller test split left, too, when nothing else is there.

    Args:
        splits: Items by split, in their final order; no two splits share a group.
        sizes: The sizes asked for.
        spare: Items of no split.
        group: Of what an item that moves to another split leaves none behind.

    Raises:
        InputError: Fewer items are left than were asked for.
    """
    resized: dict[Split, tuple[Item, ...]] = {}
    reserve = [*splits.get(Split.TRAIN, ()), *reversed(spare)]
    for split in (Split.TEST, Split.VALIDATION):  # Test first: its items do not depend on validation's size.
        items = list(splits.get(split, ()))
        size = _wanted(sizes, split, len(items), len(items) + len(reserve))
        items += [reserve.pop() for _ in range(size - len(items))]
        resized[split] = tuple(items[:size])
        taken = {group(item) for item in resized[split]}
        reserve = [item for item in (*reversed(items[size:]), *reserve) if group(item) not in taken]
    left = {item.id for item in reserve}
    train = [item for item in splits.get(Split.TRAIN, ()) if item.id in left]
    return {Split.TRAIN: tuple(train[: _wanted(sizes, Split.TRAIN, len(train), len(train))]), **resized}


def _wanted(sizes: SplitSizes, split: Split, own: int, most: int) -> int:
    size = sizes.of(split)
    if size is not None and size > most:
        raise InputError(f"{split}_size={size} exceeds the {most} items there are; ask for {most} or fewer")
    return own if size is None else size


class Splits(NamedTuple):
    """Items by split, and how they came there."""

    items: dict[Split, tuple[Item, ...]]
    how: str
    """For a task's `source`, e.g. `shuffled by seed 0, 33 / 131 as AFlow, membership ours`."""


def split_pool(
    task: str,
    pool: Sequence[Item],
    *,
    seed: int,
    sizes: SplitSizes,
    train: Sequence[Item] = (),
    group: Callable[[Item], Hashable] | None = None,
) -> Splits:
    """Cuts the rows that a benchmark is evaluated on into our splits.

    The pool is shuffled by the seed and cut into validation, test and, behind them, train. A
    pool that is too small for the published sizes is cut in their proportion.

    Args:
        task: Name that `published_sizes` knows.
        pool: Items of the source's evaluation split, in its order.
        seed: Of the shuffle.
        sizes: The sizes asked for.
        train: What train consists of instead of the rest of the pool.
        group: Items for which it gives the same stay in one split; see `split_groups`.

    Raises:
        InputError: No such sizes, no items, or more were asked for than there are.
    """
    if not pool:
        raise InputError(f"task {task}: no row is left to split; take another variant, or add rows")
    published = published_sizes(task, sizes.named)
    validation, test = published.validation, published.test
    note = f"shuffled by seed {seed}, {validation} / {test} as {_SPOKEN[published.whose]}"
    note += ", membership ours" if published.whose != "ours" else ""
    note += ", sizes then as asked for" if any(sizes.of(split) is not None for split in Split) else ""
    order, small = shuffled(pool, seed), len(pool) < validation + test
    if small:
        note = f"shuffled by seed {seed}, {len(pool)} rows cut as {validation} : {test}"
    if group is not None:
        return Splits(split_groups(order, published, sizes, group), note)
    if small:
        validation = max(1, round(len(pool) * validation / (validation + test)))
        test = len(pool) - validation
    splits = cut(order, validation=validation, test=test)
    spare: Sequence[Item] = ()
    if train:
        splits[Split.TRAIN], spare = list(train), splits[Split.TRAIN]
    return Splits(resize(splits, sizes, spare=spare), note)


def split_groups(
    items: Sequence[Item], published: Published, sizes: SplitSizes, group: Callable[[Item], Hashable]
) -> dict[Split, tuple[Item, ...]]:
    """Splits of which no two share a group.

    The first groups are test's, by its share of the published sizes; the others are validation's. The sizes asked
    for only cut within them, so that no split moves with another one's size. Within a split the groups take
    turns, so that it and its prefixes hold as many as they can. Train is empty without a size of its own; it
    takes the groups of which validation holds no item. What is over is in no split.

    Args:
        items: In their seeded order.
        published: Whose proportion is dealt; where no size is asked for, at most so many items are taken.
        sizes: The sizes asked for.
        group: What must not stand in two splits.

    Raises:
        InputError: More items were asked for than the groups of a split hold.
    """
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(group(item), []).append(item)
    dealt, share = list(groups.values()), published.test / (published.validation + published.test)
    first = min(round(len(dealt) * share), len(dealt) - 1)
    test = _in_turns(Split.TEST, dealt[:first], published.test, sizes)
    validation = _in_turns(Split.VALIDATION, dealt[first:], published.validation, sizes)
    held = {group(item) for item in validation}
    free = [own for own in dealt[first:] if group(own[0]) not in held]
    return {Split.TRAIN: _in_turns(Split.TRAIN, free, 0, sizes), Split.VALIDATION: validation, Split.TEST: test}


def _in_turns(split: Split, groups: Sequence[Sequence[Item]], own: int, sizes: SplitSizes) -> tuple[Item, ...]:
    """The first items of every group, then the second ones, up to the size asked for, else to `own`."""
    turns = [item for turn in itertools.zip_longest(*groups) for item in turn if item is not None]
    size = sizes.of(split)
    if size is not None and size > len(turns):
        where, remedy = f"of {split}'s groups", f"{len(turns)} or fewer"
        if split is Split.TRAIN:
            where, remedy = "of groups that are not test's or validation's", "fewer, or for a smaller validation_size"
        raise InputError(f"{split}_size={size} exceeds the {len(turns)} items {where}; ask for {remedy}")
    return tuple(turns[: own if size is None else size])


def split_hash(items: Sequence[Item]) -> str:
    """SHA-256 over the content of items in their order, whatever they are called: what an accuracy was measured on."""
    digest = hashlib.sha256()
    for item in items:
        content = (item.question, item.target, item.entry_point, item.public_tests)
        digest.update(json.dumps(content, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


class Duplicate(NamedTuple):
    """One question in two splits."""

    first: str
    """Item id."""
    second: str
    """Item id."""


def find_duplicates(splits: Mapping[Split, Sequence[Item]]) -> tuple[Duplicate, ...]:
    """Returns questions that stand in more than one split, white space and case aside."""
    seen: dict[str, tuple[Split, str]] = {}
    found = []
    for split, items in splits.items():
        for item in items:
            first_split, first_id = seen.setdefault(normalised(item.question), (split, item.id))
            if first_split is not split:
                found.append(Duplicate(first_id, item.id))
    return tuple(found)


def normalised(question: str) -> str:
    """The form in which two questions are the same."""
    return " ".join(question.lower().split())
