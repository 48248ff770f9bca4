"""Your own task from a file of questions and answers: `--task=jsonl:PATH`.

rows → **items in seeded splits** → exact or numeric grader

One row is one item. All rows are shuffled by the split seed; a fifth of them, 200
at most, are validation, the next two fifths, 800 at most, are test, the rest is
train, unless sizes are given.
"""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path

from w4s_jax.tasks.base import Grader, ItemTask, TaskOptions
from w4s_jax.tasks.scoring.numbers import parse_number
from w4s_jax.tasks.scoring.numeric import NumericGrader
from w4s_jax.tasks.scoring.text import ExactGrader
from w4s_jax.tasks.source import Row, read_rows
from w4s_jax.tasks.splits import cut, resize, shuffled
from w4s_jax.types import InputError, Item
from w4s_jax.workflows import seeds_for


class Scorer(enum.StrEnum):
    """How an answer is compared with the target."""

    EXACT = "exact"
    """Equal texts, but for white space and letter case."""
    NUMERIC = "numeric"
    """Equal numbers, within 1e-6."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CustomFormat:
    """How the rows of a file are read.

    Example:
        >>> CustomFormat(input_field="problem", scorer=Scorer.NUMERIC).target_field
        'answer'
    """

    input_field: str = "question"
    """Holds the text that is given to `solver`."""
    target_field: str = "answer"
    """Holds the gold answer."""
    scorer: Scorer = Scorer.EXACT
    description: Path | None = None
    """A text file that tells the meta-agent what the task is about."""


def load_custom(path: Path, file_format: CustomFormat, options: TaskOptions) -> ItemTask:
    """Builds a task from a `.jsonl`, `.json` or `.parquet` file.

    Raises:
        InputError: the file or its description cannot be read, a row is bad (named by its
            line), or the sizes exceed the rows.
    """
    numeric = file_format.scorer is Scorer.NUMERIC
    rows = read_rows(path)
    items = [_item(path, i, row, file_format) for i, row in enumerate(rows)]
    fifth = len(items) // 5
    grader: Grader = NumericGrader(tolerance=1e-6) if numeric else ExactGrader()
    return ItemTask(
        name=f"jsonl:{path}",
        description=_description(file_format),
        splits=resize(
            cut(shuffled(items, options.split_seed), validation=min(200, max(1, fifth)), test=min(800, 2 * fifth)),
            options.sizes,
        ),
        grader=grader,
        seeds=seeds_for("math" if numeric else "qa"),
        source=f"{path}, shuffled by seed {options.split_seed}",
    )


def _item(path: Path, index: int, row: Row, file_format: CustomFormat) -> Item:
    target = row.get(file_format.target_field)
    if isinstance(target, bool) or not isinstance(target, str | int | float) or not str(target).strip():
        raise row.error(f"field {file_format.target_field!r} is {target!r}; it must be a text or a number")
    if file_format.scorer is Scorer.NUMERIC:
        number = parse_number(target)
        if number is None:
            raise row.error(f"field {file_format.target_field!r} is {target!r}; scorer=numeric needs a number")
        target = number
    return Item(id=f"{path.stem}/{index}", question=row.text(file_format.input_field), target=target)


def _description(file_format: CustomFormat) -> str:
    path = file_format.description
    if path is None:
        kind = "one number" if file_format.scorer is Scorer.NUMERIC else "a short text, compared with the gold answer"
        return f"Answer the question. The answer is {kind}."
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"task description {path} cannot be read; give a UTF-8 text file") from error
    if not text:
        raise InputError(f"task description {path} is empty; say in it what the task is about")
    return text
