"""What a run leaves behind for its user: workflow files and a Hugging Face export.

finalists, training state → **workflows/*.py, hf/** → user
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags

from experiments.closing import Result, pooled
from experiments.meta_agent import MetaAgent
from experiments.run_dir import RunDirectory
from w4s_jax.policy.hf import save_checkpoint
from w4s_jax.policy.lora import merge
from w4s_jax.reports.intervals import share
from w4s_jax.training.step import TrainState

FLAGS = flags.FLAGS


def write_workflows(run: RunDirectory, results: Sequence[Result], executor_model: str, simulated: bool) -> Path:
    """Writes one file a task, and `best.py`: that of the task with the best validation accuracy.

    Returns:
        The path of `best.py`.
    """
    for result in results:
        name = re.sub(r"\W", "_", result.finalist.task)
        run.write(run.workflows / f"{name}.py", workflow_file(result, executor_model, simulated))
    best = max(results, key=lambda r: r.finalist.chosen.feedback.accuracy)
    path = run.workflows / "best.py"
    run.write(path, workflow_file(best, executor_model, simulated))
    return path


def workflow_file(result: Result, executor_model: str, simulated: bool) -> str:
    """The code under a header that says what it reached, with whom, and what running it means."""
    feedback = result.finalist.chosen.feedback
    validation = share(round(feedback.accuracy * feedback.n), feedback.n)
    cost = "simulated USD" if simulated else "USD"
    lines = [
        f"Workflow {result.finalist.chosen.workflow.name} for the task {result.finalist.task}.",
        f"Test accuracy {pooled([result])} (95 % interval).",
        f"Validation accuracy {validation}; chosen as the best of many, so this one is optimistic.",
        f"Executor: {executor_model}{' (a simulation; says nothing about real models)' if simulated else ''}.",
        f"Cost: {result.evaluation.usd_per_item:.6f} {cost} a question, our estimate from list prices.",
        "Written by a language model: outside a sandbox, it can do whatever your account can do.",
    ]
    header = "\n".join(f"# {line}" for line in lines)
    return f"{header}\n\n{result.finalist.chosen.workflow.code.strip()}\n"


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
