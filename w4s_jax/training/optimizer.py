"""The optimiser by name, and its schedule.

flags → **OptimizerConfig → optax transformation** → step

Every optimiser works in float32, whatever the parameters are stored in: moments,
updates and the sum with the parameter are float32, and only the result is
rounded. Between updates the moments can be kept in bfloat16, at half the memory.
Adafactor (arXiv 1804.04235) is used without its scaling by the parameter's size,
so that `learning_rate` means the same for all three.
Clipping by the global norm is the step's, which has the norm anyway.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
import optax

from w4s_jax.types import InputError


class OptimizerName(enum.StrEnum):
    """Names of the optimisers."""

    ADAMW = "adamw"
    ADAFACTOR = "adafactor"
    SGD = "sgd"


class ScheduleName(enum.StrEnum):
    """What the learning rate does after its warm-up."""

    CONSTANT = "constant"
    COSINE = "cosine"


class MomentDtype(enum.StrEnum):
    """Names of the dtypes that moments can be kept in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How parameters are updated. The learning rate is W4S's.

    Example:
        >>> float(OptimizerConfig(learning_rate=1.0, warmup_steps=4).schedule()(1))
        0.5
    """

    name: str = "adamw"
    learning_rate: float = 2e-5
    schedule_name: str = "constant"
    warmup_steps: int = 0
    """The rate rises linearly; step i in [0, warmup) takes (i + 1)/warmup of it."""
    total_steps: int = 0
    """Where the cosine reaches `final_fraction`; unused by `constant`."""
    final_fraction: float = 0.1
    weight_decay: float = 0.0
    """Decoupled; on matrices only, never on norms and biases."""
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    moment_dtype: str = "float32"
    """Dtype in which moments are kept between updates."""
    max_grad_norm: float = 1.0
    """Largest global norm of the mean gradient; 0: none."""

    def __post_init__(self) -> None:
        _one_of("optimizer", self.name, OptimizerName)
        _one_of("schedule", self.schedule_name, ScheduleName)
        _one_of("moment_dtype", self.moment_dtype, MomentDtype)
        for field in ("learning_rate", "warmup_steps", "weight_decay", "max_grad_norm"):
            if not getattr(self, field) >= 0:
                raise InputError(f"{field}={getattr(self, field)} must not be negative; raise --{field}")
        if self.moment_dtype == MomentDtype.BFLOAT16 and 1.0 - self.b2 < 0.01:
            raise InputError(
                f"b2={self.b2} with moment_dtype=bfloat16: its steps are below the rounding of bfloat16 (2^-8) and the "
                "second moment would stand still; lower b2 to 0.99, or keep float32"
            )
        if self.schedule_name == ScheduleName.COSINE and self.total_steps <= self.warmup_steps:
            raise InputError(
                f"total_steps={self.total_steps} of the cosine schedule must exceed warmup_steps={self.warmup_steps}; "
                "raise it or choose the constant schedule"
            )

    def schedule(self) -> optax.Schedule:
        """Optimiser step → learning rate."""

        def rate(step: jax.typing.ArrayLike) -> jax.Array:
            step = jnp.asarray(step, jnp.float32)
            warm = jnp.minimum(1.0, (step + 1.0) / self.warmup_steps) if self.warmup_steps else 1.0
            decay = jnp.asarray(1.0)
            if self.schedule_name == ScheduleName.COSINE:
                done = jnp.clip((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 0.0, 1.0)
                decay = self.final_fraction + (1.0 - self.final_fraction) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
            return self.learning_rate * warm * decay

        return rate

    def transformation(self) -> optax.GradientTransformation:
        """The optax chain, without clipping: gradients in, float32 updates to add out."""
        return _kept_in(self.moment_dtype, self._in_float32())

    def _in_float32(self) -> optax.GradientTransformation:
        if self.name == OptimizerName.SGD:
            decay = optax.add_decayed_weights(self.weight_decay, decayed) if self.weight_decay else optax.identity()
            return optax.chain(decay, optax.sgd(self.schedule()))
        if self.name == OptimizerName.ADAFACTOR:
            return optax.adafactor(
                self.schedule(),
                multiply_by_parameter_scale=False,
                weight_decay_rate=self.weight_decay or None,
                weight_decay_mask=decayed,
            )
        return optax.adamw(
            self.schedule(), b1=self.b1, b2=self.b2, eps=self.eps, weight_decay=self.weight_decay, mask=decayed
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


def _one_of(thing: str, value: str, names: type[enum.StrEnum]) -> None:
    if value not in set(names):
        raise InputError(f"{thing}={value!r} is unknown; choose one of {', '.join(names)}")
