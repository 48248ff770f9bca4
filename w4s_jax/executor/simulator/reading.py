"""Reads a request as an executor would: from its text alone.

messages → **find the question** → text around it → **Features**

The features are found by tolerant phrases, so that a meta-agent's own words count
as well as the sentences of the toy seeds. Text of an earlier reply that a workflow
quotes must not look like an instruction; `replies.py` avoids these phrases.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import re
from collections.abc import Sequence

from w4s_jax.executor.simulator.model import Feature
from w4s_jax.types import Message

_THE = (
    r"(?:the|a|an|one|all|any|every|each|your|its|his|their"
    r"|relevant|needed|given|important|key|final|plain|single|bare)"
)

PHRASES: dict[Feature, str] = {
    Feature.ANSWER_ONLY: (
        rf"\b(?:only|just|nothing but|solely|nothing except)\b(?: (?:give|return|output|reply with|state|write|say))?"
        rf"(?: (?:{_THE}|numeric|numerical))* (?:number|integer|answer|result|value)\b"
        r"|\b(?:no|without)(?: any| an)? (?:explanations?|reasoning|working)\b"
    ),
    Feature.STEPS: (
        r"\bstep[- ]by[- ]step\b|\bthink (?:carefully|it through|aloud|hard|through|about it|first)\b"
        r"|\bshow (?:your|the|all) (?:work|working|reasoning|steps)\b|\bchain[- ]of[- ]thought\b|\blet's think\b"
        r"|\breason (?:through|carefully|first|aloud)\b|\bexplain (?:your|the) (?:reasoning|thinking|steps)\b"
        r"|\bone step at a time\b"
    ),
    Feature.PLAN: (
        rf"\b(?:make|write|outline|devise|draft|form|state|give)(?: {_THE})?(?: \w+)? plan\b"
        r"|\bplan (?:first|your|the|how)\b"
        r"|\boutline (?:the|your) (?:steps|approach|solution)\b|\bdecompose\b|\bsub-?problems?\b"
        r"|\bbreak (?:it|this|the (?:problem|question|task))(?: down)? into\b"
    ),
    Feature.CODE: (
        r"\b(?:write|give|produce|generate|return|create|use|provide|implement)(?: [\w-]+){0,3}"
        r" (?:python|code|program)\b"
        r"|\bpython (?:code|program|function|script)\b|\bfunction (?:named|called) .?solution\b"
    ),
    Feature.FACTS: (
        rf"\b(?:list|extract|write down|note|collect|copy|identify|quote|gather)(?: out| down)?(?: {_THE})*"
        r" (?:facts?|numbers|rows?|data|quantities|values|information|cells|figures|evidence)\b"
    ),
    Feature.UNITS: (
        r"\bconvert(?: \w+){0,4} units?\b|\b(?:same|common|consistent|base|smallest) units?\b"
        r"|\bunit conversions?\b|\b(?:check|watch|mind|track)(?: \w+){0,3} units\b"
    ),
    Feature.INTERPRETATION: (
        r"\bhow you (?:read|interpret|understand)\b|\bambigu(?:ous|ity|ities)\b|\bunclear (?:words?|wording|terms?)\b"
        r"|\b(?:state|say|explain|give|write)(?: \w+){0,2} interpretation\b|\bstated conventions?\b"
        r"|\binterpret(?: \w+){0,3} (?:words?|wording|terms?|phrases?)\b"
    ),
    Feature.EDGES: r"\b(?:edge|corner|boundary|special|extreme)[- ]cases?\b|\bempty (?:lists?|inputs?)\b",
    Feature.CHECK: (
        r"\b(?:double|re|cross)[- ]?check\b|\brecalculate\b|\brecompute\b"
        r"|\b(?:verify|check)(?: \w+){0,3} (?:arithmetic|calculations?|computations?|sums|digits|work)\b"
    ),
    Feature.IGNORE: (
        r"\b(?:ignore|disregard|leave out|filter out|beware of)(?: \w+){0,3}"
        r" (?:irrelevant|unneeded|unnecessary|distracting|unrelated|useless)\b"
        r"|\birrelevant (?:details?|information|numbers?|facts?)\b"
    ),
    Feature.ENDING: (
        r"\bend(?: \w+){0,4} with\b.{0,20}\banswer\b|\banswer: ?[<\[{(]|\b(?:last|final) line\b|\\boxed|####"
        rf"|\b(?:answer|value|result|it) (?:must|should|has to|needs to) be(?: (?:{_THE}|only|just))*"
        r" (?:number|integer|numeral)\b"
        rf"|\bas(?: {_THE})+ number\b|\b(?:numbers?|digits|integers?) only\b"
    ),
    Feature.CRITIQUE: (
        r"\b(?:find|spot|point out|identify|look for|correct|fix)(?: \w+){0,3} (?:mistakes?|errors?|flaws?)\b"
        r"|\breview\b|\bcriti(?:que|ci[sz]e)\b|\bwhat is wrong\b|\breflect\b|\brefine\b|\bimprove (?:it|on|upon|the)\b"
        r"|\b(?:check|verify)(?: \w+){0,2} (?:answer|solution|reply|attempt)\b"
    ),
    Feature.TEST_FEEDBACK: (
        r"\btests? (?:said|say|failed|fails?|results?|feedback|errors?)\b|\bfail(?:ed|s|ing)?(?: \w+){0,3} tests?\b"
        r"|\b(?:not|n't) pass\b"
    ),
}
_PATTERNS = {feature: re.compile(phrase) for feature, phrase in PHRASES.items()}

_JUNK = re.compile(
    r"\bworld-?class\b|\b(?:very|extremely|really|so) important\b|\bpolite(?:ly)?\b|\btake a deep breath\b"
    r"|\byou are (?:an? )?(?:[\w-]+ ){0,4}(?:experts?|genius|professor|mathematician|assistant|programmer|teacher)\b"
    r"|\$ ?\d+ (?:tip|bonus|reward)|\b(?:tip|pay|reward|bribe) you\b|\bmy (?:job|career|life) depends\b"
    r"|\byou can do (?:it|this)\b|\bthank you\b|\bdo your best\b"
)
_PASSED = re.compile(r"\b(?:all|every)(?: \w+){0,2} tests? (?:were )?pass|\bpassed all\b|\btests? passed\b")
_FAILURE = re.compile(r"\bassert|error\b|\bexpected\b|\bgot\b|\bfail", re.IGNORECASE)
_EARLIER = re.compile(
    r"\b(?:answers? so far|(?:earlier|previous|first|last|other|proposed|candidate|draft|old) "
    r"(?:answers?|attempts?|solutions?|repl(?:y|ies)|responses?)|draft|attempt|solution|answers? \d|agent \d)\b"
    r"[^:]{0,30}:"
)
_KEY = r"[\"'`]?\w+[\"'`]?"
_KEYS = re.compile(rf"\bkeys?\b:? ?({_KEY}(?:(?:, and |, ?| and ){_KEY})*) ?[.\n]", re.IGNORECASE)
_SCHEMA_KEY = re.compile(r"[\"'](\w+)[\"'] ?:")
_LONGEST_REMEMBERED = 4_000
"""Characters; longer texts are read anew each time, so that hostile ones cannot fill the memory."""
_REASONING = re.compile(r"reason|think|thought|analysis|explan|steps|working")
_CODE_KEY = re.compile(r"code|program|function|python")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """What a request asks for beside its question."""

    present: frozenset[Feature]
    junk: int
    """Number of sentences that help nothing."""
    keys: tuple[str, ...]
    """JSON keys asked for; empty where a plain text was."""
    boxed: bool = False
    r"""The answer shall stand in `\boxed{…}`."""


def squeeze(text: str) -> str:
    """Makes every run of white space one space."""
    return " ".join(text.split())


class QuestionIndex:
    """Finds known questions in a text: leftmost-longest matches, of which the last one counts.

    A question is looked up by its first characters at the starts of words only, then by
    its place in the sorted list of those that begin so. A search costs some tens of
    microseconds however many are known, and however many of them share a passage.
    """

    _ANCHOR = 24

    def __init__(self) -> None:
        self._anchors: dict[int, dict[str, _Namesakes]] = {}

    def add(self, question: str) -> None:
        """Adds a question whose white space is squeezed."""
        size = min(self._ANCHOR, len(question))
        self._anchors.setdefault(size, {}).setdefault(question[:size], _Namesakes()).add(question)

    def find(self, text: str) -> tuple[str | None, str]:
        """Returns the last known question in a squeezed text, and the text without any of them."""
        found, around, start, position = None, [], 0, 0
        while position < len(text):
            match = self._at(text, position)
            if match:
                found = match
                around.append(text[start:position])
                start = position = position + len(match)
            else:
                space = text.find(" ", position)
                position = len(text) if space < 0 else space + 1
        around.append(text[start:])
        return found, " ".join(around)

    def _at(self, text: str, position: int) -> str | None:
        best = None
        for size, anchors in self._anchors.items():
            namesakes = anchors.get(text[position : position + size])
            match = namesakes.longest_at(text, position) if namesakes else None
            if match and (best is None or len(match) > len(best)):
                best = match
        return best


class _Namesakes:
    """Questions that begin with the same characters, sorted at the first look-up after one was added.

    All questions that a text begins with are beginnings of one another, and of the last one
    that does not sort behind the text. So that one is looked at, then the longest question
    which it begins with itself, and so on: usually one or two of them.
    """

    def __init__(self) -> None:
        self._questions: list[str] = []
        self._beginnings: list[int] = []
        """Place of the longest other question that each begins with; −1 where there is none."""
        self._longest = 0
        self._sorted = True

    def add(self, question: str) -> None:
        self._questions.append(question)
        self._longest = max(self._longest, len(question))
        self._sorted = False

    def longest_at(self, text: str, position: int) -> str | None:
        """The longest question that a text has at a position."""
        if not self._sorted:
            self._sort()
        here = text[position : position + self._longest]
        place = bisect.bisect_right(self._questions, here) - 1
        while place >= 0 and not here.startswith(self._questions[place]):
            place = self._beginnings[place]
        return self._questions[place] if place >= 0 else None

    def _sort(self) -> None:
        self._questions = sorted(set(self._questions))
        self._beginnings = []
        open_ones: list[int] = []
        for place, question in enumerate(self._questions):
            while open_ones and not question.startswith(self._questions[open_ones[-1]]):
                open_ones.pop()
            self._beginnings.append(open_ones[-1] if open_ones else -1)
            open_ones.append(place)
        self._sorted = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """A request as the executor understood it."""

    question: str | None
    """Squeezed text of the known question that was asked; None where there is none."""
    features: Features
    earlier: str
    """Earlier answers that the request shows; empty where none is to be reviewed."""


def read(messages: Sequence[Message], index: QuestionIndex, json_mode: bool) -> Reading:
    """Reads a request.

    Args:
        messages: Of the request; instructions of assistant messages do not count.
        index: The known questions.
        json_mode: Whether the reply has to be JSON.
    """
    asked = "\n".join(m.content for m in messages if m.role != "assistant")
    question, around = index.find(squeeze(asked))
    earlier = " ".join(m.content for m in messages if m.role == "assistant")
    features, quoted = read_around(around, bool(earlier), json_mode)
    return Reading(question=question, features=features, earlier=(earlier + " " + quoted).strip())


def read_around(around: str, has_earlier: bool, json_mode: bool) -> tuple[Features, str]:
    """Finds the features of a squeezed text without its question, and the earlier answer it quotes."""
    read_it = _remembered if len(around) <= _LONGEST_REMEMBERED else _read_around
    return read_it(around, has_earlier, json_mode)


def _read_around(around: str, has_earlier: bool, json_mode: bool) -> tuple[Features, str]:
    text = around.lower()
    present = {feature for feature, pattern in _PATTERNS.items() if pattern.search(text)}
    keys = _read_keys(around, text, json_mode)
    if keys:
        present.add(Feature.KEYS)
    if any(_REASONING.search(key) for key in keys):
        present.add(Feature.STEPS)
    if any(_CODE_KEY.search(key) for key in keys):
        present.add(Feature.CODE)
    if Feature.ANSWER_ONLY in present and present & {Feature.STEPS, Feature.PLAN, Feature.CODE}:
        present.remove(Feature.ANSWER_ONLY)
        present.add(Feature.ENDING)
    if Feature.TEST_FEEDBACK in present and (_PASSED.search(text) or not _FAILURE.search(text)):
        present.remove(Feature.TEST_FEEDBACK)
    quoted = _quoted(around)
    if Feature.CRITIQUE in present and not (has_earlier or quoted):
        present.remove(Feature.CRITIQUE)
    junk = len(_JUNK.findall(text))
    return Features(present=frozenset(present), junk=junk, keys=keys, boxed="\\boxed" in text), quoted


_remembered = functools.lru_cache(maxsize=4096)(_read_around)
"""Workflows put the same words around every question."""


def _quoted(around: str) -> str:
    """Text behind the first mark of an earlier answer, if it holds a number or code."""
    mark = _EARLIER.search(around.lower())
    behind = around[mark.end() :] if mark else ""
    return behind if re.search(r"\d|\bdef ", behind) else ""


def _read_keys(around: str, text: str, json_mode: bool) -> tuple[str, ...]:
    """The JSON keys asked for: by the API's sentence, else quoted ones, else `answer` in JSON mode."""
    if not json_mode and "json" not in text:
        return ()
    named: list[str] = _KEYS.findall(around + "\n")
    if named:
        return tuple(dict.fromkeys(re.findall(r"\w+", re.sub(r"\band\b", " ", named[-1]))))
    return tuple(dict.fromkeys(_SCHEMA_KEY.findall(around))) or (("answer",) if json_mode else ())
