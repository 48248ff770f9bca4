"""The content-addressed cache: what makes two calls the same call, and how its reply is kept.

(ChatRequest, sample_index, repetition) → **call_key** → ledger.CallStore → ChatReply

Neither the item nor the workflow is in the key: whoever asks the same question
for the same time gets the same answer. Which time it is (the number of equal
requests made earlier within the item, and the repetition of a repeated
evaluation) is in the key, so that five samples are five samples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

from w4s_jax.types import CallContext, ChatReply, ChatRequest, Usage

_VERSION = 1
_PART_BITS = 10
MAX_PARTS = 1 << _PART_BITS
"""Most choices that one request may be taken apart into."""


def canonical_request(request: ChatRequest, context: CallContext) -> str:
    """JSON of all that decides a reply, the same on every machine.

    Raises:
        ValueError: The temperature is not finite.
    """
    content = {
        "version": _VERSION,
        "model": request.model,
        "messages": [[message.role, message.content] for message in request.messages],
        "temperature": float(request.temperature),
        "max_tokens": request.max_tokens,
        "n": request.n,
        "json_mode": request.json_mode,
        "sample_index": context.sample_index,
        "repetition": context.repetition,
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def call_key(request: ChatRequest, context: CallContext) -> str:
    """SHA-256 of the canonical request, in hex.

    Raises:
        ValueError: The temperature is not finite.
    """
    return hashlib.sha256(canonical_request(request, context).encode("ascii")).hexdigest()


def part_context(context: CallContext, n: int, part: int) -> CallContext:
    """Numbers choice `part` of a request for `n` that has to be made one by one.

    The number is unlike that of every request that was made for one choice, and
    of the parts of every other request, so that no two draws become one.

    Args:
        context: Of the whole request.
        n: Choices asked for, below `MAX_PARTS`.
        part: In [0, n).
    """
    index = ((context.sample_index + 1 << _PART_BITS) + n << _PART_BITS) + part
    return dataclasses.replace(context, sample_index=index)


def encode_reply(reply: ChatReply) -> str:
    """The reply as JSON, ASCII."""
    usage = reply.usage
    return json.dumps(
        {
            "texts": reply.texts,
            "finish_reasons": reply.finish_reasons,
            "usage": [usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens],
            "usd": reply.usd,
        },
        separators=(",", ":"),
    )


def decode_reply(text: str) -> ChatReply:
    """The reply as it was bought, marked `from_cache`."""
    record = json.loads(text)
    prompt, cached, completion = record["usage"]
    return ChatReply(
        texts=tuple(record["texts"]),
        finish_reasons=tuple(record["finish_reasons"]),
        usage=Usage(prompt_tokens=prompt, cached_prompt_tokens=cached, completion_tokens=completion),
        usd=record["usd"],
        from_cache=True,
    )
