"""The front door: `w4s_jax.optimize`, `evaluate` and `rlao`, from a script, a notebook or a thread.

data, metric, executor, meta-agent → **calls** → run.search, run.evaluation, run.rlao → result

A call is the same run as the command of its name: the same options, run directory and files. It runs in a thread
with an event loop of its own, raises the library's errors in one line, and leaves no thread, process or handler.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from w4s_jax.run.arguments import as_field, in_words_of_calls
from w4s_jax.run.callbacks import Callback
from w4s_jax.run.calls import Client, Data, EvaluateCall, OptimizeCall, Prices, WorkflowLike
from w4s_jax.run.config import RunConfig
from w4s_jax.run.endpoints import Simulated
from w4s_jax.run.evaluation import DEFAULTS as EVALUATE_DEFAULTS
from w4s_jax.run.progress import SILENT, Display, shown_on
from w4s_jax.run.results import EvaluateResult, OptimizeResult
from w4s_jax.run.runner import Worker
from w4s_jax.run.search import DEFAULTS
from w4s_jax.run.tasks import Metric
from w4s_jax.types import InputError, Split

if TYPE_CHECKING:
    from w4s_jax.run.rlao import RlaoResult


def optimize(
    data: Data,
    metric: str | Metric | None = None,
    *,
    executor: str | Client | Simulated,
    meta_agent: str | PathLike[str] | Client,
    budget_usd: float | None = None,
    num_turns: int = DEFAULTS.search.num_turns,
    run_dir: str | PathLike[str] = DEFAULTS.run_dir,
    prices: Prices | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    **options: Any,
) -> OptimizeResult:
    """Searches for the workflow that gets the most out of the executor on your questions.

    The same call on the same `run_dir` goes on where it ended, with more turns if `num_turns` is higher, and buys
    nothing twice. Ctrl-C returns what was found so far.

    Args:
        data: A path (`.csv`, `.jsonl`, `.json`, `.parquet`) or rows (dicts, a `datasets.Dataset`, a data frame) with
            `question` and `answer`; a benchmark's name, e.g. `gsm8k`; or a task object.
        metric: A scorer's name (`exact`, `numeric`, `choice`, `f1`, `math`, `code`), or your function
            (answer, target) -> bool or float in [0, 1], which is trusted and runs in this process, in a thread, one
            answer at a time. None: `exact`; a benchmark has its own.
        executor: Who answers: the name of a model at `OPENAI_BASE_URL`, `Model(client, name)` or `Simulated()`.
        meta_agent: Who writes workflows: the name of a model there, `Model(client, name)`, `tiny`, a folder of a
            checkpoint, or a Hugging Face id (ORG/NAME); `api:ORG/NAME` is a model whose name has a slash.
        budget_usd: The most that `run_dir` may have spent, in USD; a paid model needs one, `float("inf")` is no cap.
        num_turns: Turns of the search.
        run_dir: Folder of the run.
        prices: USD per million tokens by model, `{"NAME": {"input": 0.5, "output": 1.5}}`, where they are not listed.
        callbacks: See every finished turn, the test results and the end, in the run's thread; what one raises ends it.
        progress: Whether it is shown.
        **options: Any other option of `w4s optimize` by its name, e.g. `num_candidates=3`, `sandbox="guard"`.

    Raises:
        InputError: What does not fit, in one line; a `run_dir` of another search.
        BudgetExceededError: A cap left no room before there was anything to return.
        ExecutorError, SandboxError, StoreError, CheckpointError: We broke; everything finished is stored.
        KeyboardInterrupt: Ctrl-C before there was anything to return.
    """
    call = OptimizeCall(
        data=data,
        metric=metric,
        executor=executor,
        meta_agent=meta_agent,
        budget_usd=budget_usd,
        num_turns=num_turns,
        run_dir=run_dir,
        prices=prices,
        callbacks=callbacks,
        options=options,
    )
    with in_words_of_calls(), shown_on(_display(progress)):
        return Worker(call).result(call.resume)


async def aoptimize(
    data: Data,
    metric: str | Metric | None = None,
    *,
    executor: str | Client | Simulated,
    meta_agent: str | PathLike[str] | Client,
    budget_usd: float | None = None,
    num_turns: int = DEFAULTS.search.num_turns,
    run_dir: str | PathLike[str] = DEFAULTS.run_dir,
    prices: Prices | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    **options: Any,
) -> OptimizeResult:
    """As `optimize`, from an event loop, which is not held up; a cancellation stops the search and is raised.

    Everything that was finished is stored, and the same call goes on.
    """
    call = OptimizeCall(
        data=data,
        metric=metric,
        executor=executor,
        meta_agent=meta_agent,
        budget_usd=budget_usd,
        num_turns=num_turns,
        run_dir=run_dir,
        prices=prices,
        callbacks=callbacks,
        options=options,
    )
    with in_words_of_calls(), shown_on(_display(progress)):
        return await Worker(call).awaited()


def evaluate(
    workflow: WorkflowLike,
    data: Data,
    metric: str | Metric | None = None,
    *,
    executor: str | Client | Simulated,
    split: str = Split.VALIDATION,
    limit: int = 0,
    repetition: int = 0,
    budget_usd: float | None = None,
    run_dir: str | PathLike[str] = EVALUATE_DEFAULTS.run_dir,
    prices: Prices | None = None,
    progress: bool = True,
    **options: Any,
) -> EvaluateResult:
    """Evaluates one workflow on one split of your questions.

    What was evaluated once in `run_dir` is not bought again; what a cap or a failing service left out is counted in
    the result, and the same call goes on.

    Args:
        workflow: A path (`….py`), the name of a seed workflow, Python source with `solver(agent, task)`, a `Workflow`,
            or a workflow of a result.
        data: As in `optimize`.
        metric: As in `optimize`.
        executor: As in `optimize`.
        split: `train`, `validation` or `test`.
        limit: Only so many of its first items; 0: all.
        repetition: Number of a repeated evaluation; others draw other samples.
        budget_usd: As in `optimize`.
        run_dir: Folder that keeps calls and outcomes; that of a finished run will do.
        prices: As in `optimize`.
        progress: Whether it is shown.
        **options: Any other option of `w4s evaluate` by its name.

    Raises:
        InputError: What does not fit, in one line.
        BudgetExceededError, ExecutorError: Nothing could be evaluated.
        SandboxError, StoreError: We broke.
        KeyboardInterrupt: Ctrl-C; everything finished is stored.
    """
    call = EvaluateCall(
        workflow=workflow,
        data=data,
        metric=metric,
        executor=executor,
        split=split,
        limit=limit,
        repetition=repetition,
        budget_usd=budget_usd,
        run_dir=run_dir,
        prices=prices,
        options=options,
    )
    with in_words_of_calls(), shown_on(_display(progress)):
        return Worker(call).result(call.resume)


async def aevaluate(
    workflow: WorkflowLike,
    data: Data,
    metric: str | Metric | None = None,
    *,
    executor: str | Client | Simulated,
    split: str = Split.VALIDATION,
    limit: int = 0,
    repetition: int = 0,
    budget_usd: float | None = None,
    run_dir: str | PathLike[str] = EVALUATE_DEFAULTS.run_dir,
    prices: Prices | None = None,
    progress: bool = True,
    **options: Any,
) -> EvaluateResult:
    """As `evaluate`, from an event loop, which is not held up; a cancellation stops it and is raised."""
    call = EvaluateCall(
        workflow=workflow,
        data=data,
        metric=metric,
        executor=executor,
        split=split,
        limit=limit,
        repetition=repetition,
        budget_usd=budget_usd,
        run_dir=run_dir,
        prices=prices,
        options=options,
    )
    with in_words_of_calls(), shown_on(_display(progress)):
        return await Worker(call).awaited()


def rlao(config: RunConfig, *, callbacks: Sequence[Callback] = (), progress: bool = True) -> RlaoResult | None:
    """Trains a meta-agent, or does what is missing of it in the run directory; see `docs/training.md`.

    Args:
        config: The whole run; `run_dir` is needed.
        callbacks: See every finished turn, update and round, in the run's thread; what one raises ends the run.
        progress: Whether it is shown.

    Returns:
        The result; None in a process that does not lead (`training.distributed`).

    Raises:
        InputError: The extra `train` is not installed, or an option does not fit, in one line.
        BudgetExceededError: A cap left no room; the same call goes on.
        ExecutorError, SandboxError, StoreError, CheckpointError, NumericsError: We broke.
        KeyboardInterrupt: Ctrl-C; everything finished is stored.
    """
    try:
        from w4s_jax.run.rlao import rlao as train
    except ImportError as error:
        raise InputError(f"rlao trains on this machine ({error}); pip install 'w4s_jax[train]'") from error
    with in_words_of_calls(as_field), shown_on(_display(progress)):
        work = Worker(lambda runner: train(config, runner=runner, callbacks=callbacks))
        return work.result(f"The same call with run_dir={config.run_dir!r} goes on.")


def _display(progress: bool) -> Display:
    return Display.here() if progress else SILENT
