"""What the simulated executor reads out of a request: a table of phrases, and where the question stands."""

import time

import pytest

from w4s_jax.executor.simulator import Feature, SimulatedBackend
from w4s_jax.executor.simulator.model import ErrorKind, SampleId
from w4s_jax.executor.simulator.problems import problem_from_item
from w4s_jax.executor.simulator.reading import Features, QuestionIndex, read, read_around
from w4s_jax.executor.simulator.replies import NO_QUESTION, reply_text
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.tasks.toy import FAMILIES, toy_task
from w4s_jax.types import ChatRequest, Message, Split
from w4s_jax.workflows.grammar import ENDING, JUNK, Instruction, Style

F = Feature

DIALECT = {
    Style.DIRECT.value: {F.ANSWER_ONLY},
    Style.STEPS.value: {F.STEPS},
    Style.PLAN.value: {F.PLAN},
    Style.PROGRAM.value: {F.CODE},
    Style.FUNCTION.value: set(),
    Instruction.FACTS.value: {F.FACTS},
    Instruction.UNITS.value: {F.UNITS},
    Instruction.WORDING.value: {F.INTERPRETATION},
    Instruction.EDGES.value: {F.EDGES},
    Instruction.CHECK.value: {F.CHECK},
    Instruction.IGNORE.value: {F.IGNORE},
    ENDING: {F.ENDING},
}

VARIANTS = {
    "Answer with just the number.": {F.ANSWER_ONLY},
    "Return only the final answer, no explanation.": {F.ANSWER_ONLY},
    "Let's think STEP-BY-STEP and show your work.": {F.STEPS},
    "Please reason carefully before you answer.": {F.STEPS},
    "First devise a short plan, and then follow it.": {F.PLAN},
    "Break the problem down into sub-problems.": {F.PLAN},
    "Write a short Python program that prints it.": {F.CODE},
    "Implement the calculation as a python function.": {F.CODE},
    "Extract all relevant numbers before you start.": {F.FACTS},
    "Copy the needed rows of the table.": {F.FACTS},
    "Convert everything to the same units.": {F.UNITS},
    "Beware of unit conversions.": {F.UNITS},
    "Some wording is ambiguous: follow the stated convention.": {F.INTERPRETATION},
    "Say how you interpret it.": {F.INTERPRETATION},
    "Think of corner cases such as an empty list.": {F.EDGES},
    "Verify the arithmetic at the end.": {F.CHECK},
    "Disregard any unnecessary information.": {F.IGNORE},
    "Put it into \\boxed{}.": {F.ENDING},
    "The answer must be a single number.": {F.ENDING},
    "Think step by step, then give only the final number.": {F.STEPS, F.ENDING},
    "Solve the problem.": set(),
    "Use your calculator if you like.": set(),
    "Good luck with the plant.": set(),
}


@pytest.mark.parametrize(("text", "features"), [*DIALECT.items(), *VARIANTS.items()])
def test_a_phrase_is_read_as_its_features_and_no_others(text, features):
    found, _ = read_around(text, False, False)
    assert found.present == features
    assert found.junk == 0


@pytest.mark.parametrize(
    ("text", "count"),
    [
        *((junk.value, 1) for junk in JUNK),
        ("You are a world-class expert. This is very important. Be polite and friendly.", 3),
        ("You are math expert.", 1),
        ("I will tip you $200!", 1),
        ("Take a deep breath.", 1),
        ("Sum the polynomial.", 0),
    ],
)
def test_junk_is_counted_and_is_no_feature(text, count):
    found, _ = read_around(text, False, False)
    assert (found.junk, found.present) == (count, frozenset())


@pytest.mark.parametrize(
    ("text", "json_mode", "keys"),
    [
        ("Be exact. Reply with one JSON object with the keys: reasoning, answer.", True, ("reasoning", "answer")),
        ("Reply with one JSON object with the keys: answer.", False, ("answer",)),
        ('Give JSON like {"thought": "...", "result": 1}', False, ("thought", "result")),
        ("JSON with the keys `plan`, `code` and `answer`.", True, ("plan", "code", "answer")),
        ("anything", True, ("answer",)),
        ("The key facts: all of them.", False, ()),
    ],
)
def test_json_keys_are_read(text, json_mode, keys):
    assert read_around(text, False, json_mode)[0].keys == keys


def test_a_reasoning_key_is_reasoning_and_a_code_key_is_code():
    text = "Reply with one JSON object with the keys: {}, answer."
    assert F.STEPS in read_around(text.format("reasoning"), False, True)[0].present
    assert F.CODE in read_around(text.format("code"), False, True)[0].present


def test_a_critique_needs_an_earlier_answer():
    ask = "\nAnswer so far:\n{}\nFind the mistake and solve it again."
    assert F.CRITIQUE in read_around(ask.format("So it is 12."), False, False)[0].present
    assert F.CRITIQUE not in read_around(ask.format("nothing"), False, False)[0].present
    assert F.CRITIQUE not in read_around("Find the mistake and solve it again.", False, False)[0].present
    assert F.CRITIQUE in read_around("Review your answer.", True, False)[0].present


def test_test_feedback_needs_a_failure():
    ask = "\nThe tests said:\n{}\nFix the function."
    failed = ask.format("Test failed:\nassert f(1) == 2\nAssertionError")
    assert F.TEST_FEEDBACK in read_around(failed, False, False)[0].present
    assert F.TEST_FEEDBACK not in read_around(ask.format("2 public tests passed"), False, False)[0].present
    assert F.TEST_FEEDBACK not in read_around(ask.format(""), False, False)[0].present


def test_a_hostile_text_is_read_in_time():
    start = time.process_time()
    for text in ("keys " + "a" * 20_000 + "!", "keys: " + "a, " * 7_000 + "!", "convert " * 4_000, "only the " * 4_000):
        read_around(text, False, True)
    assert time.process_time() - start < 2.0


# --- the question -----------------------------------------------------------------------------------------------------


def index_of(*questions):
    index = QuestionIndex()
    for question in questions:
        index.add(question)
    return index


def test_a_question_is_found_anywhere_and_cut_out():
    index = index_of("How many eggs are there in 3 boxes of 6?")
    found, around = index.find("Solve: How many eggs are there in 3 boxes of 6? Think.")
    assert (found, around.split()) == ("How many eggs are there in 3 boxes of 6?", ["Solve:", "Think."])
    assert index.find("How many eggs are there in 3 boxes of 7? Think.")[0] is None


def test_of_overlapping_questions_the_longest_counts_and_of_several_the_last():
    short, long, other = "What is 2 + 2?", "What is 2 + 2? And then times 3?", "Name the sum of 5 and 6."
    index = index_of(short, long, other)
    assert index.find(long)[0] == long
    assert index.find(f"Example: {other} It is 11. Now: {short}")[0] == short
    assert index.find(f"Example: {short} It is 4. Now: {other}")[0] == other


def test_white_space_and_messages_do_not_hide_a_question():
    index = index_of("place | Monday Oslo | 3 How many?")
    messages = [
        Message(role="system", content="You are a teacher."),
        Message(role="user", content="place | Monday\n  Oslo | 3\nHow many?\nThink step by step."),
    ]
    reading = read(messages, index, False)
    assert reading.question == "place | Monday Oslo | 3 How many?"
    assert reading.features.present == {F.STEPS}
    assert reading.features.junk == 1


def test_words_of_the_question_and_of_earlier_replies_are_no_instructions():
    question = "Write Python code step by step in only 3 units? How many edge cases?"
    messages = [
        Message(role="user", content=question),
        Message(role="assistant", content="Let's think step by step. Double-check: 4."),
        Message(role="user", content="Review your answer."),
    ]
    reading = read(messages, index_of(question), False)
    assert reading.features.present == {F.CRITIQUE}
    assert "4" in reading.earlier


def test_no_reply_holds_a_phrase_that_reads_as_an_instruction():
    """Else quoting a reply in a later request would change what is asked."""
    asked = [frozenset(), *(frozenset({f}) for f in Feature), frozenset({F.STEPS, F.ENDING})]
    for name in FAMILIES:
        for item in toy_task(name, sizes=SplitSizes(train=0, validation=6, test=0)).items(Split.VALIDATION):
            problem = problem_from_item(item)
            for present in asked:
                for struck in (frozenset(), frozenset({ErrorKind.FORM}), frozenset({ErrorKind.PLANNING})):
                    for keys in ((), ("reasoning", "answer")):
                        features = Features(present=present, junk=0, keys=keys)
                        text = " ".join(reply_text(problem, struck, features, SampleId(0, 3)).split())
                        found, _ = read_around(text, False, False)
                        assert not found.present, (text, found.present)
                        assert not found.junk
    assert not read_around(NO_QUESTION, False, False)[0].present


def test_forgetting_the_question_gets_no_answer():
    task = toy_task("toy_units", sizes=SplitSizes(train=0, validation=3, test=0))
    backend = SimulatedBackend(tasks=[task])
    item = task.items(Split.VALIDATION)[0]
    for text in ("Think step by step.", item.question[:-12], "Q: " + item.question.replace("How", "Tell how")):
        request = ChatRequest(model="simulated", messages=(Message(role="user", content=text),))
        assert backend.reply(request, SampleId(0, 0)).texts == (NO_QUESTION,)
