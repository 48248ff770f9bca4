"""One zygote as the pool sees it: starts it, has it spawn and kill children, hears of their ends.

Recipe ─ Link.start ─ Link.spawn(limits) ─ Child(socket, exited) ─ pool

All of it runs in one event loop, without threads.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import math
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from w4s_jax.errors import named_errors
from w4s_jax.sandbox.child import frames
from w4s_jax.sandbox.child.zygote import COMMAND, EXIT, KILL, NOT_FORKED, PAUSE, RESUME, SPAWN, STARTED
from w4s_jax.sandbox.isolation import Recipe
from w4s_jax.sandbox.protocol import BreachError, Frames
from w4s_jax.types import Limits, SandboxError

START_SECONDS = 30.0
_LEAVE_SECONDS = 0.2
_READ = 1 << 16
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


class ZygoteDied(Exception):
    """The zygote is gone, and all its children with it."""


class NoRoom(Exception):
    """The machine has no room for another process or descriptor just now."""


class UnusableError(SandboxError):
    """This back end does not work on this machine; the message says why."""


class Exit(NamedTuple):
    """How a child ended."""

    status: int
    """As of `os.wait`."""
    cpu_seconds: float


class Child:
    """One forked child: its socket and the news of its end."""

    def __init__(self, link: Link, child_id: int, sock: socket.socket, most: int) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self.id = child_id
        self.exited: asyncio.Future[Exit] = self._loop.create_future()
        self._sock = sock
        self._frames = Frames(most)
        self._paused = False
        self.received = 0
        """Bytes."""

    async def start(self) -> None:
        """Waits until the guard is on.

        Raises:
            NoRoom: No process could be made.
            ZygoteDied: The zygote died, or could not guard the child.
        """
        data = await self._receive()
        if data[:1] != STARTED:
            ended = await asyncio.shield(self.exited)
            raise NoRoom if ended.status == NOT_FORKED else ZygoteDied  # user code never ran: the failure is ours
        self._frames.feed(data[1:])

    async def next_frame(self) -> dict[str, Any] | None:
        """The child's next message, or None where it is gone.

        Raises:
            BreachError: It sent something else.
        """
        while (frame := self._frames.take()) is None:
            data = await self._receive()
            if not data:
                return None
            self._frames.feed(data)
        return frame

    async def send(self, message: object) -> None:
        """Sends one message; a child that is gone does not read it."""
        with contextlib.suppress(ConnectionError):
            await self._loop.sock_sendall(self._sock, frames.encode(message))

    def pause(self) -> None:
        """Stops all its threads, until `resume`."""
        if not self.exited.done():
            self._paused = True
            self._link.signal(PAUSE, self.id)

    def resume(self) -> None:
        """Lets it go on, where it was stopped."""
        if self._paused and not self.exited.done():
            self._paused = False
            self._link.signal(RESUME, self.id)

    def end(self, *, finished: bool) -> None:
        """Closes the socket and kills the child; one that has `finished` gets a moment to leave by itself."""
        self._sock.close()
        if finished:
            self._loop.call_later(_LEAVE_SECONDS, self._kill)
        else:
            self._kill()

    def _kill(self) -> None:
        if not self.exited.done():
            self._link.signal(KILL, self.id)

    async def _receive(self) -> bytes:
        try:
            data = await self._loop.sock_recv(self._sock, _READ)
        except ConnectionError:
            return b""
        self.received += len(data)
        return data


class Link:
    """The pool's end of one zygote."""

    def __init__(self, recipe: Recipe, ids: Iterator[int]) -> None:
        """Starts nothing.

        Args:
            recipe: Of the zygote.
            ids: Of its children, which choose their user ids: to be shared by all links that run at a time.
        """
        self._recipe = recipe
        self._ids = ids
        self._children: dict[int, Child] = {}
        self._heard = b""
        self._outbox: collections.deque[tuple[bytes, socket.socket | None]] = collections.deque()
        self._control: socket.socket
        self._process: subprocess.Popen[bytes] | None = None
        self.dead = True
        self.layers: tuple[str, ...] = ()
        """What the zygote's children put on, by its own account, which a probe has tried."""

    async def start(self) -> None:
        """Starts the zygote and waits until it has checked its layers.

        Raises:
            UnusableError: It did not start, or a layer did not hold.
            NoRoom: There was no room for another process or descriptor.
        """
        with named_errors(self._refused), tempfile.TemporaryFile() as stderr:
            process = self._popen(stderr)
            try:
                report = await self._handshake()
            except asyncio.CancelledError:
                self.close()
                raise
            if report is None:
                process.kill()
                code = process.wait()
                stderr.seek(0)
                said = stderr.read().decode("utf-8", "replace").strip().splitlines()
                report = {"leaks": [said[-1] if said else f"the zygote ended with code {code}"], "layers": []}
        if report["leaks"]:
            self.close()
            raise UnusableError(f"sandbox {self._recipe.name!r} does not work here: {'; '.join(report['leaks'])}")
        _kill_first(process.pid)
        self.layers = tuple(report["layers"])
        self.dead = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._control.fileno(), self._hear)

    def _popen(self, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        """Starts the process with one end of a new control socket."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    self._recipe.command(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    env=self._recipe.environment,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError:
                self._control.close()
                raise
        return self._process

    def _refused(self, error: Exception) -> Exception:
        """What the kernel refuses: for want of room, which may pass, or for good."""
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return NoRoom(str(error))
        return UnusableError(f"sandbox {self._recipe.name!r} does not work here: {error}")

    async def _handshake(self) -> dict[str, list[str]] | None:
        """Sends the config; returns the leaks and layers that the zygote found, or None where it died or broke."""
        self._control.setblocking(False)
        loop = asyncio.get_running_loop()
        answer = Frames(frames.MAX_REQUEST)
        try:
            async with asyncio.timeout(START_SECONDS):
                await loop.sock_sendall(self._control, frames.encode(dict(self._recipe.config)))
                while (message := answer.take()) is None:
                    data = await loop.sock_recv(self._control, _READ)
                    if not data:
                        return None
                    answer.feed(data)
        except (OSError, BreachError):  # TimeoutError is an OSError
            return None
        return {name: [str(line) for line in message[name]] for name in ("leaks", "layers")}

    def spawn(self, limits: Limits) -> Child:
        """Forks one child.

        Raises:
            ZygoteDied: There is no zygote.
            NoRoom: This process may open no more descriptors.
        """
        if self.dead:
            raise ZygoteDied
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            raise NoRoom from None
        ours.setblocking(False)
        most = max(frames.MAX_REQUEST, limits.output_bytes + 4096)
        child = Child(self, next(self._ids) & 0xFFFFFFFF, ours, most)
        self._children[child.id] = child
        self._send(SPAWN, child.id, limits, theirs)
        return child

    def signal(self, operation: bytes, child_id: int) -> None:
        """Kills, stops or continues a child; nothing where it, or the zygote, is gone."""
        if not self.dead:
            self._send(operation, child_id, Limits(), None)

    def _send(self, operation: bytes, child_id: int, limits: Limits, sock: socket.socket | None) -> None:
        """Sends a command, now or as soon as the zygote reads; `sock` goes with it and is closed here."""
        record = COMMAND.pack(
            operation, child_id, math.ceil(limits.cpu_seconds), limits.memory_bytes, limits.output_bytes
        )
        self._outbox.append((record, sock))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        """Sends what the zygote takes; never waits, because the zygote may be waiting for us to read."""
        fd = self._control.fileno()
        try:
            while self._outbox:
                record, sock = self._outbox[0]
                socket.send_fds(self._control, [record], [sock.fileno()] if sock else [])
                if sock:
                    sock.close()
                self._outbox.popleft()
        except BlockingIOError:
            self._loop.add_writer(fd, self._flush)
        except OSError:
            self.close()  # it is gone
        else:
            self._loop.remove_writer(fd)

    def _hear(self) -> None:
        """Takes in reports of ended children."""
        try:
            data = self._control.recv(EXIT.size * 256)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()  # it is gone
            return
        self._heard += data
        whole = len(self._heard) // EXIT.size * EXIT.size
        reports, self._heard = self._heard[:whole], self._heard[whole:]
        for child_id, status, cpu in EXIT.iter_unpack(reports):
            child = self._children.pop(child_id, None)
            if child is not None:
                child.exited.set_result(Exit(status, cpu))

    def close(self) -> None:
        """Ends the zygote and all its children, and waits for it; of one that is gone, takes note."""
        self._let_go()
        self._wait()

    async def leave(self) -> None:
        """The same, without keeping the event loop waiting."""
        self._let_go()
        await asyncio.to_thread(self._wait)

    def _let_go(self) -> None:
        """Closes our end of the socket, which ends the zygote: every child's end is that of the zygote."""
        if not self.dead:
            self._loop.remove_reader(self._control.fileno())
            self._loop.remove_writer(self._control.fileno())
        self.dead = True
        for _, sock in self._outbox:
            if sock:
                sock.close()
        self._outbox.clear()
        if self._process is not None:
            self._control.close()
        for child in self._children.values():
            child.exited.set_exception(ZygoteDied())
            child.exited.exception()  # marked as seen: not every run still waits for it
        self._children.clear()

    def _wait(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None


def _kill_first(pid: int) -> None:
    """Makes the kernel take a process and all that it starts before anybody else where memory runs out."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                _kill_first(int(child))
