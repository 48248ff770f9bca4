"""Does the work of the tree attention follow what is visible? `python -m benchmarks.tree_attention`.

layouts of one length → packing → expiry → {blockwise, dense} attention → **visible blocks against seconds**

Every layout fills a row of `--tokens`: one causal chain, one tree of 2, 5 or 10 turns, and
many small trees side by side; the trees have the usual proportions (state 5,000, action
1,200, feedback 2,500 tokens, m = 5), scaled to fit. All go through the same two compiled
programs, forward alone and forward with backward, so that nothing but `expiry` differs.
All layouts take turns in one process and each is compared with the chain of the same sweep:
these ratios are what is of interest, never a time. The dense reference computes every pair
and masks afterwards; where its scores stay below `--dense_gib` it is timed afterwards, and
how much its times differ between layouts says how noisy the machine is.

Checked before timing: in every layout a token sees as many tokens as it lies deep in its
tree; for one of them, that no visible token is outside the visible blocks, and that
blockwise and dense attention agree, gradients included.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.tree_vs_rows import ACTION, CANDIDATES, FEEDBACK, STATE
from w4s_jax.policy.attention import TreeAttention, tree_attention_reference
from w4s_jax.policy.attention.blocks import visible_blocks
from w4s_jax.policy.attention.tree_xla import tree_attention
from w4s_jax.training.tree import PackedBatch, Tree, build_trees, pack
from w4s_jax.training.weights import RewardWeighted
from w4s_jax.types import Candidate, CandidateStatus, Turn

CHAIN, CHECKED = "causal chain", "tree of 5 turns"
FORWARD, BOTH = "forward", "forward + backward"
Timed = Callable[[Array], Any]
"""A compiled pass over q, k and v that takes the expiry, int32 [B, T]."""
Times = Mapping[str, Mapping[str, np.ndarray]]
"""pass → layout → seconds of each sweep."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One layout."""

    layout: str
    tokens: int
    """Of all rows."""
    token_share: float
    """Visible pairs of tokens over T²."""
    block_pairs: int
    """Pairs of blocks in which some query may see some key, of all rows."""
    block_share: float
    """The same over all causal pairs of blocks."""
    seconds: Mapping[str, float]
    """Median of each pass, by its name."""
    of_chain: Mapping[str, float]
    """Median of the pass's time over that of the chain in the same sweep."""


# --- layouts --------------------------------------------------------------------


def tree_of(turns: int, length: int, candidates: int = CANDIDATES) -> Tree:
    """The one tree of a dialogue of `length` tokens."""
    (tree,) = build_trees(dialogue_of(turns, length, candidates), RewardWeighted())
    return tree


def dialogue_of(turns: int, length: int, candidates: int = CANDIDATES) -> list[Turn]:
    """A trajectory of exactly `length` tokens in the usual proportions; what rounding leaves goes to the state."""
    whole = STATE + turns * candidates * ACTION + (turns - 1) * FEEDBACK
    action, feedback = (max(1, part * length // whole) for part in (ACTION, FEEDBACK))
    made: list[Turn] = []
    prompt = (1,) * (length - turns * candidates * action - (turns - 1) * feedback)
    for number in range(turns):
        actions = tuple(
            Candidate(index=i, status=CandidateStatus.OK, text="", ids=(2 + i,) * action, reward=0.0)
            for i in range(candidates)
        )
        made.append(
            Turn(
                round=1, trajectory=0, turn=number, task="t", messages=(), prompt_ids=prompt, candidates=actions,
                chosen=candidates // 2,
            )
        )  # fmt: skip
        prompt += actions[candidates // 2].ids + (0,) * feedback
    return made


def layouts(tokens: int) -> dict[str, PackedBatch]:
    """One full row of each layout."""
    trees = {CHAIN: [tree_of(1, tokens, candidates=1)]}
    trees |= {f"tree of {turns} turns": [tree_of(turns, tokens)] for turns in (2, 5, 10)}
    trees |= {f"{n} trees of 2 turns": [tree_of(2, tokens // n)] * n for n in (2, 4, 16)}
    rows = {name: pack(these, tokens, 1) for name, these in trees.items()}
    return {name: row for name, (row,) in rows.items()}


def count(name: str, row: PackedBatch, rows: int, block: int, times: Times) -> Measured:
    """What is visible, by token and by block, in `rows` copies of a row, beside what was timed."""
    tokens = row.expiry.shape[1]
    visible = int(np.sum(np.maximum(row.expiry - np.arange(tokens), 0)))  # queries from k to expiry[k] - 1
    blocks = tokens // block
    block_pairs = int(visible_blocks(jnp.asarray(row.expiry), block).sum())
    return Measured(
        layout=name,
        tokens=rows * tokens,
        token_share=visible / tokens**2,
        block_pairs=rows * block_pairs,
        block_share=block_pairs / (blocks * (blocks + 1) // 2),
        seconds={p: float(np.median(of[name])) for p, of in times.items()},
        of_chain={p: float(np.median(of[name] / of[CHAIN])) for p, of in times.items()},
    )


# --- checks ---------------------------------------------------------------------


def check_depths(name: str, row: PackedBatch) -> None:
    """A token sees its own path and nothing else, so as many keys as it is deep."""
    expiry = row.expiry[0]
    depth = np.where(expiry > 0, row.positions[0] + 1, 0)  # padding sees nothing
    key = np.arange(len(expiry))
    seen = np.array([np.sum((key <= q) & (q < expiry)) for q in range(len(expiry))])
    if not np.array_equal(seen, depth):
        raise SystemExit(f"{name}: token {int(np.argmax(seen != depth))} does not see its path alone")


def check_blocks(row: PackedBatch, block: int) -> str:
    """Compares the list of blocks with the dense mask."""
    expiry, index = row.expiry[0], np.arange(row.expiry.shape[1])
    dense = (index[None, :] <= index[:, None]) & (index[:, None] < expiry[None, :])
    blocks = len(index) // block
    needed = dense.reshape(blocks, block, blocks, block).any(axis=(1, 3))
    listed = np.asarray(visible_blocks(jnp.asarray(row.expiry), block)[0])
    missed, spare = int(np.sum(needed & ~listed)), int(np.sum(listed & ~needed))
    if missed:
        raise SystemExit(f"{missed} pairs of blocks with visible tokens are not listed")
    return f"{int(listed.sum())} pairs of blocks listed, {int(needed.sum())} needed by the dense mask, {spare} to spare"


def check_values(passes: Mapping[str, Timed], expiry_BT: Array) -> str:
    """Compares output and gradients of both attentions."""
    blockwise, dense = (jax.tree.leaves(passes[f"{kind}, {BOTH}"](expiry_BT)) for kind in ("blockwise", "dense"))
    differ = (
        f"{name} {float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel())):.0e}"
        for name, a, b in zip(("output", "dq", "dk", "dv"), blockwise, dense, strict=True)
    )
    return "blockwise and dense differ by " + ", ".join(differ)


# --- timing ---------------------------------------------------------------------


def compiled(attention: TreeAttention, arrays: Sequence[Array], cotangent: Array) -> dict[str, Timed]:
    """Forward alone, and output with gradients of q, k and v."""

    def both(q: Array, k: Array, v: Array, expiry: Array) -> tuple[Array, Any]:
        out, pull = jax.vjp(lambda *x: attention(*x, expiry), q, k, v)
        return out, pull(cotangent)

    programs = {FORWARD: jax.jit(attention), BOTH: jax.jit(both)}
    return {name: functools.partial(program, *arrays) for name, program in programs.items()}


def all_passes(given: argparse.Namespace) -> dict[str, Timed]:
    """The passes to time, on the same random arrays."""
    q_shape, kv_shape = (
        (given.rows, given.tokens, heads, given.head_dim) for heads in (given.num_heads, given.num_kv_heads)
    )
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (q_shape, kv_shape, kv_shape, q_shape)
    *arrays, cotangent = (jax.random.normal(key, shape, given.dtype) for key, shape in zip(keys, shapes, strict=True))
    kinds = {"blockwise": functools.partial(tree_attention, block=given.block)}
    if given.rows * given.num_heads * given.tokens**2 * 4 <= given.dense_gib * 2**30:
        kinds["dense"] = tree_attention_reference
    return {
        f"{kind}, {name}": program
        for kind, attention in kinds.items()
        for name, program in compiled(attention, arrays, cotangent).items()
    }


def timed(passes: Mapping[str, Timed], expiries: Mapping[str, Array], sweeps: int) -> Times:
    """Seconds of each pass over each layout; all take turns, so that a slow minute hits all alike."""
    seconds: dict[str, dict[str, list[float]]] = {p: {name: [] for name in expiries} for p in passes}
    for sweep in range(sweeps + 1):
        for name, expiry in expiries.items():
            for which, run in passes.items():
                begun = time.perf_counter()
                jax.block_until_ready(run(expiry))
                if sweep:  # the first compiles
                    seconds[which][name].append(time.perf_counter() - begun)
    return {p: {name: np.array(s) for name, s in of.items()} for p, of in seconds.items()}


# --- table ----------------------------------------------------------------------


HEADER = (
    *("layout", "tokens", "visible / T²", "block pairs", "of causal", "time of chain: forward", "both"),
    *("forward, ms", "a pair", "both, ms", "a pair", "dense, ms"),
)


def line(m: Measured) -> str:
    """A row of the table; the shares of blocks and of time stand beside each other."""
    passes = (FORWARD, BOTH)
    shares = [f"{m.of_chain[f'blockwise, {name}']:.3f}" for name in passes]
    times = [1e3 * m.seconds[f"blockwise, {name}"] for name in passes]
    each = [cell for ms in times for cell in (f"{ms:.0f}", f"{ms / m.block_pairs:.3f}")]
    dense = [f"{1e3 * m.seconds[f'dense, {name}']:,.0f}" for name in passes if f"dense, {name}" in m.seconds]
    visible = (f"{m.tokens:,}", f"{m.token_share:.3f}", str(m.block_pairs), f"{m.block_share:.3f}")
    return f"| {' | '.join((m.layout, *visible, *shares, *each))} | {' / '.join(dense) or 'too large'} |"


def fit(results: Sequence[Measured], name: str) -> str:
    """Least squares of the share of time = fixed + slope · the share of blocks; proportional is 0 and 1."""
    which = f"blockwise, {name}"
    blocks, took = np.array([m.block_share for m in results]), np.array([m.of_chain[which] for m in results])
    slope, fixed = np.polyfit(blocks, took, 1)
    off = took / (fixed + slope * blocks) - 1
    worst = int(np.argmax(np.abs(off)))
    pair = 1e3 * slope * results[0].seconds[which] / results[0].block_pairs
    return (
        f"{name}: share of time = {fixed:.3f} + {slope:.3f} · share of blocks ({pair:.3f} ms a pair), "
        f"largest deviation {off[worst]:+.0%} ({results[worst].layout})"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4_096, help="of a row; a multiple of --block")
    parser.add_argument("--rows", type=int, default=1, help="copies of the row in a batch")
    parser.add_argument("--num_heads", type=int, default=4)
    parser.add_argument("--num_kv_heads", type=int, default=2)
    parser.add_argument("--head_dim", type=int, default=64)
    parser.add_argument("--block", type=int, default=128, help="tokens of a block")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of q, k and v")
    parser.add_argument("--sweeps", type=int, default=25)
    parser.add_argument("--dense_sweeps", type=int, default=3)
    parser.add_argument("--dense_gib", type=float, default=0.5, help="largest scores that the reference may make")
    parser.add_argument("--json_out", type=Path)
    given = parser.parse_args()
    if given.tokens % given.block:
        raise SystemExit(f"--tokens={given.tokens} is not a multiple of --block={given.block}; choose one that is")
    rows = layouts(given.tokens)
    expiries = {name: jnp.asarray(np.repeat(row.expiry, given.rows, axis=0)) for name, row in rows.items()}
    passes = all_passes(given)
    print(
        f"{given.rows} × {given.tokens:,} tokens, {given.num_heads} heads ({given.num_kv_heads} of keys and values) of "
        f"{given.head_dim}, blocks of {given.block}, {given.dtype}, on {jax.devices()[0].device_kind} "
        f"({platform.machine()}), jax {jax.__version__}; medians of {given.sweeps}\n"
    )
    for name, row in rows.items():
        check_depths(name, row)
    print(f"{CHECKED}: {check_blocks(rows[CHECKED], given.block)}")
    if f"dense, {BOTH}" in passes:
        print(f"{CHECKED}: {check_values(passes, expiries[CHECKED])}")
    times: dict[str, Mapping[str, np.ndarray]] = {}
    for kind, sweeps in (("blockwise", given.sweeps), ("dense", given.dense_sweeps)):
        times |= timed({p: run for p, run in passes.items() if p.startswith(kind)}, expiries, sweeps)
    results = [count(name, row, given.rows, given.block, times) for name, row in rows.items()]
    print(f"\n| {' | '.join(HEADER)} |\n{'|---' * len(HEADER)}|")
    for measured in results:
        print(line(measured))
    if given.json_out:
        given.json_out.write_text(json.dumps([asdict(m) for m in results], indent=1) + "\n")
    print("\n" + "; ".join(fit(results, name) for name in (FORWARD, BOTH)))


if __name__ == "__main__":
    main()
