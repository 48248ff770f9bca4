"""What every search with a meta-agent shares, whoever the meta-agent is.

RunConfig → **search_tasks, engine** → rlao, search
"""

from __future__ import annotations

from collections.abc import Iterable

from w4s_jax.concurrency import finish_all
from w4s_jax.run.environment import Environment
from w4s_jax.run.meta_agent import make_template
from w4s_jax.run.progress import Progress
from w4s_jax.search.base import SearchOptions
from w4s_jax.search.engine import SearchEngine
from w4s_jax.search.registry import STRATEGIES
from w4s_jax.search.task import SearchTask, open_search_task
from w4s_jax.search.w4s import W4SStrategy
from w4s_jax.types import Policy, Split


async def open_search_tasks(environment: Environment, names: Iterable[str]) -> dict[str, SearchTask]:
    """Evaluates the seed workflows of tasks on their validation items.

    Raises:
        InputError: A task has no validation item.
        BudgetExceededError, ExecutorError, SandboxError: As `Evaluator.evaluate`.
    """
    tasks = [environment.tasks[name] for name in dict.fromkeys(names)]
    total = sum(len(task.items(Split.VALIDATION)) * len(task.seed_workflows()) for task in tasks)
    seed = environment.config.seed
    with Progress("seed workflows (items)", total) as progress:
        search_tasks = await finish_all(
            [
                open_search_task(environment.evaluator, task, seed=seed, progress=lambda outcome: progress.advance())
                for task in tasks
            ]
        )
    return {search_task.task.name: search_task for search_task in search_tasks}


def make_engine(
    policy: Policy, environment: Environment, num_turns: int, strategy: str = W4SStrategy.name
) -> SearchEngine:
    """A search engine with the options of the run.

    Args:
        policy: The meta-agent.
        environment: Of the run.
        num_turns: Turns of a trajectory.
        strategy: By name; trajectories to train on are W4S's.
    """
    config = environment.config
    options = SearchOptions(
        num_candidates=config.search.num_candidates,
        num_turns=num_turns,
        turns_in_context=config.search.turns_in_context,
        max_repairs=config.search.max_repairs,
        sampling=config.meta_agent.sampling,
        reward=config.search.reward_config,
    )
    return SearchEngine(STRATEGIES[strategy], policy, make_template(config), environment.evaluator, options)
