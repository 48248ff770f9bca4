"""Runs workflows on items and grades what comes back.

(workflow, items) → **Evaluator** ⇄ Sandbox ⇄ AskLLM → Executor; answer → Task.grade → Evaluation

Three outcomes are of different types: the workflow was *wrong*
(graded), the workflow *broke* (graded 0, with its error), *we* broke: an
ExecutorError, SandboxError or BudgetExceededError leaves as an exception and is
never a low score. The outcome of an item depends on nothing but the workflow, the
item and the limits, never on its neighbours or on the load.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from w4s_jax.concurrency import finish_all
from w4s_jax.rollout.answers import bounded, plain_answer
from w4s_jax.rollout.calls import OURS, ItemCalls
from w4s_jax.rollout.memo import MemoKey, OutcomeMemo, Remembered
from w4s_jax.types import (
    BudgetExceededError,
    CallContext,
    Evaluation,
    Executor,
    Grade,
    InputError,
    Item,
    ItemOutcome,
    ItemStatus,
    Limits,
    Purpose,
    RunStatus,
    Sandbox,
    Split,
    Task,
    Workflow,
    WorkflowRun,
)

T = TypeVar("T")

_PARTIAL_FAILURES = 4
"""Failures other than a budget's that a partial evaluation goes on after."""

_LONGEST_ITEM = 86_400.0

Progress = Callable[[ItemOutcome], None]
"""Called with every outcome as it comes, in no order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How items are run; all but `concurrency` decide results.

    Example:
        >>> EvaluationOptions(item_timeout=5.0).limits.wall_seconds
        5.0
    """

    concurrency: int = 16
    """Most items in flight, over all evaluations together."""
    max_calls_per_item: int = 64
    """Most LLM choices that one item may ask for; a call for five samples counts five."""
    item_timeout: float = 60.0
    """Seconds of wall clock an item; stopped while the workflow waits for a reply."""
    cpu_seconds: float = 30.0
    memory_bytes: int = 1 << 30
    max_completion_tokens: int | None = None
    """Most completion tokens a choice; a workflow can ask for fewer. None leaves it to the executor."""
    max_answer_characters: int = 100_000
    """A longer answer is wrong without being graded."""
    kept_characters: int = 2_000
    """Longest text that an outcome keeps of an answer, an error or a traceback."""
    scope: str = ""
    """What else decides outcomes: seed of a simulator, base URL, sandbox packages. Part of the memo's key."""

    def __post_init__(self) -> None:
        for field in ("concurrency", "max_calls_per_item", "kept_characters", "max_answer_characters"):
            if getattr(self, field) < 1:
                raise InputError(f"{field}={getattr(self, field)} is not allowed; give at least 1")
        if not 0 < self.item_timeout <= _LONGEST_ITEM:
            raise InputError(
                f"item_timeout={self.item_timeout} is not allowed; give seconds in (0, {_LONGEST_ITEM:.0f}]"
            )

    @property
    def limits(self) -> Limits:
        """Limits of one guarded child."""
        return Limits(wall_seconds=self.item_timeout, cpu_seconds=self.cpu_seconds, memory_bytes=self.memory_bytes)


class SelfCheck(NamedTuple):
    """What a workflow did on the one item it is tried on."""

    outcome: ItemOutcome
    traceback: str

    @property
    def passed(self) -> bool:
        """True unless the workflow broke; a wrong answer passes."""
        return self.outcome.status is not ItemStatus.BROKE


class Evaluator:
    """Runs workflows on items; safe to call from many tasks of one event loop.

    Example:
        >>> evaluator = Evaluator(executor, sandbox, OutcomeMemo(), EvaluationOptions())  # doctest: +SKIP
        >>> evaluation = await evaluator.evaluate(
        ...     workflow, task, task.items(Split.VALIDATION), split=Split.VALIDATION, purpose=Purpose.OPTIMISATION
        ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        executor: Executor,
        sandbox: Sandbox,
        memo: OutcomeMemo | None = None,
        options: EvaluationOptions | None = None,
        *,
        grading: Sandbox | None = None,
    ) -> None:
        """Joins a model, a sandbox and a memory of outcomes.

        Args:
            executor: Answers the workflows' calls, metered and budgeted.
            sandbox: Runs the workflows.
            memo: Where outcomes are remembered; None starts an empty one in memory.
            options: Limits; None takes the defaults.
            grading: Runs the graders' programs, with the packages of their tasks; None takes `sandbox`.
        """
        self.executor = executor
        self.sandbox = sandbox
        self.grading = sandbox if grading is None else grading
        self.memo = OutcomeMemo() if memo is None else memo
        self.options = EvaluationOptions() if options is None else options
        self._slots = asyncio.Semaphore(self.options.concurrency)  # first come, first served
        self._limits = json.dumps(
            [_decisive(self.options.limits), self.options.max_calls_per_item,
             self.options.max_completion_tokens, self.options.max_answer_characters, self.options.kept_characters]
        )  # fmt: skip

    async def evaluate(
        self,
        workflow: Workflow,
        task: Task,
        items: Sequence[Item],
        *,
        split: Split,
        purpose: Purpose,
        repetition: int = 0,
        progress: Progress | None = None,
        partial: bool = False,
    ) -> Evaluation:
        """Runs a workflow on every item, concurrently, and grades the answers.

        After a failure of ours (with `partial`: after a budget's, or several others) no further
        item is started; those in flight are finished and remembered, because they are paid.

        Args:
            workflow: Code that is not trusted.
            task: Grades the answers.
            items: Items of `split`, in the order of the outcomes.
            split: Named in the evaluation and in the memo.
            purpose: What the calls are booked under.
            repetition: Number of a repeated evaluation; others draw other samples.
            progress: Called with every outcome as it comes.
            partial: Turn a failure of ours into outcomes `not_evaluated` that carry its text.

        Raises:
            BudgetExceededError: A cap left no room; finished items are remembered.
            ExecutorError: The executor stayed unreachable.
            SandboxError: The sandbox could not run an item.
        """
        request = _Request(workflow=workflow, task=task, split=split, purpose=purpose, repetition=repetition)
        limit = _FailureLimit(allowed=_PARTIAL_FAILURES if partial else 0)

        async def one(item: Item) -> ItemOutcome:
            try:
                outcome = (await self._remembered(request, item, limit)).outcome
            except OURS as error:
                limit.add(error)
                if not partial:
                    raise
                outcome = ItemOutcome(
                    item_id=item.id, status=ItemStatus.NOT_EVALUATED, error=f"{type(error).__name__}: {error}"
                )
            if progress is not None:
                progress(outcome)
            return outcome

        outcomes = await finish_all([one(item) for item in items])
        return Evaluation(
            task=task.name,
            split=split,
            workflow_digest=workflow.digest,
            outcomes=tuple(outcomes),
            repetition=repetition,
        )

    async def self_check(self, workflow: Workflow, task: Task, item: Item) -> SelfCheck:
        """Tries a workflow on one validation item; its outcome is remembered for the evaluation that follows.

        Raises:
            BudgetExceededError, ExecutorError, SandboxError: As `evaluate`.
        """
        request = _Request(
            workflow=workflow, task=task, split=Split.VALIDATION, purpose=Purpose.OPTIMISATION, repetition=0
        )
        return SelfCheck(*await self._remembered(request, item, _FailureLimit(allowed=0)))

    def traceback(self, workflow: Workflow, task: Task, item: Item, *, split: Split, repetition: int = 0) -> str:
        """Frames of the workflow's own code, where it raised on an item that was evaluated; else empty."""
        request = _Request(
            workflow=workflow, task=task, split=split, purpose=Purpose.OPTIMISATION, repetition=repetition
        )
        known = self.memo.get(self._key(request, item))
        return known.traceback if known else ""

    def _key(self, request: _Request, item: Item) -> MemoKey:
        return MemoKey(
            workflow_digest=request.workflow.digest,
            item=f"{item.id} {item.digest}",
            split=request.split,
            repetition=request.repetition,
            executor=f"{self.executor.model} {self.options.scope}",
            limits=f"{self._limits} scratch {request.task.scratch_bytes}"
            if request.task.scratch_bytes
            else self._limits,
            rule=request.task.rule,
        )

    async def _remembered(self, request: _Request, item: Item, limit: _FailureLimit) -> Remembered:
        async def run() -> Remembered:
            async with self._slots:
                limit.check()
                try:
                    return await self._run(request, item)
                except OURS as error:
                    limit.add(error)  # before the slot is free, so that the next in line sees it
                    raise

        return await self.memo.outcome(self._key(request, item), run)

    async def _run(self, request: _Request, item: Item) -> Remembered:
        calls = ItemCalls(
            self.executor,
            CallContext(
                purpose=request.purpose,
                item_id=item.id,
                workflow_digest=request.workflow.digest,
                repetition=request.repetition,
            ),
            max_choices=self.options.max_calls_per_item,
            max_tokens=self.options.max_completion_tokens,
        )
        limits = dataclasses.replace(self.options.limits, scratch_bytes=request.task.scratch_bytes)
        run = await self.sandbox.run_workflow(request.workflow, item.solver_input(), calls.ask, limits)
        if calls.failure is not None:  # whatever the child made of it, it was not the workflow's fault
            raise calls.failure
        outcome = await self._grade(request, item, run)
        outcome = dataclasses.replace(
            outcome,
            calls=calls.calls,
            prompt_tokens=calls.prompt_tokens,
            completion_tokens=calls.completion_tokens,
            usd=calls.usd,
            seconds=run.seconds,
        )
        return Remembered(outcome, bounded(run.traceback, self.options.kept_characters))

    async def _grade(self, request: _Request, item: Item, run: WorkflowRun) -> ItemOutcome:
        kept = self.options.kept_characters
        if run.status is not RunStatus.OK:
            kind = run.error.partition(":")[0] if run.status is RunStatus.EXCEPTION else ""
            return ItemOutcome(
                item_id=item.id,
                status=ItemStatus.BROKE,
                error=bounded(run.error or run.status.value, kept),
                symptom=bounded(kind.strip() or run.status.value, 80),
            )
        answer = plain_answer(run.answer)
        text = None if answer is None else str(answer)
        if text is None:
            grade = Grade(0.0, "no answer")
        elif len(text) > self.options.max_answer_characters:
            grade = Grade(0.0, "answer too long")
        else:
            grade = await request.task.grade(item, answer, self.grading)
        return ItemOutcome(
            item_id=item.id,
            status=ItemStatus.RIGHT if grade.score == 1.0 else ItemStatus.WRONG,
            score=grade.score,
            answer=None if text is None else bounded(text, kept),
            symptom=grade.symptom,
        )


def _decisive(limits: Limits) -> dict[str, float]:
    """The limits that every item has; a scratch folder is of some tasks alone."""
    return {name: value for name, value in dataclasses.asdict(limits).items() if name != "scratch_bytes"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Request:
    """What all items of one evaluation share."""

    workflow: Workflow
    task: Task
    split: Split
    purpose: Purpose
    repetition: int


class _FailureLimit:
    """Decides when failures of ours end an evaluation."""

    def __init__(self, *, allowed: int) -> None:
        self._allowed = allowed
        self._errors: list[Exception] = []
        self._last: Exception | None = None

    def add(self, error: Exception) -> None:
        """Counts a failure, once; a spent budget is final."""
        if any(known is error for known in self._errors):
            return
        self._errors.append(error)
        if isinstance(error, BudgetExceededError) or len(self._errors) > self._allowed:
            self._last = self._last or error

    def check(self) -> None:
        """Raises the failure that ended the evaluation, if one has."""
        if self._last is not None:
            raise self._last
