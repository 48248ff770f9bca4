"""Many trajectories at once, handed on in planned order.

plan → **collect_round** (in flight: some) → store (each turn at once); → Trajectory, in planned order → trainer

Finished trajectories are yielded while later ones still run. The first failure stops
the round: what is in flight is finished and stored, what comes before the failed one
in the plan is yielded, then the failure is raised. Running the same plan again goes on
from the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence

from w4s_jax.rollout.plan import PlannedTrajectory
from w4s_jax.rollout.store import TurnStore
from w4s_jax.search.base import OnTurn
from w4s_jax.search.engine import SearchEngine
from w4s_jax.search.task import SearchTask
from w4s_jax.types import BudgetExceededError, InputError, Trajectory, Turn

_LOG = logging.getLogger(__name__)


async def collect_round(
    engine: SearchEngine,
    plan: Sequence[PlannedTrajectory],
    search_tasks: Mapping[str, SearchTask],
    store: TurnStore,
    *,
    in_flight: int,
    on_turn: OnTurn | None = None,
) -> AsyncGenerator[Trajectory]:
    """Collects the trajectories of a plan, or this host's share of it.

    A cancellation, and closing the iterator early, cancel what is in flight; finished
    turns are in the store. Close it (`contextlib.aclosing`) where a loop may be left early.

    Args:
        engine: Collects one trajectory.
        plan: In the order to yield.
        search_tasks: By the name of the task.
        store: Takes every finished turn at once, and gives those of an earlier run.
        in_flight: Most trajectories at a time; decides no result.
        on_turn: Called with every new turn after it is stored.

    Yields:
        Finished trajectories, in planned order.

    Raises:
        InputError: A planned task was not opened.
        BudgetExceededError: A cap left no room; the same plan goes on later.
        ExecutorError, SandboxError, StoreError: We broke.
    """
    unknown = [planned.task for planned in plan if planned.task not in search_tasks]
    if unknown:
        raise InputError(f"task {unknown[0]!r} of the plan was not opened; open {', '.join(sorted(set(unknown)))}")
    supervisor = _Supervisor(engine, search_tasks, store, in_flight, on_turn)
    tasks = [asyncio.create_task(supervisor.run(planned), name=planned.name) for planned in plan]
    try:
        for task in tasks:
            await asyncio.wait([task])
            if supervisor.failure is not None and (task.cancelled() or task.exception() is not None):
                await asyncio.gather(*tasks, return_exceptions=True)
                raise supervisor.failure
            yield task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Supervisor:
    """Runs trajectories and remembers the first failure, after which none is started."""

    def __init__(
        self,
        engine: SearchEngine,
        search_tasks: Mapping[str, SearchTask],
        store: TurnStore,
        in_flight: int,
        on_turn: OnTurn | None,
    ) -> None:
        if in_flight < 1:
            raise InputError(f"in_flight={in_flight} is not allowed; give at least 1")
        self._engine = engine
        self._search_tasks = search_tasks
        self._store = store
        self._on_turn = on_turn
        self._slots = asyncio.Semaphore(in_flight)  # first come, first served: the plan's order
        self.failure: Exception | None = None

    async def run(self, planned: PlannedTrajectory) -> Trajectory:
        """Collects one trajectory; this is the border that records any failure and raises it again."""
        async with self._slots:
            if self.failure is not None:
                raise self.failure
            try:
                return await self._engine.collect_trajectory(
                    self._search_tasks[planned.task],
                    planned,
                    finished_turns=self._store.finished_turns(planned.round, planned.index),
                    on_turn=self._finished,
                )
            except Exception as error:
                level = logging.INFO if isinstance(error, BudgetExceededError) else logging.ERROR
                _LOG.log(
                    level, "%s on task %s stopped: %s: %s", planned.name, planned.task, type(error).__name__, error
                )
                if self.failure is None:
                    self.failure = error
                raise

    def _finished(self, turn: Turn) -> None:
        self._store.append(turn)
        if self._on_turn is not None:
            self._on_turn(turn)
