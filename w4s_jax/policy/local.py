"""The meta-agent on this machine's devices, as a `Policy`.

messages → Context → **LocalPolicy.sample** → queue → (one thread: Generator) → Samples

Any number of asyncio tasks may sample at once; one background thread drives the
device and exists only while there is work.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

from w4s_jax.policy.chat import Chat
from w4s_jax.policy.generate import Completion, Generator, Request, Statistics
from w4s_jax.types import Context, DrawKey, InputError, Message, Sample, SamplingOptions, StopReason, W4sError

PyTree = Any


@dataclasses.dataclass(eq=False)
class _Submission:
    """One request on its way through the thread; cancelled through its future."""

    request: Request
    future: concurrent.futures.Future[list[Completion]]


class LocalPolicy:
    """Implements `types.Policy` over a tokenizer and a generator.

    Example:
        >>> policy = LocalPolicy(Chat.load(folder), generator, name="qwen")  # doctest: +SKIP
        >>> context = policy.open([Message(role="user", content="Write a workflow.")])  # doctest: +SKIP
        >>> options = SamplingOptions(temperature=0.5, max_new_tokens=512)  # doctest: +SKIP
        >>> samples = await policy.sample(context, keys, options)  # doctest: +SKIP
        >>> policy.close()  # doctest: +SKIP
    """

    name: str

    def __init__(self, chat: Chat, generator: Generator, *, name: str, max_new_tokens: int | None = None) -> None:
        """Takes over the generator; nobody else may drive it.

        Args:
            chat: The model's tokenizer.
            generator: The model's decoder.
            name: What records call the meta-agent.
            max_new_tokens: Tokens that `open` keeps for a reply; None: all that the generator was made for.

        Raises:
            InputError: The tokenizer has ids that the model has no embedding for.
        """
        vocab_size = generator.model.config.vocab_size
        if chat.vocab_size > vocab_size:
            raise InputError(
                f"{chat.name} has {chat.vocab_size} ids, but the model's vocabulary is {vocab_size}; "
                "give the tokenizer that belongs to the model"
            )
        self.name = name
        self.chat = chat
        self._generator = generator
        self._reply_tokens = max_new_tokens or generator.config.max_new_tokens
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="w4s-decode")
        # Under the lock: what the event loop and the thread both touch.
        self._lock = threading.Lock()
        self._queue: collections.deque[_Submission] = collections.deque()
        self._submissions: dict[int, _Submission] = {}  # by ticket; the thread's own
        self._driving = False
        self._unanswered = 0
        self._closed = False
        self._failure: BaseException | None = None

    @property
    def statistics(self) -> Statistics:
        """Tokens and seconds so far."""
        return self._generator.statistics

    def open(self, messages: Sequence[Message]) -> Context:
        """Renders messages and the opening of a reply.

        Raises:
            InputError: The prompt with its new tokens does not fit the model.
        """
        context = Context(messages=tuple(messages), prompt_ids=self.chat.render(messages))
        self._generator.check(len(context.prompt_ids), self._reply_tokens)
        return context

    def extend(self, context: Context, action: Sample, messages: Sequence[Message]) -> Context:
        """The context after `action` and further messages; its ids begin with `context.prompt_ids + action.ids`."""
        said = Message(role="assistant", content=action.text)
        return Context(
            messages=(*context.messages, said, *messages),
            prompt_ids=self.chat.extend(context.prompt_ids, action.ids, messages),
        )

    def encode_action(self, text: str) -> Sample:
        """Tokenises a repaired action once; it has no log-probabilities."""
        return Sample(ids=self.chat.encode_action(text), logprobs=(), text=text, stop=StopReason.END_OF_TURN)

    async def sample(self, context: Context, keys: Sequence[DrawKey], options: SamplingOptions) -> Sequence[Sample]:
        """One sample a key, all from one context; a cancelled call frees its slot at the next chunk.

        Raises:
            InputError: The prompt with `max_new_tokens` does not fit the model.
            W4sError: The policy is closed, or its thread has failed; the cause is chained.
        """
        self._generator.check(len(context.prompt_ids), options.max_new_tokens)
        width = self._generator.config.samples_per_slot
        parts = [keys[start : start + width] for start in range(0, len(keys), width)]
        futures = [asyncio.wrap_future(self._enqueue(Request(context.prompt_ids, part, options))) for part in parts]
        completions = await asyncio.gather(*futures)
        return [self._sample(completion) for part in completions for completion in part]

    def set_params(self, variables: PyTree) -> None:
        """Swaps the parameters, between rounds; they are kept, not copied, so nobody may donate them.

        Raises:
            InputError: Requests are in flight, or the new variables have other shapes.
        """
        with self._lock:
            if self._unanswered:
                raise InputError(
                    f"parameters cannot change under {self._unanswered} requests in flight; await them first"
                )
            self._generator.set_params(variables)

    def close(self) -> None:
        """Fails what is in flight and waits for the thread, a chunk at most; closing twice does nothing."""
        with self._lock:
            self._closed = True
        self._thread.shutdown(wait=True)

    def _sample(self, completion: Completion) -> Sample:
        text = self.chat.decode(completion.ids)
        return Sample(ids=completion.ids, logprobs=completion.logprobs, text=text, stop=completion.stop)

    def _enqueue(self, request: Request) -> concurrent.futures.Future[list[Completion]]:
        submission = _Submission(request, concurrent.futures.Future())
        with self._lock:
            if self._closed:
                raise W4sError(f"policy {self.name} is closed; nothing can be sampled from it")
            if self._failure is not None:
                raise W4sError(f"policy {self.name} has failed: {self._failure!r}") from self._failure
            self._queue.append(submission)
            self._unanswered += 1
            if not self._driving:
                self._driving = True
                self._thread.submit(self._drive).add_done_callback(self._driven)
        return submission.future

    def _drive(self) -> None:
        """The thread: steps the generator until nothing is left to do."""
        while self._take():
            for ticket, completions in self._generator.step().items():
                self._answer(self._submissions.pop(ticket), completions)

    def _take(self) -> bool:
        """Hands the queue to the generator and withdraws what was cancelled; says whether there is work."""
        with self._lock:
            new = list(self._queue)
            self._queue.clear()
            closed = self._closed
        for submission in new:
            self._submit(submission)
        for ticket, submission in list(self._submissions.items()):
            if closed or submission.future.cancelled():
                self._generator.cancel(ticket)
                del self._submissions[ticket]
                self._answer(submission, W4sError(f"policy {self.name} was closed while it sampled"))
        with self._lock:
            self._driving = bool(self._submissions or self._queue)
            return self._driving

    def _submit(self, submission: _Submission) -> None:
        try:
            self._submissions[self._generator.submit(submission.request)] = submission
        except InputError as error:  # this request is bad; the others go on
            self._answer(submission, error)

    def _driven(self, drive: concurrent.futures.Future[None]) -> None:
        """After the thread's last step: an error of its own reaches everybody who waits."""
        failure = drive.exception()
        if failure is None:
            return
        with self._lock:
            self._failure = failure
            self._driving = False
            submissions = [*self._submissions.values(), *self._queue]
            self._submissions.clear()
            self._queue.clear()
        for submission in submissions:
            self._answer(submission, failure)

    def _answer(self, submission: _Submission, outcome: list[Completion] | BaseException) -> None:
        """The last thing that happens to a submission; after the last one nobody touches the generator."""
        with self._lock:
            self._unanswered -= 1
        if not submission.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, BaseException):
            submission.future.set_exception(outcome)
        else:
            submission.future.set_result(outcome)
