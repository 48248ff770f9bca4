"""MMLU-Pro and GPQA: options under letters, letters that do not move, and bad rows named."""

import collections
import csv

import pytest
import small_benchmarks as small

from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.choice import load_gpqa, load_mmlu_pro
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.types import InputError, Split

ROW = {
    "question_id": 5,
    "question": "Which is red?",
    "options": ["Grass", "Blood", "Snow", "N/A", "N/A"],
    "answer": "B",
    "answer_index": 1,
    "category": "computer science",
}


def _items(task):
    return {item.id: item for split in Split for item in task.items(split)}


def _mmlu_pro(folder, rows, variant=""):
    small.write_rows(folder / "mmlu_pro" / "test.jsonl", rows)
    return load_mmlu_pro(variant, TaskOptions(data_dir=folder))


def _gpqa(folder, rows, seed=0, variant="", name="train", **sizes):
    small.write_rows(folder / "gpqa" / f"{name}.jsonl", rows)
    return load_gpqa(variant, TaskOptions(data_dir=folder, split_seed=seed, sizes=SplitSizes(**sizes)))


def _option(item, letter):
    [line] = [line for line in item.question.splitlines() if line.startswith(f"{letter}) ")]
    return line.removeprefix(f"{letter}) ")


# --- MMLU-Pro ---------------------------------------------------------------


async def test_options_stand_under_letters_without_their_padding(tmp_path):
    task = _mmlu_pro(tmp_path, [ROW])
    item = _items(task)["mmlu_pro/test/5"]
    assert item.question == (
        "Which is red?\n\nA) Grass\nB) Blood\nC) Snow\n\nWhich option is right? Answer with its letter."
    )
    assert (item.target, item.metadata) == ("B", {"num_choices": 3, "category": "computer_science"})
    assert (await task.grade(item, "The answer is (B).", None)).score == 1.0
    assert (await task.grade(item, "C", None)).score == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer": "D", "answer_index": 3}, "field 'answer' is 'D'; it must be a letter from A to C"),
        ({"answer": "BC"}, "field 'answer' is 'BC'; it must be a letter"),
        ({"answer": "1"}, "field 'answer' is '1'; it must be a letter"),
        ({"answer_index": 2}, "field 'answer_index' is 2, but 'answer' is 'B', which is 1"),
        ({"options": ["Grass", " ", "Snow"]}, "field 'options' is .*it must be a list of 2 to 26 texts, none empty"),
        ({"options": ["Grass", "Blood", None]}, "field 'options' is .*none empty"),
        ({"options": ["Blood"]}, "field 'options' is .*2 to 26"),
        ({"options": []}, "field 'options' is .*2 to 26"),
        ({"options": "Grass, Blood"}, "field 'options' is 'Grass, Blood'; it must be a list of texts"),
        ({"question": ""}, "field 'question' is ''"),
    ],
)
def test_a_bad_row_of_mmlu_pro_is_named_by_its_line(tmp_path, fields, message):
    with pytest.raises(InputError, match=rf"test\.jsonl:2: {message}"):
        _mmlu_pro(tmp_path, [ROW, ROW | {"question_id": 6} | fields])


def test_letters_and_numbers_are_read_leniently(tmp_path):
    lenient = ROW | {"answer": " b ", "answer_index": "1", "options": [1, 2.5, 3]}
    item = _items(_mmlu_pro(tmp_path, [lenient]))["mmlu_pro/test/5"]
    assert (item.target, _option(item, "B")) == ("B", "2.5")


def test_a_variant_chooses_categories_and_says_so(tmp_path):
    rows = [small.mmlu_pro_row(i) for i in range(24)]
    task = _mmlu_pro(tmp_path, rows, "computer_science+law")
    assert {item.metadata["category"] for item in _items(task).values()} == {"computer_science", "law"}
    assert len(_items(task)) == 12
    assert task.name == "mmlu_pro:computer_science+law"
    assert "computer science, law" in task.description
    with pytest.raises(InputError, match=r"task mmlu_pro:law\+magic: 'magic' is unknown; it takes some of biology"):
        _mmlu_pro(tmp_path, rows, "law+magic")


def test_the_hubs_validation_split_is_train_where_it_is_there(tmp_path):
    rows = [small.mmlu_pro_row(i) for i in range(24)]
    assert not _mmlu_pro(tmp_path, rows).items(Split.TRAIN)
    small.write_rows(tmp_path / "mmlu_pro" / "validation.jsonl", [small.mmlu_pro_row(i) for i in range(24, 32)])
    task = _mmlu_pro(tmp_path, rows, "law")
    assert [item.id for item in task.items(Split.TRAIN)] == ["mmlu_pro/validation/95", "mmlu_pro/validation/99"]


# --- GPQA -------------------------------------------------------------------


async def test_the_right_option_stands_under_the_gold_letter(tmp_path):
    task = _gpqa(tmp_path, [small.gpqa_row(i) for i in range(198)])
    for i, item in ((int(key[-4:]), item) for key, item in _items(task).items()):
        row = small.gpqa_row(i)
        assert _option(item, item.target) == row["Correct Answer"].strip()
        shown = {_option(item, letter) for letter in "ABCD"}
        assert shown == {row[f].strip() for f in row if f.endswith("Answer") or f.startswith("Incorrect")}
    assert (await task.grade(item, f"Answer: {item.target}", None)).score == 1.0


def test_gold_letters_are_spread_evenly(tmp_path):
    task = _gpqa(tmp_path, [small.gpqa_row(i) for i in range(400)])
    spread = collections.Counter(item.target for item in _items(task).values())
    assert sorted(spread) == list("ABCD")
    assert all(70 < count < 130 for count in spread.values())


def test_letters_depend_on_seed_and_content_not_on_place_or_size(tmp_path):
    rows = [small.gpqa_row(i) for i in range(40)]
    own = _items(_gpqa(tmp_path / "own", rows))
    turned = _items(_gpqa(tmp_path / "turned", rows[::-1]))
    cut = _items(_gpqa(tmp_path / "cut", rows, validation=3, test=9))
    other = _items(_gpqa(tmp_path / "other", rows, seed=1))
    assert own == turned
    assert cut.items() <= own.items()
    assert sum(own[key].target != other[key].target for key in own) > 15


def test_ids_come_from_the_record_else_from_the_subset_and_place(tmp_path):
    rows = [small.gpqa_row(i) for i in range(4)]
    del rows[2]["Record ID"]
    expected = {"gpqa/recSmall0000", "gpqa/recSmall0001", "gpqa/diamond/2", "gpqa/recSmall0003"}
    assert set(_items(_gpqa(tmp_path, rows))) == expected


@pytest.mark.parametrize(("variant", "name"), [("main", "gpqa_main_train"), ("extended", "gpqa_extended_train")])
def test_another_subset_has_a_file_with_its_own_name(tmp_path, monkeypatch, variant, name):
    def fail(*_args, **_kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(pytest.importorskip("datasets"), "load_dataset_builder", fail)
    rows = [small.gpqa_row(i) for i in range(10)]
    with pytest.raises(InputError, match=rf"put its rows into .*gpqa/{name}\.jsonl"):
        _gpqa(tmp_path, rows, variant=variant)
    assert len(_items(_gpqa(tmp_path, rows, variant=variant, name=name))) == 10


@pytest.mark.parametrize("value", ["", " \n", None, True])
@pytest.mark.parametrize("field", ["Correct Answer", "Incorrect Answer 2"])
def test_an_empty_option_of_gpqa_is_named_by_its_line(tmp_path, field, value):
    rows = [small.gpqa_row(0), small.gpqa_row(1) | {field: value}]
    with pytest.raises(InputError, match=rf"train\.jsonl:2: field '{field}' is .*a text that is not empty"):
        _gpqa(tmp_path, rows)


def test_the_sources_own_csv_is_read(tmp_path):
    rows = [small.gpqa_row(i) for i in range(12)]
    (tmp_path / "gpqa").mkdir()
    with (tmp_path / "gpqa" / "gpqa_diamond_train.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    from_csv = load_gpqa("", TaskOptions(data_dir=tmp_path))
    assert _items(from_csv) == _items(_gpqa(tmp_path / "lines", rows))
