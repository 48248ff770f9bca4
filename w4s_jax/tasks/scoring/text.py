"""Right or wrong, or partly right, by the words of a text.

workflow's answer, gold text → **Grade** → ItemOutcome

An answer may be anything that a hostile workflow returns; no answer raises.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from typing import Any

from w4s_jax.types import Grade, Item, Sandbox

_LONGEST_EXACT = 10_000
"""Characters beyond which a text is not compared."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactGrader:
    r"""Right where the texts are equal, but for white space, letter case and Unicode form (NFKC).

    Example:
        >>> ExactGrader.normalised("  Buenos\n Aires ")
        'buenos aires'
    """

    rule = "equal texts, but for white space, letter case and Unicode form"

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
