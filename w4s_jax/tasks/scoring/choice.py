r"""Right or wrong by the letter of a choice.

workflow's answer, gold letter → **Grade** → ItemOutcome

Sources: MMLU-Pro (arXiv 2406.01574), whose evaluation reads the first `answer is (X)`,
else the first `Answer: X`, else the last letter that stands alone; GPQA (arXiv
2311.12022), of which simple-evals reads `Answer: X`, the word in any case.

Departures: an answer that is nothing but a letter counts before all rules; a letter that
begins a word is none ("the answer is Carbon"); before the letter, `answer is` and `Answer:`
may have signs, quotes, `\boxed{` and the word `option`; the last rule sees only letters that
there are (the pronoun "I" is none of four), none in `N/A`, none where the answer is refused
and no article before "none of the above"; where no letter is found, none is drawn by chance.
"""

from __future__ import annotations

import dataclasses
import re
import string
from typing import Any

from w4s_jax.tasks.scoring.text import TextSymptom, as_text, wrong
from w4s_jax.types import Grade, Item, Sandbox

_MOST = 10
"""Choices of an item that does not say how many it has."""
_LONGEST_BARE = 30
"""Characters of an answer that is nothing but a letter and what decorates it."""

_DECORATED = r"(?:[\s*_:$(\[{\"'`“”‘’]|\\(?:boxed|text(?:bf)?)(?![A-Za-z])|(?i:option|choice|letter)(?![A-Za-z]))*"
"""What may stand between `answer is` and its letter."""
_NOT_AVAILABLE = re.compile(r"(?<![A-Za-z])[Nn]/[Aa](?![A-Za-z])")
_REFUSAL = re.compile(r"(?i:\b(?:cannot|can not|can['’]t|unable to|not able to) answer\b)")
_NONE = re.compile(r"(?i:\bnone of (?:the|these|them)\b)")
_ARTICLE = re.compile(r"\bA(?= (?!(?:is|and|or|because|as|since)\b)[a-z])")

_PRONOUN = re.compile(r"\bI(?=['’]|\s+(?!(?:is|and|or|because|as|since)\b)[a-z])")

_BARE = re.compile(r"[\W_]*(?:(?:boxed|text)[\W_]+)*([A-Za-z])[\W_]*")


def find_letter(text: str, num_choices: int = _MOST) -> str | None:
    """Returns the capital letter that a text chooses, or None where it chooses none of those there are.

    Args:
        text: The answer.
        num_choices: How many letters are allowed, from A on.

    Example:
        >>> find_letter("c."), find_letter("The answer is (B), not C."), find_letter("E", num_choices=4)
        ('C', 'B', None)
    """
    text = _NOT_AVAILABLE.sub(" ", text)
    letter = _stated(text, string.ascii_uppercase[max(num_choices, _MOST) - 1])
    letters = string.ascii_uppercase[:num_choices]
    if letter is None and not _REFUSAL.search(text):
        text = _PRONOUN.sub(" ", _ARTICLE.sub(" ", text) if _NONE.search(text) else text)
        letter = "".join(re.findall(rf"\b[{letters}]\b", text)[-1:])
    return letter if letter and letter in letters else None


def _stated(text: str, last: str) -> str | None:
    """The letter up to `last` that a text is, or says that the answer is."""
    if len(text.strip()) <= _LONGEST_BARE and (bare := _BARE.fullmatch(text.strip())):
        return bare[1].upper()
    for before in ("answer is", r"(?i:answer)\s*:"):
        if stated := re.search(rf"{before}{_DECORATED}([A-{last}])(?![A-Za-z])", text):
            return stated[1]
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceGrader:
    """Right where the letter is the gold one; `item.metadata["num_choices"]` says how many there are, else ten."""

    rule = (
        "the letter that is all of the answer, else that after `answer is`, else that after `Answer:`, "
        "else the last that stands alone (MMLU-Pro) and is no pronoun; none in N/A and refusals"
    )

    async def __call__(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Grades 1.0 or 0.0; what is no text has no letter."""
        del sandbox
        text = answer if isinstance(answer, str) else ""
        if not text.strip():
            return wrong(TextSymptom.NO_LETTER if as_text(answer).strip() else TextSymptom.EMPTY)
        letter = find_letter(text, item.metadata.get("num_choices", _MOST))
        if letter is None:
            return wrong(TextSymptom.NO_LETTER)
        return Grade(1.0) if letter == item.target.strip().upper() else wrong(TextSymptom.DIFFERENT)
