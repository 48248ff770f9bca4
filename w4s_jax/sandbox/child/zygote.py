"""The warm process that forks one child per item and reaps it; it never runs user code.

pool ─ SPAWN(id, limits, socket) ─ zygote ─ fork ─ guard on ─ runner
     ← EXIT(id, status, cpu)     ─ waitpid

The bare zygote is standard library only; a second one, started when code first names a
package, has imported the named packages, which would cost each child a hundred times more
than all the rest. It speaks fixed-size records with the pool alone; children cannot reach its socket. It
ends, and its children with it, when the pool's end of that socket closes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import os
import random
import select
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from . import frames, guard, runner, selfcheck

COMMAND = struct.Struct("!cIIQQ")
"""Operation, child id, CPU seconds, memory bytes, output bytes."""
SPAWN, KILL, PAUSE, RESUME = b"S", b"K", b"P", b"C"
_SIGNALS = {KILL: signal.SIGKILL, PAUSE: signal.SIGSTOP, RESUME: signal.SIGCONT}
EXIT = struct.Struct("!Iid")
"""Child id, wait status, CPU seconds used."""
NOT_FORKED = -1
"""In place of a wait status: there was no room for another process."""
STARTED = b"\x01"
"""A child's first byte: the guard is on, and from here on a death is the workflow's."""
MAX_CONFIG = 1 << 20


def main(control_fd: int) -> None:
    """Runs until the pool closes its end."""
    control = socket.socket(fileno=control_fd)
    config = frames.read_frame(control_fd, MAX_CONFIG)
    try:
        if config["scratch"] and os.geteuid() == 0:
            guard.bound_files(*config["scratch"])
        zygote = Zygote(control, config)
    except OSError as error:
        frames.write_frame(control_fd, {"leaks": [str(error)], "layers": []})
        return
    leaks = zygote.check(config)
    os.dup2(0, 2)  # /dev/null: what is said from now on is for nobody
    frames.write_frame(control_fd, {"leaks": leaks, "layers": zygote.guard.layers})
    zygote.run()


class Zygote:
    """Forks, kills and reaps children."""

    def __init__(self, control: socket.socket, config: dict[str, Any]) -> None:
        self._control = control
        self._pid = os.getpid()
        self._ids: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        self._kept = _make_imports_reachable(config)
        self.guard = guard.Guard(config)
        self._wake, self._wake_end = os.pipe()
        for fd in (self._wake, self._wake_end):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pool's to handle
        sys.dont_write_bytecode = True
        gc.disable()
        gc.freeze()

    def check(self, config: dict[str, Any]) -> list[str]:
        """Forks a guarded probe that tries what each layer forbids; returns what leaked."""
        if not self.guard.guarded:
            return []
        reader, writer = os.pipe()
        limits = guard.ChildLimits(cpu_seconds=10, memory_bytes=1 << 30, output_bytes=1 << 16)
        pid = os.fork()
        if pid == 0:
            self._forget()
            selfcheck.run(self.guard, limits, self._pid, writer, self._kept, config)
        os.close(writer)
        with os.fdopen(reader, "rb") as report:
            said = report.read(1 << 16).decode()
        os.waitpid(pid, 0)
        lines = said.splitlines()
        return lines[:-1] if lines and lines[-1] == selfcheck.DONE else [*lines, "the probe of the guard died"]

    def run(self) -> None:
        """Serves the pool until it is gone."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._wake:
                    os.read(self._wake, 4096)
                    self._reap()
                elif not self._obey():
                    self._end()
                    return

    def _obey(self) -> bool:
        """Carries out one command; False where the pool is gone."""
        try:
            record, fds, _, _ = socket.recv_fds(self._control, COMMAND.size, 1)
        except OSError:
            return False
        if len(record) != COMMAND.size:
            return False
        operation, child_id, cpu_seconds, memory_bytes, output_bytes = COMMAND.unpack(record)
        if operation in _SIGNALS:
            self._signal(child_id, _SIGNALS[operation])
        elif fds:
            self._spawn(child_id, guard.ChildLimits(cpu_seconds, memory_bytes, output_bytes), fds[0])
        else:  # the machine had no descriptor left for it
            self._report(child_id, NOT_FORKED, 0.0)
        return True

    def _spawn(self, child_id: int, limits: guard.ChildLimits, fd: int) -> None:
        try:
            pid = os.fork()
        except OSError:  # no memory or no pid left
            self._report(child_id, NOT_FORKED, 0.0)
        else:
            if pid == 0:
                self._become_child(child_id, limits, fd)
            self._ids[pid], self._pids[child_id] = child_id, pid
        os.close(fd)

    def _become_child(self, child_id: int, limits: guard.ChildLimits, fd: int) -> None:
        """The child's whole life; never returns."""
        status = 1
        try:
            self._forget()
            _open_own_streams()
            self.guard.enter(limits, child_id, self._pid, {fd, *self._kept})
            gc.enable()
            random.seed(0)  # every item begins with the same state; a fork would draw a new one
            os.write(fd, STARTED)
            runner.serve(fd, limits.output_bytes)
            status = 0
        finally:
            os._exit(status)

    def _forget(self) -> None:
        """Takes the zygote's signal handling off a fresh child."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def _reap(self) -> None:
        while self._ids:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            child_id = self._ids.pop(pid, None)
            if child_id is not None:
                del self._pids[child_id]
                _kill_group(pid)
                self._report(child_id, status, usage.ru_utime + usage.ru_stime)

    def _report(self, child_id: int, status: int, cpu: float) -> None:
        with contextlib.suppress(OSError):  # the pool is gone; `_obey` finds that out
            self._control.sendall(EXIT.pack(child_id, status, cpu))

    def _signal(self, child_id: int, number: signal.Signals) -> None:
        """Signals a child that has not been reaped, since no pid is reused before; kills it with all its group."""
        pid = self._pids.get(child_id)
        if pid is not None:
            os.kill(pid, number)
            if number is signal.SIGKILL:
                _kill_group(pid)

    def _end(self) -> None:
        for child_id in list(self._pids):
            self._signal(child_id, signal.SIGKILL)
        while self._ids:
            pid, _, _ = os.wait4(-1, 0)
            self._ids.pop(pid, None)


def _open_own_streams() -> None:
    """The zygote's streams are one open file for all its children, whose flags one could change for the next."""
    for stream in range(3):
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, stream)
        os.close(null)


def _kill_group(pid: int) -> None:
    """Each child leads a group of its own; a guarded child cannot have added anybody to it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class _NamedPackages:
    """Finds the named packages at their own paths, so that no site-packages folder has to be readable."""

    def __init__(self, paths: dict[str, str]) -> None:
        self._paths = paths

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a named top-level package or module."""
        where = self._paths.get(name) if path is None else None
        if where is None:
            return None
        if not os.path.isdir(where):
            return importlib.util.spec_from_file_location(name, where)
        return importlib.util.spec_from_file_location(
            name, os.path.join(where, "__init__.py"), submodule_search_locations=[where]
        )


def _make_imports_reachable(config: dict[str, Any]) -> set[int]:
    """Points imports at the standard library and the named packages; returns the descriptors this needs.

    A folder that another user cannot reach (an interpreter under /root) is imported through a
    descriptor opened before the user id changes. Folder listings of the standard library are read
    now, because only what is beneath it stays readable, not its site-packages.
    """
    kept: set[int] = set()

    def reachable(path: str) -> str:
        if config["uid_base"] is None or not config["guarded"] or _others_reach(path):
            return path
        fd = os.open(path, os.O_PATH)
        kept.add(fd)
        return f"/proc/self/fd/{fd}"

    moved = {path: reachable(path) for path in config["stdlib"]}
    sys.path[:] = moved.values()
    for module in list(sys.modules.values()):  # packages loaded so far look for submodules at the old place
        for old, new in moved.items():
            if hasattr(module, "__path__"):
                module.__path__ = [p.replace(old, new, 1) if p.startswith(f"{old}/") else p for p in module.__path__]
    sys.path_importer_cache.clear()
    sys.meta_path.append(_NamedPackages({name: reachable(path) for name, path in config["packages"].items()}))
    importlib.util.find_spec("_a_module_that_is_not_there_")
    for name in config["preload"]:
        with contextlib.suppress(ImportError):  # a child that imports it sees the reason
            importlib.import_module(name)
    if "numpy" in sys.modules:  # its global generator, too, begins the same in every item
        importlib.import_module("numpy.random").seed(0)
    return kept


def _others_reach(path: str) -> bool:
    """Whether every folder on the way may be searched by any user."""
    parts = path.rstrip("/").split("/")
    return all(os.stat("/".join(parts[: i + 1]) or "/").st_mode & 0o001 for i in range(len(parts) - 1)) and bool(
        os.stat(path).st_mode & 0o004
    )
