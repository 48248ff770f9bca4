"""Everything around a meta-agent: tasks, executor, sandbox, evaluator.

RunConfig → **Environment** → searches, training rounds, closing evaluation
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

from w4s_jax.executor.base import Backend
from w4s_jax.executor.budget import Budget, Caps
from w4s_jax.executor.client import OpenAIBackend
from w4s_jax.executor.ledger import CallStore
from w4s_jax.executor.metered import MeteredExecutor, MeteredOptions
from w4s_jax.executor.prices import PriceTable, parse_prices
from w4s_jax.executor.simulator import SimulatedBackend
from w4s_jax.executor.simulator.backend import MODEL_NAME
from w4s_jax.rollout.evaluate import EvaluationOptions, Evaluator
from w4s_jax.rollout.memo import OutcomeMemo
from w4s_jax.run.config import RunConfig
from w4s_jax.run.directory import RunDirectory
from w4s_jax.sandbox import open_sandbox
from w4s_jax.tasks.base import SealedTask
from w4s_jax.types import InputError, Sandbox


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """What a run works in; closed by `open_environment`."""

    config: RunConfig
    tasks: Mapping[str, SealedTask]
    """By name."""
    sandbox: Sandbox
    calls: CallStore
    budget: Budget
    """Of the executor, and of a meta-agent behind an API."""
    executor: MeteredExecutor
    evaluator: Evaluator


@contextlib.asynccontextmanager
async def open_environment(
    config: RunConfig, tasks: Mapping[str, SealedTask], run: RunDirectory, *, backend: Backend | None = None
) -> AsyncIterator[Environment]:
    """Starts the sandbox and opens ledger, cache and executor; closes them all.

    Args:
        config: Of the run.
        tasks: By name; a simulated executor knows their answers.
        run: Keeps calls and outcomes.
        backend: Asked instead of the config's executor.

    Raises:
        InputError: An option that does not fit, a missing key, an unknown price.
        SandboxError: No sandbox can be started.
        StoreError: A file cannot be opened.
    """
    backend = backend or make_backend(config, tasks.values())
    graders = itertools.chain.from_iterable(task.packages for task in tasks.values())
    packages = tuple(dict.fromkeys((*config.sandbox.packages, *graders)))
    async with contextlib.AsyncExitStack() as stack:
        calls = CallStore(run.calls)
        stack.push_async_callback(calls.close)
        budget = Budget(make_caps(config), spent=calls.spent)
        executor = await stack.enter_async_context(make_metered(config, backend, calls, budget))
        sandbox = await stack.enter_async_context(_sandbox_with(config, config.sandbox.packages))
        grading = sandbox  # what a workflow may import does not depend on which tasks are graded beside it
        if len(packages) > len(config.sandbox.packages):
            grading = await stack.enter_async_context(_sandbox_with(config, packages))
        memo = stack.enter_context(OutcomeMemo(Path(config.outcomes) if config.outcomes else run.outcomes))
        yield Environment(
            config=config,
            tasks=tasks,
            sandbox=sandbox,
            calls=calls,
            budget=budget,
            executor=executor,
            evaluator=Evaluator(executor, sandbox, memo, evaluation_options(config, sandbox.name), grading=grading),
        )


def _sandbox_with(config: RunConfig, packages: Iterable[str]) -> contextlib.AbstractAsyncContextManager[Sandbox]:
    return open_sandbox(
        config.sandbox.kind,
        packages=tuple(packages),
        workers=sandbox_workers(config),
        allow_unsafe=config.sandbox.allow_unsafe,
    )


def make_backend(config: RunConfig, tasks: Iterable[SealedTask]) -> Backend:
    """The back end that asks the executor's model.

    Raises:
        InputError: A paid executor lacks its key or its model's name.
    """
    if config.executor.simulated:
        return SimulatedBackend(tasks=tasks)
    backend = OpenAIBackend(
        config.executor.model,
        base_url=config.executor.base_url or None,
        timeout_seconds=config.executor.call_timeout,
        simulated_on_loopback=MODEL_NAME,  # our own simulator behind its server
    )
    if backend.model == MODEL_NAME and not backend.simulated:
        raise InputError("--executor=openai lacks --executor_model; name a model of that server, e.g. gpt-4o-mini")
    return backend


def make_caps(config: RunConfig) -> Caps:
    """The most that the run directory may have spent, earlier processes included.

    Raises:
        InputError: The cap on USD is no positive number.
    """
    budget = config.budget
    return Caps(
        usd=read_budget_usd(budget.usd),
        tokens=budget.tokens or math.inf,
        calls=budget.calls or math.inf,
        seconds=budget.seconds or math.inf,
    )


def read_budget_usd(value: str) -> float | None:
    """Parses `--budget_usd`: a number, `inf`, or empty for none given.

    Raises:
        InputError: Not a positive number.
    """
    if not value:
        return None
    try:
        usd = float(value)
    except ValueError:
        usd = -1.0
    if not usd > 0:
        raise InputError(f"--budget_usd={value!r} is not a positive number; give USD, or inf to set no cap")
    return usd


def make_metered(config: RunConfig, backend: Backend, calls: CallStore, budget: Budget) -> MeteredExecutor:
    """Puts caps, prices and limits around a back end."""
    executor = config.executor
    options = MeteredOptions(
        concurrency=executor.concurrency,
        max_attempts=executor.max_attempts,
        max_tokens=executor.max_tokens,
        requests_per_minute=executor.requests_per_minute or None,
        tokens_per_minute=executor.tokens_per_minute or None,
        seed=config.seed,
    )
    return MeteredExecutor(backend, calls, budget, make_prices(executor.prices), options)


def make_prices(given: str) -> PriceTable:
    """List prices with overrides.

    Args:
        given: JSON, or the path of a file of it; empty for none.

    Raises:
        InputError: No such file, or no prices in it.
    """
    if given.endswith(".json") and not Path(given).is_file():
        raise InputError(f"--executor_prices={given} is no file; give one, or the JSON itself")
    return PriceTable(parse_prices(Path(given).read_text() if given and Path(given).is_file() else given))


def sandbox_workers(config: RunConfig) -> int:
    """Children that compute at a time, a core each unless the config says so."""
    return config.sandbox.workers or os.cpu_count() or 1


def evaluation_options(config: RunConfig, sandbox: str) -> EvaluationOptions:
    """How items are run: as many at once as have a call on its way, and a few more that compute.

    More would share the calls that a cap allows among items that none of them finishes.

    Args:
        config: Of the run.
        sandbox: Its back end; outcomes of one that only limits are remembered apart.
    """
    executor, unguarded = config.executor, " process" if sandbox == "process" else ""
    return EvaluationOptions(
        concurrency=executor.concurrency + 2 * sandbox_workers(config),
        max_calls_per_item=executor.max_calls_per_item,
        item_timeout=executor.item_timeout,
        max_completion_tokens=executor.max_tokens,
        scope=f"{executor.kind} {executor.base_url} {','.join(config.sandbox.packages)}{unguarded}",
    )
