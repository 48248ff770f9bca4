"""One contract for every back end: what honest and broken workflows and programs get."""

import asyncio
import os
import signal
import time

import pytest
import pytest_asyncio
from sandbox_host import BACK_ENDS, QUICK, Asked, given, opened, workflow

from w4s_jax.types import CallRefusedError, ExecutorError, InputError, Limits, RunStatus

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=BACK_ENDS)
async def pool(request):
    async with opened(request.param, workers=4) as pool:
        yield pool


async def run(pool, code, *, question="q", ask=None, limits=QUICK, **fields):
    return await pool.run_workflow(workflow(code), given(question, **fields), ask or Asked(), limits)


def answering(expression, before=""):
    return f"def solver(agent, task):\n    {before or 'pass'}\n    return {{'answer': {expression}}}\n"


# --- answers


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("'text ✓'", "text ✓"),
        ("42", 42),
        ("10**40", 10**40),
        ("-0.5", -0.5),
        ("True", True),
        ("None", None),
        ("__import__('fractions').Fraction(1, 3)", "1/3"),
        ("__import__('decimal').Decimal('2.50')", "2.50"),
    ],
)
async def test_an_answer_of_each_plain_type_comes_back_as_it_is(pool, expression, answer):
    got = await run(pool, answering(expression))
    assert got.status is RunStatus.OK
    assert got.answer == answer
    assert type(got.answer) is type(answer)


async def test_the_question_reaches_the_workflow_unchanged(pool):
    question = "a\u2028b\x00\n" * 50_000
    got = await run(pool, answering("[len(task), task == 'a\\u2028b\\x00\\n' * 50_000].__str__()"), question=question)
    assert got.answer == f"[{len(question)}, True]"


async def test_solver_is_called_with_as_many_arguments_as_it_takes(pool):
    three = "def solver(agent, task, entry_point):\n    return {'answer': entry_point}"
    optional = "def solver(agent, task, entry_point='none'):\n    return {'answer': entry_point}"
    assert (await run(pool, three, entry_point="add")).answer == "add"
    assert (await run(pool, optional, entry_point="add")).answer == "add"
    assert (await run(pool, answering("task"), entry_point="add")).answer == "q"


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("def solver(agent, task):\n    return 42", "must return a dict"),
        ("def solver(agent, task):\n    return {'result': 42}", "without the key 'answer'"),
        (answering("[1, 2]"), "got list"),
        (answering("float('inf')"), "finite"),
        ("x = 1", "no function solver"),
        (answering("'x' * 100_000"), "exceeds output_bytes"),
    ],
)
async def test_a_result_of_another_form_is_malformed_and_says_how(pool, code, part):
    got = await run(pool, code)
    assert got.status is RunStatus.MALFORMED
    assert part in got.error
    assert got.answer is None


# --- errors


async def test_an_exception_gives_its_line_and_only_frames_of_the_workflow(pool):
    code = "import json\n\ndef read(text):\n    return json.loads(text)\n\ndef solver(a, t):\n    return read('{')\n"
    got = await run(pool, code)
    assert got.status is RunStatus.EXCEPTION
    assert got.error.startswith("JSONDecodeError: Expecting property name")
    assert [line.strip() for line in got.traceback.splitlines()] == [
        "Traceback:",
        'File "<workflow>", line 7, in solver',
        "return read('{')",
        'File "<workflow>", line 4, in read',
        "return json.loads(text)",
        got.error,
    ]


async def test_a_syntax_error_shows_its_line(pool):
    got = await run(pool, "def solver(agent, task):\n    return (\n")
    assert got.status is RunStatus.EXCEPTION
    assert got.error.startswith("SyntaxError: '(' was never closed")
    assert "line 2" in got.traceback


async def test_a_wall_clock_timeout_is_a_timeout_after_one_repetition_alone(pool):
    asked = Asked()
    code = answering("1", before="agent.call_llm('x'); __import__('time').sleep(60)")
    got = await run(pool, code, ask=asked, limits=Limits(wall_seconds=0.3))
    assert got.status is RunStatus.TIMEOUT
    assert got.error == "the wall-clock limit of 0.3 s"
    assert len(asked.calls) == 1  # the repetition was given the same reply again


async def test_the_memory_limit_is_a_limit(pool):
    got = await run(pool, answering("len(bytearray(1 << 30))"))
    assert got.status is RunStatus.LIMIT
    assert "emory" in got.error


async def test_the_cpu_limit_is_a_limit(pool):
    got = await run(pool, "def solver(agent, task):\n    while True: pass", limits=Limits(cpu_seconds=1))
    assert got.status is RunStatus.LIMIT
    assert got.error == "the CPU limit of 1 s"


# --- the executor


async def test_an_llm_call_reaches_ask_validated_and_its_texts_come_back(pool):
    asked = Asked("seven")
    code = answering(
        "'|'.join(agent.call_llm([{'role': 'user', 'content': task}], temperature=0.8, num_of_response=3))"
    )
    got = await run(pool, code, ask=asked)
    assert got.answer == "seven|seven|seven"
    (call,) = asked.calls
    assert (call.messages[0].role, call.messages[0].content) == ("user", "q")
    assert (call.temperature, call.n, call.json_mode, call.max_tokens) == (0.8, 3, False, None)


async def test_a_json_call_asks_for_its_keys_and_fills_missing_ones_with_a_note(pool):
    asked = Asked('Sure! {"reasoning": "2+2", "extra": [1]} Done.')
    code = """
def solver(agent, task):
    reply = agent.call_json_format_llm(
        [{"role": "user", "content": task}, {"role": "assistant", "content": "ok"}],
        agent_role="a judge", return_dict_keys=["reasoning", "answer"], instructions="Be brief.",
    )[0]
    return {"answer": reply["reasoning"] + "|" + reply["answer"]}
"""
    got = await run(pool, code, ask=asked)
    assert got.answer == "2+2|(the reply has no key 'answer')"
    (call,) = asked.calls
    assert call.json_mode
    assert [(m.role, m.content) for m in call.messages] == [
        ("system", "You are a judge."),
        ("user", "q\n\nBe brief.\nReply with one JSON object with the keys: reasoning, answer."),
        ("assistant", "ok"),
    ]


async def test_a_refused_call_is_told_to_the_workflow_which_may_go_on(pool):
    async def refuse(call):
        raise CallRefusedError("64 calls an item")

    code = """
def solver(agent, task):
    try:
        agent.call_llm("x")
    except Exception as error:
        return {"answer": str(error)}
"""
    assert (await run(pool, code, ask=refuse)).answer == "64 calls an item"


async def test_an_error_of_ours_passes_through_and_ends_the_child(pool):
    async def unreachable(call):
        raise ExecutorError("no route")

    with pytest.raises(ExecutorError, match="no route"):
        await run(pool, answering("agent.call_llm('x')[0]"), ask=unreachable)


async def test_the_clock_stops_while_a_call_is_outstanding(pool):
    async def slow(call):
        await asyncio.sleep(0.8)
        return ["late"]

    got = await run(pool, answering("agent.call_llm('x')[0]"), ask=slow, limits=Limits(wall_seconds=0.5))
    assert got.answer == "late"
    assert got.seconds < 0.5


async def test_a_hundred_items_wait_for_the_executor_at_the_same_time(pool):
    gate = asyncio.Event()
    asked = Asked("go", gate)
    runs = [asyncio.create_task(run(pool, answering("agent.call_llm(task)[0]"), ask=asked)) for _ in range(100)]
    async with asyncio.timeout(60):
        while len(asked.calls) < 100:
            await asyncio.sleep(0.01)
    gate.set()
    assert {r.answer for r in await asyncio.gather(*runs)} == {"go"}


async def test_threads_and_asyncio_of_a_workflow_work(pool):
    code = """
import asyncio
from concurrent.futures import ThreadPoolExecutor

async def twice(x):
    await asyncio.sleep(0.01)
    return 2 * x

def solver(agent, task):
    with ThreadPoolExecutor(4) as threads:
        texts = list(threads.map(lambda i: agent.call_llm(str(i))[0], range(8)))
    return {"answer": f"{asyncio.run(twice(21))} {len(texts)}"}
"""
    assert (await run(pool, code)).answer == "42 8"


# --- programs


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("def solution():\n    return 6 * 7", "42"),
        ("x = 6\nx * 7", "42"),
        ("print(6 * 7)", "42\n"),
        ("def solution():\n    print('said')", "said\n"),
        ("def solution(a, b):\n    return a\nprint('defined')", "defined\n"),
        ("if __name__ == '__main__':\n    print('main')", "main\n"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 1\nP()", "P(x=1)"),
        ("", ""),
    ],
)
async def test_a_program_gives_its_solution_else_its_last_expression_else_what_it_printed(pool, code, value):
    ran = await pool.run_program(code, QUICK)
    assert (ran.status, ran.value) == (RunStatus.OK, value)


async def test_a_program_that_raises_gives_the_error_with_its_line(pool):
    ran = await pool.run_program("x = 1\ny = x / 0\n", QUICK)
    assert ran.status is RunStatus.EXCEPTION
    assert ran.error == "ZeroDivisionError: division by zero (line 2: y = x / 0)"


async def test_execute_code_runs_apart_and_raises_inside_the_workflow(pool):
    code = """
hidden = 1

def solver(agent, task):
    try:
        agent.execute_code("hidden")
    except Exception as error:
        return {"answer": agent.execute_code("6 * 7") + " " + str(error)}
"""
    assert (await run(pool, code)).answer == "42 NameError: name 'hidden' is not defined (line 1: hidden)"


async def test_execute_code_times_out_without_ending_the_workflow(pool):
    code = """
def solver(agent, task):
    try:
        agent.execute_code("import time\\ntime.sleep(60)", timeout=0.3)
    except Exception as error:
        return {"answer": str(error)}
"""
    assert (await run(pool, code)).answer == "the time limit of 0.3 s"


async def test_execute_code_has_limits_of_memory_and_of_cpu_and_tells_which(pool):
    code = """
def solver(agent, task):
    errors = []
    for program in ("len(bytearray(1 << 30))", "while True: pass"):
        try:
            agent.execute_code(program, timeout=0.5)
        except Exception as error:
            errors.append(str(error))
    return {"answer": " | ".join(errors)}
"""
    memory, cpu = (await run(pool, code)).answer.split(" | ")
    assert memory == "MemoryError: the memory limit was hit (line 1: len(bytearray(1 << 30)))"
    assert cpu in ("the CPU limit of 0.5 s", "the time limit of 0.5 s")


async def test_public_tests_pass_or_are_repaired_by_the_executor(pool):
    asked = Asked("Fixed:\n```python\ndef add(a, b):\n    return a + b\n```")
    code = """
def solver(agent, task, entry_point):
    wrong = "def add(a, b):\\n    return a - b"
    first = agent.test_on_public_test(task, wrong, entry_point, 0)
    then = agent.test_on_public_test(task, wrong, entry_point, 2)
    return {"answer": f"{first['result']} {'AssertionError' in first['feedback']} {then['result']} {then['solution']}"}
"""
    got = await run(pool, code, ask=asked, entry_point="add", public_tests=("assert add(1, 2) == 3",))
    assert got.answer == "False True True def add(a, b):\n    return a + b"
    assert "return a - b" in asked.calls[0].messages[0].content


async def test_modules_of_the_standard_library_and_the_named_packages_import(pool):
    code = """
import collections.abc, concurrent.futures, csv, datetime, difflib, email.mime.text, encodings.idna, hashlib, heapq
import importlib.metadata, itertools, json.tool, math, random, re, sqlite3, statistics, string, textwrap, unicodedata
import xml.etree.ElementTree
import numpy, sympy

def solver(agent, task):
    x = sympy.Symbol("x")
    return {"answer": f"{sympy.solve(x - 3)} {numpy.linalg.det(numpy.eye(2))}"}
"""
    assert (await run(pool, code, limits=Limits(wall_seconds=60))).answer == "[3] 1.0"


async def test_a_package_that_was_not_named_is_missing(pool):
    got = await run(pool, "import pytest\n" + answering("1"))
    assert got.error == "ModuleNotFoundError: No module named 'pytest'"


# --- determinism and life


async def test_every_item_starts_from_the_same_random_state_and_hash_seed(pool):
    code = answering('f\'{__import__("random").random()} {hash("w4s")}\'')
    assert len({(await run(pool, code)).answer for _ in range(3)}) == 1


async def test_every_item_starts_from_the_same_state_of_numpys_generator(pool):
    programs = [await pool.run_program("import numpy\nnumpy.random.rand()", Limits()) for _ in range(3)]
    assert {p.value for p in programs} == {"0.5488135039273248"}  # numpy.random.seed(0)


async def test_limits_under_which_nothing_could_live_are_refused(pool):
    with pytest.raises(InputError, match=r"memory_bytes=1024 .* allowed: at least 67108864"):
        await pool.run_program("1", Limits(memory_bytes=1024))
    with pytest.raises(InputError, match="wall_seconds=0"):
        await pool.run_program("1", Limits(wall_seconds=0))


async def test_state_does_not_leak_from_item_to_item(pool):
    code = """
import builtins, json

def solver(agent, task):
    found = hasattr(builtins, "mark") or hasattr(json, "mark")
    builtins.mark = json.mark = 1
    return {"answer": found}
"""
    assert [(await run(pool, code)).answer for _ in range(3)] == [False] * 3


async def test_items_survive_the_death_of_their_zygote_and_no_call_is_made_twice(pool):
    gate = asyncio.Event()
    asked = Asked("go", gate)
    code = answering("agent.call_llm(task)[0] + agent.execute_code('1')")
    runs = [asyncio.create_task(run(pool, code, question=str(i), ask=asked)) for i in range(5)]
    while len(asked.calls) < 5:
        await asyncio.sleep(0.01)
    os.killpg(pool._link._process.pid, signal.SIGKILL)
    gate.set()
    assert [r.answer for r in await asyncio.gather(*runs)] == ["go1"] * 5
    assert len(asked.calls) == 5


async def test_a_cancelled_run_ends_its_child_and_gives_its_slot_back(pool):
    runs = [
        asyncio.create_task(run(pool, answering("1", before="__import__('time').sleep(60)"), limits=Limits()))
        for _ in range(4)
    ]
    await asyncio.sleep(0.3)
    for task in runs:
        task.cancel()
    await asyncio.gather(*runs, return_exceptions=True)
    begun = time.monotonic()
    assert (await run(pool, answering("1"))).answer == 1
    assert time.monotonic() - begun < 3
