"""Who runs the coroutine of a run: a command with its signals, a script, a notebook.

run_rlao, run_search, run_evaluation → **Runner** → result; call from anywhere → **Worker** (a thread, a loop) → result

A call of the library runs on an event loop of its own in a thread of its own, so that it works where a loop is
running already, and beside others of its kind. It sets no handler of a signal: Ctrl-C reaches the caller, who waits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from w4s_jax.run.progress import note

T = TypeVar("T")

_LOOK_SECONDS = 0.2
"""How often a waiting call looks for Ctrl-C: `_thread.interrupt_main` does not wake one that waits on a lock."""

Runner = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end and returns its result; decides what signals do meanwhile."""


class Worker(Generic[T]):
    """One call in a thread of its own, which can be stopped from outside.

    Example:
        >>> Worker(lambda runner: runner(asyncio.sleep(0, "done"))).result("call again")
        'done'
    """

    def __init__(self, work: Callable[[Runner], T]) -> None:
        """Takes what the thread does with the runner it is given."""
        self._work = work
        self._lock = threading.Lock()
        self._stopping = False
        self._stop: Callable[[], object] = lambda: None

    def result(self, resume: str) -> T:
        """Starts it and waits. The first Ctrl-C stops the work, which saves and may still have a result.

        Args:
            resume: One line: how to go on after an interrupt.

        Raises:
            KeyboardInterrupt: It was interrupted before there was a result, or twice.
            BaseException: Whatever the work raises.
        """
        thread = self._thread()
        future = self._start(thread)
        try:
            found = self._waited(future, resume)
        except KeyboardInterrupt:
            thread.shutdown(wait=future.done())  # after a second interrupt nobody waits
            raise
        except BaseException:
            thread.shutdown()
            raise
        thread.shutdown()
        return found

    async def awaited(self) -> T:
        """Starts it and waits on the caller's loop; a cancellation stops the work, lets it save, and is raised.

        Raises:
            BaseException: Whatever the work raises.
        """
        thread = self._thread()
        waiting = asyncio.wrap_future(self._start(thread))
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            self.stop()
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                waiting.exception()  # looked at: the cancellation is what is raised
            raise
        finally:
            thread.shutdown()

    def stop(self) -> None:
        """Cancels the work's coroutine, at once or when it starts."""
        with self._lock:
            self._stopping = True
            with contextlib.suppress(RuntimeError):  # its loop has ended
                self._stop()

    def _waited(self, future: concurrent.futures.Future[T], resume: str) -> T:
        try:
            while not future.done():  # an interrupt that another thread was given is seen between two waits
                concurrent.futures.wait([future], timeout=_LOOK_SECONDS)
            return future.result()
        except KeyboardInterrupt:
            if future.done():  # raised by the work, not by who waits
                raise
            note("\nstopping: finishing what cannot be interrupted …")
            self.stop()
        try:
            return future.result()
        except asyncio.CancelledError:
            raise KeyboardInterrupt(f"stopped; everything finished is stored. {resume}") from None

    @staticmethod
    def _thread() -> concurrent.futures.ThreadPoolExecutor:
        return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="w4s_jax-run")

    def _start(self, thread: concurrent.futures.ThreadPoolExecutor) -> concurrent.futures.Future[T]:
        return thread.submit(contextvars.copy_context().run, self._work, self._run)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The runner: a loop of its own, whose one task `stop` cancels."""

        async def stoppable() -> Any:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            with self._lock:
                self._stop = lambda: loop.call_soon_threadsafe(task.cancel)
                if self._stopping:
                    self._stop()
            return await work

        return asyncio.run(stoppable())
