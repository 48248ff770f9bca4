"""The file-system guard: read-only on a few folders, nothing anywhere else.

zygote ─ prepare(rules) once ─ ruleset descriptor ─ child ─ enforce() ─ user code

Landlock's rights grew with its ABI; every right that the running kernel knows is
handled, so all that is not granted is denied. It does not cover stat, chmod, chown,
utime and xattr: the seccomp filter does. https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from .libc import check, libc

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_CREATE_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_RIGHTS_BY_ABI = ((1, 13), (2, 14), (3, 15), (5, 16))
"""(ABI, number of file-system rights from that ABI on)."""
_WRITE_BENEATH = _READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 13
"""All that files and folders need: remove both, make both, move between folders; no device, socket, pipe or link."""
_NET_RIGHTS, _SCOPES = 0b11, 0b11
"""bind and connect by TCP (ABI 4); abstract UNIX sockets and signals (ABI 6)."""


def abi() -> int:
    """The kernel's Landlock ABI, 0 where there is none."""
    return max(0, int(libc().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(_CREATE_VERSION))))


def prepare(read_only: Iterable[str], writable_devices: Iterable[str], scratch: str | None = None) -> int:
    """Builds a ruleset and returns its descriptor.

    Args:
        read_only: Files and folders that may be read; missing ones are left out.
        writable_devices: Device files that may be read and written.
        scratch: Folder beneath which files and folders may be made.

    Raises:
        OSError: The kernel has no Landlock, or refuses a rule.
    """
    version = abi()
    if version < 1:
        raise OSError("this kernel does not enforce Landlock")
    handled = (1 << max(count for since, count in _RIGHTS_BY_ABI if since <= version)) - 1
    attributes = struct.pack("=QQQ", handled, _NET_RIGHTS if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    attributes = attributes[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = check(libc().syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0)), "landlock")
    for path in read_only:
        _allow(ruleset, path, handled & (_READ_FILE | _READ_DIR))
    for path in writable_devices:
        _allow(ruleset, path, handled & (_READ_FILE | _WRITE_FILE | _TRUNCATE))
    if scratch is not None:
        _allow(ruleset, scratch, handled & _WRITE_BENEATH)
    return ruleset


def enforce(ruleset: int) -> None:
    """Restricts the calling thread and its later threads, for ever; needs no_new_privs.

    Raises:
        OSError: The kernel refused it.
    """
    check(libc().syscall(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0)), "landlock")


def _allow(ruleset: int, path: str, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                rights &= ~_READ_DIR
            rule = struct.pack("=Qi", rights, fd)
            check(
                libc().syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, 0),
                f"landlock {path}",
            )
        finally:
            os.close(fd)
