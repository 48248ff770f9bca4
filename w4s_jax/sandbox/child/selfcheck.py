"""Tries once, in a guarded probe, what each layer forbids: a layer is believed only when it held.

zygote ─ fork ─ guard on ─ run() ─ one line per leak ─ zygote ─ pool
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from . import guard

DONE = "done"
_DENIALS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EROFS, errno.ENOENT)
"""What a forbidden call answers; the last two where the namespaces left nothing to act on."""
_PR_GET_DUMPABLE, _PR_GET_NO_NEW_PRIVS = 3, 39


def run(
    layers: guard.Guard, limits: guard.ChildLimits, zygote: int, writer: int, kept: set[int], config: dict[str, Any]
) -> NoReturn:
    """Guards this process, writes each leak as a line and then DONE, and exits."""
    status = 1
    try:
        layers.enter(limits, 0, zygote, {writer, *kept})
        lines = [*_leaks(layers, config), DONE]
        os.write(writer, "\n".join(lines).encode())
        status = 0
    except OSError as error:
        os.write(writer, f"the guard cannot be put on: {error}".encode())
    finally:
        os._exit(status)


def _leaks(layers: guard.Guard, config: dict[str, Any]) -> Iterator[str]:
    for name, attempt in _ATTEMPTS.items():
        if not _denied(attempt):
            yield f"{name} was not stopped"
    for path in config["forbidden"]:
        if not _denied(lambda p=path: os.close(os.open(p, os.O_RDONLY))):  # type: ignore[misc]
            yield f"landlock: {path} could be read"
    libc = ctypes.CDLL(None)
    if libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1:
        yield "no_new_privs is off"
    if libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        yield "the child can be dumped"
    if layers.uid_base is not None and os.getuid() == 0:
        yield "the child is root"
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != layers.file_bytes:
        yield "the child may write larger files"
    yield from _imports()


def _imports() -> Iterator[str]:
    """What has to work: a module of the standard library that the zygote did not load."""
    try:
        importlib.import_module("colorsys")
    except ImportError as error:
        yield f"the standard library cannot be read by a guarded child: {error}"


def _denied(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError as error:
        return error.errno in _DENIALS
    return False


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _call(number: int, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "syscall")


_ATTEMPTS: dict[str, Callable[[], object]] = {
    "landlock: listing /": lambda: os.listdir("/"),
    "landlock: making a file": lambda: os.close(os.open("/tmp/w4s-probe", os.O_CREAT | os.O_WRONLY)),
    "landlock: making a folder": lambda: os.mkdir("/tmp/w4s-probe-folder"),
    "seccomp: fork": _fork,
    "seccomp: exec": lambda: os.execv("/bin/true", ["true"]),
    "seccomp: internet socket": lambda: socket.socket(socket.AF_INET),
    "seccomp: unix socket": lambda: socket.socket(socket.AF_UNIX),
    "seccomp: signal to the zygote": lambda: os.kill(os.getppid(), 0),
    "seccomp: signal to everybody": lambda: os.kill(-1, signal.SIGCONT),
    "seccomp: chmod": lambda: os.chmod("/", 0o755),
    "seccomp: utime": lambda: os.utime("/"),
    "seccomp: limits of others": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU),
    "seccomp: clone3": lambda: _call(435, 0, 0),
    "seccomp: io_uring": lambda: _call(425, 1, 0),
}
