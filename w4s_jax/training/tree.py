"""Token trees: every token of a trajectory once, and their packing into rows of fixed shape.

trajectories.jsonl → Turn → **Tree → PackedBatch** → step

A trajectory is a tree: s_1, then m actions side by side, of which the best goes
on with its feedback into s_2. W4S (arXiv 2504.04785) trains one row per action
and so repeats the prefix m times a turn; here the tree is ONE sequence, trunk
first (s_1, best action, feedback, best action, …), then the side branches from
the last turn back to the first. In that order visibility is an interval,

    key k is visible to query q  ⇔  k ≤ q < expiry[k],

and Σ weight·nll over the targets is exactly the sum of the row-per-action losses
(`build_rows` lays the same actions out as such rows). Tokens behind the last
action that carries loss would be dead weight and are not laid out.

Legend: T tokens of a tree, M targets, A actions, B rows, C capacity of a row.
NumPy only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from w4s_jax.training.weights import WeightRule
from w4s_jax.types import CandidateStatus, InputError, Turn

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

Leaf = Any
"""NumPy on the host, a `jax.Array` on the mesh, a shape where nothing is allocated."""

Tokenise = Callable[[Turn], tuple[Sequence[int], Sequence[Sequence[int]]]]
"""`(prompt_ids, [ids of each candidate])` of a turn that was collected through an API and has no ids."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """One tree as a sequence."""

    tokens: Ints
    """[T] ids as they were sampled."""
    positions: Ints
    """[T] depth along the token's own path, for RoPE."""
    expiry: Ints
    """[T] key k is visible to query q ⇔ k ≤ q < expiry[k]."""
    target_source: Ints
    """[M] index whose hidden state predicts the target."""
    target_token: Ints
    """[M] the predicted id."""
    target_weight: Floats
    """[M] the action's weight over its length."""
    target_share: Floats
    """[M] 1 over the action's length."""
    behaviour_logprob: Floats
    """[M] natural log with which the id was sampled, at temperature 1; NaN where that was not recorded."""
    action_weights: npt.NDArray[np.float64]
    """[A] weight of each counted action; A is what this tree adds to the loss's denominator."""
    row_tokens: int
    """Tokens that one row per action would take."""

    @property
    def num_actions(self) -> int:
        """Counted actions."""
        return len(self.action_weights)

    def __len__(self) -> int:
        """Tokens."""
        return len(self.tokens)


class _Action(NamedTuple):
    ids: tuple[int, ...]
    weight: float | None
    """None: carries no loss, stays only where the trunk needs it."""
    logprobs: tuple[float, ...]
    """Of the ids; empty where the ids are not as they were sampled."""

    def check(self, where: str, needs_behaviour: bool) -> None:
        """Refuses an action that cannot train."""
        if not self.ids:
            raise InputError(f"{where} is ok but has no ids; collect it again")
        if needs_behaviour and not self.has_behaviour():
            raise InputError(
                f"{where} has no log-probabilities of its sampled ids, as a repaired text or one from an API has none, "
                "and the ratio of --loss=grpo needs them; collect with --max_repairs=0 and a local --meta_agent, or "
                "give --loss=rwr"
            )

    def has_behaviour(self) -> bool:
        """Whether every id has the log-probability with which it was sampled."""
        return len(self.logprobs) == len(self.ids) and all(map(math.isfinite, self.logprobs))


class _Step(NamedTuple):
    """A turn as ids and weights."""

    prompt: tuple[int, ...]
    actions: tuple[_Action, ...]
    chosen: int | None
    """Index into `actions`."""

    def trains(self) -> bool:
        return any(a.weight is not None for a in self.actions)

    def through_chosen(self) -> tuple[int, ...] | None:
        return None if self.chosen is None else self.prompt + self.actions[self.chosen].ids


def build_trees(
    turns: Iterable[Turn], rule: WeightRule, tokenise: Tokenise | None = None, *, needs_behaviour: bool = False
) -> list[Tree]:
    """Lays out one trajectory; a turn whose prompt does not extend the one before starts a tree of its own.

    Candidates that were skipped or failed, or that `rule` leaves out, carry no loss and are not laid out
    unless the trunk goes on through them. Turns with nothing to train on give no tree.

    Args:
        turns: The turns of ONE trajectory, in order.
        rule: The weight of each evaluated candidate.
        tokenise: Gives ids to turns that have none.
        needs_behaviour: Whether every action that trains must have the log-probabilities of its sampled ids.

    Raises:
        InputError: A turn has no ids and no `tokenise` is given, an action is empty, a reward is missing, or so are
            the log-probabilities of an action that needs them: its text was repaired, or collected through an API.
    """
    steps = [_step(turn, rule, tokenise, needs_behaviour) for turn in turns]
    return [_lay_out(dialogue) for dialogue in _dialogues(steps)]


def build_rows(turns: Iterable[Turn], rule: WeightRule, tokenise: Tokenise | None = None) -> list[Tree]:
    """The same actions as W4S lays them out, one row (prompt + action) each: the reference of `build_trees`."""
    steps = [_step(turn, rule, tokenise) for turn in turns]
    return [
        _lay_out([_Step(step.prompt, (action,), 0)])
        for step in steps
        for action in step.actions
        if action.weight is not None
    ]


def _dialogues(steps: Sequence[_Step]) -> list[list[_Step]]:
    """Runs of turns that share a trunk, each ending with the last turn that trains."""
    runs: list[list[_Step]] = []
    for step in steps:
        trunk = runs[-1][-1].through_chosen() if runs else None
        if trunk is not None and step.prompt[: len(trunk)] == trunk:
            runs[-1].append(step)
        else:
            runs.append([step])
    for run in runs:
        while run and not run[-1].trains():
            run.pop()
    return [run for run in runs if run]


def _lay_out(steps: Sequence[_Step]) -> Tree:
    last = steps[-1]
    best = None if last.chosen is None else last.actions[last.chosen]
    tokens = list(last.prompt if best is None or best.weight is None else last.prompt + best.ids)
    positions = list(range(len(tokens)))
    expiry = [len(tokens)] * len(tokens)
    targets = _Targets()
    for step in steps:
        if step.chosen is not None:
            start = len(step.prompt)
            targets.add(start - 1, start, step.actions[step.chosen])
    for i in reversed(range(len(steps))):
        step, start = steps[i], len(steps[i].prompt)
        for j, action in enumerate(step.actions):
            if action.weight is None or j == step.chosen:
                continue
            at, end = len(tokens), len(tokens) + len(action.ids)
            targets.add(start - 1, at, action)
            tokens += action.ids
            positions += range(start, start + len(action.ids))
            expiry += [end] * len(action.ids)
        # What the prompt adds to the trunk is seen by this turn's branches and by those of later turns.
        shared = len(steps[i - 1].prompt) if i else 0
        expiry[shared:start] = [len(tokens)] * (start - shared)
    rows = (len(step.prompt) + len(a.ids) for step in steps for a in step.actions if a.weight is not None)
    return Tree(
        tokens=np.array(tokens, np.int32),
        positions=np.array(positions, np.int32),
        expiry=np.array(expiry, np.int32),
        target_source=np.array(targets.source, np.int32),
        target_token=np.array(targets.token, np.int32),
        target_weight=np.array(targets.weight, np.float32),
        target_share=np.array(targets.share, np.float32),
        behaviour_logprob=np.array(targets.logprob, np.float32),
        action_weights=np.array(targets.action_weights, np.float64),
        row_tokens=sum(rows),
    )


class _Targets:
    """Collects the targets of a tree, action by action."""

    def __init__(self) -> None:
        self.source: list[int] = []
        self.token: list[int] = []
        self.weight: list[float] = []
        self.share: list[float] = []
        self.logprob: list[float] = []
        self.action_weights: list[float] = []

    def add(self, parent: int, at: int, action: _Action) -> None:
        """Adds an action laid out at `at`; its first token is predicted from `parent`."""
        if action.weight is None:
            return
        self.source += [parent, *range(at, at + len(action.ids) - 1)]
        self.token += action.ids
        self.weight += [action.weight / len(action.ids)] * len(action.ids)
        self.share += [1 / len(action.ids)] * len(action.ids)
        self.logprob += action.logprobs if action.has_behaviour() else [math.nan] * len(action.ids)
        self.action_weights.append(action.weight)


def _step(turn: Turn, rule: WeightRule, tokenise: Tokenise | None, needs_behaviour: bool = False) -> _Step:
    where = f"trajectory {turn.trajectory} of round {turn.round}, turn {turn.turn}"
    prompt, ids = turn.prompt_ids, tuple(c.ids for c in turn.candidates)
    logprobs = tuple(c.logprobs for c in turn.candidates)
    if not prompt and tokenise is not None:
        given, written = tokenise(turn)
        prompt, ids = tuple(given), tuple(tuple(a) for a in written)
        logprobs = ((),) * len(ids)  # what was recorded is of tokens of another model
    if not prompt:
        raise InputError(f"{where} has no prompt_ids (collected through an API?); pass a tokenise function")
    if len(ids) != len(turn.candidates):
        raise InputError(f"{where}: tokenise gave {len(ids)} actions for {len(turn.candidates)} candidates")
    weights = [rule(turn, c) if c.status is CandidateStatus.OK else None for c in turn.candidates]
    actions = tuple(map(_Action, ids, weights, logprobs))
    for candidate, action in zip(turn.candidates, actions, strict=True):
        if action.weight is not None:
            action.check(f"{where}, candidate {candidate.index}", needs_behaviour)
    chosen = next((i for i, c in enumerate(turn.candidates) if c.index == turn.chosen), None)
    return _Step(prompt, actions, chosen)


# --- packing ------------------------------------------------------------------


class PackedBatch(NamedTuple):
    """Trees packed into rows of a fixed shape; a pytree of arrays.

    Padding expires at once: it sees nothing and is seen by nothing, and its targets weigh 0.
    """

    tokens: Leaf
    """int32 [B, C]"""
    positions: Leaf
    """int32 [B, C]"""
    expiry: Leaf
    """int32 [B, C] within the row; 0 for padding."""
    target_source: Leaf
    """int32 [B, C] index into the row; the row's targets come first."""
    target_token: Leaf
    """int32 [B, C]"""
    target_weight: Leaf
    """float32 [B, C]; 0 where there is no target."""
    target_share: Leaf
    """float32 [B, C] 1 over the length of the target's action; 0 where there is no target."""
    behaviour_logprob: Leaf
    """float32 [B, C] at temperature 1; NaN where it was not recorded, 0 where there is no target."""


class Packer:
    """Packs trees in the order in which they come: first fit among the rows of the open batch.

    A batch is closed by the first tree that fits none of its rows, so that its content is a function
    of the trees and their order alone, and training can start while later trajectories still run.

    Example:
        >>> packer = Packer(capacity=8, rows_per_batch=1)
        >>> packer.finish() is None
        True
    """

    def __init__(self, capacity: int, rows_per_batch: int):
        """Rows of `capacity` tokens, `rows_per_batch` of them in every batch."""
        if capacity < 1 or rows_per_batch < 1:
            raise InputError(f"capacity={capacity} and rows_per_batch={rows_per_batch} must both be at least 1")
        self._capacity = capacity
        self._rows: list[list[Tree]] = [[] for _ in range(rows_per_batch)]

    def add(self, tree: Tree) -> PackedBatch | None:
        """Takes a tree; returns the batch that it closed, if it closed one.

        Raises:
            InputError: The tree is longer than a row; it is never cut.
        """
        if len(tree) > self._capacity:
            raise InputError(
                f"a token tree of {len(tree)} tokens does not fit row_length={self._capacity}; "
                f"raise --row_length to at least {len(tree)}"
            )
        row = self._first_fit(tree)
        if row is not None:
            row.append(tree)
            return None
        batch = self.finish()
        self._rows[0].append(tree)
        return batch

    def finish(self) -> PackedBatch | None:
        """Closes the open batch; None where it is empty."""
        if not any(self._rows):
            return None
        columns = zip(*(_fill(row, self._capacity) for row in self._rows), strict=True)
        self._rows = [[] for _ in self._rows]
        return PackedBatch(*(np.stack(column) for column in columns))

    def _first_fit(self, tree: Tree) -> list[Tree] | None:
        return next((row for row in self._rows if sum(map(len, row)) + len(tree) <= self._capacity), None)


def pack(trees: Iterable[Tree], capacity: int, rows_per_batch: int) -> list[PackedBatch]:
    """Packs trees into batches of shape [rows_per_batch, capacity], in planned order.

    Their denominator is `sum(tree.num_actions for tree in trees)`.

    Raises:
        InputError: A tree is longer than `capacity`.
    """
    packer = Packer(capacity, rows_per_batch)
    batches = [packer.add(tree) for tree in trees]
    return [batch for batch in (*batches, packer.finish()) if batch is not None]


def _fill(trees: Sequence[Tree], capacity: int) -> PackedBatch:
    """One row [C]."""
    row = PackedBatch(
        tokens=np.zeros(capacity, np.int32),
        positions=np.zeros(capacity, np.int32),
        expiry=np.zeros(capacity, np.int32),
        target_source=np.zeros(capacity, np.int32),
        target_token=np.zeros(capacity, np.int32),
        target_weight=np.zeros(capacity, np.float32),
        target_share=np.zeros(capacity, np.float32),
        behaviour_logprob=np.zeros(capacity, np.float32),
    )
    at = target = 0
    for tree in trees:
        here, there = slice(at, at + len(tree)), slice(target, target + len(tree.target_token))
        row.tokens[here], row.positions[here], row.expiry[here] = tree.tokens, tree.positions, tree.expiry + at
        row.target_source[there] = tree.target_source + at
        row.target_token[there], row.target_weight[there] = tree.target_token, tree.target_weight
        row.target_share[there], row.behaviour_logprob[there] = tree.target_share, tree.behaviour_logprob
        at, target = here.stop, there.stop
    return row
