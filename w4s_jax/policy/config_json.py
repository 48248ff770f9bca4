"""A Hugging Face `config.json` as the fields of a ModelConfig, and back.

config.json → **from_hf** → ModelConfig → **to_hf** → config.json

Every key is either read, checked to have the one value that the decoder implements, or listed as without effect on the
logits; any other key is refused by name, because a silently ignored key is a silently wrong model.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from w4s_jax.policy.config import ModelConfig
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

Json = dict[str, Any]

_READ = frozenset({
    "model_type", "vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads",
    "head_dim", "intermediate_size", "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings",
    "rope_theta", "rope_scaling", "rope_parameters",
    "sliding_window", "use_sliding_window", "max_window_layers", "layer_types",
})  # fmt: skip
"""Keys that become fields, or are checked against them, in every family."""

_READ_WITH_WINDOWS = frozenset({
    "hidden_activation", "query_pre_attn_scalar", "rope_local_base_freq", "sliding_window_pattern",
    "_sliding_window_pattern",
})  # fmt: skip
"""Those of families with sliding-window layers."""

_REQUIRED: Mapping[str, Any] = MappingProxyType({
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "quantization_config": None,
    "pretraining_tp": 1,
    "use_mrope": False,
    "rope_interleaved": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "use_bidirectional_attention": False,
})  # fmt: skip
"""Keys that change the maths, with the one value that is implemented (absent means that value)."""

_NO_OPS = frozenset({
    "architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "use_cache", "initializer_range",
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "is_decoder",
    "cross_attention_hidden_size", "tie_encoder_decoder", "output_attentions", "output_hidden_states", "return_dict",
    "id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params", "tokenizer_class", "prefix",
    "chunk_size_feed_forward", "torchscript", "use_bfloat16", "attn_implementation", "_attn_implementation",
    "pruned_heads", "_model_name_or_path", "_attn_implementation_autoset", "unk_token_id", "is_llama_config",
    "unsloth_fixed", "unsloth_version", "transformers.js_config", "cache_implementation",
})  # fmt: skip
"""Keys without effect on the logits: token ids, labels, storage and the bookkeeping of tools that write such files."""


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder that a `config.json` of transformers 4 or 5 describes.

    Args:
        config: Its content.

    Raises:
        InputError: An unknown family or key, or a known key with a value that is not implemented.
    """
    name = config.get("model_type")
    if not isinstance(name, str) or name not in TRAITS:
        raise InputError(f"model_type={name!r} is not supported; allowed: {', '.join(TRAITS)}")
    family = Family(name)
    traits = TRAITS[family]
    _check_keys(config, traits)
    embed_dim, num_heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    fields: Json = {
        "family": family,
        "vocab_size": _size(config, "vocab_size"),
        "num_layers": _size(config, "num_hidden_layers"),
        "embed_dim": embed_dim,
        "num_heads": num_heads,
        "num_kv_heads": _num_kv_heads(config, num_heads, traits),
        "head_dim": _head_dim(config, embed_dim, num_heads, traits),
        "mlp_dim": _size(config, "intermediate_size"),
        "norm_eps": float(config.get("rms_norm_eps", 1e-6)),
        "tie_embeddings": bool(config.get("tie_word_embeddings", traits.tied_by_default)),
    }
    if "max_position_embeddings" in config:
        fields["max_positions"] = int(config["max_position_embeddings"])
    if traits.has_windows:
        return ModelConfig(**fields, **_windows(config, fields))
    _check_sliding_window(config)
    fields["rope_theta"], fields["rope_scaling"] = _rope(config, config.get("rope_parameters"), 10_000.0)
    return ModelConfig(**fields)


def to_hf(config: ModelConfig) -> Json:
    """The content of a `config.json` that transformers 4 and 5 read alike."""
    traits = config.traits
    rope: Json = {"rope_theta": config.rope_theta, **_scaling_to_hf(config.rope_scaling)}
    scaling = None if config.rope_scaling is None else {k: v for k, v in rope.items() if k != "rope_theta"}
    content = {
        "architectures": [traits.architecture],
        "model_type": str(config.family),
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.embed_dim,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_dim,
        traits.activation_key: str(traits.activation),
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": rope,
        "use_cache": True,
    }
    if traits.has_windows:
        return content | _windows_to_hf(config, rope)
    return content | ({} if config.family is Family.LLAMA else {"use_sliding_window": False})


# --- checks and sizes -------------------------------------------------------------


def _check_keys(config: Mapping[str, Any], traits: Traits) -> None:
    known = (
        _READ
        | {traits.activation_key}
        | set(_REQUIRED)
        | _NO_OPS
        | (_READ_WITH_WINDOWS if traits.has_windows else frozenset())
    )
    unknown = sorted(set(config) - known)
    if unknown:
        raise InputError(
            f"config.json has the unknown keys {unknown}, which may change the maths; "
            "remove those that do not, or use a supported model"
        )
    for key, value in {**_REQUIRED, traits.activation_key: str(traits.activation)}.items():
        if config.get(key, value) != value:
            raise InputError(f"config.json has {key}={config[key]!r}, which changes the maths; allowed: {value!r}")


def _size(config: Mapping[str, Any], key: str) -> int:
    if key not in config:
        raise InputError(f"config.json has no {key!r}; is it the config of a causal language model?")
    return int(config[key])


def _num_kv_heads(config: Mapping[str, Any], num_heads: int, traits: Traits) -> int:
    if "num_key_value_heads" not in config and traits.kv_heads_are_named:  # a number of the family's own: guess nothing
        return _size(config, "num_key_value_heads")
    return int(config.get("num_key_value_heads") or num_heads)


def _head_dim(config: Mapping[str, Any], embed_dim: int, num_heads: int, traits: Traits) -> int:
    if traits.head_dim_is_named:
        return _size(config, "head_dim")
    return int(config.get("head_dim") or embed_dim // num_heads)


# --- sliding windows --------------------------------------------------------------


def _check_sliding_window(config: Mapping[str, Any]) -> None:
    layer_types = set(config.get("layer_types") or ())
    if layer_types - {LayerKind.GLOBAL}:
        raise InputError(f"config.json has layer_types={sorted(layer_types)}; allowed: full_attention only")
    # Qwen names a window and switches it off with use_sliding_window; where the switch is absent, a window is in use.
    if config.get("use_sliding_window", config.get("sliding_window") is not None):
        raise InputError(
            f"config.json has sliding_window={config.get('sliding_window')!r} in use; "
            "only full attention is implemented: use a checkpoint with use_sliding_window=false"
        )


def _windows(config: Mapping[str, Any], fields: Json) -> Json:
    """Kinds of layers, window, the two rotations and the scale of scores."""
    pattern = int(config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6)
    every = range(1, fields["num_layers"] + 1)
    kinds = config.get("layer_types") or [LayerKind.LOCAL if i % pattern else LayerKind.GLOBAL for i in every]
    if set(kinds) - set(LayerKind):
        raise InputError(f"config.json has layer_types={sorted(set(kinds))}; allowed: {', '.join(LayerKind)}")
    # transformers 5 has one entry a kind; 4 the usual two keys for global layers, and a base for local ones.
    ropes = dict(config.get("rope_parameters") or {})
    theta, scaling = _rope(config, ropes.get(LayerKind.GLOBAL), 1_000_000.0)
    local: Json = {"rope_theta": config.get("rope_local_base_freq"), **(ropes.get(LayerKind.LOCAL) or {})}
    local_theta, local_scaling = _rope({}, local, 10_000.0)
    if local_scaling is not None:
        raise InputError(f"config.json scales the rotation of {LayerKind.LOCAL} layers; allowed: rope_type default")
    scale = float(_size(config, "query_pre_attn_scalar"))
    return {
        "layer_kinds": tuple(LayerKind(kind) for kind in kinds),
        "window": None if config.get("sliding_window") is None else int(config["sliding_window"]),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "local_rope_theta": local_theta,
        "query_scale": None if scale == fields["head_dim"] else scale,
    }


def _windows_to_hf(config: ModelConfig, rope: Json) -> Json:
    local = {"rope_theta": config.local_rope_theta, "rope_type": "default"}
    kinds = config.layer_kinds or (LayerKind.GLOBAL,) * config.num_layers
    scale = config.head_dim if config.query_scale is None else config.query_scale
    return {
        "layer_types": [str(kind) for kind in kinds],
        "sliding_window": config.window,
        "query_pre_attn_scalar": int(scale) if scale == int(scale) else scale,
        "rope_local_base_freq": config.local_rope_theta,
        "rope_parameters": {str(LayerKind.GLOBAL): rope, str(LayerKind.LOCAL): local},
    }


# --- rotary frequencies -----------------------------------------------------------

_LLAMA3_KEYS: Mapping[str, str] = MappingProxyType({
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_max_positions",
})  # fmt: skip


def _rope(
    config: Mapping[str, Any], parameters: Mapping[str, Any] | None, default: float
) -> tuple[float, RopeScaling | None]:
    """Base and scaling; transformers 5 keeps both in `rope_parameters`, 4 in `rope_theta` and `rope_scaling`."""
    rope = dict(config.get("rope_scaling") or {}) | dict(parameters or {})
    theta = float(rope.pop("rope_theta", None) or config.get("rope_theta") or default)
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope.pop("type", None)
    if kind == "default" and not rope:
        return theta, None
    if kind == "linear" and set(rope) == {"factor"}:
        return theta, LinearRopeScaling(factor=float(rope["factor"]))
    if kind == "llama3" and set(rope) == set(_LLAMA3_KEYS):
        return theta, Llama3RopeScaling(**{field: rope[key] for key, field in _LLAMA3_KEYS.items()})
    raise InputError(
        f"config.json has rope_type={kind!r} with {sorted(rope)}; "
        "allowed: default, linear with its factor, or llama3 in full"
    )


def _scaling_to_hf(scaling: RopeScaling | None) -> Json:
    if scaling is None:
        return {"rope_type": "default"}
    if isinstance(scaling, LinearRopeScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    return {"rope_type": "llama3", **{key: getattr(scaling, field) for key, field in _LLAMA3_KEYS.items()}}
