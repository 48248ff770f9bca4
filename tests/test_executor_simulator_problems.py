"""Problems of real data sets: what the simulator knows of an item, and how it is right and wrong about it."""

import json
import logging
import random
import re
import time

import pytest

from w4s_jax.executor.simulator import ErrorKind, Feature, ResponseModel, SimulatedBackend, problem_from_item
from w4s_jax.executor.simulator.answers import AnswerForm, form_of
from w4s_jax.executor.simulator.model import SampleId
from w4s_jax.executor.simulator.problems import gold_of
from w4s_jax.executor.simulator.reading import Features, QuestionIndex, read_around, squeeze
from w4s_jax.executor.simulator.replies import NO_QUESTION, reply_text
from w4s_jax.sandbox.child.parsing import extract_answer_str, parse_json_reply
from w4s_jax.types import ChatRequest, InputError, Item, Message

PASSAGE = (
    "In March 1912 the Norwegian ship Fram left Hobart with nineteen men and Captain Nilsen. It reached Buenos Aires "
    "after sixty days, where Hjalmar Johansen and other sailors went ashore, while Amundsen stayed in Lyttelton."
)
ITEMS = {
    item.id: item
    for item in (
        Item(id="number", question=f"{PASSAGE}\n\nHow many men were there?", target="19"),
        Item(
            id="spans",
            question=f"{PASSAGE}\n\nQuestion: How many days did it take?",
            target=[["60"], ["sixty", "61"], ["sixty days"]],
            metadata={"answer": "60"},
        ),
        Item(
            id="letter",
            question="Which gas is the lightest?\n\nA) argon\nB) neon\nC) helium\nD) xenon\nE) radon\nF) krypton",
            target="C",
            metadata={"num_choices": 6},
        ),
        Item(id="two", question="Is ice lighter than water?\nA) yes\nB) no", target="A", metadata={"num_choices": 2}),
        Item(id="fraction", question="What is $\\frac{1}{3} + \\frac{1}{6}$?", target="\\frac{1}{2}"),
        Item(id="pair", question="Where do $y=x+1$ and $y=2x-2$ meet?", target="(3,4)"),
        Item(id="formula", question="Expand $x(x+1) - x + 1$.", target="x^2+1"),
        Item(id="letters", question="Write the greater one: $-y$ or $y$, where $y > 0$.", target="y"),
        Item(id="endless", question="Where does $e^x$ tend to?", target="\\infty"),
        Item(id="day", question="Which weekday follows Thursday, before Saturday?", target="\\text{Friday}"),
        Item(id="boxed_choice", question="Which graph is that of $x^2$?", target="\\text{(B)}"),
        Item(id="name", question=f"{PASSAGE}\n\nQuestion: Which city did Fram reach?", target="Buenos Aires"),
        Item(id="date", question=f"{PASSAGE}\n\nQuestion: When did it leave?", target="March 1912"),
        Item(id="yes", question=f"{PASSAGE}\n\nQuestion: Did Fram leave Hobart?", target="yes"),
        Item(
            id="phrase", question=f"{PASSAGE}\n\nQuestion: Who went ashore?", target=["other sailors", "some sailors"]
        ),
    )
}
FORMS = {
    "number": AnswerForm.NUMBER,
    "spans": AnswerForm.NUMBER,
    **dict.fromkeys(("letter", "two"), AnswerForm.LETTER),
    **dict.fromkeys(("fraction", "pair", "formula", "letters", "endless", "day", "boxed_choice"), AnswerForm.FORMULA),
    **dict.fromkeys(("name", "date", "yes", "phrase"), AnswerForm.WORDS),
}
RIGHT = ResponseModel(multipliers={}, highest_rate=0.0, broken_by_critique=0.0)
MISFORMED = frozenset({ErrorKind.FORM})
KEYS = "\nReply with one JSON object with the keys: reasoning, answer."


def simulated(*items, **options):
    backend = SimulatedBackend(**options)
    backend.register(items)
    return backend


def ask(backend, text, **fields):
    request = ChatRequest(model="simulated", messages=(Message(role="user", content=text),), **fields)
    return backend.reply(request, SampleId(0, 0)).texts[0]


def spelt(item, *present, struck=frozenset(), keys=(), boxed=False, sample=0):
    features = Features(present=frozenset(present), junk=0, keys=keys, boxed=boxed)
    return reply_text(problem_from_item(item), struck, features, SampleId(0, sample))


# --- what is known ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "gold"),
    [
        ({"target": 7}, 7),
        ({"target": "Oslo"}, "Oslo"),
        ({"target": "  "}, None),
        ({"target": [["3"], ["three"]], "metadata": {"answer": "3"}}, "3"),
        ({"target": ["Oslo", "the city of Oslo"]}, "Oslo"),
        ({"target": [["3"], ["three"]]}, None),
        ({"target": []}, None),
        ({"target": {"x": 1}}, None),
        ({"target": None}, None),
        ({"target": {"tests": ["assert f()"], "setup": ""}, "entry_point": "f"}, None),
        ({"target": "", "entry_point": "f", "metadata": {"program": " \n"}}, None),
        ({"target": "", "entry_point": "f", "metadata": {"program": "def f(): ..."}}, "def f(): ..."),
    ],
)
def test_the_gold_answer_is_the_programs_else_the_metadatas_else_the_targets(fields, gold):
    item = Item(id="x/1", question="What?", **fields)
    assert gold_of(item) == gold
    if gold is None:
        with pytest.raises(InputError, match="'x/1' has no known gold answer"):
            problem_from_item(item)


def test_an_item_without_a_known_answer_is_counted_and_gets_the_reply_of_an_unknown_one(caplog):
    known = ITEMS["name"]
    unknown = [Item(id=f"x/{i}", question=f"Write f number {i}.", target={}, entry_point="f") for i in range(3)]
    with caplog.at_level(logging.WARNING):
        backend = simulated(known, *unknown)
    assert len(backend) == 1
    assert ask(backend, unknown[0].question) == NO_QUESTION
    (record,) = caplog.records
    assert record.name.startswith("w4s_jax.")
    assert "3 of 4 items, e.g. x/0, have no known gold answer" in record.getMessage()


def test_where_every_answer_is_known_nothing_is_logged(caplog):
    assert len(simulated(*ITEMS.values())) == len(ITEMS)
    assert not caplog.records


# --- wrong answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ITEMS)
def test_an_item_has_the_form_of_its_answer_and_wrong_answers_that_are_wrong(name):
    item = ITEMS[name]
    problem = problem_from_item(item)
    assert problem.form is FORMS[name]
    assert {ErrorKind.READING, ErrorKind.PLANNING, ErrorKind.SLIP} <= set(problem.wrong)
    assert set(problem.profile) == {*problem.wrong, ErrorKind.FORM}
    accepted = re.findall(r'"(.*?)"', json.dumps(item.target).replace("\\\\", "\\"))
    for texts in problem.wrong.values():
        assert not {"".join(t.lower().split()) for t in texts} & {"".join(t.lower().split()) for t in accepted}


@pytest.mark.parametrize(
    ("gold", "form"),
    [
        ("1,000", "number"), ("-3.5", "number"), (10**60, "number"), ("3,4", "formula"), ("C", "letter"),
        ("x", "formula"), ("2x", "formula"), ("90^\\circ", "formula"), ("y = mx + b", "formula"), ("18%", "formula"),
        ("U.S.", "words"), ("July 4, 1776", "words"), ("3 | 4", "formula"), ("水", "words"), (True, "words"),
    ],
)  # fmt: skip
def test_forms_of_answers(gold, form):
    assert form_of(gold).value == form


def test_a_wrong_choice_is_another_letter_that_the_question_has():
    texts = problem_from_item(ITEMS["letter"]).wrong
    assert {t for kind in texts.values() for t in kind} == set("ABDEF")
    assert problem_from_item(ITEMS["two"]).wrong[ErrorKind.SLIP] == ("B",)
    lower = Item(id="x", question="a or b?", target="a", metadata={"num_choices": 2})
    assert problem_from_item(lower).wrong[ErrorKind.READING] == ("b",)


@pytest.mark.parametrize(
    ("question", "gold"),
    [("Ann has 5 pears and gives 5 away. How many are left?", 0), ("He pays $1,000 for 2 hours. How much?", 1000)],
)
def test_no_wrong_answer_equals_a_whole_number_as_a_number(question, gold):
    for i in range(30):
        wrong = problem_from_item(Item(id=f"x/{i}", question=question, target=gold)).wrong
        assert wrong[ErrorKind.SLIP] == (str(gold + 1), str(gold - 1))
        assert not any(float(text) == gold for texts in wrong.values() for text in texts)


@pytest.mark.parametrize(
    ("name", "possible"),
    [
        ("fraction", {"\\frac{2}{2}", "\\frac{3}{2}", "\\frac{1}{3}", "\\frac{1}{4}"}),
        ("pair", {"(2,4)", "(4,4)", "(5,4)", "(3,3)", "(3,5)", "(3,6)"}),
        ("formula", {"x^3+1", "x^4+1", "x^2+2", "x^2+3"}),
        ("letters", {"-y", "2y", "y+1"}),
        ("endless", {"0", "1"}),
        ("day", {"\\text{Thursday}", "\\text{Saturday}"}),
        ("boxed_choice", {f"\\text{{({letter})}}" for letter in "ACDE"}),
        ("yes", {"no"}),
    ],
)
def test_wrong_answers_are_near_the_right_one(name, possible):
    assert {t for texts in problem_from_item(ITEMS[name]).wrong.values() for t in texts} <= possible


def test_a_wrong_name_is_another_name_of_the_question_and_a_wrong_date_has_another_number():
    for texts in problem_from_item(ITEMS["name"]).wrong.values():
        assert all(text in PASSAGE and text[0].isupper() and "Buenos" not in text for text in texts)
    date = problem_from_item(ITEMS["date"]).wrong
    assert date[ErrorKind.SLIP] == ("March 1913", "March 1914")
    assert "March" not in date[ErrorKind.READING][0]


def test_words_that_read_as_an_instruction_are_no_wrong_answer():
    item = Item(id="x", question="Review, Review or reflect? Verify the arithmetic.", target="Neither")
    assert {t for texts in problem_from_item(item).wrong.values() for t in texts} <= {"arithmetic", "Verify", "unknown"}


# --- replies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "marked", "stated"),
    [
        ("number", "19", "19"),
        ("spans", "60", "60"),
        ("letter", "C", "(C)"),
        ("fraction", "\\frac{1}{2}", "$\\frac{1}{2}$"),
        ("pair", "$(3,4)$", "$(3,4)$"),
        ("formula", "x^2+1", "$x^2+1$"),
        ("name", "Buenos Aires", "Buenos Aires"),
        ("phrase", "other sailors", "other sailors"),
    ],
)
def test_a_right_answer_is_spelt_as_the_request_asks_for_it(name, marked, stated):
    item, backend = ITEMS[name], simulated(ITEMS[name], response_model=RIGHT)
    gold = str(gold_of(item))
    assert ask(backend, item.question + "\nGive only the answer.") == gold
    assert ask(backend, item.question + "\nThink. Put it into \\boxed{}.").endswith(f"\\boxed{{{gold}}}")
    assert ask(backend, item.question + "\nEnd with: Answer: <answer>").endswith(f"\nAnswer: {marked}")
    assert json.loads(ask(backend, item.question + KEYS, json_mode=True))["answer"] == gold
    assert ask(backend, item.question + "\nThink step by step.").endswith(f" {stated}.")
    scope = {}
    program = ask(backend, item.question + "\nWrite Python code: def solution() that returns the answer.")
    exec(re.search(r"```python\n(.*?)```", program, re.DOTALL)[1], scope)
    assert str(scope["solution"]()) == gold


def chosen(text):
    """The letter of a choice by MMLU-Pro's rule: three patterns, the first that is found."""
    patterns = (r"answer is \(?([A-J])\)?", r"[aA]nswer:\s*([A-J])", r"\b([A-J])\b(?!.*\b[A-J]\b)")
    return next((m[1] for m in (re.search(p, text, re.DOTALL) for p in patterns) if m), None)


@pytest.mark.parametrize("sample", range(8))
def test_a_letter_is_found_by_the_rule_of_its_benchmark_unless_the_form_misleads(sample):
    item, keys = ITEMS["letter"], ("reasoning", "answer")
    for style in ({}, {"boxed": True}):
        for present in ((), (Feature.STEPS,), (Feature.ANSWER_ONLY,), (Feature.ENDING, Feature.STEPS)):
            assert chosen(spelt(item, *present, sample=sample, **style)) == "C"
            assert chosen(spelt(item, *present, sample=sample, struck=MISFORMED, **style)) in set("ABDEF")
    right, misformed = (
        parse_json_reply(spelt(item, keys=keys, sample=sample, struck=struck), keys)["answer"]
        for struck in (frozenset(), MISFORMED)
    )
    assert right == "C"
    assert chosen(misformed) != "C"  # another letter, or none where the object is broken


def test_of_two_choices_a_form_error_never_mends_a_wrong_one():
    text = spelt(ITEMS["two"], struck=MISFORMED | {ErrorKind.PLANNING})
    assert chosen(text) == "B"


@pytest.mark.parametrize("name", ["fraction", "pair", "formula", "name", "date", "yes", "phrase"])
def test_a_form_error_lets_a_number_follow_a_formula_or_a_text(name):
    item = ITEMS[name]
    for style in ({}, {"boxed": True}):
        for present in ((), (Feature.STEPS,), (Feature.ANSWER_ONLY,), (Feature.ENDING,)):
            text = spelt(item, *present, struck=MISFORMED, **style)
            assert str(gold_of(item)) in text
            assert extract_answer_str(text) != extract_answer_str(str(gold_of(item)))


def test_no_reply_holds_a_phrase_that_reads_as_an_instruction():
    asked = [(), *((feature,) for feature in Feature), (Feature.STEPS, Feature.ENDING)]
    struck = [frozenset({kind}) for kind in ErrorKind] + [frozenset(), MISFORMED | {ErrorKind.PLANNING}]
    for item in ITEMS.values():
        for present in asked:
            for errors in struck:
                for keys in ((), ("reasoning", "answer")):
                    for sample in range(5):
                        text = squeeze(spelt(item, *present, struck=errors, keys=keys, sample=sample))
                        found, _ = read_around(text, True, False)
                        assert not found.present, (text, found.present)
                        assert not found.junk


@pytest.mark.parametrize("name", ["letter", "formula", "name", "pair"])
def test_a_critique_breaks_a_right_answer_and_no_mention_of_its_letters_elsewhere(name):
    item = ITEMS[name]
    backend = simulated(item, response_model=ResponseModel(multipliers={}, highest_rate=0.0, broken_by_critique=1.0))

    def after(earlier):
        texts = (("user", item.question), ("assistant", earlier), ("user", "Review it. Give only the answer."))
        messages = tuple(Message(role=role, content=text) for role, text in texts)
        return backend.reply(ChatRequest(model="simulated", messages=messages), SampleId(0, 0)).texts[0]

    gold = str(gold_of(item))
    assert after(f"The answer is {gold}.") == problem_from_item(item).wrong[ErrorKind.PLANNING][0]
    assert after("Clearly, x^2+12345, or Buenos Airesville.".replace("x^2+1", "x^2+2")) == gold


# --- programs ---------------------------------------------------------------------------------------------------------

SUM = Item(
    id="mbpp/1",
    question=(
        "Write a function to sum the numbers of a list that are at least a limit.\n\n"
        "The function begins with\ndef sum_from(values, limit):\n\nIt has to pass\nassert sum_from([1, 2, 3], 2) == 5"
    ),
    target={"tests": ["assert sum_from([], 0) == 0", "assert sum_from([4], 4) == 4"], "setup": "import math"},
    entry_point="sum_from",
    public_tests=("assert sum_from([1, 2, 3], 2) == 5",),
    metadata={"program": "def sum_from(values, limit):\n    return sum(v for v in values if v >= limit)\n"},
)


def passes(program, tests):
    scope = {}
    try:
        exec(program, scope)
        exec("\n".join(tests), scope)
    except (AssertionError, SyntaxError, TypeError):
        return False
    return True


def test_the_gold_program_of_any_function_answers_and_its_errors_fail_the_tests():
    problem, tests = problem_from_item(SUM), [*SUM.public_tests, *SUM.target["tests"]]
    reply = ask(simulated(SUM, response_model=RIGHT), SUM.question + "\nWrite the function.")
    assert passes(re.search(r"```python\n(.*?)```", reply, re.DOTALL)[1], tests)
    assert set(problem.wrong_programs) == {ErrorKind.PLANNING, ErrorKind.EDGE, ErrorKind.SLIP}
    assert not any(passes(program, tests) for program in problem.wrong_programs.values())


# --- long questions ---------------------------------------------------------------------------------------------------


def words(rng, size):
    """So many characters of words, and a few more."""
    text = ""
    while len(text) < size:
        text += "".join(rng.choices("abcdefgh", k=rng.randint(1, 8))) + " "
    return text.strip()


def shared_passages(rng, count):
    """Questions of which many begin with the same characters, and many with the same passage."""
    passages = ["Passage: read this carefully. " + words(rng, rng.randint(3_000, 9_000)) for _ in range(count // 10)]
    return [f"{passage} Question: who {words(rng, 12)}?" for passage in passages for _ in range(10)]


def longest_at(questions, text, position):
    return max((q for q in questions if text.startswith(q, position)), key=len, default=None)


def found_by_hand(questions, text):
    """The last of the leftmost-longest matches at starts of words."""
    found, position = None, 0
    while position < len(text):
        match = longest_at(questions, text, position)
        if match:
            found, position = match, position + len(match)
        else:
            position = text.find(" ", position) + 1 or len(text)
    return found


def test_questions_that_begin_alike_are_found_as_by_hand():
    rng = random.Random(0)
    passage = "In the year 1912 the ship left for"
    ends = ["", "?", " a", " a b", " a b c", " a c", " b", " b a?", " b a? c", " B", "é", " é"]
    questions = [passage + end for end in ends] + ["In the", "In the year 19", passage[:24], passage[:25]]
    index = QuestionIndex()
    for question in rng.sample(questions, k=len(questions)):
        index.add(question)
    for _ in range(2_000):
        text = squeeze(" ".join(rng.choices([*questions, "In", "the", "a", "b", "c", passage[:30], "so"], k=4)))
        assert index.find(text)[0] == found_by_hand(questions, text)


def test_questions_added_later_are_found_too():
    index = QuestionIndex()
    index.add("How many eggs are there in this box?")
    assert index.find("How many eggs are there in this box? And in that one?")[0].endswith("box?")
    index.add("How many eggs are there in this box? And in that one?")
    assert index.find("How many eggs are there in this box? And in that one?")[0].endswith("one?")


def test_a_thousand_long_questions_are_each_found_among_their_like_in_time():
    rng = random.Random(1)
    questions = shared_passages(rng, 1_000)
    items = [Item(id=f"x/{i}", question=question, target=str(i)) for i, question in enumerate(questions)]
    index = QuestionIndex()
    for question in questions:
        index.add(question)
    start = time.process_time()
    for question in questions:
        assert index.find(f"Read all of it. {question} Think step by step.")[0] == question
    assert time.process_time() - start < 0.5  # half a millisecond each; it takes a fiftieth of that
    backend = simulated(*items, response_model=RIGHT)
    for item in rng.sample(items, k=20):
        assert ask(backend, item.question + "\nGive only the answer.") == item.target
