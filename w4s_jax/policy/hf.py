"""Hugging Face checkpoints, in and out.

config.json + *.safetensors → **load_checkpoint** → params → … → **save_checkpoint** → the same files

Hugging Face stores one tensor a layer and maps as [out, in] matrices; here layers
are stacked and maps keep their heads apart. `parameters.leaves` is the whole correspondence,
used in both directions, so that import ∘ export is the identity bit for bit.
Loading maps the files into memory and copies out only what the devices of this
process hold; PyTorch is never imported.
"""

from __future__ import annotations

import functools
import json
import math
import mmap
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding, SingleDeviceSharding
from jax.typing import ArrayLike, DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from w4s_jax.policy import sharding
from w4s_jax.policy.config import ModelConfig
from w4s_jax.policy.config_json import from_hf, to_hf
from w4s_jax.policy.parameters import Leaf, leaves
from w4s_jax.policy.transformer import param_shapes
from w4s_jax.types import CheckpointError, InputError

PyTree = Any
Index = tuple[slice, ...]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
"""Copied beside an export where they exist."""

_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16)}
_PIECE_BYTES = 2**28
"""What the host reads of a shard at a time."""
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


# --- loading ----------------------------------------------------------------


def load_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Reads `config.json` of a checkpoint folder.

    Raises:
        InputError: The file is missing, is no JSON object, or describes what is not implemented.
    """
    return from_hf(_read_json(pathlib.Path(path) / "config.json"))


def load_checkpoint(
    path: str | os.PathLike[str], mesh: Mesh | None = None, param_dtype: DTypeLike = jnp.float32
) -> tuple[ModelConfig, dict[str, PyTree]]:
    """Reads a Hugging Face folder into variables.

    Args:
        path: A local folder with `config.json` and one or more `*.safetensors`.
        mesh: Where to put the parameters, by the table of `sharding.py`; the default device where None.
        param_dtype: Dtype of the parameters; each tensor is rounded to it once.

    Returns:
        (config, {"params": …}), ready for `Transformer.apply`.

    Raises:
        InputError: A file is missing or broken, or a tensor is unknown, missing, of another shape or of a
            dtype that is not F32, F16 or BF16; every such tensor is named.
    """
    folder = pathlib.Path(path)
    config = load_config(folder)
    tensors = _open_tensors(folder)
    _check_tensors(folder, tensors, config)
    shapes = param_shapes(config, param_dtype)["params"]
    if mesh is None:
        device = SingleDeviceSharding(jax.local_devices()[0])
        placements = jax.tree.map(lambda _: device, shapes)
    else:
        placements = sharding.shardings(shapes, mesh)
    params: dict[str, PyTree] = {}
    for leaf in leaves(config):
        shape, placement = _at(shapes, leaf.path), _at(placements, leaf.path)
        read = functools.partial(_read_leaf, tensors, leaf, config, shape)
        _put(params, leaf.path, _placed(shape, placement, read))
        tensors.forget()
    return config, {"params": params}


def _placed(leaf: jax.ShapeDtypeStruct, where: Sharding, read: Callable[[Index], np.ndarray]) -> jax.Array:
    """An array of which the host holds one piece of one device's shard at a time."""
    shards = []
    for device, index in where.addressable_devices_indices_map(leaf.shape).items():
        assert index is not None
        shards.append(_shard(leaf, device, index, read))
        jax.block_until_ready(shards[-1])  # else the host would hold what is still on its way
    return jax.make_array_from_single_device_arrays(leaf.shape, where, shards)


def _shard(
    leaf: jax.ShapeDtypeStruct, device: jax.Device, index: Index, read: Callable[[Index], np.ndarray]
) -> jax.Array:
    bounds = [s.indices(n) for s, n in zip(index, leaf.shape, strict=True)]
    shape = tuple(stop - start for start, stop, _ in bounds)
    rows = max(1, _PIECE_BYTES // (math.prod(shape[1:]) * leaf.dtype.itemsize))
    if rows >= shape[0]:
        whole: jax.Array = jax.device_put(read(index), device)
        return whole
    shard = jnp.zeros(shape, leaf.dtype, device=device)
    begin, end, _ = bounds[0]
    for row in range(begin, end, rows):
        piece = jax.device_put(read((slice(row, min(row + rows, end)), *index[1:])), device)
        shard = jax.block_until_ready(_write_rows(shard, piece, row - begin))
    return shard


@functools.partial(jax.jit, donate_argnums=0)
def _write_rows(shard: jax.Array, piece: jax.Array, row: ArrayLike) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(shard, piece, row, axis=0)


def _read_leaf(
    tensors: Mapping[str, np.ndarray], leaf: Leaf, config: ModelConfig, shape: jax.ShapeDtypeStruct, index: Index
) -> Any:
    """The part `index` of a leaf, one tensor after the other; views until the copy into the result."""
    names, view, order = leaf.tensors(config), leaf.tensor_view(config), leaf.order

    def part(name: str, rest: Index) -> np.ndarray:
        return tensors[name].reshape(view).transpose(order)[rest]

    if not leaf.is_stacked:
        return part(names[0], index).astype(shape.dtype)
    layers = range(*index[0].indices(len(names)))
    sizes = (len(range(*s.indices(n))) for s, n in zip(index[1:], shape.shape[1:], strict=True))
    out = np.empty((len(layers), *sizes), shape.dtype)
    for row, layer in zip(out, layers, strict=True):
        row[...] = part(names[layer], index[1:])
    return out


class _Tensors(dict[str, np.ndarray]):
    """Read-only views of all tensors of a folder; they are read from disk when they are used."""

    def __init__(self) -> None:
        super().__init__()
        self._maps: list[mmap.mmap] = []

    def map(self, path: pathlib.Path) -> np.ndarray:
        """The bytes of a file."""
        with open(path, "rb") as file:
            self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return np.frombuffer(self._maps[-1], np.uint8)

    def forget(self) -> None:
        """Gives the pages that were read back to the system; what is used again is read again."""
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)


def _open_tensors(folder: pathlib.Path) -> _Tensors:
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise InputError(f"{index} has no weight_map from tensor to file name; fetch it again")
        names = sorted(set(weight_map.values()))
    tensors = _Tensors()
    for name in names:
        for tensor, view in _open_file(folder / name, tensors):
            if tensor in tensors:
                raise InputError(f"{folder} holds the tensor {tensor!r} twice; the checkpoint is broken")
            tensors[tensor] = view
    return tensors


def _open_file(path: pathlib.Path, tensors: _Tensors) -> Iterator[tuple[str, np.ndarray]]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; a checkpoint is a folder with config.json and *.safetensors")
    try:
        with safe_open(path, framework="numpy"):  # checks the header, the offsets and the length of the file
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}); fetch it again") from error
    # Our own views, as the library's numpy reader copies whole tensors, and has no bfloat16 before 0.8.
    data = tensors.map(path)
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:start].tobytes())
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise InputError(f"{path} has {name!r} in {entry['dtype']}; allowed: {', '.join(_DTYPES)} (not quantized)")
        begin, end = (start + offset for offset in entry["data_offsets"])
        yield name, data[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])


def _check_tensors(folder: pathlib.Path, tensors: Mapping[str, np.ndarray], config: ModelConfig) -> None:
    expected = {name: leaf.tensor_shape(config) for leaf in leaves(config) for name in leaf.tensors(config)}
    spare = {name for name in tensors if name.endswith("rotary_emb.inv_freq")}  # a constant that old exports store
    if config.tie_embeddings and "lm_head.weight" in tensors:
        if not np.array_equal(tensors["lm_head.weight"], tensors.get("model.embed_tokens.weight", ())):
            raise InputError(f"{folder} has tie_word_embeddings=true but another lm_head.weight; correct config.json")
        spare.add("lm_head.weight")
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in expected and name not in spare]
    problems += [
        f"{name} has shape {list(tensors[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        raise InputError(f"{folder} does not match its config.json: {'; '.join(problems)}")


# --- saving -----------------------------------------------------------------


def save_checkpoint(
    path: str | os.PathLike[str],
    config: ModelConfig,
    params: PyTree,
    dtype: DTypeLike = jnp.bfloat16,
    tokenizer_dir: str | os.PathLike[str] | None = None,
    *,
    generation: Mapping[str, Any] | None = None,
    max_shard_bytes: int = 1_000_000_000,
    overwrite: bool = False,
) -> None:
    """Writes a folder that `transformers` and vLLM load.

    Files are written beside the target and renamed into place, so a killed export
    leaves no half folder under `path`. Every process calls this; the first one writes.

    Args:
        path: The folder to make.
        config: Shape of the model.
        params: The `params` collection; adapters are merged before (`lora.merge`).
        dtype: Dtype of the stored tensors.
        tokenizer_dir: Where `TOKENIZER_FILES` and, unless `generation` is given, `generation_config.json` come from.
        generation: Content of `generation_config.json`; its bos, eos and pad ids also go into `config.json`.
        max_shard_bytes: Most bytes of a file, which is what the host holds of the model; a larger tensor has a file
            of its own.
        overwrite: Whether an existing folder is replaced.

    Raises:
        InputError: `path` exists and `overwrite` is false, or `params` is not of this config.
        CheckpointError: The files cannot be written.
    """
    folder = pathlib.Path(path)
    if folder.exists() and not overwrite:
        raise InputError(f"{folder} exists; choose another folder or allow overwriting")
    _check_params(config, params)
    writes = jax.process_index() == 0
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        if writes:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _write_configs(partial, config, dtype, tokenizer_dir, generation)
        _write_tensors(partial, config, params, np.dtype(dtype), max_shard_bytes, writes)
        if writes:
            move_into_place(partial, folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written ({error}); check the disk and its permissions") from error


def _write_configs(
    folder: pathlib.Path,
    config: ModelConfig,
    dtype: DTypeLike,
    tokenizer_dir: str | os.PathLike[str] | None,
    generation: Mapping[str, Any] | None,
) -> None:
    source = None if tokenizer_dir is None else pathlib.Path(tokenizer_dir)
    if generation is None:
        stored = None if source is None else source / "generation_config.json"
        generation = _read_json(stored) if stored is not None and stored.exists() else {}
    ids = {key: generation[key] for key in _TOKEN_IDS if key in generation}
    name = np.dtype(dtype).name
    _write_json(folder / "config.json", to_hf(config) | ids | {"torch_dtype": name})
    _write_json(folder / "generation_config.json", dict(generation))
    if source is not None:
        for file in TOKENIZER_FILES:
            if (source / file).exists():
                shutil.copyfile(source / file, folder / file)


def _write_tensors(
    folder: pathlib.Path, config: ModelConfig, params: PyTree, dtype: np.dtype, max_shard_bytes: int, writes: bool
) -> None:
    """Fetches tensor by tensor, in the same order on every process, and writes a file whenever one is full."""
    plan = _plan_shards(config, dtype.itemsize, max_shard_bytes)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(plan, 1):
        name = "model.safetensors" if len(plan) == 1 else f"model-{number:05d}-of-{len(plan):05d}.safetensors"
        tensors: dict[str, np.ndarray] = {}
        for leaf, layer in shard:
            tensor = _fetch_tensor(params, leaf, layer, config, dtype)
            if writes:
                tensors[leaf.tensor.format(layer)] = tensor
            weight_map[leaf.tensor.format(layer)] = name
        if writes:
            save_file(tensors, folder / name, metadata={"format": "pt"})
    if writes and len(plan) > 1:
        total = sum(_num_bytes(leaf, config, dtype.itemsize) for shard in plan for leaf, _ in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)


def _plan_shards(config: ModelConfig, itemsize: int, max_shard_bytes: int) -> list[list[tuple[Leaf, int]]]:
    """Tensors of each file, as (leaf, layer); a layer's tensors stay neighbours."""
    every = leaves(config)
    order = [(leaf, 0) for leaf in every if not leaf.is_stacked]
    order += [(leaf, layer) for layer in range(config.num_layers) for leaf in every if leaf.is_stacked]
    shards: list[list[tuple[Leaf, int]]] = [[]]
    filled = 0
    for leaf, layer in order:
        size = _num_bytes(leaf, config, itemsize)
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((leaf, layer))
        filled += size
    return shards


def _num_bytes(leaf: Leaf, config: ModelConfig, itemsize: int) -> int:
    return math.prod(leaf.tensor_shape(config)) * itemsize


def _fetch_tensor(params: PyTree, leaf: Leaf, layer: int, config: ModelConfig, dtype: np.dtype) -> np.ndarray:
    """One tensor on the host, in the layout of the file."""
    array = _at(params, leaf.path)
    value = array[layer] if leaf.is_stacked else jnp.copy(array)  # an array keeps what was once fetched of it
    inverse = np.argsort(leaf.order)
    return sharding.on_host(value).transpose(inverse).astype(dtype, order="C").reshape(leaf.tensor_shape(config))


def _check_params(config: ModelConfig, params: PyTree) -> None:
    got = {jax.tree_util.keystr(p): leaf.shape for p, leaf in jax.tree_util.tree_leaves_with_path(params)}
    want = param_shapes(config)["params"]
    expected = {jax.tree_util.keystr(p): leaf.shape for p, leaf in jax.tree_util.tree_leaves_with_path(want)}
    if got != expected:
        differ = sorted(name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name))
        raise InputError(f"params do not fit the config at {', '.join(differ)}; save them with the config they have")


def move_into_place(partial: pathlib.Path, folder: pathlib.Path) -> None:
    """Renames; an older folder is moved aside first and removed last."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


# --- small tools ------------------------------------------------------------


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; a checkpoint is a folder with config.json") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; a JSON object is needed")
    return content


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _at(tree: PyTree, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _put(tree: dict[str, PyTree], path: tuple[str, ...], leaf: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = leaf
