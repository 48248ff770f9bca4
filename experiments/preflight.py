"""Does a run fit? `python -m experiments.preflight --model=Qwen2.5-Coder-7B --topology=v5e-16 --mesh=fsdp=16`.

--model, --topology → the run's own programs, compiled ahead of time → **memory a chip, FLOPs, traffic, estimate**

Compiles for TPUs or GPUs that are not there, on any machine with their compiler (libtpu,
jax's CUDA plugin), or without --topology for the devices of this one, where --measure also
runs the step. Nothing is loaded: a model is known by its config. It takes the flags of
`experiments.rlao`, so that the flag file of a run can be asked about as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from experiments import app
from experiments import flags as shared
from experiments.meta_agent import find_config, generator_config, make_model
from experiments.run_dir import write_out
from experiments.training import optimizer_config
from w4s_jax.policy.config import PRESETS, ModelConfig
from w4s_jax.preflight.plan import PreflightConfig, preflight
from w4s_jax.preflight.summary import format_summary, to_json

FLAGS = flags.FLAGS

shared.define_all()
flags.DEFINE_string("model", "", "A preset (e.g. qwen2.5-coder-7b), or as --meta_agent (empty: that one).")
flags.DEFINE_string("topology", "", "TPU slice or GPUs, e.g. v5e-16, v5e:4x4, h100:8 (empty: this machine's).")
flags.DEFINE_integer("num_slices", 1, "Slices, or hosts of GPUs, joined along data.", lower_bound=1)
flags.DEFINE_boolean("sampling", True, "Count the sampler, which stays while a run trains.")
flags.DEFINE_boolean("find_largest", True, "Look for the largest --rows_per_batch that fits; two or three compiles.")
flags.DEFINE_boolean("suggest_mesh", True, "Where it does not fit, compile for meshes that split more.")
flags.DEFINE_boolean("measure", False, "Run the step on the devices of this machine, too.")


def named_config(spec: str) -> ModelConfig:
    """Of a preset in any case, or of whatever `--meta_agent` can be."""
    by_name = {name.lower(): config for name, config in PRESETS.items()}
    name = spec.lower().rpartition("/")[2].removesuffix("-instruct")
    if name in by_name and not Path(spec).is_dir():
        return by_name[name]
    return find_config(spec, "model")


def config_of_flags() -> PreflightConfig:
    """The run that the flags describe."""
    name = str(FLAGS.model or FLAGS.meta_agent)
    config = named_config(name)
    return PreflightConfig(
        name=name,
        model=make_model(config, None),
        optimizer=optimizer_config(0),
        generator=generator_config(config) if FLAGS.sampling else None,
        row_length=FLAGS.row_length,
        rows_per_batch=FLAGS.rows_per_batch,
        topology=FLAGS.topology,
        num_slices=FLAGS.num_slices,
        mesh=FLAGS.mesh,
        find_largest=FLAGS.find_largest,
        suggest_mesh=FLAGS.suggest_mesh,
        measure=FLAGS.measure,
    )


def note(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> None:
    """Compiles, then says what was found."""
    del argv
    if FLAGS.topology:
        jax.config.update("jax_platforms", "cpu")  # else jax would look for the chips that a compiler is for
    result = preflight(config_of_flags(), note)
    print(format_summary(result))
    write_out(to_json(result))


if __name__ == "__main__":
    app.run(main)
