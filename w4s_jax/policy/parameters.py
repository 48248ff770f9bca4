"""Every parameter of the decoder, each declared once: its logical axes and its name in a Hugging Face checkpoint.

ModelConfig → **LAYER**, **leaves** → transformer (makes them) · sharding (places them) · hf, peft (name them) · lora

A `Linear` or `Norm` here is what the Flax module of that name is made from, so shapes, placements, tensor names and
their transpositions, adapters and PEFT's modules all follow from one line. A new parameter is a new line and its use in
`transformer.Block`; a parameter that only some families have says so by `when`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from w4s_jax.policy.config import ModelConfig

Axes = tuple[str, ...]
Condition = Callable[[ModelConfig], bool]


def _always(_: ModelConfig) -> bool:
    return True


def _never(_: ModelConfig) -> bool:
    return False


class Leaf(NamedTuple):
    """One leaf of the `params` collection and the tensors that it is made of."""

    path: tuple[str, ...]
    axes: Axes
    """Logical axes; the first is `layers` where each layer has a tensor of its own."""
    tensor: str
    """Its name in a checkpoint; `{}` stands for the number of the layer."""
    stored: tuple[Axes, ...]
    """The tensor's dims, each the axes that it joins."""

    @property
    def is_stacked(self) -> bool:
        """Whether the leaf has a leading layer axis."""
        return self.axes[0] == "layers"

    def shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Of the leaf."""
        return tuple(map(config.axis_size, self.axes))

    def tensor_shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Of one tensor in the file."""
        return tuple(math.prod(map(config.axis_size, joined)) for joined in self.stored)

    def tensor_view(self, config: ModelConfig) -> tuple[int, ...]:
        """The same with joined axes split apart."""
        return tuple(config.axis_size(axis) for joined in self.stored for axis in joined)

    @property
    def order(self) -> tuple[int, ...]:
        """Transposition of that view to the layout of the leaf, or of a layer of it."""
        split = [axis for joined in self.stored for axis in joined]
        return tuple(split.index(axis) for axis in self.axes if axis != "layers")

    def tensors(self, config: ModelConfig) -> tuple[str, ...]:
        """Names in a checkpoint, one a layer where the leaf is stacked."""
        return tuple(self.tensor.format(i) for i in range(config.num_layers)) if self.is_stacked else (self.tensor,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear map of a layer, with an adapter where LoRA is on.

    Example:
        >>> LINEAR["q"].kernel.axes
        ('layers', 'embed', 'heads', 'head_dim')
    """

    name: str
    """Below `layers`."""
    reads: Axes
    writes: Axes
    hf: str
    """Module of a layer in transformers and PEFT, which hold it as [out, in]."""
    biased: Condition = _never

    @property
    def kernel(self) -> Leaf:
        """[*reads, *writes]."""
        axes = ("layers", *self.reads, *self.writes)
        return Leaf(
            ("layers", self.name, "kernel"), axes, f"model.layers.{{}}.{self.hf}.weight", (self.writes, self.reads)
        )

    @property
    def bias(self) -> Leaf:
        """[*writes]."""
        return Leaf(
            ("layers", self.name, "bias"), ("layers", *self.writes), f"model.layers.{{}}.{self.hf}.bias", (self.writes,)
        )

    @property
    def adapter(self) -> Mapping[str, Axes]:
        """Logical axes of the factors of its adapter, in the `lora` collection."""
        return {"a": ("layers", *self.reads, "rank"), "b": ("layers", "rank", *self.writes)}

    def leaves(self, config: ModelConfig) -> Iterator[Leaf]:
        """Those that a model has."""
        yield self.kernel
        if self.biased(config):
            yield self.bias


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norm:
    """An RMS norm over one axis.

    Example:
        >>> NORM["q_norm"].scale.axes
        ('layers', 'head_dim')
    """

    name: str
    axis: str
    hf: str
    """Module of a layer in transformers."""
    when: Condition = _always

    @property
    def scale(self) -> Leaf:
        """[axis]."""
        return Leaf(
            ("layers", self.name, "scale"),
            ("layers", self.axis),
            f"model.layers.{{}}.{self.hf}.weight",
            ((self.axis,),),
        )

    def leaves(self, config: ModelConfig) -> Iterator[Leaf]:
        """Those that a model has."""
        if self.when(config):
            yield self.scale


# --- the declarations -------------------------------------------------------------


def _qkv_bias(config: ModelConfig) -> bool:
    return config.traits.qkv_bias


def _qk_norm(config: ModelConfig) -> bool:
    return config.traits.qk_norm


def _post_norms(config: ModelConfig) -> bool:
    return config.traits.post_norms


def _pre_norms_only(config: ModelConfig) -> bool:
    return not config.traits.post_norms


EMBEDDING = Leaf(("embed", "embedding"), ("vocab", "embed"), "model.embed_tokens.weight", (("vocab",), ("embed",)))
FINAL_NORM = Leaf(("final_norm", "scale"), ("embed",), "model.norm.weight", (("embed",),))
UNEMBEDDING = Leaf(("unembed",), ("embed", "vocab"), "lm_head.weight", (("vocab",), ("embed",)))
"""Of models whose embeddings are not tied."""

_Q, _KV = ("heads", "head_dim"), ("kv_heads", "head_dim")
LAYER: tuple[Linear | Norm, ...] = (
    Linear(name="q", reads=("embed",), writes=_Q, hf="self_attn.q_proj", biased=_qkv_bias),
    Linear(name="k", reads=("embed",), writes=_KV, hf="self_attn.k_proj", biased=_qkv_bias),
    Linear(name="v", reads=("embed",), writes=_KV, hf="self_attn.v_proj", biased=_qkv_bias),
    Linear(name="o", reads=_Q, writes=("embed",), hf="self_attn.o_proj"),
    Linear(name="gate", reads=("embed",), writes=("mlp",), hf="mlp.gate_proj"),
    Linear(name="up", reads=("embed",), writes=("mlp",), hf="mlp.up_proj"),
    Linear(name="down", reads=("mlp",), writes=("embed",), hf="mlp.down_proj"),
    Norm(name="attn_norm", axis="embed", hf="input_layernorm"),
    Norm(name="attn_post_norm", axis="embed", hf="post_attention_layernorm", when=_post_norms),
    # What transformers names after attention comes before the feed-forward where there are no norms after either.
    Norm(name="mlp_norm", axis="embed", hf="post_attention_layernorm", when=_pre_norms_only),
    Norm(name="mlp_norm", axis="embed", hf="pre_feedforward_layernorm", when=_post_norms),
    Norm(name="mlp_post_norm", axis="embed", hf="post_feedforward_layernorm", when=_post_norms),
    Norm(name="q_norm", axis="head_dim", hf="self_attn.q_norm", when=_qk_norm),
    Norm(name="k_norm", axis="head_dim", hf="self_attn.k_norm", when=_qk_norm),
)
"""Of each layer, in the order of an export."""

LINEAR: Mapping[str, Linear] = MappingProxyType({part.name: part for part in LAYER if isinstance(part, Linear)})
"""The linear maps by name; these have adapters."""
NORM: Mapping[str, Norm] = MappingProxyType({part.name: part for part in LAYER if isinstance(part, Norm)})
"""The norms by name."""


def leaves(config: ModelConfig) -> tuple[Leaf, ...]:
    """All leaves of a model's `params`, in the order of an export."""
    unembedding = () if config.tie_embeddings else (UNEMBEDDING,)
    return (EMBEDDING, FINAL_NORM, *unembedding, *(leaf for part in LAYER for leaf in part.leaves(config)))


def _logical_axes() -> Iterator[tuple[str, Axes]]:
    for leaf in (EMBEDDING, UNEMBEDDING, FINAL_NORM):
        yield "/".join(leaf.path), leaf.axes
    for part in LAYER:
        if isinstance(part, Norm):
            yield f"{part.name}/scale", part.scale.axes
            continue
        yield f"{part.name}/kernel", part.kernel.axes
        if part.biased is not _never:
            yield f"{part.name}/bias", part.bias.axes
        yield from ((f"{part.name}/{factor}", axes) for factor, axes in part.adapter.items())


LOGICAL_AXES: Mapping[str, Axes] = MappingProxyType(dict(_logical_axes()))
"""End of a leaf's path → logical axes of its dims, adapters included. Optimiser moments end in the path of their
parameter."""
