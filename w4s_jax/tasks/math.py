"""Word problems with one number as the answer: GSM-Hard, GSM8K, SVAMP.

hub rows → **items in the published splits** → numeric grader

Sources: GSM-Hard (PAL, arXiv 2211.10435), GSM8K (arXiv 2110.14168), SVAMP (arXiv
2103.07191). `metadata["program"]` is a gold program where the source has one or
where GSM8K's calculator annotations give one that computes the answer.

Departures: the ten items that W4S draws into GSM-Hard's validation split are drawn
by our seed; GSM8K has AFlow's sizes with our membership.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from w4s_jax.tasks.base import ItemTask, TaskOptions, check_variant
from w4s_jax.tasks.gold_programs import annotated_program
from w4s_jax.tasks.scoring.numbers import parse_number
from w4s_jax.tasks.scoring.numeric import NumericGrader
from w4s_jax.tasks.source import HubSource, Row
from w4s_jax.tasks.splits import Splits, published_sizes, resize, shuffled, split_pool
from w4s_jax.types import Item, Split
from w4s_jax.workflows import seeds_for

_GSM_HARD = HubSource(name="gsm_hard", hub_id="reasoning-machines/gsm-hard")
_GSM8K = HubSource(name="gsm8k", hub_id="openai/gsm8k", config="main")
_SVAMP = HubSource(name="svamp", hub_id="ChilleD/SVAMP")

NEAR = NumericGrader(tolerance=1e-6)
"""The rule of GSM8K and its kin."""

GSM_HARD_RULES = {
    "": NumericGrader(tolerance=0.1, inclusive=False, whose="W4S"),
    "w4s": NumericGrader(tolerance=0.1, inclusive=False, whose="W4S"),
    "pal": NumericGrader(tolerance=1e-3, inclusive=False, whose="PAL"),
    "relative": NumericGrader(tolerance=1e-4, relative=True),
}
"""By variant: `gsm_hard:pal`."""


# --- GSM-Hard ---------------------------------------------------------------


def load_gsm_hard(variant: str, options: TaskOptions) -> ItemTask:
    """GSM8K problems with large numbers, split as W4S does: 138 / 500 / 491 of 1,319 rows at seed 0.

    Args:
        variant: Whose tolerance, a key of `GSM_HARD_RULES`.
        options: Of the task.

    Raises:
        InputError: An unknown variant, no data, a bad row, or sizes that exceed it.
    """
    check_variant("gsm_hard", variant, GSM_HARD_RULES)
    rows, origin = _GSM_HARD.read("train", options.data_dir, options.revision)
    cut = _cut_as_w4s([_gsm_hard_item(i, row) for i, row in enumerate(rows)], options)
    grader = GSM_HARD_RULES[variant]
    return ItemTask(
        name="gsm_hard" + (f":{variant}" if variant else ""),
        description=(
            "Grade-school word problems in which the numbers are large (often above a million) or odd. "
            f"The answer is one number; it is right within {_format_tolerance(grader)} the gold number."
        ),
        splits=cut.items,
        grader=grader,
        rule=grader.rule,
        seeds=seeds_for("math"),
        source=f"{origin}, {cut.how}",
    )


def _cut_as_w4s(items: list[Item], options: TaskOptions) -> Splits:
    """Rows shuffled by the seed; validation [0:128] and 10 drawn from [628:828], test [128:628], train [828:]."""
    seed, sizes = options.split_seed, options.sizes
    published = published_sizes("gsm_hard", sizes.named)
    if len(items) <= 828:
        return split_pool("gsm_hard", items, seed=seed, sizes=sizes)
    order = shuffled(items, seed)
    drawn = random.Random(seed).sample(order[628:828], k=published.validation - 128)
    splits = {Split.VALIDATION: [*order[:128], *drawn], Split.TEST: order[128:628], Split.TRAIN: order[828:]}
    spare = [item for item in order[628:828] if item not in drawn]
    how = f"shuffled by seed {seed} and cut as W4S does, ten validation items drawn by our seed"
    return Splits(resize(splits, sizes, spare=spare), how)


def _format_tolerance(grader: NumericGrader) -> str:
    return f"{grader.tolerance:.2%} of" if grader.relative else f"{grader.tolerance:g} of"


def _gsm_hard_item(index: int, row: Row) -> Item:
    return Item(
        id=f"gsm_hard/{index}",
        question=row.text("input"),
        target=number_in(row, "target"),
        metadata={"program": row.text("code").strip()},
    )


# --- GSM8K ------------------------------------------------------------------


def load_gsm8k(variant: str, options: TaskOptions) -> ItemTask:
    """Grade-school word problems; the hub's test split is cut into 264 validation and 1,055 test items.

    Raises:
        InputError: A variant, no data, a bad row, or sizes that exceed it.
    """
    check_variant("gsm8k", variant)
    splits, source = _test_and_train(_GSM8K, _gsm8k_item, options)
    return ItemTask(
        name="gsm8k",
        description="Grade-school word problems that take two to eight steps of arithmetic. The answer is one number.",
        splits=splits,
        grader=NEAR,
        rule=NEAR.rule,
        seeds=seeds_for("math"),
        source=source,
    )


def _gsm8k_item(split: str, index: int, row: Row) -> Item:
    solution, mark, final = row.text("answer").rpartition("####")
    target = parse_number(final)
    if not mark or target is None:
        raise row.error("field 'answer' has no number behind ####; end it with `#### 18`")
    program = annotated_program(solution, target)
    return Item(
        id=f"gsm8k/{split}/{index}",
        question=row.text("question"),
        target=target,
        metadata={"program": program} if program else {},
    )


# --- SVAMP ------------------------------------------------------------------


def load_svamp(variant: str, options: TaskOptions) -> ItemTask:
    """One-step word problems with distracting numbers; the hub's 300 test rows are 60 validation and 240 test items.

    Raises:
        InputError: A variant, no data, a bad row, or sizes that exceed it.
    """
    check_variant("svamp", variant)
    splits, source = _test_and_train(_SVAMP, _svamp_item, options)
    return ItemTask(
        name="svamp",
        description="Short word problems of one or two steps that tell more numbers than are needed. "
        "The answer is one number.",
        splits=splits,
        grader=NEAR,
        rule=NEAR.rule,
        seeds=seeds_for("math"),
        source=source,
    )


def _svamp_item(split: str, index: int, row: Row) -> Item:
    return Item(
        id=f"svamp/{split}/{index}",
        question=f"{row.text('Body').strip()} {row.text('Question').strip()}",
        target=number_in(row, "Answer"),
    )


def _test_and_train(
    source: HubSource, make_item: Callable[[str, int, Row], Item], options: TaskOptions
) -> tuple[Mapping[Split, Sequence[Item]], str]:
    """Validation and test out of the hub's test split, train as the hub's, where it is at hand; and a line on that."""
    rows, origin = source.read("test", options.data_dir, options.revision)
    more, _ = source.read_if_there("train", options.data_dir, options.revision)
    cut = split_pool(
        source.name,
        [make_item("test", i, row) for i, row in enumerate(rows)],
        seed=options.split_seed,
        sizes=options.sizes,
        train=[make_item("train", i, row) for i, row in enumerate(more)],
    )
    rest = "the hub's" if more else "what is left"
    return cut.items, f"{origin}, {cut.how}; train is {rest}"


def number_in(row: Row, field: str) -> float:
    """A field that has to be one number.

    Raises:
        InputError: It is not.
    """
    value = parse_number(row.get(field))
    if value is None:
        raise row.error(f"field {field!r} is {row.get(field)!r}; it must be a finite number")
    return value
