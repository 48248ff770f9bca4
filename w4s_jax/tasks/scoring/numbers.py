"""Reads one number out of an untrusted answer.

workflow's answer → parse_number → grader, symptom

The rule is that of the grade-school benchmarks: the LAST number of the text
counts, whatever currency, unit or sentence stands around it. A comma groups
thousands ("1,000,000"); it is never a decimal point.
"""

from __future__ import annotations

import math
import re
from typing import Any

_TAIL = 2_000
"""Characters of a text that are read, from its end: bounds the work on a hostile answer."""

_NUMBER = re.compile(
    r"(?:(?<![\w)\]}])[-+])?"  # a sign, unless it subtracts from what stands before it
    r"(?:\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)|\d+|(?=\.\d))"  # 1,234,567 or 1234567, or nothing before .5
    r"(?:\.\d+)?(?:[eE][-+]?\d+(?!\w))?"
)
_FRACTION = re.compile(r"\s*([-+]?\d{1,15})\s*/\s*(\d{1,15})\s*")
_REWRITES = (("−", "-"), ("{,}", ","), ("\\,", ""), ("\\!", ""), ("\u00a0", ""), ("\u202f", ""), ("\u2009", ""))
_CURRENCY = re.compile(r"\\?[$€£¥₹]\s*")


def find_numbers(text: str) -> tuple[float, ...]:
    """Returns every number of a text's last 2,000 characters, in order; one beyond float64 is infinite.

    Example:
        >>> find_numbers("She sells 1,200 eggs for $2.50 each.")
        (1200.0, 2.5)
    """
    text = text[-_TAIL:]
    for old, new in _REWRITES:
        text = text.replace(old, new)
    return tuple(float(match.replace(",", "")) for match in _NUMBER.findall(_CURRENCY.sub("", text)))


def parse_number(answer: Any) -> float | None:
    """Returns the number an answer states, or None where it states none. Never raises.

    Numbers stand for themselves; of a text the last number counts, and a text that is
    nothing but a fraction is its value. Booleans, NaN, infinities, numbers beyond
    float64 and everything else are no numbers.

    Example:
        >>> parse_number("It costs $1,000,000.00 in all."), parse_number("3/4"), parse_number(True)
        (1000000.0, 0.75, None)
    """
    if isinstance(answer, str):
        return _parse_text(answer)
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return None
    try:
        value = float(answer)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _parse_text(text: str) -> float | None:
    """Returns a fraction's value, else the last number; None where that one is not finite."""
    if len(text) < 40 and (fraction := _FRACTION.fullmatch(text)) and int(fraction[2]):
        return int(fraction[1]) / int(fraction[2])
    numbers = find_numbers(text)
    return numbers[-1] if numbers and math.isfinite(numbers[-1]) else None
