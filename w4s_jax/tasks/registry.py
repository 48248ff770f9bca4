"""Makes tasks from their names: the table of all there are.

--task → **make_task** → SealedTask

A name is `NAME` or `NAME:VARIANT`. A new benchmark is one loader in a module of its
family and one line here.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from w4s_jax.tasks import toy
from w4s_jax.tasks.base import SealedTask, SplitSizes, find_duplicates
from w4s_jax.tasks.code import load_humaneval
from w4s_jax.tasks.custom import CustomFormat, load_custom
from w4s_jax.tasks.math import load_gsm8k, load_gsm_hard, load_mgsm
from w4s_jax.types import InputError, Split, Task

_log = logging.getLogger(__name__)

_LOADERS: dict[str, Callable[..., Task]] = {
    "gsm8k": load_gsm8k,
    "gsm_hard": load_gsm_hard,
    "humaneval": load_humaneval,
}
"""Benchmarks without variants; called with data_dir, split_seed and sizes."""


def make_task(
    name: str,
    *,
    data_dir: Path | None = None,
    split_seed: int = 0,
    sizes: SplitSizes | None = None,
    custom: CustomFormat | None = None,
) -> SealedTask:
    """Loads one task, its test split sealed; questions in two splits are logged as warnings.

    Args:
        name: `gsm_hard`, `gsm8k`, `mgsm`, `mgsm:en+de`, `humaneval`, a toy family, or `jsonl:PATH`;
            `-` and `_` are the same in names.
        data_dir: local files, see `source`; None reads the hub.
        split_seed: of the splits; apart from the run's seed.
        sizes: sizes of splits; None keeps the task's own.
        custom: how the rows of `jsonl:PATH` are read.

    Raises:
        InputError: an unknown name, no data, a bad row, or sizes that exceed the data.
    """
    task = _load(name, data_dir, split_seed, sizes or SplitSizes(), custom or CustomFormat())
    duplicates = find_duplicates({split: task.items(split) for split in Split})
    if duplicates:
        first = duplicates[0]
        _log.warning("task %s: %d questions stand in two splits, e.g. as %s and %s", name, len(duplicates), *first)
    return SealedTask(task)


def expand_tasks(names: str) -> list[str]:
    """Splits a comma-separated list of names and expands its groups, in order and without repeats.

    Raises:
        InputError: the list is empty or holds an unknown name.
    """
    parts = [part.strip() for part in names.split(",") if part.strip()]
    if not parts:
        raise InputError(f"task={names!r} names no task; {_known()}")
    expanded = [name for part in parts for name in _expand(part)]
    return list(dict.fromkeys(expanded))


def task_names() -> tuple[str, ...]:
    """Every benchmark and toy family by name."""
    return (*sorted([*_LOADERS, "mgsm"]), *toy.FAMILIES)


def _load(name: str, data_dir: Path | None, split_seed: int, sizes: SplitSizes, custom: CustomFormat) -> Task:
    expanded = _expand(name)
    if len(expanded) != 1:
        raise InputError(f"task {name!r} stands for {len(expanded)} tasks; load one of {', '.join(expanded)}")
    family, _, variant = expanded[0].partition(":")
    if family == "jsonl":
        return load_custom(Path(variant), custom, split_seed=split_seed, sizes=sizes)
    if family == "mgsm":
        languages = variant.split("+") if variant else ()
        return load_mgsm(languages, data_dir=data_dir, split_seed=split_seed, sizes=sizes)
    if family in _LOADERS:
        return _LOADERS[family](data_dir=data_dir, split_seed=split_seed, sizes=sizes)
    return toy.toy_task(family, split_seed=split_seed, sizes=sizes)


def _expand(name: str) -> Sequence[str]:
    """Names of the tasks that one name stands for, spelt as the table does."""
    family, colon, variant = name.partition(":")
    family = family.replace("-", "_")
    if family == "jsonl" and variant:
        return [name]
    if family == "mgsm" or (family in _LOADERS and not colon):
        return [family + colon + variant]
    if family == "toy" or family.startswith("toy_"):
        return toy.expand(family + colon + variant)
    raise InputError(f"task {name!r} is unknown{_nearest(name)}; {_known()}")


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, task_names(), n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else ""


def _known() -> str:
    return f"known are {', '.join(task_names())}, the groups toy and toy_held_out, mgsm:LANG+LANG and jsonl:PATH"
