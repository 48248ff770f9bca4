"""The main job: `python -m experiments.rlao --flagfile=experiments/flags/quickstart.flags`.

flags → RunConfig → **w4s_jax.run.rlao** → summary

Reinforcement learning for agentic workflow optimisation, W4S (arXiv 2504.04785): collects trajectories, trains on
them, evaluates once on the test split, exports. Killed at any moment, the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import app
from experiments import flags as shared
from w4s_jax.run.config import RLAO_OPTIONS, RunConfig
from w4s_jax.run.directory import RunDirectory, write_out
from w4s_jax.run.rlao import checked, most_expensive, rlao
from w4s_jax.run.worst_case import format_case

FLAGS = flags.FLAGS

RUN = shared.define(RunConfig(), RLAO_OPTIONS)
shared.define_json_out()
shared.define_dry_run()


def main(argv: Sequence[str]) -> None:
    """Trains, or says what it would cost at most."""
    del argv
    config = checked(RUN.config())
    directory = RunDirectory(Path(config.run_dir))
    if FLAGS.dry_run:
        case = most_expensive(config)
        write_out(FLAGS.json_out, case, directory)
        print(format_case(config, case))
        return
    result = rlao(config, runner=app.run_async)
    if result is not None:
        write_out(FLAGS.json_out, result.summary, directory)
        print(result.text)


if __name__ == "__main__":
    app.run(main)
