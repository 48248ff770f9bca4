"""What every task is made of: items in seeded, disjoint splits, a seal on the test split, feedback.

rows → **items → splits → SealedTask** → evaluation → **Feedback** → prompt

A task is an `ItemTask`: its items by split, a grader, its seed workflows. Splits
come from a seed of their own, so that runs with other seeds stay comparable, and
`split_hash` names their exact content. The test split stays sealed until the
closing evaluation opens it; `make_feedback`, the only way into a prompt, refuses
an evaluation on it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from w4s_jax.tasks.splits import Duplicate, SplitSizes, find_duplicates, normalised, split_hash
from w4s_jax.types import (
    Case,
    Evaluation,
    Feedback,
    Grade,
    InputError,
    Item,
    ItemOutcome,
    ItemStatus,
    Sandbox,
    SealedSplitError,
    Split,
    Task,
    Workflow,
)

Grader = Callable[[Item, Any, Sandbox], Awaitable[Grade]]
"""Scores an answer of a workflow, which may be anything at all; never raises for what the answer is."""

_OPEN = (Split.TRAIN, Split.VALIDATION)

MAX_CASE_CHARS = 4_000
"""Longest text of one part of a case; what is left out is counted at its end."""


# --- tasks ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What a user decides of a benchmark; every loader takes it.

    Example:
        >>> TaskOptions(sizes=SplitSizes(test=100)).split_seed
        0
    """

    data_dir: Path | None = None
    """Folder of local files, see `source`; None reads the hub."""
    revision: str | None = None
    """Commit, tag or branch of the hub's data set; None takes the newest."""
    split_seed: int = 0
    """Apart from the seed of a run."""
    sizes: SplitSizes = dataclasses.field(default_factory=SplitSizes)
    seeds: tuple[Workflow, ...] = ()
    """The workflows a search starts from; empty takes those of the task's family."""


def check_variant(task: str, variant: str, known: Collection[str] = ()) -> None:
    """Refuses what may not stand behind the colon of a task's name.

    Raises:
        InputError: The variant is not empty and not among the known ones.
    """
    if variant and variant not in known:
        allowed = f"it takes {', '.join(filter(None, known))}" if known else "it has no variants"
        raise InputError(f"task {task}:{variant}: {variant!r} is unknown; {allowed}")


def variant_parts(task: str, variant: str, known: Collection[str]) -> tuple[str, ...]:
    """Returns the parts of a variant such as `algebra+level5`, without repeats; none of an empty one.

    Raises:
        InputError: A part is not among the known ones.
    """
    parts = tuple(dict.fromkeys(variant.split("+"))) if variant else ()
    for part in parts:
        if part not in known:
            allowed = f"it takes some of {', '.join(known)}, with + between them"
            raise InputError(f"task {task}:{variant}: {part!r} is unknown; {allowed}")
    return parts


@dataclasses.dataclass(kw_only=True, eq=False)
class ItemTask:
    """A task whose items are all at hand; its test split is open, see `SealedTask`.

    Example:
        >>> async def grade(item, answer, sandbox): return Grade(float(answer == item.target))
        >>> item = Item(id="sum/0", question="1 + 1?", target="2")
        >>> task = ItemTask(name="sum", description="Sums.", splits={Split.VALIDATION: (item,)}, grader=grade, seeds=())
        >>> len(task.items(Split.VALIDATION)), len(task.items(Split.TEST))
        (1, 0)
    """

    name: str
    description: str
    """What the meta-agent reads."""
    splits: Mapping[Split, Sequence[Item]]
    """Disjoint; a split that is not there is empty."""
    grader: Grader
    seeds: Sequence[Workflow]
    metric: str = "accuracy"
    scratch_bytes: int = 0
    """Size of the folder that each run of a workflow on an item may write to; 0 for none."""
    source: str = ""
    """One line: where the rows are from and how the source's splits became ours."""
    rule: str = ""
    """One line: the grading rule with its tolerance; outcomes under another one are other outcomes."""
    packages: tuple[str, ...] = ()
    """Distributions that programs of the grader import in the sandbox."""

    def __post_init__(self) -> None:
        ids = Counter(item.id for items in self.splits.values() for item in items)
        twice = [item_id for item_id, count in ids.items() if count > 1]
        if twice:
            raise InputError(f"task {self.name}: item id {twice[0]!r} stands twice; ids must be unique over all splits")

    def items(self, split: Split) -> Sequence[Item]:
        """Items of a split, in a fixed order."""
        return tuple(self.splits.get(split, ()))

    async def grade(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Scores an answer; code answers run in `sandbox`."""
        return await self.grader(item, answer, sandbox)

    def seed_workflows(self) -> Sequence[Workflow]:
        """The workflows a search starts from."""
        return tuple(self.seeds)


class SealedTask:
    """A task whose test items nobody gets before the closing evaluation unseals it.

    Example:
        >>> sealed = SealedTask(ItemTask(name="t", description="", splits={}, grader=None, seeds=()))
        >>> sealed.items(Split.VALIDATION)
        ()
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._sealed = True
        self.name = task.name
        self.description = task.description
        self.metric = task.metric
        self.scratch_bytes = task.scratch_bytes
        self.rule = task.rule
        self.packages = task.packages

    def unseal(self) -> None:
        """Opens the test split, for good: for the one closing evaluation of all finalists."""
        self._sealed = False

    def items(self, split: Split) -> Sequence[Item]:
        """Items of a split, in a fixed order.

        Raises:
            SealedSplitError: The test split was asked for before `unseal()`.
        """
        if split is Split.TEST and self._sealed:
            raise SealedSplitError(
                f"task {self.name}: split=test is sealed until the closing evaluation; use split=validation"
            )
        return self._task.items(split)

    async def grade(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Scores an answer; code answers run in `sandbox`."""
        return await self._task.grade(item, answer, sandbox)

    def seed_workflows(self) -> Sequence[Workflow]:
        """The workflows a search starts from."""
        return self._task.seed_workflows()

    def split_hash(self, split: Split) -> str:
        """Content hash of a split; that of the sealed one too, since a hash tells nothing."""
        return split_hash(self._task.items(split))

    def split_sizes(self) -> dict[Split, int]:
        """Number of items by split."""
        return {split: len(self._task.items(split)) for split in Split}

    def duplicates(self) -> tuple[Duplicate, ...]:
        """Questions that stand in more than one split."""
        return find_duplicates({split: self._task.items(split) for split in Split})

    def shares_with_test(self, other: SealedTask) -> int:
        """Number of test questions of another task that stand in this one's train or validation split."""
        known = {normalised(item.question) for split in _OPEN for item in self._task.items(split)}
        return sum(normalised(item.question) in known for item in other._task.items(Split.TEST))

    @property
    def source(self) -> str:
        """Where the rows are from, in one line; empty where the task does not say."""
        return str(getattr(self._task, "source", ""))

    def answer_key(self) -> tuple[Item, ...]:
        """Every item of every split: what a simulated executor has to know of, and nobody else."""
        return tuple(item for split in Split for item in self._task.items(split))


# --- feedback ---------------------------------------------------------------


def make_feedback(
    task_items: Sequence[Item], evaluation: Evaluation, *, seed: int, max_cases: int, metric: str = "accuracy"
) -> Feedback:
    """Returns what a state keeps of an evaluation on validation or train items.

    The cases are the failures, then the right ones, each in an order drawn from the seed
    and the items' ids alone, so that workflows are shown failing on the same items.

    Args:
        task_items: Items of the evaluated split.
        evaluation: Its outcomes; items that were not evaluated count nowhere.
        seed: Of the sample of cases.
        max_cases: Most cases to show.
        metric: Of the task.

    Raises:
        SealedSplitError: The evaluation is of the test split.
        InputError: An outcome is of an item that is not among `task_items`.
    """
    if evaluation.split is Split.TEST:
        raise SealedSplitError(f"task {evaluation.task}: feedback on split=test would leak it; use split=validation")
    items = {item.id: item for item in task_items}
    outcomes = [o for o in evaluation.outcomes if o.status is not ItemStatus.NOT_EVALUATED]
    for outcome in outcomes:
        if outcome.item_id not in items:
            raise InputError(f"outcome of item {outcome.item_id!r} is not of split={evaluation.split}")
    failures = [o for o in outcomes if o.status is not ItemStatus.RIGHT]
    shown = sorted(outcomes, key=lambda o: (o.status is ItemStatus.RIGHT, _draw(seed, o.item_id)))[:max_cases]
    return Feedback(
        score=evaluation.score,
        accuracy=evaluation.accuracy,
        n=evaluation.n,
        usd_per_item=evaluation.usd_per_item,
        symptoms=dict(Counter(o.symptom or o.status.value for o in failures)),
        cases=tuple(_case(items[o.item_id], o) for o in shown),
        metric=metric,
    )


def _draw(seed: int, item_id: str) -> bytes:
    return hashlib.sha256(f"{seed}/{item_id}".encode()).digest()


def _case(item: Item, outcome: ItemOutcome) -> Case:
    return Case(
        question=_bounded(item.question),
        answer=_bounded(outcome.answer or ""),
        target=_bounded(target_text(item.target)),
        status=outcome.status,
        error=_bounded(outcome.error),
    )


def target_text(target: Any) -> str:
    """Returns a gold answer as a reader writes it: whole numbers without a fraction, records as JSON."""
    if isinstance(target, float) and math.isfinite(target) and target.is_integer():
        return str(int(target))
    return target if isinstance(target, str) else json.dumps(target, ensure_ascii=False)


def _bounded(text: str) -> str:
    left_out = len(text) - MAX_CASE_CHARS
    return text if left_out <= 0 else f"{text[:MAX_CASE_CHARS]} … ({left_out} more characters)"
