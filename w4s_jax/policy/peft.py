"""Adapters in the format of `peft`: a folder with adapter_config.json and adapter_model.safetensors.

`lora` collection → **save_adapter** → PeftModel.from_pretrained(base, folder)

PEFT stores, for each map of each layer, A as [rank, in] and B as [out, rank], and adds
(lora_alpha / r) · B A to the weight [out, in] (Hu et al., arXiv 2106.09685); here layers
are stacked, heads kept apart and the factors transposed (`policy/lora.py`).
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from w4s_jax.policy.hf import move_into_place
from w4s_jax.policy.lora import LoraConfig
from w4s_jax.policy.parameters import LINEAR
from w4s_jax.policy.sharding import on_host
from w4s_jax.types import CheckpointError, InputError

PyTree = Any


def save_adapter(
    path: str | os.PathLike[str], adapters: PyTree, config: LoraConfig, base_model: str, *, overwrite: bool = False
) -> None:
    """Writes a folder that `peft` and vLLM load on top of the base model. Every process calls this; the first writes.

    Args:
        path: The folder to make.
        adapters: The `lora` collection.
        config: What the adapters were made with.
        base_model: Hugging Face id or folder of the base, as the adapter's config names it.
        overwrite: Whether an existing folder is replaced.

    Raises:
        InputError: `path` exists and `overwrite` is false.
        CheckpointError: The files cannot be written.
    """
    folder = pathlib.Path(path)
    if folder.exists() and not overwrite:
        raise InputError(f"{folder} exists; choose another folder or allow overwriting")
    tensors = dict(_tensors(adapters["layers"], config.rank))
    if jax.process_index() != 0:
        return
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(tensors, partial / "adapter_model.safetensors", metadata={"format": "pt"})
        (partial / "adapter_config.json").write_text(json.dumps(_config(config, base_model), indent=2) + "\n")
        move_into_place(partial, folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written ({error}); check the disk and its permissions") from error


def _tensors(layers: Mapping[str, Any], rank: int) -> Iterator[tuple[str, np.ndarray]]:
    """PEFT's names and matrices, float32."""
    for name, adapter in layers.items():
        a, b = (on_host(adapter[factor]).astype(np.float32) for factor in "ab")
        for layer in range(len(a)):
            stem = f"base_model.model.model.layers.{layer}.{LINEAR[name].hf}"
            yield f"{stem}.lora_A.weight", np.ascontiguousarray(a[layer].reshape(-1, rank).T)
            yield f"{stem}.lora_B.weight", np.ascontiguousarray(b[layer].reshape(rank, -1).T)


def _config(config: LoraConfig, base_model: str) -> dict[str, Any]:
    return {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": config.rank,
        "target_modules": [part.hf.rpartition(".")[2] for part in LINEAR.values()],
        "task_type": "CAUSAL_LM",
    }
