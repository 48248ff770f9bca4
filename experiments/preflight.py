"""Does a run fit? `python -m experiments.preflight --model=Qwen2.5-Coder-7B --topology=v5e-16 --mesh=fsdp=16`.

--model, --topology → the run's own programs, compiled ahead of time → **memory a chip, FLOPs, traffic, estimate**

Compiles for TPUs or GPUs that are not there, on any machine with their compiler (libtpu,
jax's CUDA plugin), or without --topology for the devices of this one, where --measure also
runs the step. Nothing is loaded: a model is known by its config. It takes the flags of
`experiments.rlao`, so that the flag file of a run can be asked about as it is.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments import app
from experiments import flags as shared
from experiments.meta_agent import find_config, generator_config, make_model
from experiments.run_dir import write_out
from experiments.training import optimizer_config
from w4s_jax.policy import sharding
from w4s_jax.policy.config import PRESETS, ModelConfig
from w4s_jax.preflight import compile as preflight
from w4s_jax.preflight import roofline
from w4s_jax.preflight.chips import CHIPS, Chip, Topology
from w4s_jax.preflight.compile import Compiled, DoesNotFitError, Memory, Sampler
from w4s_jax.preflight.measure import full_rows, local_chip, measured_seconds
from w4s_jax.preflight.roofline import Estimate, Shape
from w4s_jax.training.step import Trainer
from w4s_jax.types import InputError

FLAGS = flags.FLAGS

shared.define_all()
flags.DEFINE_string("model", "", "A preset (e.g. qwen2.5-coder-7b), or as --meta_agent (empty: that one).")
flags.DEFINE_string("topology", "", "TPU slice or GPUs, e.g. v5e-16, v5e:4x4, h100:8 (empty: this machine's).")
flags.DEFINE_integer("num_slices", 1, "Slices, or hosts of GPUs, joined along data.", lower_bound=1)
flags.DEFINE_boolean("sampling", True, "Count the sampler, which stays while a run trains.")
flags.DEFINE_boolean("find_largest", True, "Look for the largest --rows_per_batch that fits; two or three compiles.")
flags.DEFINE_boolean("suggest_mesh", True, "Where it does not fit, compile for meshes that split more.")
flags.DEFINE_boolean("measure", False, "Run the step on the devices of this machine, too.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """What is compiled for."""

    name: str
    chip: Chip
    mesh: jax.sharding.Mesh
    host_mesh: jax.sharding.Mesh
    """Of the devices that one process samples on."""
    bandwidth: Mapping[str, float]
    """Bytes a second along each mesh axis."""


def find_place(config: ModelConfig, mesh_spec: str) -> Place:
    """The described slice, or this machine.

    Args:
        config: The model, whose heads decide how a host samples.
        mesh_spec: As `--mesh`; empty: all chips of a slice on fsdp.

    Raises:
        InputError: an unknown slice, a mesh that does not fit it, or its compiler is missing.
    """
    if FLAGS.topology:
        topology = Topology.parse(FLAGS.topology, FLAGS.num_slices)
        devices: Sequence[jax.Device] = topology.devices()
        chip, name = topology.chip, topology.name
    else:
        devices, name = jax.devices(), f"{jax.device_count()} × {jax.devices()[0].device_kind}"
        chip = local_chip(jnp.dtype(FLAGS.compute_dtype))
    data = f"data={FLAGS.num_slices},fsdp={len(devices) // FLAGS.num_slices}"
    mesh = sharding.make_mesh(mesh_spec or data, devices)
    host = topology.host.devices() if FLAGS.topology and topology.num_chips > topology.host.num_chips else devices
    return Place(
        name=name,
        chip=chip,
        mesh=mesh,
        host_mesh=sharding.host_mesh(host, config.num_kv_heads),
        bandwidth=roofline.axis_bandwidth(topology, mesh)
        if FLAGS.topology
        else dict.fromkeys(mesh.shape, float("inf")),
    )


def model_name() -> str:
    """As `--model` or `--meta_agent` spells it."""
    return str(FLAGS.model or FLAGS.meta_agent)


def named_config(spec: str) -> ModelConfig:
    """Of a preset in any case, or of whatever `--meta_agent` can be."""
    by_name = {name.lower(): config for name, config in PRESETS.items()}
    name = spec.lower().rpartition("/")[2].removesuffix("-instruct")
    if name in by_name and not Path(spec).is_dir():
        return by_name[name]
    return find_config(spec, "model")


def make_trainer(config: ModelConfig, place: Place) -> Trainer:
    """The trainer of a run with these flags."""
    return Trainer(model=make_model(config, place.mesh), mesh=place.mesh, optimizer=optimizer_config(0))


def compile_sampler(trainer: Trainer, place: Place) -> Sampler:
    """The decode step with the flags' shapes."""
    model = trainer.model
    return preflight.compile_sampler(model, generator_config(model.config), place.host_mesh)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What the compiler said of one number of rows."""

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


class Search:
    """Compiles for numbers of rows, each once."""

    def __init__(self, trainer: Trainer, place: Place) -> None:
        """Compiles the sampler, which does not depend on them.

        Raises:
            DoesNotFitError: it alone needs more than a chip has.
        """
        self._trainer, self._place = trainer, place
        self._shards = sharding.divided(place.mesh, sharding.BATCH_AXES)
        self._found: dict[int, Found] = {}
        self._sampler = compile_sampler(trainer, place) if FLAGS.sampling else None
        if self._sampler:
            note(f"decode step compiled in {self._sampler.seconds:.0f} s: {gib(self._sampler.memory)} a chip")

    def found(self, rows: int) -> Found:
        """Compiles the step for `rows` rows of a chip.

        Raises:
            DoesNotFitError: a program alone needs more than a chip has.
        """
        if rows not in self._found:
            step = preflight.compile_step(self._trainer, rows * self._shards, FLAGS.row_length)
            self._found[rows] = Found(rows=rows, step=step, sampler=self._sampler)
            total = self._found[rows].memory.total
            note(f"step of {rows} row(s) a chip compiled in {step.seconds:.0f} s: {gib(total)} a chip")
        return self._found[rows]

    def largest(self) -> int:
        """The most rows of a chip that fit."""
        return preflight.largest_rows(lambda rows: self.found(rows).memory.total, self._place.chip.usable)


def suggested_mesh(config: ModelConfig, place: Place) -> str:
    """The first mesh that splits activations over more of `tensor` and fits; empty where none does."""
    data = FLAGS.num_slices
    for tensor in (2, 4, 8):
        fsdp = place.mesh.size // data // tensor
        spec = f"data={data},fsdp={fsdp},tensor={tensor}".removeprefix("data=1,")
        if (
            tensor <= place.mesh.shape["tensor"]
            or config.num_kv_heads % tensor
            or data * fsdp * tensor != place.mesh.size
        ):
            continue
        note(f"trying --mesh={spec}")
        other = find_place(config, spec)
        try:
            if Search(make_trainer(config, other), other).found(FLAGS.rows_per_batch).memory.total <= other.chip.usable:
                return spec
        except DoesNotFitError as error:
            note(str(error))
    return ""


def estimate(found: Found, trainer: Trainer, place: Place) -> Estimate:
    """The roofline of the compiled step."""
    config, mesh = trainer.model.config, place.mesh
    shape = Shape.full_rows(found.rows * sharding.divided(mesh, sharding.BATCH_AXES), FLAGS.row_length)
    frozen, memory = bool(FLAGS.lora_rank), found.step.memory
    passes = (2 if frozen else 3) + (FLAGS.remat in roofline.LAYERS_AGAIN)
    state = memory.parameters + memory.optimizer + memory.gradients
    return roofline.estimate(
        place.chip,
        chips=mesh.size,
        executed_flops=roofline.gradient_flops(config, shape, frozen_base=frozen, remat=FLAGS.remat),
        model_flops=roofline.gradient_flops(config, shape, frozen_base=frozen),
        hbm_bytes=roofline.hbm_traffic(config, shape, mesh, passes=passes, state_bytes=state),
        traffic=found.step.traffic,
        bandwidth=place.bandwidth,
    )


# --- what is said -------------------------------------------------------------


def note(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


def gib(count: float) -> str:
    """E.g. `12.34 GiB`, or `5.6 MiB`."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"


def as_json(found: Found, time: Estimate, largest: int | None, place: Place, config: ModelConfig) -> dict[str, Any]:
    """The stable keys of DESIGN's list, and some more."""
    memory, mesh = found.memory, place.mesh
    rows = found.rows * sharding.divided(mesh, sharding.BATCH_AXES)
    traffic: dict[str, dict[str, int]] = {}
    for (kind, axes), sent in sorted(found.step.traffic.bytes.items()):
        traffic.setdefault(kind, {})[axes] = sent
    flops = roofline.gradient_flops(config, Shape.full_rows(rows, FLAGS.row_length), frozen_base=bool(FLAGS.lora_rank))
    return {
        "model": model_name(),
        "topology": place.name,
        "mesh": ",".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1) or "data=1",
        "fits": memory.total <= place.chip.usable,
        "bytes_per_chip": {**dataclasses.asdict(memory), "total": memory.total},
        "hbm_bytes_per_chip": place.chip.usable,
        "rows_per_batch": found.rows,
        "tokens_per_step": rows * FLAGS.row_length,
        "flops_per_step": flops,
        "collective_bytes": traffic,
        "loops_of_unknown_length": found.step.traffic.loops_of_unknown_length,
        "compile_seconds": round(found.step.seconds, 1),
        "estimated_step_seconds": time.seconds,
        "estimated_terms": time.terms,
        "estimated_serial_seconds": time.serial_seconds,
        "estimated_mfu": time.mfu,
        "largest_batch": largest,
    }


def spelled(result: Mapping[str, Any], time: Estimate, place: Place) -> str:
    """The summary for people."""
    memory, terms = result["bytes_per_chip"], time.terms
    kinds = "  ".join(f"{kind} {gib(value)}" for kind, value in memory.items() if kind != "total")
    sent = ", ".join(
        f"{kind} over {axes} {gib(value)}"
        for kind, by_axes in result["collective_bytes"].items()
        for axes, value in by_axes.items()
    )
    largest = result["largest_batch"]
    fits = "fits" if result["fits"] else "does NOT fit"
    longest = max(terms, key=lambda term: terms[term])
    lines = [
        f"{result['model']} on {place.name}, mesh {result['mesh']}, {result['rows_per_batch']} row(s) of "
        f"{FLAGS.row_length:,} tokens a chip",
        f"memory a chip   {gib(memory['total'])} of {gib(place.chip.usable)}: {fits}",
        f"                {kinds}",
        f"largest batch   {'not looked for' if largest is None else f'--rows_per_batch={largest}'}",
        f"work a step     {result['tokens_per_step']:,} tokens, {result['flops_per_step'] / 1e12:,.3g} TFLOP",
        f"sent by a chip  {sent or 'nothing'}",
        f"estimate        {time.seconds:.3g} s a step, bound by {longest} ("
        + ", ".join(f"{term} {value:.3g} s" for term, value in terms.items())
        + f"; one after another {time.serial_seconds:.3g} s)",
        f"utilisation     at most {100 * time.mfu:.0f} % of peak, recomputation not counted as work",
    ]
    if result["loops_of_unknown_length"]:
        lines.append(
            f"warning: loops of unknown length: {result['loops_of_unknown_length']}; what they send was counted once, "
            "so the network may take longer"
        )
    if FLAGS.topology:
        kind = "GPU" if place.chip.gpu else "TPU"
        lines.append(
            f"No {kind} ran this: memory is the compiler's, the time a roofline estimate from published rates."
        )
    return "\n".join(lines)


def remedy(mesh: str, chip: Chip) -> str:
    """What makes a run smaller, beginning with a mesh that was found to fit."""
    ideas = [f"--mesh={mesh}, which fits"] if mesh else []
    ideas += ["XLA_CLIENT_MEM_FRACTION=0.92, as jax takes less of a GPU"] if chip.usable < 0.92 * chip.hbm_bytes else []
    ideas += [] if FLAGS.lora_rank else ["--lora_rank=16 --param_dtype=bfloat16"]
    ideas += [] if FLAGS.moment_dtype == "bfloat16" else ["--moment_dtype=bfloat16"]
    ideas += ["fewer --rows_per_batch"] if FLAGS.rows_per_batch > 1 else []
    ideas += ["a shorter --row_length"]
    ideas += ["fewer --prompts_in_flight or a shorter --cache_length"] if FLAGS.sampling else []
    ideas += ["a larger slice" if FLAGS.topology and not chip.gpu else "more devices"]
    return "try " + ", ".join(ideas)


def main(argv: Sequence[str]) -> None:
    """Compiles, then says what was found."""
    del argv
    if FLAGS.measure and FLAGS.topology:
        raise InputError(f"--measure runs the step, and --topology={FLAGS.topology} is not here; leave one of them out")
    if FLAGS.num_slices > 1 and not FLAGS.topology:
        raise InputError(f"--num_slices={FLAGS.num_slices} needs --topology, one of {', '.join(CHIPS)} with a shape")
    if FLAGS.topology:
        jax.config.update("jax_platforms", "cpu")  # else jax would look for the chips that a compiler is for
    config = named_config(model_name())
    place = find_place(config, FLAGS.mesh)
    trainer = make_trainer(config, place)
    for line in sharding.fallbacks(trainer.abstract_state.params, place.mesh):
        note(f"replicated: {line}")
    try:
        search = Search(trainer, place)
        found = search.found(FLAGS.rows_per_batch)
    except DoesNotFitError as error:
        refused(error, config, place)
        return
    largest = search.largest() if FLAGS.find_largest else None
    time = estimate(found, trainer, place)
    result = as_json(found, time, largest, place, config)
    print(spelled(result, time, place))
    if not result["fits"]:
        result["suggested_mesh"] = suggested_mesh(config, place) if FLAGS.suggest_mesh else ""
        print(f"remedy          {remedy(result['suggested_mesh'], place.chip)}")
    if FLAGS.measure:
        measure(result, trainer, found.rows)
    write_out(result)


def refused(error: DoesNotFitError, config: ModelConfig, place: Place) -> None:
    """Says and writes that not even the compiler could make it fit."""
    mesh = suggested_mesh(config, place) if FLAGS.suggest_mesh else ""
    print(f"{model_name()} on {place.name} does NOT fit: {error}\nremedy          {remedy(mesh, place.chip)}")
    if FLAGS.json_out:
        sizes = {
            "topology": place.name,
            "mesh": str(dict(place.mesh.shape)),
            "hbm_bytes_per_chip": place.chip.usable,
        }
        answer = {"model": model_name(), **sizes, "fits": False, "largest_batch": 0, "suggested_mesh": mesh}
        write_out(answer)


def measure(result: dict[str, Any], trainer: Trainer, rows: int) -> None:
    """Runs the step, and says how far the estimate is off."""
    rows *= sharding.divided(trainer.mesh, sharding.BATCH_AXES)
    batch = full_rows(rows, FLAGS.row_length, trainer.model.config.vocab_size)
    seconds = measured_seconds(trainer, batch, rows)
    result["measured_step_seconds"] = seconds
    print(f"measured        {seconds:.3g} s, {seconds / result['estimated_step_seconds']:.2f} × the estimate")


if __name__ == "__main__":
    app.run(main)
