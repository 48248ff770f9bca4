"""Right or wrong by tests that run, with the answer, in a sandboxed child.

workflow's program, hidden tests → **sandbox.run_program** → Grade

Sources: HumanEval (arXiv 2107.03374) and MBPP (arXiv 2108.07732), pass@1 of one answer. What
the answer is, and what the tests see, is the program's to arrange: `tasks/code.py` has that
of HumanEval, `TestsGrader` the one for assertions.

Departure: tests see plain data alone, because an object can be written that equals
everything. A program graded together with its tests could still find and forge its last
word; see `sandbox/base.py`.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import re
from typing import Any, NamedTuple

from w4s_jax.types import Grade, InputError, Item, Limits, ProgramRun, RunStatus, Sandbox

GRADING_LIMITS = Limits(wall_seconds=20.0, cpu_seconds=10.0)
"""Of one answer with its hidden tests."""

PASS_AT_1 = "every hidden test passes, in the sandbox; pass@1"


class CodeSymptom(enum.StrEnum):
    """The closed set of what the parent can see of a program that fails."""

    EMPTY = "empty"
    """No text."""
    NO_FUNCTION = "no function"
    """Does not define the function."""
    SYNTAX_ERROR = "syntax error"
    """Does not compile."""
    FAILED_TEST = "failed test"
    """An assertion fails."""
    EXCEPTION = "exception"
    """Raises anything else, returns no plain data, or leaves early."""
    TIMEOUT = "timeout"
    """Runs out of wall clock."""
    LIMIT = "limit"
    """Runs out of CPU or memory."""


class GradingProgram(NamedTuple):
    """A program that grades an answer."""

    text: str
    token: str
    """What it gives iff every test passed; the answer cannot know it, so leaving early does not pass."""


def token_of(item: Item, tests: str) -> str:
    """The last word of a program that passed."""
    return hashlib.sha256(f"{item.id}\n{tests}".encode()).hexdigest()


def is_empty(answer: Any) -> bool:
    """Whether there is no program at all."""
    return not isinstance(answer, str) or not answer.strip()


def defines(answer: str, entry_point: str) -> bool:
    """Whether a text binds the name; by its look, since parsing hostile code can take the parent down."""
    return re.search(rf"^(?:(?:async )?def {entry_point}\b|{entry_point}\s*=)", answer, re.MULTILINE) is not None


async def run_graded(program: GradingProgram, sandbox: Sandbox) -> Grade:
    """Runs an answer with its tests; 1.0 iff all of them ran and passed.

    Raises:
        SandboxError: the sandbox itself could not run it.
    """
    run = await sandbox.run_program(program.text, GRADING_LIMITS)
    if run.status is RunStatus.OK and run.value == program.token:
        return Grade(1.0)
    return Grade(0.0, _symptom(run).value)


def _symptom(run: ProgramRun) -> CodeSymptom:
    if run.status in (RunStatus.TIMEOUT, RunStatus.LIMIT):
        return CodeSymptom(run.status.value)
    named = {
        "LookupError: the answer defines no function": CodeSymptom.NO_FUNCTION,
        "AssertionError": CodeSymptom.FAILED_TEST,
        "SyntaxError": CodeSymptom.SYNTAX_ERROR,
        "IndentationError": CodeSymptom.SYNTAX_ERROR,
    }
    return next((symptom for error, symptom in named.items() if error in run.error), CodeSymptom.EXCEPTION)


# --- assertions -------------------------------------------------------------

_HARNESS = """
import builtins, collections, re, sys, types

__builtins__ = dict(vars(builtins))  # of this code, whatever becomes of the others


def _grade(answer, name, tests, token):
    def plain(value):
        kind = type(value)
        if value is None or any(kind is own for own in (bool, int, float, complex, str, bytes, range, re.Match)):
            return value
        for kind in (list, tuple, set, frozenset, collections.deque):
            if isinstance(value, kind):
                return kind(map(plain, kind.__iter__(value)))
        if isinstance(value, dict):
            return {plain(key): plain(item) for key, item in dict.items(value)}
        if isinstance(value, (type({}.keys()), type({}.values()), type({}.items()))):
            return [plain(item) for item in value]
        if hasattr(type(value), "__next__"):
            return map(plain, value)
        raise TypeError("the function returned something else than plain data")

    def guarded(*args, **kwargs):
        return plain(function(*args, **kwargs))

    module = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(answer, "<answer>", "exec", dont_inherit=True), vars(module))
    function = vars(module).get(name)
    if not callable(function):
        raise LookupError("the answer defines no function")
    names = {key: value for key, value in vars(module).items() if key not in __builtins__}
    names.update({"__builtins__": __builtins__, name: guarded})
    for test in tests:
        exec(compile(test, "<test>", "exec", dont_inherit=True), names)
    return token
"""
"""Runs an answer in a module of its own, where it may call itself, then tests that see what it returns as plain data.

Copies of lists, tuples, sets, deques and dicts lose what a subclass added, iterators become lazy maps, and names of
builtins mean the builtins to the tests, whatever the answer made of them.
"""

_CALL = """
def solution():
    return _grade({answer!a}, {name!a}, {tests!a}, {token!a})
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestsGrader:
    """Runs `item.entry_point` of the answer in tests; 1.0 iff all pass.

    `item.target` is a dict: `tests`, texts of Python that assert, and `setup`, code in front of them.
    """

    __test__ = False
    """It is no test case of pytest's."""

    rule = PASS_AT_1

    async def __call__(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Grades 1.0 or 0.0.

        Raises:
            SandboxError: the sandbox itself could not run the tests.
            InputError: the item does not name its function.
        """
        if is_empty(answer):
            return Grade(0.0, CodeSymptom.EMPTY.value)
        return await run_graded(self.program(item, answer), sandbox)

    @staticmethod
    def program(item: Item, answer: str) -> GradingProgram:
        """The program that runs an answer, a literal in it, with the setup and the tests.

        Raises:
            InputError: the item does not name its function.
        """
        if not item.entry_point:
            raise InputError(f"item {item.id}: entry_point is {item.entry_point!r}; name the function that tests call")
        tests = [item.target.get("setup", ""), *item.target["tests"]]
        token = token_of(item, "\n".join(tests))
        call = _CALL.format(answer=answer, name=item.entry_point, tests=tests, token=token)
        return GradingProgram(_HARNESS + call, token)
