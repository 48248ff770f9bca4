"""The half of a run that every process has: what learns, and where it lasts.

RunConfig → **open_training** → Training → phases (leading process), follow (the others)

Each method runs programs over the mesh of all processes. The leading process tells the
others before it calls one; they are told to call the same.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from w4s_jax.policy import sharding
from w4s_jax.policy.generate import in_compute_dtype
from w4s_jax.rollout.segments import SegmentStore
from w4s_jax.run.config import RunConfig, TrainingConfig
from w4s_jax.run.directory import RunDirectory
from w4s_jax.run.export import export
from w4s_jax.run.models import MetaAgent, load_meta_agent, open_mesh
from w4s_jax.run.processes import Follower
from w4s_jax.training.checkpoint import Checkpoints
from w4s_jax.training.config import LearnerConfig, OptimizerConfig
from w4s_jax.training.learner import Learner, StepRecord
from w4s_jax.training.losses import make_loss
from w4s_jax.training.step import Trainer
from w4s_jax.training.weights import make_weights
from w4s_jax.types import Trajectory, Turn


@dataclasses.dataclass(kw_only=True)
class Training:
    """A meta-agent on the mesh with all that training changes."""

    config: RunConfig
    directory: RunDirectory
    agent: MetaAgent
    learner: Learner
    checkpoints: Checkpoints
    stored: Sequence[Trajectory]
    """Of `--trajectories`; empty where rounds are collected."""
    rounds_done: int
    """Rounds that the learner's state has been trained on."""
    tell: Callable[..., None]
    """Tells the other processes what comes next; does nothing in those that are told."""

    def sampling_variables(self) -> dict[str, Any]:
        """A copy to sample with, on this process's own devices; an update donates the variables it starts from."""
        self.tell("sampling_variables")
        kept = self.learner.state.variables
        variables = in_compute_dtype(kept, self.agent.model.compute_dtype)
        if self.learner.trainer.mesh.size == 1:
            copied: dict[str, Any] = jax.tree.map(
                lambda x, own: jnp.copy(x) if x.dtype == own.dtype else x, variables, kept
            )
            return copied
        here: dict[str, Any] = sharding.local_copy(variables, sampling_mesh(self.learner.trainer))
        return here

    def feed(self, trajectory: Trajectory) -> StepRecord | None:
        """Trains on one trajectory; returns the update that it completed, if it completed one."""
        self.tell("feed", round=trajectory.round, trajectory=trajectory.index)
        return self.learner.feed(trajectory)

    def feed_stored(self, number: int) -> StepRecord | None:
        """Trains on one trajectory of `stored`, likewise."""
        self.tell("feed_stored", number=number)
        return self.learner.feed(self.stored[number])

    def finish(self) -> StepRecord | None:
        """Closes the open update."""
        self.tell("finish")
        return self.learner.finish()

    def save(self, round_: int) -> None:
        """Writes a checkpoint after a round."""
        self.tell("save", round_=round_)
        self.checkpoints.save(self.learner.state, {"round": round_})

    def save_unless_saved(self, round_: int) -> None:
        """The same, unless no update was made in the round."""
        if int(self.learner.state.step) not in self.checkpoints.steps():
            self.save(round_)
        self.rounds_done = round_

    def export(self) -> tuple[str, Path]:
        """Writes the Hugging Face folder; returns the path of the newest checkpoint (empty: no update) and its own."""
        self.tell("export")
        return self.checkpoints.newest(), export(self.config, self.directory, self.agent, self.learner.state)


def open_training(
    config: RunConfig, directory: RunDirectory, stored: Sequence[Trajectory], tell: Callable[..., None]
) -> Training:
    """Loads the meta-agent onto the mesh, and what an earlier process has trained.

    Args:
        config: Of the run, resolved.
        directory: Where checkpoints lie.
        stored: Trajectories to train on alone; empty where rounds are collected.
        tell: See `Training.tell`.

    Raises:
        InputError: An option that does not fit, or a meta-agent that cannot be read.
        CheckpointError: There are checkpoints and none can be read.
    """
    training = config.training
    mesh = open_mesh(config.device.mesh)
    agent = load_meta_agent(config, mesh)
    trainer = Trainer(
        model=agent.model,
        mesh=mesh,
        optimizer=optimizer_config(training, len(stored)),
        loss=make_loss(training.loss_config),
    )
    checkpoints = Checkpoints(str(directory.checkpoints.resolve()), keep=training.keep_checkpoints)
    if checkpoints.steps():
        restored = checkpoints.restore(trainer.abstract_state._replace(frozen=trainer.place_frozen(agent.variables)))
        state, rounds_done = restored.state, int(restored.extra["round"])
        for line in restored.rejected:
            print(f"warning: {line}; going on from the checkpoint before it", file=sys.stderr)
    else:
        state, rounds_done = trainer.init_state(agent.variables), 0
    agent = dataclasses.replace(agent, variables={})  # the state has its own
    learner = Learner(
        trainer,
        state,
        make_weights(training.weights, tau=training.tau),
        learner_config(training, mesh),
        tokenise=lambda turn: tokenised(agent, turn),
    )
    return Training(
        config=config,
        directory=directory,
        agent=agent,
        learner=learner,
        checkpoints=checkpoints,
        stored=stored,
        rounds_done=rounds_done,
        tell=tell,
    )


def sampling_mesh(trainer: Trainer) -> jax.sharding.Mesh:
    """Where this process samples: on its own devices, heads split over them, whatever the mesh that trains."""
    return sharding.host_mesh(jax.local_devices(), trainer.model.config.num_kv_heads)


def follow(training: Training, follower: Follower) -> None:
    """Does what the leading process tells, until it says stop.

    Raises:
        W4sError: What any of it raises; the leading process meets the same.
    """
    segments = SegmentStore(training.directory.segments)
    try:
        for command in follower.commands():
            _obey(training, segments, **command)
    finally:
        training.checkpoints.wait()


def _obey(training: Training, segments: SegmentStore, what: str, **facts: Any) -> None:
    match what:
        case "sampling_variables":
            training.sampling_variables()
        case "feed":
            segments.refresh()
            training.feed(segments.trajectory(facts["round"], facts["trajectory"]))
        case "feed_stored":
            training.feed_stored(facts["number"])
        case "finish":
            training.finish()
        case "save":
            training.save(facts["round_"])
        case "export":
            training.export()
        case _:
            raise AssertionError(what)


def optimizer_config(config: TrainingConfig, stored: int) -> OptimizerConfig:
    """The optimiser; a cosine ends with the last planned update.

    Args:
        config: Of the training.
        stored: Trajectories that it trains on alone; 0 where rounds are collected.
    """
    updates_a_round = -(-(stored or config.trajectories_per_round) // config.trajectories_per_step)
    return OptimizerConfig(
        name=config.optimizer,
        learning_rate=config.learning_rate,
        schedule_name=config.schedule,
        warmup_steps=config.warmup_steps,
        total_steps=config.num_rounds * config.epochs * updates_a_round,
        moment_dtype=config.moment_dtype,
        max_grad_norm=config.max_grad_norm,
    )


def learner_config(config: TrainingConfig, mesh: jax.sharding.Mesh) -> LearnerConfig:
    """Shapes of a step; every data shard gets `--rows_per_batch` rows."""
    return LearnerConfig(
        row_length=config.row_length,
        rows_per_batch=config.rows_per_batch * sharding.divided(mesh, sharding.BATCH_AXES),
        trajectories_per_step=config.trajectories_per_step,
    )


def tokenised(agent: MetaAgent, turn: Turn) -> tuple[Sequence[int], Sequence[Sequence[int]]]:
    """Ids of a turn that was collected through an API."""
    return agent.chat.render(turn.messages), [agent.chat.encode_action(c.text) for c in turn.candidates]
