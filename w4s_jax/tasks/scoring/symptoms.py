"""Names what the parent can see of a wrong numeric answer.

wrong answer → numeric_symptom → ItemOutcome.symptom → Feedback.symptoms → prompt

A symptom is a hint for the meta-agent, computed from the answer, the gold number
and the question alone. It says nothing of how the answer came about: whether the
executor misread, miscalculated or guessed is for the meta-agent to infer.
"""

from __future__ import annotations

import enum
import math
from typing import Any

from w4s_jax.tasks.scoring.numbers import find_numbers, parse_number


class Symptom(enum.StrEnum):
    """The closed set of symptoms of a wrong numeric answer, in order of precedence."""

    EMPTY = "empty"
    """None, or a text of white space."""
    NO_NUMBER = "no number"
    """Nothing that reads as a finite number."""
    FACTOR = "factor"
    """Off by a factor that unit conversions make (7, 10, 12, 24, 60, …) or by its sign."""
    FROM_TEXT = "from text"
    """A number of the question, handed back."""
    CLOSE = "close"
    """Within 5 % of the gold number, or within 2 of it."""
    FAR = "far"
    """Any other number."""


_FACTORS = (7, 10, 12, 16, 24, 52, 60, 100, 365, 1_000, 3_600, 10_000, 100_000, 1_000_000)
_SAME = 1e-6
"""Relative distance below which two numbers are the same for a symptom."""


def numeric_symptom(answer_text: Any, target: float, question: str) -> str:
    """Returns the `Symptom` of an answer that was graded wrong.

    Args:
        answer_text: What the workflow returned; anything at all.
        target: The gold number.
        question: The question's text.

    Example:
        >>> numeric_symptom("the answer is 300", 3.0, "How many hours are 180 minutes?")
        'factor'
    """
    if answer_text is None or (isinstance(answer_text, str) and not answer_text.strip()):
        return Symptom.EMPTY.value
    number = parse_number(answer_text)
    if number is None:
        return Symptom.NO_NUMBER.value
    if _is_factor(number, target):
        return Symptom.FACTOR.value
    if any(_same(number, given) for given in find_numbers(question)):
        return Symptom.FROM_TEXT.value
    distance = abs(number - target)
    return Symptom.CLOSE.value if distance <= max(2.0, 0.05 * abs(target)) else Symptom.FAR.value


def _same(a: float, b: float) -> bool:
    return math.isfinite(a) and math.isfinite(b) and abs(a - b) <= _SAME * max(abs(a), abs(b))


def _is_factor(number: float, target: float) -> bool:
    """Whether one is the other times a unit's factor, or its negative."""
    if number == 0 or target == 0:
        return False
    return _same(number, -target) or any(
        _same(number, target * factor) or _same(number * factor, target) for factor in _FACTORS
    )
