"""HumanEval: examples become public tests, hidden tests decide, and shortcuts do not pass."""

import dataclasses
import textwrap
from pathlib import Path

import pytest
import pytest_asyncio
from sandbox_host import opened

from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.code import grade_function, grading_program, load_humaneval, public_tests
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.types import Item, ProgramRun, RunStatus, SandboxError, Split

in_the_sandbox = pytest.mark.asyncio(loop_scope="module")
DATA = Path(__file__).resolve().parents[2] / "shared" / "datasets"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real benchmark files are not beside the repository")

PROMPT = '''\
def base(x):
    """ The digit. """
    return x % 10

def solution(xs):
    """ Sums the last digits.
    >>> solution([11, 12])
    3
    >>> solution([])
    0
    >>> base(3)
    3
    solution([5]) ➞ 5
    solution([x]) == 7
    Note that solution(xs) = the sum.
    """
'''
TEST = """
def check(candidate):
    assert candidate([11, 12]) == 3
    assert candidate([base(19)]) == 9
    assert abs(candidate([25]) - base(25)) < 1e-6
    assert candidate([]) == 0
"""
ITEM = Item(
    id="humaneval/0", question=PROMPT, target={"prompt": PROMPT, "test": TEST}, entry_point="solution", public_tests=()
)
EQUAL = "class T:\n    __eq__ = __lt__ = lambda a, b: True\n    __sub__ = __abs__ = lambda *a: T()\n"
RIGHT = "def solution(xs):\n    return sum(base(x) for x in xs)\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    async with opened("auto", packages=(), workers=2) as pool:
        yield pool


def test_examples_of_a_docstring_become_assertions():
    assert list(public_tests(PROMPT, "solution")) == [
        "assert solution([11, 12]) == 3",
        "assert solution([]) == 0",
        "assert solution([5]) == 5",
    ]


@pytest.mark.parametrize("prompt", ["not python (", "def other(): pass", 'def f():\n    """\n  >>> f()\n 1\n    """'])
def test_a_prompt_without_readable_examples_has_no_public_tests(prompt):
    assert list(public_tests(prompt, "f")) == []


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT,
        PROMPT + "    return sum(base(x) for x in xs)\n",
        "    return sum(base(x) for x in xs)\n",
        "\n    return sum(base(x) for x in xs)",
        "solution = lambda xs: sum(map(base, xs))",
        RIGHT + 'if __name__ == "__main__":\n    print(solution([int(input())]))\n',
        f"from __future__ import annotations\n{RIGHT.replace('(xs)', '(xs: Unknown)', 1)}",
        textwrap.indent(RIGHT, "    "),
        "\n" + textwrap.indent(f"import math\n\n{RIGHT}", "\t"),
        "    def solution(xs):\n        return sum(base(x) for x in xs)\n    return solution(xs)\n",
        "solution: object = lambda xs: sum(map(base, xs))",
        "def check(xs):\n    return sum(map(base, xs))\ndef solution(xs):\n    return check(xs)\n",
    ],
    ids=[
        "function",
        "prompt and body",
        "body",
        "body after a blank line",
        "lambda",
        "with a main",
        "with a future",
        "indented function",
        "function behind tabs",
        "body with a function of the same name",
        "annotated lambda",
        "with a function named check",
    ],
)
@in_the_sandbox
async def test_a_right_function_passes_in_every_form(pool, answer):
    assert await grade_function(ITEM, answer, pool) == (1.0, "")


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (None, "empty"),
        (7, "empty"),
        ("  \n", "empty"),
        ("I would sum the digits.", "no function"),
        (f"```python\n{RIGHT}```", "syntax error"),
        ("def solution(xs):\n    return 3\n", "failed test"),
        ("def solution(xs):\n    return xs.total()\n", "exception"),
        ("def solution(xs) return", "syntax error"),
    ],
    ids=["none", "number", "blank", "prose", "fenced", "wrong", "raises", "no python"],
)
@in_the_sandbox
async def test_a_wrong_answer_has_a_symptom(pool, answer, symptom):
    assert await grade_function(ITEM, answer, pool) == (0.0, symptom)


@in_the_sandbox
async def test_a_dict_may_be_of_a_subclass(pool):
    prompt = 'def solution(text):\n    """ Counts the letters. """\n'
    test = "def check(candidate):\n    assert candidate('aab') == {'a': 2, 'b': 1}\n"
    item = dataclasses.replace(ITEM, target={"prompt": prompt, "test": test})
    counts = "    d = {}\n    for c in text:\n        d[c] += 1\n    return d\n"
    for kind in ("Counter()", "defaultdict(int)"):
        answer = f"from collections import *\ndef solution(text):\n{counts.replace('{}', kind)}"
        assert await grade_function(item, answer, pool) == (1.0, "")


@pytest.mark.parametrize(
    "answer",
    [
        "class T:\n    __eq__ = lambda a, b: True\ndef solution(xs):\n    return T()\n",
        "class T(int):\n    __eq__ = lambda a, b: True\ndef solution(xs):\n    return [T()]\n",
        "class M(type):\n    __eq__ = lambda a, b: True\n    __hash__ = type.__hash__\n"
        "class T(metaclass=M):\n    __eq__ = lambda a, b: True\n    __iter__ = lambda a: iter([])\n"
        "def solution(xs):\n    return T()\n",
        "def solution(xs): pass\nimport os; os._exit(0)\n",
        "def solution(xs): pass\nraise SystemExit(0)\n",
        "def solution(xs): pass\ndef check(candidate): pass\n",
        'def solution(xs): pass\n"""',
        f"{EQUAL}def type(x): return int\ndef solution(xs): return T()\n",
        f"{EQUAL}def all(x): return True\nmap = any = all\ndef solution(xs): return T()\n",
        "def abs(x): return 0\ndef solution(xs): return 7\n",
        "def base(x): return 9 if x == 19 else 3 if x else 0\n"
        "def solution(xs): return 3 if len(xs) > 1 else sum(xs) and 0\n",
    ],
    ids=[
        "equals all",
        "equals all inside",
        "a class that equals all",
        "os._exit",
        "SystemExit",
        "own check",
        "open string",
        "own type",
        "own all",
        "own abs",
        "own helper",
    ],
)
@in_the_sandbox
async def test_a_shortcut_does_not_pass(pool, answer):
    assert (await grade_function(ITEM, answer, pool)).score == 0.0


@pytest.mark.parametrize(("status", "symptom"), [(RunStatus.TIMEOUT, "timeout"), (RunStatus.LIMIT, "limit")])
async def test_a_limit_is_the_symptom(status, symptom):
    class Slow:
        async def run_program(self, code, limits):
            return ProgramRun(status=status)

    assert await grade_function(ITEM, RIGHT, Slow()) == (0.0, symptom)


async def test_a_sandbox_that_fails_is_no_grade():
    class Broken:
        async def run_program(self, code, limits):
            raise SandboxError("zygote died")

    with pytest.raises(SandboxError):
        await grade_function(ITEM, RIGHT, Broken())


def test_hostile_text_is_not_parsed_in_the_parent():
    program, _ = grading_program(ITEM, "def solution(xs): return " + "(" * 1_000_000)
    assert len(program) > 1_000_000


@real
def test_humaneval_has_the_sizes_of_aflow():
    task = load_humaneval("", TaskOptions(data_dir=DATA, split_seed=0, sizes=SplitSizes()))
    items = [item for split in Split for item in task.items(split)]
    assert [len(task.items(s)) for s in (Split.TRAIN, Split.VALIDATION, Split.TEST)] == [0, 33, 131]
    assert {item.id for item in items} == {f"humaneval/{i}" for i in range(164)}
    assert task.metric == "pass@1"


@real
@in_the_sandbox
async def test_gold_solutions_pass_whole_and_as_a_body(pool):
    task = load_humaneval("", TaskOptions(data_dir=DATA, split_seed=0, sizes=SplitSizes()))
    items = [item for split in Split for item in task.items(split)]
    for item in items:
        program = item.metadata["program"]
        for answer in (program, program.removeprefix(item.question), f"from __future__ import annotations\n{program}"):
            assert await task.grade(item, answer, pool) == (1.0, ""), item.id


@real
@in_the_sandbox
async def test_no_item_takes_an_object_that_equals_everything_for_an_answer(pool):
    task = load_humaneval("", TaskOptions(data_dir=DATA, split_seed=0, sizes=SplitSizes()))
    cheat = f"{EQUAL}def type(x): return int\nmap = all = abs = poly = encode_cyclic = encode_shift = lambda *a: T()\n"
    for item in (item for split in Split for item in task.items(split)):
        answer = f"{cheat}def {item.entry_point}(*a, **k): return T()\n"
        assert (await task.grade(item, answer, pool)).score == 0.0, item.id


@real
def test_gold_solutions_fail_only_the_examples_that_humaneval_has_wrong():
    task = load_humaneval("", TaskOptions(data_dir=DATA, split_seed=0, sizes=SplitSizes()))
    items = [item for split in Split for item in task.items(split)]
    wrong = []
    for item in items:
        for test in item.public_tests:
            try:
                exec(f"{item.metadata['program']}\n{test}", {})
            except AssertionError:
                wrong.append(item.id)
    assert sorted(wrong) == ["humaneval/130", "humaneval/130", "humaneval/47"]
    assert sum(bool(item.public_tests) for item in items) == 116
