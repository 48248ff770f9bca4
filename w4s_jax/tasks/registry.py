"""Makes tasks from their names: the table of all there are.

--task → **make_task** → SealedTask

A name is `NAME` or `NAME:VARIANT`. A new benchmark is one loader in a module of its
family and one line here.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence

from w4s_jax.tasks import toy
from w4s_jax.tasks.base import ItemTask, SealedTask, TaskOptions
from w4s_jax.tasks.choice import load_gpqa, load_mmlu_pro
from w4s_jax.tasks.code import load_humaneval
from w4s_jax.tasks.competition import load_math, load_math_500
from w4s_jax.tasks.custom import OWN, CustomFormat, load_own
from w4s_jax.tasks.gaia import load_gaia
from w4s_jax.tasks.gsm_plus import load_gsm_plus
from w4s_jax.tasks.math import load_gsm8k, load_gsm_hard, load_svamp
from w4s_jax.tasks.mbpp import load_mbpp
from w4s_jax.tasks.mgsm import load_mgsm
from w4s_jax.tasks.qa import load_drop, load_hotpotqa
from w4s_jax.tasks.source import SUFFIXES
from w4s_jax.types import InputError

_LOG = logging.getLogger(__name__)

_LOADERS: dict[str, Callable[[str, TaskOptions], ItemTask]] = {
    "drop": load_drop,
    "gaia": load_gaia,
    "gpqa": load_gpqa,
    "gsm8k": load_gsm8k,
    "gsm_hard": load_gsm_hard,
    "gsm_plus": load_gsm_plus,
    "hotpotqa": load_hotpotqa,
    "humaneval": load_humaneval,
    "math": load_math,
    "math_500": load_math_500,
    "mbpp": load_mbpp,
    "mgsm": load_mgsm,
    "mmlu_pro": load_mmlu_pro,
    "svamp": load_svamp,
}
"""Benchmarks; called with the variant, which stands behind the colon of a name and may be empty."""


def make_task(name: str, options: TaskOptions | None = None, *, custom: CustomFormat | None = None) -> SealedTask:
    """Loads one task, its test split sealed; questions in two splits are logged as warnings.

    Args:
        name: `gsm_hard`, `gsm_hard:pal`, `mgsm:en+de`, a toy family, `jsonl:PATH`, …; `-` and `_` are the
            same in names.
        options: Where its rows are and how they are split.
        custom: How the rows of `jsonl:PATH` are read.

    Raises:
        InputError: An unknown name, no data, a bad row, or sizes that exceed the data.
    """
    options = options or TaskOptions()
    try:
        loaded = _load(name, options, custom or CustomFormat())
    except InputError as error:
        named = name.partition(":")[0].replace("-", "_") in str(error).replace("-", "_")
        raise error if named else InputError(f"task {name}: {error}") from error
    if options.seeds:
        loaded.seeds = options.seeds
    task = SealedTask(loaded)
    duplicates = task.duplicates()
    if duplicates:
        first = duplicates[0]
        _LOG.warning("task %s: %d questions stand in two splits, e.g. as %s and %s", name, len(duplicates), *first)
    return task


def expand_tasks(names: str) -> list[str]:
    """Splits a comma-separated list of names and expands its groups, in order and without repeats.

    Raises:
        InputError: The list is empty or holds an unknown name.
    """
    parts = [part.strip() for part in names.split(",") if part.strip()]
    if not parts:
        raise InputError(f"task={names!r} names no task; {_known()}")
    expanded = [name for part in parts for name in _expand(part)]
    return list(dict.fromkeys(expanded))


def task_names() -> tuple[str, ...]:
    """Every benchmark and toy family by name."""
    return (*sorted(_LOADERS), *toy.FAMILIES)


def _load(name: str, options: TaskOptions, custom: CustomFormat) -> ItemTask:
    expanded = _expand(name)
    if len(expanded) != 1:
        raise InputError(f"task {name!r} stands for {len(expanded)} tasks; load one of {', '.join(expanded)}")
    family, _, variant = expanded[0].partition(":")
    if options.sizes.named and family not in _LOADERS:
        raise InputError(
            f"split_sizes={options.sizes.named!r} is of benchmarks; task {name} takes validation_size, test_size, "
            "train_size"
        )
    if family in OWN:
        return load_own(family, variant, custom, options)
    if family in _LOADERS:
        return _LOADERS[family](variant, options)
    return toy.toy_task(family, split_seed=options.split_seed, sizes=options.sizes)


def _expand(name: str) -> Sequence[str]:
    """Names of the tasks that one name stands for, spelt as the table does."""
    family, colon, variant = name.partition(":")
    family = family.replace("-", "_")
    if family in OWN and variant:
        return [name]
    if family in _LOADERS:
        return [family + colon + variant]
    if family == "toy" or family.startswith("toy_"):
        return toy.expand(family + colon + variant)
    raise InputError(f"task {name!r} is unknown{_nearest(name)}; {_known()}")


def _nearest(name: str) -> str:
    if name.endswith(SUFFIXES):
        return f", did you mean 'jsonl:{name}'?"
    near = difflib.get_close_matches(name, task_names(), n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else ""


def _known() -> str:
    own = "jsonl:PATH and python:FILE.py:CLASS"
    return f"known are {', '.join(task_names())}, the groups toy and toy_held_out, mgsm:LANG+LANG, {own}"
