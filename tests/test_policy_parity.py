"""The decoder against `transformers`, through small recorded outputs (data/parity/record.py)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_policy import logits, positions

from w4s_jax.policy.hf import load_checkpoint
from w4s_jax.policy.transformer import Transformer

PARITY = pathlib.Path(__file__).parent / "data" / "parity"
MODELS = ["qwen2_tied", "qwen2_untied", "qwen3_untied", "llama_tied", "llama31_untied", "gemma3_text_tied"]


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_agree_with_transformers(name):
    config, variables = load_checkpoint(PARITY / name)
    recorded = np.load(PARITY / name / "expected.npz")
    ours = jax.nn.log_softmax(
        logits(Transformer(config=config, compute_dtype="float32", remat="none"), variables, recorded["tokens"])
    )
    np.testing.assert_allclose(ours, recorded["logprobs"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["qwen2_tied", "llama31_untied", "gemma3_text_tied"])
def test_padding_on_the_right_changes_nothing(name):
    config, variables = load_checkpoint(PARITY / name)
    recorded = np.load(PARITY / name / "expected.npz")
    tokens = np.pad(recorded["tokens"], ((0, 0), (0, 5)), constant_values=7)
    length = recorded["tokens"].shape[1]
    ours = jax.nn.log_softmax(
        logits(Transformer(config=config, compute_dtype="float32", remat="none"), variables, tokens, lengths=[length])
    )
    np.testing.assert_allclose(ours[:, :length], recorded["logprobs"], atol=1e-5, rtol=0)


def test_bfloat16_compute_stays_near_the_recorded_values():
    config, variables = load_checkpoint(PARITY / "qwen2_tied", param_dtype=jnp.bfloat16)
    recorded = np.load(PARITY / "qwen2_tied" / "expected.npz")
    model = Transformer(config=config, compute_dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, remat="none")
    result = logits(model, variables, recorded["tokens"])
    assert result.dtype == jnp.float32
    off = np.abs(jax.nn.log_softmax(result) - recorded["logprobs"])
    # bfloat16 keeps 8 bits: a relative 2^-9 a product, a few times over; logits are of order 5.
    assert np.mean(off) < 0.05
    assert np.max(off) < 0.3


def test_the_positions_alone_decide_the_rotation():
    config, variables = load_checkpoint(PARITY / "llama_tied")
    recorded = np.load(PARITY / "llama_tied" / "expected.npz")
    tokens = recorded["tokens"]
    shifted = logits(
        Transformer(config=config, compute_dtype="float32", remat="none"),
        variables,
        tokens,
        at=positions(*tokens.shape) + np.int32(11),
    )
    # RoPE is relative: a common shift of all positions leaves the predictions.
    np.testing.assert_allclose(jax.nn.log_softmax(shifted), recorded["logprobs"], atol=1e-4, rtol=0)
