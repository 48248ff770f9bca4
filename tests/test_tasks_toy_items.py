"""Toy items: gold answers re-solved from the question's text alone, splits, profiles, metadata."""

import asyncio
import json
import math
import re

import pytest

from w4s_jax.tasks.splits import SplitSizes, find_duplicates
from w4s_jax.tasks.toy import FAMILIES, HELD_OUT, SEEN, expand, toy_task
from w4s_jax.tasks.toy.families import instance_profile
from w4s_jax.tasks.toy.grading import SYNTAX, grade, grade_number, hidden_test_program, read_number
from w4s_jax.types import InputError, Item, ProgramRun, RunStatus, Split

NUMERIC = [name for name in FAMILIES if name != "toy_code"]
SIZES = SplitSizes(train=30, validation=40, test=40)


def all_items(name, **options):
    task = toy_task(name, sizes=SIZES, **options)
    return [item for split in Split for item in task.items(split)]


def run(program, name="solution"):
    scope = {}
    exec(program, scope)
    return scope[name]


# --- a second solver: a phrase that tells the template, and a formula over the text's numbers in order ----------------

STORY = [
    ("packs", lambda boxes, each, shelf, sold: boxes * each - sold),
    ("coins a week", lambda pay, friend, weeks, price, gift: pay * weeks - price + gift),
    ("An old machine", lambda old, days, new, days2, idle: old * days + new * days2),
    ("rows of", lambda rows, trees, age, each, spoilt: rows * trees * each - spoilt),
    ("A school orders", lambda each, classes, office, last_year, back: each * classes + office - back),
    ("In a well", lambda deep, rate, other, hours: (rate + other) * 60 * hours),
    ("centimetres of rope", lambda ropes, metres, other: ropes * 100 * metres),
    ("last year it cost", lambda dozens, price, old: 12 * dozens * price),
    ("sacks of flour", lambda sacks, weight, more, other: 1000 * (sacks + more) * weight),
    ("pages a day for", lambda pages, weeks, other: pages * 7 * weeks),
    ("a minute and works", lambda age, people, rate, hours, again, days: people * rate * 60 * hours * days),
    ("fences of", lambda fences, metres, other, back, drops: (fences - back) * metres * 100 * drops),
    ("to the market", lambda years, dozens, kept, price, weeks: (dozens - kept) * 12 * price * weeks),
    ("loses", lambda own, k, lost, bought, *_: own * k - lost + bought),
    ("copies a book", lambda first, last, words, skipped: (last - first + 1) * words - skipped),
    ("biweekly", lambda own, each, weeks: own + 2 * weeks * each),
    ("A boat", lambda price, one, two, fee: price - price * one // 100 - price * two // 100 + fee),
    ("baker's", lambda guests, count, old, eaten, _: 13 * count + old - eaten),
]


def solve_table(question):
    head, *rest = question.split("\n")[1:]
    days = [cell.strip() for cell in head.split("|")][1:]
    rows = {r.split(" | ")[0]: dict(zip(days, map(int, r.split(" | ")[1:]), strict=True)) for r in rest if " | " in r}
    asked = rest[-1]
    numbers = [int(n) for n in re.findall(r"\d+", asked)]
    places = sorted((p for p in rows if p in asked), key=asked.index)
    named = sorted((d for d in days if d in asked), key=asked.index)
    if "were sold in" in asked:
        return rows[places[0]][named[0]]
    if "together than" in asked:
        one, two, against = (rows[p][named[0]] for p in places)
        return (one + two - against) * numbers[0]
    if "crates of" in asked:
        return numbers[0] * numbers[1] - sum(rows[places[0]][d] for d in named)
    if "Both ends count" in asked:
        span = days[days.index(named[0]) : days.index(named[1]) + 1]
        return numbers[0] * sum(rows[places[0]][d] for d in span)
    if "times more" in asked:
        return numbers[0] * rows[places[0]][named[0]] + numbers[1]
    pieces = sum(rows[places[0]][d] for d in named)
    return pieces * numbers[0] // 2 if "Two of them cost" in asked else pieces * numbers[0]


def solve(question):
    if " | " in question:
        return solve_table(question)
    formulas = [formula for phrase, formula in STORY if phrase in question]
    assert len(formulas) == 1, question
    return formulas[0](*map(int, re.findall(r"\d+", question)))


@pytest.mark.parametrize("name", NUMERIC)
def test_every_gold_answer_is_what_a_second_solver_gets_from_the_text(name):
    for item in all_items(name):
        assert solve(item.question) == item.target, item.question


@pytest.mark.parametrize("name", NUMERIC)
def test_programs_compute_the_gold_and_the_wrong_answers_they_stand_for(name):
    for item in all_items(name):
        facts = item.metadata
        assert run(facts["program"])() == item.target == int(facts["answer"])
        for kind, program in facts["wrong_programs"].items():
            value = str(run(program)())
            assert value != facts["answer"]
            assert kind == "slip" or [value] == facts["wrong"][kind]
        assert all(text != facts["answer"] for texts in facts["wrong"].values() for text in texts)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_kind_of_error_that_can_strike_has_a_wrong_answer(name):
    for item in all_items(name):
        facts = json.loads(json.dumps(item.metadata))
        shown = facts["wrong_programs"] if item.entry_point else facts["wrong"]
        assert set(facts["profile"]) - {"form"} <= set(shown)
        assert set(facts["profile"]) == set(FAMILIES[name].profile)


@pytest.mark.parametrize("name", ["toy_units", "toy_small_units"])
def test_a_units_error_is_off_by_the_conversion_alone_and_shows_as_a_factor(name):
    for item in all_items(name):
        wrong = item.metadata["wrong"]["units"][0]
        assert item.target / int(wrong) in (7, 12, 60, 100, 1000)
        assert grade_number(item, wrong).symptom == "factor"


def test_huge_numbers_are_huge_and_small_ones_small():
    numbers = {
        name: [int(n) for i in all_items(name) for n in re.findall(r"\d+", i.question)]
        for name in ("toy_small", "toy_large")
    }
    assert min(numbers["toy_large"]) >= 10_007
    assert sorted(numbers["toy_small"])[len(numbers["toy_small"]) * 3 // 4] < 100


@pytest.mark.parametrize("name", FAMILIES)
def test_splits_share_no_question_and_ids_are_unique(name):
    task = toy_task(name, sizes=SplitSizes(train=150, validation=60, test=150))
    assert find_duplicates({split: task.items(split) for split in Split}) == ()
    items = [item for split in Split for item in task.items(split)]
    assert len({i.question for i in items}) == len({i.id for i in items}) == 360


def test_equal_seeds_give_equal_items_and_others_do_not():
    one, same, other, instance = (
        [i.question for i in all_items(name, split_seed=seed)]
        for name, seed in (("toy_table", 0), ("toy_table", 0), ("toy_table", 1), ("toy_table@1", 0))
    )
    assert one == same
    assert not set(one) & set(other)
    assert not set(one) & set(instance)


def test_ids_differ_by_split_seed_and_instance():
    ids = {
        i.id
        for name, seed in (("toy_small", 0), ("toy_small", 1), ("toy_small@1", 0))
        for i in all_items(name, split_seed=seed)
    }
    assert len(ids) == 3 * (30 + 40 + 40)


def test_validation_stays_when_the_other_splits_grow():
    small, large = (toy_task("toy_code", sizes=SplitSizes(train=n, validation=10, test=n)) for n in (5, 50))
    assert small.items(Split.VALIDATION) == large.items(Split.VALIDATION)


def test_instances_jitter_the_profile_by_a_log_normal_factor():
    family = FAMILIES["toy_units"]
    assert instance_profile(family, 0) == family.profile
    logs = [math.log(instance_profile(family, i)["planning"] / family.profile["planning"]) for i in range(1, 200)]
    assert abs(sum(logs) / len(logs)) < 0.07
    assert 0.2 < (sum(x * x for x in logs) / len(logs)) ** 0.5 < 0.3


def test_the_question_is_all_that_a_workflow_is_given():
    item = all_items("toy_units")[0]
    assert str(item.solver_input().question) == item.question
    assert str(item.target) not in item.question


def test_groups_expand_to_families_and_instances():
    assert expand("toy") == list(SEEN)
    assert expand("toy_held_out") == list(HELD_OUT) == ["toy_table_large", "toy_small_units", "toy_table_ambiguous"]
    assert expand("toy:3")[:4] == ["toy_small", "toy_small@1", "toy_small@2", "toy_large"]
    assert expand("toy_units@7") == ["toy_units@7"]
    assert len(SEEN) >= 6


@pytest.mark.parametrize("name", ["toy_nothing", "toy:0", "toy_units@", "toy_units@-1", "toy_units:2", "gsm"])
def test_an_unknown_name_is_an_input_error(name):
    with pytest.raises(InputError, match="task="):
        expand(name)


def test_descriptions_name_the_difficulty():
    words = {
        "toy_large": "huge", "toy_table": "table", "toy_units": "units", "toy_ambiguous": "ambiguous",
        "toy_code": "Python function", "toy_lookup": "Look-up", "toy_small": "Word problems",
        "toy_table_large": "huge", "toy_small_units": "units", "toy_table_ambiguous": "ambiguous",
    }  # fmt: skip
    assert all(word in FAMILIES[name].description for name, word in words.items())
    assert set(words) == set(FAMILIES)


# --- grading ----------------------------------------------------------------------------------------------------------

ITEM = Item(id="x/1", question="A pump moves 46 litres a minute for 3 hours. How many litres?", target=8280)


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        ("8280", ""),
        ("8,280", ""),
        (" $8280.00 ", ""),
        ("8280.", ""),
        ("8.28e3", ""),
        (8280, ""),
        (8280.0, ""),
        ("8280 litres", "no number"),
        ("The answer is 8280", "no number"),
        ("Answer: 8280", "no number"),
        (True, "no number"),
        ("nan", "no number"),
        ("9" * 500, "no number"),
        ([8280], "no number"),
        ("", "empty"),
        ("  ", "empty"),
        (None, "empty"),
        ("138", "factor"),
        ("82800", "factor"),
        ("46", "from text"),
        ("8279", "close"),
        ("8208", "close"),
        ("12", "far"),
    ],
)
def test_a_number_must_stand_alone_and_a_wrong_one_has_a_symptom(answer, symptom):
    assert grade_number(ITEM, answer) == (0.0 if symptom else 1.0, symptom)


def test_huge_integers_compare_exactly():
    item = Item(id="x/2", question="?", target=12345678901234567)
    assert grade_number(item, "12345678901234567").score == 1.0
    assert grade_number(item, "12345678901234568").score == 0.0
    assert read_number("0.3000001") - read_number("0.3") == read_number("1e-7")


class InProcess:
    """Runs this package's own programs."""

    async def run_program(self, code, limits):
        assert limits.wall_seconds <= 10
        try:
            return ProgramRun(status=RunStatus.OK, value=run(code)())
        except Exception as error:  # noqa: BLE001
            return ProgramRun(status=RunStatus.EXCEPTION, error=repr(error))


def grade_code(item, answer):
    return tuple(asyncio.run(grade(item, answer, InProcess())))


def test_code_is_graded_by_hidden_tests_and_each_error_shows_its_symptom():
    for item in all_items("toy_code"):
        wrong = item.metadata["wrong_programs"]
        assert grade_code(item, item.metadata["program"]) == (1.0, "")
        assert grade_code(item, wrong["edge"]) == (0.0, "edge test")
        assert grade_code(item, wrong["planning"]) == (0.0, "all tests")
        assert grade_code(item, wrong["slip"]) == (0.0, SYNTAX)
        assert grade_code(item, "```python\n" + item.metadata["program"] + "\n```") == (0.0, SYNTAX)
        assert grade_code(item, "pass") == (0.0, "all tests")
        assert grade_code(item, "raise ValueError") == (0.0, "all tests")
        assert grade_code(item, None) == (0.0, "empty")
        assert grade_code(item, 7) == (0.0, SYNTAX)
        assert grade_code(item, "\0") == (0.0, SYNTAX)


def test_an_answer_cannot_pass_by_defining_its_own_solution():
    item = all_items("toy_code")[0]
    assert grade_code(item, "def solution():\n    return 'passed'") == (0.0, "all tests")


def test_public_tests_are_among_the_hidden_ones_and_one_is_in_the_question():
    shown_edges = 0
    for item in all_items("toy_code"):
        tests = item.target["plain"] + item.target["edge"]
        assert set(item.public_tests) <= set(tests)
        assert item.public_tests[0] in item.question
        assert item.entry_point in item.question
        shown_edges += len(item.public_tests) == 2
        assert run(hidden_test_program(item.metadata["program"], item.target))() == "passed"
    assert 0.2 < shown_edges / len(all_items("toy_code")) < 0.6


def test_the_seeds_start_simple():
    seeds = toy_task("toy_units").seed_workflows()
    assert all("def solver(agent, task" in s.code for s in seeds)
    assert toy_task("toy_code").metric == "pass@1"
