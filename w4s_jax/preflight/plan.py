"""Compiles a run's programs for the chips it is meant for, and looks for the largest batch and a mesh that fits.

PreflightConfig → Target (chips, mesh) → **preflight** → PreflightResult → summary, JSON

A model is known by its config, and nothing is loaded. The programs are the run's own (`compile.py`),
the time is a roofline (`roofline.py`), and on the devices of this machine the step can be run, too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
from jax.sharding import Mesh

from w4s_jax.policy import sharding
from w4s_jax.policy.generate import GeneratorConfig
from w4s_jax.policy.transformer import Transformer
from w4s_jax.preflight import roofline
from w4s_jax.preflight.chips import CHIPS, Chip, Topology
from w4s_jax.preflight.compile import Compiled, DoesNotFitError, Memory, Sampler, compile_sampler, compile_step
from w4s_jax.preflight.compile import largest_rows as largest_that_fits
from w4s_jax.preflight.measure import full_rows, local_chip, measured_seconds
from w4s_jax.preflight.roofline import Estimate, Shape
from w4s_jax.training.config import OptimizerConfig
from w4s_jax.training.losses import Loss, RewardWeightedRegression
from w4s_jax.training.step import Trainer
from w4s_jax.types import InputError

Note = Callable[[str], None]
"""Takes a line of progress."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreflightConfig:
    """A run as far as its memory and its speed go, and where it is to run."""

    name: str
    """Of the model, for the result."""
    model: Transformer
    """Without a mesh."""
    optimizer: OptimizerConfig
    loss: Loss = dataclasses.field(default_factory=RewardWeightedRegression)
    generator: GeneratorConfig | None = None
    """Shapes of the sampler, which stays while a run trains; None: it is not counted."""
    row_length: int
    """Tokens of a packed row."""
    rows_per_batch: int
    """Rows of a micro-batch and data shard."""
    topology: str = ""
    """TPU slice or GPUs, e.g. `v5e-16`, `h100:8`; empty: the devices of this machine."""
    num_slices: int = 1
    """Slices, or hosts of GPUs, joined along `data`."""
    mesh: str = ""
    """E.g. `fsdp=4,tensor=2`; empty: all chips on `fsdp`."""
    find_largest: bool = True
    """Look for the most rows that fit; two or three compiles."""
    suggest_mesh: bool = True
    """Where it does not fit, compile for meshes that split more."""
    measure: bool = False
    """Run the step on the devices of this machine, too."""

    def __post_init__(self) -> None:
        if self.measure and self.topology:
            raise InputError(
                f"--measure runs the step, and --topology={self.topology} is not here; leave one of them out"
            )
        if self.num_slices > 1 and not self.topology:
            raise InputError(f"--num_slices={self.num_slices} needs --topology, one of {', '.join(CHIPS)} with a shape")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """What is compiled for."""

    name: str
    chip: Chip
    mesh: Mesh
    host_mesh: Mesh
    """Of the devices that one process samples on."""
    bandwidth: Mapping[str, float]
    """Bytes a second along each mesh axis."""

    @property
    def shards(self) -> int:
        """Parts that the rows of a micro-batch are split into."""
        return sharding.divided(self.mesh, sharding.BATCH_AXES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """What the compiler says of one number of rows."""

    rows: int
    """Of a chip's share, as `--rows_per_batch`."""
    step: Compiled
    sampler: Sampler | None

    @property
    def memory(self) -> Memory:
        """With the sampler."""
        if self.sampler is None:
            return self.step.memory
        return dataclasses.replace(self.step.memory, sampling=self.sampler.memory, new_weights=self.sampler.weights)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreflightResult:
    """What was found out."""

    config: PreflightConfig
    target: Target
    fit: Fit | None
    """None where a program alone needs more than a chip has."""
    refusal: str = ""
    """In that case, why."""
    estimate: Estimate | None = None
    """None in that case."""
    largest_rows: int | None = None
    """Most rows of a chip that fit; None where nobody looked."""
    suggested_mesh: str = ""
    """A mesh that fits where the one asked for does not; empty where none was found, or looked for."""
    step_seconds: float | None = None
    """Measured; None where nothing was run."""

    @property
    def fits(self) -> bool:
        """Whether a chip has the memory."""
        return self.fit is not None and self.fit.memory.total <= self.target.chip.usable


def preflight(config: PreflightConfig, note: Note) -> PreflightResult:
    """Compiles, and where asked for, looks further.

    Args:
        config: The run.
        note: Takes a line after each compile, which may take a minute.

    Raises:
        InputError: An unknown slice, a mesh that does not fit it, or its compiler is missing.
    """
    target = find_target(config)
    trainer = _trainer(config, target)
    for line in sharding.fallbacks(trainer.abstract_state.params, target.mesh):
        note(f"replicated: {line}")
    suggested = functools.partial(suggested_mesh, config, target, note) if config.suggest_mesh else str
    try:
        search = Search(config, target, note)
        fit = search.fit(config.rows_per_batch)
    except DoesNotFitError as error:
        return PreflightResult(
            config=config, target=target, fit=None, refusal=str(error), largest_rows=0, suggested_mesh=suggested()
        )
    found = PreflightResult(
        config=config,
        target=target,
        fit=fit,
        estimate=estimate_step(fit, trainer, target, config.row_length),
        largest_rows=search.largest() if config.find_largest else None,
    )
    return dataclasses.replace(
        found,
        suggested_mesh="" if found.fits else suggested(),
        step_seconds=_measured(trainer, fit.rows * target.shards, config.row_length) if config.measure else None,
    )


def find_target(config: PreflightConfig) -> Target:
    """The described slice, or this machine.

    Raises:
        InputError: An unknown slice, a mesh that does not fit it, or its compiler is missing.
    """
    topology = Topology.parse(config.topology, config.num_slices) if config.topology else None
    if topology is not None:
        devices: Sequence[jax.Device] = topology.devices()
        chip, name = topology.chip, topology.name
    else:
        devices, name = jax.devices(), f"{jax.device_count()} × {jax.devices()[0].device_kind}"
        chip = local_chip(config.model.compute_dtype)
    mesh = sharding.make_mesh(
        config.mesh or f"data={config.num_slices},fsdp={len(devices) // config.num_slices}", devices
    )
    larger = topology is not None and topology.num_chips > topology.host.num_chips
    host = topology.host.devices() if topology is not None and larger else devices
    return Target(
        name=name,
        chip=chip,
        mesh=mesh,
        host_mesh=sharding.host_mesh(host, config.model.config.num_kv_heads),
        bandwidth=roofline.axis_bandwidth(topology, mesh) if topology else dict.fromkeys(mesh.shape, float("inf")),
    )


class Search:
    """Compiles for numbers of rows, each once."""

    def __init__(self, config: PreflightConfig, target: Target, note: Note) -> None:
        """Compiles the sampler, which does not depend on them.

        Raises:
            DoesNotFitError: It alone needs more than a chip has.
        """
        self._config, self._target, self._note = config, target, note
        self._trainer = _trainer(config, target)
        self._fits: dict[int, Fit] = {}
        self._sampler: Sampler | None = None
        if config.generator is not None:
            self._sampler = compile_sampler(config.model, config.generator, target.host_mesh)
            size = format_bytes(self._sampler.memory)
            note(f"decode step compiled in {self._sampler.seconds:.0f} s: {size} a chip")

    def fit(self, rows: int) -> Fit:
        """Compiles the step for `rows` rows of a chip.

        Raises:
            DoesNotFitError: A program alone needs more than a chip has.
        """
        if rows not in self._fits:
            step = compile_step(self._trainer, rows * self._target.shards, self._config.row_length)
            self._fits[rows] = Fit(rows=rows, step=step, sampler=self._sampler)
            size = format_bytes(self._fits[rows].memory.total)
            self._note(f"step of {rows} row(s) a chip compiled in {step.seconds:.0f} s: {size} a chip")
        return self._fits[rows]

    def largest(self) -> int:
        """The most rows of a chip that fit."""
        return largest_that_fits(lambda rows: self.fit(rows).memory.total, self._target.chip.usable)


def suggested_mesh(config: PreflightConfig, target: Target, note: Note) -> str:
    """The first mesh that splits activations over more of `tensor` and fits; empty where none does."""
    chips, data = target.mesh.size, config.num_slices
    for tensor in (2, 4, 8):
        fsdp = chips // data // tensor
        whole = data * fsdp * tensor == chips and config.model.config.num_kv_heads % tensor == 0
        if tensor <= target.mesh.shape["tensor"] or not whole:
            continue
        spec = f"data={data},fsdp={fsdp},tensor={tensor}".removeprefix("data=1,")
        note(f"trying --mesh={spec}")
        other = dataclasses.replace(config, mesh=spec)
        there = find_target(other)
        try:
            if Search(other, there, note).fit(config.rows_per_batch).memory.total <= there.chip.usable:
                return spec
        except DoesNotFitError as error:
            note(str(error))
    return ""


def estimate_step(fit: Fit, trainer: Trainer, target: Target, row_length: int) -> Estimate:
    """The roofline of the compiled step."""
    model, mesh = trainer.model, target.mesh
    shape = Shape.full_rows(fit.rows * target.shards, row_length)
    count = functools.partial(
        roofline.gradient_flops,
        model.config,
        shape,
        frozen_base=model.lora is not None,
        reference=trainer.loss.needs_reference,
    )
    passes = (3 if model.lora is None else 2) + (model.remat in roofline.LAYERS_AGAIN) + trainer.loss.needs_reference
    memory = fit.step.memory
    state = memory.parameters + memory.optimizer + memory.gradients
    return roofline.estimate(
        target.chip,
        chips=mesh.size,
        executed_flops=count(remat=model.remat),
        model_flops=count(),
        hbm_bytes=roofline.hbm_traffic(model.config, shape, mesh, passes=passes, state_bytes=state),
        traffic=fit.step.traffic,
        bandwidth=target.bandwidth,
    )


def format_bytes(count: float) -> str:
    """E.g. `12.34 GiB`, or `5.6 MiB`."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"


def _trainer(config: PreflightConfig, target: Target) -> Trainer:
    model = config.model.clone(mesh=target.mesh)
    return Trainer(model=model, mesh=target.mesh, optimizer=config.optimizer, loss=config.loss)


def _measured(trainer: Trainer, rows: int, row_length: int) -> float:
    return measured_seconds(trainer, full_rows(rows, row_length, trainer.model.config.vocab_size), rows)
