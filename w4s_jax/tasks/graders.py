"""Graders of answers that need no sandbox.

workflow's answer, gold answer → **Grade** → ItemOutcome

An answer may be anything that a hostile workflow returns. What does not read as
an answer is graded 0 with a symptom; no answer raises.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from typing import Any

from w4s_jax.tasks.numbers import parse_number
from w4s_jax.tasks.symptoms import numeric_symptom
from w4s_jax.types import Grade, Item, Sandbox

_LONGEST_EXACT = 10_000
"""Characters beyond which a text is not compared."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumericGrader:
    """Right where the answer's number is within a tolerance of the target.

    Example:
        >>> NumericGrader(tolerance=0.1, inclusive=False).is_right(18.05, 18.0)
        True
    """

    tolerance: float
    """Largest absolute difference."""
    inclusive: bool = True
    """Whether a difference of exactly `tolerance` is right."""

    def is_right(self, number: float, target: float) -> bool:
        """The rule itself."""
        distance = abs(number - target)
        return distance < self.tolerance or (self.inclusive and distance == self.tolerance)

    async def __call__(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Grades 1.0 or 0.0; see `numbers.parse_number` for what reads as a number."""
        del sandbox
        target = float(item.target)
        number = parse_number(answer)
        if number is not None and self.is_right(number, target):
            return Grade(1.0)
        return Grade(0.0, numeric_symptom(answer, target, item.question))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactGrader:
    r"""Right where the texts are equal, but for white space, letter case and Unicode form (NFKC).

    Example:
        >>> ExactGrader.normalised("  Buenos\n Aires ")
        'buenos aires'
    """

    @staticmethod
    def normalised(text: str) -> str:
        """The form in which two texts are compared."""
        return " ".join(unicodedata.normalize("NFKC", text).casefold().split())

    async def __call__(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Grades 1.0 or 0.0; numbers and booleans are compared as Python writes them."""
        del sandbox
        text = _as_text(answer)
        if not text.strip():
            return Grade(0.0, "empty")
        if len(text) > _LONGEST_EXACT:
            return Grade(0.0, "too long")
        right = self.normalised(text) == self.normalised(_as_text(item.target))
        return Grade(1.0) if right else Grade(0.0, "different")


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and value.bit_length() > 10_000:  # Python refuses to write out longer integers.
        return hex(value)
    return str(value) if isinstance(value, int | float) else ""
