"""What the meta-agent reads, and how its own text is read."""

import dataclasses

import pytest

from w4s_jax.prompts import ActionParseError, CompactTemplate, FullTemplate, parse_action, replace_code
from w4s_jax.types import Case, Evaluated, Feedback, ItemStatus, State, Workflow

SOLVER = "def solver(agent, task):\n    return {'answer': 1}"
SEED = Evaluated(
    workflow=Workflow(name="direct", code=SOLVER),
    feedback=Feedback(
        score=0.25,
        accuracy=0.25,
        n=20,
        usd_per_item=0.0015,
        symptoms={"close": 3, "factor": 12},
        cases=(
            Case(question="How many?", answer="7", target="9", status=ItemStatus.WRONG),
            Case(question="How far?", answer="", target="3", status=ItemStatus.BROKE, error="ValueError: x"),
        ),
    ),
)
STATE = State(task="t", description="Word problems.", seeds=(SEED,), current=SEED, best_score=0.25)


def test_the_block_that_defines_solver_is_the_action():
    action = parse_action(f"First {{think}}.\n```python\nx = 1\n```\nThen:\n```python\n{SOLVER}\n```\nDone.", "a")
    assert action.code == SOLVER


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no code here", "no Python block"),
        ("```python\nprint(1)\n```", "no Python block defines solver"),
        (f"```python\n{SOLVER}\n```\nor\n```python\n{SOLVER}\n```", "2 Python blocks define solver"),
        ("```python\n    def solver(agent, task): pass\n```", "no Python block defines solver"),
    ],
)
def test_text_without_one_solver_is_refused_with_its_reason(text, reason):
    with pytest.raises(ActionParseError, match=reason):
        parse_action(text, "a")


def test_a_block_left_open_at_the_end_is_read_to_the_end():
    assert parse_action(f"plan\n```python\n{SOLVER}", "a").code == SOLVER


def test_backticks_within_a_line_of_code_do_not_end_the_block():
    code = 'def solver(agent, task):\n    fence = "```"\n    return {"answer": fence}'
    assert parse_action(f"```python\n{code}\n```", "a").code == code


def test_repaired_code_replaces_the_code_and_nothing_else():
    text = "Analysis.\n```python\ndef solver(a, t):\n    oops\n```\nEnd."
    assert replace_code(text, SOLVER) == f"Analysis.\n```python\n{SOLVER}\n```\nEnd."


def test_repaired_code_is_kept_literally_whatever_it_spells():
    tricky = "def solver(agent, task):\n    return {'answer': '\\\\1 \\g<0>'}"
    assert parse_action(replace_code("x\n```python\ndef solver(): pass\n```", tricky), "a").code == tricky


def test_repaired_code_is_added_where_the_text_had_no_solver():
    assert parse_action(replace_code("Analysis without code", SOLVER), "a").code == SOLVER


def test_the_compact_opening_says_task_best_current_failures_and_code():
    (message,) = CompactTemplate().opening(STATE)
    assert message.content == f"Word problems.\nbest 25\nnow 25: factor 12, close 3\n```python\n{SOLVER}\n```"


def test_the_compact_follow_up_does_not_repeat_the_code():
    worse = dataclasses.replace(SEED, feedback=Feedback(score=0.1, accuracy=0.1, n=20))
    (message,) = CompactTemplate().after(dataclasses.replace(STATE, current=worse), STATE)
    assert message.content == "best 25\nnow 10: no failures"


def test_the_full_opening_holds_every_part_the_paper_names():
    (message,) = FullTemplate().opening(STATE)
    for part in ("call_json_format_llm", "execute_code", "test_on_public_test", "Principles", "Word problems.", SOLVER):
        assert part in message.content
    assert "Accuracy 0.250 on 20 validation questions" in message.content
    assert "Failures: factor × 12, close × 3." in message.content
    assert "The workflow's answer: 7\nThe right answer: 9" in message.content
    assert "The workflow raised: ValueError: x" in message.content


def _evaluated(name, score, **fields):
    return Evaluated(
        workflow=Workflow(name=name, code=SOLVER), feedback=Feedback(score=score, accuracy=score, n=20, **fields)
    )


@pytest.mark.parametrize(
    ("before", "score", "turn", "so_far"),
    [
        (0.4, 0.45, "up from 0.400 with", "0.500"),
        (0.4, 0.55, "up from 0.400 with", "0.500, which it passes"),
        (0.4, 0.5, "up from 0.400 with", "0.500, which it ties"),
        (0.4, 0.4, "unchanged from", "0.500"),
        (0.5, 0.5, "unchanged from", "0.500, which it ties"),
        (0.5, 0.1, "down from 0.500 with", "0.500"),
    ],
)
def test_the_full_follow_up_says_the_change_since_the_last_turn_and_against_the_best(before, score, turn, so_far):
    previous = dataclasses.replace(STATE, current=_evaluated("before", before), best_score=0.5)
    after = dataclasses.replace(previous, current=_evaluated("now", score), best_score=max(0.5, score))
    (message,) = FullTemplate().after(after, previous)
    said = f"Accuracy {score:.3f}, {turn} the workflow before it; the best so far was {so_far}."
    assert message.content.splitlines()[1] == said


def test_the_full_follow_up_is_this_text():
    current = _evaluated("now", 0.5, usd_per_item=0.002, symptoms={"far": 9, "close": 1}, cases=SEED.feedback.cases[:1])
    (message,) = FullTemplate().after(dataclasses.replace(STATE, current=current, best_score=0.5), STATE)
    assert message.content == (
        "Your workflow was run on 20 validation questions, at 0.002000 USD a question.\n"
        "Accuracy 0.500, up from 0.250 with the workflow before it; the best so far was 0.250, which it passes.\n"
        "Failures: far × 9, close × 1.\n"
        "## Case 1: wrong\nQuestion: How many?\nThe workflow's answer: 7\nThe right answer: 9\n"
        "Please improve it. First your analysis, then exactly one Python block that defines solver."
    )


def test_a_metric_under_which_answers_may_be_partly_right_is_named():
    seed = _evaluated("seed", 0.4, metric="f1")
    state = dataclasses.replace(STATE, seeds=(seed,), current=seed, best_score=0.4)
    (opening,) = FullTemplate().opening(state)
    assert "Validation mean F1 0.400 on 20 questions" in opening.content
    assert "Mean F1 0.400 on 20 validation questions" in opening.content
    assert "The best validation mean F1 so far is 0.400." in opening.content
    assert "ccuracy" not in opening.content.partition("# Task")[2]
    after = dataclasses.replace(state, current=_evaluated("now", 0.3, metric="f1"))
    (follow_up,) = FullTemplate().after(after, state)
    assert "Mean F1 0.300, down from 0.400 with the workflow before it; the best so far was 0.400." in follow_up.content


def test_a_long_case_is_cut_in_the_middle_and_says_so():
    long = dataclasses.replace(SEED.feedback.cases[0], question="a" * 3000 + "END")
    seed = dataclasses.replace(SEED, feedback=dataclasses.replace(SEED.feedback, cases=(long,)))
    (message,) = FullTemplate().opening(dataclasses.replace(STATE, current=seed, seeds=(seed,)))
    assert "[… 1803 characters left out …]" in message.content
    assert "END" in message.content


def test_a_turn_whose_actions_were_all_skipped_says_so():
    after = dataclasses.replace(STATE, turn=1)
    (compact,) = CompactTemplate().after(after, STATE)
    assert compact.content == "best 25\nbroken"
    (full,) = FullTemplate().after(after, STATE)
    assert "could not be mended; the current workflow stays" in full.content


def test_a_fresh_dialogue_says_how_the_last_turn_changed_it():
    """Every few turns a dialogue opens anew; what the turn before it brought is said there as well."""
    state = dataclasses.replace(STATE, current=_evaluated("now", 0.75), best_score=1.0, turn=2, score_before=1.0)
    (opening,) = FullTemplate().opening(state)
    assert "Accuracy 0.750 on 20 validation questions, down from 1.000 with the workflow before it" in opening.content
    assert "The best validation accuracy so far is 1.000." in opening.content


def test_the_compact_request_for_an_edit_is_task_and_code():
    (message,) = CompactTemplate().edit("Word problems.", SEED.workflow)
    assert message.content == f"Word problems.\nchange one thing\n```python\n{SOLVER}\n```"


def test_the_full_request_for_an_edit_shows_interface_task_and_code_and_not_how_it_did():
    (message,) = FullTemplate().edit("Word problems.", SEED.workflow)
    for part in ("call_json_format_llm", "# Task\nWord problems.", f"```python\n{SOLVER}\n```", "in exactly one place"):
        assert message.content.count(part) == 1
    for part in ("ccuracy", "score", "ailure", "Case", "0.25", "USD", "best"):
        assert part not in message.content
    assert parse_action(message.content, "a").code == SOLVER  # the one block there is
