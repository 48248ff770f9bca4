"""HumanEval: examples become public tests, hidden tests decide, and shortcuts do not pass."""

import subprocess
import sys
from pathlib import Path

import pytest

from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.code import grade_function, grading_program, load_humaneval, public_tests
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.types import Item, ProgramRun, RunStatus, SandboxError, Split

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
    assert candidate([]) == 0
"""
ITEM = Item(
    id="humaneval/0", question=PROMPT, target={"prompt": PROMPT, "test": TEST}, entry_point="solution", public_tests=()
)
RIGHT = "def solution(xs):\n    return sum(base(x) for x in xs)\n"

_HARNESS = """
import sys
names = {"__name__": "__main__"}
try:
    exec(compile(sys.stdin.read(), "<program>", "exec"), names)
    print("value", names["solution"]())
except Exception as error:
    print("error", type(error).__name__, error)
"""


class PlainProcess:
    """Runs a test's own programs in a process; for grading alone, and no sandbox at all."""

    name = "plain"

    async def run_program(self, code, limits):
        done = subprocess.run(
            [sys.executable, "-I", "-c", _HARNESS], input=code, capture_output=True, text=True, timeout=30, check=False
        )
        kind, _, text = (done.stdout.splitlines() or [""])[-1].partition(" ")
        if kind == "value":
            return ProgramRun(status=RunStatus.OK, value=text)
        return ProgramRun(status=RunStatus.EXCEPTION, error=text)


async def _grade(answer):
    return await grade_function(ITEM, answer, PlainProcess())


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
        RIGHT + 'if __name__ == "__main__":\n    print(solution([1]))\n',
    ],
    ids=["function", "prompt and body", "body", "body after a blank line", "lambda", "with a main"],
)
async def test_a_right_function_passes_in_every_form(answer):
    assert await _grade(answer) == (1.0, "")


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
async def test_a_wrong_answer_has_a_symptom(answer, symptom):
    assert await _grade(answer) == (0.0, symptom)


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
    ],
    ids=[
        "equals all",
        "equals all inside",
        "a class that equals all",
        "os._exit",
        "SystemExit",
        "own check",
        "open string",
    ],
)
async def test_a_shortcut_does_not_pass(answer):
    assert (await _grade(answer)).score == 0.0


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
def test_gold_solutions_pass_and_fail_only_the_examples_that_humaneval_has_wrong():
    task = load_humaneval("", TaskOptions(data_dir=DATA, split_seed=0, sizes=SplitSizes()))
    items = [item for split in Split for item in task.items(split)]
    wrong = []
    for item in items:
        program, token = grading_program(item, item.metadata["program"])
        names = {}
        exec(program, names)
        assert names["solution"]() == token
        for test in item.public_tests:
            try:
                exec(f"{item.metadata['program']}\n{test}", {})
            except AssertionError:
                wrong.append(item.id)
    assert sorted(wrong) == ["humaneval/130", "humaneval/130", "humaneval/47"]
    assert sum(bool(item.public_tests) for item in items) == 116
