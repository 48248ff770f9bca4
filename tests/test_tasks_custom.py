"""A task from a user's file or class, every scorer of it, and every way in which the file can be bad."""

import csv
import json

import pytest
from sandbox_host import opened

from w4s_jax.executor.simulator import problem_from_item
from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.custom import SCORERS, CustomFormat, load_class, load_custom
from w4s_jax.tasks.splits import SplitSizes, split_hash
from w4s_jax.types import InputError, Split

NUMERIC = CustomFormat(scorer="numeric")


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _load(path, file_format=NUMERIC, **sizes):
    return load_custom(path, file_format, TaskOptions(sizes=SplitSizes(**sizes)))


def _sums(n):
    return [{"question": f"{i} + {i}?", "answer": 2 * i} for i in range(n)]


def _all(task):
    return {item.id: item for split in Split for item in task.items(split)}


async def test_a_file_of_numbers_becomes_a_task(tmp_path):
    path = _write(tmp_path / "sums.jsonl", _sums(60))
    task = _load(path)
    assert [len(task.items(s)) for s in (Split.TRAIN, Split.VALIDATION, Split.TEST)] == [0, 20, 40]
    items = _all(task)
    assert set(items) == {f"sums/{i}" for i in range(60)}
    item = items["sums/7"]
    assert (await task.grade(item, "It is 14.", None)).score == 1.0
    assert (await task.grade(item, "It is 15.", None)).symptom == "close"
    assert task.seed_workflows()[0].name == "cot"


def test_a_file_of_another_name_with_the_same_rows_has_the_same_hash(tmp_path):
    first, second = (_load(_write(tmp_path / name, _sums(30))) for name in ("a.jsonl", "b.jsonl"))
    assert [split_hash(first.items(s)) for s in Split] == [split_hash(second.items(s)) for s in Split]


def test_of_many_rows_some_are_left_for_train(tmp_path):
    task = _load(_write(tmp_path / "sums.jsonl", _sums(1_200)))
    assert [len(task.items(s)) for s in (Split.TRAIN, Split.VALIDATION, Split.TEST)] == [200, 200, 800]


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


CODE = {
    "question": "Double it.",
    "entry_point": "double",
    "answer": ["assert double(2) == 4", "assert double(-1) == -2"],
}
ROWS = {
    "exact": ({"question": "?", "answer": "Lima"}, " lima ", "Cusco", "accuracy"),
    "numeric": ({"question": "?", "answer": "1,200"}, "It costs $1200.", "1201", "accuracy"),
    "choice": ({"question": "?", "answer": "b", "options": ["x", "y", "z"]}, "(B)", "C", "accuracy"),
    "f1": ({"question": "?", "answer": ["the Danube", "Danube river"]}, "Danube", "Rhine", "f1"),
    "math": ({"question": "?", "answer": "\\frac{1}{2}"}, "\\boxed{0.5}", "\\frac{1}{3}", "accuracy"),
    "code": (CODE, "def double(x):\n    return 2 * x", "def double(x):\n    return x * x", "pass@1"),
}
"""A row by scorer, a right answer, a wrong one, and the metric."""


@pytest.mark.parametrize("scorer", SCORERS)
async def test_each_scorer_grades_by_its_name(tmp_path, scorer):
    row, right, wrong, metric = ROWS[scorer]
    task = _load(_write(tmp_path / "rows.jsonl", [row]), CustomFormat(scorer=scorer))
    [item] = task.items(Split.VALIDATION)
    async with opened("guard", packages=("numpy", "sympy", *task.packages)) as sandbox:
        assert (await task.grade(item, right, sandbox)).score == 1.0
        assert (await task.grade(item, wrong, sandbox)).score < 1.0
    assert task.metric == metric
    assert task.rule
    json.dumps([item.target, dict(item.metadata)])


def test_options_are_lettered_in_the_question(tmp_path):
    row = {"question": "Which?", "answer": "C", "options": ["x", "y", "z"]}
    [item] = _load(_write(tmp_path / "r.jsonl", [row]), CustomFormat(scorer="choice")).items(Split.VALIDATION)
    assert item.question == "Which?\nA) x\nB) y\nC) z"
    assert item.metadata["num_choices"] == 3


def test_a_csv_holds_lists_as_json(tmp_path):
    (tmp_path / "r.csv").write_text('question,answer,options\nWhich?,A,"[""x, or z"", ""y""]"\n')
    [item] = _load(tmp_path / "r.csv", CustomFormat(scorer="choice")).items(Split.VALIDATION)
    assert item.question == "Which?\nA) x, or z\nB) y"
    assert item.metadata["num_choices"] == 2


@pytest.mark.parametrize(
    ("scorer", "answer", "target"),
    [
        ("f1", '["the Danube", "Danube river"]', ["the Danube", "Danube river"]),
        ("f1", "the Danube", "the Danube"),
        ("f1", "[sic", "[sic"),
        ("code", '["assert f(1)", "assert f(2)"]', {"tests": ["assert f(1)", "assert f(2)"], "setup": ""}),
        ("code", "assert f(1)", {"tests": ["assert f(1)"], "setup": ""}),
        ("exact", '["a", "b"]', '["a", "b"]'),  # no list is expected
    ],
)
def test_a_cell_is_a_list_only_where_one_may_be(tmp_path, scorer, answer, target):
    with (tmp_path / "r.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer", "entry_point"), ("?", answer, "f")])
    [item] = _load(tmp_path / "r.csv", CustomFormat(scorer=scorer)).items(Split.VALIDATION)
    assert item.target == target


@pytest.mark.parametrize("scorer", ["f1", "code"])
def test_a_cell_with_a_list_of_something_else_is_refused(tmp_path, scorer):
    (tmp_path / "r.csv").write_text('question,answer,entry_point\n?,"[1, 2]",f\n')
    with pytest.raises(InputError, match=r"r\.csv:2: field 'answer' is \[1, 2\]"):
        _load(tmp_path / "r.csv", CustomFormat(scorer=scorer))


@pytest.mark.parametrize(("count", "letter", "last"), [(12, "L", None), (26, "Z", None), (3, "J", "C"), (12, "M", "L")])
def test_the_letters_are_those_of_the_options_of_a_csv(tmp_path, count, letter, last):
    with (tmp_path / "r.csv").open("w", newline="") as file:
        options = json.dumps([f"o{i}" for i in range(count)])
        csv.writer(file).writerows([("question", "answer", "options"), ("?", letter, options)])
    if last:
        with pytest.raises(InputError, match=rf"r\.csv:2: .*needs a letter from A to {last}"):
            _load(tmp_path / "r.csv", CustomFormat(scorer="choice"))
    else:
        [item] = _load(tmp_path / "r.csv", CustomFormat(scorer="choice")).items(Split.VALIDATION)
        assert (item.target, item.metadata["num_choices"]) == (letter, count)
        assert item.question.endswith(f"\n{letter}) o{count - 1}")


def test_what_a_row_may_hold_beside_its_question_and_answer(tmp_path):
    row = CODE | {"id": 7, "public_tests": ["assert double(1) == 2"], "solution": "def double(x):\n    return x + x"}
    path = _write(tmp_path / "r.jsonl", [row])
    [item] = _load(path, CustomFormat(scorer="code")).items(Split.VALIDATION)
    assert (item.id, item.entry_point) == ("r/7", "double")
    assert item.public_tests == ("assert double(1) == 2",)
    assert problem_from_item(item).program == row["solution"]  # what the simulated executor shows


async def test_a_function_of_your_own_grades(tmp_path):
    (tmp_path / "grade.py").write_text(
        "def near(answer, target):\n    return 1 - min(1, abs(float(answer) - target) / 10)\n"
    )
    path = _write(tmp_path / "s.jsonl", [{"question": "?", "answer": 5}])
    task = _load(path, CustomFormat(scorer=f"python:{tmp_path / 'grade.py'}:near"))
    [item] = task.items(Split.VALIDATION)
    assert [(await task.grade(item, answer, None)).score for answer in ("5", "10", "50")] == [1.0, 0.5, 0.0]
    assert task.metric == "score"
    before = task.rule
    (tmp_path / "grade.py").write_text("def near(answer, target):\n    return 0\n")
    assert _load(path, CustomFormat(scorer=f"python:{tmp_path / 'grade.py'}:near")).rule != before
    with pytest.raises(InputError, match=r"item s/0: it raised ValueError"):
        await task.grade(item, "five", None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": 1}, r"rows\.jsonl:2: field 'question' is missing"),
        ({"question": 7, "answer": 1}, r"rows\.jsonl:2: field 'question' is 7"),
        ({"question": "?"}, r"rows\.jsonl:2: field 'answer' is missing"),
        ({"question": "?", "answer": None}, r"rows\.jsonl:2: field 'answer' is None"),
        ({"question": "?", "answer": True}, r"rows\.jsonl:2: field 'answer' is True"),
        ({"question": "?", "answer": "many"}, r"rows\.jsonl:2: .*scorer=numeric needs a number"),
        ({"question": "?", "answer": float("nan")}, r"rows\.jsonl:2: field 'answer' is nan; .*finite"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, row, message):
    path = _write(tmp_path / "rows.jsonl", [{"question": "1?", "answer": 1}, row])
    with pytest.raises(InputError, match=message):
        _load(path)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        (7, 7.0),
        (-7.5, -7.5),
        (" 1,200,300.50 ", 1_200_300.5),
        ("-$5", -5.0),
        ("$-5.", -5.0),
        ("€.5", 0.5),
        ("−3", -3.0),
        ("+3e6", 3e6),
        ("1.5E-3", 0.0015),
        ("3/4", 0.75),
        ("-3/04", -0.75),
    ],
)
def test_a_numeric_target_is_one_number(tmp_path, written, number):
    [item] = _load(_write(tmp_path / "r.jsonl", [{"question": "?", "answer": written}])).items(Split.VALIDATION)
    assert item.target == number


@pytest.mark.parametrize(
    "written",
    ["1,5", "12,34", "1,2345", "1.000.000", "1 1/2", "50%", "between 3 and 4", "12/2020/1", "5 kg", "3/0", "3/4/2020",
     "$", ".", "--5", "-$-5", "1e400", "nan", "Infinity", "1_000", "0x10", "#### 5", float("inf")],
)  # fmt: skip
def test_a_numeric_target_with_anything_else_is_named_by_its_line(tmp_path, written):
    path = _write(tmp_path / "rows.jsonl", [{"question": "1?", "answer": 1}, {"question": "?", "answer": written}])
    with pytest.raises(InputError, match=r"rows\.jsonl:2: field 'answer' is .*(scorer=numeric needs a|finite) number"):
        _load(path)


@pytest.mark.parametrize("target", ["{1, 2}", "datetime.date(2020, 1, 1)", "{1: 1, 'a': 2}", "[object()]"])
def test_a_target_that_json_cannot_hold_is_named_by_its_row(tmp_path, target):
    text = (
        "import datetime\nclass Orders:\n    def score(self, answer, target): return True\n    def rows(self):\n"
        f"        return [{{'question': '?', 'answer': x}} for x in (7, {target})]\n"
    )
    with pytest.raises(InputError, match=r"Orders row 2: field 'answer' is .*; give what JSON can hold"):
        _class(tmp_path, text)


@pytest.mark.parametrize(
    ("scorer", "change", "message"),
    [
        ("exact", {"answer": ["Lima"]}, "it must be a text or a number"),
        ("choice", {"answer": "D"}, "scorer=choice needs a letter from A to C"),
        ("choice", {"answer": "yes"}, "scorer=choice needs a letter from A to C"),
        ("choice", {"options": "x, y"}, "field 'options' is 'x, y'; it must be a list of 2 to 26 texts"),
        ("choice", {"options": ["x"] * 27}, "field 'options' is .*; it must be a list of 2 to 26 texts"),
        ("exact", {"answer": float("nan")}, "field 'answer' is nan; it must be a text or a finite number"),
        ("f1", {"answer": float("-inf")}, "field 'answer' is -inf; it must be a text or a finite number"),
        ("f1", {"answer": []}, "it must be a list of texts, each accepted"),
        ("math", {"answer": " "}, "it must be a text or a number"),
        ("code", {"answer": [1]}, "scorer=code needs tests"),
        ("code", {"entry_point": "two words"}, "needs the name of the function"),
        ("code", {"answer": "assert double(1) =="}, "holds the test 'assert double.1. ==', which is no Python"),
        ("math", {"answer": "\\frac{1"}, "whose braces are not closed"),
    ],
)
def test_a_target_that_a_scorer_cannot_use_is_named_by_its_line(tmp_path, scorer, change, message):
    path = _write(tmp_path / "rows.jsonl", [ROWS[scorer][0] | change])
    with pytest.raises(InputError, match=r"rows\.jsonl:1: .*" + message):
        _load(path, CustomFormat(scorer=scorer))


def test_two_rows_of_one_id_are_refused(tmp_path):
    path = _write(tmp_path / "s.jsonl", [{"id": "a", "question": f"{i}?", "answer": i} for i in range(2)])
    with pytest.raises(InputError, match=r"item id 's/a' stands twice"):
        _load(path)


def test_a_missing_file_and_a_missing_description_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl does not exist"):
        _load(tmp_path / "none.jsonl")
    path = _write(tmp_path / "s.jsonl", _sums(5))
    with pytest.raises(InputError, match=r"about\.txt cannot be read"):
        _load(path, CustomFormat(scorer="numeric", description=tmp_path / "about.txt"))


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ("numerical", "scorer='numerical' is unknown, did you mean 'numeric'"),
        ("python:grade.py", "names no function"),
        ("python:none.py:near", "none.py cannot be read"),
    ],
)
def test_a_scorer_that_there_is_not_is_refused(tmp_path, scorer, message):
    with pytest.raises(InputError, match=message):
        _load(_write(tmp_path / "s.jsonl", _sums(5)), CustomFormat(scorer=scorer))


# --- a class -------------------------------------------------------------------

ORDERS = """
class Orders:
    description = "Orders."
    scorer = "numeric"

    def rows(self):
        for i in range(9):
            yield {"question": f"{i} times 3?", "answer": 3 * i}
"""
SCORED = (
    ORDERS
    + """
    def score(self, answer, target):
        return 0.5 if str(target) in str(answer) else 0.0
"""
)


def _class(folder, text):
    (folder / "mine.py").write_text(text)
    return load_class(f"{folder / 'mine.py'}:Orders", TaskOptions())


async def test_a_class_of_few_lines_is_a_task(tmp_path):
    task = _class(tmp_path, ORDERS)
    items = _all(task)
    assert (task.description, task.metric, len(items)) == ("Orders.", "accuracy", 9)
    item = items["Orders/2"]
    assert (await task.grade(item, "It is 6.", None)).score == 1.0


async def test_a_class_may_grade_by_itself(tmp_path):
    task = _class(tmp_path, SCORED)
    item = _all(task)["Orders/2"]
    grade = await task.grade(item, "6 or 7", None)
    assert (grade.score, task.metric) == (0.5, "score")
    assert "Orders.score in mine.py" in task.rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Other: pass", "has no class 'Orders'; it has Other"),
        ("class Orders: pass", r"the class has no rows\(\)"),
        ("class Orders:\n    def rows(self): return []", r"rows\(\) gave nothing"),
        ("class Orders:\n    def rows(self): return [1]", r"rows\(\) gave 1"),
        ("class Orders:\n    def rows(self): return [{'question': '?'}]", "Orders row 1: field 'answer' is missing"),
        ("class Orders:\n    def rows(self): return 1 / 0", "ZeroDivisionError"),
        ("class Orders:\n    def __init__(self, x): pass\n    def rows(self): return []", "TypeError"),
        ("import nothing_there", "ModuleNotFoundError"),
    ],
)
def test_a_class_that_is_no_task_is_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        _class(tmp_path, text)
    assert "\n" not in str(error.value)
