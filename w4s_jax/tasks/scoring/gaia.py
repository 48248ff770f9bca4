"""Right or wrong by GAIA's rule: a number, a list, or a text.

workflow's answer, gold answer → **Grade** → ItemOutcome

Source: arXiv 2311.12983 and the scorer of its leaderboard. The gold answer decides what is
compared: numbers, elements of lists in their order, or letters and digits.

Departures: what Python reads as infinity or NaN is a text, not a number; the leaderboard
takes an answer that it cannot read for infinity. A list as Python or JSON writes it,
`["a", "b"]`, is that of its elements.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from w4s_jax.tasks.scoring.text import NO_PUNCTUATION, TextSymptom, as_text, wrong
from w4s_jax.types import Grade, Item, Sandbox

_LONGEST = 100_000
"""Characters beyond which an answer is not compared."""
_UNITS = str.maketrans("", "", "$%,")
_SEPARATOR = re.compile(r"[,;]")
_BRACKETED = re.compile(r"\s*\[(.*)\]\s*", re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaiaGrader:
    """Right where the answer is equal by the kind of the gold one; `item.target` is a text.

    Example:
        >>> GaiaGrader().symptom("$1,234.50", "1234.5"), GaiaGrader().symptom("b, a", "a, b").value
        (None, 'different')
    """

    rule = (
        "by the gold answer: equal numbers without $ % and commas; lists split at , and ; equal one by one, in order; "
        "else equal texts without white space, letter case and punctuation (GAIA); a list may stand in [ ], each "
        "element in quotes"
    )

    def symptom(self, answer: str, gold: str) -> TextSymptom | None:
        """The rule itself: what is wrong with an answer, or None where it is right."""
        if _number(gold) is not None:
            return _wrong_element(answer, gold)
        if not _SEPARATOR.search(gold):
            return None if _letters(answer) == _letters(gold) else TextSymptom.DIFFERENT
        given, wanted = _SEPARATOR.split(answer), _SEPARATOR.split(gold)
        symptom = _wrong_list(given, wanted)
        bracketed = _BRACKETED.fullmatch(answer)
        if symptom is None or not bracketed:
            return symptom
        return _wrong_list([_unquoted(element) for element in _SEPARATOR.split(bracketed[1])], wanted)

    async def __call__(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Grades 1.0 or 0.0; numbers and booleans are compared as Python writes them."""
        del sandbox
        text = as_text(answer)
        if not text.strip():
            return wrong(TextSymptom.EMPTY)
        if len(text) > _LONGEST:
            return wrong(TextSymptom.TOO_LONG)
        symptom = self.symptom(text, as_text(item.target))
        return Grade(1.0) if symptom is None else wrong(symptom)


def _wrong_list(given: Sequence[str], wanted: Sequence[str]) -> TextSymptom | None:
    if len(given) != len(wanted):
        return TextSymptom.OTHER_LENGTH
    wrongs = [_wrong_element(*pair) for pair in zip(given, wanted, strict=True)]
    return TextSymptom.DIFFERENT if any(wrongs) else None


def _unquoted(element: str) -> str:
    """An element of a list in brackets without its pair of quotes."""
    element = element.strip()
    return element[1:-1] if len(element) > 1 and element[0] == element[-1] and element[0] in "'\"" else element


def _wrong_element(answer: str, gold: str) -> TextSymptom | None:
    """Compares a number, or an element of a list, whose punctuation counts."""
    wanted = _number(gold)
    if wanted is None:
        same = "".join(answer.split()).lower() == "".join(gold.split()).lower()
        return None if same else TextSymptom.DIFFERENT
    number = _number(answer.translate(_UNITS))
    if number is None:
        return TextSymptom.NO_NUMBER
    return None if number == wanted else TextSymptom.DIFFERENT


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _letters(text: str) -> str:
    return "".join(text.split()).lower().translate(NO_PUNCTUATION)
