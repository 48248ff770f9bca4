"""Checkpoint → Hugging Face folder: `python -m experiments.export --model=runs/a --output_dir=agent`.

run directory or folder → parameters → **merged weights | a PEFT adapter** → folder
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from absl import flags

from experiments import app
from experiments import flags as shared
from w4s_jax.policy.hf import save_checkpoint
from w4s_jax.policy.peft import save_adapter
from w4s_jax.run.config import DeviceConfig, ExportConfig, RunConfig
from w4s_jax.run.models import load_model, open_mesh
from w4s_jax.run.options import names_of
from w4s_jax.types import InputError

FLAGS = flags.FLAGS

flags.DEFINE_string("model", "", "Run directory, Hugging Face folder or id, or tiny.")
flags.DEFINE_string("output_dir", "", "Folder to make.")
flags.DEFINE_boolean("adapter", False, "Write the LoRA adapters of a run in PEFT's format instead of merged weights.")
flags.DEFINE_boolean("overwrite", False, "Replace --output_dir where it exists.")
shared.define(RunConfig(), names_of(DeviceConfig) | names_of(ExportConfig))


def main(argv: Sequence[str]) -> None:
    """Writes the folder and says what it holds."""
    del argv
    if not FLAGS.model or not FLAGS.output_dir:
        raise InputError("--model and --output_dir are both needed, e.g. --model=runs/quickstart --output_dir=agent")
    loaded = load_model(FLAGS.model, open_mesh(FLAGS.mesh), FLAGS.param_dtype, flag="model")
    if FLAGS.adapter:
        if loaded.lora is None:
            raise InputError(f"--adapter: {FLAGS.model} trained no adapters (--lora_rank=0); leave --adapter out")
        base = str(loaded.folder.resolve()) if loaded.base == "tiny" else loaded.base
        adapters = loaded.variables["lora"]
        save_adapter(FLAGS.output_dir, adapters, loaded.lora, base, overwrite=FLAGS.overwrite)
        print(f"adapter of rank {loaded.lora.rank} for {base}: {FLAGS.output_dir}")
        return
    save_checkpoint(
        FLAGS.output_dir,
        loaded.config,
        loaded.merged["params"],
        dtype=jnp.dtype(FLAGS.export_dtype),
        tokenizer_dir=loaded.folder,
        overwrite=FLAGS.overwrite,
    )
    print(f"weights in {FLAGS.export_dtype}, config and tokenizer: {FLAGS.output_dir}")


if __name__ == "__main__":
    app.run(main)
