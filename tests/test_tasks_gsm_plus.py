"""GSM-Plus: no seed problem in two splits, rows without an answer counted, and which of the hub's splits is read."""

import itertools

import pytest
import small_benchmarks as small

from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.gsm_plus import load_gsm_plus
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.types import InputError, Split


def _load(folder, rows, split="testmini", variant="", **sizes):
    small.write_rows(folder / "gsm_plus" / f"{split}.jsonl", rows)
    return load_gsm_plus(variant, TaskOptions(data_dir=folder, sizes=SplitSizes(**sizes)))


def _rows(n, start=0):
    return [small.gsm_plus_row(i) for i in range(start, start + n)]


def _seeds(task, split):
    return {item.metadata["seed_question"] for item in task.items(split)}


@pytest.mark.parametrize("n", [24, 80, 96, 800, 2_400])
def test_no_seed_problem_stands_in_two_splits_of_a_pool_of_any_size(tmp_path, n):
    task = _load(tmp_path, _rows(n))
    seeds = [_seeds(task, split) for split in Split]
    assert all(seeds[i].isdisjoint(seeds[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert task.items(Split.VALIDATION)
    assert len(task.items(Split.TEST)) > len(task.items(Split.VALIDATION))
    if n < 640:
        assert sum(len(task.items(split)) for split in Split) == n * 7 / 8


def test_the_sizes_of_the_others_do_not_decide_what_is_tested(tmp_path):
    tests = {}
    for train, validation, test in itertools.product((None, 0, 7), (None, 0, 2, 3), (None, 0, 1, 10)):
        if train and validation is None:
            continue  # Each of its groups has an item in validation.
        task = _load(tmp_path, _rows(160), train=train, validation=validation, test=test)
        tests.setdefault(test, []).append(task.items(Split.TEST))
        seeds = [_seeds(task, split) for split in Split]
        assert all(seeds[i].isdisjoint(seeds[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
        assert len(task.items(Split.TRAIN)) == (train or 0)
    assert all(items == own[0] for own in tests.values() for items in own)
    assert all(own[0] == tests[None][0][: len(own[0])] for own in tests.values())
    # 16 of 20 seed problems are test's (500 of 628 items), and each has seven rows.
    assert (len(tests[None][0]), len(_load(tmp_path, _rows(160)).items(Split.VALIDATION))) == (112, 28)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"test": 57}, "test_size=57 exceeds the 56 items of test's groups; ask for 56 or fewer"),
        ({"validation": 15}, "validation_size=15 exceeds the 14 items of validation's groups"),
        (
            {"train": 1, "validation": 2},
            "train_size=1 exceeds the 0 items .*; ask for fewer, or for a smaller validation",
        ),
    ],
)
def test_more_than_the_groups_of_a_split_hold_is_refused(tmp_path, sizes, message):
    with pytest.raises(InputError, match=message):
        _load(tmp_path, _rows(80), **sizes)


def test_rows_without_an_answer_are_left_out_and_counted(tmp_path):
    task = _load(tmp_path, _rows(24))
    items = [item for split in Split for item in task.items(split)]
    assert len(items) == 21
    assert "without its 3 rows that have no answer" in task.source
    assert all(item.metadata["perturbation_type"] != "critical thinking" for item in items)
    assert {int(item.id.split("/")[2]) for item in items} == set(range(24)) - {7, 15, 23}


@pytest.mark.parametrize("answer", ["None", None, "seven", "nan"])
def test_another_row_without_a_number_is_named(tmp_path, answer):
    rows = _rows(16)
    rows[4]["answer"] = answer
    with pytest.raises(InputError, match=r"testmini\.jsonl:5: field 'answer' is .*only rows of 'critical thinking'"):
        _load(tmp_path, rows)


async def test_an_answer_is_graded_as_of_gsm8k_and_has_its_program_where_that_computes_it(tmp_path):
    task = _load(tmp_path, _rows(24))
    items = {item.id: item for split in Split for item in task.items(split)}
    fraction, whole = items["gsm_plus/testmini/2"], items["gsm_plus/testmini/1"]
    assert (fraction.target, whole.target) == (0.25, 39.0)
    assert "program" not in fraction.metadata
    assert whole.metadata["program"] == "def solution():\n    step_1 = 3*13\n    return step_1"
    assert (await task.grade(fraction, "1/4", None)).score == 1.0
    assert (await task.grade(whole, "It is 39 in all.", None)).score == 1.0
    assert (await task.grade(whole, "40", None)).symptom == "close"


def test_a_variant_chooses_the_split_and_without_one_testmini_comes_first(tmp_path):
    only_test = _load(tmp_path / "a", _rows(24, start=80), "test")
    assert all(item.id.startswith("gsm_plus/test/") for item in only_test.items(Split.TEST))
    small.write_rows(tmp_path / "a" / "gsm_plus" / "testmini.jsonl", _rows(24))
    options = TaskOptions(data_dir=tmp_path / "a")
    for variant, split in (("", "testmini"), ("testmini", "testmini"), ("test", "test")):
        task = load_gsm_plus(variant, options)
        assert task.name == "gsm_plus" + (f":{variant}" if variant else "")
        assert all(item.id.startswith(f"gsm_plus/{split}/") for item in task.items(Split.TEST))
