"""Checkpoint → Hugging Face folder: `python -m experiments.export --model=runs/a --output_dir=agent`.

run directory or folder → parameters → **merged weights | a PEFT adapter** → folder
"""

from __future__ import annotations

import jax.numpy as jnp
from absl import flags

from w4s_jax.policy.hf import save_checkpoint
from w4s_jax.policy.peft import save_adapter
from w4s_jax.run.config import DeviceConfig, ExportConfig, RunConfig
from w4s_jax.run.models import load_model, open_mesh
from w4s_jax.run.options import names_of
from w4s_jax.types import InputError

from . import app
from .flags import Flags

FLAGS = Flags(RunConfig(), names_of(DeviceConfig) | names_of(ExportConfig))
MODEL = flags.DEFINE_string("model", "", "Run directory, Hugging Face folder or id, or tiny.", flag_values=FLAGS.values)
OUTPUT = flags.DEFINE_string("output_dir", "", "Folder to make.", flag_values=FLAGS.values)
ADAPTER = flags.DEFINE_boolean(
    "adapter",
    False,
    "Write the LoRA adapters of a run in PEFT's format instead of merged weights.",
    flag_values=FLAGS.values,
)
OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace --output_dir where it exists.", flag_values=FLAGS.values)


def main() -> None:
    """Writes the folder and says what it holds."""
    config = FLAGS.config()
    if not MODEL.value or not OUTPUT.value:
        raise InputError("--model and --output_dir are both needed, e.g. --model=runs/quickstart --output_dir=agent")
    loaded = load_model(MODEL.value, open_mesh(config.device.mesh), config.device.param_dtype, flag="model")
    if ADAPTER.value:
        if loaded.lora is None:
            raise InputError(f"--adapter: {MODEL.value} trained no adapters (--lora_rank=0); leave --adapter out")
        base = str(loaded.folder.resolve()) if loaded.base == "tiny" else loaded.base
        adapters = loaded.variables["lora"]
        save_adapter(OUTPUT.value, adapters, loaded.lora, base, overwrite=OVERWRITE.value)
        print(f"adapter of rank {loaded.lora.rank} for {base}: {OUTPUT.value}")
        return
    save_checkpoint(
        OUTPUT.value,
        loaded.config,
        loaded.merged["params"],
        dtype=jnp.dtype(config.export.export_dtype),
        tokenizer_dir=loaded.folder,
        overwrite=OVERWRITE.value,
    )
    print(f"weights in {config.export.export_dtype}, config and tokenizer: {OUTPUT.value}")


if __name__ == "__main__":
    app.run(main, FLAGS)
