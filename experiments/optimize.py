"""Designs a workflow for your task: `python -m experiments.optimize --task=jsonl:FILE --meta_agent=api:MODEL`.

flags → RunConfig → **w4s_jax.run.search** → best workflow, summary

The meta-agent is a checkpoint of this project, a Hugging Face folder or id, or any model behind an
OpenAI-compatible server; then no JAX is needed. A search ends after its turns, at a target, on a plateau or at a
cap; the same command goes on, with more turns if they are given.
"""

from __future__ import annotations

from pathlib import Path

from w4s_jax.run.config import OPTIMIZE_OPTIONS
from w4s_jax.run.directory import RunDirectory, write_out
from w4s_jax.run.search import DEFAULTS, checked, most_expensive, optimize
from w4s_jax.run.tasks import load_tasks
from w4s_jax.run.worst_case import format_case

from . import app
from .flags import Flags

FLAGS = Flags(DEFAULTS, OPTIMIZE_OPTIONS)
JSON_OUT, DRY_RUN = FLAGS.json_out(), FLAGS.dry_run()


def main() -> None:
    """Searches, or says what it would cost at most."""
    config, names = checked(FLAGS.config())
    directory = RunDirectory(Path(config.run_dir))
    if DRY_RUN.value:
        case = most_expensive(config, load_tasks(config.tasks, names))
        write_out(JSON_OUT.value, case, directory)
        print(format_case(config, case))
        return
    result = optimize(config, names, runner=app.run_async)
    write_out(JSON_OUT.value, result.summary, directory)
    print(result.text)
    if result.exceeded is not None:
        raise result.exceeded


if __name__ == "__main__":
    app.run(main, FLAGS)
