"""The Hugging Face export of a run.

training state → **hf/** → user
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from w4s_jax.policy.hf import save_checkpoint
from w4s_jax.policy.lora import merge
from w4s_jax.run.config import RunConfig
from w4s_jax.run.directory import RunDirectory
from w4s_jax.run.models import MetaAgent
from w4s_jax.training.step import TrainState


def export(config: RunConfig, directory: RunDirectory, agent: MetaAgent, state: TrainState) -> Path:
    """Writes the trained meta-agent as a Hugging Face folder, adapters merged, with a model card.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    variables = state.variables
    params = variables["params"]
    if agent.model.lora is not None:
        params = merge(params, variables["lora"], agent.model.lora)
    save_checkpoint(
        directory.hf,
        agent.config,
        params,
        dtype=jnp.dtype(config.export.export_dtype),
        tokenizer_dir=agent.folder,
        overwrite=True,
    )
    if jax.process_index() == 0:
        directory.write(directory.hf / "README.md", _model_card(config, agent, int(state.step)))
    return directory.hf


def _model_card(config: RunConfig, agent: MetaAgent, updates: int) -> str:
    training, executor, rate = config.training, config.executor, config.training.learning_rate
    return f"""---
library_name: transformers
tags: [w4s, rlao]
---
# A meta-agent trained by RLAO

Writes Python workflows that harness another model (W4S, arXiv 2504.04785); trained with w4s_jax.

- Started from: `{agent.name}` (weights sha256 {agent.weights_hash[:16]}…)
- Trained on: {", ".join(config.tasks.task)}; {updates} updates, learning rate {rate}, tau {training.tau}
- Executor: {executor.model}{" (simulated: nothing here was measured on a real model)" if executor.simulated else ""}
- Prompt template: `{config.meta_agent.prompt_template}`
- What it writes is code: run it in a sandbox.
"""
