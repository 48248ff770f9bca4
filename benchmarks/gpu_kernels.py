"""What do the attention kernels for GPUs compile to? `python -m benchmarks.gpu_kernels`, without a GPU.

topology × head size → compile ahead of time → ptxas, nvdisasm → **registers, spills, shared memory, instructions**

The kernels are compiled for described GPUs by the compiler that would compile them there (jax's CUDA plugin,
`make aot` installs it). A spill is a register that had to live in memory. *Instructions a score* are those that one
thread issues in the innermost loop, over the scores (query × key) that it computes there: first in the loop over
blocks that are visible as a whole, then in the one that computes masks; one number where the compiler laid code so
that only one is seen. Matrix products are asynchronous and count
one each; what they do not hide, the other instructions cost. Nothing is run or timed here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from w4s_jax.preflight.described import CUDA_PLUGINS

CASES = [("h200", 128, "bfloat16"), ("h200", 64, "bfloat16"), ("h200", 128, "float32")]
CASES += [("a100", 128, "bfloat16"), ("a100", 64, "bfloat16"), ("b200", 128, "bfloat16")]
QUERY_HEADS, KEY_HEADS, TOKENS = 28, 4, 4096
ARCHITECTURES = {"a100": "sm_80", "h100": "sm_90a", "h200": "sm_90a", "b200": "sm_100a"}


class Kernel(NamedTuple):
    """What became of one kernel."""

    name: str
    tile: Sequence[int]
    """Queries, keys, warps, stages."""
    registers: int
    """Of a thread; 255 at most."""
    spilled: int
    """Bytes of a thread, stored."""
    shared: int
    """Bytes of a block."""
    loops: Sequence[int]
    """Instructions of each loop with a matrix product in it; empty where nvdisasm is missing."""

    def format_row(self) -> str:
        """A row of the table."""
        queries, keys, warps, _ = self.tile
        scores = queries * keys / (32 * warps)
        counts = " / ".join(f"{loop / scores:.1f}" for loop in self.loops[:2]) or "–"
        cells = [f"{queries} × {keys}, {warps}", self.registers, self.spilled, f"{self.shared / 1024:.0f}", counts]
        return " | ".join(map(str, [self.name.removesuffix("_kernel").replace("_", " "), *cells]))


# --- in a process of its own, as XLA reads its flags once -------------------------


def compile_case(topology: str, head_dim: int, dtype: str) -> None:
    """Compiles forward and gradients; says which tiles it took. XLA leaves its files where its flags say."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from w4s_jax.policy.attention import tree_gpu
    from w4s_jax.policy.sharding import make_mesh
    from w4s_jax.preflight.chips import Topology
    from w4s_jax.preflight.described import compiling_for

    mesh = make_mesh("", Topology.parse(topology).devices())

    def shape(*sizes: int, dtype: str = dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype), sharding=NamedSharding(mesh, PartitionSpec()))

    def total(q: jax.Array, k: jax.Array, v: jax.Array, expiry: jax.Array) -> jax.Array:
        return jnp.sum(tree_gpu.tree_attention(q, k, v, expiry).astype(jnp.float32))

    q, k = (shape(1, TOKENS, heads, head_dim) for heads in (QUERY_HEADS, KEY_HEADS))
    with compiling_for(mesh):
        jax.jit(jax.grad(total, (0, 1, 2))).lower(q, k, k, shape(1, TOKENS, dtype="int32")).compile()
    tiles = tree_gpu.tiles_for(jnp.dtype(dtype))
    print(json.dumps({f"{name}_kernel": list(tile) for name, tile in tiles._asdict().items()}))


# --- what the compiler left -------------------------------------------------------


def kernels(topology: str, head_dim: int, dtype: str) -> list[Kernel]:
    """Compiles one case and reads what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        command = [sys.executable, "-m", "benchmarks.gpu_kernels", f"--case={topology},{head_dim},{dtype}"]
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        tiles = json.loads(done.stdout.splitlines()[-1])
        (thunks,) = Path(folder).glob("*thunk_sequence.txt")
        shared = dict(re.findall(r"(\w+_kernel) grid.*?shared_memory: (\d+)", thunks.read_text()))
        found = []
        for ptx in Path(folder).glob("*.ptx"):
            name = re.search(r"\.entry (\w+)", ptx.read_text())
            if name and name[1] in tiles:
                registers, spilled, loops = assembled(ptx, ARCHITECTURES[topology])
                found.append(Kernel(name[1], tiles[name[1]], registers, spilled, int(shared[name[1]]), loops))
        return sorted(found)


def assembled(ptx: Path, architecture: str) -> tuple[int, int, list[int]]:
    """Registers, spilled bytes and the lengths of the loops with matrix products."""
    binary = ptx.with_suffix(".cubin")
    said = subprocess.run(
        [str(tool("ptxas")), "-v", f"-arch={architecture}", ptx, "-o", binary],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    registers, spilled = (int(re.findall(what, said)[0]) for what in (r"Used (\d+) reg", r"(\d+) bytes spill stores"))
    disassembler = tool("nvdisasm")
    if disassembler is None:
        return registers, spilled, []
    code = subprocess.run([disassembler, "-c", binary], capture_output=True, text=True, check=True).stdout
    return registers, spilled, product_loops(code)


def product_loops(code: str) -> list[int]:
    """Instructions between each backward branch and its target, where a matrix product is among them."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    loops = []
    for line in map(str.strip, code.splitlines()):
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"/\*[0-9a-f]+\*/\s+(.*?);", line):
            instructions.append(instruction[1])
            back = re.search(r"\bBRA.*?`\((\.L_x_\d+)\)", line)
            body = instructions[labels[back[1]] :] if back and back[1] in labels else []
            loops += [len(body)] if any("MMA" in one for one in body) else []
    return loops


def tool(name: str) -> str | None:
    """Of the CUDA packages beside jax's plugin."""
    packages = importlib.util.find_spec("nvidia")
    roots = packages.submodule_search_locations or [] if packages else []
    return next((str(path) for root in roots for path in Path(root).glob(f"*/bin/{name}")), None)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        topology, head_dim, dtype = given.case.split(",")
        compile_case(topology, int(head_dim), dtype)
        return
    if tool("ptxas") is None or not any(map(importlib.util.find_spec, CUDA_PLUGINS)):
        sys.exit("benchmarks.gpu_kernels needs jax's CUDA plugin and its ptxas; `make aot` makes .venv-aot with both")
    header = (
        "GPU, head size, type | kernel | tile, warps | registers | spilled, bytes | shared, KiB | instructions a score"
    )
    print(f"| {header} |\n{'|---' * 7}|")
    for case in CASES:
        for kernel in kernels(*case):
            print(f"| {', '.join(map(str, case))} | {kernel.format_row()} |", flush=True)


if __name__ == "__main__":
    main()
