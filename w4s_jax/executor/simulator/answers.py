"""Forms of gold answers, and the wrong answers of the same form.

gold answer, question → **form_of** → **wrong_answers** → Problem

A number is missed by another one of the question or by arithmetic, a choice by
another letter, a formula by a digit or a sign, a short text by other words of the
question. No wrong answer is one that the item accepts, but for a gold answer that is
a float: see `wrong_answers`.
"""

from __future__ import annotations

import enum
import math
import random
import re
import string
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from w4s_jax.executor.simulator.model import ErrorKind
from w4s_jax.executor.simulator.reading import read_around, squeeze

Gold = str | int | float
Wrong = dict[ErrorKind, tuple[str, ...]]


class AnswerForm(enum.StrEnum):
    """What a gold answer looks like; decides how a reply writes it."""

    NUMBER = "number"
    LETTER = "letter"
    """Of a choice."""
    FORMULA = "formula"
    """LaTeX, or signs without a word: a fraction, a pair, an expression."""
    WORDS = "words"


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
"""A number as questions have it."""
_GROUPED = re.compile(r"\s*[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?\s*")
_WORD = re.compile(r"[^\W\d_]{2,}")
_SIGNS = re.compile(r"[-0-9+*/^=(){}\[\]<>|:%$]")
_DIGITS = re.compile(r"[0-9]{1,40}")
_IN_TEXT = re.compile(r"(\\(?:text|textbf|textit|mathrm|mbox)\{)([^{}]*)\}|(\()([A-Z])\)")
_UNBOUNDED = re.compile(r"\\(?:infty|emptyset|varnothing)")
_NAME = re.compile(r"[^\W\d_a-z][\w'’-]+(?: [^\W\d_a-z][\w'’-]+){0,2}")
_LONG_WORD = re.compile(r"[^\W\d_]{4,}")
_NO_NAMES = frozenset(
    "after all also and answer are as at both but by can context did do does during for from given had has he her his "
    "how if in is it its of on one or passage question she that the their there these they this title to was were "
    "what when where which while who whom whose why with".split()
)
_OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true", "odd": "even", "even": "odd"}
_LETTERS = 4
"""Choices where an item does not say how many there are."""
_TRIED = 24
"""Words of the question that are looked at, at most."""


def as_number(gold: Any) -> float | int | None:
    """The number that a gold answer is; None where it is none. A comma only groups thousands."""
    if isinstance(gold, bool):
        return None
    if isinstance(gold, int):
        return gold
    text = str(gold)
    if "," in text and not _GROUPED.fullmatch(text):
        return None
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value


def form_of(gold: Gold, num_choices: int = 0) -> AnswerForm:
    r"""The form of a gold answer.

    Args:
        gold: The answer.
        num_choices: Of the question; 0 where it is not known, and a lone capital is a choice all the same.

    Example:
        >>> [form_of(gold).value for gold in ("1,000", "C", r"\frac{1}{2}", "(3,4)", "Buenos Aires")]
        ['number', 'letter', 'formula', 'formula', 'words']
    """
    if as_number(gold) is not None:
        return AnswerForm.NUMBER
    text = str(gold).strip()
    if len(text) == 1 and text in string.ascii_letters and (num_choices or text.isupper()):
        return AnswerForm.LETTER
    return AnswerForm.FORMULA if _is_formula(text) else AnswerForm.WORDS


def _is_formula(text: str) -> bool:
    """Whether a text is LaTeX, an equation, a lone variable, or signs and numbers without a word."""
    if "\\" in text or not text.isascii():
        return "\\" in text
    signs = _SIGNS.search(text) is not None and not _WORD.search(text)
    return signs or re.search(r"[=^]", text) is not None or (len(text) == 1 and text.isalpha())


def wrong_answers(
    gold: Gold, question: str, rng: random.Random, *, num_choices: int = 0, accepted: Collection[str] = ()
) -> Wrong:
    """Wrong answers by kind of error, in the form of the gold one.

    Those of a float are as they were first drawn, so that recorded replies to GSM8K, GSM-Hard and MGSM stay
    what they are: one may equal the gold answer (`18` among the question's numbers where it is 18.0), and a
    slip may lie within a relative tolerance of it.

    Args:
        gold: The answer.
        question: Which numbers and words are taken from.
        rng: Of the item.
        num_choices: See `form_of`.
        accepted: Further right answers, none of which may be given as a wrong one.
    """
    form, text, number = form_of(gold, num_choices), str(gold).strip(), as_number(gold)
    if number is not None:
        wrong = _wrong_numbers(number, numbers_given(question, str(gold)), rng)
        if isinstance(gold, float):
            return wrong
    elif form is AnswerForm.LETTER:
        wrong = _wrong_letters(text, num_choices, rng)
    else:
        near = _near_formulas(text, question, rng) if form is AnswerForm.FORMULA else ()
        wrong = _in_turn(near, rng, calculated=True) if near else _wrong_words(text, question, rng, accepted)
    return _without(wrong, {_plain(right) for right in (text, *accepted)})


def _plain(text: str) -> str:
    """Equal for texts that a grader may take for the same."""
    number = as_number(text)
    return str(number) if number is not None else "".join(text.casefold().split())


def _without(wrong: Mapping[ErrorKind, tuple[str, ...]], right: Collection[str]) -> Wrong:
    """The wrong answers that are not right; a kind that has none left is gone."""
    kept = {kind: tuple(text for text in texts if _plain(text) not in right) for kind, texts in wrong.items()}
    return {kind: texts for kind, texts in kept.items() if texts}


def _in_turn(texts: Iterable[str], rng: random.Random, *, calculated: bool = False) -> Wrong:
    """Deals texts to the kinds of error; those of a slip differ between samples."""
    dealt = list(dict.fromkeys(texts))
    rng.shuffle(dealt)
    kinds = [ErrorKind.READING, ErrorKind.PLANNING, *([ErrorKind.CALCULATION] if calculated else [])]
    by_kind = {kind: (dealt[i % len(dealt)],) for i, kind in enumerate(kinds)}
    return {**by_kind, ErrorKind.SLIP: tuple(dealt[-2:])}


# --- numbers ----------------------------------------------------------------


def numbers_given(question: str, answer: str) -> list[str]:
    """Numbers of a question that are not spelt as the answer is."""
    return [v for v in NUMBER.findall(question) if v.rstrip(".") != answer]


def _wrong_numbers(number: float | int, given: list[str], rng: random.Random) -> Wrong:
    other = rng.choice(given).replace(",", "") if given else str(number + 7)
    return {
        ErrorKind.READING: (other,),
        ErrorKind.PLANNING: (str(number - rng.randint(2, 9) if abs(number) < 50 else round(number * 0.6, 2)),),
        ErrorKind.UNITS: (str(number * rng.choice((12, 60, 100, 1000))),),
        ErrorKind.CALCULATION: (str(number + rng.choice((-1, 1)) * 10 ** max(0, len(str(int(abs(number)))) - 2)),),
        ErrorKind.SLIP: (str(number + 1), str(number - 1)),
    }


# --- letters and formulas ---------------------------------------------------


def _wrong_letters(letter: str, num_choices: int, rng: random.Random) -> Wrong:
    """Other letters of the choice; a slip may be any of them."""
    alphabet = string.ascii_uppercase if letter.isupper() else string.ascii_lowercase
    others = [other for other in alphabet[: max(2, num_choices or _LETTERS)] if other != letter]
    return {
        ErrorKind.READING: (rng.choice(others),),
        ErrorKind.PLANNING: (rng.choice(others),),
        ErrorKind.SLIP: tuple(others),
    }


def _near_formulas(formula: str, question: str, rng: random.Random) -> tuple[str, ...]:
    """Formulas that differ from one in a number, a sign, or the word that it holds."""
    found = list(_DIGITS.finditer(formula))
    if found:
        return tuple(
            f"{formula[: match.start()]}{str(value).zfill(len(match[0]))}{formula[match.end() :]}"
            for match in found
            for value in (int(match[0]) + 1, int(match[0]) + 2, int(match[0]) - 1)
            if value > 1
        )
    if inner := _IN_TEXT.fullmatch(formula):
        start, word = inner[1] or inner[3], inner[2] or inner[4]
        close = "}" if inner[1] else ")"
        return tuple(f"{start}{other}{close}" for other in _other_words(word, question, rng))
    if _UNBOUNDED.search(formula):
        return "0", "1"
    return formula[1:] if formula.startswith("-") else f"-{formula}", f"2{formula.lstrip('-')}", f"{formula}+1"


def _other_words(word: str, question: str, rng: random.Random) -> Iterator[str]:
    """What may stand in the place of a word within a formula: `(C)` and `Friday` alike."""
    if lone := re.fullmatch(r"(\(?)([A-Z])(\)?)", word):
        others = (other for other in string.ascii_uppercase[:5] if other != lone[2])
        yield from (f"{lone[1]}{other}{lone[3]}" for other in others)
    else:
        for texts in _wrong_words(word, question, rng, ()).values():
            yield from texts


# --- words ------------------------------------------------------------------


def _wrong_words(text: str, question: str, rng: random.Random, accepted: Collection[str]) -> Wrong:
    """The opposite of yes; else names or words of the question; a text with a number may have another number."""
    opposite = _OPPOSITES.get(text.casefold())
    if opposite:
        return _in_turn([opposite.capitalize() if text[0].isupper() else opposite], rng)
    wrong = _in_turn(_words_of_question(text, question, rng, accepted), rng)
    if match := _DIGITS.search(text):
        changed = [str(int(match[0]) + step).zfill(len(match[0])) for step in (1, 2, 3)]
        near = [text[: match.start()] + number + text[match.end() :] for number in changed]
        wrong |= {ErrorKind.PLANNING: (near[2],), ErrorKind.SLIP: (near[0], near[1])}
    return wrong


def _words_of_question(text: str, question: str, rng: random.Random, accepted: Collection[str]) -> list[str]:
    """Some texts of the question that share no word with a right answer; names where the answer is one."""
    taken = {word for right in (text, *accepted) for word in re.findall(r"\w+", right.casefold())}
    for pattern in (_NAME, _LONG_WORD) if text[:1].isupper() else (_LONG_WORD,):
        known = list(dict.fromkeys(pattern.findall(question)))
        some = rng.sample(known, k=min(_TRIED, len(known)))
        fitting = [words for words in some if _fits(words, taken)]
        if fitting:
            return fitting[:4]
    return ["unknown"] if "unknown" not in taken else ["nothing"]


def _fits(words: str, taken: Collection[str]) -> bool:
    """Whether words are about something, hold none of those taken, and read as no instruction."""
    said = re.findall(r"\w+", words.casefold())
    if said[0] in _NO_NAMES or any(word in taken for word in said):
        return False
    features, _ = read_around(squeeze(words), True, False)
    return not features.present and not features.junk
