"""The search of W4S: one long trajectory of best-of-m turns.

Problem → **Collector** (fresh dialogue every `turns_in_context` turns) → Turn, … → Found

W4S, arXiv 2504.04785: each turn samples m workflows from the state, the best by
validation advances it. The turns it leaves are trajectories like any others: a
meta-agent can be trained on them.
"""

from __future__ import annotations

from w4s_jax.rollout.collect import Collector, OnTurn, Problem
from w4s_jax.rollout.plan import PlannedTrajectory
from w4s_jax.rollout.rounds import TurnStore
from w4s_jax.search.base import Found, Stop, StopRules
from w4s_jax.types import Turn


class W4SStrategy:
    """Implements `base.Strategy` over a collector.

    Example:
        >>> found = await W4SStrategy(collector).search(problem, planned, store, StopRules(), on_turn)  # doctest: +SKIP
    """

    name = "w4s"

    def __init__(self, collector: Collector) -> None:
        """Takes what collects turns; its `num_turns` has to be the rules'."""
        self._collector = collector

    async def search(
        self, problem: Problem, planned: PlannedTrajectory, store: TurnStore, rules: StopRules, on_turn: OnTurn
    ) -> Found:
        """See `base.Strategy.search`."""
        start = problem.start

        def stored(turn: Turn) -> None:
            store.append(turn)
            on_turn(turn)

        trajectory = await self._collector.collect_trajectory(
            problem,
            planned,
            finished_turns=store.finished_turns(planned.round, planned.index),
            on_turn=stored,
            enough=lambda turns: rules.reached(start, turns) is not None,
        )
        return Found(start, trajectory.turns, rules.reached(start, trajectory.turns) or Stop.TURNS)
