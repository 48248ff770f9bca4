"""A task opened for search: its validation items, and its seed workflows with their feedback.

Task → seed workflows on validation items → **SearchTask** → s_1 → Strategy
"""

from __future__ import annotations

import dataclasses

from w4s_jax.concurrency import finish_all
from w4s_jax.mdp import initial_state
from w4s_jax.rollout.evaluate import Evaluator, Progress
from w4s_jax.rollout.plan import keyed_number
from w4s_jax.tasks.base import make_feedback
from w4s_jax.types import Evaluated, InputError, Item, Purpose, Split, State, Task, Workflow


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
        evaluator: Runs them.
        task: Gives items and seed workflows.
        seed: Of the sample of cases that feedback shows.
        max_cases: Most of them.
        progress: Called with every outcome.

    Raises:
        InputError: The task has no validation item, or no seed workflow.
        BudgetExceededError, ExecutorError, SandboxError: As `Evaluator.evaluate`.
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
