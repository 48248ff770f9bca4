"""GSM-Hard, GSM8K and MGSM: the published splits on the real files, bad rows on small ones."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import small_benchmarks as small

from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.gold_programs import annotated_program
from w4s_jax.tasks.math import load_gsm8k, load_gsm_hard
from w4s_jax.tasks.mgsm import load_mgsm
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.types import InputError, Split

DATA = Path(__file__).resolve().parents[2] / "shared" / "datasets"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real benchmark files are not beside the repository")

OWN = TaskOptions(data_dir=DATA)


def _ids(items):
    return [item.id for item in items]


def _sizes(task):
    return [len(task.items(split)) for split in (Split.TRAIN, Split.VALIDATION, Split.TEST)]


def _disjoint(task):
    ids = [item.id for split in Split for item in task.items(split)]
    return len(ids) == len(set(ids))


def _run(program):
    """Value of a data set's own gold program."""
    names = {}
    exec(program, names)
    return names["solution"]()


@real
def test_gsm_hard_has_the_splits_of_w4s():
    import datasets

    task = load_gsm_hard("", OWN)
    order = datasets.Dataset.from_dict({"row": list(range(1319))}).shuffle(seed=0)["row"]
    assert _sizes(task) == [491, 138, 500]
    assert _disjoint(task)
    assert _ids(task.items(Split.VALIDATION)[:128]) == [f"gsm_hard/{row}" for row in order[:128]]
    assert {*_ids(task.items(Split.VALIDATION)[128:])} < {f"gsm_hard/{row}" for row in order[628:828]}
    assert _ids(task.items(Split.TEST)) == [f"gsm_hard/{row}" for row in order[128:628]]
    assert _ids(task.items(Split.TRAIN)) == [f"gsm_hard/{row}" for row in order[828:]]


@real
def test_most_gsm_hard_targets_exceed_a_million():
    targets = [item.target for split in Split for item in load_gsm_hard("", OWN).items(split)]
    assert sum(abs(target) > 1e6 for target in targets) / len(targets) == pytest.approx(0.59, abs=0.02)


@real
def test_a_gold_program_of_gsm_hard_computes_its_target():
    for item in load_gsm_hard("", OWN).items(Split.VALIDATION):
        assert abs(_run(item.metadata["program"]) - item.target) < 0.1


@real
async def test_a_real_target_is_graded_right_however_it_is_written():
    task = load_gsm_hard("", OWN)
    item = next(item for item in task.items(Split.VALIDATION) if item.target > 1e6)
    for answer in (item.target, str(item.target), f"${item.target:,.2f}", f"The answer is {item.target:,.1f} dollars."):
        assert (await task.grade(item, answer, None)).score == 1.0
    wrong = await task.grade(item, str(item.target * 10), None)
    assert wrong == (0.0, "factor")


@real
def test_another_split_seed_gives_other_splits_and_the_same_seed_the_same():
    first, again, other = (
        _ids(load_gsm_hard("", TaskOptions(data_dir=DATA, split_seed=seed, sizes=SplitSizes())).items(Split.TEST))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@real
def test_sizes_shrink_and_grow_gsm_hard_without_moving_the_test():
    own = load_gsm_hard("", OWN)
    grown = load_gsm_hard("", TaskOptions(data_dir=DATA, split_seed=0, sizes=SplitSizes(validation=400)))
    shrunk = load_gsm_hard("", TaskOptions(data_dir=DATA, split_seed=0, sizes=SplitSizes(validation=20, test=100)))
    assert _sizes(grown) == [419, 400, 500]
    assert _sizes(shrunk) == [491, 20, 100]
    assert grown.items(Split.TEST) == own.items(Split.TEST)
    assert _ids(shrunk.items(Split.TEST)) == _ids(own.items(Split.TEST))[:100]
    assert _disjoint(grown)


@real
def test_gsm8k_has_the_sizes_of_aflow_and_its_train_split():
    task = load_gsm8k("", OWN)
    assert _sizes(task) == [7473, 264, 1055]
    assert _disjoint(task)
    first = next(item for split in Split for item in task.items(split) if item.id == "gsm8k/test/0")
    assert first.target == 18.0
    assert _run(first.metadata["program"]) == 18


@real
def test_most_gsm8k_items_have_a_program_that_computes_their_answer():
    items = [item for split in (Split.VALIDATION, Split.TEST) for item in load_gsm8k("", OWN).items(split)]
    programs = [(item.metadata["program"], item.target) for item in items if "program" in item.metadata]
    assert len(programs) / len(items) > 0.9
    assert all(math.isclose(_run(program), target, rel_tol=1e-9) for program, target in programs)


@real
def test_mgsm_is_split_by_problem_over_all_languages():
    task = load_mgsm("", OWN)
    problems = {split: {item.id.rpartition("/")[2] for item in task.items(split)} for split in Split}
    assert _sizes(task) == [0, 150, 600]
    assert len(problems[Split.VALIDATION]) == 50
    assert not problems[Split.VALIDATION] & problems[Split.TEST]
    first = task.items(Split.VALIDATION)[:50]
    assert len({item.id.rpartition("/")[2] for item in first}) == 50
    assert {item.id.split("/")[1] for item in first[:3]} == {"de", "en", "zh"}


def _mgsm(folder, **sizes):
    for language in ("en", "de"):
        small.write_rows(folder / "mgsm" / f"{language}_test.jsonl", [small.mgsm_row(i, language) for i in range(40)])
    task = load_mgsm("", TaskOptions(data_dir=folder, sizes=SplitSizes(**sizes)))
    return task, [{item.id.rpartition("/")[2] for item in task.items(split)} for split in Split]


def test_no_problem_of_mgsm_is_in_two_splits_whatever_sizes_are_asked_for(tmp_path):
    tests = {}
    for validation in (0, 5, 16, 17, 30, 50, 70, 78):
        for test in (0, 1, 10, 36):
            try:
                task, (_, own, tested) = _mgsm(tmp_path, validation=validation, test=test)
            except InputError:  # 16 items and both languages of the problems that are not tested
                assert validation > 16 + 2 * (32 - min(test, 32))
                continue
            assert validation <= 16 + 2 * (32 - min(test, 32))
            assert not own & tested
            assert _sizes(task) == [0, validation, test]
            assert tests.setdefault(test, task.items(Split.TEST)) == task.items(Split.TEST)


@real
def test_the_splits_of_mgsm_are_those_of_former_results():
    def members(**sizes):
        task = load_mgsm("en+de+zh", TaskOptions(data_dir=DATA, sizes=SplitSizes(**sizes)))
        names = [" ".join(item.id for item in task.items(split)) for split in (Split.VALIDATION, Split.TEST)]
        return [hashlib.sha256(text.encode()).hexdigest()[:12] for text in names]

    assert members() == ["2afbac06b976", "07a8c639a73c"]
    assert members(validation=20, test=36) == ["4350a3bbe347", "c103dfc8616c"]


@real
def test_mgsm_in_one_language_has_its_published_number_of_problems():
    task = load_mgsm("de", OWN)
    assert _sizes(task) == [0, 50, 200]
    assert task.name == "mgsm:de"
    assert "German" in task.description


def test_an_unknown_language_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="'xx' is unknown; take some of bn, de, en"):
        load_mgsm("xx", OWN)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?", "answer": "no mark 18"}, "has no number behind ####"),
        ({"question": "?", "answer": "#### eighteen"}, "has no number behind ####"),
        ({"question": "", "answer": "#### 18"}, "field 'question' is ''"),
        ({"question": "?"}, "field 'answer' is missing"),
    ],
)
def test_a_bad_gsm8k_row_is_named_by_its_line(tmp_path, row, message):
    (tmp_path / "gsm8k").mkdir()
    good = json.dumps({"question": "1 + 1?", "answer": "#### 2"})
    (tmp_path / "gsm8k" / "test.jsonl").write_text(f"{good}\n{json.dumps(row)}\n")
    with pytest.raises(InputError, match=rf"test\.jsonl:2: .*{message}"):
        load_gsm8k("", TaskOptions(data_dir=tmp_path, split_seed=0, sizes=SplitSizes()))


@pytest.mark.parametrize("target", [None, "many", float("nan"), True])
def test_a_gsm_hard_target_that_is_no_number_is_named_by_its_line(tmp_path, target):
    (tmp_path / "gsm-hard").mkdir()
    (tmp_path / "gsm-hard" / "train.jsonl").write_text(json.dumps({"input": "?", "code": "x", "target": target}))
    with pytest.raises(InputError, match=r"train\.jsonl:1: field 'target' is"):
        load_gsm_hard("", TaskOptions(data_dir=tmp_path, split_seed=0, sizes=SplitSizes()))


@pytest.mark.parametrize(
    "solution",
    [
        "no annotation",
        "<<2+2=4>>4",
        "<<1/0=5>>5",
        "<<__import__('os').getpid()=5>>5",
        "<<9**9**9**9=5>>5",
        "<<True+4=5>>5",
        "<<" + "(" * 5_000 + "5=5>>5",
    ],
)
def test_annotations_that_are_not_arithmetic_to_the_answer_give_no_program(solution):
    assert annotated_program(solution, 5.0) is None


def test_annotations_become_a_program_by_hand():
    program = annotated_program("She has <<48/2=24>>24. Together <<48+24=72>>72.", 72.0)
    assert program == "def solution():\n    step_1 = 48/2\n    step_2 = 48+24\n    return step_2"
