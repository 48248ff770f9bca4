import math

import numpy as np
import pytest

from w4s_jax.training.tree import Packer, build_rows, build_trees, pack
from w4s_jax.training.weights import (
    BestAction,
    GroupAdvantage,
    PositiveReward,
    RewardWeighted,
    effective_sample_size,
)
from w4s_jax.types import Candidate, CandidateStatus, InputError, Turn

OK, SKIPPED, FAILED = CandidateStatus.OK, CandidateStatus.SKIPPED, CandidateStatus.FAILED


def candidate(index, ids, reward=None, status=OK):
    return Candidate(index=index, status=status, text="", ids=tuple(ids), reward=reward)


def turn(number, prompt, candidates, chosen):
    return Turn(
        round=0,
        trajectory=3,
        turn=number,
        task="t",
        messages=(),
        prompt_ids=tuple(prompt),
        candidates=tuple(candidates),
        chosen=chosen,
    )


@pytest.fixture
def two_turns():
    """s_1 = 1 2 3; best action 4 5; feedback 7; second best action 9 10; side branches 8 (turn 2) and 6 11 (turn 1)."""
    first = turn(0, [1, 2, 3], [candidate(0, [4, 5], 1.0), candidate(1, [6, 11], 0.0)], 0)
    second = turn(1, [1, 2, 3, 4, 5, 7], [candidate(0, [8], 0.5), candidate(1, [9, 10], -0.1)], 1)
    return [first, second]


def test_a_small_tree_is_laid_out_as_by_hand(two_turns):
    (tree,) = build_trees(two_turns, RewardWeighted(tau=0.4))
    #                                   s_1------  a*----  f   a*----  b2  b1------
    np.testing.assert_array_equal(tree.tokens, [1, 2, 3, 4, 5, 7, 9, 10, 8, 6, 11])
    np.testing.assert_array_equal(tree.positions, [0, 1, 2, 3, 4, 5, 6, 7, 6, 3, 4])
    np.testing.assert_array_equal(tree.expiry, [11, 11, 11, 9, 9, 9, 8, 8, 9, 11, 11])
    np.testing.assert_array_equal(tree.target_token, [4, 5, 9, 10, 8, 6, 11])
    np.testing.assert_array_equal(tree.target_source, [2, 3, 5, 6, 5, 2, 9])
    weights = [12.18 / 2, 12.18 / 2, 0.78 / 2, 0.78 / 2, 3.49, 1 / 2, 1 / 2]
    np.testing.assert_allclose(tree.target_weight, weights, atol=0.006)
    assert tree.num_actions == 4
    assert tree.row_tokens == 5 + 5 + 7 + 8


def test_a_trajectory_of_usual_lengths_takes_a_quarter_of_the_tokens():
    """State 5,000, actions 1,200, feedback 2,500, m = 5, 2 turns: 80,500 tokens in rows, 19,500 here."""
    action = [7] * 1200
    first = turn(0, [1] * 5000, [candidate(i, action, 0.0) for i in range(5)], 0)
    second = turn(1, [1] * 5000 + action + [2] * 2500, [candidate(i, action, 0.0) for i in range(5)], 4)
    (tree,) = build_trees([first, second], RewardWeighted())
    assert (len(tree), tree.row_tokens) == (5000 + 1200 + 2500 + 1200 + 4 * 1200 + 4 * 1200, 5 * 6200 + 5 * 9900)
    assert (len(tree), tree.row_tokens) == (19_500, 80_500)
    assert sum(len(row) for row in build_rows([first, second], RewardWeighted())) == 80_500


def visible(expiry):
    q, k = np.indices((len(expiry), len(expiry)))
    return (k <= q) & (q < np.asarray(expiry)[None, :])


def random_turns(rng, turns=None):
    """A trajectory of random shape: breaks in the trunk, turns without a choice, skipped and failed candidates."""
    made, prompt = [], list(rng.integers(1, 64, rng.integers(1, 6)))
    for number in range(turns or rng.integers(1, 5)):
        candidates = []
        for i in range(rng.integers(1, 6)):
            status = rng.choice([OK, OK, OK, SKIPPED, FAILED])
            reward = rng.choice([1.0, 0.5, 0.0, -0.1]) if status == OK else None
            candidates.append(candidate(i, rng.integers(1, 64, rng.integers(1, 5)), reward, CandidateStatus(status)))
        usable = [c for c in candidates if c.status is OK]
        # Now and then the state goes on through an action that carries no loss.
        pool = usable if usable and rng.random() < 0.9 else candidates if rng.random() < 0.5 else []
        chosen = int(rng.choice([c.index for c in pool])) if pool else None
        made.append(turn(number, prompt, candidates, chosen))
        if chosen is None or rng.random() < 0.15:
            prompt = list(rng.integers(1, 64, rng.integers(1, 6)))
        else:
            prompt = prompt + list(candidates[chosen].ids) + list(rng.integers(1, 64, rng.integers(0, 4)))
    return made


@pytest.mark.parametrize("seed", range(40))
def test_each_target_sees_exactly_the_prompt_and_the_action_before_it(seed):
    """Reads every (context, token, weight) back through the mask, and compares with those of one row per action."""
    turns = random_turns(np.random.default_rng(seed))
    got, want = [], []
    for tree in build_trees(turns, RewardWeighted()):
        mask = visible(tree.expiry)
        for source, token, weight in zip(tree.target_source, tree.target_token, tree.target_weight, strict=True):
            seen = np.flatnonzero(mask[source])
            np.testing.assert_array_equal(tree.positions[seen], np.arange(len(seen)))
            got.append((tuple(tree.tokens[seen].tolist()), int(token), float(weight)))
    for t in turns:
        for c in (c for c in t.candidates if c.status is OK):
            for i, token in enumerate(c.ids):
                weight = float(np.float32(math.exp(c.reward / 0.4) / len(c.ids)))
                want.append((tuple(map(int, t.prompt_ids + c.ids[:i])), int(token), weight))
    assert sorted(got) == sorted(want)


@pytest.mark.parametrize("seed", range(20))
def test_expiries_are_nested_and_a_query_sees_at_most_two_ranges(seed):
    for tree in build_trees(random_turns(np.random.default_rng(seed)), RewardWeighted()):
        for row in visible(tree.expiry):
            assert np.count_nonzero(np.diff(np.concatenate([[0], row.astype(int)])) == 1) <= 2
        for k, end in enumerate(tree.expiry):
            assert np.all(tree.expiry[k:end] <= end)
        assert len(tree) <= tree.row_tokens


def test_a_prompt_that_does_not_extend_the_last_one_starts_a_tree(two_turns):
    first, second = two_turns
    other = turn(1, [1, 2, 3, 4, 6, 7], second.candidates, 1)
    assert [len(t) for t in build_trees([first, other], RewardWeighted())] == [7, 9]


def test_a_turn_without_a_choice_ends_its_tree(two_turns):
    first, second = two_turns
    stayed = turn(0, first.prompt_ids, [candidate(0, [4, 5], status=SKIPPED)], None)
    assert [t.tokens.tolist() for t in build_trees([stayed, second], RewardWeighted())] == [
        [1, 2, 3, 4, 5, 7, 9, 10, 8]
    ]


def test_a_skipped_trunk_action_is_read_but_never_learnt(two_turns):
    first = turn(0, [1, 2, 3], [candidate(0, [4, 5], status=SKIPPED), candidate(1, [6], 0.0)], 0)
    (tree,) = build_trees([first, two_turns[1]], RewardWeighted())
    assert tree.tokens.tolist() == [1, 2, 3, 4, 5, 7, 9, 10, 8, 6]
    assert tree.target_token.tolist() == [9, 10, 8, 6]
    assert tree.num_actions == 3


def test_feedback_behind_the_last_action_that_trains_is_not_laid_out(two_turns):
    first, second = two_turns
    broken = turn(1, second.prompt_ids, [candidate(0, [8], status=FAILED)], None)
    (tree,) = build_trees([first, broken], RewardWeighted())
    assert tree.tokens.tolist() == [1, 2, 3, 4, 5, 6, 11]


def test_nothing_to_train_on_gives_no_tree(two_turns):
    skipped = turn(0, [1, 2], [candidate(0, [3], status=SKIPPED)], None)
    assert build_trees([skipped], RewardWeighted()) == []
    assert build_trees(two_turns[:1], PositiveReward())[0].num_actions == 1


def test_reward_weights_are_those_of_the_paper(two_turns):
    rewards = (1.0, 0.5, 0.0, -0.1)
    row = turn(0, [1], [candidate(i, [2], r) for i, r in enumerate(rewards)], 0)
    (tree,) = build_trees([row], RewardWeighted(tau=0.4))
    np.testing.assert_allclose(np.round(tree.action_weights, 2), [12.18, 3.49, 1.0, 0.78])


def test_the_ablations_train_on_fewer_actions(two_turns):
    (best,) = build_trees(two_turns, BestAction())
    (clone,) = build_trees(two_turns, PositiveReward())
    assert (best.target_token.tolist(), best.action_weights.tolist()) == ([4, 5, 9, 10], [1.0, 1.0])
    assert (clone.target_token.tolist(), clone.action_weights.tolist()) == ([4, 5, 8], [1.0, 1.0])
    # 9 10 was chosen and earned nothing: no loss is on it, nothing follows it, so it is not there.
    assert clone.tokens.tolist() == [1, 2, 3, 4, 5, 7, 8]


def test_a_group_advantage_is_centred_and_scaled():
    row = turn(0, [1], [candidate(0, [2], 1.0), candidate(1, [3], 0.0), candidate(2, [4], status=SKIPPED)], 0)
    (tree,) = build_trees([row], GroupAdvantage(epsilon=0.0))
    np.testing.assert_allclose(tree.action_weights, [1.0, -1.0])


def test_effective_sample_size_by_hand():
    assert effective_sample_size([2.0, 2.0, 2.0]) == pytest.approx(3.0)
    assert effective_sample_size([3.0, 1.0]) == pytest.approx(16 / 10)
    assert effective_sample_size([]) == 0.0


def test_turns_from_an_api_are_tokenised_by_the_caller(two_turns):
    bare = turn(0, [], [candidate(0, [], 1.0), candidate(1, [], 0.0)], 0)
    (tree,) = build_trees([bare], RewardWeighted(), tokenise=lambda _: ([1, 2], [[3], [4, 5]]))
    assert tree.tokens.tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(InputError, match=r"trajectory 3 of round 0, turn 0 has no prompt_ids .* pass a tokenise"):
        build_trees([bare], RewardWeighted())


def test_an_ok_candidate_without_a_reward_is_refused():
    with pytest.raises(InputError, match="candidate 0: reward=None"):
        build_trees([turn(0, [1], [candidate(0, [2])], 0)], RewardWeighted())


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, 0.001])
def test_a_tau_that_cannot_weigh_is_refused(tau):
    with pytest.raises(InputError, match="tau="):
        build_trees([turn(0, [1], [candidate(0, [2], 1.0)], 0)], RewardWeighted(tau=tau))


def chain(length, token=1):
    (tree,) = build_trees([turn(0, [token] * (length - 1), [candidate(0, [token], 0.0)], 0)], RewardWeighted())
    return tree


def test_packing_is_first_fit_in_the_order_given():
    lengths = [5, 4, 3, 4, 2, 6]
    batches = pack([chain(n, token=i + 1) for i, n in enumerate(lengths)], capacity=8, rows_per_batch=2)
    rows = [[list(dict.fromkeys(row[row > 0].tolist())) for row in batch.tokens] for batch in batches]
    # 5 opens row 0, 4 row 1; 3 fits behind 5, 4 behind 4; 2 fits nowhere and opens the next batch, 6 fits behind it.
    assert rows == [[[1, 3], [2, 4]], [[5, 6], []]]
    assert all(array.shape == (2, 8) for batch in batches for array in batch)


def test_a_packed_tree_is_the_tree_moved(two_turns):
    (tree,) = build_trees(two_turns, RewardWeighted())
    (batch,) = pack([chain(3), tree], capacity=16, rows_per_batch=1)
    assert batch.expiry[0].tolist() == [3, 3, 3, *(tree.expiry + 3), 0, 0]
    assert batch.positions[0].tolist() == [0, 1, 2, *tree.positions, 0, 0]
    assert batch.target_source[0, :8].tolist() == [1, *(tree.target_source + 3)]
    assert batch.target_token[0, :8].tolist() == [1, *tree.target_token]
    np.testing.assert_array_equal(batch.target_weight[0, 8:], 0.0)


def test_streaming_gives_the_batches_of_packing_at_once():
    rng = np.random.default_rng(0)
    trees = [chain(int(n)) for n in rng.integers(2, 9, 30)]
    packer = Packer(capacity=12, rows_per_batch=3)
    streamed = [b for b in (*(packer.add(tree) for tree in trees), packer.finish()) if b is not None]
    packed = pack(trees, 12, 3)
    assert len(streamed) == len(packed) > 1
    for a, b in zip(streamed, packed, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    assert sum(int((b.target_weight > 0).sum()) for b in packed) == len(trees)


def test_a_tree_longer_than_a_row_is_refused_with_both_numbers():
    with pytest.raises(InputError, match=r"9 tokens does not fit row_length=8; raise --row_length to at least 9"):
        pack([chain(9)], capacity=8, rows_per_batch=1)
