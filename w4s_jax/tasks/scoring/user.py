"""Grades by a function of the user's own: `--scorer=python:FILE.py:FUNCTION`, or one of the program that calls us.

FILE.py → load_object → **FunctionGrader**: function(answer, target) → Grade
metric=function → **ProgramGrader**: the same, off the event loop

The file is the user's, and trusted: it runs in this process, where the targets are. Its
content is part of the rule, as is that of the file of an inherited function, so that what
another version graded stays apart; files that those import are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import numbers
import reprlib
import sys
import traceback
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from w4s_jax.tasks.scoring.text import TextSymptom
from w4s_jax.types import Grade, InputError, Item, Sandbox


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionGrader:
    """Asks `function(answer, target)`, which gives a truth value or a number in [0, 1].

    Example:
        >>> grader = FunctionGrader(function=lambda answer, target: answer in target, rule="one of the target's")
        >>> grader.score(Item(id="i", question="?", target=["7", "seven"]), "7")
        1.0
    """

    function: Callable[[Any, Any], Any]
    """Takes the workflow's answer, a plain scalar, first; then the item's target."""
    rule: str
    """Names the file, the function, the file that the function is from, and the version of their content."""

    @classmethod
    def load(cls, where: str) -> FunctionGrader:
        """A grader by `FILE.py:FUNCTION`.

        Raises:
            InputError: There is no such file or function, or the file cannot be imported.
        """
        return cls.of(load_object(where, "function"), where)

    @classmethod
    def of(cls, function: Callable[[Any, Any], Any], where: str) -> FunctionGrader:
        """A grader by a function, or bound method, that is from `FILE.py:NAME`.

        Raises:
            InputError: The file cannot be read, or the function is asynchronous.
        """
        path, name = _parts(where, "function")
        name = getattr(function, "__qualname__", name)
        if inspect.iscoroutinefunction(function):
            raise InputError(f"python:{where}: {name} is asynchronous; write it with `def`, not `async def`")
        files = [path, *_other_files(function, path)]
        version = hashlib.sha256(b"".join(_read(file, where) for file in files)).hexdigest()[:12]
        places = " and ".join(file.name for file in files)
        return cls(function=function, rule=f"your own function {name} in {places} (sha256 {version})")

    def score(self, item: Item, answer: Any) -> float:
        """What the function gives for an answer.

        Raises:
            InputError: It raised, or gave something else.
        """
        with Blame(f"{self.rule}, on item {item.id}"):
            given = self.function(answer, item.target)
        if isinstance(given, numbers.Real | np.bool_) and 0.0 <= float(given) <= 1.0:
            return float(given)
        raise InputError(
            f"{self.rule}, on item {item.id}: it returned {reprlib.repr(given)}; "
            "it must return True, False or a number in [0, 1]"
        )

    async def __call__(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Grades in [0, 1].

        Raises:
            InputError: The function raised, or gave something else than a grade.
        """
        del sandbox
        return graded(self.score(item, answer))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramGrader(FunctionGrader):
    """Asks a function of the program that calls this package, in a thread, one answer at a time.

    So a slow function holds up no reply of a model, and one that is not made for threads needs no lock.

    Example:
        >>> ProgramGrader.of_program(lambda answer, target: answer == target).rule.startswith("your own function")
        True
    """

    _turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary, compare=False, repr=False
    )

    @classmethod
    def of_program(cls, function: Callable[[Any, Any], Any]) -> ProgramGrader:
        """A grader by a function, a bound method, a partial or any other callable.

        Raises:
            InputError: It cannot be called with two arguments, or it is asynchronous.
        """
        name = function_name(function)
        called = getattr(function, "func", function)
        if inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(getattr(called, "__call__", None)):  # noqa: B004
            raise InputError(f"metric={name} is asynchronous; write it with `def`, not `async def`")
        signature = None
        with contextlib.suppress(ValueError, TypeError):  # Written in C: it says nothing of its arguments.
            signature = inspect.signature(function)
        try:
            if signature is not None:
                signature.bind(None, None)
        except TypeError as error:
            raise InputError(f"metric={name} cannot be called as metric(answer, target): {error}") from error
        return cls(function=function, rule=f"your own function {name} (sha256 {function_digest(function)})")

    async def __call__(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """As `FunctionGrader`, in a thread."""
        async with self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            return graded(await asyncio.to_thread(self.score, item, answer))


def function_name(function: Any) -> str:
    """E.g. `mine.close_enough`."""
    named = function
    while isinstance(named, functools.partial):
        named = named.func
    named = named if hasattr(named, "__qualname__") and hasattr(named, "__module__") else type(named)
    return f"{named.__module__}.{named.__qualname__}"


def function_digest(function: Any) -> str:
    """Twelve hex digits over what a function does, as far as it can be read: source, defaults, what it closes over."""
    return hashlib.sha256("\n".join(_makings(function)).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _makings(function: Any) -> Iterator[str]:
    """The parts of a function that decide what it returns; of values, those that are written the same each time."""
    if isinstance(function, functools.partial):
        yield from _makings(function.func)
        yield from map(_plain, (*function.args, *sorted(function.keywords.items())))
        return
    inner = inspect.unwrap(getattr(function, "__func__", function))
    inner = inner if hasattr(inner, "__code__") else type(inner).__call__
    try:
        yield inspect.getsource(inner)
    except (OSError, TypeError):  # From a prompt, or not written in Python.
        code = getattr(inner, "__code__", None)
        yield (
            function_name(function)
            if code is None
            else f"{code.co_code.hex()} {code.co_names} {_plain(code.co_consts)}"
        )
    yield from map(_plain, getattr(inner, "__defaults__", None) or ())
    for cell in getattr(inner, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # Not filled yet.
            yield from _makings(cell.cell_contents) if callable(cell.cell_contents) else [_plain(cell.cell_contents)]


def _plain(value: Any) -> str:
    """A value as text that is the same in every process: of an object, its type alone."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_plain, value))}]"
    return repr(value) if isinstance(value, str | bytes | int | float | bool | None) else type(value).__qualname__


def graded(score: float) -> Grade:
    """A score with what can be seen of a wrong answer."""
    if score == 1.0:
        return Grade(1.0)
    return Grade(score, (TextSymptom.PARTIAL if score else TextSymptom.DIFFERENT).value)


def _other_files(function: Callable[[Any, Any], Any], path: Path) -> list[Path]:
    """Files, apart from `path`, that a function and what it wraps are written in; a method may be inherited."""
    layers = [function, inspect.unwrap(function), getattr(function, "func", None), type(function).__call__]
    found = set()
    for layer in layers:
        with contextlib.suppress(TypeError, OSError):  # Nothing written in Python.
            found.add(inspect.getsourcefile(layer))
    return sorted(Path(file) for file in found if file and Path(file).resolve() != path.resolve())


def load_object(where: str, kind: str) -> Any:
    """Runs a Python file of the user's and returns what it calls a name.

    The file stands alone: modules beside it are found only where `PYTHONPATH` names their folder.

    Args:
        where: `FILE.py:NAME`.
        kind: What the name is of, `function` or `class`, for messages.

    Raises:
        InputError: No such file or name, it cannot be called, or the file fails.
    """
    path, name = _parts(where, kind)
    source = _read(path, where)
    module = types.ModuleType(f"w4s_jax_user_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look their classes' module up
    with Blame(f"python:{where}: {path} cannot be imported", str(path)):
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    if not hasattr(module, name):
        defined = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"python:{where}: {path} has no {kind} {name!r}; it has {', '.join(defined) or 'none'}")
    if not callable(getattr(module, name)):
        raise InputError(f"python:{where}: {name!r} is a {type(getattr(module, name)).__name__}, not a {kind}")
    return getattr(module, name)


def _parts(where: str, kind: str) -> tuple[Path, str]:
    file, _, name = where.rpartition(":")
    if not file or not name.isidentifier():
        raise InputError(f"python:{where} names no {kind}; write it python:FILE.py:{kind.upper()}")
    return Path(file), name


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"python:{where}: {path} cannot be read ({error.strerror}); name a Python file") from error


class Blame:
    """Makes an InputError of whatever the user's code raises; an interrupt passes."""

    def __init__(self, what: str, file: str | None = None) -> None:
        self._what = what
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: types.TracebackType | None
    ) -> None:
        if not isinstance(error, Exception | SystemExit):
            return
        lines = [frame.lineno for frame in traceback.extract_tb(at) if frame.filename == self._file]
        place = f" (line {lines[-1]})" if lines else ""
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{self._what}: it raised {message}{place}") from error
