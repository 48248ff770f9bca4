"""The scorers that go by name: `--scorer=exact|numeric|choice|f1|math|code|python:FILE.py:FUNCTION`.

name → **make_scorer** → Scorer(grader, what a target has to be, what the meta-agent reads)
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

from w4s_jax.tasks.base import Grader
from w4s_jax.tasks.scoring import latex
from w4s_jax.tasks.scoring.choice import ChoiceGrader
from w4s_jax.tasks.scoring.code import TestsGrader
from w4s_jax.tasks.scoring.numbers import parse_number
from w4s_jax.tasks.scoring.numeric import NumericGrader
from w4s_jax.tasks.scoring.text import ExactGrader, F1Grader
from w4s_jax.tasks.scoring.user import FunctionGrader, ProgramGrader
from w4s_jax.tasks.source import Row
from w4s_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer:
    """How answers are graded, and what goes with it."""

    name: str
    grader: Grader
    rule: str
    """In one line."""
    form: str
    """A sentence on the form of an answer, for the meta-agent."""
    read: Callable[[Row, str], Any]
    """Reads the target out of a field; raises InputError for one that it cannot be."""
    family: str = "qa"
    """Of the seed workflows."""
    metric: str = "accuracy"
    packages: tuple[str, ...] = ()
    """Distributions that the grader's programs import in the sandbox."""
    takes_lists: bool = False
    """Whether a target may be a list of texts."""


def make_scorer(spec: str) -> Scorer:
    """Returns a scorer by its name.

    Raises:
        InputError: There is no such scorer, or no such function.
    """
    if spec.startswith("python:"):
        return _user_scorer(spec)
    if spec not in _MAKERS:
        near = difflib.get_close_matches(spec, SCORERS, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise InputError(f"scorer={spec!r} is unknown{hint}; known are {', '.join(SCORERS)}, python:FILE.py:FUNCTION")
    return _MAKERS[spec]()


def _exact() -> Scorer:
    return Scorer(
        name="exact",
        grader=ExactGrader(),
        rule=ExactGrader.rule,
        form="The answer is a short text, compared with the gold answer.",
        read=_text_or_number,
    )


def _numeric() -> Scorer:
    grader = NumericGrader(tolerance=1e-6)
    return Scorer(
        name="numeric", grader=grader, rule=grader.rule, form="The answer is one number.", read=_number, family="math"
    )


def _choice() -> Scorer:
    grader = ChoiceGrader()
    return Scorer(
        name="choice", grader=grader, rule=grader.rule, form="The answer is the letter of one choice.", read=_letter
    )


def _f1() -> Scorer:
    grader = F1Grader()
    return Scorer(
        name="f1",
        grader=grader,
        rule=grader.rule,
        form="The answer is as short as possible; it is graded by the words it shares with the gold answer.",
        read=_text_or_texts,
        metric="f1",
        takes_lists=True,
    )


def _math() -> Scorer:
    grader = latex.LatexGrader()
    return Scorer(
        name="math",
        grader=grader,
        rule=grader.rule,
        form="The answer is a mathematical expression in LaTeX, compared by its value.",
        read=_formula,
        packages=latex.PACKAGES,
    )


def _code() -> Scorer:
    grader = TestsGrader()
    return Scorer(
        name="code",
        grader=grader,
        rule=grader.rule,
        form="The answer is the source code of the whole function, with its imports; hidden tests run it.",
        read=_tests,
        family="code",
        metric="pass@1",
        takes_lists=True,
    )


def function_scorer(function: Callable[[Any, Any], Any]) -> Scorer:
    """A scorer by a function of the program that calls this package.

    Raises:
        InputError: It cannot be called with an answer and a target, or it is asynchronous.
    """
    return _scorer_of(ProgramGrader.of_program(function))


def _user_scorer(spec: str) -> Scorer:
    return _scorer_of(FunctionGrader.load(spec.removeprefix("python:")))


def _scorer_of(grader: FunctionGrader) -> Scorer:
    return Scorer(
        name="python",
        grader=grader,
        rule=grader.rule,
        form="The answer is graded by a function.",
        read=Row.get,
        metric="score",
    )


_MAKERS: dict[str, Callable[[], Scorer]] = {
    "exact": _exact,
    "numeric": _numeric,
    "choice": _choice,
    "f1": _f1,
    "math": _math,
    "code": _code,
}
SCORERS = tuple(_MAKERS)
"""Names of all but users' own."""


# --- what a target has to be --------------------------------------------------

_NUMBER = re.compile(
    r"([-+−]?)[$€£¥₹]?([-+−]?)((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)((?:[eE][-+]?\d+)?)", re.ASCII
)
"""Two places for a sign, one of which is empty: -$5 and $-5."""
_FRACTION = re.compile(r"[-+−]?\d{1,15}/0*[1-9]\d{0,14}", re.ASCII)


def _text_or_number(row: Row, field: str) -> str | int | float:
    target = row.get(field)
    if isinstance(target, bool) or not isinstance(target, str | int | float) or not str(target).strip():
        raise row.error(f"field {field!r} is {target!r}; it must be a text or a number")
    if isinstance(target, float) and not math.isfinite(target):
        raise row.error(f"field {field!r} is {target!r}; it must be a text or a finite number")
    return target


def _formula(row: Row, field: str) -> str:
    text = str(_text_or_number(row, field))
    depths = list(itertools.accumulate({"{": 1, "}": -1}.get(mark, 0) for mark in re.findall(r"\\.|[{}]", text)))
    if depths and (depths[-1] or min(depths) < 0):
        raise row.error(
            f"field {field!r} is {text!r}, whose braces are not closed; scorer=math needs LaTeX or a number"
        )
    return text


def _number(row: Row, field: str) -> float:
    """One number, read strictly: what an answer may have around its number would hide a slip in a target."""
    target = _text_or_number(row, field)
    text = target.strip() if isinstance(target, str) else ""
    written = _NUMBER.fullmatch(text)
    is_number = not text or _FRACTION.fullmatch(text) or (written and not (written[1] and written[2]))
    number = parse_number(target) if is_number else None
    if number is None:
        wanted = "one finite number, such as 7, -1,200.5, 3e6, $5 or 3/4, without a unit, % or other words"
        raise row.error(f"field {field!r} is {target!r}; scorer=numeric needs a number: {wanted}")
    return number


def _letter(row: Row, field: str) -> str:
    target = str(_text_or_number(row, field)).strip(" ().").upper()
    options = row.values.get("options")
    most = len(options) if isinstance(options, list) and options else 10
    if len(target) != 1 or not 0 <= ord(target) - ord("A") < most:
        last = chr(ord("A") + most - 1)
        raise row.error(f"field {field!r} is {row.get(field)!r}; scorer=choice needs a letter from A to {last}")
    return target


def _text_or_texts(row: Row, field: str) -> Any:
    target = row.get(field)
    if isinstance(target, list):
        if not target or not all(isinstance(text, str) and text.strip() for text in target):
            raise row.error(f"field {field!r} is {target!r}; it must be a list of texts, each accepted")
        return target
    return str(_text_or_number(row, field))


def _tests(row: Row, field: str) -> dict[str, Any]:
    target = row.get(field)
    tests = [target] if isinstance(target, str) else target
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) and test.strip() for test in tests):
        raise row.error(f"field {field!r} is {target!r}; scorer=code needs tests, as a text or a list of texts")
    for test in tests:
        try:
            ast.parse(test)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise row.error(f"field {field!r} holds the test {test[:60]!r}, which is no Python ({error})") from error
    return {"tests": tests, "setup": ""}
