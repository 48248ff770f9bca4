"""The LLM calls of one item: numbered, counted, capped.

Sandbox → LLMCall → **ItemCalls.ask** → ChatRequest → Executor → texts

Equal requests of one item are numbered, so that five samples are five samples in the
executor's cache. The cap counts choices, so a call for five samples counts five and a
dry run can name the worst case.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from w4s_jax.types import (
    BudgetExceededError,
    CallContext,
    CallRefusedError,
    Executor,
    ExecutorError,
    LLMCall,
    SandboxError,
)

OURS = (ExecutorError, SandboxError, BudgetExceededError)
"""Failures that say nothing about a workflow."""


class ItemCalls:
    """The LLM calls of one item: numbered, counted, capped."""

    def __init__(self, executor: Executor, context: CallContext, *, max_choices: int, max_tokens: int | None) -> None:
        """Starts at nothing.

        Args:
            executor: Answers the calls.
            context: Of the item; the sample index is set for each call.
            max_choices: Most choices, over all calls.
            max_tokens: Most completion tokens a choice, whatever the workflow asks for.
        """
        self._executor = executor
        self._context = context
        self._max_choices = max_choices
        self._max_tokens = max_tokens
        self._choices = 0
        self._earlier: collections.Counter[str] = collections.Counter()
        self.calls = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.usd = 0.0
        self.failure: Exception | None = None

    async def ask(self, call: LLMCall) -> Sequence[str]:
        """Answers one call of the workflow; the number of earlier equal ones is its sample index.

        Raises:
            CallRefusedError: The item has asked for too much; the workflow sees the message.
            BudgetExceededError, ExecutorError: We broke.
        """
        allowed = self._max_choices
        if call.n < 1 or self._choices + call.n > allowed:
            raise CallRefusedError(
                f"n={call.n} after {self._choices} of {allowed} choices that one question may ask for; ask for fewer"
            )
        self._choices += call.n
        context = dataclasses.replace(self._context, sample_index=self._earlier[call.digest])
        self._earlier[call.digest] += 1
        try:
            reply = await self._executor.complete(call.request(self._executor.model, self._max_tokens), context)
        except OURS as error:
            self.failure = error
            raise
        self.calls += 1
        self.prompt_tokens += reply.usage.prompt_tokens
        self.completion_tokens += reply.usage.completion_tokens
        self.usd += reply.usd
        return reply.texts
