r"""MATH and MATH-500: the gold answer is what a solution boxes last; subjects and levels are chosen by name."""

import pytest
import small_benchmarks as small

from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.competition import SUBJECTS, load_math, load_math_500
from w4s_jax.types import InputError, Split


def _items(task):
    return {item.id: item for split in Split for item in task.items(split)}


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"So $x=\boxed{5}$.", "5"),
        (r"First \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"The set is $\boxed{\{1,2\}}$.", r"\{1,2\}"),
        (r"It is $\boxed 5$ in all.", "5"),
        (r"It is \fbox{ 12 }.", "12"),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}"),
        (r"\boxed{3} and then an open \boxed{4", "3"),
        (r"\boxed{\boxed{7}}", "7"),
    ],
)
def test_the_last_balanced_box_is_the_answer(tmp_path, solution, answer):
    row = small.math_row(0, "algebra") | {"solution": solution}
    small.write_rows(tmp_path / "math" / "test.jsonl", [row])
    [item] = _items(load_math("", TaskOptions(data_dir=tmp_path))).values()
    assert item.target == answer


def test_an_answer_comes_before_the_box_and_may_be_any_plain_value(tmp_path):
    rows = [small.math_500_row(i) for i in range(8)]
    rows[0] |= {"answer": " 3 ", "solution": r"\boxed{4}"}
    rows[1] |= {"answer": 12}
    rows[2] |= {"answer": "", "solution": r"\boxed{4}"}
    del rows[3]["answer"]
    small.write_rows(tmp_path / "math-500" / "test.jsonl", rows)
    targets = {key.rpartition("/")[2]: item.target for key, item in _items(_math_500(tmp_path)).items()}
    assert [targets[str(i)] for i in range(4)] == ["3", "12", "4", "(2,7)"]


def test_a_question_ends_with_the_form_of_its_answer(tmp_path):
    small.write_rows(tmp_path / "math" / "test.jsonl", [small.math_row(4, "algebra")])
    small.write_rows(tmp_path / "math-500" / "test.jsonl", [small.math_500_row(4)])
    for task, place in (
        (load_math("", TaskOptions(data_dir=tmp_path)), "Sheet 4 of Algebra"),
        (_math_500(tmp_path), "Page 4 of Number Theory"),
    ):
        [item] = _items(task).values()
        assert item.question == f"What is $7 \\cdot 7$? ({place}.)\n\nGive the final answer in LaTeX."


def _math_500(folder, variant=""):
    return load_math_500(variant, TaskOptions(data_dir=folder))


def test_boxes_and_answers_of_the_small_rows_agree(tmp_path):
    rows = [small.math_500_row(i) for i in range(40)]
    for name in ("given", "boxed"):
        small.write_rows(tmp_path / name / "math_500" / "test.jsonl", rows)
        rows = [{key: value for key, value in row.items() if key != "answer"} for row in rows]
    given, boxed = (_items(_math_500(tmp_path / name)) for name in ("given", "boxed"))
    assert given == boxed


@pytest.mark.parametrize(
    "fields",
    [{"solution": "no box"}, {"solution": None}, {"solution": r"\boxed{", "answer": ""}, {"solution": r"\boxed{ }"}],
)
def test_a_row_without_an_answer_is_named_by_its_line(tmp_path, fields):
    rows = [small.math_row(i, "algebra") for i in range(3)]
    rows[2] |= fields
    small.write_rows(tmp_path / "math" / "test.jsonl", rows)
    with pytest.raises(InputError, match=r"test\.jsonl:3: neither field 'answer' nor a \\boxed"):
        load_math("", TaskOptions(data_dir=tmp_path))


def test_one_file_and_seven_files_give_the_same_items(tmp_path):
    rows = {subject: [small.math_row(i, subject) for i in range(6)] for subject in SUBJECTS}
    for subject, own in rows.items():
        small.write_rows(tmp_path / "seven" / "math" / f"{subject}_test.jsonl", own)
    small.write_rows(tmp_path / "one" / "math" / "test.jsonl", [row for own in rows.values() for row in own])
    for variant in ("", "algebra", "geometry+level3", "aflow", "prealgebra+algebra+level1+level2"):
        seven, one = (load_math(variant, TaskOptions(data_dir=tmp_path / f)) for f in ("seven", "one"))
        assert _items(seven) == _items(one)
        assert seven.name == "math" + (f":{variant}" if variant else "")


def test_a_variant_chooses_by_subject_and_by_level(tmp_path):
    small.write_rows(tmp_path / "math" / "test.jsonl", [small.math_row(i, s) for s in SUBJECTS for i in range(10)])
    options = TaskOptions(data_dir=tmp_path)

    def chosen(variant):
        return {(i.metadata["subject"], i.metadata["level"]) for i in _items(load_math(variant, options)).values()}

    assert chosen("algebra+level4+level5") == {("algebra", "level4"), ("algebra", "level5")}
    assert chosen("level1") == {(subject, "level1") for subject in SUBJECTS}
    four = ("counting_and_probability", "number_theory", "prealgebra", "precalculus")
    assert chosen("aflow") == {(subject, "level5") for subject in four}
    assert len(chosen("")) == 35
    assert "geometry" in load_math("geometry", options).description


def test_levels_are_read_in_every_spelling_and_an_unknown_one_matches_none(tmp_path):
    rows = [small.math_500_row(0) | {"unique_id": f"test/{i}.json"} for i in range(4)]
    for row, level in zip(rows, (5, "5", "Level 5", "Level ?"), strict=True):
        row["level"] = level
    small.write_rows(tmp_path / "math_500" / "test.jsonl", rows)
    assert set(_items(_math_500(tmp_path, "level5"))) == {f"math_500/test/{i}" for i in range(3)}
    assert len(_items(_math_500(tmp_path))) == 4


def test_ids_come_from_the_row_else_from_its_place_in_its_subject(tmp_path):
    rows = [small.math_500_row(i) for i in range(8)]
    del rows[7]["unique_id"]
    small.write_rows(tmp_path / "math-500" / "test.jsonl", rows)
    ids = set(_items(_math_500(tmp_path)))
    assert {"math_500/test/algebra/0", "math_500/test/precalculus/6", "math_500/algebra/1"} < ids


def test_an_unknown_subject_is_named_by_its_line(tmp_path):
    small.write_rows(tmp_path / "math" / "test.jsonl", [small.math_row(0, "algebra") | {"type": "Topology"}])
    with pytest.raises(InputError, match=r"test\.jsonl:1: subject 'Topology' is unknown; it must be one of algebra"):
        load_math("", TaskOptions(data_dir=tmp_path))


def test_a_missing_file_of_one_subject_is_not_passed_over(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(pytest.importorskip("datasets"), "load_dataset_builder", fail)
    small.write_rows(tmp_path / "math" / "algebra_test.jsonl", [small.math_row(i, "algebra") for i in range(9)])
    with pytest.raises(InputError, match=r"put its rows into .*math/geometry_test\.jsonl"):
        load_math("algebra+geometry", TaskOptions(data_dir=tmp_path))
    assert len(_items(load_math("algebra", TaskOptions(data_dir=tmp_path)))) == 9
