"""The turns of one trajectory: best of m, its feedback, the next state.

PlannedTrajectory → **opening → m samples → candidates → choice → Turn** → … → Trajectory

W4S, arXiv 2504.04785, section 3. A dialogue opens with the prompt that renders its
state; each later turn appends the action that advanced the state and its feedback;
after `turns_in_context` turns a fresh dialogue opens from the current state. A state
is a function of the records of the turns before it, so a trajectory resumes from its
stored turns without sampling again and goes on as if it had never stopped.

Where all candidates of a turn were skipped, the dialogue goes on from the first of
them, so that the meta-agent sees what did not work. A continued dialogue that no
longer fits the model is followed by a fresh one; nothing is ever truncated.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Sequence

from w4s_jax.concurrency import finish_all
from w4s_jax.mdp import RewardConfig, choose, initial_state, next_state, rewarded
from w4s_jax.prompts import PromptTemplate
from w4s_jax.rollout.candidates import CandidateEvaluator, Validation
from w4s_jax.rollout.evaluate import Evaluator, Progress
from w4s_jax.rollout.plan import PlannedTrajectory, keyed_choice, keyed_number
from w4s_jax.tasks.base import make_feedback
from w4s_jax.types import (
    Candidate,
    CandidateStatus,
    Context,
    DrawKey,
    Evaluated,
    ExecutorError,
    InputError,
    Item,
    Policy,
    Purpose,
    Sample,
    SamplingOptions,
    SandboxError,
    Split,
    State,
    StopReason,
    Task,
    Trajectory,
    Turn,
    Workflow,
)

_LOG = logging.getLogger(__name__)

OnTurn = Callable[[Turn], None]
"""Called with every finished turn at once."""

Enough = Callable[[Sequence[Turn]], bool]
"""Whether a search may end after these turns, stored ones included."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """How trajectories are collected; all but `retries` decide results.

    Example:
        >>> CollectOptions(num_turns=10).turns_in_context
        2
    """

    num_candidates: int = 5
    """m: actions sampled from one state."""
    num_turns: int = 2
    """Turns of a trajectory; 10 is usual when optimising."""
    turns_in_context: int = 2
    """Turns of a dialogue before a fresh one opens from the current state."""
    max_repairs: int = 3
    max_cases: int = 10
    """Most cases that feedback shows."""
    sampling: SamplingOptions = dataclasses.field(default_factory=SamplingOptions)
    reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)
    retries: int = 1
    """How often a candidate is begun again after a failure of ours."""

    def __post_init__(self) -> None:
        for name, least in (("num_candidates", 1), ("num_turns", 1), ("turns_in_context", 1), ("max_repairs", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)} is not allowed; give at least {least}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchTask:
    """A task with what a search starts from."""

    task: Task
    items: tuple[Item, ...]
    """Validation items."""
    seeds: tuple[Evaluated, ...]
    """Seed workflows with their feedback on `items`."""

    @property
    def start(self) -> State:
        """s_1."""
        return initial_state(self.task.name, self.task.description, self.seeds)


async def open_search_task(
    evaluator: Evaluator, task: Task, *, seed: int = 0, max_cases: int = 10, progress: Progress | None = None
) -> SearchTask:
    """Evaluates a task's seed workflows on its validation items.

    Args:
        evaluator: runs them.
        task: gives items and seed workflows.
        seed: of the sample of cases that feedback shows.
        max_cases: most of them.
        progress: Called with every outcome.

    Raises:
        InputError: the task has no validation item, or no seed workflow.
        BudgetExceededError, ExecutorError, SandboxError: as `Evaluator.evaluate`.
    """
    items = tuple(task.items(Split.VALIDATION))
    if not items:
        raise InputError(f"task {task.name!r} has no validation item; give --validation_size of at least 1")

    async def evaluated(workflow: Workflow) -> Evaluated:
        evaluation = await evaluator.evaluate(
            workflow, task, items, split=Split.VALIDATION, purpose=Purpose.OPTIMISATION, progress=progress
        )
        case_seed = keyed_number(seed, "seed cases", task.name)
        feedback = make_feedback(items, evaluation, seed=case_seed, max_cases=max_cases, metric=task.metric)
        return Evaluated(workflow=workflow, feedback=feedback)

    seeds = await finish_all([evaluated(workflow) for workflow in task.seed_workflows()])
    opened = SearchTask(task=task, items=items, seeds=tuple(seeds))
    _ = opened.start  # refuses a task without seed workflows here, where it is named
    return opened


@dataclasses.dataclass(frozen=True)
class _Dialogue:
    """Where a trajectory stands."""

    state: State
    opened: State
    """The state that opened the dialogue."""
    context: Context
    """What the next actions are sampled from."""


class Collector:
    """Collects trajectories; safe to call from many tasks of one event loop.

    Example:
        >>> collector = Collector(policy, template, evaluator, CollectOptions())  # doctest: +SKIP
        >>> trajectory = await collector.collect_trajectory(search_task, plan[0])  # doctest: +SKIP
    """

    def __init__(
        self, policy: Policy, template: PromptTemplate, evaluator: Evaluator, options: CollectOptions | None = None
    ) -> None:
        """Joins a meta-agent, its prompts and an evaluator."""
        self.policy = policy
        self.template = template
        self.options = CollectOptions() if options is None else options
        self._candidates = CandidateEvaluator(
            policy=policy,
            template=template,
            evaluator=evaluator,
            sampling=self.options.sampling,
            max_repairs=self.options.max_repairs,
            retries=self.options.retries,
        )

    async def collect_trajectory(
        self,
        search_task: SearchTask,
        planned: PlannedTrajectory,
        *,
        finished_turns: Sequence[Turn] = (),
        on_turn: OnTurn | None = None,
        enough: Enough | None = None,
    ) -> Trajectory:
        """Collects the turns that are missing.

        Args:
            search_task: the task, its validation items and evaluated seeds.
            planned: number, task and seed of the trajectory.
            finished_turns: stored turns; nothing of them is sampled or evaluated again.
            on_turn: Called with every new turn at once; what it raises ends the trajectory.
            enough: asked before every turn; None for all `num_turns`.

        Raises:
            InputError: a prompt does not fit the model, or the stored turns are not of this
                trajectory, prompt or tokenizer.
            ExecutorError, SandboxError: every candidate of a turn failed by us.
            BudgetExceededError: a cap left no room; finished turns have been handed on.
        """
        turns = list(finished_turns)
        dialogue = self._replayed(search_task, planned, turns)
        validation = self._validation(search_task, planned)
        while len(turns) < self.options.num_turns and not (enough is not None and enough(turns)):
            if turns:
                dialogue = self._follow(dialogue, turns[-1])
            dialogue, turn = await self._turn(dialogue, planned, validation)
            if on_turn is not None:
                on_turn(turn)
            turns.append(turn)
        return Trajectory(round=planned.round, index=planned.index, task=planned.task, turns=tuple(turns))

    def _validation(self, search_task: SearchTask, planned: PlannedTrajectory) -> Validation:
        place = (planned.round, planned.index)
        return Validation(
            task=search_task.task,
            items=search_task.items,
            self_check=search_task.items[keyed_choice(len(search_task.items), planned.seed, "self-check", *place)],
            feedback_seed=keyed_number(planned.seed, "cases", *place),
            max_cases=self.options.max_cases,
        )

    async def _turn(
        self, dialogue: _Dialogue, planned: PlannedTrajectory, validation: Validation
    ) -> tuple[_Dialogue, Turn]:
        """Samples m actions, evaluates them at the same time and chooses; the dialogue may have been opened afresh."""
        state = dialogue.state
        keys = [
            DrawKey(planned.seed, planned.round, planned.index, state.turn, candidate, 0)
            for candidate in range(self.options.num_candidates)
        ]
        dialogue, samples = await self._sampled(dialogue, keys)
        results = await asyncio.gather(
            *(
                self._candidates.evaluate(dialogue.context, sample, key, validation)
                for sample, key in zip(samples, keys, strict=True)
            ),
            return_exceptions=True,
        )
        candidates = rewarded(_settled(results, samples), state, dialogue.opened, self.options.reward)
        turn = Turn(
            round=planned.round,
            trajectory=planned.index,
            turn=state.turn,
            task=planned.task,
            messages=dialogue.context.messages,
            prompt_ids=dialogue.context.prompt_ids,
            candidates=candidates,
            chosen=choose(candidates),
        )
        return dialogue, turn

    async def _sampled(self, dialogue: _Dialogue, keys: Sequence[DrawKey]) -> tuple[_Dialogue, Sequence[Sample]]:
        try:
            return dialogue, await self.policy.sample(dialogue.context, keys, self.options.sampling)
        except InputError as error:
            if dialogue.opened is dialogue.state:
                raise
            dialogue = self._afresh(dialogue.state, error)
        return dialogue, await self.policy.sample(dialogue.context, keys, self.options.sampling)

    def _open(self, state: State) -> _Dialogue:
        return _Dialogue(state, state, self.policy.open(self.template.opening(state)))

    def _afresh(self, state: State, error: InputError) -> _Dialogue:
        _LOG.warning("task %s, turn %d: %s; a fresh dialogue opens", state.task, state.turn, error)
        return self._open(state)

    def _follow(self, dialogue: _Dialogue, turn: Turn) -> _Dialogue:
        """The dialogue after a finished turn: continued, or fresh after `turns_in_context` turns."""
        state = next_state(dialogue.state, turn)
        if state.turn - dialogue.opened.turn >= self.options.turns_in_context:
            return self._open(state)
        messages = self.template.after(state, dialogue.state)
        try:
            context = self.policy.extend(dialogue.context, _continued(turn), messages)
        except InputError as error:
            return self._afresh(state, error)
        return _Dialogue(state, dialogue.opened, context)

    def _replayed(self, search_task: SearchTask, planned: PlannedTrajectory, turns: Sequence[Turn]) -> _Dialogue:
        """The dialogue of the last stored turn, or the opening one."""
        if planned.task != search_task.task.name:
            raise InputError(f"{planned.name} is planned for task {planned.task!r}, not {search_task.task.name!r}")
        dialogue = self._open(search_task.start)
        for number, turn in enumerate(turns):
            if number:
                dialogue = self._follow(dialogue, turns[number - 1])
            if dialogue.opened is not dialogue.state and turn.messages == self.template.opening(dialogue.state):
                dialogue = self._open(dialogue.state)  # the continued dialogue did not fit when this was sampled
            _check_stored(turn, number, planned, dialogue.context)
        return dialogue


def _continued(turn: Turn) -> Sample:
    """The action that the dialogue goes on from, as recorded: the chosen one, or the first skipped one."""
    leads = [c for c in turn.candidates if c.index == turn.chosen or turn.chosen is None]
    lead = next((c for c in leads if c.status is not CandidateStatus.FAILED), leads[0])
    return Sample(ids=lead.ids, logprobs=lead.logprobs, text=lead.text, stop=StopReason.END_OF_TURN)


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


def _check_stored(turn: Turn, number: int, planned: PlannedTrajectory, context: Context) -> None:
    """Refuses stored turns that this run would not have made."""
    where = f"turn {turn.turn} of {planned.name}"
    place = (turn.round, turn.trajectory, turn.turn, turn.task)
    if place != (planned.round, planned.index, number, planned.task):
        raise InputError(
            f"{where} is stored for task {turn.task!r}, planned for {planned.task!r}; use another --run_dir"
        )
    if (turn.messages, turn.prompt_ids) != (context.messages, context.prompt_ids):
        raise InputError(
            f"{where} is stored with another prompt or tokenizer; resume with the flags it was collected with, "
            "or use another --run_dir"
        )
