"""A meta-agent on this machine's devices, to sample from.

--meta_agent (tiny, Hugging Face folder or id, run directory) → **open_local_agent** → LocalPolicy
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from absl import flags

from experiments.meta_agent import find_config, generator_config, load_model
from w4s_jax.policy.chat import Chat
from w4s_jax.policy.generate import Generator, in_compute_dtype
from w4s_jax.policy.local import LocalPolicy
from w4s_jax.policy.sharding import host_mesh, make_mesh
from w4s_jax.policy.transformer import Transformer

FLAGS = flags.FLAGS


def open_local_agent() -> LocalPolicy:
    """Reads the model onto the mesh of `--mesh`, or with its heads split over all devices, adapters merged.

    Raises:
        InputError: it is none of what `--meta_agent` can be, or cannot be read.
        CheckpointError: a run directory holds no readable checkpoint.
    """
    if FLAGS.mesh:
        mesh = make_mesh(FLAGS.mesh)
    else:
        mesh = host_mesh(jax.devices(), find_config(FLAGS.meta_agent, "meta_agent").num_kv_heads)
    loaded = load_model(FLAGS.meta_agent, mesh, FLAGS.param_dtype, flag="meta_agent")
    model = Transformer(
        config=loaded.config,
        compute_dtype=jnp.dtype(FLAGS.compute_dtype),
        param_dtype=jnp.dtype(FLAGS.param_dtype),
        mesh=mesh,
    )
    chat = Chat.load(loaded.folder)
    variables = in_compute_dtype(loaded.merged, model.compute_dtype)
    generator = Generator(model, variables, generator_config(loaded.config), stop_ids=chat.stop_ids)
    return LocalPolicy(chat, generator, name=FLAGS.meta_agent)
