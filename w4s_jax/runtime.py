"""Runs a finished workflow in production: one file, any OpenAI-compatible client, no JAX.

workflow file → **load_workflow** → LoadedWorkflow(question) → sandbox ⇄ client.chat.completions → answer

The file is code that a language model wrote, so it runs in the sandbox here as well, with the
same limits; what a call may not do is refused as in the search. What the search had
around it stays behind: no cache, no ledger, no cap in USD but the number of choices a question;
retries and timeouts are the client's own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import inspect
import logging
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from w4s_jax.errors import first_line, one_line
from w4s_jax.executor.adapter import JSON_TRIES, MAX_LESSONS, Adapter, holds_object
from w4s_jax.executor.base import NotAcceptedFault, RefusedFault
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

_LOG = logging.getLogger(__name__)


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
        path: Of the Python file, e.g. `runs/optimize/workflows/best.py`.
        client: With `chat.completions.create`: `openai.OpenAI()`, `openai.AsyncOpenAI()` or one with
            that method; here for every question, or with each one.
        model: Name of the model at the client's server; here or with each question.
        sandbox: `auto`, `bwrap`, `guard` or `process`.
        packages: Distributions that the workflow may import.
        allow_unsafe_sandbox: Lets `process` run while an API key is in the environment.
        item_timeout: Seconds that the workflow may compute on a question; waiting for the model does not count.
        max_calls: Most choices that one question may ask for.
        max_tokens: Most completion tokens a choice; None leaves it to the workflow and the model.
        workers: Children that compute at a time; the number of cores where None.
        concurrency: Calls of a synchronous client that are on their way at once, a thread each.

    Raises:
        InputError: The file cannot be read or holds no `solver`, or a limit is none.

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
        name: Of the file.
        code: Its text.
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
        self._adapters: dict[str, Adapter] = {}
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
            question: The `task` of `solver`.
            client: Instead of the one it was loaded with.
            model: likewise.
            entry_point: Name of the function to write, for code.
            public_tests: Assertions that the workflow may run, for code.

        Raises:
            WorkflowError: The workflow broke.
            InputError: No client or no model is given, or no sandbox works on this machine.
            SandboxError: The sandbox failed, or was closed meanwhile.
            BaseException: Whatever the client raises, as it is: KeyboardInterrupt and SystemExit as well. What Python
                would take for an end of iteration or for a cancellation is a RuntimeError with that as its cause.
        """
        reply = self._start(question, _Model(client, model), entry_point, public_tests)
        try:
            answer: Answer = reply.result().unwrap()
        except BaseException:  # of the client, or of whoever interrupts the wait: the question ends with it
            reply.cancel()
            raise
        return answer

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
        outcome = await asyncio.wrap_future(self._start(question, asked, entry_point, public_tests))
        answer: Answer = outcome.unwrap()
        return answer

    def close(self) -> None:
        """Ends the sandbox and the questions that are on their way; a further question starts a new one.

        An asynchronous client that was used by a synchronous caller lives on the loop that ends here.
        """
        self._sandboxed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _start(
        self, question: str, asked: _Model, entry_point: str | None, public_tests: Sequence[str]
    ) -> concurrent.futures.Future[_Outcome]:
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

    async def _run(self, sandbox: Sandbox, given: SolverInput, model: _Model) -> _Outcome:
        adapter = self._adapters.setdefault(model.name, Adapter(model.name))
        asker = _Asker(
            model, adapter, self._sandboxed.in_thread, max_calls=self._max_calls, max_tokens=self._max_tokens
        )
        with contextlib.suppress(_ClientFailedError):
            run = await sandbox.run_workflow(self._workflow, given, asker.ask, self._limits)
            if asker.failed is None and run.status is not RunStatus.OK:
                raise WorkflowError(f"workflow {self.name} broke: {run.error or run.status.value}", run.traceback)
        # Where a client failed, the fault was its own, whatever the workflow made of it.
        return asker.failed or _Outcome(run.answer)


# --- the calls of a question ------------------------------------------------------


class _Outcome:
    """What a client's call, or a question, came to: carried as a value from the thread or loop where it was made.

    An error raised on its way would end that loop (KeyboardInterrupt, SystemExit) for every question on it; it is
    raised where somebody waits for it, by `unwrap`.
    """

    def __init__(self, value: Any = None) -> None:
        self.value = value
        self.error: BaseException | None = None

    def unwrap(self) -> Any:
        """The value.

        Raises:
            BaseException: The error, as it is.
        """
        if self.error is not None:
            raise self.error
        return self.value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *exc_info: object) -> bool:
        """Keeps the error; a cancellation of the task around it passes."""
        if error is None or (isinstance(error, asyncio.CancelledError) and _is_being_cancelled()):
            return False
        self.error = error
        if isinstance(error, _TAKEN_FOR_ANOTHER):
            self.error = RuntimeError(f"the client raised {type(error).__name__}: {error}")
            self.error.__cause__ = error
        return True


_TAKEN_FOR_ANOTHER = (StopIteration, StopAsyncIteration, asyncio.CancelledError, concurrent.futures.CancelledError)
"""Errors that would be read as an end of iteration or as a cancellation by whoever waits."""


def _is_being_cancelled() -> bool:
    """Whether the running task is cancelled from outside; false in a thread without a loop."""
    with contextlib.suppress(RuntimeError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return False


class _ClientFailedError(W4sError):
    """Ends a workflow whose client failed; the failure stands in `_Asker.failed`."""


InThread = Callable[[Callable[[], Any]], Awaitable[_Outcome]]
"""Calls a function in a thread of its own."""


class _Asker:
    """The calls of one question."""

    def __init__(
        self, model: _Model, adapter: Adapter, in_thread: InThread, *, max_calls: int, max_tokens: int | None
    ) -> None:
        self._model, self._adapter, self._in_thread = model, adapter, in_thread
        self._left, self._max_tokens = max_calls, max_tokens
        self.failed: _Outcome | None = None
        """The first failure of the client, whatever the workflow makes of it."""

    async def ask(self, call: LLMCall) -> Sequence[str]:
        """Answers one call of the workflow.

        Raises:
            CallRefusedError: The question has asked for too much, or the model refuses the text; the workflow sees it.
            _ClientFailedError: The client raised; `failed` holds what.
        """
        if call.n > self._left:
            raise CallRefusedError(f"n={call.n} with {self._left} choices left of this question; ask for fewer")
        self._left -= call.n
        request = call.request(self._model.name, self._max_tokens)
        for _ in range(JSON_TRIES):
            texts = await self._texts(request)
            if not call.json_mode or any(map(holds_object, texts)):
                break
        return texts

    async def _texts(self, request: ChatRequest) -> Sequence[str]:
        """Texts of all choices, in as many requests as the model needs for them."""
        texts: list[str] = []
        for _ in range(MAX_LESSONS + request.n):
            n = request.n - len(texts) if self._adapter.dialect.n else 1
            part = dataclasses.replace(request, n=n)
            try:
                some = await self._attempt(part)
                texts += some
                self._adapter.counted(len(some), part)
            except NotAcceptedFault:
                continue
            except RefusedFault as fault:
                raise CallRefusedError(one_line(str(fault))) from fault
            if len(texts) >= request.n:
                return texts[: request.n]
        failed = _Outcome()
        failed.error = InputError(f"model {self._model.name!r} gave {len(texts)} of {request.n} choices; take another")
        raise self._failure(failed)

    async def _attempt(self, request: ChatRequest) -> list[str]:
        """Texts of one request.

        Raises:
            Fault: The model does not take a parameter, or refuses the text.
            _ClientFailedError: The client raised anything else.
        """
        payload = self._adapter.payload(request)
        created = await self._created(payload)
        error = created.error
        if error is None:
            return [choice.message.content or "" for choice in created.value.choices or ()]
        status, code, parameter = (getattr(error, name, None) for name in ("status_code", "code", "param"))
        self._adapter.refused(status, str(error), code=code, parameter=parameter, payload=payload)
        raise self._failure(created)

    async def _created(self, payload: Mapping[str, Any]) -> _Outcome:
        created = await self._in_thread(lambda: self._model.client.chat.completions.create(**payload))
        if created.error is None and inspect.isawaitable(created.value):
            reply, loop = _outcome_of(created.value), self._model.loop  # awaited where the client lives
            created = await (
                reply if loop is None else asyncio.wrap_future(asyncio.run_coroutine_threadsafe(reply, loop))
            )
        return created

    def _failure(self, failed: _Outcome) -> _ClientFailedError:
        self.failed = self.failed or failed
        return _ClientFailedError("the client failed")


async def _outcome_of(reply: Awaitable[Any]) -> _Outcome:
    with (outcome := _Outcome()):
        outcome.value = await reply
    return outcome


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

    def submit(self, work: Callable[[Sandbox], Coroutine[Any, Any, _Outcome]]) -> concurrent.futures.Future[_Outcome]:
        """Runs `work(sandbox)` on the loop.

        Raises:
            InputError: No sandbox works on this machine.
            SandboxError: It cannot be started.
        """
        self._forget_before_fork()
        with self._lock:
            if self._running is None or not self._running.thread.is_alive():
                self._running = self._start()
            running = self._running
            return asyncio.run_coroutine_threadsafe(_until_closed(work(running.sandbox), running.ended), running.loop)

    async def in_thread(self, function: Callable[[], Any]) -> _Outcome:
        """Calls a function in a thread that nobody waits for when the program ends."""
        loop, running = asyncio.get_running_loop(), self._running
        assert running is not None
        reply: asyncio.Future[_Outcome] = loop.create_future()

        def call() -> None:
            with (outcome := _Outcome()):
                outcome.value = function()
            _deliver(loop, reply, outcome)

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
            with (outcome := _Outcome()):
                asyncio.run(self._live(ready))
            if outcome.error is not None and not ready.done():
                ready.set_exception(outcome.error)
            elif outcome.error is not None:
                _LOG.warning("the sandbox of a loaded workflow ended with an error: %s", first_line(outcome.error))

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


async def _until_closed(question: Coroutine[Any, Any, _Outcome], ended: asyncio.Event) -> _Outcome:
    try:
        return await question
    except asyncio.CancelledError:
        if ended.is_set():
            raise SandboxError("the workflow was closed while it answered; ask again to start it anew") from None
        raise


def _deliver(loop: asyncio.AbstractEventLoop, reply: asyncio.Future[_Outcome], outcome: _Outcome) -> None:
    """Hands a thread's outcome to its loop, if anybody still waits for it."""
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(lambda: None if reply.done() else reply.set_result(outcome))
