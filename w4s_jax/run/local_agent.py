"""A meta-agent on this machine's devices, to sample from.

--meta_agent (tiny, Hugging Face folder or id, run directory) → **open_local_agent** → LocalPolicy
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from w4s_jax.policy.chat import Chat
from w4s_jax.policy.generate import Generator, in_compute_dtype
from w4s_jax.policy.local import LocalPolicy
from w4s_jax.policy.sharding import host_mesh, make_mesh
from w4s_jax.policy.transformer import Transformer
from w4s_jax.run.config import RunConfig
from w4s_jax.run.models import find_config, generator_config, load_model


def open_local_agent(config: RunConfig) -> LocalPolicy:
    """Reads the model onto the mesh of `--mesh`, or with its heads split over all devices, adapters merged.

    Raises:
        InputError: It is none of what `--meta_agent` can be, or cannot be read.
        CheckpointError: A run directory holds no readable checkpoint.
    """
    name, device = config.meta_agent.meta_agent, config.device
    if device.mesh:
        mesh = make_mesh(device.mesh)
    else:
        mesh = host_mesh(jax.devices(), find_config(name, "meta_agent").num_kv_heads)
    loaded = load_model(name, mesh, device.param_dtype, flag="meta_agent")
    model = Transformer(
        config=loaded.config,
        compute_dtype=jnp.dtype(device.compute_dtype),
        param_dtype=jnp.dtype(device.param_dtype),
        mesh=mesh,
        remat="none",
    )
    chat = Chat.load(loaded.folder)
    variables = in_compute_dtype(loaded.merged, model.compute_dtype)
    generator = Generator(model, variables, generator_config(loaded.config, config), stop_ids=chat.stop_ids)
    return LocalPolicy(chat, generator, name=name)
