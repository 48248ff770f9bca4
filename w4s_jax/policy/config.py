"""The shape of a decoder, read from and written to a Hugging Face `config.json`.

config.json → **ModelConfig** → transformer · hf · sharding

One decoder covers three families, told apart by two switches: Qwen2/2.5 (bias on
q, k, v), Qwen3 (RMS norm on q and k) and Llama 3 (neither; `llama3` rope scaling).
Every key of a `config.json` is either read, checked to have the one value this
decoder implements, or listed as without effect on the logits; any other key is
refused by name, because a silently ignored key is a silently wrong model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from w4s_jax.types import InputError

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3RopeScaling:
    """Frequency scaling of Llama 3.1 (`rope_type: llama3`).

    Example:
        >>> Llama3RopeScaling(factor=8.0, original_max_positions=8192).low_freq_factor
        1.0
    """

    factor: float
    """Long wavelengths are stretched by this."""
    low_freq_factor: float = 1.0
    """Wavelengths above original_max_positions / low_freq_factor are stretched fully."""
    high_freq_factor: float = 4.0
    """Wavelengths below original_max_positions / high_freq_factor are kept."""
    original_max_positions: int = 8192
    """Context length of the pre-training, tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the maths of the decoder.

    Example:
        >>> PRESETS["Qwen2.5-Coder-0.5B"].num_kv_heads
        2
    """

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
    norm_eps: float = 1e-6
    tie_embeddings: bool = False
    """Whether the unembedding is the embedding transposed."""
    qkv_bias: bool = False
    """Qwen2: bias on the query, key and value maps."""
    qk_norm: bool = False
    """Qwen3: RMS norm over each query and key head, before RoPE."""
    rope_scaling: Llama3RopeScaling | None = None
    max_positions: int = 32_768
    """Longest context the checkpoint is meant for, tokens."""

    def __post_init__(self) -> None:
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

    @property
    def family(self) -> str:
        """The Hugging Face `model_type` that computes the same.

        Raises:
            InputError: no family has both the biases and the norms.
        """
        if self.qkv_bias and self.qk_norm:
            raise InputError("qkv_bias=True with qk_norm=True is no Hugging Face family (qwen2: bias, qwen3: norm)")
        return "qwen3" if self.qk_norm else "qwen2" if self.qkv_bias else "llama"

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> ModelConfig:
        """Reads the content of a `config.json`, of transformers 4 or 5.

        Raises:
            InputError: an unknown family or key, or a known key with a value that is not implemented.
        """
        family = config.get("model_type")
        if family not in FAMILIES:
            raise InputError(f"model_type={family!r} is not supported; allowed: {', '.join(FAMILIES)}")
        unknown = sorted(set(config) - _READ - set(_REQUIRED) - _NO_OPS - _SLIDING)
        if unknown:
            raise InputError(
                f"config.json has the unknown keys {unknown}, which may change the maths; "
                "remove those that do not, or use a supported model"
            )
        _check_required(config)
        _check_sliding_window(config)
        theta, scaling = _rope(config)
        embed_dim, num_heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
        return cls(
            vocab_size=_size(config, "vocab_size"),
            num_layers=_size(config, "num_hidden_layers"),
            embed_dim=embed_dim,
            num_heads=num_heads,
            num_kv_heads=_num_kv_heads(config, num_heads),
            head_dim=_head_dim(config, embed_dim, num_heads),
            mlp_dim=_size(config, "intermediate_size"),
            rope_theta=theta,
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=family == "qwen2",
            qk_norm=family == "qwen3",
            rope_scaling=scaling,
            max_positions=int(config.get("max_position_embeddings", cls.max_positions)),
        )

    def to_hf(self) -> Json:
        """The content of a `config.json` that transformers 4 and 5 read alike.

        Raises:
            InputError: no Hugging Face family computes this.
        """
        family = self.family
        rope: Json = {"rope_theta": self.rope_theta, "rope_type": "default"}
        if self.rope_scaling is not None:
            rope |= {"rope_type": "llama3", **_scaling_to_hf(self.rope_scaling)}
        return {
            "architectures": [FAMILIES[family]],
            "model_type": family,
            "vocab_size": self.vocab_size,
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.embed_dim,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.mlp_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "max_position_embeddings": self.max_positions,
            "rope_theta": self.rope_theta,
            "rope_scaling": None if self.rope_scaling is None else {k: v for k, v in rope.items() if k != "rope_theta"},
            "rope_parameters": rope,
            "use_cache": True,
        } | ({} if family == "llama" else {"use_sliding_window": False})


FAMILIES: Mapping[str, str] = MappingProxyType(
    {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
)
"""model_type → the architecture that `config.json` names."""

_READ = frozenset({
    "model_type", "vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads",
    "head_dim", "intermediate_size", "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings",
    "rope_theta", "rope_scaling", "rope_parameters",
})  # fmt: skip
"""Keys that become fields."""

_REQUIRED: Mapping[str, Any] = MappingProxyType({
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "quantization_config": None,
    "pretraining_tp": 1,
})  # fmt: skip
"""Keys that change the maths, with the one value that is implemented (absent means that value)."""

_SLIDING = frozenset({"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"})
"""Keys of sliding-window attention, which is refused where it is in use."""

_NO_OPS = frozenset({
    "architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "use_cache", "initializer_range",
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "is_decoder",
    "cross_attention_hidden_size", "tie_encoder_decoder", "output_attentions", "output_hidden_states", "return_dict",
    "id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params", "tokenizer_class", "prefix",
    "chunk_size_feed_forward", "torchscript", "use_bfloat16", "attn_implementation", "_attn_implementation",
    "pruned_heads",
})  # fmt: skip
"""Keys without effect on the logits: token ids, labels, storage and the bookkeeping of transformers."""


def _size(config: Mapping[str, Any], key: str) -> int:
    if key not in config:
        raise InputError(f"config.json has no {key!r}; is it the config of a causal language model?")
    return int(config[key])


def _num_kv_heads(config: Mapping[str, Any], num_heads: int) -> int:
    # Left out, it means all heads in Llama, but 32 of whatever there are in Qwen: guess nothing there.
    if "num_key_value_heads" not in config and config["model_type"] != "llama":
        return _size(config, "num_key_value_heads")
    return int(config.get("num_key_value_heads") or num_heads)


def _head_dim(config: Mapping[str, Any], embed_dim: int, num_heads: int) -> int:
    if config["model_type"] == "qwen3":  # left out, it would mean 128
        return _size(config, "head_dim")
    return int(config.get("head_dim") or embed_dim // num_heads)


def _check_required(config: Mapping[str, Any]) -> None:
    for key, value in _REQUIRED.items():
        if config.get(key, value) != value:
            raise InputError(f"config.json has {key}={config[key]!r}, which changes the maths; allowed: {value!r}")


def _check_sliding_window(config: Mapping[str, Any]) -> None:
    layer_types = set(config.get("layer_types") or ())
    if layer_types - {"full_attention"}:
        raise InputError(f"config.json has layer_types={sorted(layer_types)}; allowed: full_attention only")
    # Qwen names a window and switches it off with use_sliding_window; where the switch is absent, a window is in use.
    if config.get("use_sliding_window", config.get("sliding_window") is not None):
        raise InputError(
            f"config.json has sliding_window={config.get('sliding_window')!r} in use; "
            "only full attention is implemented: use a checkpoint with use_sliding_window=false"
        )


def _rope(config: Mapping[str, Any]) -> tuple[float, Llama3RopeScaling | None]:
    """Base and scaling; transformers 5 keeps both in `rope_parameters`, 4 in `rope_theta` and `rope_scaling`."""
    rope = dict(config.get("rope_scaling") or {}) | dict(config.get("rope_parameters") or {})
    theta = float(rope.pop("rope_theta", None) or config.get("rope_theta") or 10_000.0)
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope.pop("type", None)
    if kind == "default" and not rope:
        return theta, None
    if kind != "llama3" or set(rope) != set(_SCALING_KEYS):
        raise InputError(f"config.json has rope_type={kind!r} with {sorted(rope)}; allowed: default, or llama3 in full")
    return theta, Llama3RopeScaling(**{field: rope[key] for key, field in _SCALING_KEYS.items()})


_SCALING_KEYS: Mapping[str, str] = MappingProxyType({
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_max_positions",
})  # fmt: skip


def _scaling_to_hf(scaling: Llama3RopeScaling) -> Json:
    return {key: getattr(scaling, field) for key, field in _SCALING_KEYS.items()}


def _qwen25(layers: int, embed: int, heads: int, kv_heads: int, mlp: int, *, tied: bool, vocab: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab,
        num_layers=layers,
        embed_dim=embed,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=embed // heads,
        mlp_dim=mlp,
        rope_theta=1e6,
        tie_embeddings=tied,
        qkv_bias=True,
    )


def _qwen3(layers: int, embed: int, heads: int, mlp: int, *, tied: bool) -> ModelConfig:
    return ModelConfig(
        vocab_size=151_936,
        num_layers=layers,
        embed_dim=embed,
        num_heads=heads,
        num_kv_heads=8,
        head_dim=128,
        mlp_dim=mlp,
        rope_theta=1e6,
        tie_embeddings=tied,
        qk_norm=True,
        max_positions=40_960,
    )


PRESETS: Mapping[str, ModelConfig] = MappingProxyType({
    "Qwen2.5-Coder-0.5B": _qwen25(24, 896, 14, 2, 4_864, tied=True, vocab=151_936),
    "Qwen2.5-Coder-1.5B": _qwen25(28, 1_536, 12, 2, 8_960, tied=True, vocab=151_936),
    "Qwen2.5-Coder-3B": _qwen25(36, 2_048, 16, 2, 11_008, tied=True, vocab=151_936),
    "Qwen2.5-Coder-7B": _qwen25(28, 3_584, 28, 4, 18_944, tied=False, vocab=152_064),
    "Qwen3-0.6B": _qwen3(28, 1_024, 16, 3_072, tied=True),
    "Qwen3-4B": _qwen3(36, 2_560, 32, 9_728, tied=True),
    "Qwen3-8B": _qwen3(36, 4_096, 32, 12_288, tied=False),
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
