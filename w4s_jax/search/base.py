"""What every search is: a strategy, rules that end it, what it found.

SearchTask → **Strategy.search** → Turn, … → TurnStore; StopRules → **SearchResult**

A strategy spends, sees validation items alone and writes every finished turn into the
store before it goes on, so that a search which was stopped, by a cap or a kill, goes
on as if it had never stopped. A new strategy is one module beside `w4s` and one line
in `experiments/optimize.py`.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from w4s_jax.mdp import best_tried, history
from w4s_jax.rollout.collect import OnTurn, SearchTask
from w4s_jax.rollout.plan import PlannedTrajectory
from w4s_jax.rollout.rounds import TurnStore
from w4s_jax.types import Evaluated, InputError, State, Turn


class SearchEnd(enum.StrEnum):
    """Why a search ended."""

    TURNS = "turns"
    TARGET = "target"
    PLATEAU = "plateau"
    BUDGET = "budget"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StopRules:
    """When a search ends; a cap on spending ends it as well.

    Example:
        >>> StopRules(num_turns=10, patience=3, target=0.9).num_turns
        10
    """

    num_turns: int = 10
    patience: int = 0
    """Turns without a better workflow after which it ends; 0 for never."""
    target: float | None = None
    """Validation score, the mean of the task's metric, that is enough; None for none."""

    def __post_init__(self) -> None:
        if self.num_turns < 1 or self.patience < 0:
            raise InputError(
                f"num_turns={self.num_turns}, patience={self.patience} is not allowed; give at least 1 and 0"
            )
        if self.target is not None and not 0 < self.target <= 1:
            raise InputError(f"target={self.target} is not allowed; give a validation score in (0, 1]")

    def reached(self, start: State, turns: Sequence[Turn]) -> SearchEnd | None:
        """The rule that ends a search after these turns, if one does.

        Args:
            start: s_1, whose seeds count as tried.
            turns: finished ones, in order.
        """
        best = [state.best_score for state in history(start, turns)]
        if self.target is not None and best[-1] >= self.target:
            return SearchEnd.TARGET
        if self.patience and len(turns) >= self.patience and best[-1] == best[-1 - self.patience]:
            return SearchEnd.PLATEAU
        return SearchEnd.TURNS if len(turns) >= self.num_turns else None


class SearchResult(NamedTuple):
    """What a search found, as far as it came."""

    start: State
    turns: tuple[Turn, ...]
    stopped_by: SearchEnd | None
    """None while it goes on."""

    @property
    def best(self) -> Evaluated:
        """The best by validation of all that was tried, seeds included; its score is optimistic."""
        return best_tried(self.start, self.turns)


class Strategy(Protocol):
    """A way to look for a workflow."""

    name: str
    """As `--strategy` names it."""

    async def search(
        self, search_task: SearchTask, planned: PlannedTrajectory, store: TurnStore, rules: StopRules, on_turn: OnTurn
    ) -> SearchResult:
        """Looks until a rule ends it; turns that are stored already are taken from the store.

        Args:
            search_task: The task with its evaluated seeds.
            planned: number and seed of the search.
            store: takes every finished turn at once.
            rules: when to end.
            on_turn: Called with every new turn after it is stored.

        Raises:
            BudgetExceededError: a cap left no room; finished turns are stored.
            InputError: a prompt does not fit the model, or the stored turns are of another search.
            ExecutorError, SandboxError, StoreError: we broke.
        """
