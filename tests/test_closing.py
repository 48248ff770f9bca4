"""What is said of test results, on hand-made outcomes."""

import dataclasses

import pytest

from w4s_jax.run.closing import (
    Finalist,
    Result,
    as_json,
    labelled,
    paired_gain,
    pooled,
    search_finalists,
    seed_finalists,
)
from w4s_jax.search.task import SearchTask
from w4s_jax.tasks.base import ItemTask
from w4s_jax.types import (
    Candidate,
    CandidateStatus,
    Evaluated,
    Evaluation,
    Feedback,
    ItemOutcome,
    ItemStatus,
    Split,
    Trajectory,
    Turn,
    Workflow,
)


def evaluated(name, score, usd=0.0):
    return Evaluated(
        workflow=Workflow(name=name, code=f"# {name}"),
        feedback=Feedback(score=score, accuracy=score, n=20, usd_per_item=usd),
    )


def problem(*seeds):
    task = ItemTask(name="t", description="", splits={}, grader=None, seeds=())
    return SearchTask(task=task, items=(), seeds=seeds)


def turn(number, *scores):
    candidates = tuple(
        Candidate(
            index=i,
            status=CandidateStatus.OK if a is not None else CandidateStatus.SKIPPED,
            text="",
            code=f"turn {number} candidate {i}",
            score=a,
            feedback=Feedback(score=a, accuracy=a, n=20) if a is not None else None,
        )
        for i, a in enumerate(scores)
    )
    return Turn(
        round=2, trajectory=0, turn=number, task="t", messages=(), prompt_ids=(), candidates=candidates, chosen=0
    )


def result(label, statuses, task="t"):
    outcomes = tuple(
        ItemOutcome(item_id=f"{task}/{i}", status=s, score=float(s == "right")) for i, s in enumerate(statuses)
    )
    evaluation = Evaluation(task=task, split=Split.TEST, workflow_digest="x", outcomes=outcomes)
    return Result(finalist=Finalist(label=label, task=task, chosen=evaluated("w", 0.5)), evaluation=evaluation)


R, W, B, N = ItemStatus.RIGHT, ItemStatus.WRONG, ItemStatus.BROKE, ItemStatus.NOT_EVALUATED


def test_the_best_seed_is_chosen_by_validation_and_then_by_cost():
    (finalist,) = seed_finalists([problem(evaluated("a", 0.5, 0.2), evaluated("b", 0.5, 0.1), evaluated("c", 0.4))])
    assert finalist.chosen.workflow.name == "b"


def test_a_search_gives_the_best_of_all_it_tried_after_each_asked_number_of_turns():
    start = problem(evaluated("seed", 0.45))
    trajectory = Trajectory(
        round=2, index=0, task="t", turns=(turn(0, 0.3, 0.6), turn(1, None, 0.5), turn(2, 0.9, 0.1))
    )
    last, after_2 = search_finalists("after", {"t": start}, [trajectory], [2])
    assert (last.label, last.chosen.workflow.name) == ("after", "r2-t0-turn2-c0")
    assert (after_2.label, after_2.chosen.workflow.name) == ("after_2", "r2-t0-turn0-c1")


def test_a_search_that_finds_nothing_better_keeps_the_seed():
    start = problem(evaluated("seed", 0.9))
    trajectory = Trajectory(round=2, index=0, task="t", turns=(turn(0, 0.3, 0.6),))
    (last,) = search_finalists("after", {"t": start}, [trajectory], [])
    assert last.chosen.workflow.name == "seed"


def test_accuracy_is_pooled_over_items_and_broken_ones_count():
    results = [result("after", [R, R, W, B], "a"), result("after", [R, N], "b")]
    assert pooled(results)[:2] == (0.6, 5)
    assert as_json(results)["by_task"]["b"]["n"] == 1


def test_the_gain_is_paired_by_item():
    before, after = result("before", [R, W, W, W]), result("after", [R, R, R, W])
    gain = paired_gain([before], [after])
    assert gain.value == 0.5
    assert gain.n == 4
    assert gain.high - gain.value == pytest.approx(3.182 * (1 / 3) ** 0.5 / 2, abs=1e-3)
    assert paired_gain([], [after]) is None


def partly_right(label, scores, task="t"):
    """Outcomes with scores between wrong and right, of a task whose metric is F1."""
    found = result(label, [R if score == 1.0 else W for score in scores], task)
    outcomes = [dataclasses.replace(o, score=score) for o, score in zip(found.evaluation.outcomes, scores, strict=True)]
    chosen = dataclasses.replace(found.finalist.chosen, feedback=Feedback(score=0.9, accuracy=0.5, n=20, metric="f1"))
    return Result(
        finalist=dataclasses.replace(found.finalist, chosen=chosen),
        evaluation=dataclasses.replace(found.evaluation, outcomes=tuple(outcomes)),
    )


def test_where_answers_may_be_partly_right_the_mean_counts_and_the_share_stands_beside_it():
    """Before: two at 1.0 of four, mean 0.5. After: none at 1.0, mean 0.9: a gain, though nothing is wholly right."""
    before, after = partly_right("before", [1.0, 1.0, 0.0, 0.0]), partly_right("after", [0.9, 0.9, 0.9, 0.9])
    assert pooled([before]).value == 0.5
    assert pooled([after]).value == pytest.approx(0.9)
    assert paired_gain([before], [after]).value == pytest.approx(0.4)
    found = as_json([after])
    assert (found["metric"], found["accuracy"], found["score"]) == ("f1", 0.0, pytest.approx(0.9))
    assert found["by_task"]["t"]["score_ci95"] == pytest.approx([0.9, 0.9])
    assert (found["by_task"]["t"]["validation_score"], found["by_task"]["t"]["validation_accuracy"]) == (0.9, 0.5)
    assert as_json([partly_right("after", [0.5], "a"), result("after", [R], "b")])["metric"] == "score"


def test_items_of_two_tasks_are_paired_within_their_own():
    def named_alike(found):
        outcomes = [dataclasses.replace(o, item_id=o.item_id.split("/")[1]) for o in found.evaluation.outcomes]
        return dataclasses.replace(found, evaluation=dataclasses.replace(found.evaluation, outcomes=tuple(outcomes)))

    before = [named_alike(result("before", [R, W], "a")), named_alike(result("before", [W, R], "b"))]
    after = [named_alike(result("after", [R, W], "a")), named_alike(result("after", [W, R], "b"))]
    assert paired_gain(before, after)[:2] == (0.0, 4)


def test_results_of_a_label_come_by_task():
    results = [result("after", [R], "b"), result("before", [R], "a"), result("after", [R], "a")]
    assert [r.finalist.task for r in labelled(results, "after")] == ["a", "b"]
