"""A meta-agent behind an API: `types.Policy` over an executor.

State → messages → **ApiPolicy.sample** → Executor (purpose `meta_agent`) → Sample

A stronger model collects trajectories with it, or a hosted one optimises. There
are no token ids and no log-probabilities: what it wrote is tokenised when it is
trained on. Each draw is one request for one choice, numbered by its `DrawKey`,
so that a draw which was made before comes from the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from w4s_jax.concurrency import finish_all
from w4s_jax.types import (
    CallContext,
    CallRefusedError,
    ChatRequest,
    Context,
    DrawKey,
    Executor,
    InputError,
    Message,
    Purpose,
    Sample,
    SamplingOptions,
    StopReason,
)


class ApiPolicy:
    """Samples actions from a model behind an API."""

    def __init__(self, executor: Executor) -> None:
        self.name = f"api:{executor.model}"
        self._executor = executor

    def open(self, messages: Sequence[Message]) -> Context:
        """A dialogue is its messages: the server renders them, and refuses what does not fit."""
        return Context(messages=tuple(messages))

    def extend(self, context: Context, action: Sample, messages: Sequence[Message]) -> Context:
        """The dialogue after the model's `action` and further messages."""
        return Context(messages=(*context.messages, Message(role="assistant", content=action.text), *messages))

    def encode_action(self, text: str) -> Sample:
        """A repaired action; nobody here can tokenise it."""
        return _sample(text, StopReason.END_OF_TURN)

    async def sample(self, context: Context, keys: Sequence[DrawKey], options: SamplingOptions) -> Sequence[Sample]:
        """One sample a key; waits for all of them, even if one fails, because all may be billed.

        Raises:
            InputError: The model refuses the prompt, for its length or what it says.
            ExecutorError: The model stayed unreachable.
            BudgetExceededError: A cap leaves no room.
        """
        request = ChatRequest(
            model=self._executor.model,
            messages=context.messages,
            temperature=options.temperature,
            max_tokens=options.max_new_tokens,
        )
        return await finish_all([self._draw(request, key) for key in keys])

    async def _draw(self, request: ChatRequest, key: DrawKey) -> Sample:
        try:
            reply = await self._executor.complete(request, call_context(key))
        except CallRefusedError as error:
            raise InputError(
                f"{self.name} refuses the meta-agent's prompt ({error}); shorten it or take another model"
            ) from error
        stop = StopReason.LENGTH if reply.finish_reasons[0] == "length" else StopReason.END_OF_TURN
        return _sample(reply.texts[0], stop)


def call_context(key: DrawKey) -> CallContext:
    """Names a draw as a call: equal keys are the same call, and unlike keys never share one."""
    place = hashlib.sha256(",".join(map(str, key)).encode()).digest()
    return CallContext(
        purpose=Purpose.META_AGENT,
        item_id=f"round {key.round} trajectory {key.trajectory} turn {key.turn} candidate {key.candidate}",
        sample_index=int.from_bytes(place[:6], "big"),
        repetition=key.seed,
    )


def _sample(text: str, stop: StopReason) -> Sample:
    return Sample(ids=(), logprobs=(), text=text, stop=stop)
