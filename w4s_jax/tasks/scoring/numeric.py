"""Right or wrong by a number.

workflow's answer, gold number → **Grade** → ItemOutcome

An answer may be anything that a hostile workflow returns. What does not read as a
number is graded 0 with a symptom; no answer raises.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from w4s_jax.tasks.scoring.numbers import parse_number
from w4s_jax.tasks.scoring.symptoms import numeric_symptom
from w4s_jax.types import Grade, Item, Sandbox


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumericGrader:
    """Right where the answer's number is within a tolerance of the target.

    Example:
        >>> NumericGrader(tolerance=0.1, inclusive=False).is_right(18.05, 18.0)
        True
        >>> NumericGrader(tolerance=1e-4, relative=True).is_right(1_000_050.0, 1e6)
        True
    """

    tolerance: float
    """Largest difference."""
    inclusive: bool = True
    """Whether a difference of exactly `tolerance` is right."""
    relative: bool = False
    """Whether the difference is one of the target's size, not an absolute one."""
    whose: str = ""
    """Who grades so, for `rule`."""

    @property
    def rule(self) -> str:
        """The rule in one line."""
        sign = "≤" if self.inclusive else "<"
        size = " · |gold|" if self.relative else ""
        whose = f" ({self.whose})" if self.whose else ""
        return f"the last number of the answer (3/4 is one), |Δ| {sign} {self.tolerance:g}{size}{whose}"

    def is_right(self, number: float, target: float) -> bool:
        """The rule itself."""
        distance, most = abs(number - target), self.tolerance * (abs(target) if self.relative else 1.0)
        return distance < most or (self.inclusive and distance == most)

    async def __call__(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Grades 1.0 or 0.0; see `numbers.parse_number` for what reads as a number."""
        del sandbox
        target = float(item.target)
        number = parse_number(answer)
        if number is not None and self.is_right(number, target):
            return Grade(1.0)
        return Grade(0.0, numeric_symptom(answer, target, item.question))
