"""The search of W4S: one long trajectory of best-of-m turns.

SearchTask → **Collector** (fresh dialogue every `turns_in_context` turns) → Turn, … → SearchResult

W4S, arXiv 2504.04785: each turn samples m workflows from the state, the best by
validation advances it. The turns it leaves are trajectories like any others: a
meta-agent can be trained on them.
"""

from __future__ import annotations

from w4s_jax.rollout.collect import Collector, OnTurn, SearchTask
from w4s_jax.rollout.plan import PlannedTrajectory
from w4s_jax.rollout.rounds import TurnStore
from w4s_jax.search.base import SearchEnd, SearchResult, StopRules
from w4s_jax.types import Turn


class W4SStrategy:
    """Implements `base.Strategy` over a collector.

    Example:
        >>> strategy = W4SStrategy(collector)  # doctest: +SKIP
        >>> result = await strategy.search(search_task, planned, store, StopRules(), on_turn)  # doctest: +SKIP
    """

    name = "w4s"

    def __init__(self, collector: Collector) -> None:
        """Takes what collects turns; its `num_turns` has to be the rules'."""
        self._collector = collector

    async def search(
        self, search_task: SearchTask, planned: PlannedTrajectory, store: TurnStore, rules: StopRules, on_turn: OnTurn
    ) -> SearchResult:
        """See `base.Strategy.search`."""
        start = search_task.start

        def stored(turn: Turn) -> None:
            store.append(turn)
            on_turn(turn)

        trajectory = await self._collector.collect_trajectory(
            search_task,
            planned,
            finished_turns=store.finished_turns(planned.round, planned.index),
            on_turn=stored,
            enough=lambda turns: rules.reached(start, turns) is not None,
        )
        return SearchResult(start, trajectory.turns, rules.reached(start, trajectory.turns) or SearchEnd.TURNS)
