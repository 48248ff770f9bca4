"""How fast is a training step here, against its ceiling and torch? `python -m benchmarks.train_speed --torch`.

one dialogue → {tree step here, rows by transformers + torch} → **tokens/s, share of the matrix ceiling, memory**

A dialogue of `--turns` turns in the usual proportions fills a row of `--row_length` tokens. Every
case runs in a process of its own, so that it has the device to itself:

- `tree`: this project's step, gradient and update, median of `--repeats` after one that compiles.
  FLOPs are counted from the model and the visible pairs, nothing recomputed; the ceiling is a
  large bf16 matrix product measured in the same process, and their quotient is the utilisation.
- `torch` (with `--torch`, where torch and transformers are installed): the same actions one row
  each, as W4S trains them, bf16, gradient checkpointing and PyTorch's scaled dot-product
  attention, logits on the action's tokens alone, AdamW; the same optimiser's batch. What is of
  interest is the ratio of the seconds for the same actions.

No GPU or TPU has run it yet; on a CPU, `--model=small --row_length=1024 --dtype=float32` shows
that it works.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.tree_attention import dialogue_of, tree_of
from benchmarks.tree_vs_rows import CANDIDATES, SMALL
from w4s_jax.policy.config import PRESETS, ModelConfig
from w4s_jax.policy.config_json import to_hf
from w4s_jax.policy.lora import LoraConfig
from w4s_jax.policy.sharding import make_mesh
from w4s_jax.policy.transformer import Transformer
from w4s_jax.preflight.measure import local_chip, measured_seconds
from w4s_jax.preflight.roofline import Shape, gradient_flops
from w4s_jax.training.config import OptimizerConfig
from w4s_jax.training.step import Trainer
from w4s_jax.training.tree import build_rows, pack
from w4s_jax.training.weights import RewardWeighted

Result = dict[str, Any]


def config_of(name: str) -> ModelConfig:
    """A preset, or the small model of `tree_vs_rows`."""
    return SMALL if name == "small" else PRESETS[name]


# --- this project -----------------------------------------------------------------


def tree_step(given: argparse.Namespace) -> Result:
    """The tree in one row, on the first device."""
    config, tree = config_of(given.model), tree_of(given.turns, given.row_length)
    ceiling = local_chip(jnp.dtype(given.dtype)).matrix_flops
    mesh = make_mesh("", jax.devices()[:1])
    model = Transformer(
        config=config,
        compute_dtype=jnp.dtype(given.dtype),
        param_dtype=jnp.dtype(given.param_dtype),
        remat=given.remat,
        lora=LoraConfig(rank=given.lora_rank, alpha=16.0) if given.lora_rank else None,
        mesh=mesh,
    )
    trainer = Trainer(model=model, mesh=mesh, optimizer=OptimizerConfig(moment_dtype=given.moment_dtype))
    (batch,) = pack([tree], given.row_length, 1)
    seconds = measured_seconds(trainer, batch, tree.num_actions, repeats=given.repeats)
    flops = gradient_flops(config, Shape.of([tree]), frozen_base=bool(given.lora_rank))
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return {
        "case": "tree",
        "device": f"{jax.devices()[0].device_kind}, jax {jax.__version__}",
        "tokens": len(tree),
        "seconds": seconds,
        "tflops": flops / 1e12,
        "ceiling_tflops": ceiling / 1e12,
        "utilisation": flops / seconds / ceiling,
        "peak_gib": peak / 2**30,
    }


# --- transformers + torch ---------------------------------------------------------


def median_seconds(step: Callable[[], None], repeats: int) -> float:
    """Of a step that waits for its end, after one call that warms up."""
    step()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def torch_rows(given: argparse.Namespace) -> Result:
    """The same actions, one row each, through transformers on the first device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = to_hf(config_of(given.model))
    config = AutoConfig.for_model(shape.pop("model_type"), **shape)
    dtype = torch.bfloat16 if given.dtype == "bfloat16" else torch.float32
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.train()
    model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    rows = build_rows(dialogue_of(given.turns, given.row_length), RewardWeighted())

    def step() -> None:
        for row in rows:
            ids = torch.tensor(row.tokens, dtype=torch.long, device=device)[None]
            begin = int(row.target_source[0]) + 1
            hidden = model.model(ids, use_cache=False).last_hidden_state[:, begin - 1 : -1]
            nll = torch.nn.functional.cross_entropy(model.lm_head(hidden)[0].float(), ids[0, begin:])
            (nll * float(row.action_weights[0]) / len(rows)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = median_seconds(step, given.repeats)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {
        "case": "torch",
        "device": f"{name}, torch {torch.__version__}",
        "tokens": sum(map(len, rows)),
        "seconds": seconds,
        "peak_gib": peak / 2**30,
    }


# --- the table --------------------------------------------------------------------


def fresh(case: str, arguments: Sequence[str]) -> Result:
    """Runs one case in a process of its own; what it says last is its result."""
    command = [sys.executable, "-m", "benchmarks.train_speed", f"--case={case}", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"case": case, "failed": done.returncode}
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found


def line(result: Result) -> str:
    """A row of the table."""
    if "failed" in result:
        return f"| {result['case']} | ended with {result['failed']}, see above" + " | " * 6 + "|"
    rate = f"{result['tokens'] / result['seconds']:,.0f}"
    shares = [f"{result[key]:{form}}" if key in result else "" for key, form in SHARES.items()]
    cells = [result["case"], result["device"], f"{result['tokens']:,}", f"{result['seconds']:.3f}", rate, *shares]
    return f"| {' | '.join(cells)} | {result['peak_gib']:.1f} |"


SHARES = {"tflops": ".1f", "utilisation": ".1%"}
HEADER = ("case", "device", "tokens", "seconds a dialogue", "tokens/s", "TFLOP", "of the matrix ceiling", "peak GiB")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Qwen2.5-Coder-0.5B", choices=["small", *PRESETS])
    parser.add_argument("--row_length", type=int, default=16_384, help="tokens of the dialogue as a tree")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"], help="of matrix products")
    parser.add_argument("--param_dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--moment_dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--remat", default="full", choices=["none", "dots", "attention", "full"])
    parser.add_argument("--lora_rank", type=int, default=0)
    parser.add_argument("--torch", action="store_true", help="rows by transformers, too")
    parser.add_argument("--case", choices=["tree", "torch"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(tree_step(given) if given.case == "tree" else torch_rows(given)))
        return
    print(f"{given.model}, {given.turns} turns of best of {CANDIDATES}, one dialogue of {given.row_length:,} tokens\n")
    print(f"| {' | '.join(HEADER)} |\n{'|---' * len(HEADER)}|")
    results = [fresh(case, sys.argv[1:]) for case in ["tree", *(["torch"] if given.torch else [])]]
    print("\n".join(map(line, results)))
    if given.torch and not any("failed" in result for result in results):
        print(f"\nrows by torch take {results[1]['seconds'] / results[0]['seconds']:.2f} × the time of the tree")


if __name__ == "__main__":
    main()
