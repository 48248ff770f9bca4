"""Adapters in PEFT's format; `make parity` has `peft` itself load them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_policy import FAMILIES, make

from w4s_jax.policy.hf import save_checkpoint
from w4s_jax.policy.lora import LoraConfig, merge
from w4s_jax.policy.peft import save_adapter
from w4s_jax.types import InputError

LORA = LoraConfig(rank=3, alpha=6.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_and_b_times_a_are_the_merged_weights(family, tmp_path):
    _, variables = make(family, lora=LORA)
    config = FAMILIES[family]
    merged = merge(variables["params"], variables["lora"], LORA)
    save_checkpoint(tmp_path / "base", config, variables["params"], dtype=jnp.float32)
    save_checkpoint(tmp_path / "merged", config, merged, dtype=jnp.float32)
    save_adapter(tmp_path / "adapter", variables["lora"], LORA, "the/base")

    base, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    changed = {name for name in base if not np.array_equal(base[name], whole[name])}
    assert len(changed) == 7 * config.num_layers
    for name in changed:
        stem = "base_model.model." + name.removesuffix(".weight")
        added = 2.0 * adapter[f"{stem}.lora_B.weight"].astype(np.float64) @ adapter[f"{stem}.lora_A.weight"]
        np.testing.assert_allclose(base[name] + added, whole[name], atol=1e-6)
    assert len(adapter) == 2 * len(changed)


def test_its_config_is_what_peft_reads(tmp_path):
    _, variables = make("llama", lora=LORA)
    save_adapter(tmp_path / "adapter", variables["lora"], LORA, "the/base")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 6.0)
    assert config["base_model_name_or_path"] == "the/base"
    assert set(config["target_modules"]) == {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    with pytest.raises(InputError, match="exists"):
        save_adapter(tmp_path / "adapter", variables["lora"], LORA, "the/base")
