"""The embedded tasks: families of generated questions for a simulated executor.

name@instance, split seed, sizes → **toy_task** → ItemTask

No download, no key: a search or a training run on these tasks takes minutes. What
is measured on them with the simulated executor shows that the machinery works and
says nothing about real models; see docs/simulator.md.
"""

from __future__ import annotations

from w4s_jax.tasks.base import ItemTask
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.tasks.toy.families import FAMILIES, HELD_OUT, SEEN, Family, expand, split_name
from w4s_jax.tasks.toy.generate import generate
from w4s_jax.tasks.toy.grading import grade, grade_number
from w4s_jax.types import Split
from w4s_jax.workflows import seeds_for

__all__ = ["FAMILIES", "HELD_OUT", "SEEN", "Family", "expand", "grade_number", "split_name", "toy_task"]

DEFAULT_SIZES = {Split.TRAIN: 40, Split.VALIDATION: 20, Split.TEST: 100}
"""Items by split where the caller asks for none."""


def toy_task(name: str, *, split_seed: int = 0, sizes: SplitSizes | None = None) -> ItemTask:
    """Builds one toy task.

    Args:
        name: `toy_units`, or `toy_units@3` for instance 3.
        split_seed: Decides the items of all splits.
        sizes: Items by split; None, whole or in part, takes `DEFAULT_SIZES`.

    Raises:
        InputError: No such family, or more items than its templates can give.

    Example:
        >>> len(toy_task("toy_units@3", sizes=SplitSizes(validation=5)).items(Split.VALIDATION))
        5
    """
    family, instance = split_name(name)
    asked = sizes or SplitSizes()
    counts = {split: size if (size := asked.of(split)) is not None else DEFAULT_SIZES[split] for split in Split}
    return ItemTask(
        name=name,
        description=family.description,
        splits=generate(family, instance, split_seed, counts),
        grader=grade,
        seeds=seeds_for("toy" if family.templates else "toy_code"),
        metric="accuracy" if family.templates else "pass@1",
        rule="the answer is the bare number" if family.templates else "every test passes, in the sandbox; pass@1",
        source=f"generated, instance {instance}, split_seed={split_seed}",
    )
