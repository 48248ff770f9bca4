"""A task from a user's file, and every way in which the file can be bad."""

import json

import pytest

from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.custom import CustomFormat, Scorer, load_custom
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.types import InputError, Split

NUMERIC = CustomFormat(scorer=Scorer.NUMERIC)


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _load(path, file_format=NUMERIC, **sizes):
    return load_custom(path, file_format, TaskOptions(sizes=SplitSizes(**sizes)))


def _sums(n):
    return [{"question": f"{i} + {i}?", "answer": 2 * i} for i in range(n)]


async def test_a_file_of_numbers_becomes_a_task(tmp_path):
    task = _load(_write(tmp_path / "sums.jsonl", _sums(50)))
    items = [item for split in Split for item in task.items(split)]
    assert [len(task.items(s)) for s in (Split.TRAIN, Split.VALIDATION, Split.TEST)] == [20, 10, 20]
    assert {item.id for item in items} == {f"sums/{i}" for i in range(50)}
    item = next(item for item in items if item.id == "sums/7")
    assert (await task.grade(item, "It is 14.", None)).score == 1.0
    assert (await task.grade(item, "It is 15.", None)).symptom == "close"


async def test_fields_scorer_and_description_are_as_told(tmp_path):
    (tmp_path / "about.txt").write_text("Capitals of the world.\n")
    path = _write(tmp_path / "c.jsonl", [{"in": f"Capital of {i}?", "out": f"City {i}"} for i in range(5)])
    task = _load(path, CustomFormat(input_field="in", target_field="out", description=tmp_path / "about.txt"))
    [item] = task.items(Split.VALIDATION)
    assert task.description == "Capitals of the world."
    assert (await task.grade(item, item.target.upper(), None)).score == 1.0
    assert (await task.grade(item, "Atlantis", None)) == (0.0, "different")


def test_sizes_are_as_told(tmp_path):
    task = _load(_write(tmp_path / "s.jsonl", _sums(10)), validation=6, test=4)
    assert [len(task.items(s)) for s in (Split.TRAIN, Split.VALIDATION, Split.TEST)] == [0, 6, 4]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": 1}, r"rows\.jsonl:2: field 'question' is missing"),
        ({"question": 7, "answer": 1}, r"rows\.jsonl:2: field 'question' is 7"),
        ({"question": "?"}, r"rows\.jsonl:2: field 'answer' is missing"),
        ({"question": "?", "answer": None}, r"rows\.jsonl:2: field 'answer' is None"),
        ({"question": "?", "answer": True}, r"rows\.jsonl:2: field 'answer' is True"),
        ({"question": "?", "answer": "many"}, r"rows\.jsonl:2: .*scorer=numeric needs a number"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, row, message):
    path = _write(tmp_path / "rows.jsonl", [{"question": "1?", "answer": 1}, row])
    with pytest.raises(InputError, match=message):
        _load(path)


def test_a_missing_file_and_a_missing_description_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl does not exist"):
        _load(tmp_path / "none.jsonl")
    path = _write(tmp_path / "s.jsonl", _sums(5))
    with pytest.raises(InputError, match=r"about\.txt cannot be read"):
        _load(path, CustomFormat(scorer=Scorer.NUMERIC, description=tmp_path / "about.txt"))
