"""Streams trajectories into optimiser steps, in the order in which they are given.

Trajectory → tree → pack → **Learner** → accumulate … apply → StepRecord

A micro-batch is accumulated as soon as its rows are full, so training goes on while
later trajectories are still being collected; the update waits for the last of its
`trajectories_per_step`, when the number of actions is known. What a step computes
is a function of the trajectories and their order alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from w4s_jax.training.config import LearnerConfig
from w4s_jax.training.step import GradSum, StepMetrics, Trainer, TrainState
from w4s_jax.training.tree import PackedBatch, Packer, Tokenise, Tree, build_trees
from w4s_jax.training.weights import WeightRule, effective_sample_size
from w4s_jax.types import Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One update with what went into it."""

    metrics: StepMetrics
    effective_sample_size: float
    """Kish's, of the sizes of the actions' weights; at most their number."""
    tree_tokens: int
    """Tokens computed, padding aside."""
    row_tokens: int
    """Tokens that one row per action would have taken."""


class Learner:
    """Holds the training state and the open update.

    Example:
        >>> learner = Learner(trainer, state, RewardWeighted(), LearnerConfig())  # doctest: +SKIP
        >>> for trajectory in trajectories:  # doctest: +SKIP
        ...     record = learner.feed(trajectory)
        >>> record = learner.finish()  # doctest: +SKIP
    """

    def __init__(
        self,
        trainer: Trainer,
        state: TrainState,
        rule: WeightRule,
        config: LearnerConfig,
        tokenise: Tokenise | None = None,
    ) -> None:
        """Takes over `state`, whose arrays are donated from update to update.

        Args:
            trainer: The compiled functions.
            state: From `trainer.init_state` or a checkpoint.
            rule: The weight of each action.
            config: Shapes and the size of an update.
            tokenise: Gives ids to turns that were collected through an API.
        """
        self.trainer = trainer
        self.state = state
        self.unused = 0
        """Updates that had no action to train on and were left out."""
        self._rule = rule
        self._config = config
        self._tokenise = tokenise
        self._begin()

    def _begin(self) -> None:
        self._packer = Packer(self._config.row_length, self._config.rows_per_batch)
        self._total: GradSum | None = None
        self._trees: list[Tree] = []
        self._fed = 0

    def check(self, trajectory: Trajectory) -> None:
        """Refuses a trajectory that could not be fed, before anything is spent on others or trained.

        Raises:
            InputError: As `feed`.
        """
        packer = Packer(self._config.row_length, self._config.rows_per_batch)
        for tree in self._trees_of(trajectory):
            packer.add(tree)

    def feed(self, trajectory: Trajectory) -> StepRecord | None:
        """Takes one trajectory; returns the update that it completed, if it completed one.

        Raises:
            InputError: A tree is longer than a row, or a turn lacks ids, rewards, or log-probabilities that the loss
                needs.
            NumericsError: The loss or the gradient is not finite; the update was not made.
        """
        for tree in self._trees_of(trajectory):
            self._trees.append(tree)
            self._accumulate(self._packer.add(tree))
        self._fed += 1
        return self.finish() if self._fed == self._config.trajectories_per_step else None

    def finish(self) -> StepRecord | None:
        """Closes the open update, however few trajectories it has; None where nothing in it trains.

        Raises:
            NumericsError: As `feed`.
        """
        self._accumulate(self._packer.finish())
        total, trees, fed = self._total, self._trees, self._fed
        self._begin()
        if total is None:
            self.unused += fed > 0
            return None
        actions = sum(tree.num_actions for tree in trees)
        self.state, metrics = self.trainer.apply(self.state, total, actions)
        weights = [weight for tree in trees for weight in tree.action_weights]
        return StepRecord(
            metrics=metrics,
            effective_sample_size=effective_sample_size(weights),
            tree_tokens=sum(map(len, trees)),
            row_tokens=sum(tree.row_tokens for tree in trees),
        )

    def _trees_of(self, trajectory: Trajectory) -> list[Tree]:
        needs = self.trainer.loss.needs_behaviour
        return build_trees(trajectory.turns, self._rule, self._tokenise, needs_behaviour=needs)

    def _accumulate(self, batch: PackedBatch | None) -> None:
        if batch is None:
            return
        total = self.trainer.zero_grads() if self._total is None else self._total
        self._total = self.trainer.accumulate(self.state, total, batch)


def train_on(learner: Learner, trajectories: Iterable[Trajectory]) -> Sequence[StepRecord]:
    """Feeds all trajectories and closes the last update."""
    records = [learner.feed(trajectory) for trajectory in trajectories]
    return [record for record in (*records, learner.finish()) if record is not None]
