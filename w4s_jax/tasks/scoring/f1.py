"""Partly right by the words of a text: the rules of HotpotQA and DROP.

workflow's answer, gold texts → **Grade(F1)** → ItemOutcome

Sources: HotpotQA (arXiv 1809.09600) with its yes and no; DROP (arXiv 1903.00161), by
AFlow's rule and by the evaluator's own, which ADAS takes, too.

Departures: the evaluator rounds an F1 to two places, which would make 0.995 right; AFlow
takes the best of the parts of an answer, too, so that a list of guesses passes. Neither
is done here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from w4s_jax.tasks.scoring.assignment import best_sum
from w4s_jax.tasks.scoring.text import ARTICLE, NO_PUNCTUATION, as_words, graded, squad_f1, squad_tokens
from w4s_jax.types import Grade, Item, Sandbox

_MOST_SPANS = 100
"""Spans of an answer that are aligned; further ones count as wrong."""
_CLOSED = frozenset(("yes", "no", "noanswer"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HotpotF1Grader:
    """HotpotQA's F1 of the answer; `item.target` is a text.

    Example:
        >>> HotpotF1Grader().score("no", "yes"), HotpotF1Grader().score("Yes.", "yes")
        (0.0, 1.0)
    """

    rule = "F1 of tokens, SQuAD-normalised; 0 where one side is yes, no or noanswer and the other is not (HotpotQA)"

    def score(self, answer: str, gold: str) -> float:
        """The rule itself."""
        given, wanted = (" ".join(squad_tokens(text)) for text in (answer, gold))
        return 0.0 if given != wanted and not _CLOSED.isdisjoint((given, wanted)) else squad_f1(answer, gold)

    async def __call__(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Grades in [0, 1]; numbers are read as text, whole ones without a fraction."""
        del sandbox
        return graded(answer, lambda text: self.score(text, as_words(item.target)))


# --- DROP -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropGrader:
    """DROP's F1; `item.target` is a list of references, each a list of spans.

    An answer of several spans separates them by `|` or by lines; any other answer is one span.
    """

    bags: bool = False
    """Aligned bags of tokens (DROP's evaluator, ADAS) in place of one bag for the whole answer (AFlow)."""

    @property
    def rule(self) -> str:
        """The rule in one line."""
        how = (
            "mean F1 of sets of tokens over spans aligned one to one, 0 for a pair without the gold numbers, "
            "DROP-normalised, not rounded (DROP's evaluator, ADAS)"
            if self.bags
            else "F1 of tokens, SQuAD-normalised, spans joined (AFlow)"
        )
        return f"{how}; the answer's spans are separated by | or lines; the best over the references"

    def score(self, answer: str, references: Sequence[Sequence[str]]) -> float:
        """The rule itself: the best over the references."""
        spans = [span for span in re.split(r"[|\n]", answer) if span.strip()]
        if self.bags:
            given = [drop_tokens(span) for span in spans[:_MOST_SPANS]]
            return max((drop_f1(given, len(spans), reference) for reference in references), default=0.0)
        joined = " ".join(spans)
        return max((squad_f1(joined, " ".join(reference)) for reference in references), default=0.0)

    async def __call__(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Grades in [0, 1]; numbers are read as text, whole ones without a fraction."""
        del sandbox
        return graded(answer, lambda text: self.score(text, item.target))


def drop_tokens(span: str) -> frozenset[str]:
    """DROP's bag of a span: split at spaces and hyphens, lower case, numbers as floats, else without punctuation.

    Example:
        >>> sorted(drop_tokens("The 1,000-yard runs"))
        ['1000.0', 'runs', 'yard']
    """
    return frozenset(part for token in re.split("[ -]", span.lower()) for part in _drop_token(token).split())


def _drop_token(token: str) -> str:
    if not _is_number(token):
        token = token.translate(NO_PUNCTUATION)
    return str(float(token)) if _is_number(token) else ARTICLE.sub(" ", token)


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def drop_f1(given: Sequence[frozenset[str]], count: int, reference: Sequence[str]) -> float:
    """Mean F1 of the best one-to-one pairs of spans, over the longer list; exactly 1.0 where all bags agree.

    Args:
        given: Bags of the answer's spans that are aligned.
        count: Of all its spans.
        reference: Spans of the gold answer.

    Example:
        >>> drop_f1([drop_tokens("Bears")], 1, ["Bears", "Lions"])
        0.5
    """
    wanted = [drop_tokens(span) for span in reference]
    best = best_sum([[_bag_f1(bag, gold) for bag in given] for gold in wanted])
    return best / max(count, len(wanted), 1)


def _bag_f1(bag: frozenset[str], gold: frozenset[str]) -> float:
    numbers = {token for token in gold if _is_number(token)}
    if numbers and bag.isdisjoint(numbers):
        return 0.0
    return 2 * len(bag & gold) / (len(bag) + len(gold)) if bag or gold else 1.0
