"""Checks what a child sends: bytes → frame → request or result, or a breach that ends it.

child's socket ─ Frames.take ─ parse_request | parse_workflow_result | parse_program_result ─ pool

Nothing is unpickled or evaluated, and no field is used unchecked.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn, TypeGuard

from w4s_jax.sandbox import base
from w4s_jax.sandbox.child.frames import HEADER
from w4s_jax.types import CallRefusedError, Limits, LLMCall, Message, ProgramRun, RunStatus, WorkflowRun

ROLES = ("system", "user", "assistant")
MAX_TEMPERATURE = 2.0
MAX_COMPLETION_TOKENS = 1 << 20


class BreachError(Exception):
    """A child broke the protocol; it is ended, and its item is malformed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeRequest:
    """A validated `execute_code` of a workflow."""

    code: str
    timeout: float
    """Seconds."""


class Frames:
    """Cuts a byte stream into JSON objects of at most `most` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = bytearray()

    def feed(self, data: bytes) -> None:
        """Adds received bytes."""
        self._bytes += data

    def take(self) -> dict[str, Any] | None:
        """The next whole object, or None where more bytes are needed.

        Raises:
            BreachError: The frame is too long or holds no JSON object.
        """
        if len(self._bytes) < HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self._bytes)
        if length > self._most:
            raise BreachError(f"a frame of {length} bytes exceeds {self._most}")
        end = HEADER.size + length
        if len(self._bytes) < end:
            return None
        body = bytes(self._bytes[HEADER.size : end])
        del self._bytes[:end]
        return _json_object(body)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BreachError(f"a frame holds no JSON: {str(error)[:200]}") from None
    if not isinstance(message, dict):
        raise BreachError(f"a frame holds a {type(message).__name__}, not an object")
    return message


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_request(message: Mapping[str, Any], limits: Limits) -> LLMCall | CodeRequest:
    """Checks a request of a workflow.

    Raises:
        BreachError: There is no such request.
        CallRefusedError: A field is missing, unknown, of another type or out of range.
    """
    kind = message.get("type")
    if kind == "llm":
        return _parse_llm(message)
    if kind == "run_code":
        return _parse_code_request(message, limits)
    raise BreachError(f"an unknown request {str(kind)[:40]!r}")


def _parse_llm(message: Mapping[str, Any]) -> LLMCall:
    _only(message, {"type", "messages", "temperature", "n", "json_mode", "max_tokens"})
    n, temperature, max_tokens = message.get("n"), message.get("temperature"), message.get("max_tokens")
    if not _is_int(n) or not 1 <= n <= base.MAX_SAMPLES:
        _refuse("num_of_response", n, f"an integer in [1, {base.MAX_SAMPLES}]")
    if not _is_number(temperature) or not 0 <= temperature <= MAX_TEMPERATURE:
        _refuse("temperature", temperature, f"a number in [0, {MAX_TEMPERATURE:g}]")
    if max_tokens is not None and (not _is_int(max_tokens) or not 1 <= max_tokens <= MAX_COMPLETION_TOKENS):
        _refuse("max_completion_tokens", max_tokens, f"None or an integer in [1, {MAX_COMPLETION_TOKENS}]")
    if not isinstance(message.get("json_mode"), bool):
        _refuse("response_format", message.get("json_mode"), "json_object or nothing")
    return LLMCall(
        messages=_messages(message.get("messages")),
        temperature=float(temperature),
        n=n,
        json_mode=message["json_mode"],
        max_tokens=max_tokens,
    )


def _messages(given: object) -> tuple[Message, ...]:
    if not isinstance(given, list) or not 1 <= len(given) <= base.MAX_MESSAGES:
        size = len(given) if isinstance(given, list) else type(given).__name__
        _refuse("messages", size, f"a list of 1 to {base.MAX_MESSAGES} messages")
    return tuple(_message(m) for m in given)


def _message(given: object) -> Message:
    if not isinstance(given, dict) or set(given) - {"role", "content", "name"}:
        _refuse("message", type(given).__name__, "an object with role and content")
    role, content = given.get("role"), given.get("content")
    if role not in ROLES:
        _refuse("role", role, " or ".join(ROLES))
    if not isinstance(content, str) or not content:
        _refuse("content", type(content).__name__, "a text that is not empty")
    if not _is_clean(content):
        _refuse("content", "a lone surrogate", "text that UTF-8 can hold")
    return Message(role=role, content=content)


def _parse_code_request(message: Mapping[str, Any], limits: Limits) -> CodeRequest:
    """Its timeout cannot exceed the workflow's own wall clock."""
    _only(message, {"type", "code", "timeout"})
    code, timeout = message.get("code"), message.get("timeout")
    if not isinstance(code, str) or not _is_clean(code):
        _refuse("code", type(code).__name__, "text")
    if not _is_number(timeout) or timeout <= 0:
        _refuse("timeout", timeout, "seconds above 0")
    return CodeRequest(code=code, timeout=float(min(timeout, limits.wall_seconds)))


def _only(message: Mapping[str, Any], known: set[str]) -> None:
    unknown = message.keys() - known
    if unknown:
        _refuse("field", min(unknown), ", ".join(sorted(known)))


def parse_workflow_result(message: Mapping[str, Any], limits: Limits, seconds: float) -> WorkflowRun:
    """Checks the result of a workflow."""
    status = _status(message)
    if status is not RunStatus.OK:
        return WorkflowRun(
            status=status,
            error=_line(message.get("error")),
            traceback=_text(message.get("traceback"), base.MAX_TRACEBACK),
            seconds=seconds,
        )
    answer = message.get("answer")
    if "answer" not in message or not (answer is None or isinstance(answer, str | int) or _is_number(answer)):
        raise BreachError(f"answer must be str, int, float, bool or None, got {type(answer).__name__}")
    if isinstance(answer, str):
        if not _is_clean(answer):
            return malformed("answer holds a lone surrogate, which UTF-8 cannot hold", seconds)
        if len(answer) > limits.output_bytes:
            raise BreachError(f"an answer of {len(answer)} characters exceeds {limits.output_bytes}")
    return WorkflowRun(status=RunStatus.OK, answer=answer, seconds=seconds)


def malformed(error: str, seconds: float) -> WorkflowRun:
    """The run of a workflow whose result is of another form."""
    return WorkflowRun(status=RunStatus.MALFORMED, error=error, seconds=seconds)


def parse_program_result(message: Mapping[str, Any], limits: Limits, seconds: float) -> ProgramRun:
    """Checks the result of a program."""
    status = _status(message)
    if status is not RunStatus.OK:
        return ProgramRun(status=status, error=_line(message.get("error")), seconds=seconds)
    value = message.get("value")
    if not isinstance(value, str) or len(value) > limits.output_bytes:
        raise BreachError("the value of a program must be a text within output_bytes")
    return ProgramRun(status=status, value=_cleaned(value), seconds=seconds)


def _status(message: Mapping[str, Any]) -> RunStatus:
    status = message.get("status")
    if not isinstance(status, str) or status not in list(RunStatus):
        raise BreachError("a result without a known status")
    return RunStatus(status)


def _line(value: object) -> str:
    """One line that any terminal can show."""
    return " ".join(_text(value, base.MAX_ERROR).split())


def _text(value: object, most: int) -> str:
    """Text of ours to be: of what cannot be printed, line ends alone are kept."""
    given = value[:most] if isinstance(value, str) else ""
    return "".join(c if c.isprintable() or c == "\n" else " " if c.isspace() else "\ufffd" for c in given)


def _cleaned(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _is_clean(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[int | float]:
    return (isinstance(value, float) and math.isfinite(value)) or _is_int(value)


def _refuse(name: str, value: object, allowed: str) -> NoReturn:
    raise CallRefusedError(f"{name}={str(value)[:80]!r} is refused; allowed: {allowed}")
