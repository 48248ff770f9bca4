"""Live comparison with `transformers` and `peft` on torch: `make parity`. The ordinary tests use recorded outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers

from w4s_jax.policy.attention import causal_attention
from w4s_jax.policy.hf import load_checkpoint, save_checkpoint
from w4s_jax.policy.lora import LoraConfig
from w4s_jax.policy.peft import save_adapter
from w4s_jax.policy.transformer import Transformer, init_lora

SIZES = {
    "vocab_size": 120, "hidden_size": 48, "num_hidden_layers": 3, "intermediate_size": 56,
    "max_position_embeddings": 256,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 8.0},
}
MODELS = {
    "qwen2": lambda **kw: transformers.Qwen2Config(**SIZES, **kw),
    "qwen3": lambda **kw: transformers.Qwen3Config(**SIZES, head_dim=16, **kw),
    "llama": lambda **kw: transformers.LlamaConfig(**SIZES, **kw),
    "llama31": lambda **kw: transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3, **kw),
    "gemma3": lambda **kw: transformers.Gemma3TextConfig(
        **SIZES,
        head_dim=16,
        query_pre_attn_scalar=20,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters=GEMMA3_ROPE,
        **kw,
    ),
}
TOKENS = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 100))
LORA = LoraConfig(rank=4, alpha=6.0)


def theirs(name, heads=(4, 2), tied=False):
    """A random model of `transformers`, float32, with peaked predictions."""
    torch.manual_seed(0)
    config = MODELS[name](num_attention_heads=heads[0], num_key_value_heads=heads[1], tie_word_embeddings=tied)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    neutral = 0.0 if name == "gemma3" else 1.0  # Gemma's norms multiply by 1 + weight
    for parameter_name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape)
        parameter.data = neutral + 0.2 * noise if "norm" in parameter_name else 0.15 * noise
    return model


def logprobs_of(model):
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor(TOKENS)).logits, -1).numpy()


def our_logprobs(config, variables, lora=None):
    model = Transformer(config=config, lora=lora, compute_dtype="float32", remat="none")
    lengths = jnp.full(len(TOKENS), TOKENS.shape[1])

    def attend(q, k, v, _, *window_size):
        return causal_attention(q, k, v, lengths, *window_size), ()

    positions = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)
    hidden, _ = model.apply(variables, jnp.asarray(TOKENS), positions, attend)
    return np.asarray(jax.nn.log_softmax(model.apply(variables, hidden, method="unembed")))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities(name, heads, tied, tmp_path):
    model = theirs(name, heads, tied)
    model.save_pretrained(tmp_path)
    np.testing.assert_allclose(our_logprobs(*load_checkpoint(tmp_path)), logprobs_of(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_an_export_in_several_files_is_loaded_with_equal_log_probabilities(name, tmp_path):
    model = theirs(name)
    model.save_pretrained(tmp_path / "theirs")
    config, variables = load_checkpoint(tmp_path / "theirs")
    save_checkpoint(tmp_path / "ours", config, variables["params"], dtype=jnp.float32, max_shard_bytes=40_000)
    assert (tmp_path / "ours" / "model.safetensors.index.json").exists()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager", dtype=torch.float32
    )
    np.testing.assert_array_equal(logprobs_of(loaded), logprobs_of(model))


@pytest.mark.parametrize("name", MODELS)
def test_peft_loads_our_adapters_with_equal_log_probabilities(name, tmp_path):
    model = theirs(name)
    model.save_pretrained(tmp_path / "base")
    config, variables = load_checkpoint(tmp_path / "base")
    shapes = init_lora(Transformer(config=config, lora=LORA, compute_dtype="float32", remat="none"), jax.random.key(0))
    rng = np.random.default_rng(1)
    adapters = jax.tree.map(lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32), shapes)
    save_adapter(tmp_path / "adapter", adapters, LORA, str(tmp_path / "base"))
    before, adapted = logprobs_of(model), logprobs_of(peft.PeftModel.from_pretrained(model, tmp_path / "adapter"))
    ours = our_logprobs(config, variables | {"lora": adapters}, LORA)
    np.testing.assert_allclose(ours, adapted, atol=2e-5, rtol=0)
    assert np.max(np.abs(adapted - before)) > 0.1
