"""Small functions to write against tests.

seeded generator → **FunctionDraft** → Item of toy_code

Each template holds three programs: the right one, one that took the wrong approach
(it fails the plain tests) and one that forgets an edge case (it fails the edge
tests alone). Expected values come from running the right program.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

Inputs = tuple[Any, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionDraft:
    """A function to write; `NAME` stands for its name in the programs."""

    statement: str
    """What the function shall do, with its parameters."""
    signature: str
    right: str
    """Body of the gold program."""
    planning: str
    """Body with the wrong approach."""
    edge: str
    """Body without the edge case."""
    plain: tuple[Inputs, ...]
    """Arguments on which `right` and `edge` agree and `planning` does not."""
    edges: tuple[Inputs, ...]
    """Arguments on which `edge` differs from `right`."""


def _ints(rng: random.Random, low: int, high: int, count: int = 5) -> list[int]:
    return [rng.randint(low, high) for _ in range(count)]


def count_above(rng: random.Random) -> FunctionDraft:
    """Values above a limit, the limit itself included."""
    limit = rng.randint(5, 60)
    values = [*_ints(rng, limit + 1, limit + 40, 3), *_ints(rng, limit - 40, limit - 1, 2)]
    other = [*_ints(rng, limit + 1, limit + 40, 1), *_ints(rng, limit - 40, limit - 1, 3)]
    return FunctionDraft(
        statement=f"Return how many numbers of the list `values` are at least {limit}.",
        signature="values",
        right=f"    return sum(1 for v in values if v >= {limit})",
        planning=f"    return sum(v for v in values if v >= {limit})",
        edge=f"    return sum(1 for v in values if v > {limit})",
        plain=((values,), (other,)),
        edges=(([limit, *values],), ([limit, limit],)),
    )


def sum_multiples(rng: random.Random) -> FunctionDraft:
    """Multiples of either of two numbers, each counted once, the bound included."""
    a, b = rng.sample((3, 4, 5, 7, 9, 11), 2)
    bound = a * b + rng.randint(1, a + b)
    while bound % a == 0 or bound % b == 0:
        bound += 1
    return FunctionDraft(
        statement=f"Return the sum of all whole numbers from 1 to `n`, `n` included, that {a} or {b} divides.",
        signature="n",
        right=f"    return sum(i for i in range(1, n + 1) if i % {a} == 0 or i % {b} == 0)",
        planning=f"    return sum(range({a}, n + 1, {a})) + sum(range({b}, n + 1, {b}))",
        edge=f"    return sum(i for i in range(1, n) if i % {a} == 0 or i % {b} == 0)",
        plain=((bound,), (2 * a * b + 1 if (2 * a * b + 1) % a and (2 * a * b + 1) % b else bound,)),
        edges=((a * b,), (a,)),
    )


def longest_run(rng: random.Random) -> FunctionDraft:
    """Longest run of equal neighbours."""
    bonus = rng.randint(2, 30)
    a, b = rng.sample(range(1, 90), 2)
    return FunctionDraft(
        statement=(
            f"Return {bonus} plus the length of the longest run of equal neighbours in the list `values`; "
            f"an empty list gives {bonus}."
        ),
        signature="values",
        right=(
            "    best = run = 0\n    for i, v in enumerate(values):\n"
            "        run = run + 1 if i and v == values[i - 1] else 1\n        best = max(best, run)\n"
            f"    return {bonus} + best"
        ),
        planning=f"    return {bonus} + max((values.count(v) for v in values), default=0)",
        edge=(
            "    best = run = 1\n    for i in range(1, len(values)):\n"
            "        run = run + 1 if values[i] == values[i - 1] else 1\n        best = max(best, run)\n"
            f"    return {bonus} + best"
        ),
        plain=(([a, a, b, a, a, b],), ([b, a, b, b, a, b],)),
        edges=(([],),),
    )


def top_sum(rng: random.Random) -> FunctionDraft:
    """Sum of the largest values, however few there are."""
    k = rng.randint(2, 4)
    low = sorted(_ints(rng, 1, 40, k))
    values = [*low, *(v + 50 for v in _ints(rng, 1, 40, k))]
    return FunctionDraft(
        statement=f"Return the sum of the {k} largest numbers in `values`; of all of them if there are fewer.",
        signature="values",
        right=f"    return sum(sorted(values)[-{k}:])",
        planning=f"    return sum(sorted(values)[:{k}])",
        edge=f"    return sum(sorted(values)[len(values) - {k} + i] for i in range({k}))",
        plain=((values,), ([*values, 99],)),
        edges=(([7],), ([],)),
    )


def shift_letters(rng: random.Random) -> FunctionDraft:
    """A Caesar shift that wraps around at z."""
    k = rng.randint(2, 9)
    words = ["".join(rng.choice("abcdefghijklmnop") for _ in range(5)) for _ in range(2)]
    return FunctionDraft(
        statement=f"Return `text` with each letter a–z moved {k} places on, from z back to a; keep everything else.",
        signature="text",
        right=(
            "    return ''.join(\n"
            f"        chr((ord(c) - 97 + {k}) % 26 + 97) if 'a' <= c <= 'z' else c for c in text\n    )"
        ),
        planning=f"    return text[{k}:] + text[:{k}]",
        edge=f"    return ''.join(chr(ord(c) + {k}) if 'a' <= c <= 'z' else c for c in text)",
        plain=tuple((w,) for w in words),
        edges=(("xyz",), (words[0] + " z",)),
    )


def digit_sum(rng: random.Random) -> FunctionDraft:
    """Digits of a number that may be negative, weighted."""
    weight = rng.randint(2, 40)
    return FunctionDraft(
        statement=f"Return {weight} times the sum of the decimal digits of the integer `n`, which may be negative.",
        signature="n",
        right=f"    return {weight} * sum(int(d) for d in str(abs(n)))",
        planning=f"    return {weight} * len(str(abs(n)))",
        edge=f"    return {weight} * sum(int(d) for d in str(n))",
        plain=((rng.randint(56, 99),), (rng.randint(555, 999),)),
        edges=((-rng.randint(12, 99),), (-rng.randint(100, 999),)),
    )


def rotate(rng: random.Random) -> FunctionDraft:
    """Rotation by a fixed number of places, also of short lists."""
    k = rng.randint(2, 3)
    values = rng.sample(range(1, 99), 6)
    return FunctionDraft(
        statement=f"Return the list `values` rotated {k} places to the left; short lists go round more than once.",
        signature="values",
        right=f"    return values[{k} % len(values):] + values[:{k} % len(values)] if values else []",
        planning=f"    return values[-{k}:] + values[:-{k}]",
        edge=f"    return [values[i + {k} - len(values)] for i in range(len(values))]",
        plain=((values,), (values[:5],)),
        edges=(([8],) if k > 1 else ([],),),
    )


def discount(rng: random.Random) -> FunctionDraft:
    """A price with a rebate from a bound on."""
    bound, percent = 10 * rng.randint(5, 60), rng.choice((5, 10, 20, 25))
    above, below = bound + 10 * rng.randint(1, 20), bound - 10
    return FunctionDraft(
        statement=(
            f"Return what is paid for a price of `price` coins: {percent} percent less if it is {bound} or more, "
            "rounded down to whole coins."
        ),
        signature="price",
        right=f"    return price * {100 - percent} // 100 if price >= {bound} else price",
        planning=f"    return price - {percent} if price >= {bound} else price - 1",
        edge=f"    return price * {100 - percent} // 100 if price > {bound} else price",
        plain=((above,), (below,)),
        edges=((bound,),),
    )


FUNCTIONS: tuple[Callable[[random.Random], FunctionDraft], ...] = (
    count_above,
    sum_multiples,
    longest_run,
    top_sum,
    shift_letters,
    digit_sum,
    rotate,
    discount,
)
_VERBS = "find get make compute work give build take".split()
_NOUNS = "result value total score number output mark reading figure amount".split()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionItem:
    """A drafted function with its tests spelled out."""

    question: str
    entry_point: str
    plain_tests: tuple[str, ...]
    edge_tests: tuple[str, ...]
    public_tests: tuple[str, ...]
    metadata: dict[str, Any]


def function_item(rng: random.Random, profile: dict[str, float]) -> FunctionItem | None:
    """Draws a function and works out its tests.

    Args:
        rng: Draws template, parameters, names and tests.
        profile: Base probability of each kind of error.

    Returns:
        The pieces of an item; None where the arguments drawn cannot tell the programs apart.
    """
    draft = rng.choice(FUNCTIONS)(rng)
    name = f"{rng.choice(_VERBS)}_{rng.choice(_NOUNS)}_{rng.randint(2, 999)}"
    programs = {k: _program(draft, name, getattr(draft, k)) for k in ("right", "planning", "edge")}
    calls = {k: _load(code, name) for k, code in programs.items()}
    if not _tells_apart(draft, calls):
        return None
    plain = tuple(_test(name, calls["right"], a) for a in draft.plain)
    edges = tuple(_test(name, calls["right"], a) for a in draft.edges)
    public = (plain[0], edges[0]) if rng.random() < 0.4 else (plain[0],)
    right = programs["right"]
    return FunctionItem(
        question=(f"Write a Python function `{name}({draft.signature})`. {draft.statement}\nFor example:\n{plain[0]}"),
        entry_point=name,
        plain_tests=plain,
        edge_tests=edges,
        public_tests=public,
        metadata={
            "program": right,
            "answer": right,
            "noun": "",
            "numbers": [],
            "intermediates": [],
            "profile": {k: p for k, p in profile.items() if k in ("planning", "edge", "slip", "form")},
            "wrong": {},
            "wrong_programs": {
                "planning": programs["planning"],
                "edge": programs["edge"],
                "slip": right.replace("):", ")", 1),
            },
        },
    )


def _program(draft: FunctionDraft, name: str, body: str) -> str:
    return f"def {name}({draft.signature}):\n{body}"


def _load(code: str, name: str) -> Callable[..., Any]:
    scope: dict[str, Any] = {}
    exec(compile(code, "<template>", "exec"), scope)
    function: Callable[..., Any] = scope[name]
    return function


def _outcome(call: Callable[..., Any], arguments: Inputs) -> str:
    """What a call gives, as text; the templates can fail in these ways only."""
    try:
        return repr(call(*arguments))
    except (ValueError, IndexError, ZeroDivisionError) as error:
        return type(error).__name__


def _tells_apart(draft: FunctionDraft, calls: dict[str, Callable[..., Any]]) -> bool:
    """Whether every plain test refutes the wrong approach alone and every edge test the forgotten edge."""
    plain = all(
        _outcome(calls["edge"], a) == _outcome(calls["right"], a) != _outcome(calls["planning"], a) for a in draft.plain
    )
    return plain and all(_outcome(calls["edge"], a) != _outcome(calls["right"], a) for a in draft.edges)


def _test(name: str, call: Callable[..., Any], arguments: Inputs) -> str:
    return f"assert {name}({', '.join(map(repr, arguments))}) == {call(*arguments)!r}"
