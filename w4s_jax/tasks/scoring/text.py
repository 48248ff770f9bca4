"""Right or wrong, or partly right, by the words of a text.

workflow's answer, gold text → **Grade** → ItemOutcome

Source: SQuAD (arXiv 1606.05250) for the normal form and the F1 of tokens. Departure: a
gold text of articles and punctuation alone, which no answer could meet, is met by itself.
An answer may be anything that a hostile workflow returns; no answer raises.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

from w4s_jax.types import Grade, Item, Sandbox

_LONGEST_EXACT = 10_000
"""Characters beyond which a text is not compared."""
_LONGEST_F1 = 100_000
"""Characters beyond which no tokens are counted."""

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLE = re.compile(r"\b(?:a|an|the)\b")


class TextSymptom(enum.StrEnum):
    """The closed set of what the parent can see of a wrong text, letter or formula."""

    EMPTY = "empty"
    """None, or a text of white space."""
    TOO_LONG = "too long"
    """More text than is compared."""
    NO_LETTER = "no letter"
    """States none of the letters there are."""
    NO_NUMBER = "no number"
    """Not a number where the gold answer is one."""
    OTHER_LENGTH = "other length"
    """A list of more or fewer elements than the gold one."""
    UNREADABLE = "unreadable"
    """A formula that could not be read, or not within the limits."""
    PARTIAL = "partial"
    """Shares some words with the gold answer."""
    DIFFERENT = "different"
    """Something else than the gold answer."""


def wrong(symptom: TextSymptom) -> Grade:
    """A grade of 0."""
    return Grade(0.0, symptom.value)


def as_text(value: Any) -> str:
    """A scalar as Python writes it; anything else is empty. Never raises."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and value.bit_length() > 10_000:  # Python refuses to write out longer integers.
        return hex(value)
    return str(value) if isinstance(value, int | float) else ""


# --- equal texts ------------------------------------------------------------


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
        text = as_text(answer)
        if not text.strip():
            return wrong(TextSymptom.EMPTY)
        if len(text) > _LONGEST_EXACT:
            return wrong(TextSymptom.TOO_LONG)
        right = self.normalised(text) == self.normalised(as_text(item.target))
        return Grade(1.0) if right else wrong(TextSymptom.DIFFERENT)


# --- F1 of tokens -----------------------------------------------------------


def squad_tokens(text: str) -> list[str]:
    """Lower case, without ASCII punctuation and articles, split at white space.

    Example:
        >>> squad_tokens("The well-known U.S. poet,  a man")
        ['wellknown', 'us', 'poet', 'man']
    """
    return ARTICLE.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def squad_f1(answer: str, gold: str) -> float:
    """F1 of two texts' token multisets: 2 · shared / (tokens of both); exactly 1.0 where they agree.

    Example:
        >>> squad_f1("Barack Obama", "the president Barack Obama")
        0.8
    """
    given, wanted = squad_tokens(answer), squad_tokens(gold)
    if not wanted:
        return float(answer.strip().lower() == gold.strip().lower())
    return 2 * (Counter(given) & Counter(wanted)).total() / (len(given) + len(wanted))


@dataclasses.dataclass(frozen=True, kw_only=True)
class F1Grader:
    """F1 of tokens for a task of one's own; `item.target` is an accepted text, or a list of them."""

    rule = "F1 of tokens, SQuAD-normalised; the best over the accepted answers"

    async def __call__(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Grades in [0, 1]; numbers are read as text, whole ones without a fraction."""
        del sandbox
        accepted = item.target if isinstance(item.target, list | tuple) else [item.target]
        return graded(answer, lambda text: max((squad_f1(text, as_words(gold)) for gold in accepted), default=0.0))


def graded(answer: Any, score: Callable[[str], float]) -> Grade:
    """Grades an answer's text, once it is known to be a text that can be read."""
    text = as_words(answer)
    if not text.strip():
        return wrong(TextSymptom.EMPTY)
    if len(text) > _LONGEST_F1:
        return wrong(TextSymptom.TOO_LONG)
    value = score(text)
    if value == 1.0:
        return Grade(1.0)
    return Grade(value, (TextSymptom.PARTIAL if value else TextSymptom.DIFFERENT).value)


def as_words(value: Any) -> str:
    """As text, where 18.0 is 18: without its point it would read 180."""
    return as_text(int(value) if isinstance(value, float) and value.is_integer() else value)
