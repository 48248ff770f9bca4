"""Runs a finished workflow in production: one file, any OpenAI-compatible client, no JAX.

workflow file → **load_workflow** → LoadedWorkflow(question) → sandbox ⇄ client.chat.completions → answer

The file is code that a language model wrote, so it runs in the sandbox here as well, with the
same limits; what a call may not do is told to the workflow as in the search. What the search had
around it stays behind: no cache, no ledger, no cap in USD but the number of choices a question;
retries and timeouts are the client's own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import inspect
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from w4s_jax.executor.dialect import Dialect, holds_object, known_dialect, parameter_not_taken, text_at_fault
from w4s_jax.sandbox import DEFAULT_PACKAGES, open_sandbox
from w4s_jax.types import (
    CallRefusedError,
    ChatRequest,
    InputError,
    Limits,
    LLMCall,
    RunStatus,
    Sandbox,
    SandboxError,
    SolverInput,
    W4sError,
)
from w4s_jax.workflows import load_workflow_file

Answer = str | int | float | bool | None
"""What a workflow answers with."""

_MOST_LESSONS = 6
"""Parameters that a model may turn out not to take."""
_JSON_TRIES = 4
"""Replies without the JSON that was asked for, of one call; the last is given as it is."""


class WorkflowError(W4sError, RuntimeError):
    """The workflow broke on a question: it raised, hit a limit, or returned no answer."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback
        """Frames of the workflow's own code."""


class _Model(NamedTuple):
    """Who answers the calls of a question."""

    client: Any
    name: str
    loop: asyncio.AbstractEventLoop | None = None
    """Where an asynchronous client lives; None for the workflow's own."""


def load_workflow(
    path: str | Path,
    *,
    client: Any = None,
    model: str = "",
    sandbox: str = "auto",
    packages: Sequence[str] = DEFAULT_PACKAGES,
    allow_unsafe_sandbox: bool = False,
    item_timeout: float = 60.0,
    max_calls: int = 64,
    max_tokens: int | None = None,
    workers: int | None = None,
    concurrency: int = 64,
) -> LoadedWorkflow:
    """Loads a workflow file; the sandbox starts with the first question.

    Args:
        path: of the Python file, e.g. `runs/optimize/workflows/best.py`.
        client: with `chat.completions.create`: `openai.OpenAI()`, `openai.AsyncOpenAI()` or one that speaks like
            them; here for every question, or with each one.
        model: name of the model at the client's server; here or with each question.
        sandbox: `auto`, `bwrap`, `guard` or `process`.
        packages: distributions that the workflow may import.
        allow_unsafe_sandbox: lets `process` run while an API key is in the environment.
        item_timeout: seconds that the workflow may compute on a question; waiting for the model does not count.
        max_calls: most choices that one question may ask for.
        max_tokens: most completion tokens a choice; None leaves it to the workflow and the model.
        workers: children that compute at a time; the number of cores where None.
        concurrency: calls of a synchronous client that are on their way at once, a thread each.

    Raises:
        InputError: the file cannot be read or holds no `solver`, or a limit is none.

    Example:
        >>> workflow = load_workflow("best.py", client=openai.OpenAI(), model="gpt-4o-mini")  # doctest: +SKIP
        >>> workflow("What is 2 + 2?")  # doctest: +SKIP
        '4'
    """
    for name, value in (("item_timeout", item_timeout), ("max_calls", max_calls), ("concurrency", concurrency)):
        if not value > 0:
            raise InputError(f"{name}={value} is not allowed; give more than 0")
    return LoadedWorkflow(
        Path(path),
        _Model(client, model),
        _Sandboxed(sandbox, tuple(packages), workers, allow_unsafe_sandbox, concurrency),
        Limits(wall_seconds=item_timeout),
        max_calls=max_calls,
        max_tokens=max_tokens,
    )


class LoadedWorkflow:
    """A workflow that answers questions; may be called from several threads, and closed.

    Attributes:
        name: of the file.
        code: its text.
    """

    def __init__(
        self,
        path: Path,
        model: _Model,
        sandboxed: _Sandboxed,
        limits: Limits,
        *,
        max_calls: int,
        max_tokens: int | None,
    ) -> None:
        self._workflow = load_workflow_file(path)
        self.name, self.code = self._workflow.name, self._workflow.code
        self._model, self._sandboxed, self._limits = model, sandboxed, limits
        self._max_calls, self._max_tokens = max_calls, max_tokens
        self._dialects: dict[str, Dialect] = {}
        weakref.finalize(self, sandboxed.close).atexit = False  # whoever forgets it leaves no process behind

    def __call__(
        self,
        question: str,
        *,
        client: Any = None,
        model: str = "",
        entry_point: str | None = None,
        public_tests: Sequence[str] = (),
    ) -> Answer:
        """Answers one question, and waits for it.

        Args:
            question: the `task` of `solver`.
            client: instead of the one it was loaded with.
            model: likewise.
            entry_point: name of the function to write, for code.
            public_tests: assertions that the workflow may run, for code.

        Raises:
            WorkflowError: the workflow broke.
            InputError: no client or no model is given, or no sandbox works on this machine.
            SandboxError: the sandbox failed, or was closed meanwhile.
            Exception: whatever the client raises.
        """
        return self._start(question, _Model(client, model), entry_point, public_tests).result()

    async def answer(
        self,
        question: str,
        *,
        client: Any = None,
        model: str = "",
        entry_point: str | None = None,
        public_tests: Sequence[str] = (),
    ) -> Answer:
        """As calling it, from an event loop, on which an asynchronous client is then used."""
        asked = _Model(client, model, asyncio.get_running_loop())
        return await asyncio.wrap_future(self._start(question, asked, entry_point, public_tests))

    def close(self) -> None:
        """Ends the sandbox and the questions that are on their way; a further question starts a new one.

        An asynchronous client that was used by a synchronous caller lives on the loop that ends here.
        """
        self._sandboxed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _start(
        self, question: str, asked: _Model, entry_point: str | None, public_tests: Sequence[str]
    ) -> concurrent.futures.Future[Answer]:
        if not isinstance(question, str):
            raise InputError(f"question={question!r} is a {type(question).__name__}; give a text")
        client = self._model.client if asked.client is None else asked.client
        chosen = _Model(client, asked.name or self._model.name, asked.loop)
        if chosen.client is None or not chosen.name:
            lacking = "client" if chosen.client is None else "model"
            raise InputError(
                f"workflow {self.name} has no {lacking}; give client=openai.OpenAI() and model=NAME to load_workflow, "
                "or with the question"
            )
        given = SolverInput(question=question, entry_point=entry_point, public_tests=tuple(public_tests))
        return self._sandboxed.submit(lambda box: self._run(box, given, chosen))

    async def _run(self, sandbox: Sandbox, given: SolverInput, model: _Model) -> Answer:
        dialect = self._dialects.get(model.name, known_dialect(model.name))
        asker = _Asker(
            model, dialect, self._sandboxed.in_thread, max_calls=self._max_calls, max_tokens=self._max_tokens
        )
        run = await sandbox.run_workflow(self._workflow, given, asker.ask, self._limits)
        self._dialects[model.name] = asker.dialect
        if asker.failure is not None:  # whatever the workflow made of it, the fault was the client's
            raise asker.failure
        if run.status is not RunStatus.OK:
            raise WorkflowError(f"workflow {self.name} broke: {run.error or run.status.value}", run.traceback)
        answer: Answer = run.answer
        return answer


InThread = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Calls a function in a thread of its own."""


class _Asker:
    """The calls of one question."""

    def __init__(
        self, model: _Model, dialect: Dialect, in_thread: InThread, *, max_calls: int, max_tokens: int | None
    ) -> None:
        self._model, self._in_thread = model, in_thread
        self._left, self._max_tokens = max_calls, max_tokens
        self.dialect = dialect
        """What the model takes, as far as it is known."""
        self.failure: Exception | None = None
        """Of the client; whatever the workflow makes of it."""

    async def ask(self, call: LLMCall) -> Sequence[str]:
        """Answers one call of the workflow.

        Raises:
            CallRefusedError: the question has asked for too much, or the model refuses the text; the workflow is told.
            Exception: whatever the client raises.
        """
        if call.n > self._left:
            raise CallRefusedError(f"n={call.n} with {self._left} choices left of this question; ask for fewer")
        self._left -= call.n
        request = call.request(self._model.name, self._max_tokens)
        for _ in range(_JSON_TRIES):
            texts = await self._texts(request)
            if not call.json_mode or any(map(holds_object, texts)):
                break
        return texts

    async def _texts(self, request: ChatRequest) -> Sequence[str]:
        """Texts of all choices, in as many requests as the model needs for them."""
        texts: list[str] = []
        for _ in range(_MOST_LESSONS + request.n):
            n = request.n - len(texts) if self.dialect.n else 1
            payload = self.dialect.payload(dataclasses.replace(request, n=n))
            with (captured := _Captured(asyncio.CancelledError)):
                texts += await self._created(payload)
            if captured.error is not None:
                if self._learns_from(captured.error, payload):
                    continue
                self.failure = captured.error
                raise captured.error
            if len(texts) >= request.n:
                return texts[: request.n]
            self.dialect = self.dialect.without("n")  # it answered with fewer than were asked for
        self.failure = InputError(f"model {self._model.name!r} gave {len(texts)} of {request.n} choices; take another")
        raise self.failure

    def _learns_from(self, error: Exception, payload: Mapping[str, Any]) -> bool:
        """Whether the request goes out again without a parameter that the model does not take.

        Raises:
            CallRefusedError: the text is at fault.
        """
        status = getattr(error, "status_code", None)
        if status not in (400, 413, 422):
            return False
        told, named = str(error), getattr(error, "param", None)
        parameter = parameter_not_taken(told, named, payload)
        if parameter is None and text_at_fault(status, getattr(error, "code", None), named, told):
            raise CallRefusedError(told[:400]) from error
        if parameter is not None:
            self.dialect = self.dialect.without(parameter)
        return parameter is not None

    async def _created(self, payload: Mapping[str, Any]) -> list[str]:
        completion = await self._in_thread(lambda: self._model.client.chat.completions.create(**payload))
        if inspect.isawaitable(completion):
            completion = await self._awaited(_tamed(completion))
        return [choice.message.content or "" for choice in completion.choices or ()]

    async def _awaited(self, reply: Coroutine[Any, Any, Any]) -> Any:
        """The reply of an asynchronous client, on the loop where the client lives."""
        loop = self._model.loop
        return await (reply if loop is None else asyncio.wrap_future(asyncio.run_coroutine_threadsafe(reply, loop)))


async def _tamed(reply: Awaitable[Any]) -> Any:
    with (captured := _Captured(asyncio.CancelledError)):
        return await reply
    assert captured.error is not None
    raise captured.error


class _Captured:
    """Keeps what a client raises, as an error that neither ends a loop nor is taken for an end of iteration."""

    def __init__(self, passes: type[BaseException] | tuple[type[BaseException], ...] = ()) -> None:
        self._passes = passes
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        if error is None or isinstance(error, self._passes):
            return False
        if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
            self.error = error
        else:
            self.error = RuntimeError(f"the client raised {type(error).__name__}: {error}")
            self.error.__cause__ = error
        return True


# --- where it runs --------------------------------------------------------------


class _Sandboxed:
    """A sandbox on an event loop of its own, in a thread of its own, started when it is needed."""

    def __init__(
        self, name: str, packages: tuple[str, ...], workers: int | None, allow_unsafe: bool, concurrency: int
    ) -> None:
        self._name, self._packages, self._workers, self._unsafe = name, packages, workers, allow_unsafe
        self._concurrency = concurrency
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._pid = os.getpid()

    def submit(self, work: Callable[[Sandbox], Coroutine[Any, Any, Answer]]) -> concurrent.futures.Future[Answer]:
        """Runs `work(sandbox)` on the loop.

        Raises:
            InputError: no sandbox works on this machine.
            SandboxError: it cannot be started.
        """
        self._forget_before_fork()
        with self._lock:
            if self._running is None or not self._running.thread.is_alive():
                self._running = self._start()
            running = self._running
            return asyncio.run_coroutine_threadsafe(_until_closed(work(running.sandbox), running.ended), running.loop)

    async def in_thread(self, function: Callable[[], Any]) -> Any:
        """Calls a function in a thread that nobody waits for when the program ends.

        Raises:
            Exception: what it raises; what would end the loop becomes a RuntimeError.
        """
        loop, running = asyncio.get_running_loop(), self._running
        assert running is not None
        reply: asyncio.Future[Any] = loop.create_future()

        def call() -> None:
            with (captured := _Captured()):
                value = function()
                _tell(loop, reply.set_result, reply, value)
                return
            _tell(loop, reply.set_exception, reply, captured.error)

        async with running.slots:
            threading.Thread(target=call, name="w4s_jax-call", daemon=True).start()
            return await reply

    def close(self) -> None:
        """Ends it, if it runs."""
        self._forget_before_fork()
        with self._lock:
            running, self._running = self._running, None
        if running is None or not running.thread.is_alive():
            return
        running.loop.call_soon_threadsafe(running.ended.set)
        if running.thread is not threading.current_thread():
            running.thread.join()

    def _forget_before_fork(self) -> None:
        """In a forked child there is neither the loop's thread nor who holds the lock."""
        if self._pid != os.getpid():
            self._pid, self._lock, self._running = os.getpid(), threading.Lock(), None

    def _start(self) -> _Running:
        ready: concurrent.futures.Future[_Running] = concurrent.futures.Future()

        def serve() -> None:
            with (captured := _Captured()):
                asyncio.run(self._live(ready))
                return
            if not ready.done():
                ready.set_exception(captured.error)

        threading.Thread(target=serve, name="w4s_jax-sandbox", daemon=True).start()
        return ready.result()

    async def _live(self, ready: concurrent.futures.Future[_Running]) -> None:
        async with contextlib.AsyncExitStack() as stack:
            sandbox = await stack.enter_async_context(
                open_sandbox(self._name, packages=self._packages, workers=self._workers, allow_unsafe=self._unsafe)
            )
            running = _Running(
                sandbox=sandbox,
                loop=asyncio.get_running_loop(),
                thread=threading.current_thread(),
                ended=asyncio.Event(),
                slots=asyncio.Semaphore(self._concurrency),
            )
            ready.set_result(running)
            await running.ended.wait()
            questions = asyncio.all_tasks() - {asyncio.current_task()}
            for question in questions:
                question.cancel()
            await asyncio.gather(*questions, return_exceptions=True)


class _Running(NamedTuple):
    """A sandbox that runs."""

    sandbox: Sandbox
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    ended: asyncio.Event
    slots: asyncio.Semaphore
    """Of threads for a synchronous client's calls."""


async def _until_closed(question: Coroutine[Any, Any, Answer], ended: asyncio.Event) -> Answer:
    try:
        return await question
    except asyncio.CancelledError:
        if ended.is_set():
            raise SandboxError("the workflow was closed while it answered; ask again to start it anew") from None
        raise


def _tell(
    loop: asyncio.AbstractEventLoop, setter: Callable[[Any], None], reply: asyncio.Future[Any], value: Any
) -> None:
    """Hands a thread's outcome to its loop, if anybody still waits for it."""
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(lambda: None if reply.done() else setter(value))
