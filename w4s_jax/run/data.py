"""The questions of a call: what `data=` and `metric=` of `w4s_jax.optimize` and `w4s_jax.evaluate` can be.

path, rows, datasets.Dataset, benchmark's name, Task → **open_questions** → Questions(options, tasks) → run

Rows that are in memory are written into the run directory, so that `run.flags` re-runs the run; of a function or a
task, which no file can hold, `run.flags` has the name and says so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from w4s_jax.run.arguments import OF_PROGRAM
from w4s_jax.run.config import RunConfig, TaskConfig
from w4s_jax.run.directory import RunDirectory
from w4s_jax.run.options import names_of
from w4s_jax.run.tasks import Metric, load_tasks
from w4s_jax.tasks.base import SealedTask
from w4s_jax.tasks.registry import expand_tasks
from w4s_jax.tasks.scoring.user import ProgramGrader, function_digest, function_name
from w4s_jax.tasks.source import SUFFIXES
from w4s_jax.types import InputError, Task

_FORMS = "a path, a list of dicts, a datasets.Dataset, a benchmark's name, or a w4s_jax Task"
_DATA = "data.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions:
    """What a run is asked, before it is loaded."""

    values: Mapping[str, Any]
    """Options by name."""
    rows: Sequence[Mapping[str, Any]] | None = None
    """Of memory; None where a file, a benchmark or an object has them."""
    metric: Metric | None = None
    """A function of the program; None where the options name the scorer."""
    task: SealedTask | None = None
    """An object of the program; None where the options name it."""
    comments: tuple[str, ...] = ()
    """For people who read `run.flags`."""

    def load(self, config: RunConfig) -> dict[str, SealedTask]:
        """The tasks by name, test splits sealed.

        Raises:
            InputError: An unknown name, or missing or bad data.
        """
        if self.task is not None:
            return {self.task.name: self.task}
        return load_tasks(config.tasks, expand_tasks(",".join(config.tasks.task)), metric=self.metric)


def open_questions(data: Any, metric: Any, options: Mapping[str, Any]) -> Questions:
    """What `data=` and `metric=` stand for.

    Args:
        data: A path, rows, a benchmark's name, or a task.
        metric: A scorer's name, a function (answer, target), or None for the task's own (`exact` for rows).
        options: The call's other options, by name.

    Raises:
        InputError: It is none of these, or they do not fit together.
    """
    if _is_task(data):
        return _of_task(data, metric, options)
    scorer, function, comments = _metric(metric)
    rows = None
    if isinstance(data, str | os.PathLike):
        task = _task_name(os.fspath(data))
    else:
        rows, task = _rows(data), ""
    if function is not None and task and not task.startswith("jsonl:"):
        raise InputError(f"metric={function_name(function)} is of rows and files of your own; {task} grades itself")
    return Questions(values={"task": (task,), **scorer}, rows=rows, metric=function, comments=comments)


def _is_task(data: Any) -> bool:
    return all(callable(getattr(data, name, None)) for name in ("items", "grade", "seed_workflows"))


def _of_task(task: Task | SealedTask, metric: Any, options: Mapping[str, Any]) -> Questions:
    if metric is not None:
        raise InputError(f"metric is given beside the task {task.name}, which grades itself; drop it")
    foreign = sorted(set(options) & names_of(TaskConfig))
    if foreign:
        raise InputError(f"{foreign[0]} is given beside the task {task.name}, whose splits and seeds are made; drop it")
    sealed = task if isinstance(task, SealedTask) else SealedTask(task)
    comment = f"data: the task {task.name}, an object of the program that began this run"
    return Questions(values={"task": (f"{OF_PROGRAM}{task.name}",)}, task=sealed, comments=(comment,))


def _metric(metric: Any) -> tuple[dict[str, str], Metric | None, tuple[str, ...]]:
    """The scorer's option, the function, and what is said of it."""
    if metric is None:
        return {}, None, ()
    if isinstance(metric, str):
        return {"scorer": metric}, None, ()
    if not callable(metric):
        raise InputError(f"metric={metric!r} is a {type(metric).__name__}; give a scorer's name or a function")
    ProgramGrader.of_program(metric)  # what it cannot be is said before anything is written
    name = function_name(metric)
    comment = f"metric: the function {name} of the program that began this run"
    return {"scorer": f"{OF_PROGRAM}{name}@{function_digest(metric)}"}, metric, (comment,)


def _task_name(text: str) -> str:
    if not text.strip():
        raise InputError(f"data={text!r} is empty; give {_FORMS}")
    path = Path(text)
    if ":" not in text.partition("/")[0] and (text.endswith(SUFFIXES) or path.is_file()):
        return f"jsonl:{text}"
    return text


# --- rows ---------------------------------------------------------------------------


def _rows(data: Any) -> list[Mapping[str, Any]]:
    """Rows of a list, a `datasets.Dataset`, a data frame, or whatever gives dicts one by one.

    Raises:
        InputError: It does not, or gives none.
    """
    if isinstance(data, Mapping):
        parts = ", ".join(map(str, list(data)[:5]))
        raise InputError(
            f"data is a {type(data).__name__} of {parts}; give one part of it, e.g. data[{next(iter(data), '')!r}]"
        )
    records = data
    if hasattr(data, "to_dict") and hasattr(data, "iloc"):  # a data frame gives the names of its columns
        records = data.to_dict("records")
    if not isinstance(records, Iterable):
        raise InputError(f"data={reprlib.repr(data)} is a {type(data).__name__}; give {_FORMS}")
    rows = list(records)
    bad = next((number for number, row in enumerate(rows, 1) if not isinstance(row, Mapping)), None)
    if bad is not None:
        raise InputError(
            f"data: row {bad} is {reprlib.repr(rows[bad - 1])}, a {type(rows[bad - 1]).__name__}; "
            "give dicts with a question and an answer"
        )
    if not rows:
        raise InputError("data has no rows; give dicts with a question and an answer")
    return rows


def write_rows(rows: Sequence[Mapping[str, Any]], run_dir: Path, *, beside: bool = False) -> Path:
    """Keeps rows of memory in a run directory, for this run and for the command that re-runs it.

    Args:
        rows: To be kept.
        run_dir: Of the run.
        beside: Where other rows are kept there, keep these beside them, rather than refuse them.

    Returns:
        The file.

    Raises:
        InputError: A row holds what JSON cannot, or the directory holds a run on other rows.
        StoreError: It cannot be written.
    """
    text = "".join(f"{_line(number, row)}\n" for number, row in enumerate(rows, 1))
    path = run_dir / _DATA
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    if before is not None and before != text:
        if beside:
            path = run_dir / f"data-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
        elif RunDirectory(run_dir).flags.exists():
            raise InputError(
                f"data: run_dir={run_dir} holds a run on other rows, those of {path}; give them, or another run_dir"
            )
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        RunDirectory.write(path, text)
    return path


def _line(number: int, row: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(row), ensure_ascii=False, allow_nan=False, default=_as_plain)
    except (TypeError, ValueError, RecursionError) as error:
        for name, value in row.items():
            try:
                json.dumps({name: value}, allow_nan=False, default=_as_plain)
            except (TypeError, ValueError, RecursionError):
                raise InputError(
                    f"data: row {number}: field {name!r} is {reprlib.repr(value)}, a {type(value).__name__}; give what "
                    "JSON can hold, or leave the field out"
                ) from error
        raise InputError(f"data: row {number} is no JSON object ({error}); name its fields by texts") from error


def _as_plain(value: Any) -> Any:
    """A number of numpy as Python's.

    Raises:
        TypeError: It is none.
    """
    item: Callable[[], Any] | None = getattr(value, "item", None)
    if item is None or getattr(value, "shape", ()) != ():
        raise TypeError(f"{type(value).__name__} is no JSON")
    return item()
