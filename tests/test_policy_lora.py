import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_policy import FAMILIES, draw_tokens, logits, make

from w4s_jax.policy.lora import LoraConfig, merge, split_trainable
from w4s_jax.policy.transformer import Transformer, param_shapes
from w4s_jax.types import InputError

LORA = LoraConfig(rank=3, alpha=6.0)
TOKENS = draw_tokens(2, 7)


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_weights_compute_what_the_adapters_do(family):
    model, trained = make(family, lora=LORA)
    plain = Transformer(config=FAMILIES[family], compute_dtype="float32", remat="none")
    merged = {"params": merge(trained["params"], trained["lora"], LORA)}
    through_adapters, through_weights = logits(model, trained, TOKENS), logits(plain, merged, TOKENS)
    np.testing.assert_allclose(through_adapters, through_weights, atol=2e-5)
    base = logits(plain, {"params": trained["params"]}, TOKENS)
    assert np.max(np.abs(base - through_weights)) > 0.1


def test_a_fresh_adapter_changes_nothing():
    model, variables = make("qwen2", lora=LORA)
    layers = variables["lora"]["layers"]
    for adapter in layers.values():
        adapter["b"] = np.zeros_like(adapter["b"])  # as initialised
    plain = logits(
        Transformer(config=FAMILIES["qwen2"], compute_dtype="float32", remat="none"),
        {"params": variables["params"]},
        TOKENS,
    )
    np.testing.assert_array_equal(logits(model, variables, TOKENS), plain)


def test_a_kernel_is_merged_as_by_hand():
    kernel = jnp.zeros((1, 2, 1, 2))  # [layers, embed, heads, head_dim]
    adapter = {"a": jnp.asarray([[[1.0], [2.0]]]), "b": jnp.asarray([[[[3.0, 4.0]]]])}
    params = {"layers": {"q": {"kernel": kernel}}}
    merged = merge(params, {"layers": {"q": adapter}}, LoraConfig(rank=1, alpha=0.5))
    np.testing.assert_array_equal(merged["layers"]["q"]["kernel"], [[[[1.5, 2.0]], [[3.0, 4.0]]]])
    assert np.all(np.asarray(params["layers"]["q"]["kernel"]) == 0.0)


def test_all_seven_maps_have_float32_adapters_on_a_bfloat16_base():
    shapes = param_shapes(FAMILIES["qwen3"], jnp.bfloat16, LORA)
    assert set(shapes["lora"]["layers"]) == {"q", "k", "v", "o", "gate", "up", "down"}
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes["lora"])} == {jnp.dtype(jnp.float32)}
    merged = jax.eval_shape(lambda v: merge(v["params"], v["lora"], LORA), shapes)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}


def test_only_adapters_learn_where_there_are_any():
    _, variables = make("llama", lora=LORA)
    trainable, frozen = split_trainable(variables)
    assert set(trainable) == {"lora"}
    assert set(frozen) == {"params"}
    trainable, frozen = split_trainable({"params": variables["params"]})
    assert set(trainable) == {"params"}
    assert frozen == {}


def test_a_rank_of_zero_is_refused():
    with pytest.raises(InputError, match="rank=0"):
        LoraConfig(rank=0, alpha=1.0)
