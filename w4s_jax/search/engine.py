"""The one search engine: takes the steps that a strategy proposes, and leaves a turn for each.

History → Strategy.propose → **samples → candidates → Turn → store** → History → …

The engine owns what no strategy should write twice: draws keyed by the plan, self-checks,
repairs and evaluations (`rollout.candidates`), failures of ours apart from a workflow's,
each finished turn handed on before the next begins, rules that end a search, and going on
from stored turns. A search is a function of its records, so one that was stopped, by a cap
or a kill, goes on without sampling anything again, as if it had never stopped; stored turns
that this search would not have made are refused.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Sequence

from w4s_jax.prompts import PromptTemplate
from w4s_jax.rollout.candidates import CandidateEvaluator, Validation
from w4s_jax.rollout.evaluate import Evaluator
from w4s_jax.rollout.plan import PlannedTrajectory, keyed_choice, keyed_number
from w4s_jax.rollout.store import TurnStore
from w4s_jax.search.base import OnTurn, SearchEnd, SearchOptions, SearchResult, StopRules
from w4s_jax.search.strategy import History, Step, StrategyFactory
from w4s_jax.search.task import SearchTask
from w4s_jax.types import (
    BudgetExceededError,
    Candidate,
    CandidateStatus,
    DrawKey,
    ExecutorError,
    InputError,
    Policy,
    Sample,
    SandboxError,
    Trajectory,
    Turn,
)

_LOG = logging.getLogger(__name__)


class SearchEngine:
    """Searches by one strategy; safe to call from many tasks of one event loop.

    Example:
        >>> engine = SearchEngine(W4SStrategy, policy, template, evaluator, SearchOptions())  # doctest: +SKIP
        >>> trajectory = await engine.collect_trajectory(search_task, plan[0])  # doctest: +SKIP
    """

    def __init__(
        self,
        strategy: StrategyFactory,
        policy: Policy,
        template: PromptTemplate,
        evaluator: Evaluator,
        options: SearchOptions | None = None,
    ) -> None:
        """Joins a strategy, a meta-agent, its prompts and an evaluator.

        Args:
            strategy: Makes the strategy; see `registry.STRATEGIES`.
            policy: The meta-agent.
            template: Of its prompts.
            evaluator: Runs workflows on items.
            options: Of every search; None takes the defaults.
        """
        self.policy = policy
        self.options = SearchOptions() if options is None else options
        self.strategy = strategy(policy, template, self.options)
        self._candidates = CandidateEvaluator(
            policy=policy,
            template=template,
            evaluator=evaluator,
            sampling=self.options.sampling,
            max_repairs=self.options.max_repairs,
            retries=self.options.retries,
        )

    async def search(
        self, search_task: SearchTask, planned: PlannedTrajectory, store: TurnStore, rules: StopRules, on_turn: OnTurn
    ) -> SearchResult:
        """Looks until a rule or a cap ends it; turns that are stored already are taken from the store.

        Args:
            search_task: The task with its evaluated seeds.
            planned: Number and seed of the search.
            store: Takes every finished turn at once.
            rules: When to end.
            on_turn: Called with every new turn after it is stored.

        Returns:
            What it found, with the cap that ended it where one did; finished turns are stored.

        Raises:
            InputError: A prompt does not fit the model, or the stored turns are of another search.
            ExecutorError, SandboxError, StoreError: We broke.
        """

        def stored(turn: Turn) -> None:
            store.append(turn)
            on_turn(turn)

        start, place = search_task.start, (planned.round, planned.index)
        try:
            trajectory = await self.collect_trajectory(
                search_task, planned, finished_turns=store.finished_turns(*place), on_turn=stored, rules=rules
            )
        except BudgetExceededError as error:
            return SearchResult(start, store.finished_turns(*place), SearchEnd.BUDGET, error)
        return SearchResult(start, trajectory.turns, rules.reached(start, trajectory.turns))

    async def collect_trajectory(
        self,
        search_task: SearchTask,
        planned: PlannedTrajectory,
        *,
        finished_turns: Sequence[Turn] = (),
        on_turn: OnTurn | None = None,
        rules: StopRules | None = None,
    ) -> Trajectory:
        """Takes the turns that are missing.

        Args:
            search_task: The task, its validation items and evaluated seeds.
            planned: Number, task and seed of the trajectory.
            finished_turns: Stored turns; nothing of them is sampled or evaluated again.
            on_turn: Called with every new turn at once; what it raises ends the trajectory.
            rules: When to end; None for after `num_turns` of the options.

        Raises:
            InputError: A prompt does not fit the model, or the stored turns are not of this
                trajectory, strategy, prompt or tokenizer.
            ExecutorError, SandboxError: Every candidate of a turn failed by us.
            BudgetExceededError: A cap left no room; finished turns have been handed on.
        """
        rules = StopRules(num_turns=self.options.num_turns) if rules is None else rules
        history = self._resumed(search_task, planned, finished_turns)
        validation = self._validation(search_task, planned)
        while rules.reached(search_task.start, history.turns) is None:
            turn = await self._turn(history, validation)
            if on_turn is not None:
                on_turn(turn)
            history = history.after(turn)
        return Trajectory(round=planned.round, index=planned.index, task=planned.task, turns=history.turns)

    def _validation(self, search_task: SearchTask, planned: PlannedTrajectory) -> Validation:
        place = (planned.round, planned.index)
        return Validation(
            task=search_task.task,
            items=search_task.items,
            self_check=search_task.items[keyed_choice(len(search_task.items), planned.seed, "self-check", *place)],
            feedback_seed=keyed_number(planned.seed, "cases", *place),
            max_cases=self.options.max_cases,
        )

    async def _turn(self, history: History, validation: Validation) -> Turn:
        """Takes the next step: samples its actions, evaluates them at the same time and has them judged."""
        planned, number = history.planned, len(history.turns)
        step = self.strategy.propose(history)
        keys = [
            DrawKey(planned.seed, planned.round, planned.index, number, candidate, 0)
            for candidate in range(step.num_candidates)
        ]
        step, samples = await self._sampled(history, step, keys)
        results = await asyncio.gather(
            *(
                self._candidates.evaluate(step.context, sample, key, validation)
                for sample, key in zip(samples, keys, strict=True)
            ),
            return_exceptions=True,
        )
        turn = Turn(
            round=planned.round,
            trajectory=planned.index,
            turn=number,
            task=planned.task,
            messages=step.context.messages,
            prompt_ids=step.context.prompt_ids,
            candidates=tuple(_settled(results, samples)),
            chosen=None,
            parents=step.parent_names,
        )
        return self.strategy.judge(history, step, turn)

    async def _sampled(self, history: History, step: Step, keys: Sequence[DrawKey]) -> tuple[Step, Sequence[Sample]]:
        """Actions, and the step they were taken by: where its context did not fit, that of its fallback."""
        try:
            return step, await self.strategy.act(step, keys)
        except InputError as error:
            if step.fallback is None:
                raise
            planned = history.planned
            _LOG.warning("task %s, turn %d: %s; a fresh dialogue opens", planned.task, len(history.turns), error)
            step = dataclasses.replace(step, context=step.fallback(), fallback=None)
        return step, await self.strategy.act(step, keys)

    def _resumed(self, search_task: SearchTask, planned: PlannedTrajectory, turns: Sequence[Turn]) -> History:
        """The search after its stored turns, each of which has to be one that this strategy would have taken."""
        if planned.task != search_task.task.name:
            raise InputError(f"{planned.name} is planned for task {planned.task!r}, not {search_task.task.name!r}")
        history = History(search_task=search_task, planned=planned)
        for turn in turns:
            step = self.strategy.propose(history)
            if step.fallback is not None and turn.messages != step.context.messages:
                step = dataclasses.replace(
                    step, context=step.fallback()
                )  # the context did not fit when this was sampled
            _check_stored(turn, history, step)
            history = history.after(turn)
        return history


def _settled(results: Sequence[Candidate | BaseException], samples: Sequence[Sample]) -> list[Candidate]:
    """Candidates, those that failed by us as `failed`; raises where nothing else is left, and any other error."""
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in errors:
        if not isinstance(error, ExecutorError | SandboxError):
            raise error
    if len(errors) == len(results):
        raise errors[0]
    return [
        _failed(index, sample, result) if isinstance(result, BaseException) else result
        for index, (result, sample) in enumerate(zip(results, samples, strict=True))
    ]


def _failed(index: int, sample: Sample, error: BaseException) -> Candidate:
    _LOG.warning("candidate %d failed by us and is not trained on: %s: %s", index, type(error).__name__, error)
    return Candidate(
        index=index,
        status=CandidateStatus.FAILED,
        text=sample.text,
        ids=sample.ids,
        logprobs=sample.logprobs,
        reason=f"{type(error).__name__}: {error}",
    )


def _check_stored(turn: Turn, history: History, step: Step) -> None:
    """Refuses a stored turn that this search would not have made."""
    planned = history.planned
    where = f"turn {turn.turn} of {planned.name}"
    place = (turn.round, turn.trajectory, turn.turn, turn.task)
    if place != (planned.round, planned.index, len(history.turns), planned.task):
        raise InputError(
            f"{where} is stored for task {turn.task!r}, planned for {planned.task!r}; use another --run_dir"
        )
    if (turn.messages, turn.prompt_ids) != (step.context.messages, step.context.prompt_ids):
        raise InputError(
            f"{where} is stored with another prompt or tokenizer; resume with the flags it was collected with, "
            "or use another --run_dir"
        )
    if turn.parents is not None and turn.parents != step.parent_names:
        raise InputError(
            f"{where} is stored as made from {turn.parents}, this search makes it from {step.parent_names}; "
            "resume with the --strategy it was collected with, or use another --run_dir"
        )
