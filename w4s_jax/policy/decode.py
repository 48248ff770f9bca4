"""The device half of sampling: a frozen decode state, prefill into a slot, a while loop of steps.

Admission → **prefill** → DecodeState → **decode_chunk** → DecodeState → ids, log-probs, stop

A state has G slots. A slot holds one prompt and up to M samples of it; they share
the prompt's keys and values and each has a suffix of its own. Prefill stops one
token short of the prompt's end: that last token is the first one to be decoded, so
every token is sampled by the same program.

Shapes never change, and every row is computed from its own tokens, its own draw
key and its own temperature. On CPU in float32 a row's bits are therefore the same
in any slot and beside any neighbours: XLA's matrix products give a row the same
bits wherever it stands in a batch of a given height (they do change with the
height, so a state is never resized to its load), and masked keys add exact zeros.

Legend: G slots (one prompt each), M samples of a prompt, B = G·M rows, T prompt
capacity, S suffix capacity, L layers, N query heads, K key/value heads, H head_dim,
V vocab.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike, DTypeLike

from w4s_jax.policy.attention import CachedAttention, KVCache, TreeAttention, attend_trees, cached_attention_for
from w4s_jax.policy.sharding import BATCH_AXES, divided
from w4s_jax.policy.transformer import Transformer

PyTree = Any


class SampleStatus(enum.IntEnum):
    """What became of a row."""

    RUNNING = 0
    END_OF_TURN = 1
    LENGTH = 2
    IDLE = 3
    """Nothing was asked of it."""


class DecodeState(NamedTuple):
    """Everything a decode step reads and writes; donated from call to call."""

    cache: KVCache
    prompt_length_G: Array
    """int32: tokens in the prompt cache, one less than the prompt has."""
    step_G: Array
    """int32: tokens sampled so far by each running row of the slot."""
    limit_G: Array
    """int32: the most tokens a row may sample."""
    temperature_G: Array
    """float32; 0 is greedy."""
    key_GM: Array
    """One typed random key a row."""
    token_GM: Array
    """int32: the newest token, not yet in the cache."""
    stop_GM: Array
    """int32: a `SampleStatus`."""
    length_GM: Array
    """int32: tokens sampled."""
    ids_GMS: Array
    """int32: the sampled tokens."""
    logprobs_GMS: Array
    """float32: their natural log-probabilities at temperature 1."""


class Admission(NamedTuple):
    """A request as arrays."""

    slot: ArrayLike
    """int32 []."""
    tokens_T: ArrayLike
    """int32: the prompt without its last token, padded to its bucket."""
    length: ArrayLike
    """int32 []: real entries of `tokens_T`; may be 0."""
    last_token: ArrayLike
    """int32 []."""
    draws_M6: ArrayLike
    """uint32: the integers of each sample's `DrawKey`."""
    live_M: ArrayLike
    """bool: False for rows that nothing is asked of."""
    temperature: ArrayLike
    """float32 []."""
    limit: ArrayLike
    """int32 []."""


def idle_state(
    model: Transformer, *, slots: int, samples: int, prompt_length: int, suffix_length: int, cache_dtype: DTypeLike
) -> Callable[[], DecodeState]:
    """Makes an idle state, placed on the model's mesh; to be jitted, for its arrays or for their shapes alone.

    Args:
        model: Whose cache it is.
        slots: G.
        samples: M.
        prompt_length: T, tokens.
        suffix_length: S, tokens.
        cache_dtype: Of keys and values.
    """
    c = model.config
    prompt = (c.num_layers, slots, c.num_kv_heads, prompt_length, c.head_dim)
    suffix = (c.num_layers, slots, c.num_kv_heads, samples, suffix_length, c.head_dim)
    rows, tokens = (slots, samples), (slots, samples, suffix_length)

    def build() -> DecodeState:
        state = DecodeState(
            cache=KVCache(*(jnp.zeros(shape, cache_dtype) for shape in (prompt, prompt, suffix, suffix))),
            prompt_length_G=jnp.zeros(slots, jnp.int32),
            step_G=jnp.zeros(slots, jnp.int32),
            limit_G=jnp.zeros(slots, jnp.int32),
            temperature_G=jnp.zeros(slots, jnp.float32),
            key_GM=jax.random.split(jax.random.key(0, impl="threefry2x32"), rows),
            token_GM=jnp.zeros(rows, jnp.int32),
            stop_GM=jnp.full(rows, SampleStatus.IDLE, jnp.int32),
            length_GM=jnp.zeros(rows, jnp.int32),
            ids_GMS=jnp.zeros(tokens, jnp.int32),
            logprobs_GMS=jnp.zeros(tokens, jnp.float32),
        )
        return _place(state, model.mesh)

    return build


def draw_keys(draws_M6: Array) -> Array:
    """Random keys [M] of draws: their integers are folded in one after another.

    Args:
        draws_M6: Uint32 [M, 6], the fields of each `DrawKey`.
    """

    def one(draw_6: Array) -> Array:
        return functools.reduce(jax.random.fold_in, draw_6, jax.random.key(0, impl="threefry2x32"))

    return jax.vmap(one)(draws_M6)


@functools.partial(jax.jit, static_argnames=("model", "attention"), donate_argnames="state")
def prefill(
    model: Transformer, variables: PyTree, state: DecodeState, new: Admission, *, attention: TreeAttention
) -> DecodeState:
    """Puts a request into its slot: the keys and values of its prompt, and its rows set running.

    Args:
        model: The decoder.
        variables: Its variables.
        state: Donated.
        new: The request.
        attention: What training attends with; a prompt is a tree without branches.
    """
    tokens_1T = jnp.asarray(new.tokens_T)[None]
    expiry_1T = jnp.full(tokens_1T.shape, new.length, jnp.int32)
    positions_1T = jnp.arange(tokens_1T.shape[1], dtype=jnp.int32)[None]

    over_prompt = attend_trees(attention, expiry_1T, positions_1T)

    def attend(q_1TNH: Array, k_1TKH: Array, v_1TKH: Array, *layer: Any) -> tuple[Array, PyTree]:
        out_1TNH, _ = over_prompt(q_1TNH, k_1TKH, v_1TKH, *layer)
        return out_1TNH, (jnp.swapaxes(k_1TKH, 1, 2), jnp.swapaxes(v_1TKH, 1, 2))

    _, (k_L1KTH, v_L1KTH) = _run_layers(model, variables, tokens_1T, positions_1T, attend)

    def put(cache_LGKTH: Array, x_L1KTH: Array) -> Array:
        return jax.lax.dynamic_update_slice(cache_LGKTH, x_L1KTH.astype(cache_LGKTH.dtype), (0, new.slot, 0, 0, 0))

    cache = state.cache._replace(
        prompt_k_LGKTH=put(state.cache.prompt_k_LGKTH, k_L1KTH),
        prompt_v_LGKTH=put(state.cache.prompt_v_LGKTH, v_L1KTH),
    )
    state = state._replace(
        cache=cache,
        prompt_length_G=state.prompt_length_G.at[new.slot].set(new.length),
        step_G=state.step_G.at[new.slot].set(0),
        limit_G=state.limit_G.at[new.slot].set(new.limit),
        temperature_G=state.temperature_G.at[new.slot].set(new.temperature),
        key_GM=state.key_GM.at[new.slot].set(draw_keys(jnp.asarray(new.draws_M6))),
        token_GM=state.token_GM.at[new.slot].set(new.last_token),
        stop_GM=state.stop_GM.at[new.slot].set(jnp.where(new.live_M, SampleStatus.RUNNING, SampleStatus.IDLE)),
        length_GM=state.length_GM.at[new.slot].set(0),
    )
    return _place(state, model.mesh)


@functools.partial(jax.jit, static_argnames=("model", "block"), donate_argnames="state")
def decode_chunk(
    model: Transformer,
    variables: PyTree,
    state: DecodeState,
    stop_ids: ArrayLike,
    chunk: ArrayLike,
    waiting: ArrayLike,
    *,
    block: int,
) -> DecodeState:
    """Decodes until every row has stopped, for `chunk` steps at most.

    Args:
        model: The decoder.
        variables: Its variables.
        state: Donated.
        stop_ids: int32 [any], tokens that end a sample.
        chunk: int32 [], steps.
        waiting: bool [], where True the loop also ends as soon as a slot becomes free.
        block: Cached tokens attended to at a time.
    """
    busy_G = _running(state)

    def goes_on(carry: tuple[Array, DecodeState]) -> Array:
        steps, state = carry
        running_G = _running(state)
        slot_became_free = jnp.any(busy_G & ~running_G)
        return (steps < chunk) & jnp.any(running_G) & ~(jnp.asarray(waiting) & slot_became_free)

    def step(carry: tuple[Array, DecodeState]) -> tuple[Array, DecodeState]:
        steps, state = carry
        return steps + 1, _decode_step(model, variables, state, jnp.asarray(stop_ids), block)

    _, state = jax.lax.while_loop(goes_on, step, (jnp.int32(0), state))
    return _place(state, model.mesh)


@functools.partial(jax.jit, donate_argnames="state")
def release(state: DecodeState, slot: ArrayLike) -> DecodeState:
    """Stops the rows of a slot whose request was withdrawn."""
    return state._replace(stop_GM=state.stop_GM.at[slot].set(SampleStatus.IDLE))


def _running(state: DecodeState) -> Array:
    """Whether a slot has a running row, bool [G]."""
    return jnp.any(state.stop_GM == SampleStatus.RUNNING, axis=1)


def _decode_step(model: Transformer, variables: PyTree, state: DecodeState, stop_ids: Array, block: int) -> DecodeState:
    """Feeds the newest token of every row, samples the next one, and records it for the rows that run."""
    logits_GMV, k_LGMKH, v_LGMKH = _forward(model, variables, state, block)
    next_GM, logprob_GM = _draw(logits_GMV, state.key_GM, state.step_G, state.temperature_G)

    running_GM = state.stop_GM == SampleStatus.RUNNING
    count_G = state.step_G + 1
    ended_GM = jnp.any(next_GM[:, :, None] == stop_ids[None, None], axis=-1)
    at_limit_G1 = (count_G >= state.limit_G)[:, None]
    stop_GM = jnp.where(
        ended_GM, SampleStatus.END_OF_TURN, jnp.where(at_limit_G1, SampleStatus.LENGTH, SampleStatus.RUNNING)
    )
    # Rows that have stopped go on being fed; what they write is past their length, and nobody reads it.
    cache = state.cache._replace(
        suffix_k_LGKMSH=_write_layers(state.cache.suffix_k_LGKMSH, k_LGMKH, state.step_G, model.mesh),
        suffix_v_LGKMSH=_write_layers(state.cache.suffix_v_LGKMSH, v_LGMKH, state.step_G, model.mesh),
    )
    return state._replace(
        cache=cache,
        ids_GMS=_write(state.ids_GMS, next_GM, state.step_G),
        logprobs_GMS=_write(state.logprobs_GMS, logprob_GM, state.step_G),
        token_GM=next_GM,
        stop_GM=jnp.where(running_GM, stop_GM, state.stop_GM),
        length_GM=jnp.where(running_GM, count_G[:, None], state.length_GM),
        step_G=jnp.where(jnp.any(running_GM, axis=1), count_G, state.step_G),
    )


def _forward(model: Transformer, variables: PyTree, state: DecodeState, block: int) -> tuple[Array, PyTree, PyTree]:
    """Logits [G, M, V] after the newest tokens, and these tokens' keys and values [L, G, M, K, H].

    The scan over layers is given the layers' numbers and reads the cache where it
    lies; it returns only the newest keys and values, which the caller writes in
    place. A cache that went through the scan would be copied at every step.
    """
    slots, samples = state.token_GM.shape
    # Slots at rest keep their lengths; they must not decide how many blocks the others read.
    running_G = _running(state)
    prompt_length_G = jnp.where(running_G, state.prompt_length_G, 0)
    suffix_length_G = jnp.where(running_G, state.step_G, 0)

    attention = _cached_attention(model, state.cache, block)

    def attend(q_B1NH: Array, k_B1KH: Array, v_B1KH: Array, layer: Array, *window_size: Array) -> tuple[Array, PyTree]:
        q_GMNH, k_GMKH, v_GMKH = (x.reshape(slots, samples, *x.shape[2:]) for x in (q_B1NH, k_B1KH, v_B1KH))
        new = k_GMKH.astype(state.cache.suffix_k_LGKMSH.dtype), v_GMKH.astype(state.cache.suffix_v_LGKMSH.dtype)
        out_GMNH = attention(q_GMNH, *new, state.cache, layer, prompt_length_G, suffix_length_G, *window_size)
        return out_GMNH.reshape(q_B1NH.shape), new

    tokens_B1 = state.token_GM.reshape(-1, 1)
    positions_B1 = jnp.repeat(state.prompt_length_G + state.step_G, samples)[:, None]
    layers_L = jnp.arange(model.config.num_layers)
    hidden_B1D, (k_LGMKH, v_LGMKH) = _run_layers(model, variables, tokens_B1, positions_B1, attend, layers_L)
    logits_BV: Any = model.apply(variables, hidden_B1D[:, 0], method="unembed")
    return logits_BV.reshape(slots, samples, -1), k_LGMKH, v_LGMKH


def _cached_attention(model: Transformer, cache: KVCache, block: int) -> CachedAttention:
    """The one for the model's devices; a kernel runs on each device's own slots and heads."""
    mesh = model.mesh
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    attention = cached_attention_for(device, model.config.head_dim, block, windowed=model.config.is_windowed)
    if mesh is None or mesh.size == 1:
        return attention
    slot, head = _split(cache.prompt_k_LGKTH, mesh)
    token, of_slot = P(slot, None, head), P(slot)
    cached: Any = KVCache(*[P(None, slot, head)] * 4)  # type: ignore[arg-type]
    window = (P(),) * model.config.is_windowed
    inputs = (token, token, token, cached, P(), of_slot, of_slot, *window)
    mapped: CachedAttention = jax.shard_map(attention, mesh=mesh, in_specs=inputs, out_specs=token, check_vma=False)
    return mapped


def _run_layers(model: Transformer, variables: PyTree, *inputs: Any) -> tuple[Array, PyTree]:
    out: Any = model.apply(variables, *inputs)  # whatever Flax's signature says, this is what `__call__` returns
    return out[0], out[1]


def _draw(logits_GMV: Array, key_GM: Array, step_G: Array, temperature_G: Array) -> tuple[Array, Array]:
    """Gumbel-max draws [G, M] (Maddison et al., arXiv 1411.0030) and their log-probs at temperature 1, float32."""

    def one(logits_V: Array, key: Array, step: Array, temperature: Array) -> tuple[Array, Array]:
        noise_V = jax.random.gumbel(jax.random.fold_in(key, step), logits_V.shape, jnp.float32)
        warm = temperature > 0
        scores_V = jnp.where(warm, logits_V / jnp.where(warm, temperature, 1.0) + noise_V, logits_V)
        token = jnp.argmax(scores_V).astype(jnp.int32)
        return token, logits_V[token] - jax.nn.logsumexp(logits_V)

    over_samples = jax.vmap(one, in_axes=(0, 0, None, None))
    return jax.vmap(over_samples)(logits_GMV, key_GM, step_G, temperature_G)


def _write(cache_GMS: Array, x_GM: Array, step_G: Array) -> Array:
    """Writes one token at each slot's own step: [G, M, S, ...] ← [G, M, ...]; a step past the end is dropped."""
    slot_G = jnp.arange(step_G.shape[0])
    return cache_GMS.at[slot_G, :, step_G].set(x_GM, unique_indices=True)


def _write_layers(cache_LGKMSH: Array, x_LGMKH: Array, step_G: Array, mesh: Mesh | None) -> Array:
    """Writes one token of every layer's keys or values at each slot's own step, each device those of its own slots.

    Slot by slot, as a scatter has a favourite layout of its own on TPUs, and would turn the whole cache round for it at
    every step. A step past the end, which only a slot at rest has, writes to the last place, where nobody looks.
    """

    def write(cache_LGKMSH: Array, x_LGMKH: Array, step_G: Array) -> Array:
        x_LGKMSH = jnp.swapaxes(x_LGMKH, 2, 3)[:, :, :, :, None]
        for slot in range(step_G.shape[0]):
            start = (0, slot, 0, 0, step_G[slot], 0)
            cache_LGKMSH = jax.lax.dynamic_update_slice(cache_LGKMSH, x_LGKMSH[:, slot : slot + 1], start)
        return cache_LGKMSH

    if mesh is None or mesh.size == 1:
        return write(cache_LGKMSH, x_LGMKH, step_G)
    slot, head = _split(cache_LGKMSH, mesh)
    cache, token = P(None, slot, head), P(None, slot, None, head)
    written: Array = jax.shard_map(
        write, mesh=mesh, in_specs=(cache, token, P(slot)), out_specs=cache, check_vma=False
    )(cache_LGKMSH, x_LGMKH, step_G)
    return written


def state_shardings(state: DecodeState, mesh: Mesh) -> Any:
    """Where a state lies: slots over the batch axes, key/value heads over `tensor`, where they divide.

    Args:
        state: Arrays or shapes.
        mesh: From `sharding.make_mesh`.

    Returns:
        A `DecodeState` of shardings.
    """
    slot, head = _split(state.cache.prompt_k_LGKTH, mesh)
    specs: list[Any] = [KVCache(*[P(None, slot, head)] * 4), *(P(slot) for _ in state[1:])]  # type: ignore[arg-type]
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), DecodeState(*specs), is_leaf=lambda x: isinstance(x, P))


def _split(cache_LGK: Any, mesh: Mesh) -> tuple[Any, Any]:
    """The mesh axes over which slots and key/value heads of a cache [L, G, K, …] are split."""
    slots, kv_heads = cache_LGK.shape[1:3]
    slot = BATCH_AXES if slots % divided(mesh, BATCH_AXES) == 0 else None
    return slot, "tensor" if kv_heads % mesh.shape["tensor"] == 0 else None


def _place(state: DecodeState, mesh: Mesh | None) -> DecodeState:
    if mesh is None:
        return state
    placed: DecodeState = jax.lax.with_sharding_constraint(state, state_shardings(state, mesh))
    return placed
