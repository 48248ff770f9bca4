"""Continuous batching of sampling requests over the slots of one decode state.

Request → **Generator** (queue → prefill → decode chunks) → Completion

A request is one prompt with up to M samples; it takes a slot when one is free, and
the slot is free again when its last sample has ended, while the other slots go on.
A prompt is padded to a bucket of its own, so what a request computes is decided by
the request alone: see `decode.py` for why its bits do not depend on the load.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from w4s_jax.policy import decode, sharding
from w4s_jax.policy.attention import TreeAttention, tree_attention_for
from w4s_jax.policy.decode import Admission, SampleStatus
from w4s_jax.policy.transformer import Transformer
from w4s_jax.types import DrawKey, InputError, SamplingOptions, StopReason

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The static shapes of a generator; they decide its memory and its compiled programs.

    Example:
        >>> GeneratorConfig(cache_length=512, max_new_tokens=128, slots=4, samples_per_slot=5).prompt_buckets
        (64, 128, 256, 512)
    """

    cache_length: int
    """The most tokens of a prompt and its action together."""
    max_new_tokens: int
    """The most tokens of an action."""
    slots: int
    """Prompts decoded at once."""
    samples_per_slot: int
    """Samples that share a prompt: `num_candidates`."""
    chunk: int = 16
    """The most decode steps between two looks at the queue."""
    prompt_bucket: int = 64
    """Shortest padded length of a prompt; longer buckets double it."""
    block: int | None = None
    """Cached tokens attended to at a time; None: 32 on CPU, else 512."""
    cache_dtype: DTypeLike | None = None
    """Of cached keys and values; None: the model's compute dtype."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise InputError(f"{field.name}={value} is below 1; give a positive number")
        if self.max_new_tokens >= self.cache_length:
            raise InputError(
                f"max_new_tokens={self.max_new_tokens} leaves no room for a prompt in cache_length="
                f"{self.cache_length}; raise --cache_length or lower --max_new_tokens"
            )

    def block_on(self, platform: str) -> int:
        """Cached tokens attended to at a time on a platform."""
        return self.block or (32 if platform == "cpu" else 512)

    @property
    def prompt_buckets(self) -> tuple[int, ...]:
        """Padded lengths of prompts, ascending, the last one `cache_length`."""
        buckets = [self.prompt_bucket]
        while buckets[-1] < self.cache_length:
            buckets.append(buckets[-1] * 2)
        return (*buckets[:-1], self.cache_length)


class Request(NamedTuple):
    """Samples asked for of one prompt, at most `samples_per_slot`."""

    prompt_ids: Sequence[int]
    keys: Sequence[DrawKey]
    """One a sample."""
    options: SamplingOptions


class Completion(NamedTuple):
    """One sampled action."""

    ids: tuple[int, ...]
    """The end-of-turn token included where there is one."""
    logprobs: tuple[float, ...]
    """Natural log, float32, at temperature 1; one a token."""
    stop: StopReason


class Statistics(NamedTuple):
    """What a generator has done so far."""

    requests: int = 0
    prompt_tokens: int = 0
    sampled_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    """Compilation included where a shape was new."""


class Generator:
    """Samples from a model; for one thread at a time.

    Example:
        >>> generator = Generator(model, variables, config, stop_ids=chat.stop_ids)  # doctest: +SKIP
        >>> key = DrawKey(seed=0, round=0, trajectory=0, turn=0, candidate=0, attempt=0)  # doctest: +SKIP
        >>> request = Request(chat.render(messages), [key], SamplingOptions())  # doctest: +SKIP
        >>> [[action]] = generator.generate([request])  # doctest: +SKIP
    """

    statistics: Statistics

    def __init__(
        self,
        model: Transformer,
        variables: PyTree,
        config: GeneratorConfig,
        *,
        stop_ids: Sequence[int],
        attention: TreeAttention | None = None,
    ) -> None:
        """Allocates the decode state on the model's mesh, or on the default device.

        Args:
            model: The decoder; `remat` is ignored.
            variables: Its variables, on the same mesh; kept, not copied, so nobody may donate them.
            config: Static shapes.
            stop_ids: Tokens that end a sample.
            attention: What prefill attends with; None: the one for the model's devices.

        Raises:
            InputError: `cache_length` exceeds the model's positions, or a stop id is no token of the model.
        """
        limit = model.config.max_positions
        if config.cache_length > limit:
            raise InputError(f"cache_length={config.cache_length} exceeds the model's max_positions={limit}; lower it")
        _check_tokens(stop_ids, model.config.vocab_size, "stop_ids")
        self.model = model.clone(remat="none")
        self.config = config
        self.statistics = Statistics()
        self._stop_ids = np.asarray(stop_ids, np.int32)
        self._variables = in_compute_dtype(variables, model.compute_dtype)
        self._attention = attention or _prefill_attention(model)
        self._block = config.block_on(jax.default_backend())
        self._state = jax.jit(idle_state(self.model, config, self._block))()
        self._waiting: collections.OrderedDict[int, Request] = collections.OrderedDict()
        self._running: dict[int, tuple[int, Request]] = {}  # by slot, with the ticket
        self._next_ticket = 0

    @property
    def in_flight(self) -> int:
        """Requests that wait or run."""
        return len(self._waiting) + len(self._running)

    def set_params(self, variables: PyTree) -> None:
        """Swaps the parameters.

        Raises:
            InputError: Requests are in flight, or the new variables have other shapes.
        """
        if self.in_flight:
            raise InputError(f"parameters cannot change under {self.in_flight} requests in flight; await them first")
        new = in_compute_dtype(variables, self.model.compute_dtype)
        if jax.tree.map(jnp.shape, new) != jax.tree.map(jnp.shape, self._variables):
            raise InputError("the new parameters have other names or shapes than the model; give the same model's")
        self._variables = new

    def check(self, prompt_length: int, max_new_tokens: int) -> None:
        """Refuses what does not fit; nothing is ever truncated.

        Raises:
            InputError: With the numbers.
        """
        c = self.config
        if not 1 <= max_new_tokens <= c.max_new_tokens:
            raise InputError(
                f"max_new_tokens={max_new_tokens} is not in [1, {c.max_new_tokens}], what the generator was made for"
            )
        if prompt_length < 1:
            raise InputError("the prompt is empty; give at least one token")
        if prompt_length + max_new_tokens > c.cache_length:
            raise InputError(
                f"a prompt of {prompt_length} tokens with max_new_tokens={max_new_tokens} makes "
                f"{prompt_length + max_new_tokens}, which exceeds cache_length={c.cache_length}; "
                "raise --cache_length or shorten the prompt"
            )

    def submit(self, request: Request) -> int:
        """Queues a request and returns its ticket.

        Raises:
            InputError: It does not fit, or has too many samples, an unknown token, key or temperature.
        """
        self.check(len(request.prompt_ids), request.options.max_new_tokens)
        _check_tokens(request.prompt_ids, self.model.config.vocab_size, "prompt_ids")
        if not 1 <= len(request.keys) <= self.config.samples_per_slot:
            raise InputError(
                f"a request of {len(request.keys)} samples; a slot takes 1 to {self.config.samples_per_slot}: split it"
            )
        if any(not 0 <= part < 2**32 for key in request.keys for part in key):
            raise InputError(f"keys={tuple(request.keys)} has a part outside [0, 2**32)")
        if not 0.0 <= request.options.temperature < float("inf"):
            raise InputError(f"temperature={request.options.temperature} is not in [0, inf); 0 is greedy")
        self._next_ticket += 1
        self._waiting[self._next_ticket] = request
        return self._next_ticket

    def cancel(self, ticket: int) -> None:
        """Withdraws a request; one that has finished, or is unknown, is left alone."""
        self._waiting.pop(ticket, None)
        for slot, (running, _) in list(self._running.items()):
            if running == ticket:
                self._state = decode.release(self._state, np.int32(slot))
                del self._running[slot]

    def step(self) -> dict[int, list[Completion]]:
        """Fills free slots, decodes one chunk, and returns what has finished, by ticket."""
        start = time.perf_counter()
        self._admit()
        jax.block_until_ready(self._state.step_G)
        admitted = time.perf_counter()
        self._state = decode.decode_chunk(
            self.model,
            self._variables,
            self._state,
            self._stop_ids,
            np.int32(self.config.chunk),
            np.bool_(bool(self._waiting)),
            block=self._block,
        )
        done = self._collect()
        self.statistics = self.statistics._replace(
            prefill_seconds=self.statistics.prefill_seconds + admitted - start,
            decode_seconds=self.statistics.decode_seconds + time.perf_counter() - admitted,
        )
        return done

    def generate(self, requests: Iterable[Request]) -> list[list[Completion]]:
        """Runs requests to their end; results in the order of `requests`.

        Raises:
            InputError: As `submit`; then nothing runs.
        """
        tickets: list[int] = []
        try:
            tickets.extend(self.submit(request) for request in requests)
        except InputError:
            for ticket in tickets:
                self.cancel(ticket)
            raise
        done: dict[int, list[Completion]] = {}
        while len(done) < len(tickets):
            done |= self.step()
        return [done[ticket] for ticket in tickets]

    def _admit(self) -> None:
        for slot in range(self.config.slots):
            if not self._waiting:
                return
            if slot not in self._running:
                ticket, request = self._waiting.popitem(last=False)
                new = self._admission(slot, request)
                self._state = decode.prefill(self.model, self._variables, self._state, new, attention=self._attention)
                self._running[slot] = (ticket, request)

    def _admission(self, slot: int, request: Request) -> Admission:
        length, rows = len(request.prompt_ids) - 1, self.config.samples_per_slot
        tokens = np.zeros(next(size for size in self.config.prompt_buckets if size >= length), np.int32)
        tokens[:length] = request.prompt_ids[:-1]
        draws = np.zeros((rows, len(DrawKey._fields)), np.uint32)
        draws[: len(request.keys)] = request.keys
        return Admission(
            slot=np.int32(slot),
            tokens_T=tokens,
            length=np.int32(length),
            last_token=np.int32(request.prompt_ids[-1]),
            draws_M6=draws,
            live_M=np.arange(rows) < len(request.keys),
            temperature=np.float32(request.options.temperature),
            limit=np.int32(request.options.max_new_tokens),
        )

    def _collect(self) -> dict[int, list[Completion]]:
        """Takes what has finished out of the slots."""
        stop_GM, length_GM = jax.device_get((self._state.stop_GM, self._state.length_GM))
        done: dict[int, list[Completion]] = {}
        for slot, (ticket, request) in list(self._running.items()):
            if np.any(stop_GM[slot] == SampleStatus.RUNNING):
                continue
            ids_MS, logprobs_MS = jax.device_get(_rows(self._state.ids_GMS, self._state.logprobs_GMS, np.int32(slot)))
            done[ticket] = [
                Completion(
                    ids=tuple(ids_MS[m, : length_GM[slot, m]].tolist()),
                    logprobs=tuple(logprobs_MS[m, : length_GM[slot, m]].tolist()),
                    stop=StopReason[SampleStatus(stop_GM[slot, m]).name],
                )
                for m in range(len(request.keys))
            ]
            del self._running[slot]
            self._count(request, done[ticket])
        return done

    def _count(self, request: Request, completions: Sequence[Completion]) -> None:
        s = self.statistics
        self.statistics = s._replace(
            requests=s.requests + 1,
            prompt_tokens=s.prompt_tokens + len(request.prompt_ids),
            sampled_tokens=s.sampled_tokens + sum(len(c.ids) for c in completions),
        )


def _prefill_attention(model: Transformer) -> TreeAttention:
    """One prompt at a time: its heads may be split over devices, it itself may not."""
    mesh = model.mesh or sharding.make_mesh("", jax.devices()[:1])
    attention = tree_attention_for(mesh, model.config.head_dim, windowed=model.config.is_windowed)
    return sharding.by_shard(attention, mesh, model.config.num_kv_heads, split_rows=False)


@jax.jit
def _rows(ids_GMS: jax.Array, logprobs_GMS: jax.Array, slot: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """One slot of the records, [M, S] each."""
    return ids_GMS[slot], logprobs_GMS[slot]


def _round_up(length: int, block: int) -> int:
    return -(-length // block) * block


def _check_tokens(ids: Sequence[int], vocab_size: int, name: str) -> None:
    for id_ in ids:
        if not 0 <= id_ < vocab_size:
            raise InputError(f"{name} has the token {id_}, outside the model's vocabulary of {vocab_size}")


def idle_state(model: Transformer, config: GeneratorConfig, block: int) -> Callable[[], decode.DecodeState]:
    """Makes the idle decode state of a generator; to be jitted, for its arrays or for their shapes alone.

    Args:
        model: Whose cache it is; says where it lies.
        config: Static shapes.
        block: Cached tokens attended to at a time.
    """
    return decode.idle_state(
        model,
        slots=config.slots,
        samples=config.samples_per_slot,
        prompt_length=_round_up(config.cache_length, block),
        suffix_length=_round_up(config.max_new_tokens, block),
        cache_dtype=config.cache_dtype or model.compute_dtype,
    )


def in_compute_dtype(variables: PyTree, dtype: DTypeLike) -> PyTree:
    """Casts once what the model would cast at every step: all but the scales of norms, which it uses in float32."""

    def cast(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        return leaf if getattr(path[-1], "key", None) == "scale" else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, variables)
