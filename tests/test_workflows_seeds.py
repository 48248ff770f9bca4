"""Every seed parses, asks for what it says on scripted replies, and solves items in a sandbox on the simulator."""

import ast
import asyncio
import collections
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox_host import opened

from w4s_jax.executor.simulator import ResponseModel, SimulatedBackend
from w4s_jax.executor.simulator.model import SampleId
from w4s_jax.sandbox.child.agent import Agent
from w4s_jax.tasks.scoring.numbers import parse_number
from w4s_jax.types import ChatRequest, Item, Limits, RunStatus
from w4s_jax.workflows import load_seed, seed_names, seeds_of

QUESTION = "How many eggs are 6 and 12?"
FUNCTION = "def double(x):\n    return 2 * x"
BROKEN = "def double(x):\n    return x"
TEST = "assert double(2) == 4"
FAMILIES = ("math", "code", "qa", "toy", "toy_code")
STATED = [seed.name for family in ("math", "code", "qa") for seed in seeds_of(family)]
"""Seeds whose first line states their calls; those of the toy families are too short for one."""


class Script:
    """Answers an agent's requests from a list of texts, its last one again and again, and runs its code.

    `llm` holds what it was asked.
    """

    def __init__(self, *texts):
        self.texts = list(texts)
        self.llm = []

    def request(self, message):
        if message["type"] == "run_code":
            return _run(message["code"])
        self.llm.append(message)
        return {"texts": [self.texts.pop(0) if len(self.texts) > 1 else self.texts[0] for _ in range(message["n"])]}


def _run(code):
    done = subprocess.run(
        [sys.executable, "-I", "-c", code + "\nif 'solution' in globals():\n    print(solution())"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return {"error": done.stderr.splitlines()[-1]} if done.returncode else {"value": done.stdout.strip()}


def _solve(name, *texts, public_tests=()):
    script = Script(*texts)
    names = {}
    exec(compile(load_seed(name).code, name, "exec"), names)
    solver = names["solver"]
    given = (Agent(script, public_tests), QUESTION, "double")
    return solver(*given[: solver.__code__.co_argcount])["answer"], script.llm


def _json(answer):
    return json.dumps({"reasoning": "6 and 12 are 18", "answer": answer})


def _fenced(code):
    return f"Here it is.\n```python\n{code}\n```"


@pytest.mark.parametrize("name", seed_names())
def test_a_seed_is_python_with_one_solver_and_no_import(name):
    tree = ast.parse(load_seed(name).code)
    assert [node.name for node in tree.body] == ["solver"]
    assert tree.body[0].end_lineno < 40
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))


@pytest.mark.parametrize("name", seed_names())
def test_a_seed_asks_the_question_in_its_first_call(name):
    _, calls = _solve(name, _json("18"))
    assert QUESTION in calls[0]["messages"][-1]["content"]


def test_cot_asks_once_for_json_and_gives_its_number():
    answer, [call] = _solve("cot", _json("18 eggs"))
    assert answer == "18"
    assert call["json_mode"] is True
    assert call["messages"][-1]["content"].endswith("Reply with one JSON object with the keys: reasoning, answer.")


def test_cot_sc_votes_over_five_samples_at_its_temperature():
    answer, [call] = _solve("cot_sc", *map(_json, ["18", "17", 18, "16", "18.5"]))
    assert answer == "18"
    assert (call["n"], call["temperature"]) == (5, 0.8)


def test_cot_sc_votes_over_the_replies_that_have_a_number():
    answer, _ = _solve("cot_sc", "{", _json("none"), "{", _json("17"), "{")
    assert answer == "17"


def test_direct_takes_the_number_of_a_reply():
    assert _solve("direct", "It is 1,218 eggs.")[0] == "1218"


def test_self_refine_shows_its_draft_and_stops_where_a_review_changes_nothing():
    answer, calls = _solve("self_refine", _json(17), _json(18), _json("18 eggs"))
    assert (answer, len(calls)) == ("18", 3)
    assert [m["role"] for m in calls[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert calls[1]["messages"][2]["content"].endswith("The answer is 17")
    assert calls[2]["messages"][2]["content"].endswith("The answer is 18")


@pytest.mark.parametrize(("name", "draft"), [("self_refine", "17"), ("qa_self_refine", "Oslo")])
@pytest.mark.parametrize("review", ["", "It is wrong.", '{"review": "wrong"}', '{"answer": ""}'])
def test_a_review_without_an_answer_leaves_the_draft(name, draft, review):
    answer, calls = _solve(name, _json(draft), review)
    assert (answer, len(calls)) == (draft, 2)


@pytest.mark.parametrize("name", ["debate", "qa_debate"])
def test_a_debate_shows_all_solutions_to_every_role_and_then_to_the_judge(name):
    answer, calls = _solve(name, *map(_json, [11, 12, 13, 21, 22, 23, 42]))
    assert answer == "42"
    shown = [re.findall(r"It is (\d+)", call["messages"][-1]["content"]) for call in calls]
    assert shown == [[]] * 3 + [["11", "12", "13"]] * 3 + [["21", "22", "23"]]
    roles = [call["messages"][0]["content"] for call in calls]
    assert roles[:3] == roles[3:6]
    assert (len(set(roles)), roles[6]) == (4, "You are a fair judge.")
    assert [call["temperature"] for call in calls] == [0.8] * 6 + [0.1]


@pytest.mark.parametrize("name", ["debate", "qa_debate"])
def test_where_the_judge_says_nothing_the_first_readable_solution_counts(name):
    assert _solve(name, *map(_json, [11, 12, 13]), "{", _json(22), _json(23), "?")[0] == "22"


@pytest.mark.parametrize("name", ["step_back", "qa_step_back"])
def test_step_back_solves_by_the_principles_it_was_told(name):
    answer, calls = _solve(name, "Sums of parts.", _json(18))
    assert answer == "18"
    assert "Sums of parts." in calls[1]["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("name", "said", "role"),
    [
        ("role", "An Engineer, I think.", "an engineer"),
        ("role", "Nobody.", "a mathematician"),
        ("qa_role", "A historian.", "a historian"),
        ("qa_role", "", "a close reader"),
    ],
)
def test_the_role_that_was_chosen_solves_and_another_one_where_none_was(name, said, role):
    answer, calls = _solve(name, said, _json(18))
    assert answer == "18"
    assert calls[1]["messages"][0] == {"role": "system", "content": f"You are {role}."}


def test_program_falls_back_on_the_text_where_its_code_fails():
    assert _solve("program", "I would say 18.")[0] == "18"
    assert _solve("program", _fenced("raise ValueError(7)"))[0] == "7"


def test_program_runs_the_code_it_asks_for():
    answer, [call] = _solve("program", _fenced("def solution():\n    return 6 + 12"))
    assert answer == "18"
    assert call["temperature"] == 0.3


def test_generate_gives_the_block_that_defines_the_function():
    answer, calls = _solve("generate", f"{_fenced(FUNCTION)}\n{_fenced('print(double(2))')}")
    assert answer == FUNCTION
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["generate_and_test", "code_test"])
def test_a_testing_seed_repairs_until_the_public_tests_pass(name):
    answer, calls = _solve(name, _fenced(BROKEN), _fenced(FUNCTION), public_tests=["assert double(2) == 4"])
    assert answer == FUNCTION
    assert len(calls) == 2
    assert "assert double(2) == 4" in calls[1]["messages"][-1]["content"]


def test_reflect_gives_the_second_writing():
    answer, calls = _solve("reflect", _fenced(BROKEN), _fenced(FUNCTION))
    assert answer == FUNCTION
    assert calls[1]["messages"][1] == {"role": "assistant", "content": _fenced(BROKEN)}


def test_reflect_on_public_tests_shows_the_failure_and_stops_where_the_tests_pass():
    answer, calls = _solve("reflect_on_public_tests", _fenced(BROKEN), _fenced(FUNCTION), public_tests=[TEST])
    assert answer == FUNCTION
    assert len(calls) == 2
    draft, reflection = calls[1]["messages"][-2:]
    assert draft == {"role": "assistant", "content": _fenced(BROKEN)}
    assert TEST in reflection["content"]
    assert "Reflect" in reflection["content"]


@pytest.mark.parametrize("name", ["qa_cot", "qa_direct"])
def test_a_short_text_is_given_as_it_is(name):
    assert _solve(name, _json("Buenos Aires") if name == "qa_cot" else "Buenos Aires\n")[0] == "Buenos Aires"


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        (["Stones", "The Beatles", "beatles", "Beatles.", "Stones"], "The Beatles"),
        (["A", "(B)", "b", "A", "B."], "(B)"),
        (["$x + 1$", "x+1", "x-1", "x-1", "X+1"], "$x + 1$"),
        (["1/2", "12", "12", "-3", "3"], "12"),
        (["A", "A", "the", "B", "C"], "A"),
        ([None, None, "", "", "yes"], "yes"),
        ([0, 0.5, 0, None, None], "0"),
    ],
)
def test_qa_cot_sc_votes_over_plain_forms_and_gives_an_answer_as_it_was_written(answers, wanted):
    answer, [call] = _solve("qa_cot_sc", *map(_json, answers))
    assert answer == wanted
    assert (call["n"], call["temperature"]) == (5, 0.8)


def test_qa_cot_sc_ignores_replies_without_an_answer():
    assert _solve("qa_cot_sc", "{", "{", "{}", "?", _json("Oslo"))[0] == "Oslo"
    assert _solve("qa_cot_sc", "{")[0] == ""


@pytest.mark.parametrize("name", ["cot", "cot_sc", "debate", "direct", "role", "self_refine", "step_back"])
@pytest.mark.parametrize(("said", "value"), [("1/4", 0.25), ("1 1/2", 1.5), (r"\frac{3}{4}", 0.75), ("\u22125", -5.0)])
def test_a_math_seed_hands_on_a_fraction_and_a_sign_that_a_grader_reads(name, said, value):
    reply = said if name == "direct" else f'{{"reasoning": "so", "answer": "{said}"}}'
    assert parse_number(_solve(name, reply)[0]) == value


QA_JSON = ["qa_cot", "qa_cot_sc", "qa_debate", "qa_role", "qa_self_refine", "qa_step_back"]


@pytest.mark.parametrize("name", QA_JSON)
@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        *(
            ("true", "yes"),
            ("false", "no"),
            ("null", ""),
            ("12.0", "12"),
            ("0.5", "0.5"),
            ("-3", "-3"),
            ("1e999", "inf"),
        ),
        *(('["Oslo", "Bergen"]', "Oslo, Bergen"), ("[1.0, [2, true]]", "1, 2, yes"), ('" Oslo "', "Oslo")),
        *(
            (r'"\frac{1}{2}"', r"\frac{1}{2}"),
            (r'"\\frac{1}{2}"', r"\frac{1}{2}"),
            (r'"x \neq \text{no}"', r"x \neq \text{no}"),
        ),
    ],
)
def test_a_qa_seed_spells_a_json_answer_as_a_question_asks_for_it(name, said, wanted):
    assert _solve(name, f'{{"reasoning": "so", "review": "fine", "answer": {said}}}')[0] == wanted


@pytest.mark.parametrize("said", ['" 5"', "5.0", '["5"]'])
def test_a_draft_that_a_review_spells_again_is_unchanged_white_space_or_not(said):
    answer, calls = _solve("qa_self_refine", f'{{"reasoning": "so", "answer": {said}}}')
    assert (answer, len(calls)) == ("5", 2)


def test_a_review_that_answers_null_leaves_the_draft():
    answer, calls = _solve("qa_self_refine", _json("Oslo"), _json(None))
    assert (answer, len(calls)) == ("Oslo", 2)


def test_the_toy_seeds_take_a_raw_an_extracted_and_a_voted_answer():
    assert _solve("toy_direct", "It is 18.")[0] == "It is 18."
    assert _solve("toy_cot", "6 + 12 = 18. Answer: 18")[0] == "18"
    answer, [call] = _solve("toy_vote", "Answer: 17", "Answer: 18", "so 18", "= 18", "Answer: 17")
    assert answer == "18"
    assert (call["n"], call["temperature"]) == (5, 0.8)


def test_code_direct_gives_the_block():
    assert _solve("code_direct", _fenced(FUNCTION))[0] == FUNCTION


@pytest.mark.parametrize("name", ["toy_direct", "toy_cot", "toy_vote", "code_direct", "code_test"])
def test_a_toy_seed_is_short(name):
    assert len(load_seed(name).code.splitlines()) < 9


# --- calls ------------------------------------------------------------------------------------------------------------


def stated(name):
    """Fewest and most calls a question, and samples a call, by the first line of a seed."""
    said = re.match(r"# (?:(\d+) to )?(\d+) calls?(?: of (\d+) samples)? a question\b", load_seed(name).code)
    fewest, most, samples = (int(number) if number else None for number in said.groups())
    return fewest or most, most, samples or 1


@pytest.mark.parametrize("name", STATED)
def test_a_seed_makes_as_many_calls_as_its_first_line_states(name):
    fewest, most, samples = stated(name)
    code = name in {seed.name for seed in seeds_of("code")}
    steady = _solve(name, _fenced(FUNCTION) if code else _json(18), public_tests=[TEST])[1]
    restless = [_fenced(f"{BROKEN} * {i}") if code else _json(i) for i in range(3, 40)]
    changing = _solve(name, *restless, public_tests=[TEST])[1]
    assert (len(steady), len(changing)) == (fewest, most)
    assert {call["n"] for call in (*steady, *changing)} == {samples}


def test_the_document_tells_the_calls_of_every_seed():
    rows = (Path(__file__).parents[1] / "docs" / "workflows.md").read_text(encoding="utf-8").splitlines()
    told = {name: row.split("|")[-3].strip() for row in rows if row[:2] == "| " for name in re.findall(r"`(\w+)`", row)}
    for name in STATED:
        first_line = load_seed(name).code.splitlines()[0]
        assert re.sub(r" calls?", "", first_line).startswith(f"# {told[name]} a question")


# --- on the simulator, in a sandbox -----------------------------------------------------------------------------------

NUMBERS = [
    Item(
        id="n/0", question="A bakery sells 14 rolls in the morning and 29 later. How many is that in all?", target=43.0
    ),
    Item(id="n/1", question="A mill grinds 1,250,000 grams an hour. How many grams are that in 6 hours?", target=7.5e6),
    Item(id="n/2", question="Eva had 20 euros and paid 23. How many euros has she now?", target=-3),
    Item(id="n/3", question="Half of a litre is shared by 4. How many litres are that each?", target="0.125"),
]
TEXTS = [
    Item(
        id="t/0",
        question="Lena Moor moved from Graz to Tartu in 1987.\n\nWhere did she live first?",
        target=[["Graz"], ["in Graz"]],
        metadata={"answer": "Graz"},
    ),
    Item(
        id="t/1", question="Paula sang in Ghent before Ghent was small. Who wrote The Long Road?", target="Ida van Berg"
    ),
    Item(
        id="t/2",
        question="Which is a prime?\n\nA) 21\nB) 27\nC) 29\nD) 33\nE) 35",
        target="C",
        metadata={"num_choices": 5},
    ),
    Item(id="t/3", question="What is $\\frac{1}{3} + \\frac{1}{6}$?", target="\\frac{1}{2}"),
    Item(id="t/4", question="At which point do $y = x + 1$ and $y = 7 - x$ meet?", target="(3,4)"),
    Item(id="t/5", question="How many of 7 apples are left after 5 were eaten?", target="2"),
    Item(id="t/6", question="Is the Danube longer than the Elbe?", target="yes"),
]
FUNCTIONS = [
    Item(
        id="f/0",
        question="Write a function double(x) that gives twice a number.\nIt has to pass\nassert double(2) == 4",
        target={"tests": ["assert double(-3) == -6"], "setup": ""},
        entry_point="double",
        public_tests=(TEST,),
        metadata={"program": FUNCTION},
    ),
    Item(
        id="f/1",
        question="Write a function longest(words) that gives the longest of some words, the first of equal ones.",
        target={"tests": ["assert longest(['a', 'bb', 'cc']) == 'bb'"], "setup": ""},
        entry_point="longest",
        metadata={"program": "def longest(words):\n    return max(words, key=len)"},
    ),
]
ITEMS = {"math": NUMBERS, "toy": NUMBERS, "qa": TEXTS, "code": FUNCTIONS, "toy_code": FUNCTIONS}
GARBAGE = [
    "",
    " \n ",
    "I cannot say.",
    '{"reasoning": "so", "answer": ',
    '{"other": 1}',
    "[1, 2]",
    "null",
    '{"reasoning": null, "answer": null}',
    '{"reasoning": [], "answer": {"x": [true]}}',
    '{"reasoning": 1e999, "answer": ["a", "b"]}',
    "```python\nwhile\n```",
    "```python\nraise SystemExit\n```",
    "```python\ndef solution():\n    return solution()\n```",
    "\\boxed{",
    "\x00 {" + "[" * 5_000,
]
RIGHT = ResponseModel(multipliers={}, highest_rate=0.0, broken_by_critique=0.0)


class Asked:
    """Answers a workflow's calls by a function of request and sample, and counts them."""

    def __init__(self, reply):
        self.reply, self.calls, self._equal = reply, 0, collections.Counter()

    async def __call__(self, call):
        self.calls += 1
        request = ChatRequest(
            model="simulated", messages=call.messages, temperature=call.temperature, n=call.n, json_mode=call.json_mode
        )
        self._equal[request] += 1
        return self.reply(request, SampleId(0, self._equal[request] - 1))


def of_simulator(model):
    backend = SimulatedBackend(response_model=model)
    backend.register([*NUMBERS, *TEXTS, *FUNCTIONS])
    return lambda request, sample: backend.reply(request, sample).texts


def of_garbage(text):
    return lambda request, sample: [text] * request.n


@pytest.fixture(scope="module")
def runs():
    """`(seed, item or garbage, kind)` → the run and its number of calls; all of them in one sandbox."""
    replies = {"right": of_simulator(RIGHT), "as usual": of_simulator(ResponseModel())}
    jobs = {}
    for family in FAMILIES:
        for seed in seeds_of(family):
            for item in ITEMS[family]:
                jobs.update({(seed.name, item.id, kind): (seed, item, reply) for kind, reply in replies.items()})
            for text in GARBAGE:
                jobs[seed.name, text, "garbage"] = (seed, ITEMS[family][0], of_garbage(text))

    async def run(pool, seed, item, reply):
        asked = Asked(reply)
        limits = Limits(wall_seconds=60.0, cpu_seconds=20.0)
        return await pool.run_workflow(seed, item.solver_input(), asked, limits), asked.calls

    async def run_all():
        async with opened("auto") as pool:
            return await asyncio.gather(*(run(pool, *job) for job in jobs.values()))

    return dict(zip(jobs, asyncio.run(run_all()), strict=True))


def is_right(item, answer):
    if item.entry_point:
        scope = {}
        exec("\n".join([answer, *item.public_tests, *item.target["tests"]]), scope)
        return True
    if item in NUMBERS:
        return parse_number(answer) == float(item.target)
    return answer == item.metadata.get("answer", item.target)


@pytest.mark.parametrize(("family", "name"), [(f, seed.name) for f in FAMILIES for seed in seeds_of(f)])
def test_a_seed_extracts_the_answer_of_an_executor_that_makes_no_error(runs, family, name):
    for item in ITEMS[family]:
        run, _ = runs[name, item.id, "right"]
        assert (run.status, run.error) == (RunStatus.OK, "")
        assert isinstance(run.answer, str)
        assert is_right(item, run.answer), (item.question, run.answer)


@pytest.mark.parametrize("name", STATED)
def test_a_seed_ends_within_the_calls_it_states_whatever_it_is_told(runs, name):
    mine = [key for key in runs if key[0] == name]
    for key in mine:
        run, calls = runs[key]
        assert run.status is RunStatus.OK, (key, run.error, run.traceback)
        assert isinstance(run.answer, str), key
        assert stated(name)[0] <= calls <= stated(name)[1], key
    assert len(mine) > len(GARBAGE)
