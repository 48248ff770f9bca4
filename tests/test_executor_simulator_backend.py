"""The response model and the back end in the process: rates, coupling, votes, forms of replies."""

import collections
import json
import math
import re
import statistics
from pathlib import Path

import pytest

from w4s_jax.executor.simulator import ErrorKind, Feature, ResponseModel, SimulatedBackend, problem_from_item
from w4s_jax.executor.simulator.model import MULTIPLIERS, PER_SAMPLE, SampleId, uniform
from w4s_jax.tasks.base import SealedTask
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.tasks.toy import FAMILIES, toy_task
from w4s_jax.types import CallContext, ChatReply, ChatRequest, Item, Message, Purpose, Split, Usage

STEPS = "\nThink step by step. End with: Answer: <number>"
CODE = "\nWrite Python code: def solution() that returns the answer."


def items_of(name, size=20):
    return toy_task(name, sizes=SplitSizes(train=0, validation=size, test=0)).items(Split.VALIDATION)


def simulated(items, **options):
    backend = SimulatedBackend(**options)
    backend.register(items)
    return backend


def ask(backend, text, *, call=0, repetition=0, **fields):
    request = ChatRequest(
        model="simulated", messages=(Message(role="user", content=text),), **{"temperature": 0.5, **fields}
    )
    return backend.reply(request, SampleId(repetition, call))


def said(text):
    return text.rsplit("Answer: ", 1)[-1]


def number_item(profile, number=0, **wrong):
    """An item with one hand-made profile."""
    return Item(
        id=f"hand/{number}",
        question=f"Number {number}: how many eggs are in 6 boxes of 7?",
        target=42,
        metadata={
            "program": "def solution():\n    return 6 * 7",
            "answer": "42",
            "noun": "eggs",
            "profile": profile,
            "wrong": wrong,
            "wrong_programs": {k: "def solution():\n    return 6 + 7" for k in wrong if k != "calculation"},
        },
    )


def right_share(items, tail, **fields):
    backend = simulated(items)
    return sum(said(ask(backend, i.question + tail, **fields).texts[0]) == "42" for i in items) / len(items)


@pytest.mark.parametrize(
    ("kind", "tail", "factor"),
    [
        ("planning", STEPS, 0.9),
        ("planning", "\nMake a plan first, then solve it. End with: Answer: <number>", 0.3),
        ("units", STEPS + " Convert all units first.", 0.1),
        ("reading", STEPS + " List the facts you need first.", 0.15),
        ("ambiguity", STEPS + " State how you read unclear words.", 0.4),
        ("slip", STEPS + " Double-check the arithmetic.", 0.3),
        ("calculation", STEPS, 0.9),
        ("planning", STEPS + "Be polite and friendly. This is very important. You are a world-class expert.", 0.99),
    ],
)
def test_an_error_is_as_frequent_as_the_table_says(kind, tail, factor):
    count, base = 4000, 0.5
    items = [number_item({kind: base}, i, **{kind: ["13"]}) for i in range(count)]
    rate = base * factor
    bound = 4 * math.sqrt(rate * (1 - rate) / count)
    assert abs(1 - right_share(items, tail) - rate) < bound


def test_temperature_raises_slips_alone():
    model = ResponseModel()
    hot, calm = (model.factors((), 0, t) for t in (1.0, 0.5))
    assert hot[ErrorKind.SLIP] == pytest.approx(1.6)
    assert {k: v for k, v in hot.items() if k != "slip"} == {k: v for k, v in calm.items() if k != "slip"}


def test_the_third_instruction_distracts_by_a_tenth_and_junk_counts():
    model = ResponseModel()
    two = {Feature.UNITS, Feature.EDGES}
    assert model.factors(two, 0, 0.0)[ErrorKind.AMBIGUITY] == 1.0
    assert model.factors(two, 1, 0.0)[ErrorKind.AMBIGUITY] == pytest.approx(1.1)
    assert model.factors(two | {Feature.FACTS}, 2, 0.0)[ErrorKind.AMBIGUITY] == pytest.approx(1.331)
    assert model.factors(two, 3, 0.0)[ErrorKind.FORM] == 1.0


def test_a_sure_error_gives_its_own_wrong_answer_and_the_first_kind_wins():
    item = number_item({"planning": 0.98, "slip": 0.98, "reading": 0.0}, planning=["13"], slip=["24"], reading=["7"])
    model = ResponseModel(multipliers={}, highest_rate=1.0)
    sure = Item(
        id=item.id,
        question=item.question,
        target=42,
        metadata={**item.metadata, "profile": {"planning": 1.0, "slip": 1.0}},
    )
    assert said(ask(simulated([sure], response_model=model), sure.question + STEPS).texts[0]) == "13"


def test_equal_requests_tie_and_wording_around_a_sample_differs():
    items = items_of("toy_ambiguous")
    backend, twin = simulated(items), simulated(list(reversed(items)))
    for item in items:
        replies = [ask(b, item.question + STEPS, n=3) for b in (backend, twin, backend)]
        assert replies[0] == replies[1] == replies[2]
    texts = {text for i in items[:5] for text in ask(backend, i.question, n=8, temperature=1.0).texts}
    assert len(texts) > 20


def test_a_request_with_lower_rates_errs_on_a_subset_of_the_items():
    items = items_of("toy_units", 150)
    backend = simulated(items)

    def wrong(tail):
        return {i.id for i in items if said(ask(backend, i.question + tail).texts[0]) != str(i.target)}

    assert wrong(STEPS + " Double-check the arithmetic.") < wrong(STEPS)
    assert wrong("\nMake a plan first, then solve it. End with: Answer: <number>") < wrong(
        "\nEnd with: Answer: <number>"
    )


def test_sample_s_is_the_same_whether_asked_at_once_or_one_by_one():
    item = items_of("toy_ambiguous")[0]
    backend = simulated([item])
    at_once = ask(backend, item.question, n=6).texts
    one_by_one = [ask(backend, item.question, call=s).texts[0] for s in range(6)]
    in_threes = [t for c in range(2) for t in ask(backend, item.question, call=c, n=3).texts]
    assert list(at_once) == one_by_one == in_threes
    assert ask(backend, item.question, n=6, repetition=1).texts != at_once


def test_at_temperature_zero_all_samples_are_equal():
    for item in items_of("toy_ambiguous"):
        assert len(set(ask(simulated([item]), item.question, n=5, temperature=0.0).texts)) == 1


@pytest.mark.parametrize("kind", [k for k in ErrorKind if k not in ("form", "edge")])
def test_voting_helps_only_against_errors_drawn_per_sample(kind):
    items = [number_item({kind: 0.4}, i, **{kind: ["13"]}) for i in range(600)]
    backend = simulated(items)

    def vote(item, n):
        answers = [said(t) for t in ask(backend, item.question + STEPS, n=n).texts]
        return collections.Counter(answers).most_common(1)[0][0] == "42"

    one, five = (sum(vote(i, n) for i in items) / len(items) for n in (1, 5))
    if kind in PER_SAMPLE:
        # P(at least 3 of 5 right), at rate 0.4: 0.6826
        assert five == pytest.approx(0.6826, abs=4 * math.sqrt(0.6826 * 0.3174 / 600))
        assert five > one
    else:
        assert five == one


def test_code_holds_no_computed_number_and_its_execution_makes_no_calculation_error():
    model = ResponseModel()
    for item in items_of("toy_large", 60):
        backend = simulated([item], response_model=model)
        text = ask(backend, item.question + CODE).texts[0]
        assert str(item.target) not in text
        block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
        if block:
            scope = {}
            exec(block[1], scope)
            assert str(scope["solution"]()) not in item.metadata["wrong"]["calculation"]


def test_without_a_marked_answer_the_number_stands_in_a_sentence():
    item = number_item({"form": 0.0})
    text = ask(simulated([item]), item.question + "\nThink step by step.").texts[0]
    assert text.endswith(" 42 eggs.")
    assert ask(simulated([item]), item.question + "\nGive only the final number.").texts == ("42",)
    assert ask(simulated([item]), item.question + "\nThink. Put it into \\boxed{}.").texts[0].endswith("\\boxed{42}")
    assert ask(simulated([item]), item.question + STEPS).texts[0].endswith("\nAnswer: 42")


def test_a_form_error_lets_another_number_follow():
    item = number_item({"form": 0.98})
    model = ResponseModel(multipliers={}, highest_rate=1.0)
    item = Item(id=item.id, question=item.question, target=42, metadata={**item.metadata, "profile": {"form": 1.0}})
    backend = simulated([item], response_model=model)
    for tail in ("", STEPS, "\nGive only the final number."):
        numbers = re.findall(r"\d+", ask(backend, item.question + tail).texts[0])
        assert "42" in numbers
        assert numbers[-1] != "42"


KEYS = "\n\nBe exact.\nReply with one JSON object with the keys: reasoning, answer."


def test_json_mode_gives_the_keys_asked_for():
    item = number_item({})
    reply = ask(simulated([item]), item.question + KEYS, json_mode=True, n=2)
    assert [list(json.loads(t)) for t in reply.texts] == [["reasoning", "answer"]] * 2
    assert json.loads(reply.texts[0])["answer"] == "42"
    assert json.loads(ask(simulated([]), "hello" + KEYS, json_mode=True).texts[0])["answer"] == ""


def test_form_errors_of_json_are_broken_objects_or_wordy_answers():
    model = ResponseModel(multipliers={}, highest_rate=1.0)
    broken = wordy = 0
    for i in range(200):
        item = number_item({"form": 1.0}, i)
        text = ask(simulated([item], response_model=model), item.question + KEYS, json_mode=True).texts[0]
        try:
            wordy += json.loads(text)["answer"] not in ("42", "")
        except json.JSONDecodeError:
            broken += 1
    assert broken + wordy == 200
    assert 70 < broken < 130


def test_json_keys_for_code_hold_code():
    item = items_of("toy_large")[0]
    text = ask(
        simulated([item]), item.question + "\nReply with one JSON object with the keys: code.", json_mode=True
    ).texts[0]
    if text.endswith("}"):
        assert json.loads(text)["code"].startswith("def solution():")


def test_a_critique_mends_some_wrong_answers_and_breaks_some_right_ones():
    items = [number_item({"planning": 0.4}, i, planning=["13"]) for i in range(3000)]
    backend = simulated(items)
    before = {i.id: said(ask(backend, i.question + STEPS).texts[0]) for i in items}
    again = "\nAnswer so far:\n{}\nFind the mistake and solve it again."
    after = {i.id: said(ask(backend, i.question + STEPS + again.format(before[i.id])).texts[0]) for i in items}
    right = [k for k in before if before[k] == "42"]
    wrong = [k for k in before if before[k] != "42"]
    broken = sum(after[k] != "42" for k in right) / len(right)
    mended = sum(after[k] == "42" for k in wrong) / len(wrong)
    model = ResponseModel()
    factor = MULTIPLIERS[Feature.CRITIQUE][ErrorKind.PLANNING]
    assert broken == pytest.approx(model.broken_by_critique, abs=4 * math.sqrt(0.07 * 0.93 / len(right)))
    assert mended == pytest.approx(1 - factor, abs=4 * math.sqrt(0.25 / len(wrong)))


def test_critique_of_garbage_breaks_nothing():
    items = [number_item({"planning": 0.0}, i, planning=["13"]) for i in range(300)]
    assert right_share(items, STEPS + "\nAnswer so far:\n7\nFind the mistake and solve it again.") == 1.0


def test_usage_counts_four_characters_a_token_and_max_tokens_cuts():
    item = number_item({})
    reply = ask(simulated([item]), item.question + "\nGive only the final number.", n=3)
    text = item.question + "\nGive only the final number."
    assert reply.usage.prompt_tokens == math.ceil(len(text) / 4) + 4
    assert reply.usage.completion_tokens == 3
    assert (reply.usd, reply.finish_reasons) == (0.0, ("stop",) * 3)
    cut = ask(simulated([item]), item.question + STEPS, max_tokens=5)
    assert (cut.finish_reasons, len(cut.texts[0]), cut.usage.completion_tokens) == (("length",), 20, 5)


def test_hashed_draws_are_uniform():
    draws = [uniform(f"x/{i}", "planning") for i in range(4000)]
    assert sum(draws) / 4000 == pytest.approx(0.5, abs=4 / math.sqrt(12 * 4000))
    assert sum(d < 0.1 for d in draws) / 4000 == pytest.approx(0.1, abs=0.02)


async def test_send_draws_by_repetition_and_sample_index():
    item = items_of("toy_ambiguous")[0]
    backend = simulated([item])
    request = ChatRequest(model="simulated", messages=(Message(role="user", content=item.question),))
    context = CallContext(purpose=Purpose.OPTIMISATION, sample_index=4, repetition=2)
    assert await backend.send(request, context) == backend.reply(request, SampleId(2, 4))
    await backend.close()


def test_a_sealed_task_tells_the_simulator_its_test_items():
    task = toy_task("toy_small", sizes=SplitSizes(train=1, validation=2, test=3))
    assert len(SimulatedBackend(tasks=[SealedTask(task)])) == len(SimulatedBackend(tasks=[task])) == 6


# --- problems of real data sets ---------------------------------------------------------------------------------------


def test_huge_numbers_and_units_raise_a_derived_profile():
    small = problem_from_item(Item(id="a", question="Ann has 3 eggs and 4 more.", target=7)).profile
    huge = problem_from_item(Item(id="b", question="Ann has 3,456,789 eggs, and 4 hours pass.", target=7.0)).profile
    assert huge[ErrorKind.CALCULATION] > small[ErrorKind.CALCULATION]
    assert huge[ErrorKind.UNITS] > small[ErrorKind.UNITS] == 0


@pytest.mark.parametrize("target", [7, -3.5, "18", "1,000", "B", "\\frac{1}{2}", "Paris", True, 10**60])
def test_a_derived_problem_of_any_target_is_answered_in_every_style(target):
    item = Item(id="x/1", question="Ann has 3 eggs and takes 4 more. How many, in Paris?", target=target)
    problem = problem_from_item(item)
    assert all(text != problem.answer for texts in problem.wrong.values() for text in texts)
    backend = simulated([item], response_model=ResponseModel(highest_rate=0.0))
    assert ask(backend, item.question + STEPS).texts[0].endswith(f"Answer: {target}")
    scope = {}
    exec(re.search(r"```python\n(.*?)```", ask(backend, item.question + CODE).texts[0], re.DOTALL)[1], scope)
    assert str(scope["solution"]()).replace(",", "") == str(target).replace(",", "")


def test_a_derived_code_problem_has_wrong_programs_that_differ():
    program = 'def add(a, b):\n    """Adds 1 + 1."""\n    return a + b if a > 0 else b + 1\n'
    item = Item(id="h/1", question=program[:40], target="", entry_point="add", metadata={"program": program})
    problem = problem_from_item(item)
    assert set(problem.wrong_programs) == {ErrorKind.PLANNING, ErrorKind.EDGE, ErrorKind.SLIP}
    scope = {}
    exec(problem.wrong_programs[ErrorKind.EDGE], scope)
    assert '"""Adds 1 + 1."""' in problem.wrong_programs[ErrorKind.EDGE]
    with pytest.raises(SyntaxError):
        compile(problem.wrong_programs[ErrorKind.SLIP], "x", "exec")


# --- the documents ----------------------------------------------------------------------------------------------------


def test_the_document_prints_the_table_of_the_model():
    text = (Path(__file__).parents[1] / "docs" / "simulator.md").read_text(encoding="utf-8")
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    head = next(row for row in rows if row[0] == "request feature")
    assert head[1:] == [kind.value for kind in ErrorKind]
    by_feature = {row[0]: row[1:] for row in reversed(rows)}  # of equal names the first counts
    for feature in Feature:
        cells = [MULTIPLIERS[feature].get(kind) for kind in ErrorKind]
        assert by_feature[feature.value] == ["" if c is None else f"{c:g}" for c in cells]
    for family in FAMILIES.values():
        cells = [family.profile.get(kind.value) for kind in ErrorKind]
        assert by_feature[f"`{family.name}`"] == ["" if c is None else f"{c:g}" for c in cells]


def test_latency_is_log_normal_around_the_models_and_the_longest_choice_counts():
    backend = SimulatedBackend()

    def seconds(text, *texts, sigma=0.0):
        request = ChatRequest(model="simulated", messages=(Message(role="user", content=text),))
        reply = ChatReply(texts=texts, finish_reasons=("stop",) * len(texts), usage=Usage())
        return backend.seconds(request, SampleId(0, 0), reply, sigma=sigma)

    assert seconds("q", "x" * 400, "x" * 40) == pytest.approx(0.25 + 0.008 * 100)
    drawn = [math.log(seconds(str(i), sigma=0.5) / 0.25) for i in range(4000)]  # no token: the first part alone
    assert statistics.mean(drawn) == pytest.approx(0.0, abs=0.04)
    assert statistics.stdev(drawn) == pytest.approx(0.5, abs=0.03)
