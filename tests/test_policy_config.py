import dataclasses
import json
import math
import pathlib

import jax
import numpy as np
import pytest
from tiny_policy import FAMILIES

from w4s_jax.policy.config import PRESETS, Family, LayerKind, LinearRopeScaling, Llama3RopeScaling
from w4s_jax.policy.config_json import from_hf, to_hf
from w4s_jax.policy.rope import inverse_frequencies
from w4s_jax.policy.transformer import param_shapes
from w4s_jax.types import InputError

# As the model cards count them; a tied unembedding counts once.
PUBLISHED_PARAMETERS = {
    "Qwen2.5-Coder-0.5B": 494_032_768,
    "Qwen2.5-Coder-1.5B": 1_543_714_304,
    "Qwen2.5-Coder-3B": 3_085_938_688,
    "Qwen2.5-Coder-7B": 7_615_616_512,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Llama-3.1-8B": 8_030_261_248,
    "Gemma-3-270M": 268_098_176,
    "Gemma-3-1B": 999_885_952,
}

# config.json of Qwen2.5-Coder-7B-Instruct, written by transformers 4.
QWEN25_CODER_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.44.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}

# config.json of Gemma 3 1B, written by transformers 4: kinds by a pattern, tied without saying so.
GEMMA3_1B = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "use_cache": True,
    "vocab_size": 262144,
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_number_of_parameters(name):
    shapes = param_shapes(PRESETS[name])
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == PUBLISHED_PARAMETERS[name]


def test_a_published_config_of_transformers_4_is_read():
    assert from_hf(QWEN25_CODER_7B) == PRESETS["Qwen2.5-Coder-7B"]
    assert from_hf(GEMMA3_1B) == PRESETS["Gemma-3-1B"]
    global_layers = [layer for layer, kind in enumerate(PRESETS["Gemma-3-1B"].layer_kinds) if kind is LayerKind.GLOBAL]
    assert global_layers == [5, 11, 17, 23]


def test_the_rope_keys_of_transformers_4_and_5_mean_the_same():
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    neither = to_hf(PRESETS["Llama-3.1-8B"])
    del neither["rope_theta"], neither["rope_scaling"], neither["rope_parameters"]
    old = from_hf(neither | {"rope_theta": 500000.0, "rope_scaling": scaling})
    new = from_hf(neither | {"rope_parameters": scaling | {"rope_theta": 500000.0}})
    assert old == new == PRESETS["Llama-3.1-8B"]


@pytest.mark.parametrize("config", [*PRESETS.values(), *FAMILIES.values()])
def test_writing_and_reading_a_config_is_the_identity(config):
    assert from_hf(json.loads(json.dumps(to_hf(config)))) == config


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mistral"}, "mistral"),
        ({"logit_softcapping": 30.0}, "logit_softcapping"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_sliding_window": True}, "sliding_window=131072"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "llama3"),
        ({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"num_key_value_heads": 3}, "num_kv_heads=3"),
        ({"use_mrope": True}, "use_mrope"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"dual_chunk_attention_config": {"chunk_size": 262144}}, "dual_chunk_attention_config"),
    ],
)
def test_what_changes_the_maths_and_is_not_implemented_is_refused_by_name(change, named):
    with pytest.raises(InputError, match=named):
        from_hf(QWEN25_CODER_7B | change)


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "num_key_value_heads"])
def test_a_missing_size_is_named_and_not_guessed(key):
    with pytest.raises(InputError, match=key):
        from_hf({k: v for k, v in QWEN25_CODER_7B.items() if k != key})


def test_a_window_without_a_switch_counts_as_in_use():
    config = {k: v for k, v in QWEN25_CODER_7B.items() if k != "use_sliding_window"}
    with pytest.raises(InputError, match="sliding_window"):
        from_hf(config)


def test_a_family_is_stored_and_one_that_is_not_known_is_refused_by_name():
    assert from_hf(QWEN25_CODER_7B).family is Family.QWEN2
    with pytest.raises(
        InputError, match="family='mistral' is not supported; allowed: qwen2, qwen3, llama, gemma3_text"
    ):
        dataclasses.replace(FAMILIES["qwen2"], family="mistral")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sliding_window": None}, "window=None"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"hidden_activation": "gelu"}, "hidden_activation='gelu'"),
        ({"hidden_act": "silu"}, "hidden_act"),
        ({"layer_types": ["chunked_attention"] * 26}, "chunked_attention"),
        ({"layer_types": ["sliding_attention"] * 25}, "25 layer_kinds for num_layers=26"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}, "sliding_attention"),
    ],
)
def test_what_changes_the_maths_of_gemma_is_refused_by_name(change, named):
    with pytest.raises(InputError, match=named):
        from_hf(GEMMA3_1B | change)


def test_local_layers_of_a_family_without_any_are_refused():
    kinds = (LayerKind.LOCAL,) * FAMILIES["llama"].num_layers
    with pytest.raises(InputError, match="sliding_attention layers in the family llama"):
        dataclasses.replace(FAMILIES["llama"], layer_kinds=kinds, window=4)


def test_the_rotation_of_global_layers_alone_is_scaled_in_the_keys_of_transformers_4_and_5():
    old = from_hf(GEMMA3_1B | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    assert (old.rope_scaling, old.rope_theta, old.local_rope_theta) == (LinearRopeScaling(factor=8.0), 1e6, 1e4)
    without = {k: v for k, v in GEMMA3_1B.items() if not k.startswith("rope_")}
    ropes = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    assert from_hf(without | {"rope_parameters": ropes}) == old
    np.testing.assert_allclose(
        inverse_frequencies(4, 100.0, LinearRopeScaling(factor=8.0)), [1 / 8, 0.1 / 8], rtol=1e-6
    )


@pytest.mark.parametrize(
    "harmless",
    [
        {"use_mrope": False},
        {"unsloth_fixed": True, "unsloth_version": "2025.3.19"},
        {"_model_name_or_path": "x"},
        {"unk_token_id": 0},
        {"is_llama_config": True, "rope_interleaved": False},
        {"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}},
        {"_attn_implementation_autoset": True},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_keys_that_published_checkpoints_carry_and_that_change_nothing_are_read_over(harmless):
    assert from_hf(QWEN25_CODER_7B | harmless) == PRESETS["Qwen2.5-Coder-7B"]


def test_an_odd_head_is_refused():
    with pytest.raises(InputError, match="head_dim=7"):
        dataclasses.replace(FAMILIES["llama"], head_dim=7)


def test_llama3_scaling_keeps_fast_dims_and_stretches_slow_ones():
    # By hand, original length 64, dims of 8: wavelengths 2π·10^j are 6.28, 62.8, 628, 6283. Below 64/4 = 16: kept.
    # Above 64/1: divided by 8. 62.83 lies between: keep = (64/62.83 - 1)/3 = 0.0062, f = 0.1·(keep + (1-keep)/8).
    scaling = Llama3RopeScaling(factor=8.0, original_max_positions=64)
    keep = (64 / (2 * math.pi * 10) - 1) / 3
    expected = [1.0, 0.1 * (keep + (1 - keep) / 8), 0.01 / 8, 0.001 / 8]
    np.testing.assert_allclose(inverse_frequencies(8, 10_000.0, scaling), expected, rtol=1e-6)


def test_every_recorded_config_is_read():
    folders = sorted(pathlib.Path(__file__).parent.glob("data/parity/*/config.json"))
    assert len(folders) == 6
    for path in folders:
        config = from_hf(json.loads(path.read_text()))
        assert path.parent.name.startswith(config.family)
        assert config.tie_embeddings == path.parent.name.endswith("_tied")
