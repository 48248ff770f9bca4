"""The seeded plan of a round: which trajectory works on which task, and its keyed choices.

(seed, round, tasks) → **plan_round** → PlannedTrajectory, … → collect

Everything random that is not sampled by the meta-agent is decided here, as a hash of
what it is for. No generator is advanced, so the order in which trajectories run, the
number of hosts and a resumed run change nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from w4s_jax.types import InputError, TurnKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedTrajectory:
    """One trajectory of the plan.

    Example:
        >>> plan_round(seed=0, round_=1, tasks=["toy"], trajectories=1)[0].name
        'r1-t0'
    """

    seed: int
    round: int
    index: int
    """Number within the round."""
    task: str

    @property
    def name(self) -> str:
        """As the store names it, e.g. `r1-t0`."""
        return TurnKey(self.round, self.index, 0).trajectory_name


def plan_round(*, seed: int, round_: int, tasks: Sequence[str], trajectories: int) -> tuple[PlannedTrajectory, ...]:
    """Deals the tasks out to the trajectories of a round, one after another in a seeded order.

    Every round has an order of its own, so that no task is always dealt the remainder.

    Args:
        seed: Of the run.
        round_: 0 before training, r in round r.
        tasks: Names; their order does not matter.
        trajectories: How many are planned.

    Raises:
        InputError: No task, a task named twice, or no trajectory.
    """
    if not tasks or len(set(tasks)) != len(tasks):
        raise InputError(f"tasks={','.join(tasks)!r} is not allowed; name one task or more, each once")
    if trajectories < 1:
        raise InputError(f"trajectories={trajectories} is not allowed; plan at least 1 a round")
    order = sorted(tasks, key=lambda task: (keyed_number(seed, "task", round_, task), task))
    return tuple(
        PlannedTrajectory(seed=seed, round=round_, index=index, task=order[index % len(order)])
        for index in range(trajectories)
    )


def keyed_number(seed: int, *what: str | int) -> int:
    """A number in [0, 2**63) that depends on the seed and on what it is for, and on nothing else."""
    digest = hashlib.sha256(json.dumps([seed, *what]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def keyed_choice(count: int, seed: int, *what: str | int) -> int:
    """An index in [0, count); see `keyed_number`."""
    if count < 1:
        raise InputError(f"nothing to choose from for {what}; give at least one")
    return keyed_number(seed, *what) % count
