"""Scores against log-probabilities that `transformers` gave (data/parity/record.py)."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from w4s_jax.policy.hf import load_checkpoint
from w4s_jax.policy.sharding import make_mesh
from w4s_jax.policy.transformer import Transformer
from w4s_jax.training.scoring import token_logprobs
from w4s_jax.types import InputError

PARITY = pathlib.Path(__file__).parent / "data" / "parity"


def load(name, spec="", devices=1):
    mesh = make_mesh(spec, jax.devices()[:devices])
    config, variables = load_checkpoint(PARITY / name, mesh)
    return Transformer(config=config, mesh=mesh, compute_dtype="float32", remat="none"), variables, mesh


def recorded(name):
    """Tokens of the first row and what `transformers` says of each after the first."""
    saved = np.load(PARITY / name / "expected.npz")
    tokens = saved["tokens"][0]
    return tokens, saved["logprobs"][0][np.arange(len(tokens) - 1), tokens[1:]]


@pytest.mark.parametrize("name", ["qwen2_tied", "qwen2_untied", "qwen3_untied", "llama_tied", "llama31_untied"])
def test_scores_agree_with_transformers(name):
    tokens, expected = recorded(name)
    model, variables, mesh = load(name)
    scores = token_logprobs(model, variables, tokens.tolist(), mesh)
    assert np.isnan(scores[0])
    np.testing.assert_allclose(scores[1:], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spec", ["data=4", "fsdp=2,tensor=2"])
def test_a_mesh_gives_the_same_scores(spec):
    tokens, expected = recorded("qwen2_untied")
    model, variables, mesh = load("qwen2_untied", spec, 4)
    np.testing.assert_allclose(token_logprobs(model, variables, tokens.tolist(), mesh)[1:], expected, atol=1e-5, rtol=0)


def test_a_longer_text_keeps_the_scores_of_its_beginning():
    tokens, expected = recorded("llama_tied")
    model, variables, mesh = load("llama_tied")
    model = model.clone(config=dataclasses.replace(model.config, max_positions=512))
    longer = [*tokens.tolist(), *np.random.default_rng(0).integers(0, model.config.vocab_size, 150).tolist()]
    scores = token_logprobs(model, variables, longer, mesh)  # over a block's end
    np.testing.assert_allclose(scores[1 : len(tokens)], expected, atol=1e-5, rtol=0)
    assert np.all(scores[1:] < 0)


def test_what_cannot_be_scored_is_refused_with_its_numbers():
    model, variables, mesh = load("qwen2_tied")
    size = model.config.vocab_size
    with pytest.raises(InputError, match=f"from 1 to {size}; the model has 0 to {size - 1}"):
        token_logprobs(model, variables, [1, size], mesh)
    with pytest.raises(InputError, match="0 tokens"):
        token_logprobs(model, variables, [], mesh)
