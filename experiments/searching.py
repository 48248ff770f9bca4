"""What every search with a meta-agent shares, whoever the meta-agent is.

flags → **options, template, search_tasks** → Collector → rlao, optimize
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from absl import flags

from experiments.progress import Progress
from experiments.run_dir import flags_of
from experiments.world import Environment
from w4s_jax.mdp import RewardConfig, RewardKind
from w4s_jax.prompts import CompactTemplate, FullTemplate, PromptTemplate
from w4s_jax.rollout.collect import CollectOptions, Collector, SearchTask, open_search_task
from w4s_jax.rollout.evaluate import finish_all
from w4s_jax.types import Policy, SamplingOptions, Split

FLAGS = flags.FLAGS

_OF_TINY: Mapping[str, str | int | float] = {
    "prompt_template": "compact",
    "temperature": 1.0,
    "max_new_tokens": 128,
    "cache_length": 640,
    "compute_dtype": "float32",
}
"""How the packaged agent was made and is trained."""


def suit_meta_agent() -> None:
    """Sets what the meta-agent decides of sampling, where the command line does not.

    The packaged agent has its own settings; a run directory, or the export in it, has those that
    it was trained with.
    """
    settings: Mapping[str, str | int | float] = _OF_TINY if FLAGS.meta_agent == "tiny" else {}
    given_path = Path(FLAGS.meta_agent).resolve()
    for folder in (given_path, given_path.parent) if given_path.is_dir() else ():
        if not settings and (folder / "run.flags").is_file():
            given = flags_of(folder)
            settings = {name: given[name] for name in _OF_TINY if name in given}
    for name, value in settings.items():
        if not FLAGS[name].present:
            FLAGS[name].parse(value)


async def open_search_tasks(environment: Environment, names: Iterable[str]) -> dict[str, SearchTask]:
    """Evaluates the seed workflows of tasks on their validation items.

    Raises:
        InputError: a task has no validation item.
        BudgetExceededError, ExecutorError, SandboxError: as `Evaluator.evaluate`.
    """
    tasks = [environment.tasks[name] for name in dict.fromkeys(names)]
    total = sum(len(task.items(Split.VALIDATION)) * len(task.seed_workflows()) for task in tasks)
    with Progress("seed workflows (items)", total) as progress:
        search_tasks = await finish_all(
            [
                open_search_task(
                    environment.evaluator, task, seed=FLAGS.seed, progress=lambda outcome: progress.advance()
                )
                for task in tasks
            ]
        )
    return {search_task.task.name: search_task for search_task in search_tasks}


def make_template() -> PromptTemplate:
    """What the meta-agent is told, by `--prompt_template`."""
    return CompactTemplate() if FLAGS.prompt_template == "compact" else FullTemplate()


def make_collector(policy: Policy, template: PromptTemplate, environment: Environment, num_turns: int) -> Collector:
    """A collector with the flags' options."""
    options = CollectOptions(
        num_candidates=FLAGS.num_candidates,
        num_turns=num_turns,
        turns_in_context=FLAGS.turns_in_context,
        max_repairs=FLAGS.max_repairs,
        sampling=SamplingOptions(temperature=FLAGS.temperature, max_new_tokens=FLAGS.max_new_tokens),
        reward=reward_config(),
    )
    return Collector(policy, template, environment.evaluator, options)


def reward_config() -> RewardConfig:
    """The definition of the reward with its values."""
    return RewardConfig(
        kind=RewardKind(FLAGS.reward),
        best=FLAGS.reward_best,
        improved=FLAGS.reward_improved,
        otherwise=FLAGS.reward_otherwise,
        low_penalty=FLAGS.reward_low_penalty,
        low_threshold=FLAGS.reward_low_threshold,
    )
