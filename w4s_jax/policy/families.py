"""What decoders differ by: one record a family, the kinds of layers, the scalings of rotary frequencies.

config.json's `model_type` → **Family** → Traits → ModelConfig · parameters · transformer

Qwen2/2.5 (arXiv 2412.15115) has biases on q, k and v; Qwen3 (arXiv 2505.09388) RMS norms on q and k; Llama 3 (arXiv
2407.21783) neither. Gemma 3 (arXiv 2503.19786) has Qwen3's norms, a norm after attention and feed-forward as well as
before, scales that are stored less one, GELU in place of SiLU, a scaled embedding and sliding-window layers.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from types import MappingProxyType


class Family(enum.StrEnum):
    """The Hugging Face `model_type` whose maths a decoder has."""

    QWEN2 = "qwen2"
    QWEN3 = "qwen3"
    LLAMA = "llama"
    GEMMA3 = "gemma3_text"


class LayerKind(enum.StrEnum):
    """What a layer's queries see of their path, in the words of `layer_types` in a `config.json`."""

    GLOBAL = "full_attention"
    """All of it."""
    LOCAL = "sliding_attention"
    """The newest `ModelConfig.window` tokens, rotated with a base of their own."""


class Activation(enum.StrEnum):
    """Of the gated feed-forward, in the words of a `config.json`."""

    SILU = "silu"
    GELU_TANH = "gelu_pytorch_tanh"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traits:
    """What all decoders of one family share.

    Example:
        >>> TRAITS[Family.QWEN2].qkv_bias
        True
    """

    architecture: str
    """Class of transformers that a `config.json` names."""
    qkv_bias: bool = False
    """Bias on the query, key and value maps."""
    qk_norm: bool = False
    """RMS norm over each query and key head, before RoPE."""
    post_norms: bool = False
    """RMS norm of what attention and feed-forward add to the residual stream, too."""
    unit_offset: bool = False
    """Scales of norms are stored less one."""
    scaled_embedding: bool = False
    """Embeddings are multiplied by sqrt(D)."""
    activation: Activation = Activation.SILU
    activation_key: str = "hidden_act"
    """Its key in a `config.json`."""
    has_windows: bool = False
    """Whether layers may be `LayerKind.LOCAL`."""
    tied_by_default: bool = False
    """What a `config.json` without `tie_word_embeddings` means."""
    head_dim_is_named: bool = False
    """Whether a `config.json` without `head_dim` means another one than D / N."""
    kv_heads_are_named: bool = True
    """Whether a `config.json` without `num_key_value_heads` means another number than N."""


TRAITS: Mapping[Family, Traits] = MappingProxyType({
    Family.QWEN2: Traits(architecture="Qwen2ForCausalLM", qkv_bias=True),
    Family.QWEN3: Traits(architecture="Qwen3ForCausalLM", qk_norm=True, head_dim_is_named=True),
    Family.LLAMA: Traits(architecture="LlamaForCausalLM", kv_heads_are_named=False),
    Family.GEMMA3: Traits(
        architecture="Gemma3ForCausalLM",
        qk_norm=True,
        post_norms=True,
        unit_offset=True,
        scaled_embedding=True,
        activation=Activation.GELU_TANH,
        activation_key="hidden_activation",
        has_windows=True,
        tied_by_default=True,
        head_dim_is_named=True,
    ),
})  # fmt: skip
"""The table of families."""


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
class LinearRopeScaling:
    """All wavelengths stretched alike (`rope_type: linear`; Chen et al., arXiv 2306.15595).

    Example:
        >>> LinearRopeScaling(factor=8.0).factor
        8.0
    """

    factor: float
    """By this."""


RopeScaling = Llama3RopeScaling | LinearRopeScaling
