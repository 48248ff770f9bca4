"""Golden and hostile cases of reading the letter of a choice."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scoring_answers import HOSTILE, answers, check_grade, grade

from w4s_jax.tasks.scoring.choice import ChoiceGrader, find_letter

CHOOSES = [
    # the whole answer
    ("C", "C"),
    ("c", "C"),
    (" C\n", "C"),
    ("(C)", "C"),
    ("c.", "C"),
    ("C)", "C"),
    ("[c]", "C"),
    ("**C**", "C"),
    ("__C__", "C"),
    ("$C$", "C"),
    (r"\boxed{C}", "C"),
    (r"$\boxed{\text{C}}$.", "C"),
    # `answer is`, the first one
    ("The answer is (C).", "C"),
    ("The answer is C", "C"),
    ("So the answer is (B), not the answer is (C).", "B"),
    ("Answer: A. No, the answer is (D).", "D"),
    ("the answer is Carbon, (D)", "D"),
    # `Answer:`
    ("Reason.\nAnswer: D", "D"),
    ("ANSWER: D because of A", "D"),
    ("**Answer:** D, as A says", "D"),
    (r"answer: $\boxed{D}$ (A is close)", "D"),
    ("Answer: Because B", "B"),
    # signs, quotes and `option` before the letter
    ("The answer is: B. Option A is wrong", "B"),
    ("The answer is **B**, since A is wrong", "B"),
    ("Answer: Option B, not A", "B"),
    ("the answer is option (B), not A", "B"),
    ('The answer is "B", not A', "B"),
    (r"the answer is $\boxed{\text{B}}$, not A", "B"),
    ("the answer is optional, so B", "B"),
    ("the answer is\n\n**B**\n\nA is wrong", "B"),
    # none of the above is a choice like another
    ("D) None of the above", "D"),
    ("A) None of the above", "A"),
    ("None of the above, so D", "D"),
    ("D is right: none of the above", "D"),
    ("I cannot answer with certainty; the answer is B", "B"),
    # the last lone letter
    ("A or B? B it is", "B"),
    ("C) 42", "C"),
    ("I choose J", "J"),
    ("It is (E).", "E"),
]
CHOOSES_NOTHING = [
    "",
    "K",
    "(k)",
    "the answer is b",
    "Answer: c",
    "AB",
    "none of them",
    "Carbon",
    "é",
    "5",
    "1. a 2. b",
    "N/A",
    "n/a.",
    "The answer is N/A",
    "I cannot answer; vitamin A",
    "I am unable to answer. A doctor should.",
    "None of the above.",
    "A close look says: none of the above",
]


@pytest.mark.parametrize(("text", "letter"), CHOOSES)
def test_a_letter_is_read_by_the_first_rule_that_finds_one(text, letter):
    assert find_letter(text) == letter


@pytest.mark.parametrize("text", CHOOSES_NOTHING)
def test_what_chooses_nothing_has_no_letter(text):
    assert find_letter(text) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("D", "D"),
        ("E", None),
        ("e.", None),
        ("The answer is (H).", None),
        ("The answer is H, not C.", None),
        ("Answer: E", None),
        ("B, I think", "B"),  # the pronoun is no choice of four
        ("E, or else B", "B"),
    ],
)
def test_a_letter_that_is_not_there_is_none(text, letter):
    assert find_letter(text, num_choices=4) == letter


def test_more_than_ten_choices_have_more_letters():
    assert find_letter("The answer is (M).", num_choices=13) == "M"
    assert find_letter("n", num_choices=13) is None
    assert find_letter("The answer is N/A", num_choices=20) is None


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        ("(b)", (1.0, "")),
        ("C", (0.0, "different")),
        ("J", (0.0, "no letter")),
        ("two", (0.0, "no letter")),
        (1, (0.0, "no letter")),
        (2.0, (0.0, "no letter")),
        (True, (0.0, "no letter")),
        (" ", (0.0, "empty")),
        (None, (0.0, "empty")),
    ],
)
def test_a_grade_is_right_or_says_why_not(answer, got):
    assert grade(ChoiceGrader(), "B", answer, metadata={"num_choices": 4}) == got


def test_an_item_that_does_not_say_has_ten_choices():
    assert grade(ChoiceGrader(), "J", "j").score == 1.0
    assert "\n" not in ChoiceGrader.rule


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_answer_has_no_letter(answer):
    assert grade(ChoiceGrader(), "C", answer).symptom in ("no letter", "empty", "different")


@pytest.mark.parametrize(
    "piece", ["answer is (", "answer : ", "Answer:\n", "A ", "(", "**", "\\boxed{", "\u00a0", "N/A", "option "]
)
def test_a_million_characters_are_read_in_no_time(piece):
    start = time.process_time()
    find_letter(piece * (1_000_000 // len(piece)))
    assert time.process_time() - start < 2.0


@given(answers, st.integers(2, 26))
def test_any_answer_gets_a_grade(answer, num_choices):
    check_grade(grade(ChoiceGrader(), "B", answer, metadata={"num_choices": num_choices}))


@pytest.mark.parametrize(
    "text",
    ["I don't know", "I’m sorry, I can't help with that", "I am not sure", "I have no idea", "Sorry, but I won't."],
)
def test_the_pronoun_is_no_letter(text):
    assert find_letter(text) is None


@pytest.mark.parametrize("text", ["I", "(I)", "The answer is I", "I is right", "I think it is (I)", "My choice: I"])
def test_the_letter_i_is_one(text):
    assert find_letter(text) == "I"
