"""Your own task: a file of questions and answers, or a Python class.

--task=jsonl:PATH, --task=python:FILE.py:CLASS → rows → **items in seeded splits** → the scorer you name

One row is one item. All rows are shuffled by the split seed; a third of them, 200 at
most, are validation, what is left, 800 at most, is test, the rest is train, unless
sizes are given. A row may hold more than its question and its answer: `id`; `options`,
a list that `choice` letters; `entry_point` and `public_tests` of a function to write;
`solution`, a gold program or worked answer that a simulated executor can show. Where a
list may be, a text that is a JSON list stands for it, as in a CSV. Items are named by the
file's stem and the row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import reprlib
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from w4s_jax.tasks.base import ItemTask, TaskOptions
from w4s_jax.tasks.scorers import SCORERS, Scorer, function_scorer, make_scorer
from w4s_jax.tasks.scoring.user import Blame, FunctionGrader, load_object
from w4s_jax.tasks.source import Row, read_rows
from w4s_jax.tasks.splits import cut, resize, shuffled
from w4s_jax.types import InputError, Item
from w4s_jax.workflows import seeds_for

__all__ = ["OWN", "SCORERS", "CustomFormat", "UserTask", "load_class", "load_custom", "load_own"]

OWN = ("jsonl", "python")
"""What stands before the colon of your own task's name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CustomFormat:
    """How the rows of a file are read and answers are compared.

    Example:
        >>> CustomFormat(input_field="problem", scorer="numeric").target_field
        'answer'
    """

    input_field: str = "question"
    """Holds the text that is given to `solver`."""
    target_field: str = "answer"
    """Holds the gold answer; for `code` the tests."""
    scorer: str = "exact"
    """One of `SCORERS`, or `python:FILE.py:FUNCTION`."""
    function: Callable[[Any, Any], Any] | None = None
    """Grades (answer, target) instead of the scorer: a function of the program that calls this package."""
    description: Path | None = None
    """A text file that says to the meta-agent what the task is about."""


class UserTask(Protocol):
    """What a class of `--task=python:FILE.py:CLASS` has; it is made without arguments. Only `rows` is needed.

    Example:
        class Capitals:
            description = "Capitals of the world. The answer is one name."
            scorer = "exact"

            def rows(self):
                return [{"question": "The capital of Peru?", "answer": "Lima"}]
    """

    description: str
    """What the meta-agent reads; it may be left out."""
    scorer: str
    """As `--scorer`; it may be left out, and is not used where there is `score`."""

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """Dicts with `question` and `answer`, and whatever else a row may hold."""

    def score(self, answer: Any, target: Any) -> float | bool:
        """Grades an answer in [0, 1]; it may be left out."""


def load_own(kind: str, where: str, file_format: CustomFormat, options: TaskOptions) -> ItemTask:
    """Builds `jsonl:PATH` or `python:FILE.py:CLASS`.

    Raises:
        InputError: As `load_custom` and `load_class`.
    """
    if kind == "jsonl":
        return load_custom(Path(where), file_format, options)
    return load_class(where, options)


def load_custom(path: Path, file_format: CustomFormat, options: TaskOptions) -> ItemTask:
    """Builds a task from a `.jsonl`, `.json`, `.parquet` or `.csv` file.

    Raises:
        InputError: The file, its description or the scorer cannot be read, a row is bad (named by
            its line), or the sizes exceed the rows.
    """
    function = file_format.function
    scorer = make_scorer(file_format.scorer) if function is None else function_scorer(function)
    return _task(
        f"jsonl:{path}",
        path.stem,
        read_rows(path),
        file_format,
        scorer,
        options,
        description=_description(file_format.description) or f"Answer the question. {scorer.form}",
        source=str(path),
    )


def load_class(where: str, options: TaskOptions) -> ItemTask:
    """Builds a task from a class of your own; see `UserTask`. The file is yours: it is run in this process.

    Args:
        where: `FILE.py:CLASS`.
        options: Of the task.

    Raises:
        InputError: There is no such class, it has no rows, a row is bad, or the sizes exceed the rows.
    """
    file, _, name = where.rpartition(":")
    made_of = load_object(where, "class")
    if not callable(getattr(made_of, "rows", None)):
        raise InputError(f"--task=python:{where}: the class has no rows(); define it to return dicts")
    with Blame(f"--task=python:{where}", file):
        made = made_of()
        values = list(made.rows())
    bad = next((v for v in values if not isinstance(v, Mapping)), None)
    if bad is not None or not values:
        raise InputError(
            f"--task=python:{where}: rows() gave {'nothing' if bad is None else repr(bad)[:60]}; give dicts"
        )
    scorer = make_scorer(getattr(made, "scorer", "exact"))
    if callable(getattr(made, "score", None)):
        grader = FunctionGrader.of(made.score, where)
        scorer = dataclasses.replace(scorer, grader=grader, rule=grader.rule, metric="score", read=_anything)
    return _task(
        f"python:{where}",
        name,
        [Row(place=f"{where} row {number}", values=row) for number, row in enumerate(values, 1)],
        CustomFormat(),
        scorer,
        options,
        description=getattr(made, "description", "") or f"Answer the question. {scorer.form}",
        source=where,
    )


def _anything(row: Row, field: str) -> Any:
    return row.get(field)


def _task(
    name: str,
    stem: str,
    rows: Sequence[Row],
    file_format: CustomFormat,
    scorer: Scorer,
    options: TaskOptions,
    *,
    description: str,
    source: str,
) -> ItemTask:
    lists = ("options", "public_tests", *([file_format.target_field] if scorer.takes_lists else []))
    read = [_with_lists(row, lists) for row in rows]
    items = [_item(stem, number, row, file_format, scorer) for number, row in enumerate(read)]
    validation = min(200, max(1, len(items) // 3))
    test = min(800, len(items) - validation)
    splits = cut(shuffled(items, options.split_seed), validation=validation, test=test)
    return ItemTask(
        name=name,
        description=description,
        splits=resize(splits, options.sizes),
        grader=scorer.grader,
        rule=scorer.rule,
        metric=scorer.metric,
        packages=scorer.packages,
        seeds=seeds_for(scorer.family),
        source=f"{source}, shuffled by seed {options.split_seed}",
    )


def _with_lists(row: Row, fields: Sequence[str]) -> Row:
    """The row with lists in these fields where they hold JSON lists as texts."""
    read = {}
    for field in fields:
        text = row.values.get(field)
        if isinstance(text, str) and text.lstrip().startswith("["):
            with contextlib.suppress(ValueError, RecursionError):
                read[field] = json.loads(text)
    return dataclasses.replace(row, values={**row.values, **read})


def _item(stem: str, number: int, row: Row, file_format: CustomFormat, scorer: Scorer) -> Item:
    question = row.text(file_format.input_field)
    metadata: dict[str, Any] = {"program": row.text("solution")} if row.values.get("solution") else {}
    if scorer.name == "choice" and "options" in row.values:
        options = _texts(row, "options", least=2, most=len(string.ascii_uppercase))
        lettered = zip(string.ascii_uppercase, options, strict=False)
        question = "\n".join([question, *(f"{letter}) {option}" for letter, option in lettered)])
        metadata["num_choices"] = len(options)
    given = row.values.get("id")
    return Item(
        id=f"{stem}/{number if given is None else given}",
        question=question,
        target=_plain(row, file_format.target_field, scorer.read(row, file_format.target_field)),
        entry_point=_entry_point(row) if scorer.name == "code" else None,
        public_tests=tuple(_texts(row, "public_tests")) if row.values.get("public_tests") else (),
        metadata=metadata,
    )


def _plain(row: Row, field: str, target: Any) -> Any:
    """A target that can be hashed and reported."""
    try:
        json.dumps(target, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise row.error(
            f"field {field!r} is {reprlib.repr(target)}, a {type(target).__name__}; "
            "give what JSON can hold: texts, numbers, truth values, lists and dicts of them"
        ) from error
    return target


def _entry_point(row: Row) -> str:
    name = row.text("entry_point")
    if not name.isidentifier():
        raise row.error(f"field 'entry_point' is {name!r}; scorer=code needs the name of the function to write")
    return name


def _texts(row: Row, field: str, least: int = 1, most: int | None = None) -> list[str]:
    """A list of texts; a text is a list of one."""
    values = row.get(field)
    texts = [values] if isinstance(values, str) else values
    is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    if not is_list or not least <= len(texts) <= (most or len(texts)):
        many = f"{least} to {most} texts" if most else f"{least} texts or more"
        raise row.error(f"field {field!r} is {reprlib.repr(values)}; it must be a list of {many}")
    return list(texts)


def _description(path: Path | None) -> str:
    """Text of the file; empty where there is none."""
    if path is None:
        return ""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"task description {path} cannot be read; give a UTF-8 text file") from error
    if not text:
        raise InputError(f"task description {path} is empty; say in it what the task is about")
    return text
