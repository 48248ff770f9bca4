"""Which actions train, and with what weight: the one difference between RLAO and its ablations.

Turn, Candidate → **weight or absent** → tree

RLAO (arXiv 2504.04785) weighs every evaluated action by exp(r/τ); the supervised
ablations clone the best action, or all that earned a reward; GRPO's baseline
weighs by the advantage over the siblings, which may be negative. A rule is a small frozen
object, so that one tree and one step serve them all. Skipped and failed candidates
have no weight under any rule: no loss is on them, and they count in no mean.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from w4s_jax.types import Candidate, CandidateStatus, InputError, Turn


class WeightName(enum.StrEnum):
    """Names of the rules."""

    RWR = "rwr"
    BEST = "best"
    POSITIVE = "positive"
    GROUP = "group"


class WeightRule(Protocol):
    """Gives an evaluated candidate its weight, or None: not trained on and not counted."""

    def __call__(self, turn: Turn, candidate: Candidate) -> float | None:
        """The weight of the mean NLL of `candidate`, one of `turn.candidates` with status `ok`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardWeighted:
    """RLAO's reward-weighted regression: exp(r/τ) for every evaluated action (arXiv 2504.04785).

    Example:
        >>> [round(math.exp(r / RewardWeighted().tau), 2) for r in (1, 0.5, 0, -0.1)]
        [12.18, 3.49, 1.0, 0.78]
    """

    tau: float = 0.4

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise InputError(f"tau={self.tau} must be positive; the paper's is --tau=0.4")

    def __call__(self, turn: Turn, candidate: Candidate) -> float:
        """See `WeightRule`."""
        reward = _reward(turn, candidate)
        if reward / self.tau > 80.0:  # exp(88.7) is the end of float32, in which the step works
            raise InputError(f"tau={self.tau} makes exp({reward}/tau) overflow float32; raise --tau")
        return math.exp(reward / self.tau)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BestAction:
    """The SFT ablation: weight 1 for the action that advanced the state, the others absent."""

    def __call__(self, turn: Turn, candidate: Candidate) -> float | None:
        """See `WeightRule`."""
        return 1.0 if candidate.index == turn.chosen else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositiveReward:
    """The cloning ablation: weight 1 for every action that earned a reward above 0, the others absent."""

    def __call__(self, turn: Turn, candidate: Candidate) -> float | None:
        """See `WeightRule`."""
        return 1.0 if _reward(turn, candidate) > 0 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupAdvantage:
    """GRPO's advantage (arXiv 2402.03300): (r − mean)/(std + ε) among a turn's evaluated candidates.

    An action that earned less than its siblings has a negative weight. A candidate that was skipped or failed is not
    one of them: it earned no reward that could be compared.
    """

    epsilon: float = 1e-4
    """Keeps a group of nearly equal rewards from weighing without bound."""

    def __call__(self, turn: Turn, candidate: Candidate) -> float:
        """See `WeightRule`; 0 where all siblings earned the same."""
        group = [_reward(turn, c) for c in turn.candidates if c.status is CandidateStatus.OK]
        return float((_reward(turn, candidate) - np.mean(group)) / (np.std(group) + self.epsilon))


def make_weights(name: str, *, tau: float = RewardWeighted.tau) -> WeightRule:
    """The rule of a name.

    Args:
        name: A `WeightName`: `rwr` is RLAO's, `best` and `positive` are its ablations, `group` is GRPO's advantage.
        tau: Temperature of `rwr`; the others have none.

    Raises:
        InputError: An unknown name, or a temperature that cannot weigh.
    """
    match name:
        case WeightName.RWR:
            return RewardWeighted(tau=tau)
        case WeightName.BEST:
            return BestAction()
        case WeightName.POSITIVE:
            return PositiveReward()
        case WeightName.GROUP:
            return GroupAdvantage()
    raise InputError(f"weights={name!r} is unknown; choose one of {', '.join(WeightName)}")


def effective_sample_size(weights: npt.ArrayLike) -> float:
    """Kish's (Σ|w|)²/Σw²: the number of equally weighted actions that `weights` [A] are worth; 0.0 of none."""
    w = np.abs(np.asarray(weights, np.float64))
    square = float(np.sum(w * w))
    return float(np.sum(w)) ** 2 / square if square else 0.0


def _reward(turn: Turn, candidate: Candidate) -> float:
    if candidate.reward is None or not math.isfinite(candidate.reward):
        raise InputError(
            f"trajectory {turn.trajectory} of round {turn.round}, turn {turn.turn}, candidate {candidate.index}: "
            f"reward={candidate.reward} of an ok candidate must be a finite number; collect it again"
        )
    return candidate.reward
