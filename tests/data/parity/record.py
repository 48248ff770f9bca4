"""Records what `transformers` computes for tiny random models, for the parity tests.

Run in an environment of its own; neither package is a dependency of w4s_jax:

    pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    pip install transformers==5.24.0 safetensors
    python tests/data/parity/record.py [name …]

Each folder holds a checkpoint as `save_pretrained` writes it (bfloat16, a few tens of
kilobytes) and `expected.npz`: token ids [rows, tokens] and float32 log-probabilities
[rows, tokens, vocab] of the same weights computed in float32 with eager attention.
"""

import pathlib
import sys

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,  # so short that 32 tokens see all three regimes
}
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 8.0},
}
MODELS = {
    "qwen2_tied": transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2_untied": transformers.Qwen2Config(**SIZES, tie_word_embeddings=False, rms_norm_eps=1e-3),
    "qwen3_untied": transformers.Qwen3Config(**SIZES, head_dim=12, tie_word_embeddings=False),
    "llama_tied": transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama31_untied": transformers.LlamaConfig(**SIZES, tie_word_embeddings=False, rope_parameters=LLAMA3),
    # 32 tokens where a window holds 6, no whole number of patterns, scores that are not divided by sqrt(head_dim).
    "gemma3_text_tied": transformers.Gemma3TextConfig(
        **(SIZES | {"num_hidden_layers": 4}),
        head_dim=12,
        query_pre_attn_scalar=20,
        sliding_window=6,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters=GEMMA3_ROPE,
    ),
}


def randomise(model: torch.nn.Module) -> None:
    """Weights of a size that makes peaked, far from uniform predictions; rounded to bfloat16."""
    neutral = 0.0 if model.config.model_type == "gemma3_text" else 1.0  # Gemma's norms multiply by 1 + weight
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape)
        value = neutral + 0.2 * noise if "norm" in name else 0.15 * noise
        parameter.data = value.bfloat16().float()


def record(name: str, config: transformers.PretrainedConfig) -> None:
    torch.manual_seed(sum(name.encode()))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    randomise(model)
    tokens = torch.randint(0, config.vocab_size, (1, 32))
    with torch.no_grad():
        logprobs = torch.log_softmax(model(input_ids=tokens).logits, dim=-1)
    folder = HERE / name
    model.bfloat16().save_pretrained(folder)
    np.savez_compressed(folder / "expected.npz", tokens=tokens.numpy().astype(np.int32), logprobs=logprobs.numpy())


if __name__ == "__main__":
    for name, config in MODELS.items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            record(name, config)
        print(name, sum(path.stat().st_size for path in (HERE / name).iterdir()), "bytes")
