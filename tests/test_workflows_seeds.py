"""Every seed parses, runs on the agent API with scripted replies, and asks for what it says."""

import ast
import json
import subprocess
import sys

import pytest

from w4s_jax.sandbox.child.agent import Agent
from w4s_jax.types import InputError
from w4s_jax.workflows import load_seed, load_workflow, load_workflow_file, seed_names, seeds_for

QUESTION = "How many eggs are 6 and 12?"
FUNCTION = "def double(x):\n    return 2 * x"
BROKEN = "def double(x):\n    return x"


class Script:
    """Answers an agent's requests from a list of texts and runs its code; remembers what it was asked."""

    def __init__(self, *texts):
        self.texts = list(texts)
        self.llm = []

    def request(self, message):
        if message["type"] == "run_code":
            return _run(message["code"])
        self.llm.append(message)
        return {"texts": [self.texts.pop(0) for _ in range(message["n"])]}


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
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))


@pytest.mark.parametrize("name", seed_names())
def test_a_seed_asks_the_question_in_its_first_call(name):
    replies = [_json("18")] * 5 if name in ("cot", "cot_sc", "qa_cot") else [_fenced("18")] * 5
    _, calls = _solve(name, *replies)
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


def test_qa_cot_gives_a_short_text():
    assert _solve("qa_cot", _json("Buenos Aires"))[0] == "Buenos Aires"


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


def test_families_open_with_the_plain_seed():
    assert [seeds_for(f)[0].name for f in ("math", "code", "qa", "toy", "toy_code")] == [
        "cot",
        "generate",
        "qa_cot",
        "toy_direct",
        "code_direct",
    ]


def test_an_unknown_seed_or_family_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="'cot_cs' is unknown, did you mean 'cot_sc'"):
        load_seed("cot_cs")
    with pytest.raises(InputError, match="'poetry' is unknown; known are math"):
        seeds_for("poetry")


def test_a_workflow_file_is_loaded_by_its_path_and_not_run(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("raise SystemExit\ndef solver(agent, task):\n    return {'answer': 1}\n")
    assert load_workflow(str(path)) == load_workflow_file(path)
    assert load_workflow(str(path)).name == "mine"
    assert load_workflow("cot") == load_seed("cot")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"def solver(agent, task)\n", r"bad\.py:1: expected ':'"),
        (b"x = 1\n\ndef solver(a, t):\n  if:\n", r"bad\.py:4: invalid syntax"),
        (b"def solve(agent, task): pass\n", "has no solver"),
        (b"class A:\n    def solver(agent, task): pass\n", "has no solver"),
        (b"", "has no solver"),
        (b"\xff\xfe", "cannot be read"),
        (b"def solver(): pass\x00", "null bytes"),
    ],
)
def test_a_bad_workflow_file_is_one_line_of_input_error(tmp_path, content, message):
    path = tmp_path / "bad.py"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_workflow_file(path)
    assert "\n" not in str(error.value)


def test_a_missing_workflow_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.py cannot be read"):
        load_workflow(str(tmp_path / "none.py"))
