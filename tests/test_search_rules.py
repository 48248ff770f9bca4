"""When a search ends, by hand-worked scores, and what it takes from its store."""

import pytest

from w4s_jax.mdp import initial_state
from w4s_jax.search.base import SearchEnd, StopRules
from w4s_jax.types import Candidate, CandidateStatus, Evaluated, Feedback, InputError, Turn, Workflow


def state(best):
    seed = Evaluated(workflow=Workflow(name="seed", code="#"), feedback=Feedback(score=best, accuracy=best, n=10))
    return initial_state("t", "", [seed])


def turns(*scores):
    return [
        Turn(
            round=0,
            trajectory=0,
            turn=number,
            task="t",
            messages=(),
            prompt_ids=(),
            chosen=0,
            candidates=(
                Candidate(
                    index=0,
                    status=CandidateStatus.OK,
                    text="",
                    code=f"# {number}",
                    score=score,
                    feedback=Feedback(score=score, accuracy=score, n=10),
                ),
            ),
        )
        for number, score in enumerate(scores)
    ]


@pytest.mark.parametrize(
    ("rules", "scores", "stop"),
    [
        (StopRules(num_turns=3), (), None),
        (StopRules(num_turns=3), (0.5, 0.6, 0.1), SearchEnd.TURNS),
        (StopRules(target=0.4), (), SearchEnd.TARGET),  # a seed has it
        (StopRules(target=0.6), (0.5,), None),
        (StopRules(target=0.6), (0.6,), SearchEnd.TARGET),
        (StopRules(target=0.6), (0.7, 0.1), SearchEnd.TARGET),  # the best of all counts, not the current one
        (StopRules(patience=2), (0.5,), None),
        (StopRules(patience=2), (0.4, 0.4), SearchEnd.PLATEAU),  # ties with the seed's 0.4 are no improvement
        (StopRules(patience=2), (0.5, 0.5), None),
        (StopRules(patience=2), (0.5, 0.5, 0.3), SearchEnd.PLATEAU),
        (StopRules(patience=2), (0.3, 0.5, 0.4), None),
        (StopRules(patience=1, num_turns=2), (0.5, 0.6), SearchEnd.TURNS),
        (StopRules(patience=1, num_turns=2, target=0.6), (0.5, 0.6), SearchEnd.TARGET),
    ],
)
def test_a_search_ends_by_the_rule_that_is_met(rules, scores, stop):
    assert rules.reached(state(0.4), turns(*scores)) is stop


@pytest.mark.parametrize("fields", [{"num_turns": 0}, {"patience": -1}, {"target": 0.0}, {"target": 1.1}])
def test_rules_that_cannot_be_are_refused(fields):
    with pytest.raises(InputError, match=f"{next(iter(fields))}={next(iter(fields.values()))}"):
        StopRules(**fields)
