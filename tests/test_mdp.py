"""Rewards, choice and next state against tables worked out by hand."""

import dataclasses

import pytest

from w4s_jax.mdp import (
    RewardConfig,
    RewardKind,
    best_to_pass,
    choose,
    history,
    initial_state,
    next_state,
    reward,
    rewarded,
)
from w4s_jax.types import (
    Candidate,
    CandidateStatus,
    Evaluated,
    Feedback,
    InputError,
    Turn,
    Workflow,
)

PAPER = RewardConfig()
REPO = RewardConfig(kind=RewardKind.REPO)


def evaluated(score, name="seed"):
    return Evaluated(
        workflow=Workflow(name=name, code=f"# {name}"), feedback=Feedback(score=score, accuracy=score, n=10)
    )


def candidate(index, score, usd_per_item=0.0, status=CandidateStatus.OK):
    survived = status is CandidateStatus.OK
    return Candidate(
        index=index,
        status=status,
        text="",
        code=f"# c{index}",
        score=score if survived else None,
        feedback=Feedback(score=score, accuracy=score, n=10, usd_per_item=usd_per_item) if survived else None,
    )


def turn(number, candidates):
    candidates = tuple(candidates)
    return Turn(
        round=1, trajectory=2, turn=number, task="t", messages=(), prompt_ids=(), candidates=candidates,
        chosen=choose(candidates),
    )  # fmt: skip


def start(*seeds):
    return initial_state("t", "a task", [evaluated(a, f"seed{i}") for i, a in enumerate(seeds)])


def rewards(scores, state, opened, config):
    return [c.reward for c in rewarded([candidate(i, a) for i, a in enumerate(scores)], state, opened, config)]


# First turn: seeds 0.40 (current), 0.60, 0.20; best of history 0.60.
FIRST_TURN = [
    # score, paper, repo
    (0.70, 1.0, 1.0),
    (0.60, 0.5, 0.5),  # ties with the best, above the current
    (0.50, 0.5, 0.5),
    (0.40, 0.0, 0.0),  # ties with the current
    (0.30, 0.0, 0.0),  # at the threshold, not below
    (0.20, 0.0, -0.1),
    (0.00, 0.0, -0.1),
]


@pytest.mark.parametrize(("score", "paper", "repo"), FIRST_TURN)
def test_rewards_of_the_first_turn_follow_the_table(score, paper, repo):
    state = start(0.40, 0.60, 0.20)
    assert rewards([score], state, state, PAPER) == [paper]
    assert rewards([score], state, state, REPO) == [repo]


def test_the_low_penalty_is_added_to_an_improvement():
    state = start(0.10, 0.20)
    assert rewards([0.25, 0.15, 0.05], state, state, REPO) == [0.9, 0.4, -0.1]
    assert rewards([0.25, 0.15, 0.05], state, state, PAPER) == [1.0, 0.5, 0.0]


def test_a_tie_is_not_an_improvement():
    state = start(0.5)
    assert rewards([0.5], state, state, PAPER) == [0.0]
    assert rewards([0.5], state, state, REPO) == [0.0]


def test_siblings_do_not_count_to_the_history():
    state = start(0.4)
    assert rewards([0.5, 0.9, 0.6], state, state, PAPER) == [1.0, 1.0, 1.0]


def test_the_two_definitions_part_on_the_second_turn_of_a_dialogue():
    """Seeds 0.4 and 0.6; turn 0 brings 0.8 (chosen) and 0.7.

    paper: best is 0.8, so 0.7 and 0.8 earn nothing. repo: best stays 0.6 for the whole
    dialogue, so 0.7 and 0.8 still pass it.
    """
    opened = start(0.4, 0.6)
    state = next_state(opened, turn(0, [candidate(0, 0.7), candidate(1, 0.8)]))
    assert state.current.feedback.score == 0.8
    scores = [0.9, 0.8, 0.7, 0.6, 0.25]
    assert rewards(scores, state, opened, PAPER) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert rewards(scores, state, opened, REPO) == [1.0, 1.0, 1.0, 0.0, -0.1]


def test_in_a_fresh_dialogue_the_repo_definition_starts_from_seeds_and_last_workflow_alone():
    """0.9 is reached at turn 0 and lost at turn 1, whose best is 0.5 (the state follows it).

    The dialogue that opens at turn 2 knows max(0.4, 0.6, 0.5) = 0.6; the paper's history knows 0.9.
    """
    first = start(0.4, 0.6)
    states = history(first, [turn(0, [candidate(0, 0.9)]), turn(1, [candidate(0, 0.5)])])
    opened = states[2]
    assert opened.current.feedback.score == 0.5
    assert best_to_pass(opened, opened, RewardKind.REPO) == 0.6
    assert best_to_pass(opened, opened, RewardKind.PAPER) == 0.9
    assert rewards([0.7, 0.55, 0.5], opened, opened, REPO) == [1.0, 0.5, 0.0]
    assert rewards([0.7, 0.55, 0.5], opened, opened, PAPER) == [0.5, 0.5, 0.0]


def test_the_last_workflow_counts_to_the_best_of_a_fresh_repo_dialogue():
    opened = next_state(start(0.4), turn(0, [candidate(0, 0.7)]))
    assert best_to_pass(opened, opened, RewardKind.REPO) == 0.7


def test_survivors_that_were_not_chosen_count_to_the_history():
    """Equal scores are chosen by cost, so 0.8 at 2 USD is not chosen, yet both are history; so is 0.3."""
    state = next_state(start(0.4), turn(0, [candidate(0, 0.3), candidate(1, 0.8, 2.0), candidate(2, 0.8, 1.0)]))
    assert state.current.workflow.code == "# c2"
    assert state.best_score == 0.8


def test_a_worse_choice_advances_and_leaves_the_best_as_it_was():
    state = next_state(start(0.6), turn(0, [candidate(0, 0.2), candidate(1, 0.5)]))
    assert (state.current.feedback.score, state.best_score, state.turn) == (0.5, 0.6, 1)
    assert rewards([0.55], state, state, PAPER) == [0.5]


def test_after_skipped_actions_the_state_stays_and_rewards_are_as_before():
    opened = start(0.4, 0.6)
    skipped = turn(0, [candidate(0, 0, status=CandidateStatus.SKIPPED), candidate(1, 0, status=CandidateStatus.FAILED)])
    assert skipped.chosen is None
    state = next_state(opened, skipped)
    assert state == dataclasses.replace(opened, turn=1)
    for config in (PAPER, REPO):
        assert rewards([0.7, 0.5, 0.4], state, opened, config) == [1.0, 0.5, 0.0]


def test_skipped_and_failed_candidates_have_no_reward():
    state = start(0.4)
    row = [
        candidate(0, 0, status=CandidateStatus.SKIPPED),
        candidate(1, 0.5),
        candidate(2, 0, status=CandidateStatus.FAILED),
    ]
    assert [c.reward for c in rewarded(row, state, state, PAPER)] == [None, 1.0, None]


def test_the_values_of_the_reward_are_options():
    config = RewardConfig(
        kind=RewardKind.REPO, best=3.0, improved=2.0, otherwise=1.0, low_penalty=-5.0, low_threshold=0.5
    )
    assert reward(0.9, best=0.8, current=0.7, config=config) == 3.0
    assert reward(0.75, best=0.8, current=0.7, config=config) == 2.0
    assert reward(0.4, best=0.8, current=0.7, config=config) == -4.0


@pytest.mark.parametrize(
    ("row", "chosen"),
    [
        ([(0.5, 0.0), (0.7, 9.0), (0.6, 0.0)], 1),  # score first, whatever it costs
        ([(0.7, 2.0), (0.7, 1.0), (0.7, 3.0)], 1),  # equal: the cheaper
        ([(0.2, 1.0), (0.7, 1.0), (0.7, 1.0)], 1),  # equal in both: the lower index
        ([(0.0, 1.0)], 0),
    ],
)
def test_the_choice_follows_accuracy_then_cost_then_index(row, chosen):
    assert choose([candidate(i, a, usd) for i, (a, usd) in enumerate(row)]) == chosen


def test_only_survivors_can_be_chosen():
    row = [
        candidate(0, 0, status=CandidateStatus.FAILED),
        candidate(1, 0.1),
        candidate(2, 0, status=CandidateStatus.SKIPPED),
    ]
    assert choose(row) == 1
    assert choose(row[::2]) is None
    assert choose([]) is None


def test_the_first_seed_is_the_first_current_workflow():
    state = start(0.2, 0.9, 0.4)
    assert (state.current.workflow.name, state.best_score, state.turn) == ("seed0", 0.9, 0)


def test_a_search_without_seeds_is_refused():
    with pytest.raises(InputError, match="no seed workflow"):
        initial_state("t", "", [])


def test_history_has_one_state_more_than_turns_and_names_workflows_by_their_place():
    states = history(start(0.1), [turn(0, [candidate(0, 0.2)]), turn(1, [candidate(0, 0.0), candidate(1, 0.3)])])
    assert [s.turn for s in states] == [0, 1, 2]
    assert [s.current.workflow.name for s in states] == ["seed0", "r1-t2-turn0-c0", "r1-t2-turn1-c1"]
