"""Does a run fit? `python -m experiments.preflight --model=Qwen2.5-Coder-7B --topology=v5e-16 --mesh=fsdp=16`.

flags → PreflightConfig → **w4s_jax.preflight** → memory a chip, FLOPs, traffic, estimate

Compiles for TPUs or GPUs that are not there, on any machine with their compiler (libtpu,
jax's CUDA plugin), or without --topology for the devices of this one, where --measure also
runs the step. Nothing is loaded: a model is known by its config. It takes the flags of
`experiments.rlao`, so that the flag file of a run can be asked about as it is.
"""

from __future__ import annotations

from pathlib import Path

import jax
from absl import flags

from w4s_jax.policy.config import PRESETS, ModelConfig
from w4s_jax.preflight.plan import PreflightConfig, preflight
from w4s_jax.preflight.summary import format_summary, to_json
from w4s_jax.run.config import RLAO_OPTIONS, RunConfig
from w4s_jax.run.directory import write_out
from w4s_jax.run.meta_agent import with_settings
from w4s_jax.run.models import find_config, generator_config, make_model
from w4s_jax.run.progress import note
from w4s_jax.run.training import optimizer_config
from w4s_jax.training.losses import make_loss

from . import app
from .flags import Flags

FLAGS = Flags(RunConfig(), RLAO_OPTIONS)
JSON_OUT = FLAGS.json_out()
FLAGS.dry_run()  # in flag files of runs; nothing is spent here
MODEL = flags.DEFINE_string(
    "model",
    "",
    "A preset (e.g. qwen2.5-coder-7b), or as --meta_agent (empty: that one).",
    flag_values=FLAGS.values,
)
TOPOLOGY = flags.DEFINE_string(
    "topology",
    "",
    "TPU slice or GPUs, e.g. v5e-16, v5e:4x4, h100:8 (empty: this machine's).",
    flag_values=FLAGS.values,
)
NUM_SLICES = flags.DEFINE_integer(
    "num_slices", 1, "Slices, or hosts of GPUs, joined along data.", lower_bound=1, flag_values=FLAGS.values
)
SAMPLING = flags.DEFINE_boolean(
    "sampling", True, "Count the sampler, which stays while a run trains.", flag_values=FLAGS.values
)
FIND_LARGEST = flags.DEFINE_boolean(
    "find_largest",
    True,
    "Look for the largest --rows_per_batch that fits; two or three compiles.",
    flag_values=FLAGS.values,
)
SUGGEST_MESH = flags.DEFINE_boolean(
    "suggest_mesh",
    True,
    "Where it does not fit, compile for meshes that split more.",
    flag_values=FLAGS.values,
)
MEASURE = flags.DEFINE_boolean(
    "measure", False, "Run the step on the devices of this machine, too.", flag_values=FLAGS.values
)


def named_config(spec: str) -> ModelConfig:
    """Of a preset in any case, or of whatever `--meta_agent` can be."""
    by_name = {name.lower(): config for name, config in PRESETS.items()}
    name = spec.lower().rpartition("/")[2].removesuffix("-instruct")
    if name in by_name and not Path(spec).is_dir():
        return by_name[name]
    return find_config(spec, "model")


def preflight_config() -> PreflightConfig:
    """The run that the flags describe."""
    run = with_settings(FLAGS.config(), {})
    name = MODEL.value or run.meta_agent.meta_agent
    shape = named_config(name)
    return PreflightConfig(
        name=name,
        model=make_model(shape, run, None),
        optimizer=optimizer_config(run.training, 0),
        loss=make_loss(run.training.loss_config),
        generator=generator_config(shape, run) if SAMPLING.value else None,
        row_length=run.training.row_length,
        rows_per_batch=run.training.rows_per_batch,
        topology=TOPOLOGY.value,
        num_slices=NUM_SLICES.value,
        mesh=run.device.mesh,
        find_largest=FIND_LARGEST.value,
        suggest_mesh=SUGGEST_MESH.value,
        measure=MEASURE.value,
    )


def main() -> None:
    """Compiles, then says what was found."""
    if TOPOLOGY.value:
        jax.config.update("jax_platforms", "cpu")  # else jax would look for the chips that a compiler is for
    result = preflight(preflight_config(), note)
    print(format_summary(result))
    write_out(JSON_OUT.value, to_json(result))


if __name__ == "__main__":
    app.run(main, FLAGS)
