"""How workflows read a model's text: answers, code blocks, JSON objects.

model text ─ extract_answer_str | extract_code_block | parse_json_reply ─ workflow

Pure functions with the behaviour of the W4S agent API. Departures: a reply that is
no JSON object gives the note for every key instead of raising, and backslashes that
JSON does not know (LaTeX) are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_BAD_ESCAPE = re.compile(r'\\([\\"/n]|u[0-9a-fA-F]{4}|[bfrt](?![a-zA-Z]))|\\')


def extract_answer_str(text: object) -> str:
    r"""The last `\boxed{…}` of a text, else its last number without thousands separators, else its last sentence."""
    text = str(text)
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed
    numbers: list[str] = _NUMBER.findall(text)
    if numbers:
        return numbers[-1].replace(",", "")
    sentences = [s.strip() for s in _SENTENCE_END.split(text) if s.strip()]
    return sentences[-1] if sentences else ""


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
    found = _json_object(text)
    reply = dict(found) if found is not None else {}
    for key in keys:
        if key not in reply:
            reply[key] = missing_note(key)
    return reply


def _json_object(text: str) -> dict[str, Any] | None:
    """The object that is the text, or that its outermost braces hold."""
    start, end = text.find("{"), text.rfind("}")
    candidates = [text]
    if 0 <= start < end:
        candidates.append(text[start : end + 1])
    for candidate in candidates:
        for repaired in (candidate, _BAD_ESCAPE.sub(_keep_backslash, candidate)):
            try:
                value = json.loads(repaired, strict=False)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                return value
    return None


def _keep_backslash(match: re.Match[str]) -> str:
    r"""Doubles a backslash that opens no JSON escape (`\(`), or that opens a LaTeX word (`\frac`)."""
    return match[0] if match[1] else r"\\"
