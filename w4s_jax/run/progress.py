"""Progress of long steps: one live line on a terminal or in a notebook, a line every few seconds elsewhere.

any long step → Progress, note → **Display** of this call → standard error, a notebook's cell, nothing

Where progress is shown is a value of the context that a call runs in, so that two calls in one process do not share it.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import Self, TextIO


@dataclasses.dataclass(frozen=True, kw_only=True)
class Display:
    """Where progress is shown, and how.

    Example:
        >>> import io
        >>> Display.of(io.StringIO()).live
        False
    """

    stream: TextIO | None
    """None shows nothing."""
    live: bool = False
    """Whether a line is written over the one before."""
    erases: bool = False
    """Whether the stream knows the terminal's sequence that erases a line; else blanks do."""
    every_seconds: float = 5.0
    """Seconds between two lines of one step, at least."""

    @classmethod
    def of(cls, stream: TextIO) -> Display:
        """How progress is shown on a stream."""
        if stream.isatty():
            return cls(stream=stream, live=True, erases=True, every_seconds=0.2)
        if type(stream).__module__.partition(".")[0] == "ipykernel":
            return cls(stream=stream, live=True, every_seconds=0.5)
        return cls(stream=stream)

    @classmethod
    def here(cls) -> Display:
        """Standard error; in a notebook standard output, as the other is shown as a failure there."""
        output = cls.of(sys.stdout)
        return output if output.live and not output.erases else cls.of(sys.stderr)

    def write(self, text: str) -> None:
        """Writes, if anything is shown."""
        if self.stream is not None:
            self.stream.write(text)
            self.stream.flush()


SILENT = Display(stream=None)
"""Shows nothing."""

_display: contextvars.ContextVar[Display | None] = contextvars.ContextVar("w4s_jax_display", default=None)
"""None: standard error as it is when something is shown."""


@contextlib.contextmanager
def shown_on(display: Display) -> Iterator[None]:
    """Shows the progress of what runs in this context, and of what it starts, on another display."""
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


def shown() -> Display:
    """Where progress is shown in this context."""
    return _display.get() or Display.of(sys.stderr)


def note(text: str) -> None:
    """Says something once."""
    shown().write(f"{text}\n")


class Progress:
    r"""Counts the parts of one long step.

    Example:
        >>> import io
        >>> stream = io.StringIO()
        >>> with Progress("rollouts", total=120, stream=stream) as progress:
        ...     progress.advance(score="0.41")
        >>> stream.getvalue()
        'rollouts: 1/120  0 s  score 0.41\n'
    """

    def __init__(self, label: str, total: int, *, stream: TextIO | None = None, every_seconds: float | None = None):
        """Starts at 0 of `total`.

        Args:
            label: Names the step.
            total: Parts it has.
            stream: Instead of the context's display.
            every_seconds: Instead of the display's.
        """
        self._label, self._total = label, total
        self._display = Display.of(stream) if stream else _display.get() or Display.of(sys.stderr)
        self._interval = self._display.every_seconds if every_seconds is None else every_seconds
        self._started = time.monotonic()
        self._shown = self._started
        self._width = 0
        self._done = 0
        self._news = True
        self._facts: dict[str, object] = {}

    def advance(self, count: int = 1, **facts: object) -> None:
        """Counts `count` more parts; `facts` are shown behind the count."""
        self._done += count
        self.note(**facts)
        if time.monotonic() - self._shown >= self._interval:
            self._show(end="" if self._display.live else "\n")

    def note(self, **facts: object) -> None:
        """Changes what is shown behind the count, without counting."""
        self._facts |= facts
        self._news = True

    def _show(self, end: str) -> None:
        self._shown, self._news = time.monotonic(), False
        seconds = self._shown - self._started
        facts = "  ".join(f"{name} {value}" for name, value in self._facts.items())
        line = f"{self._label}: {self._done}/{self._total}  {seconds:.0f} s  {facts}".rstrip()
        begin = "\r\x1b[2K" if self._display.erases else "\r" if self._display.live else ""
        blanks = " " * max(0, self._width - len(line)) if self._display.live and not self._display.erases else ""
        self._width = len(line)
        self._display.write(f"{begin}{line}{blanks}{end}")

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Shows the last count, where it is not what was shown last."""
        if self._news or self._display.live:
            self._show(end="\n")
