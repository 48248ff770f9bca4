"""Assertions in the sandbox: what passes, what the tests see, and which shortcuts do not pass."""

import ast

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from sandbox_world import opened
from scoring_answers import HOSTILE, Says, check_grade, grade

from w4s_jax.tasks.scoring.code import GRADING_LIMITS, PASS_AT_1, TestsGrader
from w4s_jax.types import InputError, Item, RunStatus, SandboxError

in_the_sandbox = pytest.mark.asyncio(loop_scope="module")
GRADER = TestsGrader()
ITEM = Item(
    id="t/0",
    question="?",
    target={"tests": ["assert f([1, 2]) == 3", "assert math.isclose(f([0.1, 0.2]), 0.3)"], "setup": "import math"},
    entry_point="f",
)
RIGHT = "def f(xs):\n    return sum(xs)\n"
EQUAL = "class T:\n    __eq__ = __lt__ = __gt__ = lambda a, b: True\n    __hash__ = lambda a: 0\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    async with opened("auto", packages=(), workers=2) as pool:
        yield pool


def item(*tests, setup="", name="f"):
    return Item(id="t/1", question="?", target={"tests": list(tests), "setup": setup}, entry_point=name)


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT,
        "f = lambda xs: sum(xs)",
        "import functools\n@functools.cache\ndef g(*xs):\n    return sum(xs)\ndef f(xs):\n    return g(*xs)\n",
        "class F:\n    def __call__(self, xs):\n        return sum(xs)\nf = F()\n",
        f'{RIGHT}if __name__ == "__main__":\n    print(f([1]))\n',
        "from __future__ import annotations\ndef f(xs: Unknown) -> int:\n    return sum(xs)\n",
        f'{RIGHT}\nprint("noise")\ndef solution():\n    return 7\n',
        "import dataclasses\n@dataclasses.dataclass\nclass B:\n    x: 'int' = 0\ndef f(xs): return sum(xs, B().x)\n",
        f"{RIGHT}# “é\u2028”\n",
    ],
    ids=["def", "lambda", "decorated", "callable", "main", "future", "solution", "dataclass", "unicode"],
)
@in_the_sandbox
async def test_a_right_function_passes_in_every_form(pool, answer):
    assert await GRADER(ITEM, answer, pool) == (1.0, "")


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        ("def f(xs):\n    return 3\n", "failed test"),
        ("def f(xs):\n    return xs.total()\n", "exception"),
        ("def g(xs):\n    return sum(xs)\n", "no function"),
        ("f = 3", "no function"),
        ("I would add them.", "syntax error"),
        (f"```python\n{RIGHT}```", "syntax error"),
        ("def f(xs) return", "syntax error"),
        ("\ud800", "exception"),
        ("def f(xs):\n    while True: pass\n", "limit"),
        ("def f(xs):\n    return bytearray(1 << 40)\n", "limit"),
    ],
    ids=["wrong", "raises", "other name", "no callable", "prose", "fence", "no python", "surrogate", "loop", "memory"],
)
@in_the_sandbox
async def test_a_wrong_answer_has_a_symptom(pool, monkeypatch, answer, symptom):
    limits = GRADING_LIMITS.__class__(wall_seconds=20.0, cpu_seconds=1.0)
    monkeypatch.setattr("w4s_jax.tasks.scoring.code.GRADING_LIMITS", limits)
    assert await GRADER(ITEM, answer, pool) == (0.0, symptom)


@pytest.mark.parametrize(
    ("before", "value", "test"),
    [
        ("import collections", "collections.Counter('aab')", "assert f() == {'a': 2, 'b': 1}"),
        ("import collections", "collections.OrderedDict(a=1)", "assert f() == {'a': 1}"),
        ("import collections", "collections.defaultdict(list, a=[1])", "assert f() == {'a': [1]}"),
        ("import collections", "collections.deque([1, 2])", "assert list(f()) == [1, 2]"),
        ("import collections", "collections.namedtuple('P', 'x y')(1, 2)", "assert f() == (1, 2)"),
        ("", "map(str, [1, 2])", "assert list(f()) == ['1', '2']"),
        ("", "zip([1], [2])", "assert list(f()) == [(1, 2)]"),
        ("", "filter(None, [0, 1])", "assert set(f()) == {1}"),
        ("", "(x * x for x in [1, 2])", "assert tuple(f()) == (1, 4)"),
        ("import itertools", "itertools.count(5)", "assert next(f()) == 5"),
        ("", "range(3)", "assert f() == range(3)"),
        ("", "{'a': 1}.keys()", "assert list(f()) == ['a']"),
        ("", "{'a': 1}.items()", "assert list(f()) == [('a', 1)]"),
        ("", "[{(1, frozenset([2])): {3.0, 4j}}, b'x', None, True]", "assert f()[0][1, frozenset([2])] == {3, 4j}"),
        ("import re", "re.search('b', 'abc')", "assert f()"),
        ("import re", "re.search('x', 'abc')", "assert not f()"),
    ],
)
@in_the_sandbox
async def test_what_solutions_return_reaches_the_tests(pool, before, value, test):
    assert await GRADER(item(test), f"{before}\ndef f():\n    return {value}\n", pool) == (1.0, "")


@pytest.mark.parametrize(
    "value",
    [
        "T()",
        "[T()]",
        "(T(),)",
        "{1: T()}",
        "map(lambda _: T(), [0])",
        "iter([T()])",
        "type('L', (list,), {'__eq__': lambda a, b: True})()",
        "type('D', (dict,), {'__eq__': lambda a, b: True})()",
        "type('I', (int,), {'__eq__': lambda a, b: True})()",
        "type('S', (str,), {'__eq__': lambda a, b: True})()",
        "type('M', (type,), {'__eq__': lambda a, b: True, '__hash__': type.__hash__})('T', (T,), {})()",
        "type('C', (T,), {'__class__': list})()",
        "f",
    ],
)
@in_the_sandbox
async def test_an_object_that_equals_everything_does_not_pass(pool, value):
    tests = item("r = f()\nassert r == [8] or list(r) == [8] or list(r)[0] == 8")
    assert (await GRADER(tests, f"{EQUAL}def f():\n    return {value}\n", pool)).score == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        "def f(xs): pass\nimport os; os._exit(0)\n",
        "def f(xs): pass\nraise SystemExit(0)\n",
        "def f(xs):\n    raise SystemExit(0)\n",
        f"{EQUAL}def sum(xs): return T()\ndef set(xs): return T()\ndef f(xs): return 8\n",
        f"{EQUAL}import builtins\nbuiltins.set = builtins.sum = lambda xs: T()\ndef f(xs): return 8\n",
        f"{EQUAL}import builtins\nbuiltins.type = lambda x: int\ndef f(xs): return T()\n",
        f"{EQUAL}class math:\n    isclose = lambda a, b: True\ndef f(xs): return 8\n",
        "def f(xs): pass\ndef solution(): return 'passed'\n",
        'def f(xs): pass\n"""',
        "def f(xs): pass\n'''\n",
        "def f(xs): pass\n_grade = guarded = plain = lambda *a: 3\n",
    ],
    ids=[
        "os._exit",
        "SystemExit",
        "SystemExit inside",
        "own builtins",
        "builtins replaced",
        "type replaced",
        "own math",
        "own solution",
        "open string",
        "open string of the other kind",
        "own harness",
    ],
)
@in_the_sandbox
async def test_a_shortcut_does_not_pass(pool, answer):
    tests = item("assert set(f([1])) == set([1])", "assert sum(f([1])) == 1", "assert math.isclose(f([1]), 9)")
    for graded in (ITEM, tests, item("assert math.isclose(f([1]), 9)", setup="import math")):
        assert (await GRADER(graded, answer, pool)).score == 0.0


@in_the_sandbox
async def test_a_function_may_call_itself_deeply_with_objects_of_its_own(pool):
    deep = "def f(n):\n    return 0 if n == 0 else 1 + f(n - 1)\n"
    assert (await GRADER(item("assert f(900) == 900"), deep, pool)).score == 1.0
    nodes = "class N:\n    v = 0\ndef f(n, top=True):\n    r = N()\n    r.v = n and f(n - 1, False).v + 1\n"
    nodes += "    return r.v if top else r\n"
    assert (await GRADER(item("assert f(5) == 5"), nodes, pool)).score == 1.0


@in_the_sandbox
async def test_a_function_may_have_the_name_of_a_builtin_and_tests_may_use_its_classes(pool):
    code = "class Pair:\n    def __init__(self, a):\n        self.a = a\n"
    code += "def sum(pairs):\n    return [p.a for p in pairs]\n"
    assert (await GRADER(item("assert sum([Pair(1), Pair(2)]) == [1, 2]", name="sum"), code, pool)).score == 1.0


@in_the_sandbox
async def test_tests_may_be_whole_texts_that_build_on_each_other(pool):
    tests = item("def check(g):\n    assert g([1]) == 1\n", "check(f)", setup="import math\nHALF = math.sqrt(0.25)")
    assert (await GRADER(tests, RIGHT, pool)).score == 1.0


@pytest.mark.parametrize("answer", [None, "", " \n", 7, True, 0.5])
def test_what_is_no_text_is_empty_and_does_not_run(answer):
    sandbox = Says()
    assert grade(GRADER, ITEM.target, answer, sandbox, entry_point="f") == (0.0, "empty")
    assert sandbox.programs == []


@pytest.mark.parametrize(
    ("status", "error", "symptom"),
    [
        (RunStatus.TIMEOUT, "", "timeout"),
        (RunStatus.LIMIT, "", "limit"),
        (RunStatus.MALFORMED, "", "exception"),
        (RunStatus.OK, "", "exception"),
        (RunStatus.EXCEPTION, "IndentationError: unexpected indent", "syntax error"),
    ],
)
def test_how_a_run_ended_is_the_symptom(status, error, symptom):
    sandbox = Says("not the token", status, error)
    assert grade(GRADER, ITEM.target, RIGHT, sandbox, entry_point="f") == (0.0, symptom)


def test_a_sandbox_that_fails_is_no_grade():
    class Broken:
        async def run_program(self, code, limits):
            raise SandboxError("zygote died")

    with pytest.raises(SandboxError):
        grade(GRADER, ITEM.target, RIGHT, Broken(), entry_point="f")


def test_an_item_that_names_no_function_is_the_tasks_fault():
    with pytest.raises(InputError, match=r"item t/0: entry_point is None; name the function"):
        grade(GRADER, ITEM.target, RIGHT, Says())


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_answer_is_not_parsed_in_the_parent(answer):
    check_grade(grade(GRADER, ITEM.target, answer, Says(), entry_point="f"))


@given(st.text(min_size=1), st.text())
def test_an_answer_is_but_a_literal_of_its_program(answer, test):
    program, token = GRADER.program(item(test), answer)
    call = ast.parse(program).body[-1].body[0].value
    assert [ast.literal_eval(argument) for argument in call.args] == [answer, "f", ["", test], token]
    assert program.isascii()


def test_the_rule_is_that_of_humaneval():
    assert GRADER.rule == PASS_AT_1
