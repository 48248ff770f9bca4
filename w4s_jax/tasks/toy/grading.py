"""Grades toy answers and names what the parent can see of a wrong one.

(item, answer) → **grade** → Grade(score, symptom)

A number must stand alone: `$`, `,`, `%` and white space are stripped, a sentence or
a unit around it is not, because extraction is the workflow's work. Integers compare
exactly at any size (Decimal). Code runs against the hidden tests in the sandbox.
"""

from __future__ import annotations

import decimal
import re
from typing import Any

from w4s_jax.tasks.scoring.symptoms import Symptom, numeric_symptom
from w4s_jax.types import Grade, Item, Limits, RunStatus, Sandbox

TOLERANCE = decimal.Decimal("1e-6")
"""Largest absolute distance of a right number."""

EDGE_TEST, ALL_TESTS, SYNTAX = "edge test", "all tests", "syntax"
"""Symptoms of code: it fails edge tests alone; it fails plain tests, or raises or hangs; it does not compile."""

TEST_LIMITS = Limits(wall_seconds=5.0, cpu_seconds=5.0)

_LONGEST = 64
_BARE = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,2})?")


def read_number(answer: Any) -> decimal.Decimal | None:
    """Returns the number that an answer is, or None where more than a number stands there.

    Example:
        >>> read_number("$1,234.50"), read_number("1234 apples")
        (Decimal('1234.50'), None)
    """
    if isinstance(answer, bool) or not isinstance(answer, int | float | str):
        return None
    text = repr(answer) if isinstance(answer, float) else str(answer)[: _LONGEST + 1]
    text = text.replace("$", "").replace(",", "").replace("%", "").strip()
    if len(text) > _LONGEST or not _BARE.fullmatch(text):
        return None
    return decimal.Decimal(text)


async def grade(item: Item, answer: Any, sandbox: Sandbox) -> Grade:
    """Scores an answer of any toy item.

    Raises:
        SandboxError: The sandbox itself could not run the tests.
    """
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        return Grade(0.0, Symptom.EMPTY.value)
    if item.entry_point is not None:
        return await _grade_code(item, answer, sandbox)
    return grade_number(item, answer)


def grade_number(item: Item, answer: Any) -> Grade:
    """Scores the answer of a numeric item."""
    number = read_number(answer)
    if number is None:
        empty = answer is None or (isinstance(answer, str) and not answer.strip())
        return Grade(0.0, (Symptom.EMPTY if empty else Symptom.NO_NUMBER).value)
    if abs(number - item.target) <= TOLERANCE:
        return Grade(1.0)
    return Grade(0.0, numeric_symptom(str(number), float(item.target), item.question))


async def _grade_code(item: Item, answer: Any, sandbox: Sandbox) -> Grade:
    if not isinstance(answer, str):
        return Grade(0.0, SYNTAX)
    run = await sandbox.run_program(hidden_test_program(answer, item.target), TEST_LIMITS)
    if run.status is not RunStatus.OK:
        return Grade(0.0, ALL_TESTS)
    if run.value == "passed":
        return Grade(1.0)
    return Grade(0.0, run.value if run.value in (SYNTAX, EDGE_TEST) else ALL_TESTS)


def hidden_test_program(code: str, tests: dict[str, list[str]]) -> str:
    """A program whose `solution()` says which hidden tests the code fails; the code is compiled by it, as data.

    Args:
        code: The answer.
        tests: Assertions under `plain` and `edge`.
    """
    return f"""
def _fails(scope, tests):
    for test in tests:
        try:
            exec(test, scope)
        except Exception:
            return True
    return False


def solution():
    scope = {{}}
    try:
        program = compile({code!r}, "<answer>", "exec")
    except (SyntaxError, ValueError):
        return {SYNTAX!r}
    exec(program, scope)
    if _fails(scope, {tests["plain"]!r}):
        return {ALL_TESTS!r}
    return {EDGE_TEST!r} if _fails(scope, {tests["edge"]!r}) else "passed"
"""
