"""Evaluates one workflow on one split: `python -m experiments.evaluate --task=gsm_hard --workflow=FILE.py`.

workflow, task, split → sandbox ⇄ executor → **accuracy with interval, every item's outcome, cost** → JSON

Outcomes and replies are kept in `--run_dir`, so what was evaluated once is not bought
again, and an evaluation that was stopped by a cap, a signal or a kill goes on with the
same command. The folder of a finished run will do: its replies are used. Caps count all
that was spent in the folder. It needs no JAX.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import app, dry_run
from experiments import flags as shared
from experiments.progress import Progress
from experiments.run_dir import RunDirectory, write_out
from experiments.summary import SIMULATED_EXECUTOR
from experiments.workflow_files import BINARY_METRICS
from experiments.world import Environment, load_tasks, open_environment, told
from w4s_jax.executor.ledger import Totals
from w4s_jax.reports.intervals import bounded_mean, share
from w4s_jax.tasks.base import SealedTask
from w4s_jax.tasks.registry import expand_tasks
from w4s_jax.tasks.splits import split_hash
from w4s_jax.types import (
    BudgetExceededError,
    Evaluation,
    ExecutorError,
    InputError,
    Item,
    ItemStatus,
    Purpose,
    Split,
    StoreError,
    Workflow,
)
from w4s_jax.workflows import load_workflow, seed_names

FLAGS = flags.FLAGS

shared.define_run(run_dir="runs/evaluate")
shared.define_splits()
shared.define_executor()
shared.define_sandbox()
flags.DEFINE_string("task", "", "The task, by name; see docs/tasks.md.")
flags.DEFINE_string("workflow", "", "A workflow file (FILE.py), or the name of a seed workflow.")
flags.DEFINE_enum_class("split", Split.VALIDATION, Split, "Split to evaluate on.")
flags.DEFINE_integer("limit", 0, "Evaluate on the first items of the split alone (0: all).", lower_bound=0)
flags.DEFINE_integer("repetition", 0, "Number of a repeated evaluation: others draw other samples.", lower_bound=0)

_SHOWN_SYMPTOMS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be found out."""

    workflow: Workflow
    task: SealedTask
    split: Split
    items: Sequence[Item]
    of: int
    """Items in the whole split."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What was found, and what it took."""

    evaluation: Evaluation
    bought: Totals
    """By this process alone; what was remembered is not in it."""
    seconds: float
    """Wall clock."""


# --- the question ---------------------------------------------------------------


def asked() -> Question:
    """The question that the flags ask.

    Raises:
        InputError: a name is missing or unknown, or a file holds no workflow.
    """
    if not FLAGS.workflow:
        raise InputError(f"--workflow is empty; give a FILE.py, or a seed: {', '.join(seed_names())}")
    workflow = load_workflow(FLAGS.workflow)
    if not FLAGS.task:
        raise InputError("--task is empty; name one, e.g. --task=toy_units, see docs/tasks.md")
    names = expand_tasks(FLAGS.task)
    if len(names) > 1:
        raise InputError(f"--task={FLAGS.task} names {len(names)} tasks; give one of {', '.join(names)}")
    task = load_tasks(names)[names[0]]
    split = FLAGS.split
    if split is Split.TEST:
        task.unseal()  # asked for by name, and nothing here is chosen by it
    items = task.items(split)
    if not items:
        raise InputError(f"--split={split} of {task.name} has no items; give another, or other sizes")
    return Question(workflow=workflow, task=task, split=split, items=items[: FLAGS.limit or None], of=len(items))


async def answered(question: Question, environment: Environment) -> Found:
    """Evaluates; what a cap or a failing service left out is `not_evaluated`."""
    before, begun = dataclasses.replace(environment.calls.summary().total), time.monotonic()
    with Progress("items", len(question.items)) as progress:
        evaluation = await environment.evaluator.evaluate(
            question.workflow,
            question.task,
            question.items,
            split=question.split,
            purpose=Purpose.TEST if question.split is Split.TEST else Purpose.OPTIMISATION,
            repetition=FLAGS.repetition,
            progress=lambda outcome: progress.advance(
                int(outcome.status is not ItemStatus.NOT_EVALUATED),
                calls=environment.calls.summary().total.calls - before.calls,
            ),
            partial=True,
        )
    return Found(
        evaluation=evaluation,
        bought=environment.calls.summary().total.since(before),
        seconds=time.monotonic() - begun,
    )


# --- what is said of it ---------------------------------------------------------


def as_json(question: Question, found: Found, environment: Environment) -> dict[str, Any]:
    """The keys of `--json_out`; `usd`, `calls` and tokens are of the replies that the workflow got, when bought."""
    evaluation, task = found.evaluation, question.task
    outcomes = evaluation.outcomes
    mean_score = bounded_mean([o.score for o in outcomes if o.status is not ItemStatus.NOT_EVALUATED])
    return {
        "task": task.name,
        "split": str(question.split),
        "split_hash": split_hash(question.items),
        "split_size": question.of,
        "workflow": {"name": question.workflow.name, "digest": question.workflow.digest},
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
        "bought": dataclasses.asdict(found.bought),
        "spent_in_run_dir": environment.calls.spent.usd,
        "faults_in_run_dir": environment.calls.summary().faults,
        "seconds": found.seconds,
        "sandbox": environment.sandbox.name,
        "items": [
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
                    question.workflow, task, item, split=question.split, repetition=evaluation.repetition
                ),
            }
            for item, o in zip(question.items, outcomes, strict=True)
        ],
    }


def printed(result: dict[str, Any]) -> str:
    """The result as people read it."""
    statuses = Counter(item["status"] for item in result["items"])
    kind = "simulated USD" if result["simulated"] else "USD"
    n, bought = result["n"], result["bought"]
    low, high = result["ci95"]
    lines = [
        f"{result['workflow']['name']} on {result['task']}, {result['split']}: "
        f"{len(result['items'])} of {result['split_size']} items (hash {result['split_hash'][:12]}), "
        f"executor {result['executor_model']}, sandbox {result['sandbox']}",
        f"  accuracy {result['accuracy']:.3f} [{low:.3f}, {high:.3f}] n={n} (95 %)" if n else "  nothing was evaluated",
        *([f"  {mean_of(result)}"] if n and result["metric"] not in BINARY_METRICS else []),
        "  " + ", ".join(f"{statuses[status]} {status.replace('_', ' ')}" for status in ItemStatus),
    ]
    for status in (ItemStatus.WRONG, ItemStatus.BROKE):
        lines += symptoms(result["items"], status)
    lines.append(
        f"  {result['calls']} calls, {result['prompt_tokens']} + {result['completion_tokens']} tokens, "
        f"{result['usd']:.6f} {kind} ({result['usd'] / n if n else 0.0:.6f} an item)"
    )
    cap = f" of --budget_usd={FLAGS.budget_usd}" if FLAGS.budget_usd else ""
    lines.append(
        f"  bought now: {bought['calls']} attempts, {bought['usd']:.6f} {kind}, {result['seconds']:.1f} s; "
        f"in {FLAGS.run_dir} so far: {result['spent_in_run_dir']:.6f} {kind}{cap}"
    )
    if result["faults_in_run_dir"]:
        lines.append(f"  faults there so far: {spelled(result['faults_in_run_dir'])}")
    return "\n".join([*lines, SIMULATED_EXECUTOR] if result["simulated"] else lines)


def mean_of(result: dict[str, Any]) -> str:
    """The mean of a metric under which an item may be partly right."""
    low, high = result["score_ci95"]
    return f"mean {result['metric']} {result['score']:.3f} [{low:.3f}, {high:.3f}]"


def symptoms(items: Sequence[dict[str, Any]], status: ItemStatus) -> list[str]:
    """The most frequent symptoms of one status, each with its count and an example."""
    found = [item for item in items if item["status"] == status]
    counts = Counter(item["symptom"] or str(status) for item in found)
    lines = []
    for symptom, count in counts.most_common(_SHOWN_SYMPTOMS):
        example = next(item for item in found if (item["symptom"] or str(status)) == symptom)
        shown = (example["error"] or example["answer"] or "") + last_line(example["traceback"])
        shown = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(shown.split())[:160])
        lines.append(f"    {status}: {count} × {symptom}, e.g. {example['id']}: {shown}")
    return lines


def last_line(traceback: str) -> str:
    """Where a workflow raised: ` (line 4, in read: return json.loads(text))`; empty where nobody knows."""
    frames = [line.strip() for line in traceback.splitlines()[1:-1]]
    if len(frames) < 2:
        return ""
    _, _, place = frames[-2].partition(", ")
    return f" ({place}: {frames[-1]})"


def spelled(counts: dict[str, int]) -> str:
    """E.g. `3 rate_limited, 1 timeout`."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def left_out(evaluation: Evaluation) -> Exception | None:
    """Why items were not evaluated, as the error that ends the command; None where all were."""
    missing = [o for o in evaluation.outcomes if o.status is ItemStatus.NOT_EVALUATED]
    if not missing:
        return None
    budget = next((o.error for o in missing if o.error.startswith(BudgetExceededError.__name__)), "")
    name, _, text = (budget or missing[0].error).partition(": ")
    text = f"{len(missing)} of {len(evaluation.outcomes)} items were not evaluated: {text}"
    return BudgetExceededError(text) if budget else ExecutorError(f"{text} ({name}); run the same command again")


# --- the command ----------------------------------------------------------------


async def evaluate(question: Question, run: RunDirectory) -> None:
    """Evaluates, writes and prints.

    Raises:
        BudgetExceededError: a cap left items out; what was finished is kept.
        ExecutorError: the executor or the sandbox failed and left items out.
    """
    outcomes = Path(FLAGS.outcomes) if FLAGS.outcomes else run.outcomes
    async with open_environment({question.task.name: question.task}, run.calls, outcomes) as environment:
        found = await answered(question, environment)
        result = as_json(question, found, environment)
    try:
        write_out(result, run)
    finally:
        print(printed(result))
    error = left_out(found.evaluation)
    if error is not None:
        raise error


def main(argv: Sequence[str]) -> None:
    """Checks the flags and evaluates."""
    del argv
    question = asked()
    run = RunDirectory(Path(FLAGS.run_dir))
    if FLAGS.dry_run:
        case = dry_run.worst_case({f"{question.split} items": len(question.items)})
        write_out(case, run)
        print(dry_run.spelled(case))
        return
    try:
        run.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"--run_dir={run.root}: {error.strerror}; give another") from None
    if question.task.source:
        print(told(question.task), file=sys.stderr)
    app.run_async(evaluate(question, run))


if __name__ == "__main__":
    app.run(main)
