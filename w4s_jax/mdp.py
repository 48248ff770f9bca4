"""The Markov decision process of workflow design: reward, best-of-m choice, next state.

seeds → State → candidates with scores → rewards → choose → Turn → next_state → State

Pure functions over the records of `types.py`: no clock, no generator, no I/O. What
a state is can therefore always be replayed from the records of its turns (`history`).

W4S, arXiv 2504.04785, section 3. Two definitions of the reward are in use and both
are here by name: the paper's, which compares with the whole search, and that of the
released code, which fixes the best at the start of a dialogue and takes a little off
for low scores. Departure from the released code: a candidate is never compared
with its siblings, and no low candidate is dropped.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Sequence

from w4s_jax.types import Candidate, CandidateStatus, Evaluated, Feedback, InputError, State, Turn, Workflow


class RewardKind(enum.StrEnum):
    """What a candidate's score is compared with."""

    PAPER = "paper"
    REPO = "repo"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Values of the reward; the last two are used by `repo` alone.

    Example:
        >>> reward(0.5, best=0.4, current=0.3, config=RewardConfig())
        1.0
    """

    kind: RewardKind = RewardKind.PAPER
    best: float = 1.0
    """For a score above the best."""
    improved: float = 0.5
    """For one that is only above the current workflow's."""
    otherwise: float = 0.0
    """For any other; a tie is not an improvement."""
    low_penalty: float = -0.1
    """Added below `low_threshold`."""
    low_threshold: float = 0.3
    """A score, in [0, 1]."""


def reward(score: float, *, best: float, current: float, config: RewardConfig) -> float:
    """The reward of one score.

    Args:
        score: Validation score of the candidate, in [0, 1].
        best: The best score that it has to pass; see `best_to_pass`.
        current: Score of the current workflow.
        config: The definition and its values.
    """
    if score > best:
        value = config.best
    elif score > current:
        value = config.improved
    else:
        value = config.otherwise
    if config.kind is RewardKind.REPO and score < config.low_threshold:
        value += config.low_penalty
    return value


def best_to_pass(state: State, opened: State, kind: RewardKind) -> float:
    """The score that earns the full reward when it is passed.

    Args:
        state: The state the candidates were sampled from.
        opened: The state that opened its dialogue; `state` itself on a dialogue's first turn.
        kind: `paper`: best of all history, siblings excluded. `repo`: max over the seeds and
            the workflow that was current when the dialogue was opened.
    """
    if kind is RewardKind.PAPER:
        return state.best_score
    return max(opened.current.feedback.score, _best(opened.seeds))


def rewarded(
    candidates: Iterable[Candidate], state: State, opened: State, config: RewardConfig
) -> tuple[Candidate, ...]:
    """The candidates with their rewards; skipped and failed ones have none."""
    best = best_to_pass(state, opened, config.kind)
    current = state.current.feedback.score
    return tuple(
        dataclasses.replace(c, reward=reward(c.score, best=best, current=current, config=config))
        if c.status is CandidateStatus.OK and c.score is not None
        else dataclasses.replace(c, reward=None)
        for c in candidates
    )


def choose(candidates: Iterable[Candidate]) -> int | None:
    """Index of the candidate that advances the state; None where none survived.

    The best validation score; equal ones: the cheaper in USD an item, then the lower index.
    """
    survivors = [c for c in candidates if c.status is CandidateStatus.OK]
    if not survivors:
        return None
    return min(survivors, key=lambda c: (-_feedback(c).score, _feedback(c).usd_per_item, c.index)).index


def initial_state(task: str, description: str, seeds: Sequence[Evaluated]) -> State:
    """The state a search starts from: the first seed workflow is the current one.

    Raises:
        InputError: There is no seed workflow.
    """
    if not seeds:
        raise InputError(f"task {task!r} has no seed workflow; a search needs at least one to start from")
    return State(
        task=task, description=description, seeds=tuple(seeds), current=seeds[0], best_score=_best(seeds), turn=0
    )


def next_state(state: State, turn: Turn) -> State:
    """The state after a turn: its chosen workflow is current, all its survivors are history.

    The chosen one advances even where it is worse than the current one; where all
    were skipped, `current` stays.
    """
    survivors = [c for c in turn.candidates if c.status is CandidateStatus.OK]
    current, before = state.current, state.score_before
    if turn.chosen is not None:
        before = current.feedback.score
        chosen = turn.candidates[turn.chosen]
        current = evaluated(turn, chosen)
    best = max([state.best_score, *(_feedback(c).score for c in survivors)])
    return dataclasses.replace(
        state,
        current=current,
        best_score=best,
        turn=turn.turn + 1,
        score_before=before,
    )


def history(start: State, turns: Iterable[Turn]) -> tuple[State, ...]:
    """The states before each turn and after the last: one more than there are turns."""
    states = [start]
    for turn in turns:
        states.append(next_state(states[-1], turn))
    return tuple(states)


def evaluated(turn: Turn, candidate: Candidate) -> Evaluated:
    """A candidate of a turn as a workflow with its feedback.

    Raises:
        InputError: It was not evaluated.
    """
    name = turn.key.of_candidate(candidate.index).name
    return Evaluated(workflow=Workflow(name=name, code=candidate.code), feedback=_feedback(candidate))


def _best(tried: Iterable[Evaluated]) -> float:
    return max(e.feedback.score for e in tried)


def _feedback(candidate: Candidate) -> Feedback:
    if candidate.feedback is None:
        raise InputError(f"candidate {candidate.index} has status 'ok' but no feedback; only evaluated ones are ok")
    return candidate.feedback


def best_tried(start: State, turns: Iterable[Turn]) -> Evaluated:
    """The best by validation score of everything tried, seeds included: what a search gives its user.

    Being the maximum of many, its validation score is optimistic.
    """
    return all_tried(start, turns)[0]


def all_tried(start: State, turns: Iterable[Turn]) -> list[Evaluated]:
    """Everything tried, seeds included, the best by validation score first.

    Equal ones: the cheaper in USD an item, then the earlier.
    """
    tried = list(start.seeds)
    for turn in turns:
        for candidate in turn.candidates:
            if candidate.status is CandidateStatus.OK:
                tried.append(evaluated(turn, candidate))
    return sorted(tried, key=lambda e: (-e.feedback.score, e.feedback.usd_per_item))
