"""The shape of a decoder: everything that decides its maths.

config_json → **ModelConfig** → parameters · transformer · hf · sharding
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from w4s_jax.policy.families import (
    TRAITS,
    Family,
    LayerKind,
    LinearRopeScaling,
    Llama3RopeScaling,
    RopeScaling,
    Traits,
)
from w4s_jax.types import InputError

__all__ = [
    "PRESETS",
    "Family",
    "LayerKind",
    "LinearRopeScaling",
    "Llama3RopeScaling",
    "ModelConfig",
    "RopeScaling",
    "Traits",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the maths of the decoder.

    Example:
        >>> PRESETS["Qwen2.5-Coder-0.5B"].num_kv_heads
        2
    """

    family: Family = Family.LLAMA
    """What it has of biases, norms and kinds of layers: `families.TRAITS`."""
    vocab_size: int
    """V: rows of the embedding, padding rows included."""
    num_layers: int
    embed_dim: int
    """D."""
    num_heads: int
    """N: query heads."""
    num_kv_heads: int
    """K: key and value heads; divides N."""
    head_dim: int
    """H, even; N·H need not be D."""
    mlp_dim: int
    """F: width of the gated feed-forward."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies, in global layers where there are local ones."""
    rope_scaling: RopeScaling | None = None
    """Of the same frequencies."""
    norm_eps: float = 1e-6
    tie_embeddings: bool = False
    """Whether the unembedding is the embedding transposed."""
    query_scale: float | None = None
    """Scores are divided by its square root; None: H."""
    layer_kinds: tuple[LayerKind, ...] = ()
    """One a layer; empty: all are global."""
    window: int | None = None
    """Tokens that a query of a local layer sees, itself included."""
    local_rope_theta: float = 10_000.0
    """Base of the rotary frequencies in local layers."""
    max_positions: int = 32_768
    """Longest context the checkpoint is meant for, tokens."""

    def __post_init__(self) -> None:
        self._check_family()
        for name in ("vocab_size", "num_layers", "embed_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} is not a positive size; correct the model config")
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}; "
                "grouped attention needs equal groups: correct the model config"
            )
        if self.head_dim % 2:
            raise InputError(f"head_dim={self.head_dim} is odd; rotary embeddings need an even one")
        self._check_layer_kinds()

    def _check_family(self) -> None:
        if self.family not in TRAITS:
            raise InputError(f"family={self.family!r} is not supported; allowed: {', '.join(TRAITS)}")
        object.__setattr__(self, "family", Family(self.family))

    def _check_layer_kinds(self) -> None:
        if self.layer_kinds and len(self.layer_kinds) != self.num_layers:
            raise InputError(f"{len(self.layer_kinds)} layer_kinds for num_layers={self.num_layers}; give one a layer")
        if not self.is_windowed:
            return
        if not self.traits.has_windows:
            raise InputError(f"{LayerKind.LOCAL} layers in the family {self.family}, which has none; use global ones")
        if self.window is None or self.window < 1:
            raise InputError(f"window={self.window} with {LayerKind.LOCAL} layers; give the tokens that a query sees")

    @property
    def traits(self) -> Traits:
        """What the family has."""
        return TRAITS[self.family]

    @property
    def is_windowed(self) -> bool:
        """Whether any layer is local."""
        return LayerKind.LOCAL in self.layer_kinds

    def axis_size(self, axis: str) -> int:
        """Size of a logical axis of a parameter (`sharding.RULES`), the rank of adapters excepted."""
        return {
            "layers": self.num_layers,
            "vocab": self.vocab_size,
            "embed": self.embed_dim,
            "heads": self.num_heads,
            "kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "mlp": self.mlp_dim,
        }[axis]


def _qwen25(layers: int, embed: int, heads: int, kv_heads: int, mlp: int, *, tied: bool, vocab: int) -> ModelConfig:
    return ModelConfig(
        family=Family.QWEN2,
        vocab_size=vocab,
        num_layers=layers,
        embed_dim=embed,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=embed // heads,
        mlp_dim=mlp,
        rope_theta=1e6,
        tie_embeddings=tied,
    )


def _qwen3(layers: int, embed: int, heads: int, mlp: int, *, tied: bool) -> ModelConfig:
    return ModelConfig(
        family=Family.QWEN3,
        vocab_size=151_936,
        num_layers=layers,
        embed_dim=embed,
        num_heads=heads,
        num_kv_heads=8,
        head_dim=128,
        mlp_dim=mlp,
        rope_theta=1e6,
        tie_embeddings=tied,
        max_positions=40_960,
    )


def _gemma3(layers: int, embed: int, mlp: int) -> ModelConfig:
    pattern = (*[LayerKind.LOCAL] * 5, LayerKind.GLOBAL)
    return ModelConfig(
        family=Family.GEMMA3,
        vocab_size=262_144,
        num_layers=layers,
        embed_dim=embed,
        num_heads=4,
        num_kv_heads=1,
        head_dim=256,
        mlp_dim=mlp,
        rope_theta=1e6,
        tie_embeddings=True,
        layer_kinds=tuple(pattern[layer % 6] for layer in range(layers)),
        window=512,
    )


PRESETS: Mapping[str, ModelConfig] = MappingProxyType({
    "Qwen2.5-Coder-0.5B": _qwen25(24, 896, 14, 2, 4_864, tied=True, vocab=151_936),
    "Qwen2.5-Coder-1.5B": _qwen25(28, 1_536, 12, 2, 8_960, tied=True, vocab=151_936),
    "Qwen2.5-Coder-3B": _qwen25(36, 2_048, 16, 2, 11_008, tied=True, vocab=151_936),
    "Qwen2.5-Coder-7B": _qwen25(28, 3_584, 28, 4, 18_944, tied=False, vocab=152_064),
    "Qwen3-0.6B": _qwen3(28, 1_024, 16, 3_072, tied=True),
    "Qwen3-4B": _qwen3(36, 2_560, 32, 9_728, tied=True),
    "Qwen3-8B": _qwen3(36, 4_096, 32, 12_288, tied=False),
    "Gemma-3-270M": _gemma3(18, 640, 2_048),
    "Gemma-3-1B": _gemma3(26, 1_152, 6_912),
    "Llama-3.1-8B": ModelConfig(
        vocab_size=128_256,
        num_layers=32,
        embed_dim=4_096,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        mlp_dim=14_336,
        rope_theta=500_000.0,
        norm_eps=1e-5,
        rope_scaling=Llama3RopeScaling(factor=8.0, original_max_positions=8_192),
        max_positions=131_072,
    ),
})  # fmt: skip
"""Shapes of published checkpoints, for planning without a download (`preflight`)."""
