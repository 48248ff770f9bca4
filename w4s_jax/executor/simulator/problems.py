"""A problem as the simulated executor knows it: gold answer, errors it may make, what each would give.

Item → **Problem** → Outcome of a sample → reply

Toy items bring their errors in `metadata`; for any other item they are derived from
its text and gold answer, so that the same simulator backs real data sets.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import re
from collections.abc import Mapping
from typing import Any

from w4s_jax.executor.simulator.answers import AnswerForm, Gold, form_of, numbers_given, wrong_answers
from w4s_jax.executor.simulator.model import (
    ANSWER_KINDS,
    PER_SAMPLE,
    ErrorKind,
    SampleId,
    uniform,
)
from w4s_jax.executor.simulator.reading import squeeze
from w4s_jax.types import InputError, Item

_UNIT = re.compile(
    r"\b(?:hours?|minutes?|seconds?|kilo\w+|grams?|met(?:er|re)s?|dozen|feet|inch(?:es)?|percent|weeks?)\b"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """What the simulator knows of one item."""

    item_id: str
    question: str
    """White space squeezed."""
    answer: str
    """Gold answer as text; the gold program of a code item."""
    form: AnswerForm = AnswerForm.NUMBER
    """How a reply writes the answer; that of a code item is a program."""
    program: str
    """Python that computes the answer, or is it."""
    is_code: bool
    noun: str
    """What the answer counts."""
    profile: Mapping[ErrorKind, float]
    """Base probabilities; only kinds that have a wrong answer."""
    wrong: Mapping[ErrorKind, tuple[str, ...]]
    """Wrong answers; several where samples may differ."""
    wrong_programs: Mapping[ErrorKind, str]
    """Programs that make the error; a calculation error has none."""

    @functools.cached_property
    def luck(self) -> dict[str, float]:
        """The draws that are fixed for the item."""
        fixed = [kind.value for kind in ErrorKind if kind not in PER_SAMPLE]
        return {what: uniform(self.item_id, what) for what in (*fixed, "break", "shape")}

    @functools.cached_property
    def working(self) -> str:
        """The steps of the program in words, without a number."""
        steps = re.findall(r"^    (\w+) = (.*[a-z_]{3}.*)$", self.program, re.MULTILINE)
        shown = [f"{name} is {re.sub('[0-9]+', 'so many', what)}" for name, what in steps if not self.is_code]
        return ("; ".join(shown).replace("_", " ") + ".") if shown else "Working through what is told, in order."

    def strikes(self, kind: ErrorKind, rate: float, sample: SampleId) -> bool:
        """Whether an error of this rate happens in this sample."""
        if kind in PER_SAMPLE:
            return uniform(self.item_id, kind.value, sample) < rate
        return self.luck[kind.value] < rate


def gold_of(item: Item) -> Gold | None:
    """The gold answer of an item; None where it is not known.

    It is `metadata["program"]` for a function to write; else `metadata["answer"]`, else the
    target where that is a number, a text, or a list of texts that are all right.
    """
    if item.entry_point is not None:
        gold = item.metadata.get("program")
    else:
        gold = item.metadata.get("answer", item.target)
        if isinstance(gold, list | tuple) and gold:
            gold = gold[0]
    return gold if isinstance(gold, str | int | float) and str(gold).strip() else None


def problem_from_item(item: Item) -> Problem:
    """Returns the problem of a toy item, or derives one for an item of a real data set.

    Raises:
        InputError: Its gold answer is not known.

    Example:
        >>> problem = problem_from_item(Item(id="x/1", question="What is 123456 * 2?", target=246912))
        >>> problem.answer, problem.profile[ErrorKind.CALCULATION] > 0.3
        ('246912', True)
    """
    facts = item.metadata
    if "profile" in facts and "wrong_programs" in facts:
        return _from_facts(item, facts)
    gold, rng = gold_of(item), random.Random(item.id)
    if gold is None:
        raise InputError(f"item {item.id!r} has no known gold answer; give it metadata['answer'] or ['program']")
    if item.entry_point is not None:
        return _derived_code(item, str(gold), rng)
    return _derived_text(item, gold, rng)


def _from_facts(item: Item, facts: Mapping[str, Any]) -> Problem:
    wrong = {ErrorKind(kind): tuple(texts) for kind, texts in facts["wrong"].items()}
    programs = {ErrorKind(kind): text for kind, text in facts["wrong_programs"].items()}
    profile = {ErrorKind(kind): p for kind, p in facts["profile"].items()}
    return Problem(
        item_id=item.id,
        question=squeeze(item.question),
        answer=facts["answer"],
        program=facts["program"],
        is_code=item.entry_point is not None,
        noun=facts["noun"],
        profile={kind: profile[kind] for kind in ErrorKind if kind in profile},
        wrong=wrong,
        wrong_programs=programs,
    )


def _derived_text(item: Item, gold: Gold, rng: random.Random) -> Problem:
    """A problem whose gold answer is a number, a letter, a formula or a short text."""
    answer = str(gold).strip()
    num_choices = int(item.metadata.get("num_choices") or 0)
    wrong = wrong_answers(gold, item.question, rng, num_choices=num_choices, accepted=_texts_in(item.target))
    program = str(item.metadata.get("program", "")) or _literal_program(answer, rng)
    profile = _text_profile(item.question, numbers_given(item.question, answer))
    return Problem(
        item_id=item.id,
        question=squeeze(item.question),
        answer=answer,
        form=form_of(gold, num_choices),
        program=program,
        is_code=False,
        noun="",
        profile={k: p for k, p in profile.items() if k in wrong or k is ErrorKind.FORM},
        wrong=wrong,
        wrong_programs={
            kind: _literal_program(texts[0], rng) for kind, texts in wrong.items() if kind is not ErrorKind.CALCULATION
        },
    )


def _texts_in(target: Any) -> tuple[str, ...]:
    """Every text of a target that lists what is right."""
    if isinstance(target, str):
        return (target,)
    return tuple(text for part in target for text in _texts_in(part)) if isinstance(target, list | tuple) else ()


def _text_profile(question: str, given: list[str]) -> dict[ErrorKind, float]:
    """Huge numbers make calculation errors, long questions planning and reading errors."""
    words = len(question.split())
    huge = any(float(v.replace(",", "")) > 1e5 for v in given)
    return {
        ErrorKind.READING: min(0.35, 0.08 + words / 800),
        ErrorKind.PLANNING: min(0.40, 0.14 + words / 400),
        ErrorKind.UNITS: 0.15 if _UNIT.search(question) else 0.0,
        ErrorKind.CALCULATION: 0.50 if huge else 0.10,
        ErrorKind.SLIP: 0.15,
        ErrorKind.FORM: 0.20,
    }


def _literal_program(answer: str, rng: random.Random) -> str:
    """A program that gives an answer without spelling it where it is a whole number."""
    if not re.fullmatch(r"-?\d{1,40}", answer):
        return f"def solution():\n    return {answer!r}"
    part = rng.randint(2, 99)
    return f"def solution():\n    first = {int(answer) - part}\n    second = {part}\n    return first + second"


_MUTATIONS = (
    ("<=", "<"),
    (">=", ">"),
    (" < ", " <= "),
    (" > ", " >= "),
    ("+ 1", "+ 2"),
    ("- 1", "- 2"),
    ("[0]", "[-1]"),
    ("return ", "return not "),
)
_DEF = re.compile(r"^(\s*def .*):\s*$", re.MULTILINE)


def _derived_code(item: Item, program: str, rng: random.Random) -> Problem:
    """A problem whose answer is a function."""
    start = max(program.find(":\n"), program.rfind('"""')) + 1
    fitting = [(old, new) for old, new in _MUTATIONS if old in program[start:]]
    old, new = rng.choice(fitting) if fitting else ("", "")
    wrong = {
        ErrorKind.PLANNING: f"def {item.entry_point}(*args, **kwargs):\n    return None",
        ErrorKind.EDGE: program[:start] + program[start:].replace(old, new, 1),
        ErrorKind.SLIP: _DEF.sub(r"\1", program, count=1),
    }
    words = len(item.question.split())
    return Problem(
        item_id=item.id,
        question=squeeze(item.question),
        answer=program,
        program=program,
        is_code=True,
        noun="",
        profile={
            ErrorKind.PLANNING: min(0.45, 0.15 + words / 400),
            ErrorKind.EDGE: 0.30,
            ErrorKind.SLIP: 0.12,
            ErrorKind.FORM: 0.06,
        },
        wrong={},
        wrong_programs={kind: text for kind, text in wrong.items() if text != program},
    )


def first_error(problem: Problem, struck: frozenset[ErrorKind], in_program: bool) -> ErrorKind | None:
    """The error that decides the answer: the first that struck and that such a reply can show."""
    shown = problem.wrong_programs if in_program else problem.wrong
    return next((kind for kind in ANSWER_KINDS if kind in struck and kind in shown), None)
