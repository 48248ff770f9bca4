"""How much host memory does a checkpoint take, in and out? `python -m benchmarks.checkpoint_memory --folder=DIR`.

random checkpoint → fresh processes: **load_checkpoint** · load, **save_checkpoint**, compare → table

The checkpoint has the shapes of a preset of `policy/config.py`, in files of at most
`--file_gb`, written piece by piece. Every process has `--devices` virtual CPU devices on the
mesh `fsdp=N`; a thread reads `/proc/self/status` (so Linux only) while the step runs. All
numbers are above what the process held when the step began. Told apart are

- anonymous memory. On a CPU the arrays of the devices lie in host memory, too; on an
  accelerator they would not. What the step placed there is subtracted, and the rest is the
  **staging**. (What an export slices on the devices is not subtracted: a tensor at most.)
- NumPy's arrays at their peak, by `tracemalloc`: staging counted exactly and without any
  device in it. The sum of all anonymous memory peaks when the last array is placed, which
  may be later than the staging does;
- mapped files, here mostly the checkpoint: page cache, which the kernel takes back when it
  needs the room, and which an import gives back leaf by leaf.

The bound is `2 · largest tensor + 2 GiB`, a tensor being one of the file, in the wider of the
two dtypes. It is to hold for the first two; mapped files are shown beside it. What a CPU
cannot show is how long transfers to an accelerator hold on to their source. Every tensor of
an export must equal the source to the bit. The exit status is 1 where one does not, or where
a bound does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import inspect
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from w4s_jax.policy import hf
from w4s_jax.policy.config import PRESETS, ModelConfig
from w4s_jax.policy.sharding import make_mesh

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
PIECE = 2**22
"""Numbers that are drawn at a time."""
INTERVAL = 0.002
"""Seconds between two looks at the memory."""
SHARD_BYTES = int(inspect.signature(hf.save_checkpoint).parameters["max_shard_bytes"].default)


class Resident(NamedTuple):
    """Memory of this process that is in RAM, bytes."""

    anonymous: int
    mapped: int
    """Pages of files and of shared memory."""

    @classmethod
    def now(cls) -> Resident:
        """Reads it."""
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
        return cls(1024 * kib["RssAnon"], 1024 * (kib["RssFile"] + kib["RssShmem"]))


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a step took above what was there before, bytes."""

    step: str
    seconds: float
    placed: int
    """On the devices, by the step."""
    anonymous: int
    """Highest."""
    mapped: int
    """Highest."""
    both: int
    """Highest sum."""
    numpy: int
    """Highest sum of NumPy's arrays."""
    left: int
    """Anonymous when the step was over, without what was placed."""
    different: tuple[str, ...] = ()
    """Tensors of an export that do not equal the source."""

    @property
    def staging(self) -> int:
        """Anonymous memory at the peak without what was placed."""
        return self.anonymous - self.placed

    @property
    def bounded(self) -> int:
        """What the bound is for."""
        return max(self.staging, self.numpy)


# --- the checkpoint ---------------------------------------------------------------


def write_checkpoint(folder: Path, config: ModelConfig, dtype: np.dtype, file_bytes: int) -> None:
    """Random weights in Hugging Face's layout; holds no more than a piece of a tensor."""
    folder.mkdir(parents=True)
    hf._write_configs(folder, config, dtype, None, None)
    rng = np.random.default_rng(0)
    plan = hf._plan_shards(config, dtype.itemsize, file_bytes)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(plan, 1):
        name = f"model-{number:05d}-of-{len(plan):05d}.safetensors"
        shapes = {entry.names[layer]: entry.stored for entry, layer in shard}
        write_file(folder / name, shapes, dtype, rng)
        weight_map |= dict.fromkeys(shapes, name)
    hf._write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def write_file(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype, rng: np.random.Generator) -> None:
    """One safetensors file: length of the header, header, tensors."""
    name_of = {known: name for name, known in hf._DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + int(np.prod(shape)) * dtype.itemsize
        header[name] = {"dtype": name_of[dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for left in range(end // dtype.itemsize, 0, -PIECE):
            file.write((0.02 * rng.standard_normal(min(left, PIECE), np.float32)).astype(dtype).tobytes())


def sizes(config: ModelConfig, dtype: np.dtype) -> list[int]:
    """Bytes of every tensor."""
    return [hf._num_bytes(entry, dtype.itemsize) for entry in hf._entries(config) for _ in entry.names]


def differing(source: Path, export: Path) -> Iterator[str]:
    """Names of the tensors that are not in both folders and equal to the bit; two tensors are held at a time."""
    at, there = files_of(source), files_of(export)
    yield from at.keys() ^ there.keys()
    for name in at.keys() & there.keys():
        first, second = read(at[name], name), read(there[name], name)
        same = first.dtype == second.dtype and first.shape == second.shape
        if not (same and np.array_equal(first.view(np.uint8), second.view(np.uint8))):
            yield name


def files_of(folder: Path) -> dict[str, Path]:
    """The file of each tensor."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="numpy") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def read(path: Path, name: str) -> np.ndarray:
    with safetensors.safe_open(path, framework="numpy") as file:
        tensor: np.ndarray = file.get_tensor(name)
    return tensor


# --- in a fresh process -----------------------------------------------------------


@contextlib.contextmanager
def watching() -> Iterator[list[Resident]]:
    """Looks at the memory at once, while the block runs and at its end."""
    looks, done = [Resident.now()], threading.Event()

    def watch() -> None:
        while not done.wait(INTERVAL):
            looks.append(Resident.now())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield looks
    finally:
        done.set()
        thread.join()
        looks.append(Resident.now())


def measured(step: str, work: Callable[[], Any]) -> tuple[Any, Usage]:
    """Runs a step and watches the memory meanwhile; what it returns counts as placed on the devices."""
    gc.collect()
    tracemalloc.start()
    begun = time.perf_counter()
    with watching() as looks:
        result = jax.block_until_ready(work())
    seconds = time.perf_counter() - begun
    numpy = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    gc.collect()
    before, after, placed = looks[0], Resident.now(), on_devices(result)
    return result, Usage(
        step=step,
        seconds=seconds,
        placed=placed,
        anonymous=max(look.anonymous for look in looks) - before.anonymous,
        mapped=max(look.mapped for look in looks) - before.mapped,
        both=max(sum(look) for look in looks) - sum(before),
        numpy=numpy,
        left=after.anonymous - before.anonymous - placed,
    )


def on_devices(tree: Any) -> int:
    """Bytes of the arrays of a pytree on all devices, copies included."""
    leaves = (leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))
    return sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards)


def run_import(given: argparse.Namespace) -> tuple[ModelConfig, Any, Usage]:
    """Loads the source onto the mesh."""
    mesh = make_mesh(f"fsdp={given.devices}")
    jax.block_until_ready(jnp.zeros(given.devices))  # the backend is up before anything is measured
    load = functools.partial(hf.load_checkpoint, given.folder / "source", mesh, given.param_dtype)
    (config, variables), usage = measured("import", load)
    return config, variables["params"], usage


def run_export(given: argparse.Namespace) -> Usage:
    """Loads the source, saves it again and compares."""
    config, params, _ = run_import(given)
    export, size = given.folder / "export", given.export_shard
    save = functools.partial(hf.save_checkpoint, export, config, params, given.dtype, max_shard_bytes=size)
    _, usage = measured(f"export, files of {size / 1e9:g} GB", save)
    del params
    different = tuple(differing(given.folder / "source", export))
    return Usage(**asdict(usage) | {"different": different})


# --- the table --------------------------------------------------------------------


def fresh(given: argparse.Namespace, *arguments: str) -> Usage:
    """Runs one step in a process of its own."""
    flags = [f"--{name}={getattr(given, name)}" for name in ("folder", "dtype", "param_dtype", "devices")]
    devices = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={given.devices}"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.checkpoint_memory", *flags, *arguments],
        cwd=ROOT,
        env=os.environ | devices,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the process of {' '.join(arguments)} ended with status {done.returncode}, see above")
    return Usage(**json.loads(done.stdout.splitlines()[-1]))


def line(usage: Usage, bound: int) -> str:
    """A row of the table."""

    def gib(size: int) -> str:
        return f"{size / GIB:.2f}"

    def verdict(size: int) -> str:
        return f"{gib(size)} {'≤' if size <= bound else '>'} {gib(bound)}"

    equal = "" if usage.step == "import" else "no" if usage.different else "yes"
    cells = (
        *(usage.step, f"{usage.seconds:.0f}", gib(usage.placed), gib(usage.anonymous), verdict(usage.staging)),
        *(verdict(usage.numpy), gib(usage.mapped), verdict(usage.both - usage.placed), gib(usage.left), equal),
    )
    return f"| {' | '.join(cells)} |"


HEADER = (
    *("step", "seconds", "placed", "anonymous", "staging", "NumPy", "mapped", "staging + mapped", "left"),
    "equal to the bit",
)


def check_room(given: argparse.Namespace) -> None:
    """Refuses a folder that is in use or too full, before anything is written."""
    for old in (given.folder / "source", given.folder / "export"):
        if old.exists():
            raise SystemExit(f"{old} exists; remove it or choose another --folder")
    needed = 2 * sum(sizes(PRESETS[given.preset], jnp.dtype(given.dtype))) + GIB
    free = shutil.disk_usage(next(at for at in (given.folder, *given.folder.parents) if at.exists())).free
    if free < needed:
        raise SystemExit(
            f"{given.folder} has {free / GIB:.1f} GiB free, {given.preset} needs {needed / GIB:.1f}; "
            "choose another --folder or a smaller --preset"
        )


def heading(given: argparse.Namespace, tensors: list[int], largest: int, bound: int) -> str:
    return (
        f"{given.preset}, {given.dtype}, placed as {given.param_dtype} on fsdp={given.devices} of virtual CPU devices "
        f"({platform.machine()}), jax {jax.__version__}, safetensors {safetensors.__version__}\n"
        f"{sum(tensors) / GIB:.2f} GiB in {len(tensors)} tensors and files of {given.file_gb:g} GB; all sizes in GiB\n"
        f"bound = 2 · largest tensor + 2 GiB = 2 · {largest / GIB:.3f} + 2 = {bound / GIB:.2f}\n"
        "staging = anonymous - placed, since on a CPU the arrays of the devices lie in host memory, too\n\n"
        f"| {' | '.join(HEADER)} |\n{'|---' * len(HEADER)}|"
    )


def report(given: argparse.Namespace) -> int:
    """Writes the checkpoint, runs the steps, prints the table."""
    config, dtype = PRESETS[given.preset], jnp.dtype(given.dtype)
    tensors, file_bytes = sizes(config, dtype), int(given.file_gb * 1e9)
    largest = max(tensors) * max(1, jnp.dtype(given.param_dtype).itemsize // dtype.itemsize)
    bound = 2 * largest + 2 * GIB
    write_checkpoint(given.folder / "source", config, dtype, file_bytes)
    print(heading(given, tensors, largest, bound), flush=True)
    steps = [["--step=import"]]
    steps += [["--step=export", f"--export_shard={size}"] for size in dict.fromkeys((SHARD_BYTES, file_bytes))]
    results = []
    for step in steps:
        shutil.rmtree(given.folder / "export", ignore_errors=True)
        results.append(fresh(given, *step))
        print(line(results[-1], bound), flush=True)
    print()
    return conclude(results, bound)


def conclude(results: list[Usage], bound: int) -> int:
    """One line a step; 1 where a bound or an equality does not hold."""
    for usage in results:
        holds = "holds" if usage.bounded <= bound else "DOES NOT HOLD"
        print(f"{usage.step}: {usage.bounded / GIB:.2f} GiB of staging, {bound / GIB:.2f} allowed: the bound {holds}")
        if usage.different:
            print(f"{usage.step}: {len(usage.different)} tensors differ, first {usage.different[0]}")
    return int(any(usage.bounded > bound or usage.different for usage in results))


def main() -> int:
    """Prints the table; 0 when all bounds hold and all exports are equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the checkpoint and its export: twice its size")
    parser.add_argument("--preset", default="Qwen2.5-Coder-1.5B", choices=[*PRESETS])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of the files")
    parser.add_argument(
        "--param_dtype", choices=["bfloat16", "float32"], help="of the parameters; as --dtype if not given"
    )
    parser.add_argument("--devices", type=int, default=4, help="virtual ones")
    parser.add_argument(
        "--file_gb", type=float, default=1.0, help="of the source, and of a second export where it is not the default"
    )
    parser.add_argument("--keep", action="store_true", help="leave the source and the last export")
    parser.add_argument("--step", choices=["import", "export"], help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--export_shard", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.folder, given.param_dtype = given.folder.resolve(), given.param_dtype or given.dtype
    if given.step:
        usage = run_export(given) if given.step == "export" else run_import(given)[2]
        print(json.dumps(asdict(usage)))
        return 0
    check_room(given)
    ours = not given.folder.exists()
    given.folder.mkdir(parents=True, exist_ok=True)
    try:
        return report(given)
    finally:
        if not given.keep:
            for path in ("source", "export", ".export.partial"):
                shutil.rmtree(given.folder / path, ignore_errors=True)
            if ours:
                given.folder.rmdir()


if __name__ == "__main__":
    sys.exit(main())
