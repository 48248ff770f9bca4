"""What a hostile workflow returned, made safe to grade, to keep and to print.

WorkflowRun.answer → **plain_answer** → Task.grade → **bounded** → ItemOutcome
"""

from __future__ import annotations

import json
from typing import Any


def plain_answer(answer: Any) -> str | int | float | bool | None:
    """A hostile answer as something safe to grade and to print: a scalar, or text that says what it was."""
    if isinstance(answer, str):
        return answer.encode("utf-8", "replace").decode()
    if answer is None or isinstance(answer, bool | float):
        return answer
    if isinstance(answer, int) and answer.bit_length() <= 4096:  # Python refuses to print much longer ones
        return answer
    if isinstance(answer, list | tuple | dict):
        try:
            return json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace").decode()
        except (TypeError, ValueError, RecursionError):
            pass
    return f"<{type(answer).__name__}>"


def bounded(text: str, limit: int) -> str:
    """At most `limit` characters of a text, and a note where some were left out; lone surrogates are replaced."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit} more characters)"
