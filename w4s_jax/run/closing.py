"""The closing evaluation: the one place where the test split is opened.

trajectories → **finalists** → test split → summary

Finalists are chosen by validation alone: for each task the best seed workflow, and
the best of all that a search tried, its seeds included, since that is what a user
would keep. The test split is opened once, for all of them together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from w4s_jax.concurrency import finish_all
from w4s_jax.mdp import best_tried
from w4s_jax.reports.intervals import Estimate, bounded_mean, mean, share
from w4s_jax.run.artifacts import Chosen
from w4s_jax.run.environment import Environment
from w4s_jax.run.progress import Progress
from w4s_jax.search.task import SearchTask
from w4s_jax.types import BINARY_METRICS, Evaluated, Evaluation, ItemOutcome, ItemStatus, Purpose, Split, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finalist:
    """A workflow that is allowed to see the test split, once."""

    label: str
    """`seeds`, `before`, `after`, or one of these with `_N`: chosen after N turns."""
    task: str
    chosen: Evaluated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """A finalist with its test evaluation."""

    finalist: Finalist
    evaluation: Evaluation

    @property
    def chosen(self) -> Chosen:
        """As it is written into a file."""
        return Chosen(task=self.finalist.task, evaluated=self.finalist.chosen, test=self.evaluation)


def seed_finalists(search_tasks: Iterable[SearchTask]) -> list[Finalist]:
    """The best seed workflow of each task, by validation."""
    return [Finalist(label="seeds", task=p.task.name, chosen=best_tried(p.start, ())) for p in search_tasks]


def search_finalists(
    label: str, search_tasks: dict[str, SearchTask], trajectories: Sequence[Trajectory], after_turns: Sequence[int]
) -> list[Finalist]:
    """The best workflow that each search tried, after all turns and after each of `after_turns`."""
    found = []
    for trajectory in trajectories:
        start = search_tasks[trajectory.task].start
        for suffix, turns in [("", len(trajectory.turns)), *((f"_{n}", n) for n in after_turns)]:
            chosen = best_tried(start, trajectory.turns[:turns])
            found.append(Finalist(label=label + suffix, task=trajectory.task, chosen=chosen))
    return found


async def closing_evaluation(environment: Environment, finalists: Sequence[Finalist]) -> list[Result]:
    """Opens the test split and evaluates every finalist on it.

    Raises:
        BudgetExceededError, ExecutorError, SandboxError: As `Evaluator.evaluate`.
    """
    for name in {finalist.task for finalist in finalists}:
        environment.tasks[name].unseal()
    total = sum(len(environment.tasks[finalist.task].items(Split.TEST)) for finalist in finalists)
    with Progress("closing test evaluation (items)", total) as progress:

        async def evaluated(finalist: Finalist) -> Result:
            task = environment.tasks[finalist.task]
            evaluation = await environment.evaluator.evaluate(
                finalist.chosen.workflow,
                task,
                task.items(Split.TEST),
                split=Split.TEST,
                purpose=Purpose.TEST,
                progress=lambda outcome: progress.advance(),
            )
            return Result(finalist=finalist, evaluation=evaluation)

        return await finish_all([evaluated(finalist) for finalist in finalists])


# --- what is said of the results ---------------------------------------------


def labelled(results: Sequence[Result], label: str) -> list[Result]:
    """The results of one label, by task."""
    return sorted((r for r in results if r.finalist.label == label), key=lambda r: r.finalist.task)


def metric_of(results: Iterable[Result]) -> str:
    """The metric of results: `accuracy` where every item is right or wrong, `score` where they are mixed."""
    metrics = {"accuracy" if (m := r.finalist.chosen.feedback.metric) in BINARY_METRICS else m for r in results}
    return metrics.pop() if len(metrics) == 1 else "score"


def pooled(results: Sequence[Result]) -> Estimate:
    """Mean of the tasks' own metrics over the items of all tasks together: accuracy, where items are right or wrong."""
    if metric_of(results) == "accuracy":
        return share(sum(r.evaluation.num_right for r in results), sum(r.evaluation.n for r in results))
    return bounded_mean([o.score for result in results for o in _evaluated(result)])


def paired_gain(before: Sequence[Result], after: Sequence[Result]) -> Estimate | None:
    """Mean difference of the metric on the same items; None where there is none in common."""
    first = {(r.finalist.task, o.item_id): o.score for r in before for o in _evaluated(r)}
    differences = [
        o.score - first[result.finalist.task, o.item_id]
        for result in after
        for o in _evaluated(result)
        if (result.finalist.task, o.item_id) in first
    ]
    return mean(differences) if differences else None


def _evaluated(result: Result) -> list[ItemOutcome]:
    return [o for o in result.evaluation.outcomes if o.status is not ItemStatus.NOT_EVALUATED]


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """Accuracy and the tasks' own metric with n and intervals, of one label, pooled and by task."""
    by_task = {
        r.finalist.task: {
            **_measured([r]),
            "validation_score": r.finalist.chosen.feedback.score,
            "validation_accuracy": r.finalist.chosen.feedback.accuracy,
            "validation_n": r.finalist.chosen.feedback.n,
            "usd_per_item": r.evaluation.usd_per_item,
            "workflow": r.finalist.chosen.workflow.name,
        }
        for r in results
    }
    method = "wilson" if metric_of(results) == "accuracy" else "student's t of scores, wilson of accuracy"
    return {**_measured(results), "ci_method": f"{method}, items of all tasks pooled", "by_task": by_task}


def _measured(results: Sequence[Result]) -> dict[str, Any]:
    right = share(sum(r.evaluation.num_right for r in results), sum(r.evaluation.n for r in results))
    score = pooled(results)
    return right.as_json() | {
        "metric": metric_of(results),
        "score": score.value,
        "score_ci95": [score.low, score.high],
    }
