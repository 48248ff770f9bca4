"""Splits are disjoint and named by content; the test split is sealed; feedback never sees it."""

import dataclasses
import json

import pytest

from w4s_jax.tasks import base, splits
from w4s_jax.tasks.base import ItemTask, SealedTask, make_feedback
from w4s_jax.tasks.splits import SplitSizes, cut, find_duplicates, resize, shuffled
from w4s_jax.types import (
    Evaluation,
    Grade,
    InputError,
    Item,
    ItemOutcome,
    ItemStatus,
    SealedSplitError,
    Split,
)


def _items(n, prefix="q"):
    return [Item(id=f"{prefix}/{i}", question=f"{prefix} {i}?", target=float(i)) for i in range(n)]


def _ids(items):
    return [item.id for item in items]


async def _grade(item, answer, sandbox):
    return Grade(float(answer == item.target))


def _task(n=10):
    splits = cut(_items(n), validation=4, test=3)
    return ItemTask(name="t", description="d", splits=splits, grader=_grade, seeds=())


def test_the_shuffle_is_that_of_the_datasets_library():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"i": list(range(1319))}).shuffle(seed=0)
    assert _ids(shuffled(_items(1319), 0)) == [f"q/{i}" for i in table["i"]]


def test_a_cut_is_disjoint_and_whole():
    splits = cut(_items(10), validation=4, test=3)
    assert _ids(splits[Split.VALIDATION]) == ["q/0", "q/1", "q/2", "q/3"]
    assert _ids(splits[Split.TEST]) == ["q/4", "q/5", "q/6"]
    assert _ids(splits[Split.TRAIN]) == ["q/7", "q/8", "q/9"]


def test_a_smaller_split_keeps_its_first_items_and_moves_no_other():
    splits = resize(cut(_items(10), validation=4, test=3), SplitSizes(validation=2))
    assert _ids(splits[Split.VALIDATION]) == ["q/0", "q/1"]
    assert _ids(splits[Split.TEST]) == ["q/4", "q/5", "q/6"]
    assert _ids(splits[Split.TRAIN]) == ["q/7", "q/8", "q/9"]


def test_a_larger_split_takes_the_spare_and_then_the_end_of_train():
    splits = resize(cut(_items(10), validation=4, test=3), SplitSizes(validation=7), spare=_items(2, "spare"))
    assert _ids(splits[Split.VALIDATION]) == ["q/0", "q/1", "q/2", "q/3", "spare/0", "spare/1", "q/9"]
    assert _ids(splits[Split.TRAIN]) == ["q/7", "q/8"]


def test_the_size_of_validation_does_not_decide_what_is_tested():
    own = cut(_items(20), validation=4, test=3)
    small, large = (resize(own, SplitSizes(validation=v, test=5)) for v in (1, 9))
    assert small[Split.TEST] == large[Split.TEST]
    assert not {*_ids(large[Split.TEST])} & {*_ids(large[Split.VALIDATION]), *_ids(large[Split.TRAIN])}


def test_what_moves_to_another_split_leaves_nothing_of_its_group_behind():
    own = {Split.TEST: _items(9), Split.VALIDATION: _items(2, "v")}

    def pair(item):
        return item.id if item.id.startswith("v") else int(item.id[2:]) % 3

    splits = resize(own, SplitSizes(test=2, validation=5), group=pair)
    assert _ids(splits[Split.TEST]) == ["q/0", "q/1"]
    assert _ids(splits[Split.VALIDATION]) == ["v/0", "v/1", "q/2", "q/5", "q/8"]
    with pytest.raises(InputError, match="validation_size=6 exceeds the 5 items"):
        resize(own, SplitSizes(test=2, validation=6), group=pair)


@pytest.mark.parametrize("sizes", [SplitSizes(validation=8), SplitSizes(test=7), SplitSizes(train=4)])
def test_more_than_there_is_is_refused_with_the_number(sizes):
    with pytest.raises(InputError, match=r"_size=\d+ exceeds the \d+ items"):
        resize(cut(_items(10), validation=4, test=3), sizes)


def test_a_negative_size_is_refused():
    with pytest.raises(InputError, match="validation_size=-1"):
        SplitSizes(validation=-1)


def test_a_hash_changes_with_content_and_order_alone():
    items = _items(3)
    assert splits.split_hash(items) == splits.split_hash(_items(3))
    assert splits.split_hash(items) != splits.split_hash(items[::-1])
    assert splits.split_hash(items) != splits.split_hash([*items[:2], Item(id="q/2", question="q 2?", target=2.5)])
    metadata = [*items[:2], Item(id="q/2", question="q 2?", target=2.0, metadata={"program": "x"})]
    assert splits.split_hash(items) == splits.split_hash(metadata)


def test_duplicates_are_found_across_splits_only():
    splits = {
        Split.TRAIN: [Item(id="a", question="How many?", target=1), Item(id="b", question="How many?", target=1)],
        Split.TEST: [Item(id="c", question=" how\nMANY?", target=1), Item(id="d", question="How much?", target=1)],
    }
    assert find_duplicates(splits) == (("a", "c"),)


def test_an_id_in_two_splits_is_refused():
    with pytest.raises(InputError, match="'q/0' stands twice"):
        ItemTask(name="t", description="", splits=dict.fromkeys(Split, _items(1)), grader=_grade, seeds=())


def test_the_test_split_is_sealed_until_it_is_opened():
    task = SealedTask(_task())
    with pytest.raises(SealedSplitError, match="split=test is sealed"):
        task.items(Split.TEST)
    assert len(task.items(Split.VALIDATION)) == 4
    task.unseal()
    assert _ids(task.items(Split.TEST)) == ["q/4", "q/5", "q/6"]


async def test_a_sealed_task_tells_hashes_sizes_and_grades_but_no_items():
    task = SealedTask(_task())
    assert task.split_hash(Split.TEST) == splits.split_hash(_items(10)[4:7])
    assert task.split_sizes() == {Split.TRAIN: 3, Split.VALIDATION: 4, Split.TEST: 3}
    assert (await task.grade(_items(1)[0], 0.0, None)).score == 1.0
    assert len(task.answer_key()) == 10


# --- feedback ---------------------------------------------------------------


def _evaluation(statuses, split=Split.VALIDATION):
    outcomes = tuple(
        ItemOutcome(
            item_id=f"q/{i}",
            status=status,
            score=float(status is ItemStatus.RIGHT),
            answer=str(i),
            symptom="" if status is ItemStatus.RIGHT else "far" if status is ItemStatus.WRONG else "KeyError",
            usd=0.0 if status is ItemStatus.NOT_EVALUATED else 0.5,
        )
        for i, status in enumerate(statuses)
    )
    return Evaluation(task="t", split=split, workflow_digest="w", outcomes=outcomes)


_R, _W, _B, _N = ItemStatus.RIGHT, ItemStatus.WRONG, ItemStatus.BROKE, ItemStatus.NOT_EVALUATED


def test_feedback_counts_what_was_evaluated():
    feedback = make_feedback(_items(6), _evaluation([_R, _W, _W, _B, _N, _R]), seed=0, max_cases=10)
    assert feedback.score == pytest.approx(0.4)
    assert feedback.accuracy == pytest.approx(0.4)
    assert feedback.n == 5
    assert feedback.usd_per_item == pytest.approx(0.5)
    assert feedback.symptoms == {"far": 2, "KeyError": 1}
    assert len(feedback.cases) == 5


def test_the_score_is_the_mean_of_the_metric_and_the_accuracy_the_share_at_one():
    """F1 of 0.8 and 1.0: mean 0.9, one of two wholly right."""
    partly, whole = _evaluation([_W, _R]).outcomes
    evaluation = dataclasses.replace(_evaluation([]), outcomes=(dataclasses.replace(partly, score=0.8), whole))
    feedback = make_feedback(_items(2), evaluation, seed=0, max_cases=2, metric="f1")
    assert (feedback.score, feedback.accuracy, feedback.n) == (0.9, 0.5, 2)
    assert (evaluation.score, evaluation.accuracy) == (0.9, 0.5)


def test_feedback_on_the_test_split_is_refused():
    with pytest.raises(SealedSplitError, match="split=test"):
        make_feedback(_items(2), _evaluation([_R, _W], Split.TEST), seed=0, max_cases=1)


def test_feedback_on_items_of_elsewhere_is_refused():
    with pytest.raises(InputError, match="'q/1'"):
        make_feedback(_items(1), _evaluation([_R, _W]), seed=0, max_cases=1)


def test_cases_show_failures_first_and_are_bounded():
    statuses = [_R] * 10 + [_W] * 3 + [_B]
    cases = make_feedback(_items(14), _evaluation(statuses), seed=1, max_cases=6).cases
    assert [case.status is _R for case in cases] == [False] * 4 + [True] * 2


def test_cases_depend_on_the_seed_and_not_on_the_order_of_outcomes():
    items, evaluation = _items(40), _evaluation([_W] * 40)
    turned = Evaluation(task="t", split=Split.VALIDATION, workflow_digest="w", outcomes=evaluation.outcomes[::-1])
    cases = make_feedback(items, evaluation, seed=1, max_cases=5).cases
    assert cases == make_feedback(items, turned, seed=1, max_cases=5).cases
    assert cases != make_feedback(items, evaluation, seed=2, max_cases=5).cases


def test_a_case_is_readable_and_its_length_is_bounded():
    item = Item(id="q/0", question="x" * 10_000, target=-9867630.0)
    case = make_feedback([item], _evaluation([_W]), seed=0, max_cases=1).cases[0]
    assert case.target == "-9867630"
    assert case.question == "x" * 4_000 + " … (6000 more characters)"


def test_a_target_is_written_as_a_reader_would():
    assert [base.target_text(t) for t in (18.0, 0.5, "Paris", 7)] == ["18", "0.5", "Paris", "7"]
    assert json.loads(base.target_text({"test": "assert f(1) == 2"})) == {"test": "assert f(1) == 2"}
