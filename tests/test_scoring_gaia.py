"""Golden and hostile cases of GAIA's rule: numbers, lists, texts."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scoring_answers import HOSTILE, answers, check_grade, grade

from w4s_jax.tasks.scoring.gaia import GaiaGrader

GRADES = [
    # the gold answer is a number
    ("18", "18", ""),
    ("18.0", "18", ""),
    (18, "18", ""),
    (18.0, "18", ""),
    ("$18", "18", ""),
    ("18%", "18", ""),
    (" 1,000,000 ", "1000000", ""),
    ("1e6", "1000000", ""),
    ("0.1", "0.10", ""),
    ("18 dollars", "18", "no number"),
    ("18.01", "18", "different"),
    ("eighteen", "18", "no number"),
    ("inf", "18", "no number"),
    ("nan", "18", "no number"),
    (True, "1", "no number"),
    ("17,18", "18", "different"),  # without its comma, 1718
    ("17, 18", "18", "no number"),
    # the gold answer is a list
    ("a, b", "a, b", ""),
    ("A,B", "a, b", ""),
    ("a; b", "a, b", ""),
    ("b, a", "a, b", "different"),
    ("a", "a, b", "other length"),
    ("a, b, c", "a, b", "other length"),
    ("$5, 10%", "5, 10", ""),
    ("5.0;ten", "5, ten", ""),
    ("five, ten", "5, ten", "different"),
    ("St. Louis, Rome", "St. Louis, Rome", ""),
    ("St Louis, Rome", "St. Louis, Rome", "different"),  # in a list, punctuation counts
    ("1234", "1,234", "other length"),  # a comma makes the gold answer a list
    ("1,234", "1,234", ""),
    ('["a", "b"]', "a, b", ""),
    ("['a', 'b']", "a, b", ""),
    (" [a; b]\n", "a, b", ""),
    ('["1", 2]', "1, 2", ""),
    ("['b', 'a']", "a, b", "different"),
    ("['a', 'b', 'c']", "a, b", "other length"),
    ("['a\", b]", "a, b", "different"),
    ("'a', 'b'", "a, b", "different"),  # without brackets, quotes count
    ("(a, b)", "a, b", "different"),
    ("[a, b]", "[a, b]", ""),
    # the gold answer is a text
    ("Sea Gull", "seagull", ""),
    ("the sea-gull!", "The Seagull", ""),
    ("seagulls", "seagull", "different"),
    ("U.S.A", "usa", ""),
    ("5 apples", "5 apples", ""),
    ("5", "5 apples", "different"),
    ("anything", "inf", "different"),
    ("Infinity", "infinity", ""),
    ("None", "none", ""),
]


@pytest.mark.parametrize(("answer", "gold", "symptom"), GRADES)
def test_the_gold_answer_decides_what_is_compared(answer, gold, symptom):
    assert grade(GaiaGrader(), gold, answer) == (0.0 if symptom else 1.0, symptom)


@pytest.mark.parametrize("gold", ["42", "a, b; 3", "seagull"])
@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_answer_is_wrong_in_no_time(answer, gold):
    start = time.process_time()
    got = grade(GaiaGrader(), gold, answer)
    assert time.process_time() - start < 2.0
    assert got.score == 0.0
    check_grade(got)


def test_nothing_and_too_much_have_symptoms_of_their_own():
    assert grade(GaiaGrader(), "5", None) == (0.0, "empty")
    assert grade(GaiaGrader(), "5", "5" * 100_001) == (0.0, "too long")
    assert "\n" not in GaiaGrader.rule


@given(answers, st.one_of(st.text(), st.integers().map(str)))
def test_any_answer_gets_a_grade(answer, gold):
    check_grade(grade(GaiaGrader(), gold, answer))


@given(st.text().filter(str.strip))
def test_the_gold_answer_itself_is_right(gold):
    assert grade(GaiaGrader(), gold, gold).score == 1.0
