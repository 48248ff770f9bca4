"""Every search, turn by turn: its candidates, the chosen one, their code and what they changed.

trajectories → **rows, and as many listings as the page has room for** → page

A row a candidate is always shown (of training rounds: of the first few planned
trajectories); listings are handed out by weight, the chosen ones of the searches
after training first, until the page's bytes are spent. What is left out is counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from w4s_jax.reports.findings import running
from w4s_jax.reports.listing import bounded, chain_parents, code_block, diff_block, parents_of, started_from
from w4s_jax.reports.markup import Child, Markup, joined, tag
from w4s_jax.reports.plots import PathTurn, bar, legend_of, path
from w4s_jax.reports.record import Phase, RunRecord
from w4s_jax.reports.tables import NONE, counted, folded, usd
from w4s_jax.types import Candidate, CandidateStatus, Trajectory, Turn, TurnKey

MOST_TRAINING = 24
"""Trajectories of training rounds on a page."""
_ROWS_SHARE = 0.5
"""Of the section's bytes that rows may take; listings get the rest."""
_LEAST_LISTING = 1_500
"""Bytes below which no further listing is tried."""
_LONGEST_ANALYSIS = 2_000
_LONGEST_REASON = 240
_BROKEN_CAUSE = 4_000
_TITLES = {
    Phase.AFTER: "After training",
    Phase.BEFORE: "Before training",
    Phase.SEARCH: "Searches",
    Phase.TRAINING: "Training rounds",
}


class _Shown(NamedTuple):
    """Trajectories of a phase that are on the page, of how many."""

    phase: Phase
    trajectories: Sequence[Trajectory]
    total: int


def trees(run: RunRecord, most_bytes: int) -> Markup | None:
    """The section's content, at most about `most_bytes` long; None where nothing was collected."""
    if not run.trajectories:
        return None
    groups = [
        _Shown(p, _spread(run.of(p), MOST_TRAINING if p is Phase.TRAINING else None), len(run.of(p))) for p in _TITLES
    ]
    groups = _fitting(run, groups, int(most_bytes * _ROWS_SHARE))
    bare = [_group(run, group, {}) for group in groups if group.total]
    listings = _listings(groups, most_bytes - sum(len(g.encode()) for g in bare))
    sections = [_group(run, group, listings) for group in groups if group.total]
    return joined(_left_out(groups, len(listings)), _legend(), sections)


# --- what is shown -------------------------------------------------------------


def _spread(trajectories: Sequence[Trajectory], most: int | None) -> Sequence[Trajectory]:
    """The first planned of every round, as many of each as `most` allows; rounds are skipped evenly if they must be."""
    if most is None or len(trajectories) <= most:
        return trajectories
    rounds = [list(group) for _, group in itertools.groupby(trajectories, key=lambda t: t.round)]
    if len(rounds) > most:
        rounds = [rounds[i * len(rounds) // most] for i in range(most)]
    return [t for group in rounds for t in group[: max(1, most // len(rounds))]]


def _fitting(run: RunRecord, groups: Sequence[_Shown], most_bytes: int) -> list[_Shown]:
    """The same groups, cut where their bare rows would pass the bytes."""
    kept = []
    for group in groups:
        fitting = []
        for trajectory in group.trajectories:
            most_bytes -= len(_search(run, trajectory, {}).encode())
            if most_bytes < 0:
                break
            fitting.append(trajectory)
        kept.append(group._replace(trajectories=fitting))
    return kept


def _listings(groups: Iterable[_Shown], most_bytes: int) -> dict[TurnKey, Markup]:
    """Listings by candidate, the weightier first, while there is room."""
    places = [
        ((group.phase is Phase.TRAINING, not _is_chosen(turn, candidate), order), trajectory, turn, candidate)
        for order, group in enumerate(groups)
        for trajectory in group.trajectories
        for turn in trajectory.turns
        for candidate in turn.candidates
    ]
    found: dict[TurnKey, Markup] = {}
    for _, trajectory, turn, candidate in sorted(places, key=lambda place: place[0]):
        if most_bytes < _LEAST_LISTING:
            break
        listing = _listing(trajectory, turn, candidate)
        size = len(listing.encode())
        if size <= most_bytes:
            found[turn.key.of_candidate(candidate.index)] = listing
            most_bytes -= size
    return found


def _left_out(groups: Sequence[_Shown], listings: int) -> Markup:
    rows = sum(len(turn.candidates) for g in groups for t in g.trajectories for turn in t.turns)
    sentences = []
    for group in groups:
        if len(group.trajectories) < group.total:
            name = "training trajectories" if group.phase is Phase.TRAINING else f"searches {group.phase}"
            sentences.append(f"{len(group.trajectories)} of {group.total} {name} are shown. ")
    if listings < rows:
        sentences.append(f"The code of {listings:,} of {rows:,} candidates is shown, to bound the size of the page. ")
    if sentences:
        sentences.append("Everything is in trajectories.jsonl. ")
    return tag(
        "p", sentences, "Turns and candidates are numbered from 0, as in trajectories.jsonl. ",
        "Scores are on validation items; a chosen one is the maximum of several and optimistic. ",
        "Open a candidate for its code and what it changed.", class_="note",
    )  # fmt: skip


def _legend() -> Markup:
    entries = (("on", "chosen"), ("off", "ran, not chosen"), ("cross", "did not run"), ("seed", "best seed workflow"))
    return legend_of(entries)


# --- one search -----------------------------------------------------------------


def _group(run: RunRecord, group: _Shown, listings: dict[TurnKey, Markup]) -> Markup:
    searches = [
        _search(run, t, listings, open_=not n and group.phase is Phase.AFTER) for n, t in enumerate(group.trajectories)
    ]
    return joined(tag("h3", _TITLES[group.phase]), searches)


def _search(run: RunRecord, search: Trajectory, listings: dict[TurnKey, Markup], *, open_: bool = False) -> Markup:
    seed = run.seed_score(search.task)
    ran = [c.score or 0.0 for turn in search.turns for c in running(turn.candidates)]
    everything = sum(len(turn.candidates) for turn in search.turns)
    cost = sum(c.usd for turn in search.turns for c in turn.candidates)
    title = joined(
        tag("b", search.task),
        tag("span", f"r{search.round}-t{search.index}", class_="id"),
        tag("span", f"best {max(ran):.3f}" if ran else "nothing ran"),
        tag(
            "span",
            f"{counted(len(search.turns), 'turn')}, {len(ran)} of {everything} ran, {usd(cost)} USD",
            class_="quiet",
        ),
    )
    drawing = tag("figure", path([_path_turn(search.turns, number) for number in range(len(search.turns))], seed))
    turns = [_turn(search, turn, listings) for turn in search.turns]
    return folded(title, drawing, turns, class_="search", open_=open_)


def _path_turn(turns: Sequence[Turn], number: int) -> PathTurn:
    turn = turns[number]
    scores = [c.score if c.status is CandidateStatus.OK else None for c in turn.candidates]
    return PathTurn(scores, turn.chosen, _candidates_named(parents_of(turns, number)))


def _candidates_named(names: Sequence[str]) -> list[tuple[int, int]]:
    """Turn and candidate of each name that is one of a candidate."""
    keys = [key for name in names if (key := TurnKey.parse(name)) is not None]
    return [(key.turn, key.candidate) for key in keys if key.candidate is not None]


def _origin(turns: Sequence[Turn], number: int) -> str:
    """What a turn was made from, where that is not what W4S's chain would have been made from."""
    parents = parents_of(turns, number)
    if _candidates_named(parents) == _candidates_named(chain_parents(turns, number)):
        return ""
    return f", made from {', '.join(parents) or 'nothing'}"


def _turn(search: Trajectory, turn: Turn, listings: dict[TurnKey, Markup]) -> Markup:
    end = "" if turn.chosen is not None else ", all skipped: the current workflow stays"
    rows = [
        _candidate(turn, candidate, listings.get(turn.key.of_candidate(candidate.index)))
        for candidate in turn.candidates
    ]
    return joined(tag("h4", f"Turn {turn.turn}{_origin(search.turns, turn.turn)}{end}"), rows)


def _candidate(turn: Turn, candidate: Candidate, listing: Markup | None) -> Markup:
    chosen = _is_chosen(turn, candidate)
    name = tag("span", tag("i", class_=_mark(candidate, chosen)), f"c{candidate.index}", class_="who")
    title = joined(name, _verdict(candidate, chosen))
    if listing is None:
        return tag("div", title, class_="candidate bare")
    return folded(title, listing, class_="candidate")


def _verdict(candidate: Candidate, chosen: bool) -> Markup:
    tail = tag("span", f"{counted(candidate.repairs, 'repair')} · {usd(candidate.usd)} USD", class_="quiet")
    if candidate.status is not CandidateStatus.OK:
        fault = "failed by us" if candidate.status is CandidateStatus.FAILED else "skipped"
        reason = _cut(" ".join(candidate.reason.split()) or "no reason given", _LONGEST_REASON)
        return joined(tag("span", tag("b", fault), f" {reason}", class_="reason"), tail)
    score = candidate.score or 0.0
    return joined(
        tag("span", bar(score), f"{score:.3f}", class_="score"),
        tag("span", f"reward {NONE if candidate.reward is None else f'{candidate.reward:g}'}", class_="reward"),
        tag("span", "chosen" if chosen else "", class_="choice"),
        tail,
    )


def _listing(search: Trajectory, turn: Turn, candidate: Candidate) -> Markup:
    """What a candidate said, its change against the workflow it started from, and its code."""
    before = started_from(search.turns, turn.turn)
    before_name = next(iter(parents_of(search.turns, turn.turn)), "seed")
    name = turn.key.of_candidate(candidate.index).name
    content: list[Child] = []
    if candidate.feedback is not None and candidate.feedback.symptoms:
        counts = ", ".join(f"{kind} × {n}" for kind, n in candidate.feedback.symptoms.items())
        content.append(tag("p", f"Failures on {candidate.feedback.n} validation items: {_cut(counts, 400)}"))
    if len(candidate.reason) > _LONGEST_REASON:
        content.append(tag("pre", _cut(candidate.reason, _BROKEN_CAUSE)))
    if not candidate.code:
        content += [
            tag("h5", "What it wrote, with no workflow in it"),
            tag("pre", _cut(candidate.text, _LONGEST_ANALYSIS)),
        ]
        return tag("div", content, class_="listing")
    analysis = candidate.text.partition("```")[0].strip()
    if analysis:
        content.append(tag("blockquote", _cut(analysis, _LONGEST_ANALYSIS)))
    content += [tag("h5", f"Change from {before_name}"), diff_block(before, candidate.code, before_name, name)]
    content += [folded(f"Whole code of {name}", code_block(candidate.code), class_="code")]
    return tag("div", content, class_="listing")


def _cut(text: str, most: int) -> str:
    shown, left_out = bounded(text, most)
    return f"{shown} … ({left_out:,} more characters)" if left_out else shown


def _mark(candidate: Candidate, chosen: bool) -> str:
    if candidate.status is not CandidateStatus.OK:
        return "cross"
    return "on" if chosen else "off"


def _is_chosen(turn: Turn, candidate: Candidate) -> bool:
    return candidate.index == turn.chosen
