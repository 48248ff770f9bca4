"""DROP and HotpotQA: references from every form of the hub's rows, and what a workflow is asked."""

import pytest
import small_benchmarks as small

from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.qa import load_drop, load_hotpotqa
from w4s_jax.types import InputError, Split

NO_DATE = {"day": "", "month": "", "year": ""}
DROP = {"query_id": "q1", "passage": " It was so. ", "question": " When was it? "}
HOTPOT = {"id": "h1", "question": "Where?", "answer": "Here", "type": "bridge", "level": "hard"}


def _only(task):
    [item] = [item for split in Split for item in task.items(split)]
    return item


def _drop(folder, row, variant=""):
    small.write_rows(folder / "drop" / "validation.jsonl", [DROP | row])
    return load_drop(variant, TaskOptions(data_dir=folder))


def _answer(number="", spans=(), date=NO_DATE):
    return {"number": number, "date": date, "spans": list(spans), "worker_id": "w", "hit_id": "h"}


def _columns(*answers):
    return {key: [answer[key] for answer in answers] for key in ("number", "date", "spans", "worker_id", "hit_id")}


MAY = {"day": "3", "month": "May", "year": "1911"}


@pytest.mark.parametrize(
    ("row", "references"),
    [
        ({"answers_spans": {"spans": ["4", "4"], "types": ["number", "number"]}}, [["4"]]),
        ({"answers_spans": {"spans": ["a b", " a b "], "types": []}}, [["a b"]]),
        ({"answers_spans": {"spans": ["A", "B", "A"], "types": []}}, [["A"], ["B"], ["A", "B"]]),
        ({"answers_spans": ["4", "5"]}, [["4"], ["5"], ["4", "5"]]),
        ({"answer": _answer("7")}, [["7"]]),
        ({"answer": _answer(0)}, [["0"]]),
        ({"answer": _answer("", ["A", "B"])}, [["A", "B"]]),
        ({"answer": _answer(date=MAY)}, [["3 May 1911"]]),
        ({"answer": _answer(date=MAY | {"day": ""})}, [["May 1911"]]),
        ({"answer": {"spans": ["A"]}, "validated_answers": None}, [["A"]]),
        ({"answer": _answer("7"), "validated_answers": [_answer("8"), _answer("7")]}, [["7"], ["8"]]),
        ({"answer": _answer("7"), "validated_answers": _columns()}, [["7"]]),
        ({"answer": _answer("7"), "validated_answers": _columns(_answer())}, [["7"]]),
        (
            {"answer": _answer("7"), "validated_answers": _columns(_answer("8"), _answer("", "AB"), _answer(date=MAY))},
            [["7"], ["8"], ["A", "B"], ["3 May 1911"]],
        ),
        (
            {
                "answer": _answer("7"),
                "validated_answers": {
                    "number": ["", "9"],
                    "date": {"day": ["3", ""], "month": ["May", ""], "year": ["1911", ""]},
                    "spans": [[], []],
                },
            },
            [["7"], ["3 May 1911"], ["9"]],
        ),
        ({"answer": _answer(), "validated_answers": _columns(_answer("8"))}, [["8"]]),
    ],
)
def test_every_form_of_the_hubs_answers_gives_references(tmp_path, row, references):
    item = _only(_drop(tmp_path, row))
    assert item.target == references
    assert item.metadata["answer"] == " | ".join(references[0])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answers_spans": {"spans": [], "types": []}}, "no answer has a number, a date or a span"),
        ({"answers_spans": {"spans": "4"}}, "field 'spans' of an answer is '4'; it must be a list"),
        ({"answers_spans": None}, "no answer has a number"),
        ({"answer": "7"}, "an answer is '7'; it must be an object"),
        ({"answer": _answer("7"), "validated_answers": ["8"]}, "an answer is '8'; it must be an object"),
        ({"answer": _answer("7"), "validated_answers": 8}, "an answer is 8; it must be an object"),
        ({"answer": _answer()}, "no answer has a number"),
        ({}, "field 'answers_spans' is missing"),
    ],
)
def test_a_row_without_a_reference_is_named(tmp_path, row, message):
    with pytest.raises(InputError, match=rf"validation\.jsonl:1: {message}"):
        _drop(tmp_path, row)


def test_the_two_copies_on_the_hub_ask_the_same_questions(tmp_path):
    small.write_rows(tmp_path / "a" / "drop" / "validation.jsonl", [small.drop_row(i) for i in range(24)])
    small.write_rows(tmp_path / "b" / "drop" / "validation.jsonl", [small.eleuther_drop_row(i) for i in range(24)])
    a, b = (load_drop("", TaskOptions(data_dir=tmp_path / folder)) for folder in "ab")
    for one, other in zip(a.items(Split.TEST), b.items(Split.TEST), strict=True):
        assert (one.id, one.question) == (other.id, other.question)
        assert {span for bag in one.target for span in bag} == {span for bag in other.target for span in bag}


def test_a_passage_stands_before_its_question_and_an_id_is_the_rows(tmp_path):
    item = _only(_drop(tmp_path, {"answer": _answer("7")}))
    assert item.question == (
        "It was so.\n\nQuestion: When was it?\n\n"
        "Answer with a number, a date, or words of the passage, as short as possible; separate several by ' | '."
    )
    assert item.id == "drop/q1"


async def test_drop_is_graded_by_f1_under_two_rules(tmp_path):
    row = {"answer": _answer("", ["red kites", "owls"])}
    for variant in ("", "bags"):
        task = _drop(tmp_path, row, variant)
        item = _only(task)
        assert task.metric == "f1"
        assert task.name == "drop" + (f":{variant}" if variant else "")
        assert (await task.grade(item, item.metadata["answer"], None)).score == 1.0
        assert (await task.grade(item, "cats", None)).score == 0.0
    assert _drop(tmp_path, row).rule != _drop(tmp_path, row, "bags").rule


PAIRS = [["Kite", ["A kite flies.", " It is red."]], ["Owl", ["An owl sits."]]]


@pytest.mark.parametrize(
    "context",
    [
        {"title": [title for title, _ in PAIRS], "sentences": [sentences for _, sentences in PAIRS]},
        PAIRS,
    ],
    ids=["record of lists", "list of pairs"],
)
async def test_paragraphs_stand_under_their_titles_before_the_question(tmp_path, context):
    small.write_rows(tmp_path / "hotpotqa" / "validation.jsonl", [HOTPOT | {"context": context}])
    task = load_hotpotqa("", TaskOptions(data_dir=tmp_path))
    item = _only(task)
    assert item.question == (
        "Kite\nA kite flies. It is red.\n\nOwl\nAn owl sits.\n\nQuestion: Where?\n\n"
        "Answer with yes, no, or a few words."
    )
    assert (item.id, item.target, task.metric) == ("hotpotqa/h1", "Here", "f1")
    assert (await task.grade(item, "here", None)).score == 1.0
    assert (await task.grade(item, "there", None)).score == 0.0


@pytest.mark.parametrize(
    "context",
    [None, "text", ["ab", "c"], [["Kite"]], {"title": ["Kite"]}, {"title": ["Kite"], "sentences": []}, [["Kite", [1]]]],
)
def test_a_context_of_another_form_is_named(tmp_path, context):
    small.write_rows(tmp_path / "hotpotqa" / "validation.jsonl", [HOTPOT | {"context": context}])
    with pytest.raises(InputError, match=r"validation\.jsonl:1: field 'context' is .*list of \[title, \[sentences\]\]"):
        load_hotpotqa("", TaskOptions(data_dir=tmp_path))


def test_a_row_may_carry_its_id_with_an_underscore_or_none(tmp_path):
    rows = [HOTPOT | {"context": PAIRS, "_id": f"u{i}"} for i in range(3)]
    for row in rows:
        del row["id"]
    del rows[2]["_id"]
    small.write_rows(tmp_path / "hotpotqa" / "validation.jsonl", rows)
    task = load_hotpotqa("", TaskOptions(data_dir=tmp_path))
    assert {item.id for split in Split for item in task.items(split)} == {f"hotpotqa/{i}" for i in ("u0", "u1", "2")}
