"""Code and its change, bounded, as HTML.

workflow, the workflow it started from → **unified diff, listing** → trees
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from w4s_jax.reports.markup import Markup, escaped, joined, tag
from w4s_jax.types import Turn

MOST_CHARACTERS = 16_000
MOST_LINES = 500
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)
_SOLVER = re.compile(r"^(?:async\s+)?def\s+solver\s*\(", re.MULTILINE)


def parents_of(turns: Sequence[Turn], number: int) -> tuple[str, ...]:
    """Names of the workflows that turn `number` was made from; where its record names none, that of W4S's chain."""
    parents = turns[number].parents
    return chain_parents(turns, number) if parents is None else parents


def chain_parents(turns: Sequence[Turn], number: int) -> tuple[str, ...]:
    """Name of the last workflow chosen before turn `number`, or `seed` before any was."""
    for turn in reversed(turns[:number]):
        if turn.chosen is not None:
            return (turn.key.of_candidate(turn.chosen).name,)
    return ("seed",)


def started_from(turns: Sequence[Turn], number: int) -> str:
    """Code of the first workflow that turn `number` was made from; empty where the records do not hold it.

    A seed stands in the turn's opening prompt: under its name, or as the first workflow there.
    """
    parent = next(iter(parents_of(turns, number)), "")
    for turn in turns[:number]:
        for candidate in turn.candidates:
            if turn.key.of_candidate(candidate.index).name == parent:
                return candidate.code
    opening = turns[number].messages[0].content if turns[number].messages else ""
    named = opening.partition(f"## {parent}\n")[2] or opening
    return next((m.group(1) for m in _BLOCK.finditer(named) if _SOLVER.search(m.group(1))), "")


def unified_diff(before: str, after: str, before_name: str, after_name: str) -> list[str]:
    """Lines of the unified diff, without line ends; empty where nothing changed."""
    old, new = (_trimmed(text).split("\n") if text.strip() else [] for text in (before, after))
    return list(difflib.unified_diff(old, new, before_name, after_name, lineterm=""))


def diff_block(before: str, after: str, before_name: str, after_name: str) -> Markup:
    """The diff, or a sentence where there is none."""
    if not before:
        return tag("p", "The workflow it started from is not in the records, so there is no diff.", class_="note")
    lines = unified_diff(bounded(before)[0], bounded(after)[0], before_name, after_name)
    if not lines:
        return tag("p", "The code is that of the workflow it started from, unchanged.", class_="note")
    return tag("pre", [_diff_line(line, header=number < 2) for number, line in enumerate(lines)], class_="diff")


def code_block(code: str) -> Markup:
    """The code, cut where it is too long, which is then said."""
    shown, left_out = bounded(code)
    note = tag("p", f"{left_out:,} more characters are left out here.", class_="note") if left_out else None
    return joined(tag("pre", shown), note)


def bounded(text: str, characters: int = MOST_CHARACTERS, lines: int = MOST_LINES) -> tuple[str, int]:
    """The text up to its bounds, and the number of characters behind them."""
    shown = "\n".join(text[:characters].split("\n")[:lines])
    return shown, len(text) - len(shown)


def _trimmed(text: str) -> str:
    """Without the blank lines around it: a prompt shows a workflow without them."""
    return text.strip("\n")


def _diff_line(line: str, *, header: bool) -> Markup:
    class_ = "hunk" if header else {"+": "add", "-": "del", "@": "hunk"}.get(line[:1])
    return tag("span", line, "\n", class_=class_) if class_ else joined(escaped(line), "\n")
