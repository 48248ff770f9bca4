"""A user's own function as the grader: how it is found, what it may give, and what is said when it fails."""

import importlib
import sys
from fractions import Fraction

import numpy as np
import pytest
from scoring_answers import grade

from w4s_jax.tasks.scoring.user import FunctionGrader, load_object
from w4s_jax.types import InputError

FILE = """
from __future__ import annotations
import dataclasses

@dataclasses.dataclass
class Half:
    share: float = 0.5

    def score(self, answer, target):
        return self.share

def same(answer, target):
    return str(answer) == target

def share(answer, target):
    return float(answer)

async def later(answer, target):
    return True

LIMIT = 5
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_scorer.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(("answer", "got"), [("7", (1.0, "")), (7, (1.0, "")), ("8", (0.0, "different"))])
def test_the_answer_comes_first_and_the_target_second(file, answer, got):
    assert grade(FunctionGrader.load(f"{file}:same"), "7", answer) == got


@pytest.mark.parametrize(
    ("given", "score"),
    [
        (True, 1.0),
        (False, 0.0),
        (1, 1.0),
        (0, 0.0),
        (0.25, 0.25),
        (np.bool_(True), 1.0),
        (np.float32(0.5), 0.5),
        (np.int64(1), 1.0),
        (Fraction(1, 4), 0.25),
    ],
)
def test_truth_values_and_numbers_up_to_one_are_scores(given, score):
    got = grade(FunctionGrader(function=lambda answer, target: given, rule="r"), "t", "a")
    assert got.score == score
    assert type(got.score) is float
    assert got.symptom == {1.0: "", 0.0: "different"}.get(score, "partial")


@pytest.mark.parametrize("given", [None, "1", 1.01, -0.1, float("nan"), [1], 1j, np.array([1.0, 0.0])], ids=repr)
def test_anything_else_is_an_error_that_names_the_function_and_the_item(file, given):
    grader = FunctionGrader.of(lambda answer, target: given, f"{file}:same")
    with pytest.raises(InputError, match=r"my_scorer\.py.*on item t/0: it returned .*must return True, False or a"):
        grade(grader, "t", "a")


def test_an_exception_is_an_error_that_says_what_happened(file):
    with pytest.raises(InputError, match=r"share in my_scorer\.py .*on item t/0: it raised ValueError: could not") as e:
        grade(FunctionGrader.load(f"{file}:share"), "t", "seven")
    assert isinstance(e.value.__cause__, ValueError)
    assert "\n" not in str(e.value)


def test_a_method_of_a_class_of_the_same_file_grades_too(file):
    made = load_object(f"{file}:Half", "class")()
    grader = FunctionGrader.of(made.score, f"{file}:Half")
    assert grade(grader, "t", "a") == (0.5, "partial")
    assert "Half.score in my_scorer.py" in grader.rule


def test_the_rule_changes_with_the_file_and_only_with_it(file):
    before = FunctionGrader.load(f"{file}:same").rule
    assert before.startswith("your own function same in my_scorer.py (sha256 ")
    assert FunctionGrader.load(f"{file}:same").rule == before
    file.write_text(FILE.replace("str(answer)", "repr(answer)"))
    grader = FunctionGrader.load(f"{file}:same")
    assert grader.rule != before
    assert grade(grader, "7", "7").score == 0.0  # the new content ran


def test_a_function_from_another_file_is_of_that_files_version_too(file, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    parent = tmp_path / "w4s_jax_test_parent.py"

    def rule(text, name):
        parent.write_text(text)
        monkeypatch.delitem(sys.modules, parent.stem, raising=False)
        importlib.invalidate_caches()
        made = load_object(f"{file}:{name}", "class")()
        return FunctionGrader.of(getattr(made, "score", made), f"{file}:{name}").rule

    file.write_text(
        "from w4s_jax_test_parent import *\n\nclass Inherits(Parent): pass\n\n"
        "class Wraps:\n    @wrapped\n    def score(self, a, t): return 1.0\n\n"
        "class Own(Parent):\n    def score(self, a, t): return 1.0\n"
    )
    one = (
        "import functools\nclass Parent:\n    def score(self, a, t): return 1.0\n    __call__ = score\n"
        "def wrapped(f): return functools.wraps(f)(lambda *given: f(*given))\n"
    )
    for name in ("Inherits", "Wraps", "Parent"):
        assert rule(one, name) == rule(one, name)
        assert rule(one, name) != rule(one + "# another content\n", name)
        assert "in my_scorer.py and w4s_jax_test_parent.py (sha256 " in rule(one, name)
    assert rule(one, "Own") == rule(one + "# another content\n", "Own")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("other", r"has no function 'other'; it has .*same.*share"),
        ("LIMIT", "'LIMIT' is a int, not a function"),
        ("later", "later is asynchronous"),
        ("no name", r"names no function; write it python:FILE\.py:FUNCTION"),
        ("", "names no function"),
    ],
)
def test_a_name_that_is_no_function_says_so(file, name, said):
    with pytest.raises(InputError, match=said):
        FunctionGrader.load(f"{file}:{name}")


@pytest.mark.parametrize("where", ["same", ":same", ""])
def test_a_text_without_a_file_says_how_to_write_it(where):
    with pytest.raises(InputError, match=r"write it python:FILE\.py:FUNCTION"):
        FunctionGrader.load(where)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.py cannot be read \(No such file"):
        FunctionGrader.load(f"{tmp_path}/nowhere.py:same")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import a_module_that_is_not_there", r"ModuleNotFoundError: No module named .* \(line 1\)"),
        ("x = 1\ny = x / 0\n", r"ZeroDivisionError: division by zero \(line 2\)"),
        ("def same(a, t) return 1", "SyntaxError: expected ':'"),
        ("\x00", "null bytes"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
    ids=["import", "raises", "syntax", "NUL", "exits"],
)
def test_a_file_that_fails_says_where(file, text, said):
    file.write_text(text)
    with pytest.raises(InputError, match=r"my_scorer\.py cannot be imported: it raised .*" + said):
        FunctionGrader.load(f"{file}:same")


def test_an_interrupt_is_the_users(file):
    def interrupted(answer, target):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grade(FunctionGrader(function=interrupted, rule="r"), "t", "a")
