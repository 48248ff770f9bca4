"""The close of a search: `summary.json` for programs and a short table for people.

searches, test results, ledger → **summary.json, printed summary**
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from w4s_jax.mdp import all_tried, best_tried
from w4s_jax.run import closing
from w4s_jax.run.artifacts import file_stems, format_test, format_validation
from w4s_jax.run.directory import RunDirectory
from w4s_jax.run.environment import Environment
from w4s_jax.run.summary import SIMULATED_EXECUTOR, SUMMARY_SCHEMA_VERSION, format_paths, format_spent, spent_json
from w4s_jax.search.base import SearchResult
from w4s_jax.search.task import SearchTask
from w4s_jax.types import CandidateStatus, Evaluated

_KEPT = 3
"""Workflows of a task that are written into files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Searched:
    """A task with what its search found, as far as it came."""

    search_task: SearchTask
    found: SearchResult

    @property
    def task(self) -> str:
        """Its name."""
        return self.search_task.task.name

    @property
    def best_seed(self) -> Evaluated:
        """What the search had to beat."""
        return best_tried(self.found.start, ())

    @property
    def candidates(self) -> Counter[CandidateStatus]:
        """What became of all that the meta-agent wrote."""
        return Counter(c.status for turn in self.found.turns for c in turn.candidates)

    @property
    def good(self) -> list[Evaluated]:
        """The best workflows by validation, different ones, the best first."""
        different: dict[str, Evaluated] = {}
        for tried in all_tried(self.found.start, self.found.turns):
            different.setdefault(tried.workflow.digest, tried)
        return list(different.values())[:_KEPT]


def summary_json(
    searched: Sequence[Searched], results: Sequence[closing.Result], environment: Environment, run: RunDirectory
) -> dict[str, Any]:
    """The keys of `summary.json`: `searches` by task, `seeds` and `search` where the test split was opened, costs."""
    labels, stems = dict.fromkeys(result.finalist.label for result in results), file_stems(one.task for one in searched)
    found: dict[str, Any] = {label: closing.as_json(closing.labelled(results, label)) for label in labels}
    gain = closing.paired_gain(closing.labelled(results, "seeds"), closing.labelled(results, "search"))
    if gain is not None and gain.n > 1:
        found["gains"] = {"seeds_to_search": {"difference": gain.value, "n": gain.n, "ci95": [gain.low, gain.high]}}
    return found | {
        "schema_version": SUMMARY_SCHEMA_VERSION,
        "strategy": environment.config.optimize.strategy,
        "meta_agent": environment.config.meta_agent.meta_agent,
        "executor_model": environment.executor.model,
        "searches": {one.task: search_json(one, run, stems[one.task]) for one in searched},
        **spent_json(environment.calls.summary()),
        "seconds": environment.calls.spent.seconds,
        "simulated": environment.executor.simulated,
        "best_workflow": str(run.workflows / "best.py"),
        "report": str(run.report),
    }


def search_json(one: Searched, run: RunDirectory, stem: str) -> dict[str, Any]:
    """One search: how far it came, and the best seed and workflow by validation."""

    def evaluated_json(evaluated: Evaluated) -> dict[str, Any]:
        feedback = evaluated.feedback
        return {
            "workflow": evaluated.workflow.name,
            "digest": evaluated.workflow.digest,
            "validation_score": feedback.score,
            "validation_accuracy": feedback.accuracy,
            "validation_n": feedback.n,
            "usd_per_item": feedback.usd_per_item,
        }

    return {
        "metric": one.search_task.task.metric,
        "turns": len(one.found.turns),
        "candidates": {str(status): one.candidates[status] for status in CandidateStatus},
        "stopped_by": None if one.found.stopped_by is None else str(one.found.stopped_by),
        "seed": evaluated_json(one.best_seed),
        "best": evaluated_json(one.found.best),
        "by_turn": [
            best_tried(one.found.start, one.found.turns[:n]).feedback.score for n in range(len(one.found.turns) + 1)
        ],
        "file": str(run.workflows / f"{stem}.py"),
    }


def format_search(
    searched: Sequence[Searched], results: Sequence[closing.Result], summary: Mapping[str, Any], *, tested: bool
) -> str:
    """The summary as people read it.

    Args:
        searched: A search a task.
        results: Of the closing evaluation; empty where there was none.
        summary: As `summary_json`.
        tested: Whether a closing evaluation was asked for.
    """
    lines = [""]
    for one in searched:
        turns = len(one.found.turns)
        lines.append(f"{one.task}: {turns} turn{'s' if turns != 1 else ''}, stopped by {one.found.stopped_by}")
        if one.candidates.total() > one.candidates[CandidateStatus.OK]:
            lines.append(f"  {'candidates':<30} {format_lost(one)}")
        lines.append(
            f"  {'best seed, validation':<30} {one.best_seed.workflow.name}: {format_validation(one.best_seed)}"
        )
        lines.append(
            f"  {'best workflow, validation':<30} {one.found.best.workflow.name}: {format_validation(one.found.best)}"
        )
        if one.found.best.workflow == one.best_seed.workflow:
            lines.append(f"  {'':<30} nothing that was written beat the seeds")
        for result in results:
            if result.finalist.task == one.task:
                title = {"seeds": "best seed, test", "search": "best workflow, test"}[result.finalist.label]
                lines.append(f"  {title:<30} {format_test(one.search_task.task.metric, result.evaluation)}")
        if not results and not tested:
            lines.append("  (the best of many on validation is optimistic; --test measures it on the test split)")
        if len(searched) > 1:
            lines.append(f"  {'workflow file':<30} {summary['searches'][one.task]['file']}")
    gain = summary.get("gains", {}).get("seeds_to_search")
    if gain:
        low, high = gain["ci95"]
        lines.append(f"gain on test, paired by item: {gain['difference']:+.3f} [{low:+.3f}, {high:+.3f}] n={gain['n']}")
    lines.append(format_spent(summary))
    lines += format_paths(summary, {"best workflow": "best_workflow", "report": "report"})
    if summary["simulated"]:
        lines += ["", SIMULATED_EXECUTOR]
    return "\n".join(lines)


def format_lost(one: Searched) -> str:
    """How many candidates ran, and why the others did not."""
    reasons = Counter(c.reason for turn in one.found.turns for c in turn.candidates if c.reason)
    reason = " ".join(reasons.most_common(1)[0][0].split())[:120]
    counts = ", ".join(f"{one.candidates[status]} {status}" for status in CandidateStatus if one.candidates[status])
    return f"{counts} of {one.candidates.total()} (most often: {reason})"
