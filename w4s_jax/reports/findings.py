"""The numbers of a report, from the records of a run; pure.

RunRecord → **findings** → sections → page
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from w4s_jax.reports.intervals import Estimate, mean
from w4s_jax.types import Candidate, CandidateStatus, Trajectory

_TITLES = {
    "seeds": "Best seed workflow",
    "before": "Before training",
    "after": "After training",
    "search": "Best found",
}
_ERROR_KIND = re.compile(r"([A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning|Iteration)): ")
_LONGEST_REASON = 90


class Finalist(NamedTuple):
    """One line of the closing evaluation."""

    label: str
    """As `summary.json` names it, e.g. `after` or `after_5`."""
    title: str
    pooled: Estimate
    by_task: Mapping[str, Estimate]
    details: Mapping[str, Mapping[str, Any]]
    """By task, as the summary holds it."""

    @property
    def stem(self) -> str:
        """The label without its number of turns."""
        return self.label.partition("_")[0]


def finalists(summary: Mapping[str, Any]) -> list[Finalist]:
    """Everything that the closing evaluation measured, in the summary's order."""
    return [_finalist(label, value) for label, value in summary.items() if _is_estimate(value)]


def _finalist(label: str, value: Mapping[str, Any]) -> Finalist:
    details = {task: v for task, v in value.get("by_task", {}).items() if _is_estimate(v)}
    stem, _, turns = label.partition("_")
    title = _TITLES.get(stem, stem) + (f", {turns} turns" if turns.isdecimal() else "")
    return Finalist(label, title, measured(value), {task: measured(v) for task, v in details.items()}, details)


def _is_estimate(value: Any) -> bool:
    return isinstance(value, dict) and {"accuracy", "n", "ci95"} <= value.keys()


def measured(value: Mapping[str, Any]) -> Estimate:
    """A test result in the task's own metric."""
    if value.get("metric", "accuracy") == "accuracy":
        return estimate(value)
    low, high = value["score_ci95"]
    return Estimate(float(value["score"]), int(value["n"]), float(low), float(high))


def metric(summary: Mapping[str, Any]) -> str:
    """What the closing evaluation measured, in words: `accuracy`, `mean f1`, or `mean score` of mixed tasks."""
    metrics = {str(value.get("metric", "accuracy")) for value in summary.values() if _is_estimate(value)}
    found = metrics.pop() if len(metrics) == 1 else "accuracy" if not metrics else "score"
    return found if found == "accuracy" else f"mean {found}"


def estimate(value: Mapping[str, Any], key: str = "accuracy") -> Estimate:
    """A number with its interval, as result files hold it."""
    low, high = value["ci95"]
    return Estimate(float(value[key]), int(value["n"]), float(low), float(high))


class TurnPoint(NamedTuple):
    """Validation score after some turns, over the searches that came so far."""

    turns: int
    best: Estimate
    """Of all tried so far, the seeds included where they are known."""
    chosen: Estimate | None
    """Of the workflow the last turn chose; None where no search chose one."""


def by_turn(searches: Sequence[Trajectory], seed_score: Callable[[str], float | None]) -> list[TurnPoint]:
    """Mean validation score by turns done; point 0 holds the seeds alone and is left out where they are unknown."""
    seeds = {s.task: seed_score(s.task) for s in searches}
    best = [0.0 if (seed := seeds[s.task]) is None else seed for s in searches]
    known = bool(searches) and None not in seeds.values()
    points = [TurnPoint(0, _mean_share(best), None)] if known else []
    for done in range(1, max((len(s.turns) for s in searches), default=0) + 1):
        chosen = []
        for index, search in enumerate(searches):
            if len(search.turns) < done:
                continue
            turn = search.turns[done - 1]
            best[index] = max([best[index], *(c.score or 0.0 for c in running(turn.candidates))])
            if turn.chosen is not None:
                chosen.append(turn.candidates[turn.chosen].score or 0.0)
        reached = [value for value, search in zip(best, searches, strict=True) if len(search.turns) >= done]
        points.append(TurnPoint(done, _mean_share(reached), _mean_share(chosen) if chosen else None))
    return points


def _mean_share(shares: Sequence[float]) -> Estimate:
    """A mean of scores; its interval ends where scores do."""
    found = mean(shares)
    if not math.isfinite(found.low):
        return found
    return found._replace(low=max(0.0, found.low), high=min(1.0, found.high))


class Failures(NamedTuple):
    """Failed validation items of all workflows that ran, by what the grader saw."""

    counts: collections.Counter[str]
    items: int
    """Items evaluated, over all those workflows."""
    workflows: int


def failures(trajectories: Iterable[Trajectory]) -> Failures:
    """Counts the symptoms in the feedback of every candidate that ran."""
    counts: collections.Counter[str] = collections.Counter()
    feedbacks = [c.feedback for c in running(candidates(trajectories)) if c.feedback is not None]
    for feedback in feedbacks:
        counts.update(feedback.symptoms)
    return Failures(counts, sum(f.n for f in feedbacks), len(feedbacks))


class Reasons(NamedTuple):
    """Why candidates were skipped, by kind."""

    counts: collections.Counter[str]
    examples: dict[str, str]
    """The first reason of each kind, whole."""
    candidates: int
    """Sampled, the running ones included."""


def reasons(trajectories: Iterable[Trajectory], status: CandidateStatus = CandidateStatus.SKIPPED) -> Reasons:
    """Counts why candidates were skipped (or failed by us)."""
    counts: collections.Counter[str] = collections.Counter()
    examples: dict[str, str] = {}
    everything = list(candidates(trajectories))
    for candidate in everything:
        if candidate.status is status:
            kind = reason_kind(candidate.reason)
            counts[kind] += 1
            examples.setdefault(kind, candidate.reason)
    return Reasons(counts, examples, len(everything))


def reason_kind(reason: str) -> str:
    """The exception's type where there is one, else the text with its numbers as N.

    Example:
        >>> reason_kind("SyntaxError: '(' was never closed"), reason_kind("2 Python blocks define solver")
        ('SyntaxError', 'N Python blocks define solver')
    """
    found = _ERROR_KIND.match(f"{reason} ")
    if found:
        return found.group(1)[:_LONGEST_REASON]
    first = reason.partition("\n")[0].partition(" (not repaired")[0]
    return re.sub(r"\d+", "N", first)[:_LONGEST_REASON] or "no reason given"


def round_reward(trajectories: Sequence[Trajectory]) -> Estimate | None:
    """Mean over trajectories of their mean reward, skipped actions counting 0; None of fewer than two."""
    means = []
    for trajectory in trajectories:
        counted = [c for c in candidates([trajectory]) if c.status is not CandidateStatus.FAILED]
        if counted:
            means.append(sum(c.reward or 0.0 for c in counted) / len(counted))
    return mean(means) if len(means) > 1 else None


def thinned(values: Sequence[tuple[float, float]], most: int = 300) -> tuple[list[tuple[float, float]], int]:
    """Points for a curve: means of `width` neighbours, so that at most `most` remain; and that width."""
    width = max(1, math.ceil(len(values) / most))
    groups = [values[start : start + width] for start in range(0, len(values), width)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups], width


def candidates(trajectories: Iterable[Trajectory]) -> Iterable[Candidate]:
    """All candidates, in order."""
    return (c for trajectory in trajectories for turn in trajectory.turns for c in turn.candidates)


def running(some: Iterable[Candidate]) -> list[Candidate]:
    """Those that were evaluated."""
    return [c for c in some if c.status is CandidateStatus.OK]
