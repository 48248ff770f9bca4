"""The optimiser by name, and its schedule.

OptimizerConfig → **make_transformation** → optax transformation → step

Every optimiser works in float32, whatever the parameters are stored in: moments,
updates and the sum with the parameter are float32, and only the result is
rounded. Between updates the moments can be kept in bfloat16, at half the memory.
Adafactor (arXiv 1804.04235) is used without its scaling by the parameter's size,
so that `learning_rate` means the same for all three.
Clipping by the global norm is the step's, which has the norm anyway.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from w4s_jax.training.config import OptimizerConfig, OptimizerName, ScheduleName


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Optimiser step → learning rate.

    Example:
        >>> float(make_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=4))(1))
        0.5
    """

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warm = jnp.minimum(1.0, (step + 1.0) / config.warmup_steps) if config.warmup_steps else 1.0
        decay = jnp.asarray(1.0)
        if config.schedule_name == ScheduleName.COSINE:
            done = jnp.clip((step - config.warmup_steps) / (config.total_steps - config.warmup_steps), 0.0, 1.0)
            decay = config.final_fraction + (1.0 - config.final_fraction) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return config.learning_rate * warm * decay

    return rate


def make_transformation(config: OptimizerConfig) -> optax.GradientTransformation:
    """The optax chain, without clipping: gradients in, float32 updates to add out."""
    return _kept_in(config.moment_dtype, _in_float32(config))


def _in_float32(config: OptimizerConfig) -> optax.GradientTransformation:
    if config.name == OptimizerName.SGD:
        decay = optax.add_decayed_weights(config.weight_decay, decayed) if config.weight_decay else optax.identity()
        return optax.chain(decay, optax.sgd(make_schedule(config)))
    if config.name == OptimizerName.ADAFACTOR:
        return optax.adafactor(
            make_schedule(config),
            multiply_by_parameter_scale=False,
            weight_decay_rate=config.weight_decay or None,
            weight_decay_mask=decayed,
        )
    return optax.adamw(
        make_schedule(config),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decayed,
    )


def _kept_in(dtype: str, inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Keeps the state of `inner` in `dtype` between updates, which stay float32."""

    def cast(state: optax.OptState, to: str) -> optax.OptState:
        def one(x: jax.Array) -> jax.Array:
            return x.astype(to) if jnp.issubdtype(x.dtype, jnp.floating) else x

        return jax.tree.map(one, state)

    def update(
        grads: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = inner.update(grads, cast(state, "float32"), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(lambda params: cast(inner.init(params), dtype), update)


def decayed(params: Any) -> Any:
    """True on the matrices of a parameter tree, False on its norms and biases (by their names)."""

    def matrix(path: tuple[Any, ...], _: Any) -> bool:
        names = {str(getattr(key, "key", key)).lower() for key in path}
        return not any(part in name for name in names for part in ("bias", "scale", "norm"))

    return jax.tree_util.tree_map_with_path(matrix, params)
