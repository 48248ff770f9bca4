"""What a strategy is: given a search so far, it says the next step; the engine takes it.

History → **Strategy.propose** → Step → SearchEngine (samples, evaluates) → **Strategy.judge** → Turn → History

A search is a list of steps, and each is stored as one `Turn`, whose `parents` name the
workflows it was made from: a chain (W4S), an archive that every step reads whole, or a
tree with selection are records of one kind. A strategy keeps nothing to itself: `propose`
and `judge` are functions of the records, so a search that was stopped goes on from its
store as if it had never stopped, and what random choice a strategy makes is keyed by
`History.planned` (`rollout.plan.keyed_choice`). Only `act` may ask the meta-agent: once an
action, or several times where a strategy lets it think again before its action counts.

A new strategy is one module beside `w4s` and one line in `registry`.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

from w4s_jax.mdp import best_tried, choose, history, rewarded
from w4s_jax.prompts import PromptTemplate
from w4s_jax.rollout.plan import PlannedTrajectory
from w4s_jax.search.base import SearchOptions
from w4s_jax.search.task import SearchTask
from w4s_jax.types import Context, DrawKey, Evaluated, Policy, Sample, State, Turn


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """A search so far, as its records say."""

    search_task: SearchTask
    planned: PlannedTrajectory
    """Number and seed of the search."""
    turns: tuple[Turn, ...] = ()
    """Finished ones, in order."""

    @functools.cached_property
    def states(self) -> tuple[State, ...]:
        """The states before each turn and after the last, as the W4S chain has them."""
        return history(self.search_task.start, self.turns)

    @property
    def state(self) -> State:
        """The one that the next step starts from; its best score is that of everything tried."""
        return self.states[-1]

    @functools.cached_property
    def best(self) -> Evaluated:
        """The best by validation of everything tried, seeds included."""
        return best_tried(self.search_task.start, self.turns)

    def after(self, turn: Turn) -> History:
        """The search with one more turn."""
        return dataclasses.replace(self, turns=(*self.turns, turn))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What comes next: so many actions, sampled from one context, made from these workflows."""

    parents: tuple[Evaluated, ...]
    """Workflows that the actions are made from: none, one or several; the first is what they are compared with."""
    context: Context
    num_candidates: int
    fallback: Callable[[], Context] | None = None
    """Opens what is sampled from instead, where the meta-agent refuses `context` for its length; None: then it ends."""

    @property
    def parent_names(self) -> tuple[str, ...]:
        """As `Turn.parents` keeps them."""
        return tuple(parent.workflow.name for parent in self.parents)


class Strategy(Protocol):
    """A way to look for a workflow."""

    name: ClassVar[str]
    """As `--strategy` names it."""

    def propose(self, history: History) -> Step:
        """The next step; equal histories give equal steps.

        Raises:
            InputError: Its prompt does not fit the model.
        """

    async def act(self, step: Step, keys: Sequence[DrawKey]) -> Sequence[Sample]:
        """One action a key.

        Raises:
            InputError: The prompt with its new tokens does not fit the model.
            BudgetExceededError, ExecutorError: As `Policy.sample`.
        """

    def judge(self, history: History, step: Step, turn: Turn) -> Turn:
        """The turn with the rewards of its evaluated candidates, and the chosen one.

        Args:
            history: Before the turn.
            step: That was taken.
            turn: Its record, without rewards and choice.
        """


StrategyFactory = Callable[[Policy, PromptTemplate, SearchOptions], Strategy]


@dataclasses.dataclass(frozen=True)
class OneDrawStrategy(abc.ABC):
    """What strategies share that draw each action once.

    The reward compares a candidate with the best of the search and with the first parent (`mdp.rewarded`); the best
    candidate of the step is chosen.
    """

    name: ClassVar[str]
    policy: Policy
    template: PromptTemplate
    options: SearchOptions

    @abc.abstractmethod
    def propose(self, history: History) -> Step:
        """See `Strategy.propose`."""

    async def act(self, step: Step, keys: Sequence[DrawKey]) -> Sequence[Sample]:
        """See `Strategy.act`."""
        return await self.policy.sample(step.context, keys, self.options.sampling)

    def judge(self, history: History, step: Step, turn: Turn) -> Turn:
        """See `Strategy.judge`."""
        state = dataclasses.replace(history.state, current=(*step.parents, history.state.current)[0])
        return self.judged(turn, state, opened=state)

    def judged(self, turn: Turn, state: State, opened: State) -> Turn:
        """The turn judged against a state and the one that opened its dialogue."""
        candidates = rewarded(turn.candidates, state, opened, self.options.reward)
        return dataclasses.replace(turn, candidates=candidates, chosen=choose(candidates))
