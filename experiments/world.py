"""Everything around a meta-agent: tasks, sandbox, executor, evaluator.

flags → **Environment** → searches, training rounds, closing evaluation
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from experiments.flags import read_budget_usd
from w4s_jax.executor.base import Backend
from w4s_jax.executor.budget import Budget, Caps
from w4s_jax.executor.client import OpenAIBackend
from w4s_jax.executor.ledger import CallStore
from w4s_jax.executor.metered import MeteredExecutor, MeteredOptions
from w4s_jax.executor.prices import PriceTable, parse_prices
from w4s_jax.executor.simulator import SimulatedBackend
from w4s_jax.executor.simulator.door import MODEL_NAME
from w4s_jax.rollout.evaluate import EvaluationOptions, Evaluator
from w4s_jax.rollout.memo import OutcomeMemo
from w4s_jax.sandbox import open_sandbox
from w4s_jax.tasks.base import SealedTask, TaskOptions
from w4s_jax.tasks.custom import CustomFormat
from w4s_jax.tasks.registry import expand_tasks, make_task
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.types import InputError, Sandbox, Split
from w4s_jax.workflows import load_workflow

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """What a run works in; closed by `open_environment`."""

    tasks: Mapping[str, SealedTask]
    """By name."""
    sandbox: Sandbox
    calls: CallStore
    budget: Budget
    """Of the executor, and of a meta-agent behind an API."""
    executor: MeteredExecutor
    evaluator: Evaluator


_OF_FILES = ("input_field", "target_field", "scorer", "task_description")
"""Flags that say how the rows of a file of one's own are read."""


def task_names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the tasks that the flags train on and evaluate on, groups expanded.

    Raises:
        InputError: an unknown task.
    """
    train = tuple(expand_tasks(",".join(FLAGS.task)))
    return train, tuple(expand_tasks(",".join(FLAGS.eval_task))) if FLAGS.eval_task else train


def load_tasks(names: Iterable[str]) -> dict[str, SealedTask]:
    """Tasks by name, each once.

    Raises:
        InputError: an unknown task, or missing or bad data.
    """
    if FLAGS.data_dir and not Path(FLAGS.data_dir).is_dir():
        raise InputError(f"--data_dir={FLAGS.data_dir} is no folder; give the one that holds NAME/SPLIT.jsonl, or none")
    options = task_options()
    custom = CustomFormat(
        input_field=FLAGS.input_field,
        target_field=FLAGS.target_field,
        scorer=FLAGS.scorer,
        description=Path(FLAGS.task_description) if FLAGS.task_description else None,
    )
    revisions, names = data_revisions(), tuple(dict.fromkeys(names))
    of_files = [f"--{flag}" for flag in _OF_FILES if FLAGS[flag].value != FLAGS[flag].default]
    if of_files and not any(name.startswith("jsonl:") for name in names):
        raise InputError(f"{of_files[0]} is of --task=jsonl:PATH, and {', '.join(names)} is none; drop it")
    unknown = revisions.keys() - {"", *(name.partition(":")[0] for name in names)}
    if unknown:
        raise InputError(f"--data_revision names {min(unknown)!r}, which is none of the tasks {', '.join(names)}")
    tasks = {}
    for name in names:
        revision = revisions.get(name.partition(":")[0], revisions.get(""))
        tasks[name] = make_task(name, dataclasses.replace(options, revision=revision), custom=custom)
    return tasks


def task_options() -> TaskOptions:
    """What the flags decide of every task.

    Raises:
        InputError: a seed workflow that is neither a name nor a file.
    """
    return TaskOptions(
        data_dir=Path(FLAGS.data_dir) if FLAGS.data_dir else None,
        split_seed=FLAGS.split_seed,
        sizes=SplitSizes(
            train=FLAGS.train_size or None,
            validation=FLAGS.validation_size or None,
            test=FLAGS.test_size or None,
            named=FLAGS.split_sizes,
        ),
        seeds=tuple(load_workflow(name) for name in getattr(FLAGS, "seed_workflows", ())),
    )


def data_revisions() -> dict[str, str]:
    """Revisions of `--data_revision` by task; that of all others under the empty name.

    Raises:
        InputError: a task or a revision is missing on its side of `=`.
    """
    found = {}
    for entry in FLAGS.data_revision:
        task, equals, revision = entry.rpartition("=")
        if not revision or (equals and not task):
            raise InputError(f"--data_revision has {entry!r}; write a revision, or TASK=REVISION")
        found[task.replace("-", "_")] = revision
    return found


def told(task: SealedTask) -> str:
    """A line on where a task's questions are from, how they are split and graded."""
    sizes = ", ".join(
        f"{split} {size} ({task.split_hash(split)[:12]})" for split, size in task.split_sizes().items() if size
    )
    return f"{task.name}: {task.source}; {sizes}" + (f"; right: {task.rule}" if task.rule else "")


def recorded(tasks: Mapping[str, SealedTask]) -> dict[str, Any]:
    """The same for programs: what `versions.json` keeps of the tasks."""
    return {
        "split_sha256": {name: {str(s): task.split_hash(s) for s in Split} for name, task in tasks.items()},
        "tasks": {
            name: {
                "source": task.source,
                "rule": task.rule,
                "metric": task.metric,
                "sizes": {str(split): size for split, size in task.split_sizes().items()},
                "duplicates": [list(pair) for pair in task.duplicates()],
            }
            for name, task in tasks.items()
        },
    }


def refuse_other_data(versions: Path, tasks: Mapping[str, SealedTask]) -> None:
    """Refuses to go on in a run directory whose questions have changed since it was begun.

    Args:
        versions: `versions.json` of the run; nothing is refused where there is none.
        tasks: as they are loaded now.

    Raises:
        InputError: the content of a split is another.
    """
    try:
        before = json.loads(versions.read_text(encoding="utf-8"))["split_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name, task in tasks.items():
        for split in Split:
            was = before.get(name, {}).get(str(split), "")
            if was and was != task.split_hash(split):
                raise InputError(
                    f"the {split} questions of {name} are not those that this run was begun with (sha256 "
                    f"{task.split_hash(split)[:12]}, was {was[:12]}); restore them, or give another --run_dir"
                )


def duplicates_between(tasks: Mapping[str, SealedTask], trained: Iterable[str], evaluated: Iterable[str]) -> list[str]:
    """A line for every task trained on that shares questions with the test split of another one."""
    lines = []
    for name, other in itertools.product(dict.fromkeys(trained), dict.fromkeys(evaluated)):
        shared = tasks[name].shares_with_test(tasks[other]) if name != other else 0
        if shared:
            lines.append(f"{shared} test questions of {other} stand in {name}, which is trained on")
    return lines


@contextlib.asynccontextmanager
async def open_environment(
    tasks: Mapping[str, SealedTask], calls_path: Path, outcomes_path: Path
) -> AsyncIterator[Environment]:
    """Starts the sandbox and opens ledger, cache and executor; closes them all.

    Args:
        tasks: by name; a simulated executor knows their answers.
        calls_path: of `calls.sqlite`.
        outcomes_path: of the memory of outcomes.

    Raises:
        InputError: a flag that does not fit, a missing key, an unknown price.
        SandboxError: no sandbox can be started.
        StoreError: a file cannot be opened.
    """
    backend = make_backend(tasks.values())
    graders = itertools.chain.from_iterable(task.packages for task in tasks.values())
    packages = tuple(dict.fromkeys((*FLAGS.sandbox_packages, *graders)))
    async with contextlib.AsyncExitStack() as stack:
        calls = CallStore(calls_path)
        stack.push_async_callback(calls.close)
        budget = Budget(caps(), spent=calls.spent)
        executor = await stack.enter_async_context(metered(backend, calls, budget))
        sandbox = await stack.enter_async_context(sandbox_with(FLAGS.sandbox_packages))
        grading = sandbox  # what a workflow may import does not depend on which tasks are graded beside it
        if len(packages) > len(FLAGS.sandbox_packages):
            grading = await stack.enter_async_context(sandbox_with(packages))
        memo = stack.enter_context(OutcomeMemo(outcomes_path))
        yield Environment(
            tasks=tasks,
            sandbox=sandbox,
            calls=calls,
            budget=budget,
            executor=executor,
            evaluator=Evaluator(executor, sandbox, memo, evaluation_options(sandbox.name), grading=grading),
        )


def sandbox_with(packages: Iterable[str]) -> contextlib.AbstractAsyncContextManager[Sandbox]:
    """The sandbox of the flags, in which these packages can be imported."""
    return open_sandbox(
        FLAGS.sandbox,
        packages=tuple(packages),
        workers=sandbox_workers(),
        allow_unsafe=FLAGS.allow_unsafe_sandbox,
    )


def make_backend(tasks: Iterable[SealedTask]) -> Backend:
    """The door to the executor's model.

    Raises:
        InputError: a paid executor lacks its key or its model's name.
    """
    if FLAGS.executor == "openai":
        backend = OpenAIBackend(
            FLAGS.executor_model,
            base_url=FLAGS.executor_base_url or None,
            timeout_seconds=FLAGS.call_timeout,
            simulated_on_loopback=MODEL_NAME,  # our own simulator behind its server
        )
        if backend.model == MODEL_NAME and not backend.simulated:
            raise InputError("--executor=openai lacks --executor_model; name a model of that server, e.g. gpt-4o-mini")
        return backend
    return SimulatedBackend(tasks=tasks)


def caps() -> Caps:
    """The most that the run directory may have spent, earlier processes included."""
    return Caps(
        usd=read_budget_usd(FLAGS.budget_usd),
        tokens=FLAGS.budget_tokens or math.inf,
        calls=FLAGS.budget_calls or math.inf,
        seconds=FLAGS.budget_seconds or math.inf,
    )


def metered(backend: Backend, calls: CallStore, budget: Budget) -> MeteredExecutor:
    """Puts caps, prices and limits around a backend."""
    options = MeteredOptions(
        concurrency=FLAGS.concurrency,
        max_attempts=FLAGS.max_attempts,
        max_tokens=FLAGS.executor_max_tokens,
        requests_per_minute=FLAGS.requests_per_minute or None,
        tokens_per_minute=FLAGS.tokens_per_minute or None,
        seed=FLAGS.seed,
    )
    return MeteredExecutor(backend, calls, budget, make_prices(), options)


def make_prices() -> PriceTable:
    """List prices with the overrides of `--executor_prices`, which is JSON or the path of a file of it."""
    given = FLAGS.executor_prices
    if given.endswith(".json") and not Path(given).is_file():
        raise InputError(f"--executor_prices={given} is no file; give one, or the JSON itself")
    return PriceTable(parse_prices(Path(given).read_text() if given and Path(given).is_file() else given))


def sandbox_workers() -> int:
    """Children that compute at a time, a core each unless a flag says so."""
    return FLAGS.sandbox_workers or os.cpu_count() or 1


def evaluation_options(sandbox: str) -> EvaluationOptions:
    """How items are run: as many at once as have a call on its way, and a few more that compute.

    More would share the calls that a cap allows among items that none of them finishes.

    Args:
        sandbox: its back end; outcomes of one that only limits are remembered apart.
    """
    unguarded = " process" if sandbox == "process" else ""
    return EvaluationOptions(
        concurrency=FLAGS.concurrency + 2 * sandbox_workers(),
        max_calls_per_item=FLAGS.max_calls_per_item,
        item_timeout=FLAGS.item_timeout,
        max_completion_tokens=FLAGS.executor_max_tokens,
        scope=f"{FLAGS.executor} {FLAGS.executor_base_url} {','.join(FLAGS.sandbox_packages)}{unguarded}",
    )
