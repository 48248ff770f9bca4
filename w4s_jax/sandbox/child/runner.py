"""Compiles and runs one workflow or one program inside a guarded child.

guard on ─ run(job) ─ solver(agent, task) | program ─ result frame ─ pool

The one broad `except` of the child stands here, at its top: whatever hostile code
raises becomes a result of its own.
"""

from __future__ import annotations

import ast
import io
import math
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from . import agent as agent_api
from . import frames

MAX_ERROR = 500
"""Characters of an error line."""
MAX_TRACEBACK_FRAMES = 8
WORKFLOW_FILE = "<workflow>"
PROGRAM_FILE = "<program>"


class Malformed(Exception):
    """What `solver` returned is not a dict with a plain `answer`."""


class BoundedText(io.StringIO):
    """Standard output: keeps the first `most` characters, drops the rest."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def write(self, text: str, /) -> int:
        """Accepts all of `text` and keeps what still fits."""
        if self._left > 0:
            super().write(text[: self._left])
            self._left -= len(text)
        return len(text)


def serve(fd: int, output_bytes: int) -> None:
    """Reads the job from the socket, runs it and writes its result; never returns normally to user code."""
    job = frames.read_frame(fd, frames.MAX_FROM_POOL)
    run = _run_workflow if job["kind"] == "workflow" else _run_program
    code, filename = str(job["code"]), WORKFLOW_FILE if job["kind"] == "workflow" else PROGRAM_FILE
    try:
        result = run(job, fd, output_bytes)
        body = frames.encode({"type": "result", "status": "ok", **result})
        if len(body) > output_bytes:
            raise Malformed(f"the result of {len(body)} bytes exceeds output_bytes={output_bytes}")
    except BaseException as error:  # noqa: BLE001 - the top of the sandboxed child, a named border
        body = frames.encode({"type": "result", **_describe(error, code, filename)})
    frames.write_all(fd, body)


def _run_workflow(job: Mapping[str, Any], fd: int, output_bytes: int) -> dict[str, Any]:
    sys.stdout = sys.stderr = BoundedText(0)
    module = _fresh_module("workflow")
    exec(_compile(job["code"], WORKFLOW_FILE, "exec"), module.__dict__)
    solver = module.__dict__.get("solver")
    if not callable(solver):
        raise Malformed("the code defines no function solver(agent, task)")
    agent = agent_api.Agent(agent_api.Channel(fd), job["public_tests"])
    returned = solver(*_arguments(solver, (agent, job["question"], job["entry_point"])))
    return {"answer": _plain_answer(returned)}


def _arguments(solver: Callable[..., Any], given: tuple[Any, ...]) -> tuple[Any, ...]:
    """As many of (agent, task, entry_point) as `solver` takes."""
    code = getattr(solver, "__code__", None)
    if code is None:
        return given[:2]
    if code.co_flags & 0x04:  # *args
        return given
    return given[: max(2, min(len(given), code.co_argcount))]


def _plain_answer(returned: object) -> str | int | float | bool | None:
    """The `answer` of what `solver` returned, as a plain JSON value."""
    if not isinstance(returned, dict):
        raise Malformed(f"solver must return a dict with the key 'answer', got {type(returned).__name__}")
    if "answer" not in returned:
        raise Malformed("solver returned a dict without the key 'answer'")
    answer: object = returned["answer"]
    if answer is None or isinstance(answer, bool):
        return answer
    if isinstance(answer, str):
        return str.__str__(answer)
    if isinstance(answer, int):
        return int(answer)
    if isinstance(answer, float):
        if not math.isfinite(answer):
            raise Malformed(f"answer must be finite, got {float(answer)}")
        return float(answer)
    if any(hasattr(type(answer), name) for name in ("__float__", "__int__", "__complex__")):
        return str(answer)  # Fraction, Decimal, numpy and sympy numbers
    raise Malformed(f"answer must be str, int, float, bool or None, got {type(answer).__name__}")


def _run_program(job: Mapping[str, Any], _fd: int, output_bytes: int) -> dict[str, Any]:
    """`solution()` if defined without required arguments, else the last expression, else standard output."""
    output = BoundedText(output_bytes)
    sys.stdout, sys.stderr = output, BoundedText(0)
    module = _fresh_module("__main__")
    tree = ast.parse(job["code"], PROGRAM_FILE)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(_compile(tree, PROGRAM_FILE, "exec"), module.__dict__)
    value = None
    if isinstance(last, ast.Expr):
        value = eval(_compile(ast.Expression(last.value), PROGRAM_FILE, "eval"), module.__dict__)
    solution = module.__dict__.get("solution")
    if isinstance(solution, types.FunctionType) and _takes_nothing(solution):
        value = solution()
    text = output.getvalue() if value is None else str(value)
    return {"value": text[:output_bytes]}


def _compile(source: Any, filename: str, mode: str) -> types.CodeType:
    """Compiles without this file's own `from __future__`."""
    return compile(source, filename, mode, dont_inherit=True)


def _takes_nothing(function: types.FunctionType) -> bool:
    code = function.__code__
    required = code.co_argcount - len(function.__defaults__ or ())
    required += code.co_kwonlyargcount - len(function.__kwdefaults__ or {})
    return required == 0


def _fresh_module(name: str) -> types.ModuleType:
    """A registered module, because dataclasses and pickle look their classes' module up."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module


def _describe(error: BaseException, code: str, filename: str) -> dict[str, str]:
    """Status, error line and traceback of whatever was raised."""
    if isinstance(error, Malformed):
        return {"status": "malformed", "error": str(error)[:MAX_ERROR]}
    status = "limit" if isinstance(error, MemoryError) else "exception"
    line = _error_line(error)
    where = _frames(error, code, filename)
    if filename == PROGRAM_FILE and where:
        line = f"{line} (line {where[-1][0]}: {where[-1][2]})"[: 2 * MAX_ERROR]
    shown = [f'  File "{filename}", line {n}, in {name}\n    {text}' for n, name, text in where]
    return {"status": status, "error": line, "traceback": "\n".join(["Traceback:", *shown, line])}


def _error_line(error: BaseException) -> str:
    """`Type: message`, whatever the type does in its own `__str__`."""
    name = type.__getattribute__(type(error), "__name__")
    try:
        message = str(error)
    except BaseException as inner:  # noqa: BLE001 - part of the border: hostile __str__
        message = f"(its message raised {type.__getattribute__(type(inner), '__name__')})"
    if isinstance(error, MemoryError) and not message:
        message = "the memory limit was hit"
    return " ".join(f"{name}: {message}".split())[:MAX_ERROR] if message else str(name)


def _frames(error: BaseException, code: str, filename: str) -> list[tuple[int, str, str]]:
    """(line number, function, source line) of the frames of the user's own code, innermost last."""
    source = code.splitlines()
    found = []
    traceback = error.__traceback__
    while traceback is not None:
        frame_code = traceback.tb_frame.f_code
        if frame_code.co_filename == filename:
            found.append((traceback.tb_lineno, frame_code.co_name))
        traceback = traceback.tb_next
    if isinstance(error, SyntaxError) and error.filename == filename and error.lineno:
        found.append((error.lineno, "<module>"))
    return [
        (n, name, source[n - 1].strip()[:200] if 0 < n <= len(source) else "")
        for n, name in found[-MAX_TRACEBACK_FRAMES:]
    ]
