"""The tasks of a run: loaded by name, described, recorded, and refused where they have changed.

TaskConfig → **load_tasks** → SealedTask, … → environment; → `versions.json`
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from w4s_jax.run.config import TaskConfig
from w4s_jax.tasks.base import SealedTask, TaskOptions
from w4s_jax.tasks.custom import CustomFormat
from w4s_jax.tasks.registry import expand_tasks, make_task
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.types import InputError, Split
from w4s_jax.workflows import load_workflow

_OF_FILES = ("input_field", "target_field", "scorer", "task_description")
"""Options that say how the rows of a file of one's own are read."""


def task_names(config: TaskConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the tasks to train on and to evaluate on, groups expanded.

    Raises:
        InputError: An unknown task.
    """
    train = tuple(expand_tasks(",".join(config.task)))
    return train, tuple(expand_tasks(",".join(config.eval_task))) if config.eval_task else train


Metric = Callable[[Any, Any], Any]
"""A function (answer, target) of the calling program, which gives a truth value or a score in [0, 1]."""


def load_tasks(config: TaskConfig, names: Iterable[str], *, metric: Metric | None = None) -> dict[str, SealedTask]:
    """Tasks by name, each once.

    Args:
        config: Says how rows are read and split.
        names: Of the tasks, groups expanded.
        metric: Grades the answers to the rows of `jsonl:PATH` instead of the scorer.

    Raises:
        InputError: An unknown task, or missing or bad data.
    """
    if config.data_dir and not Path(config.data_dir).is_dir():
        raise InputError(
            f"--data_dir={config.data_dir} is no folder; give the one that holds NAME/SPLIT.jsonl, or none"
        )
    options, custom = task_options(config), dataclasses.replace(custom_format(config), function=metric)
    revisions, names = data_revisions(config), tuple(dict.fromkeys(names))
    of_files = [f"--{name}" for name in _OF_FILES if getattr(config, name) != getattr(TaskConfig(), name)]
    if of_files and not any(name.startswith("jsonl:") for name in names):
        raise InputError(f"{of_files[0]} is of --task=jsonl:PATH, and {', '.join(names)} is none; drop it")
    unknown = revisions.keys() - {"", *(name.partition(":")[0] for name in names)}
    if unknown:
        raise InputError(f"--data_revision names {min(unknown)!r}, which is none of the tasks {', '.join(names)}")
    tasks = {}
    for name in names:
        revision = revisions.get(name.partition(":")[0], revisions.get(""))
        tasks[name] = make_task(name, dataclasses.replace(options, revision=revision), custom=custom)
    return tasks


def custom_format(config: TaskConfig) -> CustomFormat:
    """How the rows of a file of one's own are read."""
    return CustomFormat(
        input_field=config.input_field,
        target_field=config.target_field,
        scorer=config.scorer,
        description=Path(config.task_description) if config.task_description else None,
    )


def task_options(config: TaskConfig) -> TaskOptions:
    """What is decided of every task.

    Raises:
        InputError: A seed workflow that is neither a name nor a file.
    """
    return TaskOptions(
        data_dir=Path(config.data_dir) if config.data_dir else None,
        split_seed=config.split_seed,
        sizes=SplitSizes(
            train=config.train_size or None,
            validation=config.validation_size or None,
            test=config.test_size or None,
            named=config.split_sizes,
        ),
        seeds=tuple(load_workflow(name) for name in config.seed_workflows),
    )


def data_revisions(config: TaskConfig) -> dict[str, str]:
    """Revisions of the hub's data sets by task; that of all others under the empty name.

    Raises:
        InputError: A task is named without a revision, or twice.
    """
    found = {}
    for entry in config.data_revision:
        task, equals, revision = entry.rpartition("=")
        if not revision or (equals and not task):
            raise InputError(f"--data_revision has {entry!r}; write a revision, or TASK=REVISION")
        found[task.replace("-", "_")] = revision
    return found


# --- what is recorded of tasks ----------------------------------------------------
def format_source(task: SealedTask) -> str:
    """A line on where a task's questions are from, how they are split and graded."""
    sizes = ", ".join(
        f"{split} {size} ({task.split_hash(split)[:12]})" for split, size in task.split_sizes().items() if size
    )
    return f"{task.name}: {task.source}; {sizes}" + (f"; right: {task.rule}" if task.rule else "")


def tasks_record(tasks: Mapping[str, SealedTask]) -> dict[str, Any]:
    """The same for programs: what `versions.json` keeps of the tasks."""
    return {
        "split_sha256": {name: {str(s): task.split_hash(s) for s in Split} for name, task in tasks.items()},
        "tasks": {
            name: {
                "source": task.source,
                "rule": task.rule,
                "metric": task.metric,
                "sizes": {str(split): size for split, size in task.split_sizes().items()},
                "duplicates": [list(pair) for pair in task.duplicates()],
            }
            for name, task in tasks.items()
        },
    }


def refuse_other_data(versions: Path, tasks: Mapping[str, SealedTask]) -> None:
    """Refuses to go on in a run directory whose questions have changed since it was begun.

    Args:
        versions: `versions.json` of the run; nothing is refused where there is none.
        tasks: As they are loaded now.

    Raises:
        InputError: The content of a split is another.
    """
    try:
        before = json.loads(versions.read_text(encoding="utf-8"))["split_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name, task in tasks.items():
        for split in Split:
            was = before.get(name, {}).get(str(split), "")
            if was and was != task.split_hash(split):
                raise InputError(
                    f"the {split} questions of {name} are not those that this run was begun with (sha256 "
                    f"{task.split_hash(split)[:12]}, was {was[:12]}); restore them, or give another --run_dir"
                )


def duplicates_between(tasks: Mapping[str, SealedTask], trained: Iterable[str], evaluated: Iterable[str]) -> list[str]:
    """A line for every task trained on that shares questions with the test split of another one."""
    lines = []
    for name, other in itertools.product(dict.fromkeys(trained), dict.fromkeys(evaluated)):
        shared = tasks[name].shares_with_test(tasks[other]) if name != other else 0
        if shared:
            lines.append(f"{shared} test questions of {other} stand in {name}, which is trained on")
    return lines
