"""Evaluates one workflow on one split: `python -m experiments.evaluate --task=gsm_hard --workflow=FILE.py`.

flags → RunConfig, request → **w4s_jax.run.evaluation** → score with interval, every item's outcome, cost

What was evaluated once is not bought again, and an evaluation that was stopped by a cap, a signal or a kill goes on
with the same command. It needs no JAX.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from w4s_jax.run.config import EVALUATE_OPTIONS, RunConfig
from w4s_jax.run.directory import RunDirectory, write_out
from w4s_jax.run.evaluation import DEFAULTS, EvaluationRequest, format_result, make_request, run_evaluation
from w4s_jax.run.tasks import format_source, load_tasks
from w4s_jax.run.worst_case import format_case, worst_case
from w4s_jax.tasks.registry import expand_tasks
from w4s_jax.types import InputError, Split, StoreError
from w4s_jax.workflows import load_workflow, seed_names

from . import app
from .flags import Flags

FLAGS = Flags(DEFAULTS, EVALUATE_OPTIONS)
JSON_OUT, DRY_RUN = FLAGS.json_out(), FLAGS.dry_run()
WORKFLOW = flags.DEFINE_string(
    "workflow", "", "A workflow file (FILE.py), or the name of a seed workflow.", flag_values=FLAGS.values
)
SPLIT = flags.DEFINE_enum_class("split", Split.VALIDATION, Split, "Split to evaluate on.", flag_values=FLAGS.values)
LIMIT = flags.DEFINE_integer(
    "limit", 0, "Evaluate on the first items of the split alone (0: all).", lower_bound=0, flag_values=FLAGS.values
)
REPETITION = flags.DEFINE_integer(
    "repetition",
    0,
    "Number of a repeated evaluation: others draw other samples.",
    lower_bound=0,
    flag_values=FLAGS.values,
)


def read_request(config: RunConfig) -> EvaluationRequest:
    """What the flags ask for.

    Raises:
        InputError: A name is missing or unknown, or a file holds no workflow.
    """
    if not WORKFLOW.value:
        raise InputError(f"--workflow is empty; give a FILE.py, or a seed: {', '.join(seed_names())}")
    workflow = load_workflow(WORKFLOW.value)
    if not config.tasks.task:
        raise InputError("--task is empty; name one, e.g. --task=toy_units, see docs/tasks.md")
    given = ",".join(config.tasks.task)
    names = expand_tasks(given)
    if len(names) > 1:
        raise InputError(f"--task={given} names {len(names)} tasks; give one of {', '.join(names)}")
    task = load_tasks(config.tasks, names)[names[0]]
    return make_request(workflow, task, SPLIT.value, limit=LIMIT.value, repetition=REPETITION.value)


def main() -> None:
    """Evaluates, or says what it would cost at most."""
    config = FLAGS.config()
    request, directory = read_request(config), RunDirectory(Path(config.run_dir))
    if DRY_RUN.value:
        case = worst_case(config, {f"{request.split} items": len(request.items)})
        write_out(JSON_OUT.value, case, directory)
        print(format_case(config, case))
        return
    try:
        directory.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"--run_dir={directory.root}: {error.strerror}; give another") from None
    if request.task.source:
        print(format_source(request.task), file=sys.stderr)
    result = app.run_async(run_evaluation(config, directory, request))
    try:
        write_out(JSON_OUT.value, result.json, directory)
    finally:
        print(format_result(config, result.json))
    if result.left_out is not None:
        raise result.left_out


if __name__ == "__main__":
    app.run(main, FLAGS)
