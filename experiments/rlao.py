"""The main job: `python -m experiments.rlao --flagfile=experiments/flags/quickstart.flags`.

flags → RunConfig → **w4s_jax.run.rlao** → summary

Reinforcement learning for agentic workflow optimisation, W4S (arXiv 2504.04785): collects trajectories, trains on
them, evaluates once on the test split, exports. Killed at any moment, the same command goes on.
"""

from __future__ import annotations

from pathlib import Path

from w4s_jax.run.config import RLAO_OPTIONS, RunConfig
from w4s_jax.run.directory import RunDirectory, write_out
from w4s_jax.run.rlao import checked, most_expensive, rlao
from w4s_jax.run.worst_case import format_case

from . import app
from .flags import Flags

FLAGS = Flags(RunConfig(), RLAO_OPTIONS)
JSON_OUT, DRY_RUN = FLAGS.json_out(), FLAGS.dry_run()


def main() -> None:
    """Trains, or says what it would cost at most."""
    config = checked(FLAGS.config())
    directory = RunDirectory(Path(config.run_dir))
    if DRY_RUN.value:
        case = most_expensive(config)
        write_out(JSON_OUT.value, case, directory)
        print(format_case(config, case))
        return
    result = rlao(config, runner=app.run_async)
    if result is not None:
        write_out(JSON_OUT.value, result.summary, directory)
        print(result.text)


if __name__ == "__main__":
    app.run(main, FLAGS)
