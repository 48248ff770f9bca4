"""Progress of long steps: one live line on a terminal, a line every few seconds elsewhere.

any long step → **standard error**
"""

from __future__ import annotations

import sys
import time
from typing import TextIO


def note(text: str) -> None:
    """Says something once, on standard error."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Counts the parts of one long step.

    Example:
        with Progress("rollouts", total=120) as progress:
            progress.advance(score="0.41")
    """

    def __init__(self, label: str, total: int, *, stream: TextIO | None = None, every_seconds: float = 5.0):
        """Starts at 0 of `total`; prints at most every `every_seconds` where there is no terminal."""
        self._label, self._total = label, total
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._interval = 0.2 if self._live else every_seconds
        self._started = time.monotonic()
        self._printed = self._started
        self._done = 0
        self._facts: dict[str, object] = {}

    def advance(self, count: int = 1, **facts: object) -> None:
        """Counts `count` more parts; `facts` are shown behind the count."""
        self._done += count
        self.note(**facts)
        if time.monotonic() - self._printed >= self._interval:
            self._print(end="" if self._live else "\n")

    def note(self, **facts: object) -> None:
        """Changes what is shown behind the count, without counting."""
        self._facts |= facts

    def _print(self, end: str) -> None:
        self._printed = time.monotonic()
        seconds = self._printed - self._started
        facts = "  ".join(f"{name} {value}" for name, value in self._facts.items())
        line = f"{self._label}: {self._done}/{self._total}  {seconds:.0f} s  {facts}".rstrip()
        self._stream.write(f"\r\x1b[2K{line}{end}" if self._live else f"{line}{end}")
        self._stream.flush()

    def __enter__(self) -> Progress:
        """Returns itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Prints the last count."""
        self._print(end="\n")
