"""The Hugging Face export of a run.

training state → **hf/** → user
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags

from experiments.meta_agent import MetaAgent
from experiments.run_dir import RunDirectory
from w4s_jax.policy.hf import save_checkpoint
from w4s_jax.policy.lora import merge
from w4s_jax.training.step import TrainState

FLAGS = flags.FLAGS


def export(run: RunDirectory, agent: MetaAgent, state: TrainState) -> Path:
    """Writes the trained meta-agent as a Hugging Face folder, adapters merged, with a model card.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    variables = state.variables
    params = variables["params"]
    if agent.model.lora is not None:
        params = merge(params, variables["lora"], agent.model.lora)
    save_checkpoint(
        run.hf, agent.config, params, dtype=jnp.dtype(FLAGS.export_dtype), tokenizer_dir=agent.folder, overwrite=True
    )
    if jax.process_index() == 0:
        run.write(run.hf / "README.md", _model_card(agent, int(state.step)))
    return run.hf


def _model_card(agent: MetaAgent, updates: int) -> str:
    simulated = FLAGS.executor == "simulated"
    return f"""---
library_name: transformers
tags: [w4s, rlao]
---
# A meta-agent trained by RLAO

Writes Python workflows that harness another model (W4S, arXiv 2504.04785); trained with w4s_jax.

- Started from: `{agent.name}` (weights sha256 {agent.weights_hash[:16]}…)
- Trained on: {", ".join(FLAGS.task)}; {updates} updates, learning rate {FLAGS.learning_rate}, tau {FLAGS.tau}
- Executor: {FLAGS.executor_model}{" (simulated: nothing here was measured on a real model)" if simulated else ""}
- Prompt template: `{FLAGS.prompt_template}`
- What it writes is code: run it in a sandbox.
"""
