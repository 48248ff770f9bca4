"""Assertions in the sandbox: what passes, what the tests see, and which shortcuts do not pass."""

import ast

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from sandbox_host import opened
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
        f'{RIGHT}if __name__ == "__main__":\n    print(f(input()))\n',
        f'{RIGHT}import sys\nif __name__ == "__main__":\n    sys.exit(0)\n',
        f'{RIGHT}import unittest\nif __name__ == "__main__":\n    unittest.main()\n',
        "import __main__\nlimit = 3\ndef f(xs):\n    return sum(xs) if __main__.limit else 0\n",
        "import pickle\nclass P:\n    pass\ndef f(xs):\n    return pickle.loads(pickle.dumps(P())) and sum(xs)\n",
        'f"{(lambda xs: 3)}"\nprint("é\\ud800" * 1_000_000)\nf = sum\n',
    ],
    ids=[
        "def",
        "lambda",
        "decorated",
        "callable",
        "main",
        "future",
        "solution",
        "dataclass",
        "unicode",
        "main that reads",
        "main that exits",
        "main that tests",
        "own module",
        "pickled class",
        "flood",
    ],
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
        ("", "{'a': 1}.keys()", "assert f() == {'a'} and f() != ['a']"),
        ("", "{'a': 1}.values()", "assert list(f()) == [1]"),
        ("import enum", "enum.IntEnum('E', 'a b').b", "assert f() == 2 and type(f()) is int"),
        ("class S(str): pass", "[S('a'), type('B', (bytes,), {})(b'c')]", "assert f() == ['a', b'c']"),
        ("class F(float): pass", "(F(0.5), type('C', (complex,), {})(1j))", "assert f() == (0.5, 1j)"),
        ("import fractions", "[fractions.Fraction(9), fractions.Fraction(1, 4)]", "assert f() == [9, 0.25]"),
        ("import decimal", "[decimal.Decimal(9), decimal.Decimal('0.1')]", "assert f() == [9, 0.1]"),
        ("import decimal", "decimal.Decimal('0.1')", "import decimal\nassert f() == decimal.Decimal('0.1')"),
        ("import sys", "sys.getsizeof(())", "assert f() == sys.getsizeof(())"),
        ("class T:\n    __next__ = lambda s: 7\n    __iter__ = lambda s: s", "T()", "assert next(f()) == 7"),
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
        "type('N', (T,), {'__module__': 'numpy', 'tolist': lambda a: a})()",
        "type('Q', (T,), {'__module__': 'fractions', 'as_integer_ratio': lambda a: (a, 1)})()",
        "type('I', (int,), {'__int__': lambda a: 8, '__index__': lambda a: 8})()",
        "type('J', (T,), {'__next__': lambda a: T()})()",
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


FRAMES = """
def frames(frame):
    while frame:
        yield frame
        frame = frame.f_back
def patch(*_):
    import sys
    for frame in frames(sys._getframe()):
        frame.f_globals["f"] = lambda n: n * n
        frame.f_builtins["abs"] = lambda n: 0
    return True
def say(text):
    import json, os, re, struct
    for token in re.findall("'([0-9a-f]{64})'", text):
        body = json.dumps({"type": "result", "status": "ok", "value": token}).encode()
        for fd in range(3, 12):
            try:
                os.write(fd, struct.pack("!I", len(body)) + body)
            except OSError:
                pass
        os._exit(0)
import builtins, gc, math, sys, threading
"""
"""What a cheat needs: to patch every namespace that a frame leads to, and to say the last word that a text holds."""


@pytest.mark.parametrize(
    "answer",
    [
        'sys._getframe(1).f_locals["tests"].clear()\ndef f(n): pass\n',
        "for o in gc.get_objects():\n    if type(o) is list and o and type(o[0]) is str: o.clear()\ndef f(n): pass\n",
        "for o in gc.get_objects(): say(repr(o))\ndef f(n): pass\n",
        "def f(n):\n    patch()\n    return 0\n",
        "def f(n):\n    for g in frames(sys._getframe()): say(f'{g.f_locals}{g.f_code.co_consts}')\n",
        "for g in frames(sys._getframe()):\n    for v in g.f_globals.values(): say(str(getattr(v, '__code__', v)))\n"
        "def f(n): pass\n",
        "for g in sys._current_frames().values():\n    for h in frames(g): say(str(h.f_locals))\ndef f(n): pass\n",
        "e = ValueError()\ndef f(n):\n    t = e.__traceback__\n    while t:\n        for g in frames(t.tb_frame): "
        "say(str(g.f_locals))\n        t = t.tb_next\n    raise e\n",
        "import __main__\nfor v in vars(__main__).values():\n"
        "    say(str(getattr(getattr(v, '__code__', 0), 'co_consts', v)))\ndef f(n): pass\n",
        "sys.settrace(patch)\nthreading.settrace(patch)\nsys.setprofile(patch)\ndef f(n): return 0\n",
        "sys.addaudithook(patch)\ndef f(n): return 0\n",
        "gc.callbacks.append(patch)\ngc.set_threshold(1)\ndef f(n): return 0\n",
        "math.isclose = lambda *a: True\ndef f(n): return n * n if n != 4 else 0\n",
        "class math:\n    isclose = lambda *a: True\nsys.modules['math'] = math\n"
        "def f(n): return n * n if n != 4 else 0\n",
        f"{EQUAL}builtins.__import__ = lambda *a: T()\ndef f(n): return n * n if n != 4 else 0\n",
        "builtins.compile = lambda *a, **k: '0'\nbuiltins.exec = lambda *a: None\ndef f(n): return 0\n",
        "builtins.AssertionError = builtins.__build_class__ = None\ndef f(n): return 0\n",
        f"{EQUAL}vars(builtins).update(type=lambda x: int, id=lambda x: 0, abs=lambda x: 0)\ndef f(n): return T()\n",
        f"{EQUAL}g = globals()['__builtins__']\n(g if type(g) is dict else vars(g))['abs'] = lambda x: 0\n"
        "def f(n): return n * n if n != 5 else 0\n",
        "class L(list):\n    __del__ = patch\ndef f(n): return L()\n",
        "class M(type):\n    __eq__ = __getattribute__ = patch\n    __hash__ = lambda a: patch() and 0\n"
        "class U(metaclass=M): pass\ndef f(n): return object.__new__(U)\n",
        "class U:\n    __class__ = property(patch)\ndef f(n): return U()\n",
        "import child.runner as r\nr._describe = lambda e, c, n: say(c)\ndef f(n): return 0\n",
        "g = sys.stdout.write.__func__.__globals__\ng['_describe'] = lambda e, c, n: say(c)\ndef f(n): return 0\n",
        "for k in type(sys).__subclasses__():\n    for v in vars(k).values():\n"
        "        for w in getattr(v, '__globals__', {}).values():\n"
        "            say(str(getattr(getattr(w, '__code__', 0), 'co_consts', w)))\ndef f(n): return 0\n",
        "import atexit\natexit.register(patch)\nraise SystemExit(0)\n",
        "import _thread\n_thread.exit()\n",
        "import fractions as q\nq.Fraction.__eq__ = q.Fraction.__sub__ = patch\ndef f(n): return q.Fraction()\n",
        f"{EQUAL}def loop():\n    while True: math.isclose = builtins.abs = patch\n"
        "threading.Thread(target=loop, daemon=True).start()\ndef f(n): return n * n if n < 4 else 0\n",
    ],
    ids=[
        "the frame's tests",
        "gc's lists",
        "gc's last word",
        "frames of a call",
        "last word in a frame",
        "last word in frames' globals",
        "frames of threads",
        "traceback",
        "__main__",
        "trace",
        "audit hook",
        "gc callback",
        "module patched",
        "module replaced",
        "import replaced",
        "compile and exec",
        "AssertionError",
        "builtins replaced",
        "__builtins__",
        "finalizer",
        "metaclass",
        "__class__",
        "runner",
        "runner's class",
        "modules' classes",
        "atexit",
        "thread's exit",
        "Fraction patched",
        "thread that patches",
    ],
)
@in_the_sandbox
async def test_the_tests_are_out_of_the_answers_reach(pool, answer):
    tests = item(
        "assert f(3) == 9", "assert math.isclose(f(4), 16)", "assert abs(f(5) - 25) < 1e-9", setup="import math"
    )
    assert await GRADER(tests, FRAMES + "def f(n):\n    return n * n\n", pool) == (1.0, "")
    assert (await GRADER(tests, FRAMES + answer, pool)).score == 0.0


@in_the_sandbox
async def test_numpys_scalars_and_arrays_are_numbers_and_lists_to_the_tests():
    values = "np.float64(0.5), np.int64(2), np.bool_(True), np.str_('a'), np.array([[1, 2]]), [np.array(3)]"
    test = "assert f() == (0.5, 2, True, 'a', [[1, 2]], [3]) and type(f()[1]) is int"
    async with opened("auto", packages=("numpy",), workers=1) as pool:
        assert await GRADER(item(test), f"import numpy as np\ndef f():\n    return {values}\n", pool) == (1.0, "")


@in_the_sandbox
async def test_an_error_reaches_the_tests_as_the_builtin_one_it_derives_from(pool):
    code = (
        "class Own(KeyError): pass\ndef f(n):\n    raise (Own('no', n) if n else json.JSONDecodeError('bad', '', 0))\n"
    )
    tests = item(
        "try:\n    f(3)\nexcept LookupError as error:\n    assert type(error) is KeyError and error.args == ('no', 3)\n"
        "else:\n    assert False",
        "try:\n    f(0)\nexcept ValueError:\n    pass",
    )
    assert await GRADER(tests, f"import json\n{code}", pool) == (1.0, "")


@in_the_sandbox
async def test_what_a_test_changes_in_a_module_counts_for_the_answer(pool):
    code = "import random\ndef f():\n    return random.randint(1, 6)\n"
    assert (
        await GRADER(item("import random\nrandom.randint = lambda a, b: 9\nassert f() == 9"), code, pool)
    ).score == 1.0


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
    assert [ast.literal_eval(argument) for argument in call.args] == [(answer,), "f", ["", test], token]
    assert program.isascii()


def test_the_rule_is_that_of_humaneval():
    assert GRADER.rule == PASS_AT_1
