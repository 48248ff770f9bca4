"""The sections on what happened on the way: learning, turns, failures, cost.

RunRecord → findings → **sections** → page
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

from w4s_jax.reports import findings
from w4s_jax.reports.intervals import Estimate
from w4s_jax.reports.markup import Child, Markup, joined, tag
from w4s_jax.reports.plots import Curve, Point, bar, curves
from w4s_jax.reports.record import Json, Phase, RunRecord
from w4s_jax.reports.sections import OPTIMISTIC
from w4s_jax.reports.spending import Spending
from w4s_jax.reports.tables import NONE, facts, folded, interval, seconds, table, usd
from w4s_jax.types import CandidateStatus

_MOST_KINDS = 12
_PHASES = (Phase.BEFORE, Phase.TRAINING, Phase.AFTER, Phase.SEARCH)


def learning(run: RunRecord) -> Markup | None:
    """Rewards by round and loss by update."""
    rounds = [r for r in run.rounds if "mean_reward" in r]
    figures: list[Markup] = []
    if rounds:
        by_round = {
            n: findings.round_reward([t for t in run.of(Phase.TRAINING) if t.round == n])
            for n in {r["round"] for r in rounds}
        }
        mean = [_point(r, "mean_reward", by_round[r["round"]]) for r in rounds]
        figures = [
            _by_round("Mean reward", mean, "Bars: 95 % over trajectories."),
            _by_round("Share of actions that ran", [_point(r, "running_share") for r in rounds], unit=True),
            _by_round("Reward per running action", [_point(r, "reward_per_running") for r in rounds]),
        ]
    figures += [figure for key, title in _UPDATES if (figure := _by_update(run.updates, key, title)) is not None]
    if not figures:
        return None
    return joined(
        tag("div", figures, class_="figures"), folded("Numbers by round", _rounds_table(rounds)) if rounds else None
    )


_UPDATES = (
    ("loss", "Loss"),
    ("effective_sample_size", "Effective sample size of the weights"),
    ("grad_norm", "Gradient norm"),
)


def _point(record: Json, key: str, spread: Estimate | None = None) -> Point:
    low, high = (spread.low, spread.high) if spread else (math.nan, math.nan)
    return Point(float(record["round"]), float(record.get(key, 0.0)), low, high)


def _by_round(title: str, points: Sequence[Point], note: str | None = None, *, unit: bool = False) -> Markup:
    return curves(title, [Curve("after", title, points)], x_title="round", unit=unit, note=note)


def _by_update(updates: Sequence[Json], key: str, title: str) -> Markup | None:
    values = [(float(u["step"]), float(u[key])) for u in updates if key in u]
    if not values:
        return None
    points, width = findings.thinned(values)
    note = f"Each point is the mean of {width} updates." if width > 1 else None
    return curves(title, [Curve("after", title, [Point(x, y) for x, y in points])], x_title="update", note=note)


_ROUND_COLUMNS = (
    ("trajectories", "Trajectories", "{:,.0f}"),
    ("actions", "Actions", "{:,.0f}"),
    ("mean_reward", "Mean reward", "{:.3f}"),
    ("running_share", "Ran", "{:.3f}"),
    ("reward_per_running", "Reward if it ran", "{:.3f}"),
    ("mean_score", "Validation score if it ran", "{:.3f}"),
    ("repairs", "Repairs", "{:,.0f}"),
    ("failed_by_us", "Failed by us", "{:,.0f}"),
)


def _rounds_table(rounds: Sequence[Json]) -> Markup:
    rows = [
        [str(r["round"]), *(shape.format(r[key]) if key in r else NONE for key, _, shape in _ROUND_COLUMNS)]
        for r in rounds
    ]
    return table(["Round", *(title for _, title, _ in _ROUND_COLUMNS)], rows, class_="numbers")


# --- score by turn -----------------------------------------------------------------


def turns(run: RunRecord) -> Markup | None:
    """Validation score of the chosen and of the best so far, by turn."""
    phases = [p for p in (Phase.BEFORE, Phase.AFTER, Phase.SEARCH) if run.of(p)]
    points = {phase: findings.by_turn(run.of(phase), run.seed_score) for phase in phases}
    if not any(points.values()):
        return None
    best = [Curve(_class(p), _title(p), [_turn_point(t.turns, t.best) for t in points[p]]) for p in phases]
    chosen = [
        Curve(_class(p), _title(p), [_turn_point(t.turns, t.chosen) for t in points[p] if t.chosen is not None])
        for p in phases
    ]
    figures = [curves("Best so far", best, x_title="turns done", unit=True)]
    if any(curve.points for curve in chosen):
        figures.append(curves("Chosen in that turn", chosen, x_title="turns done", unit=True))
    rows = [
        [_title(phase), str(t.turns), _cell(t.best), _cell(t.chosen), str(t.best.n)]
        for phase in phases
        for t in points[phase]
    ]
    seeds = "0 turns are the best seed workflow. " if any(p and p[0].turns == 0 for p in points.values()) else ""
    note = f"Mean over searches, one a task, with 95 % intervals over searches, cut to [0, 1]. {seeds}{OPTIMISTIC}"
    return joined(
        tag("div", figures, class_="figures"),
        tag("p", note, class_="note"),
        folded("Numbers by turn", table(["Searches", "Turns", "Best so far", "Chosen", "n"], rows, class_="numbers")),
    )


def _turn_point(turn: int, estimate: Estimate | None) -> Point:
    return Point(turn, math.nan) if estimate is None else Point(turn, estimate.value, estimate.low, estimate.high)


def _cell(estimate: Estimate | None) -> str:
    return NONE if estimate is None else f"{estimate.value:.3f} {interval(estimate)}"


def _class(phase: Phase) -> str:
    return "before" if phase is Phase.BEFORE else "after"


def _title(phase: Phase) -> str:
    return {
        Phase.BEFORE: "Before training",
        Phase.AFTER: "After training",
        Phase.TRAINING: "Training",
        Phase.SEARCH: "Search",
    }[phase]


# --- failures ----------------------------------------------------------------------


def failures(run: RunRecord) -> Markup | None:
    """What failed on validation items, and why candidates were skipped, by phase."""
    phases = [p for p in _PHASES if run.of(p)]
    if not phases:
        return None
    parts = [_symptoms(run, phases)]
    for title, status in (
        ("Skipped candidates, by reason", CandidateStatus.SKIPPED),
        ("Failed by us, never trained on", CandidateStatus.FAILED),
    ):
        parts.append(_reasons(run, phases, title, status))
    return (
        joined([part for part in parts if part is not None])
        if any(parts)
        else tag("p", "Nothing failed.", class_="note")
    )


def _symptoms(run: RunRecord, phases: Sequence[Phase]) -> Markup | None:
    found = {phase: findings.failures(run.of(phase)) for phase in phases}
    kinds = _kinds([f.counts for f in found.values()])
    if not kinds:
        return None
    rows: list[list[Child]] = [
        [kind, *(_share(found[p].counts[kind], found[p].items) for p in phases)] for kind in kinds
    ]
    head = [f"{_title(p)} ({found[p].workflows:,} workflows, {found[p].items:,} items)" for p in phases]
    note = "Share of validation items of all candidates that ran; of a wrong answer, what its grader could see of it."
    return joined(
        tag("h3", "Failed items, by kind"), table(["Kind", *head], rows, class_="shares"), tag("p", note, class_="note")
    )


def _reasons(run: RunRecord, phases: Sequence[Phase], title: str, status: CandidateStatus) -> Markup | None:
    found = {phase: findings.reasons(run.of(phase), status) for phase in phases}
    kinds = _kinds([f.counts for f in found.values()])
    if not kinds:
        return None
    rows: list[list[Child]] = []
    for kind in kinds:
        example = next(f.examples[kind] for f in found.values() if kind in f.examples)
        name = joined(kind, tag("small", example[:160])) if example != kind else joined(kind)
        rows.append([name, *(_share(found[p].counts[kind], found[p].candidates) for p in phases)])
    totals: list[Child] = ["All", *(_share(sum(found[p].counts.values()), found[p].candidates) for p in phases)]
    head = ["Reason, with an example", *(f"{_title(p)} ({found[p].candidates:,} candidates)" for p in phases)]
    left = len({k for f in found.values() for k in f.counts}) - len(kinds)
    note = tag("p", f"{left} rarer kinds are left out.", class_="note") if left else None
    return joined(tag("h3", title), table(head, [*rows, totals], class_="shares", foot=True), note)


def _kinds(counts: Sequence[collections.Counter[str]]) -> list[str]:
    total: collections.Counter[str] = sum(counts, collections.Counter())
    return sorted(total, key=lambda kind: (-total[kind], kind))[:_MOST_KINDS]


def _share(count: int, of: int) -> Markup:
    share = count / of if of else 0.0
    return joined(bar(share), f"{100 * share:.1f} % ", tag("small", f"{count:,}"))


# --- cost --------------------------------------------------------------------------


def cost(run: RunRecord) -> Markup | None:
    """Calls, tokens and USD by purpose; cache hits, faults, seconds."""
    if run.spending is None and not run.summary:
        return None
    mixed = run.spending is not None and run.spending.mixed
    unit = "simulated USD" if run.simulated and not mixed else "USD"
    lines = _from_ledger(run.spending) if run.spending and run.spending.rows else _from_summary(run.summary)
    head = ["Purpose", "Model", "Calls", "Prompt tokens", "of them cached", "Completion tokens", "Cut for length", unit]
    shown = table(head, [line.cells() for line in lines], class_="numbers", foot=True)
    note = f"{unit[0].upper()}{unit[1:]} is our estimate from list prices."
    return joined(shown, tag("p", note, class_="note"), facts(_also(run)))


class _Line(NamedTuple):
    """A row of the cost table; None where it is not known."""

    purpose: str
    model: str = ""
    calls: int | None = None
    prompt_tokens: int | None = None
    cached_prompt_tokens: int | None = None
    completion_tokens: int | None = None
    length_stops: int | None = None
    usd: float | None = None

    def cells(self) -> list[Child]:
        """As text."""
        counts = [NONE if count is None else f"{count:,}" for count in self[2:7]]
        return [self.purpose.replace("_", "-"), self.model, *counts, NONE if self.usd is None else usd(self.usd)]


def _from_ledger(spending: Spending) -> list[_Line]:
    lines = [
        _Line(
            r.purpose, r.model, r.calls, r.prompt_tokens, r.cached_prompt_tokens, r.completion_tokens,
            r.length_stops, r.usd,
        )
        for r in spending.rows
    ]  # fmt: skip
    if not spending.mixed:
        return [*lines, _total("All", lines)]
    parts = [[n for n, r in enumerate(spending.rows) if bool(r.simulated) is made_up] for made_up in (True, False)]
    totals = [_total(title, [lines[n] for n in part]) for title, part in zip(("Simulated", "Paid"), parts, strict=True)]
    return [*lines, *totals]


def _total(title: str, lines: Sequence[_Line]) -> _Line:
    return _Line(title, "", *(sum(column) for column in list(zip(*lines, strict=True))[2:]))


def _from_summary(summary: Json) -> list[_Line]:
    total = _Line(
        "All",
        calls=summary.get("calls"),
        prompt_tokens=summary.get("prompt_tokens"),
        completion_tokens=summary.get("completion_tokens"),
        usd=summary.get("usd"),
    )
    return [*(_Line(purpose, usd=float(value)) for purpose, value in summary.get("usd_by", {}).items()), total]


def _also(run: RunRecord) -> list[tuple[str, Child]]:
    faults = run.spending.faults if run.spending else run.summary.get("faults", {})
    took = run.spending.seconds if run.spending else run.summary.get("seconds")
    pairs: list[tuple[str, Child]] = []
    if "cache_hits" in run.summary:
        pairs.append(("Replies from the cache (last process)", f"{run.summary['cache_hits']:,}"))
    pairs.append(("Faults", ", ".join(f"{kind} × {count:,}" for kind, count in faults.items()) or "none"))
    if took is not None:
        pairs.append(("Wall clock, all processes", seconds(float(took))))
    return pairs
