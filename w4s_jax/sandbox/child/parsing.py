r"""How workflows read a model's text: answers, code blocks, JSON objects.

model text ─ extract_answer_str | extract_code_block | parse_json_reply ─ workflow

Pure functions with the behaviour of the W4S agent API. Departures: a reply that is
no JSON object gives the note for every key instead of raising; a backslash in JSON is
kept where it opens no escape (`\(`), or an escape that spells a word of LaTeX
(`\frac`, `\neq`); a fraction is one number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?")
_QUANTITY = re.compile(
    r"(?<![\w.,/])(?:(-?\d{1,6}) (?=\d))?(-?\d{1,15}) ?/ ?(0*[1-9]\d{0,14})"
    rf"(?![\w/]|[.,]\d)|{_NUMBER.pattern}"
)
"""A fraction that is no part of a date, with the whole number before it, else a number."""
_PROGRAM = re.compile(r"\bdef \w+\(")
_FRAC = re.compile(r"(-)?\s?\\[dt]?frac\s?\{(\d{1,15})\}\s?\{(\d{1,15})\}")
_MINUS = re.compile(r"(?<![\w)\]}])\u2212(?=[\d\\])")
"""A minus sign of typography, unless it subtracts from what stands before it."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_BAD_ESCAPE = re.compile(r'\\([\\"/n]|u[0-9a-fA-F]{4}|[bfrt](?![a-zA-Z]))|\\')
"""A backslash; group 1 where it opens an escape of JSON and no LaTeX word."""
_LATEX = re.compile(
    r"\\(\\)|\\(?=(?:"
    r"b(?:ackslash|ar|ecause|egin|eta|etween|f|ig[a-z]*|inom|lack[a-z]*|m|mod|old[a-z]*|ot|owtie|ox[a-z]*|ra|reve|ullet)"
    r"|f(?:box|lat|loor|orall|rac|rak|rown)"
    r"|n(?:abla|atural|cong|earrow|eg|ewline|geq|leq|onumber|ot|otin|prec|subset[a-z]*|succ|supset[a-z]*|warrow)"
    r"|r(?:angle|brace|brack|ceil|eal|floor|ho|ight[a-z]*|m|oot|ule|vert)"
    r"|t(?:ag|anh|au|binom|extstyle|herefore|heta|ilde|imes|riangle[a-z]*)"
    r")(?![a-zA-Z])"
    r"|text[a-z]*\s*\{"
    r"|(?:n(?:eq?|mid)(?=\s*(?:[\d({|$]|-\d|\\[^n\"])|\s+[-+]?[a-zA-Z])|(?:nu|t(?:an|frac|op?))(?![a-zA-Z]|\.[a-z]))"
    r"(?!\w*(?:,\s*\w+)*\s*[-+*/%]?=)"
    r")"
)
"""A backslash that opens a word of LaTeX and an escape of JSON alike; group 1 where it is one of a pair.

Listed are words whose rest is none (`\\theta` is no tab before `heta`). What is left of the last line's may be a
variable of a program (`\\neq = …`, `\\top = …`): these are LaTeX unless something is assigned to them, and a relation
only before its right side. `\\ni` and `\\tt` remain a newline before `i` and a tab before `t`.
"""


def extract_answer_str(text: object) -> str:
    r"""The last `\boxed{…}` of a text, else its last number, else its last sentence.

    A number is given without thousands separators; a fraction (`1/4`, `\frac{1}{4}`) as `1/4`, and with a whole number
    before it (`1 1/2`) as the fraction that both make (`3/2`), without loss. In a program (`def f(`) each number
    stands alone.
    """
    text = str(text)
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed
    number = _last_number(text)
    if number:
        return number
    sentences = [s.strip() for s in _SENTENCE_END.split(text) if s.strip()]
    return sentences[-1] if sentences else ""


def _last_number(text: str) -> str:
    """The last number of a text as `extract_answer_str` gives it; empty where there is none."""
    if _PROGRAM.search(text):
        return str((_NUMBER.findall(text) or [""])[-1]).replace(",", "")
    text = _FRAC.sub(lambda found: f"{found[1] or ' '}{found[2]}/{found[3]}", _MINUS.sub("-", text))
    numbers = list(_QUANTITY.finditer(text))
    if not numbers:
        return ""
    whole, over, under = numbers[-1].groups()
    if not under:
        return numbers[-1][0].replace(",", "")
    if whole and int(over) < int(under):
        over = f"{'-' if whole[0] == '-' else ''}{abs(int(whole)) * int(under) + int(over)}"
    return f"{over}/{under}"


def _last_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{…}` with balanced braces."""
    end = len(text)
    while (start := text.rfind("\\boxed{", 0, end)) >= 0:
        depth = 0
        for i in range(start + 6, len(text)):
            depth += (text[i] == "{") - (text[i] == "}")
            if depth == 0:
                return text[start + 7 : i].strip()
        end = start
    return None


def extract_code_block(response: object, entry_point: str | None = None) -> str:
    """The last fenced block that defines `entry_point`, else the last one, else the whole text."""
    response = str(response)
    blocks = [
        body.strip("\n").rstrip()
        for language, body in _FENCE.findall(response)
        if language.lower() in ("", "python", "py", "python3")
    ]
    if not blocks:
        return response.strip()
    if entry_point:
        defining = re.compile(rf"^\s*(?:async\s+)?(?:def|class)\s+{re.escape(entry_point)}\b", re.MULTILINE)
        blocks = [b for b in blocks if defining.search(b)] or blocks
    return str(blocks[-1])


def missing_note(key: str) -> str:
    """What stands for a key that the reply does not have."""
    return f"(the reply has no key {key!r})"


def parse_json_reply(text: str, keys: Sequence[str]) -> dict[str, Any]:
    """Reads a JSON object out of a reply and fills the missing `keys` with a note."""
    found = json_object(text)
    reply = dict(found) if found is not None else {}
    for key in keys:
        if key not in reply:
            reply[key] = missing_note(key)
    return reply


def json_object(text: str) -> dict[str, Any] | None:
    """The object that is the text, or that its outermost braces hold; None where neither is one."""
    start, end = text.find("{"), text.rfind("}")
    candidates = [text]
    if 0 <= start < end:
        candidates.append(text[start : end + 1])
    for candidate in candidates:
        kept = _LATEX.sub(_keep_backslash, candidate)
        for repaired in (kept, _BAD_ESCAPE.sub(_keep_backslash, kept)):
            try:
                value = json.loads(repaired, strict=False)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                return value
    return None


def _keep_backslash(match: re.Match[str]) -> str:
    r"""Doubles a backslash that is to stay (`\(`, `\frac`)."""
    return match[0] if match[1] else r"\\"
