"""Golden and hostile cases of the graders that count words: one's own texts, HotpotQA, DROP."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scoring_answers import HOSTILE, answers, check_grade, grade

from w4s_jax.tasks.scoring import f1
from w4s_jax.tasks.scoring.assignment import best_sum
from w4s_jax.tasks.scoring.f1 import DropGrader, HotpotF1Grader, drop_tokens
from w4s_jax.tasks.scoring.text import ExactGrader, F1Grader, squad_tokens

TEXT_GRADERS = [
    (ExactGrader(), "gold text"),
    (F1Grader(), ["gold text", "text"]),
    (HotpotF1Grader(), "gold text"),
    (DropGrader(), [["gold", "text"], ["7"]]),
    (DropGrader(bags=True), [["gold", "text"], ["7"]]),
]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The  Cat, a dog\nand an OWL!", "cat dog and owl"),
        ("U.S.-based", "usbased"),
        ("Theatre another", "theatre another"),
        ("$1,000.50", "100050"),
        ("the", ""),
        ("“quoted”", "“quoted”"),
    ],
    ids=range(6),
)
def test_squad_normalisation_drops_case_punctuation_and_articles(text, tokens):
    assert squad_tokens(text) == tokens.split()


# F1 = 2 · shared / (tokens of the answer + tokens of the gold text)
F1 = [
    ("Barack Obama", "Barack Obama", 1.0),
    ("the  barack, obama.", "Barack Obama", 1.0),
    ("Obama Barack", "Barack Obama", 1.0),  # order does not count
    ("Obama", "Barack Obama", 2 / 3),  # 2·1 / (1 + 2)
    ("President Barack Obama", "Barack Obama", 0.8),  # 2·2 / (3 + 2)
    ("New York City in New York", "New York", 0.5),  # 2·2 / (6 + 2): each word counts as often as gold has it
    ("New New", "New York", 0.5),  # 2·1 / (2 + 2)
    ("Paris", "Barack Obama", 0.0),
    ("18", 18, 1.0),
    (18.0, "18", 1.0),
    (18, "18", 1.0),
    ("18.0", "18", 0.0),  # the text reads 180: SQuAD drops the point
    ("$18", "18", 1.0),
    ("18 dollars", "18", 2 / 3),  # 2·1 / (2 + 1)
    ("The", "The", 1.0),  # nothing is left of either
    ("a", "The", 0.0),
]


@pytest.mark.parametrize(("answer", "gold", "f1"), F1)
def test_f1_is_that_of_token_multisets(answer, gold, f1):
    got = grade(F1Grader(), gold, answer)
    assert got.score == pytest.approx(f1, abs=1e-12)
    assert got.symptom == ("" if f1 == 1.0 else "partial" if f1 else "different")


def test_the_best_of_the_accepted_answers_counts():
    assert grade(F1Grader(), ["Barack Obama", "Obama"], "Obama").score == 1.0
    assert grade(F1Grader(), ["Joe Biden", "Barack Obama"], "Obama").score == pytest.approx(2 / 3)
    assert grade(F1Grader(), [], "Obama") == (0.0, "different")


@pytest.mark.parametrize(
    ("answer", "gold", "f1"),
    [
        ("Yes.", "yes", 1.0),
        ("no", "yes", 0.0),
        ("yes", "no", 0.0),
        ("yes, it is", "yes", 0.0),  # would be 2·1 / (3 + 1), but the gold answer is closed
        ("yes", "yes it is", 0.0),  # would be 2·1 / (1 + 3), but the answer is closed
        ("no answer", "noanswer", 0.0),
        ("noanswer", "no man's land", 0.0),
        ("no mans", "no man's land", 0.8),  # neither is closed: 2·2 / (2 + 3)
        ("the Dutch East India Company", "Dutch East India Company", 1.0),
        ("East India", "Dutch East India Company", 2 / 3),  # 2·2 / (2 + 4)
    ],
)
def test_hotpotqa_takes_yes_and_no_as_wholes(answer, gold, f1):
    assert grade(HotpotF1Grader(), gold, answer).score == pytest.approx(f1, abs=1e-12)


# --- DROP


@pytest.mark.parametrize(
    ("answer", "references", "f1"),
    [
        ("Bears", [["Bears"]], 1.0),
        ("Bears | Lions", [["Bears", "Lions"]], 1.0),
        ("Lions\nBears", [["Bears", "Lions"]], 1.0),
        ("Bears", [["Bears", "Lions"]], 2 / 3),  # 2·1 / (1 + 2)
        ("Lions", [["Bears"], ["Lions", "Bears"], ["Lions"]], 1.0),  # the best reference
        ("Bears|Bears|Lions|Packers", [["Lions"]], 0.4),  # 2·1 / (4 + 1): a list of guesses is no answer
        ("1,000", [["1000"]], 1.0),
        ("|", [["1000"]], 0.0),
        ("Bears", [], 0.0),
    ],
)
def test_drop_as_aflow_is_the_f1_of_all_spans_together(answer, references, f1):
    assert grade(DropGrader(), references, answer).score == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize(
    ("span", "tokens"),
    [
        ("1,000", "1000.0"),
        ("1000.0", "1000.0"),
        ("$1,000", "1000.0"),
        ("-5", "5.0"),  # a hyphen splits
        ("3.5-yard", "3.5 yard"),
        ("The 49ers' Run", "49ers run"),
        ("18%", "18.0"),
        ("a an the", ""),
        ("well\tknown", "well known"),
        ("run run", "run"),  # a bag is a set
    ],
)
def test_drops_own_normalisation_keeps_numbers_and_splits_hyphens(span, tokens):
    assert drop_tokens(span) == frozenset(tokens.split())


@pytest.mark.parametrize(
    ("answer", "references", "f1"),
    [
        ("1,000", [["1000.0"]], 1.0),
        (1000.0, [["1000"]], 1.0),
        ("Bears|Lions", [["Lions", "Bears"]], 1.0),  # aligned, not in order
        ("Bears", [["Bears", "Lions"]], 0.5),  # (1 + 0) / 2
        ("Bears|Lions|Packers", [["Bears", "Lions"]], 2 / 3),  # (1 + 1) / 3
        ("Chicago Bears", [["Bears"]], 2 / 3),  # 2·1 / (2 + 1)
        ("20 yards", [["22 yards"]], 0.0),  # no shared number
        ("22", [["22 yards"]], 2 / 3),  # 2·1 / (1 + 2)
        ("yards", [["22 yards"]], 0.0),
        ("22 yards", [["yards"]], 2 / 3),  # gold has no number to meet: 2·1 / (2 + 1)
        # F1 of a b to [a b, a] is [1, 2/3], of a c to them [1/2, 2/3]: (1 + 2/3) / 2
        ("x y|x z", [["x y", "x"]], 5 / 6),
        ("4|5", [["4"], ["5"]], 0.5),  # (1 + 0) / 2 for either reference
        ("the", [["a"]], 1.0),  # both bags are empty
        ("Bears", [["the"]], 0.0),
    ],
)
def test_drop_with_bags_is_the_mean_over_aligned_spans(answer, references, f1):
    assert grade(DropGrader(bags=True), references, answer).score == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize("count", range(1, 15))
def test_a_fully_right_list_is_exactly_right(count):
    spans = [f"span {i} of many" for i in range(count)]
    for bags in (False, True):
        assert grade(DropGrader(bags=bags), [spans], "\n".join(reversed(spans))) == (1.0, "")


def test_the_bags_of_a_long_answer_are_made_once(monkeypatch):
    read = []
    monkeypatch.setattr(f1, "drop_tokens", lambda span: read.append(span) or drop_tokens(span))
    grader, references = DropGrader(bags=True), [["Bears", str(i)] for i in range(8)]
    assert grade(grader, references, "Bears|Lions").score == 0.5
    assert read.count("Bears") == 1 + 8
    assert read.count("Lions") == 1


def test_an_almost_right_answer_is_not_rounded_to_right():
    gold = " ".join(f"w{i}" for i in range(1_000))
    assert grade(DropGrader(bags=True), [[gold]], f"{gold} more").score == 2_000 / 2_001


@given(
    st.integers(1, 4).flatmap(
        lambda columns: st.lists(
            st.lists(st.integers(0, 8), min_size=columns, max_size=columns), min_size=1, max_size=5
        )
    )
)
def test_the_assignment_is_the_best_of_all(gains):
    rows, columns = len(gains), len(gains[0])
    if rows <= columns:
        every = (
            sum(gains[r][c] for r, c in enumerate(chosen)) for chosen in itertools.permutations(range(columns), rows)
        )
    else:
        every = (
            sum(gains[r][c] for c, r in enumerate(chosen)) for chosen in itertools.permutations(range(rows), columns)
        )
    assert best_sum(gains) == max(every)


# --- hostile answers


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize(("grader", "target"), TEXT_GRADERS, ids=range(len(TEXT_GRADERS)))
def test_a_hostile_answer_is_wrong_in_no_time(grader, target, answer):
    start = time.process_time()
    got = grade(grader, target, answer)
    assert time.process_time() - start < 2.0
    assert got.score < 0.01
    check_grade(got)


def test_more_than_can_be_read_is_too_long():
    assert grade(F1Grader(), "gold", "gold " * 30_000) == (0.0, "too long")
    assert grade(ExactGrader(), "gold", "gold" * 3_000) == (0.0, "too long")
    assert grade(HotpotF1Grader(), "gold", None) == (0.0, "empty")


@given(answers, st.text(min_size=1))
def test_any_answer_gets_a_grade(answer, gold):
    for grader in (F1Grader(), HotpotF1Grader(), ExactGrader()):
        check_grade(grade(grader, gold, answer))
    for bags in (False, True):
        check_grade(grade(DropGrader(bags=bags), [[gold], [gold, "7"]], answer))


@given(st.text(min_size=1).filter(str.strip))
def test_the_gold_text_itself_is_right(gold):
    assert grade(F1Grader(), gold, gold) == (1.0, "")
    assert grade(HotpotF1Grader(), gold, gold) == (1.0, "")


def test_each_rule_is_one_line():
    rules = [grader.rule for grader, _ in TEXT_GRADERS]
    assert len(set(rules)) == len(rules)
    assert all("\n" not in rule for rule in rules)
