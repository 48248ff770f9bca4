"""GSM8K's problems, each perturbed in eight ways: GSM-Plus.

hub rows → **items split by seed problem** → numeric grader

Source: arXiv 2402.19255. One of the eight perturbations takes away what is needed; its
rows have no number to find. Departures: those rows are left out and counted; splits are
by seed problem, so that no test problem stands in validation in another wording.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from w4s_jax.tasks.base import ItemTask, TaskOptions, check_variant
from w4s_jax.tasks.gold_programs import annotated_program
from w4s_jax.tasks.math import NEAR
from w4s_jax.tasks.scoring.numbers import parse_number
from w4s_jax.tasks.source import HubSource, Row
from w4s_jax.tasks.splits import split_pool
from w4s_jax.types import Item
from w4s_jax.workflows import seeds_for

_GSM_PLUS = HubSource(name="gsm_plus", hub_id="qintongli/GSM-Plus")

VARIANTS = ("testmini", "test")
"""Splits of the hub, of 2,400 and 10,552 rows: `gsm_plus:test`."""

_UNANSWERABLE = "critical thinking"


def load_gsm_plus(variant: str, options: TaskOptions) -> ItemTask:
    """Word problems of GSM8K in other wordings and with other numbers, split by seed problem.

    Args:
        variant: One of `VARIANTS`; empty takes testmini, or test where local files have that alone.
        options: Of the task.

    Raises:
        InputError: An unknown variant, no data, a bad row, or sizes that exceed it.
    """
    check_variant("gsm_plus", variant, VARIANTS)
    split = variant or _split_at_hand(options.data_dir)
    rows, origin = _GSM_PLUS.read(split, options.data_dir, options.revision)
    found = [_item(split, i, row) for i, row in enumerate(rows)]
    items = [item for item in found if item is not None]
    lost = len(found) - len(items)
    cut = split_pool("gsm_plus", items, seed=options.split_seed, sizes=options.sizes, group=_seed_question)
    return ItemTask(
        name="gsm_plus" + (f":{variant}" if variant else ""),
        description=(
            "Grade-school word problems of a few steps, in which numbers, wording or the quantity asked for "
            "were changed or needless facts were added. The answer is one number."
        ),
        splits=cut.items,
        grader=NEAR,
        rule=NEAR.rule,
        seeds=seeds_for("math"),
        source=f"{origin} without its {lost} rows that have no answer, split by seed problem, {cut.how}",
    )


def _split_at_hand(data_dir: Path | None) -> str:
    return next((split for split in VARIANTS if _GSM_PLUS.find_file(split, data_dir)), VARIANTS[0])


def _item(split: str, index: int, row: Row) -> Item | None:
    """The item of a row; None where its perturbation left no answer."""
    kind, answer = row.text("perturbation_type"), row.get("answer")
    target = parse_number(answer)
    if target is None and kind == _UNANSWERABLE:
        return None
    if target is None:
        raise row.error(f"field 'answer' is {answer!r}; only rows of {_UNANSWERABLE!r} have no finite number")
    program = annotated_program(str(row.values.get("solution")), target)
    facts = {"perturbation_type": kind, "seed_question": row.text("seed_question").strip()}
    return Item(
        id=f"gsm_plus/{split}/{index}",
        question=row.text("question"),
        target=target,
        metadata=facts | ({"program": program} if program else {}),
    )


def _seed_question(item: Item) -> Hashable:
    return str(item.metadata["seed_question"])
