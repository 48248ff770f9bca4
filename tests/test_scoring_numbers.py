"""Golden cases of reading numbers and of naming wrong ones."""

import time

import pytest

from w4s_jax.tasks.scoring.numbers import find_numbers, parse_number
from w4s_jax.tasks.scoring.numeric import NumericGrader
from w4s_jax.tasks.scoring.symptoms import Symptom, numeric_symptom
from w4s_jax.tasks.scoring.text import ExactGrader
from w4s_jax.types import Item

READS = [
    ("1,000,000", 1_000_000.0),
    ("$18", 18.0),
    ("$ 1,234.50", 1234.5),
    ("-$18", -18.0),
    ("$-18", -18.0),
    ("18.0", 18.0),
    ("18.", 18.0),
    ("18 dollars", 18.0),
    ("50%", 50.0),
    ("She has 3 boxes of 6, so 18.", 18.0),
    ("#### -9867630", -9867630.0),
    ("\\boxed{-7}", -7.0),
    ("**42**", 42.0),
    ("\\$1{,}000", 1000.0),
    ("1\\,000", 1000.0),
    ("1\u202f000\u00a0000", 1_000_000.0),
    ("−5", -5.0),
    ("10-5", 5.0),
    ("(-4)", -4.0),
    ("3/4", 0.75),
    ("open 24/7", 24 / 7),
    ("The answer is 3/4.", 0.75),
    ("-3/4 of it", -0.75),
    ("10-3/4", 0.75),  # the minus subtracts
    ("$\\frac{1}{4}$", 0.25),
    ("It is \\dfrac{ 1 }{ 4 }.", 0.25),
    ("-\\tfrac{1}{4}", -0.25),
    ("\\boxed{\\frac{-1}{4}}", -0.25),
    ("so 48/2 = 24", 24.0),
    ("on 3/4/2020", 2020.0),
    ("of 3/4,000", 4000.0),
    ("1,000/4", 4.0),
    ("1.5/2", 2.0),
    ("page/3/4", 4.0),
    ("1/0", 0.0),
    ("The answer is 42." + " so be it" * 300, 42.0),
    ("1,11,111", 111_111.0),
    ("1,11,11", 11.0),
    ("1,234,56,7", 7.0),
    ("1234,567", 567.0),
    ("12," * 30_000 + "7", 7.0),
    (".5", 0.5),
    ("1.5e3", 1500.0),
    ("9.87E+07", 98_700_000.0),
    ("12,34,567", 1_234_567.0),
    ("(10, 20)", 20.0),
    ("১৮", 18.0),
    (18, 18.0),
    (18.5, 18.5),
]
READS_NOTHING = [
    None,
    True,
    False,
    "",
    "   ",
    "eighteen",
    "nan",
    "inf",
    "-Infinity",
    float("nan"),
    float("inf"),
    "1e400",
    "7 or 1e400",
    "9" * 5_000,
    10**400,
    -(10**5000),
    "²",
    "\x00\ud800",
    [18],
    {"answer": 18},
    b"18",
    object(),
]


@pytest.mark.parametrize(("answer", "number"), READS)
def test_a_number_is_read_whatever_stands_around_it(answer, number):
    assert parse_number(answer) == number


@pytest.mark.parametrize("answer", READS_NOTHING, ids=range(len(READS_NOTHING)))
def test_a_hostile_answer_reads_as_no_number(answer):
    assert parse_number(answer) is None


@pytest.mark.parametrize(
    "piece",
    [
        "1,11",
        "9",
        "1e",
        "-",
        "1.",
        "$",
        "{,}",
        "<<",
        "11,",
        "1,111,",
        "111,11,",
        "1/",
        "1/2 ",
        "\\frac{",
        "\\frac ",
        "1e1",
    ],
)
def test_a_million_characters_are_read_in_no_time(piece):
    start = time.process_time()
    parse_number(piece * 1_000_000)
    assert time.process_time() - start < 2.0


def test_a_hundred_thousand_characters_are_read_and_no_more():
    assert parse_number("42." + "x" * 99_990) == 42.0
    assert parse_number("42." + "x" * 100_000) is None


def test_numbers_of_a_question_are_found_in_order():
    assert find_numbers("She sells 1,200 eggs for $2.50 each, 3 times.") == (1200.0, 2.5, 3.0)


@pytest.mark.parametrize(
    ("answer", "target", "question", "symptom"),
    [
        (None, 5.0, "", Symptom.EMPTY),
        (" \n", 5.0, "", Symptom.EMPTY),
        ("I cannot tell", 5.0, "", Symptom.NO_NUMBER),
        (True, 5.0, "", Symptom.NO_NUMBER),
        ("1e999", 5.0, "", Symptom.NO_NUMBER),
        ("180", 3.0, "How many hours are 180 minutes?", Symptom.FACTOR),
        ("-3", 3.0, "", Symptom.FACTOR),
        ("0.05", 5.0, "", Symptom.FACTOR),
        ("41", 700.0, "He has 41 apples and 3 pears.", Symptom.FROM_TEXT),
        ("102", 100.0, "He has 41 apples.", Symptom.CLOSE),
        ("4", 5.0, "", Symptom.CLOSE),
        ("1049999", 1_000_000.0, "", Symptom.CLOSE),
        ("1060000", 1_000_000.0, "", Symptom.FAR),
        ("0", 40.0, "", Symptom.FAR),
        ("17", 0.0, "", Symptom.FAR),
        (1e308, 5.0, "", Symptom.FAR),
        (1e308, 5.0, "What is 1e999?", Symptom.FAR),
        ("5", 1e308, "", Symptom.FAR),
    ],
)
def test_a_wrong_number_has_the_symptom_a_reader_would_see(answer, target, question, symptom):
    assert numeric_symptom(answer, target, question) == symptom.value


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        ("1,000,000", 1e6),
        ("1e6", 1_000_000.0),
        ("1000000.0", 1e6),
        (1_000_000, 1e6),
        ("18.0", 18.0),
        ("$18", 18.0),
        ("18 dollars", 18.0),
        (r"\boxed{18}", 18.0),
        ("1/2", 0.5),
        ("It is 1/2.", 0.5),
        (r"\boxed{\frac{1}{2}}", 0.5),
    ],
)
async def test_one_number_in_other_clothes_is_right(answer, target):
    assert await NumericGrader(tolerance=1e-6)(Item(id="i", question="?", target=target), answer, None) == (1.0, "")


@pytest.mark.parametrize("answer", [r"\frac{1}{x}", r"\frac{\pi}{2}", "(A)", "None", "a half"])
async def test_what_is_no_plain_number_is_not_its_value(answer):
    assert (await NumericGrader(tolerance=1e-6)(Item(id="i", question="?", target=0.5), answer, None)).score == 0.0


async def test_gsm_hard_is_right_strictly_within_a_tenth():
    grader = NumericGrader(tolerance=0.1, inclusive=False)
    item = Item(id="i", question="?", target=0.0)
    assert (await grader(item, "0.0999", None)).score == 1.0
    assert (await grader(item, "0.1", None)).score == 0.0


@pytest.mark.parametrize("answer", READS_NOTHING, ids=range(len(READS_NOTHING)))
async def test_a_hostile_answer_is_graded_zero_with_a_symptom(answer):
    item = Item(id="i", question="?", target=18.0)
    for grader in (NumericGrader(tolerance=1e-6), ExactGrader()):
        grade = await grader(item, answer, None)
        assert grade.score == 0.0
        assert grade.symptom


@pytest.mark.parametrize("answer", ["Buenos Aires", " buenos\naires ", "ＢＵＥＮＯＳ Aires"])
async def test_exact_ignores_case_white_space_and_width(answer):
    assert (await ExactGrader()(Item(id="i", question="?", target="Buenos Aires"), answer, None)).score == 1.0


async def test_exact_compares_numbers_as_they_are_written():
    assert (await ExactGrader()(Item(id="i", question="?", target=7), "7", None)).score == 1.0
    assert (await ExactGrader()(Item(id="i", question="?", target="7"), 7.5, None)).symptom == "different"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1 1/2", 1.5),
        (r"1\frac{1}{2}", 1.5),
        (r"\frac12", 0.5),
        ("It takes 12 3/4 cups.", 12.75),
        ("10^6", 1e6),
        (r"4 \times 10^{6}", 4e6),
        ("2.5 * 10^-3", 2.5e-3),
        ("5 apples and 3/4", 0.75),
        ("x^2", 2.0),
    ],
)
def test_mixed_numbers_and_powers_are_one_number(text, number):
    assert parse_number(text) == pytest.approx(number)


def test_a_power_beyond_floats_is_no_number():
    assert parse_number("10^400") is None
