"""Questions with lettered options: MMLU-Pro, GPQA.

hub rows → **items with their options under letters** → choice grader

Sources: MMLU-Pro (arXiv 2406.01574), GPQA (arXiv 2311.12022). GPQA's four options are
shuffled by the split seed and the item's own content, not by its place, so that other
sizes or another order of the rows leave every item's letters as they are. GPQA has
ADAS's sizes with our membership.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence
from typing import Any

from w4s_jax.tasks.base import ItemTask, TaskOptions, check_variant, variant_parts
from w4s_jax.tasks.scoring.choice import ChoiceGrader
from w4s_jax.tasks.source import HubSource, Row
from w4s_jax.tasks.splits import split_pool
from w4s_jax.types import Item
from w4s_jax.workflows import seeds_for

CATEGORIES = (
    "biology",
    "business",
    "chemistry",
    "computer_science",
    "economics",
    "engineering",
    "health",
    "history",
    "law",
    "math",
    "other",
    "philosophy",
    "physics",
    "psychology",
)
"""Of MMLU-Pro, spaces as `_`."""

SUBSETS = ("diamond", "main", "extended")
"""Of GPQA, of 198, 448 and 546 questions, each a part of the next."""

_MMLU_PRO = HubSource(name="mmlu_pro", hub_id="TIGER-Lab/MMLU-Pro")
_GRADER = ChoiceGrader()


# --- MMLU-Pro ---------------------------------------------------------------


def load_mmlu_pro(variant: str, options: TaskOptions) -> ItemTask:
    """Exam questions with up to ten options; the hub's validation split is our train, where it is at hand.

    Args:
        variant: Categories, `law+physics`; empty takes all.
        options: Of the task.

    Raises:
        InputError: An unknown category, no data, a bad row, or sizes that exceed it.
    """
    parts = variant_parts("mmlu_pro", variant, CATEGORIES)
    rows, origin = _MMLU_PRO.read("test", options.data_dir, options.revision)
    more, _ = _MMLU_PRO.read_if_there("validation", options.data_dir, options.revision)
    pool = _of_categories([_mmlu_pro_item("test", i, row) for i, row in enumerate(rows)], parts)
    train = _of_categories([_mmlu_pro_item("validation", i, row) for i, row in enumerate(more)], parts)
    cut = split_pool("mmlu_pro", pool, seed=options.split_seed, sizes=options.sizes, train=train)
    rest = "the hub's validation split" if train else "what is left"
    subjects = ", ".join(part.replace("_", " ") for part in parts) or "fourteen subjects"
    return ItemTask(
        name="mmlu_pro" + (f":{variant}" if variant else ""),
        description=(
            f"Exam questions of {subjects}, each with up to ten options of which one is right. "
            "The answer is the letter of that option alone."
        ),
        splits=cut.items,
        grader=_GRADER,
        rule=_GRADER.rule,
        seeds=seeds_for("qa"),
        source=f"{origin}, {cut.how}; train is {rest}",
    )


def _of_categories(items: Sequence[Item], parts: Sequence[str]) -> list[Item]:
    return [item for item in items if not parts or item.metadata["category"] in parts]


def _mmlu_pro_item(split: str, index: int, row: Row) -> Item:
    choices, letter = _options(row), row.text("answer").strip().upper()
    place = string.ascii_uppercase.find(letter) if len(letter) == 1 else -1
    if not 0 <= place < len(choices):
        raise row.error(f"field 'answer' is {letter!r}; it must be a letter from A to {_letter(len(choices) - 1)}")
    place_given = row.values.get("answer_index")
    if place_given is not None and str(place_given) != str(place):
        raise row.error(f"field 'answer_index' is {place_given!r}, but 'answer' is {letter!r}, which is {place}")
    number = row.values.get("question_id")
    return Item(
        id=f"mmlu_pro/{split}/{index if number is None else number}",
        question=_with_options(row.text("question"), choices),
        target=letter,
        metadata={"num_choices": len(choices), "category": row.text("category").strip().replace(" ", "_")},
    )


def _options(row: Row) -> list[str]:
    """The row's options, without the `N/A` that older versions fill ten places with."""
    given = row.get("options")
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise row.error(f"field 'options' is {repr(given)[:60]}; it must be a list of texts")
    choices = [_text(option) for option in given]
    while choices and choices[-1] == "N/A":
        choices.pop()
    if not 2 <= len(choices) <= len(string.ascii_uppercase) or not all(choices):
        raise row.error(f"field 'options' is {repr(given)[:60]}; it must be a list of 2 to 26 texts, none empty")
    return choices


# --- GPQA -------------------------------------------------------------------


def load_gpqa(variant: str, options: TaskOptions) -> ItemTask:
    """Graduate questions of biology, physics and chemistry with four options: 32 validation and 166 test items.

    Args:
        variant: One of `SUBSETS`; empty takes diamond.
        options: Of the task.

    Raises:
        InputError: An unknown variant, no data (it is gated), a bad row, or sizes that exceed it.
    """
    check_variant("gpqa", variant, SUBSETS)
    subset, seed = variant or SUBSETS[0], options.split_seed
    rows, origin = _gpqa_source(subset).read("train", options.data_dir, options.revision)
    items = [_gpqa_item(subset, index, row, seed) for index, row in enumerate(rows)]
    cut = split_pool("gpqa", items, seed=seed, sizes=options.sizes)
    return ItemTask(
        name="gpqa" + (f":{variant}" if variant else ""),
        description=(
            "Hard questions of biology, physics and chemistry, written by experts, each with four options "
            "of which one is right. The answer is the letter of that option alone: A, B, C or D."
        ),
        splits=cut.items,
        grader=_GRADER,
        rule=_GRADER.rule,
        seeds=seeds_for("qa"),
        source=f"{origin}, {cut.how}; options shuffled by that seed and each item's content",
    )


def _gpqa_source(subset: str) -> HubSource:
    return HubSource(
        name="gpqa",
        hub_id="Idavidrein/gpqa",
        config=f"gpqa_{subset}",
        config_in_files=subset != SUBSETS[0],
        gated=True,
    )


def _gpqa_item(subset: str, index: int, row: Row, seed: int) -> Item:
    fields = ("Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3)))
    question, texts = row.text("Question").strip(), [_text(row.get(field)) for field in fields]
    for field, text in zip(fields, texts, strict=True):
        if not text:
            raise row.error(f"field {field!r} is {row.get(field)!r}; it must be a text that is not empty")
    order = list(range(len(texts)))
    random.Random(f"{seed}/{json.dumps([question, *texts])}").shuffle(order)
    return Item(
        id=f"gpqa/{row.values.get('Record ID') or f'{subset}/{index}'}",
        question=_with_options(question, [texts[i] for i in order]),
        target=_letter(order.index(0)),
        metadata={"num_choices": len(texts)},
    )


# --- both -------------------------------------------------------------------


def _text(option: Any) -> str:
    """An option as a text; numbers as JSON writes them, nothing for what is neither."""
    if isinstance(option, int | float) and not isinstance(option, bool):
        return json.dumps(option)
    return option.strip() if isinstance(option, str) else ""


def _with_options(question: str, choices: Sequence[str]) -> str:
    lines = [f"{_letter(place)}) {choice}" for place, choice in enumerate(choices)]
    return "\n".join([question.strip(), "", *lines, "", "Which option is right? Answer with its letter."])


def _letter(place: int) -> str:
    return string.ascii_uppercase[place]
