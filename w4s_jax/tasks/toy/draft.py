"""A numeric problem as a short program, and what each kind of error makes of it.

template → **Draft** → evaluate → gold answer, wrong answers → Item.metadata

A problem is a few named numbers (`givens`) and a few steps over them. An error is
a change to that program, so a wrong answer is always what a plausible solver would
have got:

    reading      one number taken from the neighbouring row or sentence
    planning     the last step left out
    units        a conversion factor forgotten (taken as 1)
    ambiguity    the steps of the other reading of the wording
    calculation  right steps, one digit of the result wrong; no program goes wrong so
    slip         digits transposed or off by one while writing down

The names of the kinds are those of `executor/simulator/model.py`; they live in the
item's metadata, which never leaves the parent process.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import types
from collections.abc import Mapping
from typing import Any

Step = tuple[str, str]
"""Name and expression over earlier names: `("total", "boxes * each")`."""
Program = tuple[Mapping[str, int], tuple[Step, ...]]
"""Givens and steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draft:
    """A problem before its errors are worked out.

    Example:
        >>> draft = Draft(
        ...     question="3 boxes of 4 eggs: how many eggs?",
        ...     givens={"boxes": 3, "each": 4},
        ...     steps=(("eggs", "boxes * each"),),
        ...     misread=("each", 3),
        ...     noun="eggs",
        ... )
        >>> evaluate(draft.givens, draft.steps)["eggs"]
        12
    """

    question: str
    givens: Mapping[str, int]
    """Numbers by name, conversion factors included."""
    steps: tuple[Step, ...]
    """The last one is the answer."""
    misread: tuple[str, int]
    """A given, and the number a careless reader takes in its place."""
    noun: str
    """What the answer counts."""
    factors: tuple[str, ...] = ()
    """Givens that convert units."""
    other_steps: tuple[Step, ...] = ()
    """Steps under the reading that the stated convention rules out."""


@functools.lru_cache(maxsize=4096)
def _compiled(expression: str) -> types.CodeType:
    return compile(expression, "<step>", "eval")


def evaluate(givens: Mapping[str, int], steps: tuple[Step, ...]) -> dict[str, int]:
    """Returns the value of every step; the expressions are this package's own."""
    scope: dict[str, int] = dict(givens)
    for name, expression in steps:
        scope[name] = eval(_compiled(expression), {"__builtins__": {}}, scope)
    return {name: scope[name] for name, _ in steps}


def program_text(givens: Mapping[str, int], steps: tuple[Step, ...]) -> str:
    """Spells the program as `def solution(): …`."""
    lines = ["def solution():"]
    lines += [f"    {name} = {value}" for name, value in givens.items()]
    lines += [f"    {name} = {expression}" for name, expression in steps]
    return "\n".join([*lines, f"    return {steps[-1][0]}"])


def _variants(draft: Draft) -> dict[str, Program]:
    """Programs of the errors that a program can make."""
    name, wrong = draft.misread
    programs: dict[str, Program] = {"reading": ({**draft.givens, name: wrong}, draft.steps)}
    if len(draft.steps) > 1:
        programs["planning"] = (draft.givens, draft.steps[:-1])
    if draft.factors:
        programs["units"] = ({**draft.givens, **dict.fromkeys(draft.factors, 1)}, draft.steps)
    if draft.other_steps:
        programs["ambiguity"] = (draft.givens, draft.other_steps)
    return programs


def mistype(number: int, rng: random.Random) -> int:
    """Transposes two digits or misses the last one by one; never returns `number`."""
    digits = str(abs(number))
    swaps = [i for i in range(len(digits) - 1) if digits[i] != digits[i + 1] and (i or digits[1] != "0")]
    if swaps and rng.random() < 0.6:
        i = rng.choice(swaps)
        swapped = int(digits[:i] + digits[i + 1] + digits[i] + digits[i + 2 :])
        return swapped if number >= 0 else -swapped
    return number + rng.choice((-1, 1))


def miscalculate(number: int, rng: random.Random) -> int:
    """Gets one digit behind the first one wrong; never returns `number`."""
    digits = str(abs(number))
    if len(digits) == 1:
        return number + rng.choice((-2, 2))
    i = rng.randrange(1, len(digits))
    digit = (int(digits[i]) + rng.choice((1, 2, 3, 7, 8, 9))) % 10
    changed = int(digits[:i] + str(digit) + digits[i + 1 :])
    return changed if number >= 0 else -changed


def metadata(draft: Draft, profile: Mapping[str, float], rng: random.Random) -> dict[str, Any] | None:
    """Works out gold and wrong answers; JSON-serialisable.

    Args:
        draft: The problem.
        profile: Base probability of each kind of error.
        rng: Draws the digits that go wrong.

    Returns:
        The item's metadata; None where an error would happen to give the gold answer.
    """
    values = evaluate(draft.givens, draft.steps)
    gold = values[draft.steps[-1][0]]
    wrong: dict[str, list[str]] = {}
    programs: dict[str, str] = {}
    for kind, (givens, steps) in _variants(draft).items():
        value = evaluate(givens, steps)[steps[-1][0]]
        if value == gold:
            return None
        wrong[kind] = [str(value)]
        programs[kind] = program_text(givens, steps)
    wrong["calculation"] = [str(miscalculate(gold, rng))]
    wrong["slip"] = sorted({str(mistype(gold, rng)) for _ in range(4)})
    slipped = max(draft.givens, key=lambda name: draft.givens[name])
    mistyped = {**draft.givens, slipped: mistype(draft.givens[slipped], rng)}
    if evaluate(mistyped, draft.steps)[draft.steps[-1][0]] == gold:
        return None
    programs["slip"] = program_text(mistyped, draft.steps)
    return {
        "program": program_text(draft.givens, draft.steps),
        "answer": str(gold),
        "noun": draft.noun,
        "numbers": sorted({v for k, v in draft.givens.items() if k not in draft.factors}),
        "intermediates": list(values.values())[:-1],
        "profile": {kind: p for kind, p in profile.items() if kind in wrong or kind == "form"},
        "wrong": wrong,
        "wrong_programs": programs,
    }
