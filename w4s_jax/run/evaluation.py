"""Evaluating one workflow on one split.

workflow, task, split → sandbox ⇄ executor → **score with interval, every item's outcome, cost** → JSON

Outcomes and replies are kept in the run directory, so what was evaluated once is not bought again, and an
evaluation that was stopped by a cap, a signal or a kill goes on with the same call. The directory of a finished
run will do: its replies are used. Caps count all that was spent there.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from w4s_jax.executor.base import Backend
from w4s_jax.executor.ledger import Totals
from w4s_jax.reports.intervals import bounded_mean, share
from w4s_jax.run.config import RunConfig, TaskConfig
from w4s_jax.run.directory import RunDirectory
from w4s_jax.run.environment import Environment, open_environment
from w4s_jax.run.progress import Progress
from w4s_jax.run.summary import SIMULATED_EXECUTOR
from w4s_jax.tasks.base import SealedTask
from w4s_jax.tasks.splits import split_hash
from w4s_jax.types import (
    BINARY_METRICS,
    BudgetExceededError,
    Evaluation,
    ExecutorError,
    InputError,
    Item,
    ItemStatus,
    Purpose,
    Split,
    Workflow,
)

DEFAULTS = RunConfig(run_dir="runs/evaluate", tasks=TaskConfig(task=()))
"""Of an evaluation; `RunConfig`'s own are those of a training run."""
_SHOWN_SYMPTOMS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What is to be evaluated."""

    workflow: Workflow
    task: SealedTask
    split: Split
    items: Sequence[Item]
    split_size: int
    """Items in the whole split."""
    repetition: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What an evaluation ends with."""

    request: EvaluationRequest
    evaluation: Evaluation
    bought: Totals
    """By this call alone; what was remembered is not in it."""
    seconds: float
    """Wall clock."""
    json: Mapping[str, Any]
    """As `evaluate --json_out`, without its `schema_version`."""

    @property
    def left_out(self) -> Exception | None:
        """Why items were not evaluated, as an error; None where all were."""
        outcomes = self.evaluation.outcomes
        missing = [o for o in outcomes if o.status is ItemStatus.NOT_EVALUATED]
        if not missing:
            return None
        budget = next((o.error for o in missing if o.error.startswith(BudgetExceededError.__name__)), "")
        name, _, text = (budget or missing[0].error).partition(": ")
        text = f"{len(missing)} of {len(outcomes)} items were not evaluated: {text}"
        return BudgetExceededError(text) if budget else ExecutorError(f"{text} ({name}); run the same command again")


def make_request(
    workflow: Workflow, task: SealedTask, split: Split, *, limit: int = 0, repetition: int = 0
) -> EvaluationRequest:
    """What to evaluate; the test split is opened, as it is asked for by name and nothing is chosen by it.

    Args:
        workflow: Code that is not trusted.
        task: Grades the answers.
        split: To evaluate on.
        limit: Only so many of its first items; 0 for all.
        repetition: Number of a repeated evaluation; others draw other samples.

    Raises:
        InputError: The split has no items.
    """
    if split is Split.TEST:
        task.unseal()
    items = task.items(split)
    if not items:
        raise InputError(f"--split={split} of {task.name} has no items; give another, or other sizes")
    return EvaluationRequest(
        workflow=workflow,
        task=task,
        split=split,
        items=items[: limit or None],
        split_size=len(items),
        repetition=repetition,
    )


async def run_evaluation(
    config: RunConfig, directory: RunDirectory, request: EvaluationRequest, *, backend: Backend | None = None
) -> EvaluationResult:
    """Evaluates; what a cap or a failing service left out is `not_evaluated`.

    Args:
        config: Of the run.
        directory: Keeps calls and outcomes.
        request: What to evaluate.
        backend: Asked instead of the config's executor.

    Raises:
        InputError: An option that does not fit.
        SandboxError: No sandbox can be started.
        StoreError: A file cannot be opened.
    """
    tasks = {request.task.name: request.task}
    async with open_environment(config, tasks, directory, backend=backend) as environment:
        before, begun = dataclasses.replace(environment.calls.summary().total), time.monotonic()
        with Progress("items", len(request.items)) as progress:
            evaluation = await environment.evaluator.evaluate(
                request.workflow,
                request.task,
                request.items,
                split=request.split,
                purpose=Purpose.TEST if request.split is Split.TEST else Purpose.OPTIMISATION,
                repetition=request.repetition,
                progress=lambda outcome: progress.advance(
                    int(outcome.status is not ItemStatus.NOT_EVALUATED),
                    calls=environment.calls.summary().total.calls - before.calls,
                ),
                partial=True,
            )
        bought, seconds = environment.calls.summary().total.since(before), time.monotonic() - begun
        return EvaluationResult(
            request=request,
            evaluation=evaluation,
            bought=bought,
            seconds=seconds,
            json=_to_json(request, evaluation, environment) | _cost_json(bought, seconds, environment),
        )


# --- for programs -----------------------------------------------------------------


def _to_json(request: EvaluationRequest, evaluation: Evaluation, environment: Environment) -> dict[str, Any]:
    """The keys of the result; `usd`, `calls` and tokens are of the replies that the workflow got, when bought."""
    task, outcomes = request.task, evaluation.outcomes
    mean_score = bounded_mean([o.score for o in outcomes if o.status is not ItemStatus.NOT_EVALUATED])
    return {
        "task": task.name,
        "split": str(request.split),
        "split_hash": split_hash(request.items),
        "split_size": request.split_size,
        "workflow": {"name": request.workflow.name, "digest": request.workflow.digest},
        "repetition": evaluation.repetition,
        "source": task.source,
        "rule": task.rule,
        "duplicates": len(task.duplicates()),
        "metric": task.metric,
        "score": evaluation.score if evaluation.n else None,
        "score_ci95": [mean_score.low, mean_score.high],
        **share(evaluation.num_right, evaluation.n).as_json(),
        **({} if evaluation.n else {"accuracy": None}),
        "ci_method": "wilson",
        "not_evaluated": len(outcomes) - evaluation.n,
        "simulated": environment.executor.simulated,
        "executor_model": environment.executor.model,
        "usd": round(sum(o.usd for o in outcomes), 9),
        "calls": sum(o.calls for o in outcomes),
        "prompt_tokens": sum(o.prompt_tokens for o in outcomes),
        "completion_tokens": sum(o.completion_tokens for o in outcomes),
        "sandbox": environment.sandbox.name,
        "items": _items_json(request, evaluation, environment),
    }


def _items_json(request: EvaluationRequest, evaluation: Evaluation, environment: Environment) -> list[dict[str, Any]]:
    return [
        {
            "id": o.item_id,
            "status": str(o.status),
            "score": o.score,
            "answer": o.answer,
            "error": o.error,
            "symptom": o.symptom,
            "calls": o.calls,
            "prompt_tokens": o.prompt_tokens,
            "completion_tokens": o.completion_tokens,
            "usd": o.usd,
            "traceback": environment.evaluator.traceback(
                request.workflow, request.task, item, split=request.split, repetition=evaluation.repetition
            ),
        }
        for item, o in zip(request.items, evaluation.outcomes, strict=True)
    ]


def _cost_json(bought: Totals, seconds: float, environment: Environment) -> dict[str, Any]:
    return {
        "bought": dataclasses.asdict(bought),
        "spent_in_run_dir": environment.calls.spent.usd,
        "faults_in_run_dir": environment.calls.summary().faults,
        "seconds": seconds,
    }


# --- for people -------------------------------------------------------------------


def format_result(config: RunConfig, result: Mapping[str, Any]) -> str:
    """The result as people read it.

    Args:
        config: Of the run.
        result: As `EvaluationResult.json`.
    """
    statuses = Counter(item["status"] for item in result["items"])
    kind = "simulated USD" if result["simulated"] else "USD"
    n, bought = result["n"], result["bought"]
    low, high = result["ci95"]
    lines = [
        f"{result['workflow']['name']} on {result['task']}, {result['split']}: "
        f"{len(result['items'])} of {result['split_size']} items (hash {result['split_hash'][:12]}), "
        f"executor {result['executor_model']}, sandbox {result['sandbox']}",
        f"  accuracy {result['accuracy']:.3f} [{low:.3f}, {high:.3f}] n={n} (95 %)" if n else "  nothing was evaluated",
        *([f"  {_format_mean(result)}"] if n and result["metric"] not in BINARY_METRICS else []),
        "  " + ", ".join(f"{statuses[status]} {status.replace('_', ' ')}" for status in ItemStatus),
    ]
    for status in (ItemStatus.WRONG, ItemStatus.BROKE):
        lines += format_symptoms(result["items"], status)
    lines.append(
        f"  {result['calls']} calls, {result['prompt_tokens']} + {result['completion_tokens']} tokens, "
        f"{result['usd']:.6f} {kind} ({result['usd'] / n if n else 0.0:.6f} an item)"
    )
    cap = f" of --budget_usd={config.budget.usd}" if config.budget.usd else ""
    lines.append(
        f"  bought now: {bought['calls']} attempts, {bought['usd']:.6f} {kind}, {result['seconds']:.1f} s; "
        f"in {config.run_dir} so far: {result['spent_in_run_dir']:.6f} {kind}{cap}"
    )
    if result["faults_in_run_dir"]:
        lines.append(f"  faults there so far: {_format_counts(result['faults_in_run_dir'])}")
    return "\n".join([*lines, SIMULATED_EXECUTOR] if result["simulated"] else lines)


def _format_mean(result: Mapping[str, Any]) -> str:
    """The mean of a metric under which an item may be partly right."""
    low, high = result["score_ci95"]
    return f"mean {result['metric']} {result['score']:.3f} [{low:.3f}, {high:.3f}]"


def format_symptoms(items: Sequence[Mapping[str, Any]], status: ItemStatus) -> list[str]:
    """The most frequent symptoms of one status, each with its count and an example."""
    found = [item for item in items if item["status"] == status]
    counts = Counter(item["symptom"] or str(status) for item in found)
    lines = []
    for symptom, count in counts.most_common(_SHOWN_SYMPTOMS):
        example = next(item for item in found if (item["symptom"] or str(status)) == symptom)
        shown = (example["error"] or example["answer"] or "") + _format_place(example["traceback"])
        shown = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(shown.split())[:160])
        lines.append(f"    {status}: {count} × {symptom}, e.g. {example['id']}: {shown}")
    return lines


def _format_place(traceback: str) -> str:
    """Where a workflow raised: ` (line 4, in read: return json.loads(text))`; empty where nobody knows."""
    frames = [line.strip() for line in traceback.splitlines()[1:-1]]
    if len(frames) < 2:
        return ""
    _, _, place = frames[-2].partition(", ")
    return f" ({place}: {frames[-1]})"


def _format_counts(counts: Mapping[str, int]) -> str:
    """E.g. `3 rate_limited, 1 timeout`."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
