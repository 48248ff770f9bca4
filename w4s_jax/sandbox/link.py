"""One zygote as the pool sees it: starts it, has it spawn and kill children, hears of their ends.

Recipe ─ Link.start ─ Link.spawn(limits) ─ Child(socket, exited) ─ pool

All of it runs in one event loop, without threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import subprocess
import tempfile
from typing import IO, Any, NamedTuple

from w4s_jax.sandbox.child import frames
from w4s_jax.sandbox.child.zygote import COMMAND, EXIT, KILL, SPAWN, STARTED
from w4s_jax.sandbox.isolation import Recipe
from w4s_jax.sandbox.protocol import BreachError, Frames
from w4s_jax.types import Limits, SandboxError

START_SECONDS = 30.0
_SEND_SECONDS = 10.0
_LEAVE_SECONDS = 0.2
_READ = 1 << 16


class ZygoteDied(Exception):
    """The zygote is gone, and all its children with it."""


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
        self._started = False

    async def started(self) -> bool:
        """Waits until the guard is on; False where the child died before."""
        data = await self._receive()
        self._started = data[:1] == STARTED
        self._frames.feed(data[1:])
        return self._started

    async def next_frame(self) -> dict[str, Any] | None:
        """The child's next message, or None where it is gone.

        Raises:
            BreachError: it sent something else.
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

    def end(self, *, finished: bool) -> None:
        """Closes the socket and kills the child; one that has `finished` gets a moment to leave by itself."""
        self._sock.close()
        if finished:
            self._loop.call_later(_LEAVE_SECONDS, self._kill)
        else:
            self._kill()

    def _kill(self) -> None:
        if not self.exited.done():
            self._link.kill(self.id)

    async def _receive(self) -> bytes:
        try:
            return await self._loop.sock_recv(self._sock, _READ)
        except ConnectionError:
            return b""


class Link:
    """The pool's end of one zygote."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._children: dict[int, Child] = {}
        self._next_id = 0
        self._heard = b""
        self._control: socket.socket
        self._process: subprocess.Popen[bytes] | None = None
        self.dead = True

    async def start(self) -> None:
        """Starts the zygote and waits until it has checked its layers.

        Raises:
            UnusableError: it did not start, or a layer did not hold.
        """
        with tempfile.TemporaryFile() as stderr:
            process = self._popen(stderr)
            try:
                leaks = await self._handshake()
            except asyncio.CancelledError:
                self.close()
                raise
            if leaks is None:
                process.kill()
                code = process.wait()
                stderr.seek(0)
                said = stderr.read().decode("utf-8", "replace").strip().splitlines()
                leaks = [said[-1] if said else f"the zygote ended with code {code}"]
        if leaks:
            self.close()
            raise UnusableError(f"sandbox {self._recipe.name!r} does not work here: {'; '.join(leaks)}")
        self.dead = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._control.fileno(), self._hear)

    def _popen(self, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        """Starts the process with one end of a new control socket."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
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
        return self._process

    async def _handshake(self) -> list[str] | None:
        """Sends the config; returns the leaks that the zygote found, or None where it died or broke."""
        self._control.setblocking(False)
        loop = asyncio.get_running_loop()
        answer = Frames(frames.MAX_FRAME)
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
        return [str(leak) for leak in message["leaks"]]

    def spawn(self, limits: Limits) -> Child:
        """Forks one child.

        Raises:
            ZygoteDied: there is no zygote.
        """
        self._next_id = (self._next_id + 1) & 0xFFFFFFFF
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        most = max(frames.MAX_FRAME, limits.output_bytes + 4096)
        child = Child(self, self._next_id, ours, most)
        with theirs:
            try:
                self._send(SPAWN, child.id, limits, theirs)
            except ZygoteDied:
                ours.close()
                raise
        self._children[child.id] = child
        return child

    def kill(self, child_id: int) -> None:
        """Kills a child; nothing where it, or the zygote, is gone."""
        with contextlib.suppress(ZygoteDied):
            self._send(KILL, child_id, Limits(), None)

    def _send(self, operation: bytes, child_id: int, limits: Limits, sock: socket.socket | None) -> None:
        if self.dead:
            raise ZygoteDied
        record = COMMAND.pack(
            operation, child_id, math.ceil(limits.cpu_seconds), limits.memory_bytes, limits.output_bytes
        )
        fds = [sock.fileno()] if sock else []
        try:
            try:
                socket.send_fds(self._control, [record], fds)
            except BlockingIOError:  # a healthy zygote drains its buffer within milliseconds
                self._control.settimeout(_SEND_SECONDS)
                socket.send_fds(self._control, [record], fds)
                self._control.setblocking(False)
        except OSError:
            self._die()
            raise ZygoteDied from None

    def _hear(self) -> None:
        """Takes in reports of ended children."""
        try:
            data = self._control.recv(EXIT.size * 256)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._die()
            return
        self._heard += data
        whole = len(self._heard) // EXIT.size * EXIT.size
        reports, self._heard = self._heard[:whole], self._heard[whole:]
        for child_id, status, cpu in EXIT.iter_unpack(reports):
            child = self._children.pop(child_id, None)
            if child is not None:
                child.exited.set_result(Exit(status, cpu))

    def _die(self) -> None:
        """The zygote is gone: every child's end is that of the zygote."""
        if self.dead:
            return
        self.close()
        for child in self._children.values():
            child.exited.set_exception(ZygoteDied())
            child.exited.exception()  # marked as seen: not every run still waits for it
        self._children.clear()

    def close(self) -> None:
        """Ends the zygote and all its children, and waits for it."""
        if not self.dead:
            self._loop.remove_reader(self._control.fileno())
        self.dead = True
        if self._process is None:
            return
        self._control.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None
