r"""Reads one number out of an untrusted answer.

workflow's answer → parse_number → grader, symptom

The rule is that of the grade-school benchmarks: the LAST number of the text
counts, whatever currency, unit or sentence stands around it. A comma groups
thousands ("1,000,000"); it is never a decimal point. A fraction of whole numbers,
`3/4` or `\frac{3}{4}`, is one number, with the whole number before it, as is a power
such as 10^6; a date such as 3/4/2020 is none. All of it takes linear time.
"""

from __future__ import annotations

import math
import re
from typing import Any

_LONGEST = 100_000
"""Characters of a text that are read, from its end: no answer of a workflow is longer."""

_TOKEN = re.compile(
    r"(?P<sign>(?<![\w)\]}])[-+])?"  # unless it subtracts from what stands before it
    r"(?:"
    r"(?P<whole>(?<![\w.,/])\d{1,6}\s?(?=\\[dtc]?frac)|(?<![\w.,/])\d{1,6} (?=\d{1,15}/\d))?"
    r"(?:\\[dtc]?frac\s*\{\s*(?P<latex_top>[-+]?\d{1,15})\s*\}\s*\{\s*(?P<latex_below>\d{1,15})\s*\}"
    r"|\\[dtc]?frac\s*(?P<digit_top>\d)(?P<digit_below>\d)"
    r"|(?<![\w/])(?<!\d[.,])(?P<top>\d{1,15})/(?P<below>\d{1,15})(?![\d/]|[.,]\d|[eE][-+]?\d))"
    r"|(?P<mantissa>\d{1,15}(?:\.\d{1,15})?)\s?(?:\\times|\\cdot|[×*])\s?10\s?\^\s?\{?(?P<exponent>[-+]?\d{1,4})\}?"
    r"|(?P<base>\d{1,9})\s?\^\s?\{?(?P<power>[-+]?\d{1,9})\}?"
    r"|(?P<run>\d+(?:,\d+)*|(?=\.\d))(?P<rest>(?:\.\d+)?(?:[eE][-+]?\d+(?!\w))?)"  # or nothing before .5
    r")"
)
_FRACTION = re.compile(r"\s*([-+]?\d{1,15})\s*/\s*(\d{1,15})\s*")
_REWRITES = (("−", "-"), ("{,}", ","), ("\\,", ""), ("\\!", ""), ("\u00a0", ""), ("\u202f", ""), ("\u2009", ""))
_CURRENCY = re.compile(r"\\?[$€£¥₹]\s*")


def find_numbers(text: str) -> tuple[float, ...]:
    """Returns every number of a text's last 100,000 characters, in order; one beyond float64 is infinite.

    Example:
        >>> find_numbers("She sells 1,200 eggs for $2.50 each, and 3/4 of the milk.")
        (1200.0, 2.5, 0.75)
    """
    text = text[-_LONGEST:]
    for old, new in _REWRITES:
        text = text.replace(old, new)
    return tuple(number for token in _TOKEN.finditer(_CURRENCY.sub("", text)) for number in _numbers_of(token))


def _numbers_of(token: re.Match[str]) -> list[float]:
    """One number, or those of a list without spaces such as 1,2,3."""
    sign = token["sign"] or ""
    top = token["latex_top"] or token["digit_top"] or token["top"]
    if top is not None:
        below = int(token["latex_below"] or token["digit_below"] or token["below"])
        one = float(sign + "1")
        if not below:
            return [one * int(top), 0.0]
        return [one * (int(token["whole"] or 0) + int(top) / below)]
    if token["mantissa"] is not None:
        return [float(f"{sign}{token['mantissa']}e{token['exponent']}")]
    if token["base"] is not None:
        return [float(sign + "1") * _power(int(token["base"]), int(token["power"]))]
    texts = _grouped(token["run"].split(","))
    texts[0] = sign + texts[0]
    texts[-1] += token["rest"]
    return [float(text) for text in texts]


def _power(base: int, power: int) -> float:
    """A power, e.g. 10^6; infinite beyond float64."""
    try:
        return float(base) ** power
    except (OverflowError, ZeroDivisionError):
        return math.inf


def _grouped(chunks: list[str]) -> list[str]:
    """Joins digits between commas where the commas group thousands: as many as can be, from the left.

    A number is at most three digits, then chunks of two or three, of which the last has three.
    """
    ends, end = [0] * len(chunks), 0  # By chunk: where a number that goes on there ends, or 0.
    for place in range(len(chunks) - 1, 0, -1):
        size = len(chunks[place])
        end = 0 if size not in (2, 3) else end or (place if size == 3 else 0)
        ends[place] = end
    texts, place = [], 0
    while place < len(chunks):
        end = ends[place + 1] if place + 1 < len(chunks) and len(chunks[place]) <= 3 else 0
        last = end or place
        texts.append("".join(chunks[place : last + 1]))
        place = last + 1
    return texts


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
