"""The C library by ctypes, bound once in the zygote so that children need not look anything up.

zygote ─ libc() ─ fork ─ guard's prctl, capset and landlock calls
"""

from __future__ import annotations

import ctypes
import functools
import os


@functools.cache
def libc() -> ctypes.CDLL:
    """The loaded C library, with errno kept for `check`."""
    return ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """Returns the result of a call to `libc`.

    Raises:
        OSError: It was negative.
    """
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def prctl(option: int, value: int, pointer: object = None) -> None:
    """`prctl(2)` with one or two arguments.

    Raises:
        OSError: The kernel refused it.
    """
    check(libc().prctl(option, ctypes.c_ulong(value), pointer, None, None), f"prctl({option})")
