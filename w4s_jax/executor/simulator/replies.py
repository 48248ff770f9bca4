"""Spells an outcome as the text a chat model would send.

(Problem, errors that struck, Features) → **reply_text** → choice

Unless the request asks for a marked or bare answer, the number stands in a sentence,
and a form error lets another number follow it: extraction is the workflow's work.
Letters, formulas and short texts have sentences and form errors of their own.
Samples differ in their wording, so texts that nobody extracted do not match. The
words here avoid the phrases that `reading.py` takes for instructions.
"""

from __future__ import annotations

import json
import re

from w4s_jax.executor.simulator.answers import AnswerForm
from w4s_jax.executor.simulator.model import ErrorKind, Feature, SampleId, uniform
from w4s_jax.executor.simulator.problems import Problem, first_error
from w4s_jax.executor.simulator.reading import Features

NO_QUESTION = "There is nothing to solve in this message: I see no question that I know."

_OPENINGS = (
    "Here is how it goes.",
    "Going through it:",
    "Sure.",
    "Let us see.",
    "This is what follows from the text.",
    "All right.",
    "Well, in short:",
)
_LINKS = ("So the total is", "This makes", "That comes to", "Hence it is", "In the end there are", "The result is")
_TEXT_LINKS = ("So the answer is", "Hence the answer is", "This leads to", "That leaves", "What follows is")
_ANSWER_KEY = re.compile(r"answer|result|value|number|output|final", re.IGNORECASE)
_CODE_KEY = re.compile(r"code|program|function|python|solution", re.IGNORECASE)


def reply_text(problem: Problem, struck: frozenset[ErrorKind], features: Features, sample: SampleId) -> str:
    """Spells one choice.

    Args:
        problem: That was asked.
        struck: Kinds of error that struck this sample.
        features: Of the request.
        sample: Which one, for the wording and for slips that differ.
    """
    in_code = problem.is_code or Feature.CODE in features.present
    misformed = ErrorKind.FORM in struck
    if features.keys:
        return _json(problem, struck, features, sample, misformed)
    if in_code:
        return _fenced(_program(problem, struck), features, misformed, _pick(_OPENINGS, problem, sample))
    return _prose(problem, _value(problem, struck, sample), features, misformed, sample)


def no_question(features: Features) -> str:
    """The reply to a request without a known question."""
    if features.keys:
        return json.dumps({key: "" if _ANSWER_KEY.search(key) else NO_QUESTION for key in features.keys})
    return NO_QUESTION


def _value(problem: Problem, struck: frozenset[ErrorKind], sample: SampleId) -> str:
    kind = first_error(problem, struck, in_program=False)
    if kind is None:
        return problem.answer
    texts = problem.wrong[kind]
    return texts[int(uniform(problem.item_id, "which", sample) * len(texts))] if len(texts) > 1 else texts[0]


def _program(problem: Problem, struck: frozenset[ErrorKind]) -> str:
    kind = first_error(problem, struck, in_program=True)
    return problem.program if kind is None else problem.wrong_programs[kind]


def _pick(words: tuple[str, ...], problem: Problem, sample: SampleId) -> str:
    return words[int(uniform(problem.item_id, "words", sample) * len(words))]


def _prose(problem: Problem, value: str, features: Features, misformed: bool, sample: SampleId) -> str:
    if problem.form is not AnswerForm.NUMBER:
        return _text_prose(problem, value, features, misformed, sample)
    said = f"{grouped(value)} {problem.noun}".strip()
    tail = _other_number(problem, value)
    if Feature.ANSWER_ONLY in features.present:
        return f"{said}, from {tail} numbers" if misformed else value
    text = _opening(problem, features, sample)
    if features.boxed:
        return f"{text}\n\\boxed{{{said}, {tail} steps}}" if misformed else f"{text}\n\\boxed{{{value}}}"
    if Feature.ENDING in features.present:
        return f"{text}\nAnswer: {said} (after {tail} steps)" if misformed else f"{text}\nAnswer: {value}"
    text = f"{text} {_pick(_LINKS, problem, sample)} {said}."
    return f"{text} That took {tail} steps." if misformed else text


def _opening(problem: Problem, features: Features, sample: SampleId) -> str:
    """What comes before the answer, with the working where it is asked for."""
    working = problem.working if features.present & {Feature.STEPS, Feature.PLAN, Feature.CRITIQUE} else ""
    return " ".join(part for part in (_pick(_OPENINGS, problem, sample), working) if part)


def _text_prose(problem: Problem, value: str, features: Features, misformed: bool, sample: SampleId) -> str:
    """The answer as a letter, a formula or a short text; see `_prose`."""
    misleading = _misleading(problem, value) if misformed else ""
    if Feature.ANSWER_ONLY in features.present:
        return misleading or value
    text = _opening(problem, features, sample)
    if features.boxed:
        return f"{text}\n\\boxed{{{misleading or value}}}"
    if Feature.ENDING in features.present:
        return f"{text}\nAnswer: {misleading or _unlike_a_request(value)}"
    if problem.form is AnswerForm.LETTER:
        other = _other_letter(problem, value)
        if misformed and other:
            return f"{text} What fits most is ({value}), before ({other})."
        return f"{text} {_pick(_TEXT_LINKS, problem, sample)} ({value})."
    said = f"${value}$" if "\\" in value or "^" in value else _unlike_a_request(value)
    text = f"{text} {_pick(_TEXT_LINKS, problem, sample)} {said}."
    return f"{text} That took {_other_number(problem, value)} steps." if misformed else text


def _unlike_a_request(value: str) -> str:
    """A pair or an interval in dollar signs: behind "Answer:" a bracket would read as a request for a form."""
    return f"${value}$" if value[0] in "<[{(" else value


def _misleading(problem: Problem, value: str) -> str:
    """A text that holds the answer, and behind it what a reader may take for one."""
    if problem.form is not AnswerForm.LETTER:
        return f"{_unlike_a_request(value)} (after {_other_number(problem, value)} steps)"
    other = _other_letter(problem, value)
    return f"rather {value} than {other}" if other else value


def _other_letter(problem: Problem, value: str) -> str:
    """Another wrong letter of the choice; empty where there is none."""
    others = [letter for letter in problem.wrong.get(ErrorKind.SLIP, ()) if letter != value]
    return others[int(problem.luck["shape"] * len(others))] if others else ""


def grouped(value: str) -> str:
    """A whole number with its thousands grouped, as prose has it; any other text as it is."""
    return f"{int(value):,}" if re.fullmatch(r"-?\d{1,40}", value) else value


def _other_number(problem: Problem, value: str) -> int:
    """A small number that is not the answer."""
    number = 2 + int(problem.luck["shape"] * 6)
    return number + 7 if str(number) in (value, problem.answer) else number


def _fenced(program: str, features: Features, misformed: bool, opening: str) -> str:
    if misformed:
        return f"{opening} The code is as follows {program}\nand this is all of it."
    if Feature.ANSWER_ONLY in features.present:
        return f"```python\n{program}\n```"
    return f"{opening}\n```python\n{program}\n```"


def _json(problem: Problem, struck: frozenset[ErrorKind], features: Features, sample: SampleId, misformed: bool) -> str:
    """One object with the keys asked for; a form error breaks the object or wordily answers."""
    broken = misformed and problem.luck["shape"] < 0.5
    fields = {key: _field(key, problem, struck, features, sample, misformed) for key in features.keys}
    text = json.dumps(fields, ensure_ascii=False)
    return text[: -max(2, len(text) // 10)] if broken else text


def _field(
    key: str, problem: Problem, struck: frozenset[ErrorKind], features: Features, sample: SampleId, misformed: bool
) -> str:
    if _CODE_KEY.search(key) and (problem.is_code or Feature.CODE in features.present):
        return _program(problem, struck)
    if not _ANSWER_KEY.search(key) and not _CODE_KEY.search(key):
        return f"{_pick(_OPENINGS, problem, sample)} {problem.working}"
    if problem.is_code:
        return _program(problem, struck)
    if Feature.CODE in features.present and not any(_CODE_KEY.search(k) for k in features.keys):
        return _program(problem, struck)
    value = _value(problem, struck, sample)
    if problem.form is not AnswerForm.NUMBER:
        return _misleading(problem, value) if misformed else value
    return f"{grouped(value)} {problem.noun}, from {_other_number(problem, value)} numbers" if misformed else value
