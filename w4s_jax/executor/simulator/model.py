"""The response model: which errors an executor makes, given a problem and what it was asked.

(problem's profile, Features of the request) → **rates** → draws → Outcome → reply

A problem has a base probability for each kind of error. Each feature of the request
multiplies some of them by the factors of `MULTIPLIERS`; that table, and the few
numbers of `ResponseModel`, are the whole model. All randomness is a hash of (item,
kind of error), for the per-sample kinds of (item, kind, repetition, sample): equal
requests tie exactly, and different requests see the same luck, so a request with a
lower rate errs on a subset of the items. The numbers are made up to be learnable
and are fitted to no real model; docs/simulator.md prints the table.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import types
from collections.abc import Collection, Mapping
from typing import NamedTuple


class ErrorKind(enum.StrEnum):
    """Kinds of error; where several strike, the first in this order decides the wrong answer."""

    READING = "reading"
    PLANNING = "planning"
    UNITS = "units"
    AMBIGUITY = "ambiguity"
    EDGE = "edge"
    CALCULATION = "calculation"
    SLIP = "slip"
    FORM = "form"
    """Not an answer's error: the text around it misleads who extracts it."""


PER_SAMPLE = frozenset({ErrorKind.AMBIGUITY, ErrorKind.SLIP})
"""Drawn anew for each sample, so that voting helps; all others are fixed for an item."""

ANSWER_KINDS = tuple(kind for kind in ErrorKind if kind is not ErrorKind.FORM)


class Feature(enum.StrEnum):
    """What a request asks for, as `reading.py` finds it in its text."""

    ANSWER_ONLY = "answer only"
    STEPS = "step by step"
    PLAN = "plan first"
    CODE = "python code"
    FACTS = "list the facts"
    UNITS = "convert units"
    INTERPRETATION = "state the interpretation"
    EDGES = "edge cases"
    CHECK = "double-check"
    IGNORE = "ignore the irrelevant"
    ENDING = "marked final answer"
    KEYS = "json keys"
    CRITIQUE = "critique"
    TEST_FEEDBACK = "test feedback"


INSTRUCTIONS = frozenset(
    {Feature.FACTS, Feature.UNITS, Feature.INTERPRETATION, Feature.EDGES, Feature.CHECK, Feature.IGNORE}
)
"""Features that count towards distraction, as every junk sentence does."""

_K = ErrorKind

MULTIPLIERS: Mapping[Feature, Mapping[ErrorKind, float]] = types.MappingProxyType(
    {
        # style
        Feature.ANSWER_ONLY: {_K.PLANNING: 1.25, _K.CALCULATION: 1.2, _K.UNITS: 1.1, _K.READING: 1.1, _K.FORM: 0.3},
        Feature.STEPS: {_K.PLANNING: 0.9, _K.CALCULATION: 0.9},
        Feature.PLAN: {_K.PLANNING: 0.3, _K.EDGE: 0.9},
        Feature.CODE: {_K.READING: 1.15, _K.AMBIGUITY: 1.3, _K.UNITS: 1.1, _K.FORM: 0.3},
        # instructions that help where they fit and mislead a little elsewhere
        Feature.FACTS: {_K.READING: 0.15, _K.EDGE: 1.1},
        Feature.UNITS: {_K.UNITS: 0.1, _K.READING: 1.1, _K.CALCULATION: 1.1},
        Feature.INTERPRETATION: {_K.AMBIGUITY: 0.4, _K.PLANNING: 1.15},
        Feature.EDGES: {_K.EDGE: 0.15, _K.PLANNING: 1.15},
        Feature.CHECK: {_K.CALCULATION: 0.6, _K.SLIP: 0.3},
        Feature.IGNORE: {_K.READING: 0.35, _K.UNITS: 1.2, _K.AMBIGUITY: 1.2},
        # form
        Feature.ENDING: {_K.FORM: 0.08},
        Feature.KEYS: {_K.FORM: 0.35},
        # what the executor is shown beside the question
        Feature.CRITIQUE: {
            _K.PLANNING: 0.5,
            _K.UNITS: 0.8,
            _K.EDGE: 0.8,
            _K.CALCULATION: 0.75,
            _K.SLIP: 0.7,
        },
        Feature.TEST_FEEDBACK: {_K.PLANNING: 0.35, _K.EDGE: 0.5, _K.SLIP: 0.1},
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResponseModel:
    """The parameters of the simulated executor.

    Example:
        >>> model = ResponseModel()
        >>> round(model.rates({ErrorKind.UNITS: 0.5}, {Feature.UNITS}, 0, 0.0)[ErrorKind.UNITS], 3)
        0.05
    """

    multipliers: Mapping[Feature, Mapping[ErrorKind, float]] = dataclasses.field(default_factory=lambda: MULTIPLIERS)
    free_instructions: int = 2
    """Instructions that do not distract."""
    distraction: float = 1.1
    """Factor on every answer error for each instruction beyond those."""
    calm_temperature: float = 0.5
    """Up to here the temperature changes nothing."""
    temperature_slips: float = 1.2
    """Slips grow by this share for each unit of temperature above `calm_temperature`."""
    broken_by_critique: float = 0.07
    """Share of items whose right answer a critique turns into a planning error."""
    highest_rate: float = 0.98
    first_token_seconds: float = 0.25
    seconds_per_token: float = 0.008

    def factors(self, present: Collection[Feature], junk: int, temperature: float) -> dict[ErrorKind, float]:
        """What a request multiplies the base probabilities by.

        Args:
            present: Features of the request.
            junk: Number of junk sentences.
            temperature: Of the request.
        """
        factors = dict.fromkeys(ErrorKind, 1.0)
        for feature in sorted(present):
            for kind, factor in self.multipliers.get(feature, {}).items():
                factors[kind] *= factor
        instructions = junk + sum(feature in INSTRUCTIONS for feature in present)
        distraction = self.distraction ** max(0, instructions - self.free_instructions)
        for kind in ANSWER_KINDS:
            factors[kind] *= distraction
        factors[ErrorKind.SLIP] *= 1.0 + self.temperature_slips * max(0.0, temperature - self.calm_temperature)
        return factors

    def rates(
        self, profile: Mapping[ErrorKind, float], present: Collection[Feature], junk: int, temperature: float
    ) -> dict[ErrorKind, float]:
        """Probability of each kind of error that the problem knows."""
        factors = self.factors(present, junk, temperature)
        return {kind: min(self.highest_rate, base * factors[kind]) for kind, base in profile.items()}

    def latency(self, completion_tokens: int, first: float = 1.0, each: float = 1.0) -> float:
        """Seconds that a reply takes, its two parts times their factors; nothing sleeps for them in the process."""
        return first * self.first_token_seconds + each * self.seconds_per_token * completion_tokens


class SampleId(NamedTuple):
    """One sample of an item."""

    repetition: int
    number: int


def uniform(item_id: str, what: str, sample: SampleId | None = None) -> float:
    """A number in [0, 1) that is fixed for (item, what), or for (item, what, sample)."""
    key = f"{item_id}|{what}" if sample is None else f"{item_id}|{what}|{sample.repetition}.{sample.number}"
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2.0**64
