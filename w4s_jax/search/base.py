"""What every search is given and what it leaves: options, rules that end it, its result.

SearchOptions, StopRules → SearchEngine → Turn, … → **SearchResult**
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple

from w4s_jax.mdp import RewardConfig, best_tried, history
from w4s_jax.types import BudgetExceededError, Evaluated, InputError, SamplingOptions, State, Turn

OnTurn = Callable[[Turn], None]
"""Called with every finished turn at once; what it raises ends the search."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How a search takes its turns; all but `retries` decide results.

    Example:
        >>> SearchOptions(num_turns=10).turns_in_context
        2
    """

    num_candidates: int = 5
    """m: actions sampled a turn."""
    num_turns: int = 2
    """Turns of a search where no other rule ends it; 10 is usual when optimising."""
    turns_in_context: int = 2
    """Turns of a dialogue before a fresh one opens from the current state, where a strategy has dialogues."""
    max_repairs: int = 3
    max_cases: int = 10
    """Most cases that feedback shows."""
    sampling: SamplingOptions = dataclasses.field(default_factory=SamplingOptions)
    reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)
    retries: int = 1
    """How often a candidate is begun again after a failure of ours."""

    def __post_init__(self) -> None:
        for name, least in (("num_candidates", 1), ("num_turns", 1), ("turns_in_context", 1), ("max_repairs", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)} is not allowed; give at least {least}")


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
            turns: Finished ones, in order.
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
    exceeded: BudgetExceededError | None = None
    """The cap that ended it, where one did; the same search goes on with a higher one."""

    @property
    def best(self) -> Evaluated:
        """The best by validation of all that was tried, seeds included; its score is optimistic."""
        return best_tried(self.start, self.turns)
