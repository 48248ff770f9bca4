"""A task from a user's file or class, every scorer of it, and every way in which the file can be bad."""

import json

import pytest
from sandbox_world import opened

from w4s_jax.executor.simulator import problem_from_item
from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.custom import SCORERS, CustomFormat, load_class, load_custom
from w4s_jax.tasks.splits import SplitSizes
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
    task = _load(_write(tmp_path / "sums.jsonl", _sums(60)))
    assert [len(task.items(s)) for s in (Split.TRAIN, Split.VALIDATION, Split.TEST)] == [0, 20, 40]
    items = _all(task)
    assert set(items) == {f"sums/{i}" for i in range(60)}
    assert (await task.grade(items["sums/7"], "It is 14.", None)).score == 1.0
    assert (await task.grade(items["sums/7"], "It is 15.", None)).symptom == "close"
    assert task.seed_workflows()[0].name == "cot"


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


def test_what_a_row_may_hold_beside_its_question_and_answer(tmp_path):
    row = CODE | {"id": 7, "public_tests": ["assert double(1) == 2"], "solution": "def double(x):\n    return x + x"}
    [item] = _load(_write(tmp_path / "r.jsonl", [row]), CustomFormat(scorer="code")).items(Split.VALIDATION)
    assert (item.id, item.entry_point, item.public_tests) == ("r/7", "double", ("assert double(1) == 2",))
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
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, row, message):
    path = _write(tmp_path / "rows.jsonl", [{"question": "1?", "answer": 1}, row])
    with pytest.raises(InputError, match=message):
        _load(path)


@pytest.mark.parametrize(
    ("scorer", "change", "message"),
    [
        ("exact", {"answer": ["Lima"]}, "it must be a text or a number"),
        ("choice", {"answer": "D"}, "scorer=choice needs a letter from A to C"),
        ("choice", {"answer": "yes"}, "scorer=choice needs a letter from A to C"),
        ("choice", {"options": "x, y"}, "field 'options' is 'x, y'; it must be a list of 2 texts or more"),
        ("f1", {"answer": []}, "it must be a list of texts, each accepted"),
        ("math", {"answer": " "}, "it must be a text or a number"),
        ("code", {"answer": [1]}, "scorer=code needs tests"),
        ("code", {"entry_point": "two words"}, "needs the name of the function"),
    ],
)
def test_a_target_that_a_scorer_cannot_use_is_named_by_its_line(tmp_path, scorer, change, message):
    path = _write(tmp_path / "rows.jsonl", [ROWS[scorer][0] | change])
    with pytest.raises(InputError, match=r"rows\.jsonl:1: .*" + message):
        _load(path, CustomFormat(scorer=scorer))


def test_two_rows_of_one_id_are_refused(tmp_path):
    path = _write(tmp_path / "s.jsonl", [{"id": "a", "question": f"{i}?", "answer": i} for i in range(2)])
    with pytest.raises(InputError, match="item id 's/a' stands twice"):
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
    assert (await task.grade(items["Orders/2"], "It is 6.", None)).score == 1.0


async def test_a_class_may_grade_by_itself(tmp_path):
    task = _class(tmp_path, SCORED)
    grade = await task.grade(_all(task)["Orders/2"], "6 or 7", None)
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
