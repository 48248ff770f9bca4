"""Errors as users read them: one line, with the name of what failed.

a library's error → **first_line** | **one_line** | **named_errors** → one of the `types.W4sError` tree
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from w4s_jax.types import W4sError


def first_line(error: BaseException, limit: int = 200) -> str:
    r"""The first line of an error's text, or its type where it has none.

    Example:
        >>> first_line(OSError("no such model\nTraceback …")), first_line(TimeoutError())
        ('no such model', 'TimeoutError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]


def one_line(text: str, limit: int = 400) -> str:
    r"""A whole text on one line, its spaces and line ends as single spaces.

    Example:
        >>> one_line("too   long\n for a line", limit=8)
        'too lon…'
    """
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


@contextlib.contextmanager
def named_errors(name: Callable[[Exception], Exception], *caught: type[Exception]) -> Iterator[None]:
    """Raises the error that `name` makes of one that was caught; an error of our own passes as it is.

    Args:
        name: Makes the error that users read of the one that was raised, which becomes its cause.
        caught: The types that are named; OSError where none is given.

    Raises:
        W4sError: What `name` made, or an error of our own.

    Example:
        >>> with named_errors(lambda error: W4sError(f"prices.json: {error}"), ValueError):
        ...     int("x")
        Traceback (most recent call last):
        w4s_jax.types.W4sError: prices.json: invalid literal for int() with base 10: 'x'
    """
    kinds = caught or (OSError,)
    try:
        yield
    except W4sError:
        raise
    except kinds as error:
        raise name(error) from error
