"""What a token tree saves: `python -m benchmarks.tree_vs_rows`.

one trajectory → {tree, one row per action} → the same jitted gradient step → **tokens, FLOPs, seconds, gradients**

Both layouts hold the same actions of one dialogue and run through the same model, the
same attention and the same loss, each in a row of its own length, interleaved in one process; the ratio of the times is
what is of interest, never a time. Lengths are the usual ones (state 5,000, action 1,200,
feedback 2,500 tokens, m = 5), divided by `--scale` so that a small model on a CPU can do
them. FLOPs are counted from the model and from the visible (query, key) pairs, padding
left out: forward once, backward twice for every matrix product.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from w4s_jax.policy.attention import tree_attention_for
from w4s_jax.policy.config import PRESETS, ModelConfig
from w4s_jax.policy.sharding import make_mesh
from w4s_jax.policy.transformer import Transformer, init_variables
from w4s_jax.preflight.roofline import Shape, gradient_flops
from w4s_jax.training.config import OptimizerConfig
from w4s_jax.training.step import GradSum, Trainer, TrainState
from w4s_jax.training.tree import PackedBatch, Tree, build_rows, build_trees, pack
from w4s_jax.training.weights import RewardWeighted
from w4s_jax.types import Candidate, CandidateStatus, Turn

STATE, ACTION, FEEDBACK, CANDIDATES = 5_000, 1_200, 2_500, 5
SMALL = ModelConfig(
    vocab_size=4_096, num_layers=4, embed_dim=256, num_heads=4, num_kv_heads=2, head_dim=64, mlp_dim=704
)
"""What 2 cores can train; `--model` takes a preset of `policy/config.py` instead."""


@dataclass(frozen=True)
class Measured:
    """One layout of one trajectory."""

    tokens: int
    padded_tokens: int
    tflops: float
    seconds: float
    """Best of the repeats."""


def trajectory(turns: int, scale: int, vocab_size: int) -> list[Turn]:
    """One dialogue with random tokens and rewards; a middle action goes on."""
    rng = np.random.default_rng(turns)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, vocab_size, length // scale).tolist())

    made: list[Turn] = []
    prompt = ids(STATE)
    for number in range(turns):
        candidates = tuple(
            Candidate(
                index=i, status=CandidateStatus.OK, text="", ids=ids(ACTION), reward=float(rng.choice([0.0, 0.5, 1.0]))
            )
            for i in range(CANDIDATES)
        )
        made.append(
            Turn(
                round=1, trajectory=0, turn=number, task="t", messages=(), prompt_ids=prompt, candidates=candidates,
                chosen=2,
            )
        )  # fmt: skip
        prompt += candidates[2].ids + ids(FEEDBACK)
    return made


def teraflops(trees: Sequence[Tree], config: ModelConfig) -> float:
    """Counted work of one gradient."""
    return gradient_flops(config, Shape.of(trees)) / 1e12


def rounded(length: int) -> int:
    """Capacity of a row that holds one layout alone: neither side pays for the other's padding."""
    return -(-length // 128) * 128


def gradient(trainer: Trainer, state: TrainState, batches: Sequence[PackedBatch]) -> GradSum:
    """Σ weight·nll and its gradient over all batches, finished."""
    total = trainer.zero_grads()
    for batch in batches:
        total = trainer.accumulate(state, total, batch)
    return jax.block_until_ready(total)


def timed(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def largest_difference(first: GradSum, second: GradSum) -> float:
    """Of any leaf, relative to its norm."""
    norms = jax.tree.map(
        lambda a, b: jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel()), first.grads, second.grads
    )
    return float(max(jax.tree.leaves(norms)))


def compare(trainer: Trainer, state: TrainState, turns: int, scale: int, repeats: int) -> dict[str, Any]:
    """One trajectory in both layouts, interleaved."""
    config = trainer.model.config
    dialogue = trajectory(turns, scale, config.vocab_size)
    layouts = {"tree": build_trees(dialogue, RewardWeighted()), "rows": build_rows(dialogue, RewardWeighted())}
    batches = {
        name: [batch for tree in trees for batch in pack([tree], rounded(len(tree)), 1)]
        for name, trees in layouts.items()
    }
    gradients = {name: gradient(trainer, state, b) for name, b in batches.items()}  # compiles, too
    difference = largest_difference(gradients["tree"], gradients["rows"])
    del gradients
    seconds: dict[str, list[float]] = {name: [] for name in layouts}
    for _ in range(repeats):
        for name, b in batches.items():
            seconds[name].append(timed(functools.partial(gradient, trainer, state, b)))
    measured = {
        name: Measured(
            tokens=sum(map(len, trees)),
            padded_tokens=sum(batch.tokens.size for batch in batches[name]),
            tflops=teraflops(trees, config),
            seconds=min(seconds[name]),
        )
        for name, trees in layouts.items()
    }
    tree, rows = measured["tree"], measured["rows"]
    return {
        "turns": turns,
        "token_ratio": rows.tokens / tree.tokens,
        "flop_ratio": rows.tflops / tree.tflops,
        "time_ratio": rows.seconds / tree.seconds,
        "gradient_difference": difference,
        **{name: asdict(m) for name, m in measured.items()},
    }


def line(result: dict[str, Any]) -> str:
    tree, rows = result["tree"], result["rows"]
    share = result["time_ratio"] / result["flop_ratio"]
    return (
        f"| {result['turns']} | {tree['tokens']:,} / {rows['tokens']:,} | {result['token_ratio']:.1f} "
        f"| {result['flop_ratio']:.2f} | {result['time_ratio']:.2f} | {share:.0%} "
        f"| {tree['tflops'] / tree['seconds']:.3f} / {rows['tflops'] / rows['seconds']:.3f} "
        f"| {result['gradient_difference']:.1e} |"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", choices=["small", *PRESETS])
    parser.add_argument("--turns", default="2,5,10")
    parser.add_argument("--scale", type=int, default=16, help="divides the lengths; 1 is the lengths above")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of matrix products")
    parser.add_argument("--remat", default="none")
    parser.add_argument("--json_out", type=Path)
    given = parser.parse_args()
    config = SMALL if given.model == "small" else PRESETS[given.model]
    mesh = make_mesh("", jax.devices()[:1])
    model = Transformer(config=config, compute_dtype=jnp.dtype(given.dtype), remat=given.remat, mesh=mesh)
    trainer = Trainer(model=model, mesh=mesh, optimizer=OptimizerConfig(name="sgd"))
    state = trainer.init_state(init_variables(model, jax.random.key(0)))
    attention = tree_attention_for(mesh, config.head_dim).__module__.rpartition(".")[2]
    device = jax.devices()[0]
    print(
        f"{given.model}, {given.dtype}, lengths / {given.scale}, {attention} on {device.device_kind} "
        f"({platform.machine()}), jax {jax.__version__}; one gradient of one trajectory, best of {given.repeats}\n"
    )
    print("| turns | tokens, tree / rows | ratio | FLOPs | time | time of FLOPs | TFLOP/s | gradients differ by |")
    print("|---" * 8 + "|")
    results = []
    for turns in given.turns.split(","):
        results.append(compare(trainer, state, int(turns), given.scale, given.repeats))
        print(line(results[-1]), flush=True)
    if given.json_out:
        given.json_out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
