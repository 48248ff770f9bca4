"""Trajectories stream into the updates that a whole batch at once would make."""

import dataclasses

import numpy as np
import pytest
from test_training_step import trainer, variables
from test_training_tree import random_turns

from w4s_jax.training.checkpoint import param_digest
from w4s_jax.training.learner import Learner, LearnerConfig, train_on
from w4s_jax.training.tree import build_trees, pack
from w4s_jax.training.weights import PositiveReward, RewardWeighted
from w4s_jax.types import InputError, Trajectory

SHAPES = LearnerConfig(row_length=64, rows_per_batch=4, trajectories_per_step=3)


def trajectory(seed):
    return Trajectory(round=1, index=seed, task="t", turns=tuple(random_turns(np.random.default_rng(seed))))


def learner(rule=None, config=SHAPES):
    return Learner(trainer(), trainer().init_state(variables()), rule or RewardWeighted(), config)


def test_streaming_makes_the_update_of_the_whole_batch():
    streamed = learner()
    records = [streamed.feed(trajectory(seed)) for seed in range(3)]
    assert [record is not None for record in records] == [False, False, True]

    trees = [tree for seed in range(3) for tree in build_trees(trajectory(seed).turns, RewardWeighted())]
    state, total = trainer().init_state(variables()), trainer().zero_grads()
    for batch in pack(trees, SHAPES.row_length, SHAPES.rows_per_batch):
        total = trainer().accumulate(state, total, batch)
    state, metrics = trainer().apply(state, total, sum(tree.num_actions for tree in trees))
    assert param_digest(streamed.state.params) == param_digest(state.params)
    assert records[2].metrics == metrics
    assert records[2].tree_tokens == sum(map(len, trees))


def test_the_last_update_of_a_round_takes_what_is_left():
    records = train_on(learner(), [trajectory(seed) for seed in range(4)])
    assert [record.metrics.step for record in records] == [1, 2]
    assert records[1].metrics.num_actions == sum(
        t.num_actions for t in build_trees(trajectory(3).turns, RewardWeighted())
    )


def test_equal_weights_have_the_effective_sample_size_of_their_number():
    (record,) = train_on(learner(PositiveReward()), [trajectory(seed) for seed in range(3)])
    assert record.effective_sample_size == pytest.approx(record.metrics.num_actions)


def test_an_update_without_an_action_is_left_out_and_counted():
    idle = learner(lambda turn, candidate: None)
    before = param_digest(idle.state.params)
    assert list(train_on(idle, [trajectory(seed) for seed in range(3)])) == []
    assert idle.unused == 1
    assert param_digest(idle.state.params) == before


def test_a_tree_longer_than_a_row_is_refused_with_both_numbers():
    short = learner(config=dataclasses.replace(SHAPES, row_length=2))
    with pytest.raises(InputError, match=r"\d+ tokens does not fit row_length=2; raise --row_length"):
        short.feed(trajectory(0))
